//! decide → records → replay: topics, partitions, brokers, configs, and the image they make.
//!
//! A request becomes records by a pure function of the image ([`topics`], [`configs`], [`isr`],
//! [`brokers`], [`producer_ids`], with [`placement`] and [`election`] below them); the records are
//! appended to the metadata log and committed; [`replay`] changes the image. Every broker replays
//! the same log into its own image.

pub mod brokers;
pub mod configs;
pub mod decision;
pub mod election;
pub mod image;
pub mod isr;
pub mod placement;
pub mod producer_ids;
pub mod replay;
pub mod topics;

pub use decision::{ConfigRules, Decision, EffectiveConfig, View};
pub use image::{
    BrokerImage, Config, ControllerImage, Endpoint, Image, PartitionImage, ResourceType,
    SupportedFeature, TopicImage,
};
pub use replay::Delta;
