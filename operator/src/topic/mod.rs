//! `KafkaTopic`: from a manifest to a topic that is as it says.

mod owner;
pub mod plan;
pub(crate) mod reconcile;
pub mod validate;

pub use validate::{ValidTopic, validate};
