//! Reading: from the tail cache without the disk, else by position from a segment; and the look-ups
//! by timestamp.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::aborted::AbortedTransaction;
use super::partition_log::Log;
use super::scan::{Scan, ScanError};
use super::segment::Segment;
use crate::error::{ErrorCode, Fault, Refusal};
use crate::types::{LeaderEpoch, Millis, Offset};
use crate::wire::records::{BatchView, MAX_DECOMPRESSED, NO_TIMESTAMP};

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("offset {asked} is not in {start}..={end}")]
    OutOfRange { asked: Offset, start: Offset, end: Offset },
    #[error("{0}")]
    Storage(String),
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        let code = match error {
            ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            ReadError::Storage(_) => ErrorCode::KafkaStorageError,
        };
        Self::new(code, error.to_string())
    }
}

/// The answer to a look-up by timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampOffset {
    pub timestamp: Millis,
    pub offset: Offset,
    pub leader_epoch: Option<LeaderEpoch>,
}

/// A segment can vanish under a reader: retention removed it, a truncation changed it.
const ATTEMPTS: usize = 4;

impl Log {
    /// Whole batches from the one that holds `from` on, all below `up_to`: at most `max_bytes`, but
    /// at least one batch, however large, if `at_least_one`. Never waits for the disk: `None` means
    /// that it would have to, see [`Log::read_cold`]. Empty: there is nothing (yet).
    pub fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        up_to: Offset,
        at_least_one: bool,
    ) -> Result<Option<Bytes>, ReadError> {
        let up_to = self.check_range(from, up_to)?;
        if from >= up_to {
            return Ok(Some(Bytes::new()));
        }
        Ok(self.tail.read(from, max_bytes, up_to, at_least_one))
    }

    /// Blocking. As [`Log::read`], from the disk.
    pub fn read_cold(
        &self,
        from: Offset,
        max_bytes: usize,
        up_to: Offset,
        at_least_one: bool,
    ) -> Result<Bytes, ReadError> {
        self.retry(|| {
            let up_to = self.check_range(from, up_to)?;
            if from >= up_to {
                return Ok(Ok(Bytes::new()));
            }
            for segment in self.segments_from(from) {
                match segment.read(from, max_bytes, up_to, at_least_one) {
                    Ok(Some(bytes)) => return Ok(Ok(bytes)),
                    Ok(None) => {}
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(Bytes::new()))
        })
    }

    /// The aborted transactions with records in `from..up_to`, by their markers. Never waits for the
    /// disk: `None` means that it would have to, see [`Log::aborted_cold`].
    pub fn aborted(&self, from: Offset, up_to: Offset) -> Option<Vec<AbortedTransaction>> {
        // What the open segments have is in memory, which cannot fail.
        self.collect_aborted(from, up_to, false).ok().flatten()
    }

    /// Blocking. As [`Log::aborted`], also from the disk.
    pub fn aborted_cold(
        &self,
        from: Offset,
        up_to: Offset,
    ) -> Result<Vec<AbortedTransaction>, ReadError> {
        let found = self.retry(|| Ok(self.collect_aborted(from, up_to, true)));
        found.map(Option::unwrap_or_default)
    }

    pub(super) fn collect_aborted(
        &self,
        from: Offset,
        up_to: Offset,
        cold: bool,
    ) -> io::Result<Option<Vec<AbortedTransaction>>> {
        let mut found = Vec::new();
        if from >= up_to || !self.any_aborted.load(Ordering::Acquire) {
            return Ok(Some(found));
        }
        for segment in self.segments_from(from) {
            match segment.aborted_in((from, up_to), cold, &mut found)? {
                None => return Ok(None),
                Some(true) => break,
                Some(false) => {}
            }
        }
        Ok(Some(found))
    }

    /// Blocking. The first record at or after the log start whose timestamp is at least `timestamp`.
    pub fn offset_for_timestamp(
        &self,
        timestamp: Millis,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        self.retry(|| Ok(self.find_timestamp(timestamp)))
    }

    /// Blocking. The record with the largest timestamp (KIP-734), the first of several.
    pub fn max_timestamp(&self) -> Result<Option<TimestampOffset>, ReadError> {
        self.retry(|| Ok(self.find_largest()))
    }

    fn find_timestamp(&self, timestamp: Millis) -> io::Result<Option<TimestampOffset>> {
        let start = self.start_offset();
        for segment in self.segments_from(start) {
            if segment.largest_timestamp()?.0 < timestamp {
                continue;
            }
            let from = segment.position_of_timestamp(timestamp, start);
            let good = |batch: &BatchView<'_>| {
                batch.max_timestamp() >= timestamp && batch.last_offset() >= start
            };
            let found =
                search(&segment, from, good, |time, offset| time >= timestamp && offset >= start)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn find_largest(&self) -> io::Result<Option<TimestampOffset>> {
        let start = self.start_offset();
        let mut best: Option<(Millis, Arc<Segment>)> = None;
        for segment in self.segments_from(start) {
            let (timestamp, _) = segment.largest_timestamp()?;
            if timestamp > best.as_ref().map_or(NO_TIMESTAMP, |(largest, _)| *largest) {
                best = Some((timestamp, segment));
            }
        }
        let Some((timestamp, segment)) = best else { return Ok(None) };
        let from = segment.position_of_timestamp(timestamp - 1, start);
        let good = |batch: &BatchView<'_>| {
            batch.max_timestamp() >= timestamp && batch.last_offset() >= start
        };
        search(&segment, from, good, |time, offset| time >= timestamp && offset >= start)
    }

    /// The segments that can hold `from` or what follows it.
    pub(super) fn segments_from(&self, from: Offset) -> Vec<Arc<Segment>> {
        let segments = self.segments.load();
        let first = segments.range(..=from).next_back().map_or(from, |(base, _)| *base);
        let range = (Bound::Included(first), Bound::Unbounded);
        segments.range(range).map(|(_, segment)| segment.clone()).collect()
    }

    fn check_range(&self, from: Offset, up_to: Offset) -> Result<Offset, ReadError> {
        let (start, end) = (self.start_offset(), self.end_offset());
        if from < start || from > end {
            return Err(ReadError::OutOfRange { asked: from, start, end });
        }
        Ok(up_to.min(end))
    }

    /// Asks again while the log changes under the reader.
    fn retry<T>(
        &self,
        read: impl Fn() -> Result<io::Result<T>, ReadError>,
    ) -> Result<T, ReadError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let before = self.truncations.load(Ordering::Acquire);
            let result = read()?;
            let changed = self.truncations.load(Ordering::Acquire) != before;
            match result {
                Ok(value) if !changed => return Ok(value),
                Ok(_) if attempt < ATTEMPTS => {}
                Ok(_) => return Err(ReadError::Storage("the log is being truncated".into())),
                Err(error) => {
                    let gone = changed || error.kind() == io::ErrorKind::NotFound;
                    if !gone || attempt == ATTEMPTS {
                        return Err(self.unreadable(error));
                    }
                }
            }
        }
    }

    pub(super) fn unreadable(&self, error: io::Error) -> ReadError {
        let why = format!("{}: {error}", self.dir().display());
        // Damaged data concern this partition; an error of the device concerns all of it.
        if error.kind() != io::ErrorKind::InvalidData && error.kind() != io::ErrorKind::NotFound {
            self.shared.fail(&Fault::Disk { path: self.dir(), source: error });
        }
        ReadError::Storage(why)
    }
}

/// The first batch from `position` on that is `good`, opened, and in it the first record that is.
fn search(
    segment: &Segment,
    position: u64,
    good: impl Fn(&BatchView<'_>) -> bool,
    good_record: impl Fn(Millis, Offset) -> bool,
) -> io::Result<Option<TimestampOffset>> {
    let file = segment.file()?;
    let end = segment.size();
    let mut scan = Scan::new(&*file, position, end);
    loop {
        let Some((at, batch)) = scan.next_header().map_err(ScanError::into_io)? else {
            return Ok(None);
        };
        if !good(&batch) {
            continue;
        }
        let mut whole = Scan::new(&*file, at, end);
        let Some((_, batch)) = whole.next_whole().map_err(ScanError::into_io)? else {
            return Ok(None);
        };
        let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let records = batch.records(MAX_DECOMPRESSED).map_err(damaged)?;
        for record in &records {
            let record = record.map_err(damaged)?;
            if good_record(record.timestamp, record.offset) {
                return Ok(Some(TimestampOffset {
                    timestamp: record.timestamp,
                    offset: record.offset,
                    leader_epoch: Some(batch.leader_epoch()).filter(|epoch| *epoch >= 0),
                }));
            }
        }
    }
}
