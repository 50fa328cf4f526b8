//! The custom resources: `KafkaCluster` and `KafkaTopic` of `ottla.dev/v1alpha1`.
//!
//! These types are the one source: `ottla crds` writes the CustomResourceDefinitions from them, the
//! operator reads them from the API server, and `ottla up` reads them from a file. What a rule of
//! the schema (CEL) refuses there, [`crate::cluster::validate`] and [`crate::topic::validate`]
//! refuse here with the same words.
//!
//! Deliberately absent until they work: TLS, SASL, listeners outside Kubernetes, several log
//! directories, node pools. A manifest that asks for them is refused by the name of the field.

mod cluster;
mod condition;
mod config;
mod topic;

pub use cluster::*;
pub use condition::*;
pub use config::*;
pub use topic::*;

pub const GROUP: &str = "ottla.dev";
pub const VERSION: &str = "v1alpha1";
