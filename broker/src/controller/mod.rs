//! decide → records → replay: topics, partitions, brokers, configs, and the image they make.
//!
//! A request becomes records by a pure function of the image ([`topics`], [`configs`], [`isr`],
//! [`brokers`], [`producer_ids`], with [`placement`] and [`election`] below them); the records are
//! appended to the metadata log and committed; [`replay`] changes the image. Every broker replays
//! the same log into its own image.

pub mod brokers;
pub mod configs;
pub mod contact;
pub mod decision;
pub mod driver;
pub mod election;
pub mod fetch;
pub mod follower;
pub mod image;
pub mod isr;
pub mod lifecycle;
pub mod link;
pub mod loader;
pub mod metadata;
pub mod partitions;
pub mod placement;
pub mod producer_ids;
pub mod replay;
pub mod rules;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_follow;
pub mod topics;

pub use decision::{ConfigRules, Decision, EffectiveConfig, View};
pub use driver::{Controller, Start};
pub use fetch::serve_metadata_fetch;
pub use follower::{Follow, MetadataFollower};
pub use image::{
    BrokerImage, Config, ControllerImage, Endpoint, Image, PartitionImage, ResourceType,
    SupportedFeature, TopicImage,
};
pub use lifecycle::{Join, Lifecycle, Stage};
pub use link::ControllerLink;
pub use metadata::{Listener, Metadata};
pub use replay::Delta;
