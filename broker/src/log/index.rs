//! The two indexes of a segment: offset → position, and timestamp → offset.
//!
//! An index is a sorted file of fixed-size big-endian entries. What is added to that of the active
//! segment is held in memory as those very bytes until the segment is closed, and written when the
//! flusher persists it; what the file had when it was opened, and that of a closed segment, stays on
//! disk and is searched by positioned reads. Not memory-mapped: an I/O error under a
//! mapping is a signal that takes the whole process.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use crate::env::disk::Open;
use crate::env::{Disk, DiskFile};
use crate::types::{Millis, Offset};
use crate::wire::records::NO_TIMESTAMP;

/// Entries of `N` bytes. Of the active segment's index the entries that were found in the file stay
/// there, and those that came since are in memory; a closed index is on disk only.
pub(super) struct Index<const N: usize> {
    base: Offset,
    open: bool,
    /// Of an open index: so many entries at the front of the file are ours and not in memory.
    kept: usize,
    memory: Vec<u8>,
    /// How much of `memory` the file has.
    written: usize,
    /// What was written is durable.
    pub(super) synced: bool,
}

pub(super) type OffsetIndex = Index<8>;
pub(super) type TimeIndex = Index<12>;

/// Entries in a file, or those in memory, which follow them.
enum Source<'a> {
    Memory(&'a [u8]),
    File(Arc<dyn DiskFile>, usize),
}

impl<const N: usize> Index<N> {
    pub(super) fn empty(base: Offset) -> Self {
        Self { base, open: true, kept: 0, memory: Vec::new(), written: 0, synced: false }
    }
    pub(super) fn closed(base: Offset) -> Self {
        Self { open: false, ..Self::empty(base) }
    }
    pub(super) fn is_open(&self) -> bool {
        self.open
    }
    /// Of an open index: some entries were in the file when it was opened.
    pub(super) fn is_in_part_on_disk(&self) -> bool {
        self.kept > 0
    }

    /// Opens the index in the file at `path` with those entries at its front for which `below`
    /// holds. Reads no more than it takes to find the last of them.
    pub(super) fn open(
        base: Offset,
        disk: &dyn Disk,
        path: &Path,
        below: impl Fn(usize, &[u8; N]) -> bool,
    ) -> io::Result<Self> {
        let file = disk.open(path, Open::Read)?;
        let entries = usize::try_from(file.len()?).map_err(io::Error::other)? / N;
        let source = Source::File(file, entries);
        let last = source.last_where::<N>(below)?;
        Ok(Self { kept: last.map_or(0, |(n, _)| n + 1), ..Self::empty(base) })
    }

    /// Of an open index: its number of entries.
    pub(super) fn entries(&self) -> usize {
        self.kept + self.memory.len() / N
    }
    /// No room for another entry within `max` bytes.
    pub(super) fn is_full(&self, max: u64, reserved: u64) -> bool {
        self.entries() as u64 + reserved >= max / N as u64
    }

