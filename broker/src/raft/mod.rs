//! The metadata log and its quorum.
//!
//! One voter so far: the node with the controller role leads alone, in a new epoch at each start,
//! and what it has synced is committed. Brokers are observers and follow by Fetch, with the epoch
//! checks and truncation that more voters will need, too. [`log`] is the file, [`state`] the vote
//! that must survive, [`batch`] how records become batches and back, [`observer`] the pure
//! follower. Deliberately absent: elections (a second voter is refused by `config`).

pub mod batch;
pub mod log;
pub mod observer;
pub mod state;

pub use log::MetadataLog;
