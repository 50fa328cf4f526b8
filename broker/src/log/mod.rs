//! A partition on disk: segments, indexes, producer state, epochs, recovery, retention.
//!
//! [`LogDir`] is one folder of `log.dirs`; it opens, creates and deletes the [`Log`]s in it, syncs
//! them in groups and keeps the checkpoints. [`LogDirs`] is all of them. All files are byte for byte as Kafka 4.3.1 writes
//! them, so that its tools read ours and we open its folders.
//!
//! Invariants:
//! - offsets below `end_offset` are in the page cache at least, those below `synced_offset` are
//!   what the flush policy calls durable, those below the recovery point are on the disk;
//! - the writer lock is held for an append, a roll or a truncation, never for an fsync; readers
//!   never take it;
//! - no fsync that failed is ever believed later: the whole directory goes offline.
//!
//! Deliberately absent: tiered storage.

mod aborted;
mod append;
mod checkpoint;
mod cleaner;
mod config;
mod dir;
mod dirs;
mod epochs;
mod flusher;
mod future;
mod identity;
mod index;
mod indexes;
mod load;
mod meta_properties;
mod moving;
mod partition_log;
mod persist;
mod producer_state;
mod read;
mod retention;
mod room;
mod scan;
mod segment;
mod shared;
mod tail_cache;
#[cfg(test)]
mod tests;
mod truncate;

pub use aborted::AbortedTransaction;
pub use append::{AppendError, Appended};
pub use checkpoint::{Offsets, uuid_from_text, uuid_to_text};
pub use cleaner::{Candidate, CleanerSettings, Cleaning, Progress, Trouble};
pub use config::{FlushPolicy, LogConfig};
pub use dir::{LogDir, LogDirOptions};
pub use dirs::LogDirs;
pub use future::can_be_moved;
pub use meta_properties::MetaProperties;
pub use partition_log::{Log, SyncListener};
pub use producer_state::{Appending, CompletedTransaction, Guard, Origin, Producer, WrittenBatch};
pub use read::{ReadError, TimestampOffset};
pub use tail_cache::TailCache;
