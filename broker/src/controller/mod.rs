//! decide → records → replay: topics, partitions, brokers, configs, and the image they make.

pub mod image;
pub mod replay;

pub use image::{
    BrokerImage, Config, ControllerImage, Endpoint, Image, PartitionImage, ResourceType,
    SupportedFeature, TopicImage,
};
pub use replay::Delta;
