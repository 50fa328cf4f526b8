//! Partitions: leaders and followers, replication between brokers, and requests that wait.
//!
//! [`leader`] and [`follower`] are pure roles; [`partition`] drives them over a log; [`partitions`]
//! holds all of this broker and follows the image; [`fetcher`] copies from leaders; [`isr`] asks
//! the controller; [`verification`] asks coordinators of transactions; [`directories`] says where
//! replicas lie, [`moves`] moves them; [`tasks`] does what is due now and then.

pub mod cleaning;
pub mod context;
pub mod directories;
pub mod fetcher;
pub mod follower;
pub mod isr;
pub mod leader;
pub mod log_config;
#[cfg(feature = "simulation")]
pub mod model;
pub mod moves;
pub mod partition;
pub mod partitions;
pub mod peers;
#[cfg(feature = "simulation")]
mod planted;
pub mod producer_ids;
pub mod read;
pub mod remote;
pub mod sessions;
pub mod state_log;
pub mod tasks;
pub mod ticket;
pub mod verification;
pub mod watchers;

pub use partition::Partition;
pub use partitions::{LeadershipListener, Partitions, Start};
pub use remote::{Leaders, RemoteLeader, ToController};

#[cfg(test)]
mod conversation;
#[cfg(test)]
pub(crate) mod tests;
