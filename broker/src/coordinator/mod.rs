//! Coordinators: groups and offsets, and transactions, kept as records in internal topics.

pub mod group;
pub mod runtime;
pub mod share;
pub mod topic;
pub mod transaction;