    /// The entries that are in memory: all, if the index was built anew.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory
    }

    fn truncate_entries(&mut self, entries: usize) {
        if entries >= self.entries() {
            return;
        }
        self.memory.truncate(entries.saturating_sub(self.kept) * N);
        self.kept = self.kept.min(entries);
        // What the file has beyond is cut off by the next write.
        self.written = usize::MAX;
        self.synced = false;
    }

    /// Writes what the file lacks; returns the file if it is to be synced for its content to last.
    pub(super) fn write(
        &mut self,
        disk: &dyn Disk,
        path: &Path,
    ) -> io::Result<Option<Arc<dyn DiskFile>>> {
        if !self.open || self.synced && self.written == self.memory.len() {
            return Ok(None);
        }
        let file = disk.open(path, Open::ReadWrite)?;
        if self.written > self.memory.len() {
            self.written = 0;
        }
        let has = (self.kept * N + self.written) as u64;
        if file.len()? != has {
            file.truncate(has)?;
        }
        if self.memory.len() > self.written {
            file.write_all_at(&[IoSlice::new(&self.memory[self.written..])], has)?;
        }
        self.written = self.memory.len();
        self.synced = false;
        Ok(Some(file))
    }

    /// The copy in memory is given up; the file has all of it.
    pub(super) fn close(&mut self) {
        *self = Self::closed(self.base);
    }

    /// The entries in the file: of an open index only those that are not in memory, too.
    fn in_file(&self, disk: &dyn Disk, path: &Path) -> io::Result<Source<'_>> {
        if self.open && self.kept == 0 {
            return Ok(Source::Memory(&[]));
        }
        let file = disk.open(path, Open::Read)?;
        let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
        if self.open {
            return if len < self.kept * N {
                Err(corrupt("the file became shorter"))
            } else {
                Ok(Source::File(file, self.kept))
            };
        }
        if len % N != 0 {
            return Err(corrupt(format!("{len} bytes are no whole entries")));
        }
        Ok(Source::File(file, len / N))
    }

    /// The last entry for which `below` holds, and its number; entries are sorted so that it holds
    /// for those at the front.
    fn last_where(
        &self,
        disk: &dyn Disk,
        path: &Path,
        below: impl Fn(&[u8; N]) -> bool,
    ) -> io::Result<Option<(usize, [u8; N])>> {
        let found = Source::Memory(&self.memory).last_where::<N>(|_, entry| below(entry))?;
        if let Some((n, entry)) = found {
            return Ok(Some((self.kept + n, entry)));
        }
        self.in_file(disk, path)?.last_where::<N>(|_, entry| below(entry))
    }

    /// The last entry, wherever it is.
    fn last_entry(&self, disk: &dyn Disk, path: &Path) -> io::Result<Option<[u8; N]>> {
        let memory = Source::Memory(&self.memory);
        if let Some(last) = memory.entries::<N>().checked_sub(1) {
            return memory.entry::<N>(last).map(Some);
        }
        let file = self.in_file(disk, path)?;
        file.entries::<N>().checked_sub(1).map(|last| file.entry::<N>(last)).transpose()
    }
}

impl Source<'_> {
    fn entries<const N: usize>(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len() / N,
            Self::File(_, entries) => *entries,
        }
    }
    fn entry<const N: usize>(&self, n: usize) -> io::Result<[u8; N]> {
        let mut entry = [0; N];
        match self {
            Self::Memory(bytes) => entry.copy_from_slice(&bytes[n * N..(n + 1) * N]),
            Self::File(file, _) => {
                let read = crate::env::disk::read_full(&**file, &mut entry, (n * N) as u64)?;
                if read < N {
                    return Err(corrupt("the file became shorter"));
                }
            }
        }
        Ok(entry)
    }
    fn last_where<const N: usize>(
        &self,
        below: impl Fn(usize, &[u8; N]) -> bool,
    ) -> io::Result<Option<(usize, [u8; N])>> {
        let (mut low, mut high) = (0, self.entries::<N>());
        let mut found = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.entry::<N>(middle)?;
            if below(middle, &entry) {
                found = Some((middle, entry));
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(found)
    }
}

