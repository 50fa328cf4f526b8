//! decide → records → replay: topics, partitions, brokers, configs, and the image they make.
//!
//! A request becomes records by a pure function of the image ([`topics`], [`configs`], [`isr`],
//! [`leaders`], [`reassignments`], [`directories`], [`features`], [`brokers`], [`producer_ids`],
//! with [`placement`] and [`election`] below them); the records are
//! appended to the metadata log and committed; [`replay`] changes the image. Every broker replays
//! the same log into its own image.

pub mod active;
pub mod brokers;
pub mod configs;
pub mod contact;
pub mod decision;
pub mod delta;
pub mod directories;
pub mod driver;
pub mod election;
pub mod features;
pub mod fetch;
pub mod image;
pub mod isr;
pub mod leaders;
pub mod lifecycle;
pub mod link;
pub mod loader;
pub mod metadata;
pub mod partitions;
pub mod placement;
pub mod producer_ids;
pub mod reassignments;
pub mod registration;
pub mod replay;
pub mod replica;
pub mod rules;
pub mod sessions;
pub mod snapshots;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_admin;
#[cfg(test)]
mod tests_follow;
#[cfg(test)]
pub(crate) mod tests_quorum;
#[cfg(test)]
mod tests_snapshots;
pub mod topics;
pub mod transaction;

pub use decision::{ConfigRules, Decision, EffectiveConfig, View};
pub use delta::Delta;
pub use driver::{Controller, Start};
pub use fetch::serve_metadata_fetch;
pub use image::{
    BrokerImage, Config, ControllerImage, Endpoint, Image, PartitionImage, ResourceType,
    SupportedFeature, TopicImage,
};
pub use lifecycle::{Join, Lifecycle, Stage};
pub use link::{ControllerLink, Controllers};
pub use metadata::{Listener, Metadata};
