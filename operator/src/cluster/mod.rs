//! `KafkaCluster`: from a manifest to brokers that serve.

pub mod validate;

pub use validate::{ValidCluster, validate};
