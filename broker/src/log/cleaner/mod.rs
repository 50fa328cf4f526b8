//! Compaction: of each key the newest record stays, and what is older goes (`cleanup.policy=compact`).
//!
//! A [`Cleaning`] is one round over one log, in steps that read about a megabyte each: first the
//! dirty part is read into a table of the newest offset of each key ([`offset_map`]), then all
//! segments below its end are written anew, group by group ([`filter`], [`output`]), and each group
//! is put in the place of the old segments ([`swap`]). Offsets, the order and the epochs of what
//! stays do not change. Leader and followers clean on their own.
//!
//! Invariants:
//! - for whoever reads from the start to the end, the last value of each key is the same before and
//!   after, whatever step a crash interrupts;
//! - nothing is touched at or past the last stable offset, in the active segment, or that a
//!   recovery would have to look at: the recovery point is written down first;
//! - values that a tombstone deletes are gone before the tombstone is.
//!
//! Deliberately absent: a second worker (`log.cleaner.threads`), and splitting a segment whose
//! offsets have grown too far apart, which only Kafka before 1.1 wrote.

mod filter;
mod offset_map;
mod output;
mod plan;
mod swap;
mod transactions;
mod work;

pub use plan::Candidate;
pub(super) use swap::finish_swaps;
pub use work::{CleanerSettings, Cleaning, Progress, Trouble};
