//! Copying a log into one of another directory, which is to take its place.
//!
//! The copy follows as a follower follows its leader: by epochs it finds where both agree, and cuts
//! off what the other has cut off. Bytes are copied as they are.
//!
//! Taking over: for a moment, while nothing is appended, the copy is brought to the same end and
//! gets the producers and epochs of the other. From then on records go to the copy alone, and are
//! not told to be durable before it is known that a crash finds them: until [`Log::release`], the
//! old log holds all that was ever acknowledged.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::partition_log::Log;
use super::producer_state;
use super::read::ReadError;
use crate::error::Fault;
use crate::types::Offset;
use crate::wire::records::BatchView;

/// What is read at once.
const CHUNK: usize = 1 << 20;

impl Log {
    /// Blocking. Copies at most about `max_bytes` of what `from` has and this log has not. Returns
    /// whether this log has all of it now.
    pub fn copy_from(&self, from: &Log, max_bytes: usize) -> Result<bool, Fault> {
        self.cut_to(from)?;
        let mut left = max_bytes;
        loop {
            let start = from.start_offset();
            if start > self.end_offset() {
                self.truncate_fully_and_start_at(start)?;
            }
            self.advance_start(start);
            if self.end_offset() >= from.end_offset() {
                return Ok(true);
            }
            if left == 0 {
                return Ok(false);
            }
            let at = self.end_offset();
            let records = match from.read_cold(at, CHUNK, Offset::MAX, true) {
                Ok(records) => records,
                // Deleted or cut off meanwhile: the next call sees that.
                Err(ReadError::OutOfRange { .. }) => return Ok(false),
                Err(ReadError::Storage(why)) => return Err(Fault::Start(why)),
            };
            if records.is_empty() {
                return Err(Fault::Start(format!("nothing can be read at {at}")));
            }
            left = left.saturating_sub(records.len());
            self.append_copy(records)?;
        }
    }

    fn append_copy(&self, records: Bytes) -> Result<(), Fault> {
        let first = match BatchView::first(&records) {
            Ok(batch) => batch.base_offset(),
            Err(_) => return Ok(()),
        };
        let end = self.end_offset();
        if first < end && self.start_offset() == end {
            // The log starts within a batch, which is copied as a whole.
            self.truncate_fully_and_start_at(first)?;
        }
        self.append_as_follower(records).map_err(|error| Fault::Start(error.to_string()))?;
        Ok(())
    }

    /// Up to where the records here are those of `from`, as the epochs tell.
    fn common_with(&self, from: &Log) -> Offset {
        let end = self.end_offset();
        let Some(ours) = self.latest_epoch() else { return end };
        let end_here = |epoch| self.end_offset_for_epoch(epoch).map_or(end, |(_, end)| end);
        match from.end_offset_for_epoch(ours) {
            Some((epoch, theirs)) if epoch == ours => theirs.min(end),
            Some((epoch, theirs)) => theirs.min(end_here(epoch)),
            None => match from.latest_epoch() {
                Some(latest) => from.end_offset().min(end_here(latest)),
                None => from.start_offset().min(end),
            },
        }
    }

    /// Blocking. Cuts off what `from` does not have, as far as the epochs tell: so to be called before
    /// anything is appended to a log that a crash may have cut within an epoch.
    pub fn cut_to(&self, from: &Log) -> Result<(), Fault> {
        loop {
            let (common, end) = (self.common_with(from), self.end_offset());
            if common >= end {
                return Ok(());
            }
            tracing::info!(partition = %self.partition, offset = common, "the copy is cut as the log was");
            self.truncate_to(common)?;
        }
    }

    /// Brings the copy to the end of `from`, as far as that needs no disk. Nothing may be appended to
    /// `from` meanwhile, nor afterwards. False: there is more to copy first.
    pub fn take_over(&self, from: &Log) -> bool {
        if self.common_with(from) < self.end_offset() {
            return false;
        }
        while self.end_offset() < from.end_offset() {
            let records = match from.read(self.end_offset(), CHUNK, Offset::MAX, true) {
                Ok(Some(records)) if !records.is_empty() => records,
                _ => return false,
            };
            if self.append_as_follower(records).is_err() {
                return false;
            }
        }
        if self.end_offset() != from.end_offset() {
            return false;
        }
        self.advance_start(from.start_offset());
        self.held.store(from.synced_offset(), Ordering::Release);
        // They know of more than the records tell: idle producers, epochs without records.
        let producers = from.writer.lock().producers.clone();
        let mut writer = self.writer.lock();
        let snapshot = producer_state::encode(producers.producers());
        writer.snapshots.push((producers.end, snapshot));
        writer.producers = producers;
        writer.producers.snapshot_at = writer.producers.end;
        let mut epochs = from.epochs.lock().clone();
        epochs.dirty = true;
        *self.epochs.lock() = epochs;
        true
    }

    /// Blocking. Makes all durable. Returns whether that went well.
    pub fn make_durable(&self) -> bool {
        let end = self.end_offset();
        self.flush(true);
        self.recovery_point() >= end
    }

    /// What is durable may be told from now on.
    pub fn release(&self) {
        self.held.store(Offset::MAX, Ordering::Release);
    }

    /// Nothing is appended any more.
    pub fn freeze(&self) {
        self.closed.store(true, Ordering::Release);
    }
}
