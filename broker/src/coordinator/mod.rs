//! Coordinators: groups and offsets, kept as records in internal topics.

pub mod group;
pub mod runtime;
pub mod share;
pub mod topic;
