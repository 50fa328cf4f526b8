//! Snapshots of the metadata log: files that stand for all records below one offset.
//!
//! A snapshot is named by its [`SnapshotId`], the end offset and the epoch of its last record, and
//! lies next to the log's segments: `<end offset, 20 digits>-<epoch, 10 digits>.checkpoint`. It is
//! a run of record batches with offsets of their own, from 0 on: a control batch that opens with
//! SnapshotHeader (and holds the voters, when those are kept in the log), the image as records,
//! and a control batch with SnapshotFooter.
//!
//! Invariants: a file without `.part` in its name was written whole and synced before it got that
//! name; what is used was read to its footer with every checksum right; a snapshot ends where a
//! batch of the log ends. [`write`] and [`read`] are the file, [`store`] which of them there are,
//! [`transfer`] FetchSnapshot, [`download`] the pure side of it. How an image becomes records is not
//! known here, nor when it is time for one: that is `controller::snapshots`.

pub mod download;
pub mod read;
pub mod store;
pub mod transfer;
pub mod write;

use std::fmt;

pub use read::{Contents, SnapshotReader};
pub use store::{Chunk, Snapshots};
pub use write::{Header, PartFile, SnapshotWriter};

use crate::types::{LeaderEpoch, Offset};
use crate::wire::metadata::control::Voters;

/// All records below `end_offset`; the last of them is of `epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    // First, because that is how Kafka orders them.
    pub epoch: LeaderEpoch,
    pub end_offset: Offset,
}

/// What a file in the log's folder is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Whole,
    /// Being written, or left over from a crash.
    Part,
    /// About to be deleted, by Kafka; we delete at once.
    Deleted,
}

const SUFFIX: &str = ".checkpoint";
const PART: &str = ".checkpoint.part";
const DELETED: &str = ".checkpoint.deleted";
/// What a file is called that turned out not to be whole: kept for people, read by nobody.
const CORRUPT: &str = ".checkpoint.corrupt";

impl SnapshotId {
    /// What formatting a folder for a quorum writes: it names the voters, holds no records, is
    /// never sent to others, and is no image.
    pub const BOOTSTRAP: Self = Self { epoch: 0, end_offset: 0 };

    pub fn new(end_offset: Offset, epoch: LeaderEpoch) -> Self {
        Self { epoch, end_offset }
    }

    pub fn file_name(self) -> String {
        format!("{self}{SUFFIX}")
    }

    /// Of the attempt `number`: an earlier one that was given up may still be about to delete its.
    fn part_name(self, number: u32) -> String {
        format!("{self}-{number}{PART}")
    }

    fn corrupt_name(self) -> String {
        format!("{self}{CORRUPT}")
    }

    /// Reads a file's name; none when it is not a snapshot's. Kafka's `.part` files have a random
    /// number after the id.
    pub fn parse(name: &str) -> Option<(Self, Kind)> {
        let kind = if name.ends_with(PART) {
            Kind::Part
        } else if name.ends_with(DELETED) {
            Kind::Deleted
        } else if name.ends_with(SUFFIX) {
            Kind::Whole
        } else {
            return None;
        };
        let (offset, rest) = name.split_at_checked(20)?;
        let epoch = rest.strip_prefix('-')?.get(..10)?;
        Some((Self::new(offset.parse().ok()?, epoch.parse().ok()?), kind))
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}-{:010}", self.end_offset, self.epoch)
    }
}

/// What the quorum itself keeps in the log, as far as a snapshot reaches.
#[derive(Debug, Clone, PartialEq)]
pub struct KRaftState {
    pub kraft_version: i16,
    pub voters: Option<Voters>,
}

#[cfg(test)]
mod tests;