fn corrupt(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn int(entry: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
}

fn long(entry: &[u8]) -> i64 {
    (i64::from(int(entry, 0) as i32) << 32) | i64::from(int(entry, 4))
}

impl OffsetIndex {
    /// What a crash, or Kafka's preallocation, left behind the entries below `trusted` is zeros, in
    /// part or as a whole.
    pub(super) fn load(
        base: Offset,
        disk: &dyn Disk,
        path: &Path,
        trusted: Offset,
    ) -> io::Result<Self> {
        Self::open(base, disk, path, |n, entry| {
            let (relative, position) = (int(entry, 0), int(entry, 4));
            let written = relative > 0 && position > 0 || n == 0 && entry != &[0; 8];
            written && base + i64::from(relative) < trusted
        })
    }

    /// Nothing when the offset is not larger than the last one, which would break the order.
    pub(super) fn append(&mut self, offset: Offset, position: u64) {
        let relative = (offset - self.base) as u32;
        let last = self.memory.len().checked_sub(8).map(|at| int(&self.memory[at..], 0));
        if !self.open || last.is_some_and(|last| last >= relative) {
            return;
        }
        self.memory.extend_from_slice(&relative.to_be_bytes());
        self.memory.extend_from_slice(&(position as u32).to_be_bytes());
    }

    /// A position at or before the batch that holds `offset`.
    pub(super) fn lookup(&self, disk: &dyn Disk, path: &Path, offset: Offset) -> io::Result<u64> {
        let below = self.last_below(disk, path, offset.saturating_add(1))?;
        Ok(below.map_or(0, |(_, position)| position))
    }

    /// The last entry with an offset below `offset`.
    pub(super) fn last_below(
        &self,
        disk: &dyn Disk,
        path: &Path,
        offset: Offset,
    ) -> io::Result<Option<(Offset, u64)>> {
        let absolute = |entry: &[u8; 8]| self.base + i64::from(int(entry, 0));
        let found = self.last_where(disk, path, |entry| absolute(entry) < offset)?;
        Ok(found.map(|(_, entry)| (absolute(&entry), int(&entry, 4).into())))
    }

    /// Removes the entries from `offset` on.
    pub(super) fn truncate_to(
        &mut self,
        disk: &dyn Disk,
        path: &Path,
        offset: Offset,
    ) -> io::Result<()> {
        let base = self.base;
        let below = |entry: &[u8; 8]| base + i64::from(int(entry, 0)) < offset;
        let keep = self.last_where(disk, path, below)?.map_or(0, |(n, _)| n + 1);
        self.truncate_entries(keep);
        Ok(())
    }
}

impl TimeIndex {
    /// As [`OffsetIndex::load`]. Only a first entry can have the segment's first offset.
    pub(super) fn load(
        base: Offset,
        disk: &dyn Disk,
        path: &Path,
        trusted: Offset,
    ) -> io::Result<Self> {
        Self::open(base, disk, path, |n, entry| {
            let relative = int(entry, 8);
            let written = relative > 0 || n == 0 && entry != &[0; 12];
            written && base + i64::from(relative) < trusted
        })
    }

    /// Kafka's rule: only when the timestamp is larger than that of the last entry, which is `last`.
    /// Returns whether there is a new entry.
    pub(super) fn maybe_append(
        &mut self,
        timestamp: Millis,
        offset: Offset,
        last: Option<(Millis, Offset)>,
    ) -> bool {
        if !self.open
            || timestamp <= last.map_or(NO_TIMESTAMP, |(timestamp, _)| timestamp)
            || last.is_some_and(|(_, before)| offset < before)
        {
            return false;
        }
        let relative = (offset - self.base) as u32;
        self.memory.extend_from_slice(&timestamp.to_be_bytes());
        self.memory.extend_from_slice(&relative.to_be_bytes());
        true
    }

    /// The last entry, wherever it is.
    pub(super) fn last(
        &self,
        disk: &dyn Disk,
        path: &Path,
    ) -> io::Result<Option<(Millis, Offset)>> {
        let last = self.last_entry(disk, path)?;
        Ok(last.map(|entry| (long(&entry), self.base + i64::from(int(&entry, 8)))))
    }

    /// The offset from which on a record of `timestamp` or later is to be looked for.
    pub(super) fn lookup(
        &self,
        disk: &dyn Disk,
        path: &Path,
        timestamp: Millis,
    ) -> io::Result<Offset> {
        let found = self.last_where(disk, path, |entry| long(entry) <= timestamp)?;
        Ok(found.map_or(self.base, |(_, entry)| self.base + i64::from(int(&entry, 8))))
    }

    /// Removes the entries from `offset` on.
    pub(super) fn truncate_to(
        &mut self,
        disk: &dyn Disk,
        path: &Path,
        offset: Offset,
    ) -> io::Result<()> {
        let base = self.base;
        let below = |entry: &[u8; 12]| base + i64::from(int(entry, 8)) < offset;
        let keep = self.last_where(disk, path, below)?.map_or(0, |(n, _)| n + 1);
        self.truncate_entries(keep);
        Ok(())
    }
}
