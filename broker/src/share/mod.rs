//! Share groups as a leader of partitions serves them: acquisition, acknowledgement, sessions.
//!
//! [`partition`] is pure: what is in flight of one partition for one group. [`shares`] holds all of
//! this broker and carries out what they want; [`fetch`] reads the log for them and waits;
//! [`persister`] finds the coordinator that keeps their state.

pub mod fetch;
pub mod partition;
pub mod persister;
mod refusals;
pub mod sessions;
pub mod settings;
pub mod shares;
mod slot;
#[cfg(test)]
mod tests;

pub use shares::Shares;
