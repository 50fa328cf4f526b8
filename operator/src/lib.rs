//! The operator: turns `KafkaCluster` and `KafkaTopic` resources into brokers and topics.
//!
//! A reconcile is gather → validate → build → apply → status: it reads everything first, checks and
//! builds with pure functions, applies with server-side apply, then writes the status. It is
//! idempotent at every step and may be killed at any instruction. `ottla up` uses the same
//! resources and the same `validate`, and starts processes where the operator applies objects.
//!
//! [`quorum`] is the care of the voters: which node gets or loses a vote, one at a time.
//!
//! Deliberately absent: scaling, rolling restarts, growing volumes, TLS. A change that would need
//! one is reported in the condition `Degraded` and otherwise left alone.

pub mod cluster;
mod context;
pub mod crds;
pub mod kafka;
mod leader;
mod metrics;
pub mod problem;
pub mod process;
pub mod quorum;
pub mod resources;
mod server;
pub mod topic;
