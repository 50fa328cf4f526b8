//! The metadata log and its quorum: Kafka's KRaft.
//!
//! [`node`] is one replica, pure: events in, effects out; [`requests`] and [`answers`] are what it
//! does with what others say, [`roles`] what it is meanwhile, [`changes`] how voters come and go,
//! [`voters`] who they are. [`opening`] is what a start finds, [`founding`] how a cluster begins. [`quorum`] carries the effects out, in order: [`state`] is the vote
//! that must survive, [`log`] the file, [`peers`] the calls to other nodes, [`rpc`] their form on
//! the wire, [`batch`] how records become batches and back. The controller drives it all, because
//! what it decides and what the quorum commits have to stay in step.

pub mod answers;
pub mod batch;
pub mod changes;
pub mod founding;
pub mod log;
pub mod messages;
pub mod node;
pub mod opening;
pub mod peers;
pub mod quorum;
pub mod requests;
pub mod roles;
pub mod rpc;
mod segment;
pub mod serve;
pub mod snapshot;
pub mod state;
#[cfg(test)]
mod tests;
mod trim;
pub mod voters;

pub use log::{LogOptions, MetadataLog};
pub use quorum::{Quorum, Status};
pub use serve::Handle;
pub use snapshot::SnapshotId;
