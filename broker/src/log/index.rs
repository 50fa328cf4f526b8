//! The two indexes of a segment: offset → position, and timestamp → offset.
//!
//! An index is a sorted file of fixed-size big-endian entries. That of the active segment is held
//! in memory as those very bytes and written when the flusher persists it; that of a closed segment
//! stays on disk and is searched by positioned reads. Not memory-mapped: an I/O error under a
//! mapping is a signal that takes the whole process.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use crate::env::disk::Open;
use crate::env::{Disk, DiskFile};
use crate::types::{Millis, Offset};
use crate::wire::records::NO_TIMESTAMP;

/// Entries of `N` bytes: in memory while the segment is active, else on disk.
pub(super) struct Index<const N: usize> {
    base: Offset,
    /// `None`: closed.
    memory: Option<Vec<u8>>,
    /// How much of `memory` the file has.
    written: usize,
    /// What was written is durable.
    pub(super) synced: bool,
}

pub(super) type OffsetIndex = Index<8>;
pub(super) type TimeIndex = Index<12>;

/// Where a closed index is searched, or where an open one is held.
enum Source<'a> {
    Memory(&'a [u8]),
    File(Arc<dyn DiskFile>, usize),
}

impl<const N: usize> Index<N> {
    pub(super) fn empty(base: Offset) -> Self {
        Self { base, memory: Some(Vec::new()), written: 0, synced: false }
    }
    pub(super) fn closed(base: Offset) -> Self {
        Self { base, memory: None, written: 0, synced: false }
    }
    pub(super) fn is_open(&self) -> bool {
        self.memory.is_some()
    }
    /// Bytes held in memory.
    pub(super) fn bytes_in_memory(&self) -> usize {
        self.memory.as_ref().map_or(0, Vec::len)
    }

    /// Reads the whole file into memory, but for a torn entry at the end.
    pub(super) fn load(base: Offset, disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let mut content = disk.read(path)?;
        content.truncate(content.len() / N * N);
        let written = content.len();
        Ok(Self { base, memory: Some(content), written, synced: false })
    }

    pub(super) fn truncate_entries(&mut self, entries: usize) {
        if let Some(memory) = &mut self.memory {
            memory.truncate(entries * N);
            // What the file has beyond is cut off by the next persist.
            if self.written > memory.len() {
                self.written = usize::MAX;
                self.synced = false;
            }
        }
    }

    pub(super) fn entries(&self) -> usize {
        self.bytes_in_memory() / N
    }
    /// No room for another entry within `max` bytes.
    pub(super) fn is_full(&self, max: u64, reserved: u64) -> bool {
        self.entries() as u64 + reserved >= max / N as u64
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.as_deref().unwrap_or_default()
    }

    /// Drops the zeros with which Kafka fills up an index that it did not close.
    pub(super) fn trim_zeros(&mut self) {
        let entries = self.bytes().chunks_exact(N).rposition(|entry| entry.iter().any(|b| *b != 0));
        self.truncate_entries(entries.map_or(0, |last| last + 1));
    }

