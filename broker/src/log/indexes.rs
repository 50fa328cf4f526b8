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
    /// The last entry of `times`, while that is open.
    pub(super) last_time: Option<(Millis, Offset)>,
    pub(super) since_entry: u64,
    /// The largest timestamp and the last offset of its batch; `None`: not looked up yet.
    pub(super) largest: Option<(Millis, Offset)>,
    /// Of the first batch: its largest timestamp, by which the segment's age is measured; `None`:
    /// not looked up yet, or there is none.
    pub(super) first: Option<Millis>,
    pub(super) created: Millis,
}

/// The files of the two indexes.
pub(super) struct Files<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) offsets: &'a Path,
    pub(super) times: &'a Path,
}

impl Indexes {
    pub(super) fn empty(base: Offset) -> Self {
        Self {
            offsets: Index::empty(base),
            times: Index::empty(base),
            last_time: None,
            since_entry: 0,
            largest: Some((NO_TIMESTAMP, base)),
            first: None,
            created: 0,
        }
    }

    pub(super) fn closed(base: Offset) -> Self {
        Self {
            offsets: Index::closed(base),
            times: Index::closed(base),
            largest: None,
            ..Self::empty(base)
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
            self.offsets.append(last_offset, position);
            self.enter_time();
            self.since_entry = 0;
        }
        self.since_entry += batch.size() as u64;
    }

    /// The largest timestamp so far becomes an entry, if it is larger than the last one.
    pub(super) fn enter_time(&mut self) {
        if let Some(largest) = self.largest.filter(|(time, _)| *time >= 0)
            && self.times.maybe_append(largest.0, largest.1, self.last_time)
        {
            self.last_time = Some(largest);
        }
    }

    /// Back to two empty indexes.
    pub(super) fn forget(&mut self, base: Offset) {
        *self = Self { created: self.created, ..Self::empty(base) };
    }

    /// Opens the index files as far as they can be trusted, up to entries of offsets below
    /// `trusted`. Returns the offset and position of the batch from which on the log must be
    /// scanned, which is the last one that the index knows.
    pub(super) fn load(
        &mut self,
        base: Offset,
        files: &Files<'_>,
        trusted: Offset,
    ) -> Option<(Offset, u64)> {
        self.forget(base);
        let loaded = (|| {
            let mut offsets = OffsetIndex::load(base, files.disk, files.offsets, trusted)?;
            let last = offsets.last_below(files.disk, files.offsets, Offset::MAX)?;
            let Some((offset, position)) = last else { return Ok(None) };
            let mut times = TimeIndex::load(base, files.disk, files.times, trusted)?;
            // The batch of the last entry is scanned again and must not be entered twice.
            offsets.truncate_to(files.disk, files.offsets, offset)?;
            times.truncate_to(files.disk, files.times, offset)?;
            let last_time = times.last(files.disk, files.times)?;
            Ok::<_, io::Error>(Some((offsets, times, last_time, (offset, position))))
        })();
        // What cannot be read is built anew from the log.
        let (offsets, times, last_time, place) = loaded.ok().flatten()?;
        self.largest = Some(last_time.unwrap_or((NO_TIMESTAMP, base)));
        self.since_entry = u64::MAX / 2;
        self.offsets = offsets;
        self.times = times;
        self.last_time = last_time;
        Some(place)
    }

    /// Removes the entries from `offset` on. Returns the position from which on batches must be
    /// looked at for their timestamps again; `largest` is what is known from before it.
    pub(super) fn truncate_to(
        &mut self,
        files: &Files<'_>,
        base: Offset,
        offset: Offset,
    ) -> io::Result<u64> {
        self.offsets.truncate_to(files.disk, files.offsets, offset)?;
        self.times.truncate_to(files.disk, files.times, offset)?;
        self.since_entry = 0;
        self.last_time = self.times.last(files.disk, files.times)?;
        let largest = self.last_time.unwrap_or((NO_TIMESTAMP, base));
        self.largest = Some(largest);
        let from = self.offsets.last_below(files.disk, files.offsets, largest.1)?;
        Ok(from.map_or(0, |(_, position)| position))
    }
}

/// Whether an index entry can be believed: at the position is the header of a batch that ends with
/// the entry's offset, or holds it.
pub(super) fn leads_to_a_batch(
    file: &dyn DiskFile,
    (offset, position): (Offset, u64),
    length: u64,
    base: Offset,
) -> io::Result<bool> {
    if position >= length {
        return Ok(false);
    }
    match Scan::new(file, position, length).next_header() {
        Ok(Some((_, batch))) => Ok((base..=offset).contains(&batch.base_offset())),
        Ok(None) | Err(ScanError::Damaged(..)) => Ok(false),
        Err(ScanError::Io(error)) => Err(error),
    }
}

/// The largest timestamp of the first batch.
pub(super) fn first_timestamp(file: &dyn DiskFile, length: u64) -> io::Result<Option<Millis>> {
    let mut scan = Scan::new(file, 0, length);
    Ok(scan.next_header().map_err(ScanError::into_io)?.map(|(_, batch)| batch.max_timestamp()))
}
