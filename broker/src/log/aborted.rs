//! The `.txnindex` file of a segment: the transactions whose abort marker lies in it.
//!
//! Entries of 34 bytes in the order of their markers, Kafka's format. Most segments have none, and
//! then there is no file. The entries of a segment that is not closed are in memory as well; those
//! of a closed one are read when somebody asks. Invariant: an entry is in the index before any
//! reader's last stable offset passes its marker.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use crate::env::disk::Open;
use crate::env::{Disk, DiskFile};
use crate::types::Offset;

const VERSION: i16 = 0;
const ENTRY: usize = 2 + 4 * 8;

/// A transaction that was aborted, as the index of a partition has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer_id: i64,
    pub first_offset: Offset,
    /// Of the marker.
    pub last_offset: Offset,
    /// As it was once the marker was written: no transaction that is entered later begins before it.
    pub last_stable_offset: Offset,
}

impl AbortedTransaction {
    fn to_bytes(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..2].copy_from_slice(&VERSION.to_be_bytes());
        let fields =
            [self.producer_id, self.first_offset, self.last_offset, self.last_stable_offset];
        for (field, place) in fields.iter().zip(bytes[2..].chunks_exact_mut(8)) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }

    /// `None` for what is no entry of a version that we know.
    fn of_bytes(bytes: &[u8; ENTRY]) -> Option<Self> {
        let field = |n: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[2 + 8 * n..10 + 8 * n]);
            i64::from_be_bytes(field)
        };
        let (version, last_offset) = (i16::from_be_bytes([bytes[0], bytes[1]]), field(2));
        // Zeros are what a crash leaves; offset 0 cannot be that of a marker.
        (version == VERSION && last_offset > 0).then(|| Self {
            producer_id: field(0),
            first_offset: field(1),
            last_offset,
            last_stable_offset: field(3),
        })
    }

    fn touches(&self, from: Offset, up_to: Offset) -> bool {
        self.last_offset >= from && self.first_offset < up_to
    }
}

/// The aborted transactions of one segment.
pub(super) struct AbortedIndex {
    /// There are entries, in memory or in the file.
    present: bool,
    open: bool,
    entries: Vec<AbortedTransaction>,
    /// So many entries are in the file; more than there are: it is to be cut.
    written: usize,
    synced: bool,
    /// The file's name is durable, or there is no file.
    named: bool,
}

impl AbortedIndex {
    /// Of a new segment.
    pub(super) fn empty() -> Self {
        Self {
            present: false,
            open: true,
            entries: Vec::new(),
            written: 0,
            synced: true,
            named: true,
        }
    }

    /// Of a closed segment, with or without a file.
    pub(super) fn closed(present: bool) -> Self {
        Self { present, open: false, ..Self::empty() }
    }

    pub(super) fn is_present(&self) -> bool {
        self.present
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Opens the index with the entries at the front of its file whose markers lie below `trusted`.
    pub(super) fn load(disk: &dyn Disk, path: &Path, trusted: Offset) -> io::Result<Self> {
        let bytes = match disk.read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::empty()),
            Err(error) => return Err(error),
        };
        let mut entries = read(&bytes);
        entries.retain(|entry| entry.last_offset < trusted);
        let whole = entries.len() * ENTRY == bytes.len();
        let written = if whole { entries.len() } else { usize::MAX };
        Ok(Self { present: true, open: true, entries, written, synced: whole, named: true })
    }

    /// Nothing when the index is closed, or has the marker.
    pub(super) fn append(&mut self, entry: AbortedTransaction) {
        let known = self.entries.last().is_some_and(|last| last.last_offset >= entry.last_offset);
        if self.open && !known {
            self.entries.push(entry);
            self.present = true;
            self.synced = false;
        }
    }

    /// Forgets the markers from `offset` on.
    pub(super) fn truncate_to(&mut self, offset: Offset) {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.last_offset < offset);
        if self.entries.len() < before {
            self.written = usize::MAX;
            self.synced = false;
        }
    }

    /// Writes what the file lacks; returns the file if it is to be synced for its content to last.
    pub(super) fn write(
        &mut self,
        disk: &dyn Disk,
        path: &Path,
    ) -> io::Result<Option<Arc<dyn DiskFile>>> {
        if !self.open || !self.present || self.synced && self.written == self.entries.len() {
            return Ok(None);
        }
        self.named &= disk.exists(path);
        let file = disk.open(path, Open::ReadWrite)?;
        if self.written > self.entries.len() {
            self.written = 0;
        }
        let has = (self.written * ENTRY) as u64;
        if file.len()? != has {
            file.truncate(has)?;
        }
        let new: Vec<u8> =
            self.entries[self.written..].iter().flat_map(|entry| entry.to_bytes()).collect();
        if !new.is_empty() {
            file.write_all_at(&[IoSlice::new(&new)], has)?;
        }
        self.written = self.entries.len();
        self.synced = false;
        Ok(Some(file))
    }

    /// The file that [`Self::write`] returned is durable, and its name, too, if `named`.
    pub(super) fn mark_synced(&mut self, named: bool) {
        self.synced = self.written == self.entries.len();
        self.named |= named;
    }

    pub(super) fn is_named(&self) -> bool {
        self.named
    }

    /// The copy in memory is given up; the file has all of it.
    pub(super) fn close(&mut self) {
        *self = Self::closed(self.present);
    }

    /// Adds to `found` the transactions that touch `from..up_to`. Returns whether no later segment
    /// can have more of them.
    pub(super) fn collect(
        &self,
        disk: &dyn Disk,
        path: &Path,
        (from, up_to): (Offset, Offset),
        found: &mut Vec<AbortedTransaction>,
    ) -> io::Result<bool> {
        if !self.present {
            return Ok(false);
        }
        if self.open {
            return Ok(select(&self.entries, from, up_to, found));
        }
        let entries = read(&disk.read(path)?);
        Ok(select(&entries, from, up_to, found))
    }
}

