//! The transaction coordinator: which producer owns a transactional id, and how its transactions
//! end.
//!
//! ```text
//!            first partition            EndTxn, time-out, a new producer
//!   Empty ───────────────────▶ Ongoing ──────────────┬───────────────┐
//!     ▲                          ▲            PrepareCommit    PrepareAbort
//!     │ InitProducerId           │                   │ all partitions have the marker
//!     └────── CompleteCommit, CompleteAbort ◀────────┴───────────────┘
//! ```
//!
//! A shard ([`shard::Shard`]) is pure: requests, the news that records were committed and the news
//! that markers were written go in; answers, records of `__transaction_state` and requests for
//! markers come out. [`markers`] sends these, one queue for each broker.
//!
//! Invariants:
//! - a transition is a record first: the state changes once it is committed, and nobody is answered
//!   before;
//! - an id makes one transition at a time: whoever comes meanwhile is told CONCURRENT_TRANSACTIONS;
//! - once Prepare… is committed the outcome stands, and the markers are sent until all partitions
//!   have them, by whoever leads the partition of the state topic;
//! - an id has one owner: a producer of an older epoch or id is fenced.
//!
//! The behaviour follows Kafka 4.3.1, with the transactions of version 2 (KIP-890) and those of
//! older clients. Deliberately absent: commits of two phases (KIP-939), whose requests only the
//! unreleased version 6 of InitProducerId can make.

pub mod call;
#[cfg(test)]
mod conversation;
mod describe;
mod hosted;
pub mod markers;
pub mod records;
pub mod settings;
pub mod shard;
mod state;
#[cfg(test)]
mod tables;

pub use state::{BUMPS_EPOCH, NO_EPOCH, NO_PRODUCER_ID, OLD_CLIENT, Producer, State, Transaction};

/// The internal topic of transactions.
pub const TRANSACTION_STATE_TOPIC: &str = "__transaction_state";

/// The feature whose level says which transactions the cluster can do.
pub const TRANSACTION_FEATURE: &str = "transaction.version";
