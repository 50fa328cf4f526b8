//! `KafkaTopic`: from a manifest to a topic that is as it says.

pub mod validate;

pub use validate::{ValidTopic, validate};