/// The entries at the front of `bytes` that make sense.
fn read(bytes: &[u8]) -> Vec<AbortedTransaction> {
    let (chunks, _) = bytes.as_chunks::<ENTRY>();
    let mut last = -1;
    let sound = chunks.iter().map_while(AbortedTransaction::of_bytes).take_while(|entry| {
        let ascends = entry.last_offset > last;
        last = entry.last_offset;
        ascends
    });
    sound.collect()
}

fn select(
    entries: &[AbortedTransaction],
    from: Offset,
    up_to: Offset,
    found: &mut Vec<AbortedTransaction>,
) -> bool {
    for entry in entries {
        if entry.touches(from, up_to) {
            found.push(*entry);
        }
        if entry.last_stable_offset >= up_to {
            return true;
        }
    }
    false
}

/// The bytes of an index file with these entries.
pub(super) fn encode(entries: &[AbortedTransaction]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(producer_id: i64, first: Offset, last: Offset, stable: Offset) -> AbortedTransaction {
        AbortedTransaction {
            producer_id,
            first_offset: first,
            last_offset: last,
            last_stable_offset: stable,
        }
    }

    #[test]
    fn an_entry_has_kafkas_bytes() {
        let bytes = entry(1, 2, 3, 4).to_bytes();
        let expected = [
            [0, 0].as_slice(),
            &[0, 0, 0, 0, 0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0, 0, 2],
            &[0, 0, 0, 0, 0, 0, 0, 3],
            &[0, 0, 0, 0, 0, 0, 0, 4],
        ];
        assert_eq!(bytes.as_slice(), expected.concat());
        assert_eq!(AbortedTransaction::of_bytes(&bytes), Some(entry(1, 2, 3, 4)));
    }

    #[test]
    fn a_search_ends_where_the_last_stable_offset_had_passed_the_range() {
        let entries = [entry(1, 0, 10, 5), entry(2, 5, 20, 21), entry(3, 22, 30, 31)];
        let cases = [
            ((0, 5), vec![1], true),
            ((0, 6), vec![1, 2], true),
            ((11, 22), vec![2], true),
            ((11, 23), vec![2, 3], true),
            ((31, 40), vec![], false),
            ((0, 31), vec![1, 2, 3], true),
            ((0, 32), vec![1, 2, 3], false),
        ];
        for ((from, up_to), producers, complete) in cases {
            let mut found = Vec::new();
            assert_eq!(select(&entries, from, up_to, &mut found), complete, "{from}..{up_to}");
            let ids: Vec<_> = found.iter().map(|it| it.producer_id).collect();
            assert_eq!(ids, producers, "{from}..{up_to}");
        }
    }

    #[test]
    fn what_a_crash_left_behind_the_entries_is_not_read() {
        let mut bytes = encode(&[entry(1, 0, 10, 5), entry(2, 5, 20, 21)]);
        let whole = bytes.len();
        bytes.extend([0; ENTRY]);
        bytes.extend(entry(3, 22, 30, 31).to_bytes());
        assert_eq!(read(&bytes).len(), 2);
        assert_eq!(read(&bytes[..whole - 1]).len(), 1);
    }
}
