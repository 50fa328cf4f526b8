//! The two indexes of one segment together, and the rule by which they grow.

use std::io;
use std::path::Path;

use super::index::{Index, OffsetIndex, TimeIndex};
use super::scan::{Scan, ScanError};
use crate::env::{Disk, DiskFile};
use crate::types::{Millis, Offset};
use crate::wire::records::{BatchView, NO_TIMESTAMP};

/// What a segment knows of its batches without looking at them.
pub(super) struct Indexes {
    pub(super) offsets: OffsetIndex,
    pub(super) times: TimeIndex,
    pub(super) since_entry: u64,
    /// The largest timestamp and the last offset of its batch; `None`: not looked up yet.
    pub(super) largest: Option<(Millis, Offset)>,
    /// Of the first batch: its largest timestamp, by which the segment's age is measured.
    pub(super) first: Option<Millis>,
    pub(super) created: Millis,
}

impl Indexes {
    pub(super) fn empty(base: Offset) -> Self {
        Self {
            offsets: Index::empty(base),
            times: Index::empty(base),
            since_entry: 0,
            largest: Some((NO_TIMESTAMP, base)),
            first: None,
            created: 0,
        }
    }

    /// Kafka's rule: an entry for the first batch after more than `interval` bytes without one.
    pub(super) fn note(&mut self, position: u64, batch: &BatchView<'_>, interval: u64) {
        let (time, last_offset) = (batch.max_timestamp(), batch.last_offset());
        if position == 0 {
            self.first = Some(time);
        }
        let largest = self.largest.get_or_insert((NO_TIMESTAMP, last_offset));
        if time > largest.0 {
            *largest = (time, last_offset);
        }
        if self.since_entry > interval {
            let (timestamp, offset) = *largest;
            self.offsets.append(last_offset, position);
            self.times.maybe_append(timestamp, offset);
            self.since_entry = 0;
        }
        self.since_entry += batch.size() as u64;
    }

    /// Back to two empty indexes.
    pub(super) fn forget(&mut self, base: Offset) {
        self.since_entry = 0;
        self.offsets = Index::empty(base);
        self.times = Index::empty(base);
        self.largest = Some((NO_TIMESTAMP, base));
    }

    /// Loads what can be trusted of the index files; returns the position up to which it reaches.
    pub(super) fn load(
        &mut self,
        base: Offset,
        disk: &dyn Disk,
        offsets: &Path,
        times: &Path,
        trusted: Offset,
        length: u64,
    ) -> u64 {
        let loaded = OffsetIndex::load(base, disk, offsets).and_then(|offsets| {
            let times = TimeIndex::load(base, disk, times)?;
            Ok((offsets, times))
        });
        self.forget(base);
        let Ok((mut offsets, mut times)) = loaded else { return 0 };
        // Kafka preallocates: what follows the last entry is zeros.
        offsets.trim_zeros();
        times.trim_zeros();
        offsets.truncate_to(trusted);
        times.truncate_to(trusted);
        if !offsets.is_sane(length) || !times.is_sane() {
            return 0;
        }
        let Some((_, offset, position)) = offsets.last_below(Offset::MAX) else { return 0 };
        // The batch of the last entry is scanned again and must not be entered twice.
        offsets.truncate_to(offset);
        times.truncate_to(offset);
        self.largest = Some(times.last().unwrap_or((NO_TIMESTAMP, base)));
        self.since_entry = u64::MAX / 2;
        self.offsets = offsets;
        self.times = times;
        position
    }
}

/// Whether an index entry can be believed: at the position is a whole batch, right by its CRC.
pub(super) fn leads_to_a_batch(
    file: &dyn DiskFile,
    position: u64,
    length: u64,
    base: Offset,
) -> io::Result<bool> {
    if position == 0 {
        return Ok(true);
    }
    match Scan::new(file, position, length).next_whole() {
        Ok(Some((_, batch))) => Ok(batch.base_offset() >= base),
        Ok(None) | Err(ScanError::Damaged(..)) => Ok(false),
        Err(ScanError::Io(error)) => Err(error),
    }
}

/// The largest timestamp of the first batch.
pub(super) fn first_timestamp(file: &dyn DiskFile, length: u64) -> io::Result<Option<Millis>> {
    let mut scan = Scan::new(file, 0, length);
    Ok(scan.next_header().map_err(ScanError::into_io)?.map(|(_, batch)| batch.max_timestamp()))
}