    /// Writes what the file lacks; returns the file if it is to be synced for its content to last.
    pub(super) fn write(
        &mut self,
        disk: &dyn Disk,
        path: &Path,
    ) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let Some(memory) = &self.memory else { return Ok(None) };
        if self.synced && self.written == memory.len() {
            return Ok(None);
        }
        let file = disk.open(path, Open::ReadWrite)?;
        if self.written > memory.len() {
            self.written = 0;
        }
        if file.len()? != self.written as u64 {
            file.truncate(self.written as u64)?;
        }
        if memory.len() > self.written {
            file.write_all_at(&[IoSlice::new(&memory[self.written..])], self.written as u64)?;
        }
        self.written = memory.len();
        self.synced = false;
        Ok(Some(file))
    }

    /// The copy in memory is given up; the file has all of it.
    pub(super) fn close(&mut self) {
        self.memory = None;
        self.written = 0;
    }

    fn source(&self, disk: &dyn Disk, path: &Path) -> io::Result<Source<'_>> {
        if let Some(memory) = &self.memory {
            return Ok(Source::Memory(memory));
        }
        let file = disk.open(path, Open::Read)?;
        let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
        if len % N != 0 {
            return Err(corrupt(format!("{len} bytes are no whole entries")));
        }
        Ok(Source::File(file, len / N))
    }

    /// The last entry for which `below` holds; entries are sorted so that it holds for a prefix.
    fn last_where(
        source: &Source<'_>,
        below: impl Fn(&[u8; N]) -> bool,
    ) -> io::Result<Option<(usize, [u8; N])>> {
        let (mut low, mut high) = (0, source.entries::<N>());
        let mut found = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = source.entry::<N>(middle)?;
            if below(&entry) {
                found = Some((middle, entry));
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(found)
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
    /// Nothing when the offset is not larger than the last one, which would break the order.
    pub(super) fn append(&mut self, offset: Offset, position: u64) {
        let relative = (offset - self.base) as u32;
        let Some(memory) = &mut self.memory else { return };
        if memory.len() >= 8 && int(&memory[memory.len() - 8..], 0) >= relative {
            return;
        }
        memory.extend_from_slice(&relative.to_be_bytes());
        memory.extend_from_slice(&(position as u32).to_be_bytes());
    }

    /// A position at or before the batch that holds `offset`.
    pub(super) fn lookup(&self, disk: &dyn Disk, path: &Path, offset: Offset) -> io::Result<u64> {
        let relative = offset - self.base;
        let source = self.source(disk, path)?;
        let found = Self::last_where(&source, |entry| i64::from(int(entry, 0)) <= relative)?;
        Ok(found.map_or(0, |(_, entry)| u64::from(int(&entry, 4))))
    }

    /// Of the index in memory: the last entry with an offset below `offset`, and its number.
    pub(super) fn last_below(&self, offset: Offset) -> Option<(usize, Offset, u64)> {
        let source = Source::Memory(self.memory.as_deref()?);
        let found =
            Self::last_where(&source, |entry| self.base + i64::from(int(entry, 0)) < offset)
                .ok()?;
        found.map(|(n, entry)| (n, self.base + i64::from(int(&entry, 0)), int(&entry, 4).into()))
    }

    /// Whether the entries in memory ascend and point into the first `size` bytes.
    pub(super) fn is_sane(&self, size: u64) -> bool {
        let Some(memory) = &self.memory else { return true };
        let mut last = None;
        memory.chunks_exact(8).all(|entry| {
            let now = (int(entry, 0), int(entry, 4));
            let ascends = last.is_none_or(|(offset, position)| now.0 > offset && now.1 > position);
            last = Some(now);
            ascends && u64::from(now.1) < size
        })
    }
    pub(super) fn truncate_to(&mut self, offset: Offset) {
        let keep = self.last_below(offset).map_or(0, |(n, ..)| n + 1);
        self.truncate_entries(keep);
    }
}

impl TimeIndex {
    /// Kafka's rule: only when the timestamp is larger than the last entry's.
    pub(super) fn maybe_append(&mut self, timestamp: Millis, offset: Offset) {
        let relative = (offset - self.base) as u32;
        let last = self.last();
        let Some(memory) = &mut self.memory else { return };
        if timestamp <= last.map_or(NO_TIMESTAMP, |(timestamp, _)| timestamp)
            || last.is_some_and(|(_, before)| offset < before)
        {
            return;
        }
        memory.extend_from_slice(&timestamp.to_be_bytes());
        memory.extend_from_slice(&relative.to_be_bytes());
    }

    /// Of the index in memory.
    pub(super) fn last(&self) -> Option<(Millis, Offset)> {
        let memory = self.memory.as_deref()?;
        let entry = memory.get(memory.len().checked_sub(12)?..)?;
        Some((long(entry), self.base + i64::from(int(entry, 8))))
    }

    /// The last entry, wherever it is.
    pub(super) fn last_anywhere(
        &self,
        disk: &dyn Disk,
        path: &Path,
    ) -> io::Result<Option<(Millis, Offset)>> {
        let source = self.source(disk, path)?;
        let Some(n) = source.entries::<12>().checked_sub(1) else { return Ok(None) };
        let entry = source.entry::<12>(n)?;
        Ok(Some((long(&entry), self.base + i64::from(int(&entry, 8)))))
    }

    /// The offset from which on a record of `timestamp` or later is to be looked for.
    pub(super) fn lookup(
        &self,
        disk: &dyn Disk,
        path: &Path,
        timestamp: Millis,
    ) -> io::Result<Offset> {
        let source = self.source(disk, path)?;
        let found = Self::last_where(&source, |entry| long(entry) <= timestamp)?;
        Ok(found.map_or(self.base, |(_, entry)| self.base + i64::from(int(&entry, 8))))
    }

    pub(super) fn is_sane(&self) -> bool {
        let Some(memory) = &self.memory else { return true };
        let mut last: Option<(i64, u32)> = None;
        memory.chunks_exact(12).all(|entry| {
            let now = (long(entry), int(entry, 8));
            let ascends = last.is_none_or(|last| now.0 > last.0 && now.1 >= last.1);
            last = Some(now);
            ascends
        })
    }
    pub(super) fn truncate_to(&mut self, offset: Offset) {
        let Some(memory) = &self.memory else { return };
        let base = self.base;
        let keep = memory
            .chunks_exact(12)
            .take_while(|entry| base + i64::from(int(entry, 8)) < offset)
            .count();
        self.truncate_entries(keep);
    }
}
