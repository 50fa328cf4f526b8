//! Truncation: what a follower does with records that its leader does not have.
//!
//! The checkpoint of the recovery point is lowered first, so that a crash at any moment leads to a
//! recovery that looks at all that was written after the truncation.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::load;
use super::partition_log::{Log, Writer};
use super::producer_state::ProducerState;
use super::scan::{Scan, ScanError};
use super::segment::Segment;
use crate::error::Fault;
use crate::types::Offset;

impl Log {
    /// Blocking. Removes all records from `offset` on; nothing when the log ends before. A batch that
    /// reaches over `offset` goes as a whole, so the log can end below it afterwards. Returns whether anything was removed.
    pub fn truncate_to(&self, offset: Offset) -> Result<bool, Fault> {
        if offset >= self.end_offset() {
            // A leader that was deposed before it wrote anything has an epoch that begins at the end,
            // of which no other log knows.
            self.epochs.lock().truncate_from_end(self.end_offset());
            return Ok(false);
        }
        let first = self.segments.load().first_key_value().map_or(0, |(base, _)| *base);
        if offset < first {
            self.truncate_fully_and_start_at(offset)?;
            return Ok(true);
        }
        self.truncating(offset, |writer| {
            let keep = self.segments_from(offset).into_iter().next();
            let gone: Vec<_> =
                self.segments.load().range(offset + 1..).map(|(_, s)| s.clone()).collect();
            let active = keep.filter(|segment| segment.base <= offset);
            self.publish_segments(|segments| segments.retain(|base, _| *base <= offset));
            for segment in gone {
                self.remove_now(&segment)?;
            }
            let now = self.shared.env.clock.wall_ms();
            let Some(active) = active else {
                return Err(io::Error::other("no segment below the end"));
            };
            let interval = self.config.load().index_interval_bytes;
            if !Arc::ptr_eq(&active, &writer.active) {
                active.activate(offset, Offset::MAX, interval, now, |_| {})?;
            }
            let offset = active.truncate_to(offset)?;
            writer.unsynced.retain(|segment| segment.base < active.base);
            writer.active = active;
            self.end.store(offset, Ordering::Release);
            self.start.fetch_min(offset, Ordering::AcqRel);
            self.epochs.lock().truncate_from_end(offset);
            self.reload_producers(writer, offset)
        })?;
        Ok(true)
    }

    /// Blocking. Removes everything; the log goes on at `offset`.
    pub fn truncate_fully_and_start_at(&self, offset: Offset) -> Result<(), Fault> {
        self.truncating(offset.min(self.start_offset()), |writer| {
            let old = self.segments.load_full();
            self.publish_segments(std::collections::BTreeMap::clear);
            for segment in old.values() {
                self.remove_now(segment)?;
            }
            for at in load::snapshots(&self.home)? {
                self.home.disk.remove_file(&self.home.path(at, "snapshot"))?;
            }
            let now = self.shared.env.clock.wall_ms();
            let new = Segment::create(self.home.clone(), offset, now)?;
            writer.active = new.clone();
            writer.unsynced.clear();
            writer.snapshots.clear();
            writer.names = true;
            writer.producers = ProducerState::starting_at(offset);
            self.publish_unstable(writer);
            self.start.store(offset, Ordering::Release);
            self.end.store(offset, Ordering::Release);
            self.publish_segments(|segments| {
                segments.insert(offset, new);
            });
            self.epochs.lock().clear();
            self.flushed.store(offset, Ordering::Release);
            Ok(())
        })
    }

    fn truncating(
        &self,
        offset: Offset,
        work: impl FnOnce(&mut Writer) -> io::Result<()>,
    ) -> Result<(), Fault> {
        let _no_flush = self.flushing.lock();
        let mut writer = self.writer.lock();
        // In this order: a checkpoint that is being written meanwhile sees one or the other.
        self.flushed.fetch_min(offset, Ordering::AcqRel);
        self.shared.lower_recovery_point(&self.partition, offset)?;
        self.shared.lower_cleaned(&self.partition, offset)?;
        self.truncations.fetch_add(1, Ordering::AcqRel);
        self.tail.clear();
        // Durable at once: a removed segment that came back would lie behind a gap.
        let done = work(&mut writer)
            .and_then(|()| writer.active.file()?.sync())
            .and_then(|()| self.home.disk.sync_dir(&self.dir()))
            .map_err(Fault::disk(self.dir()))
            // A batch that reached over `offset` is gone as a whole.
            .and_then(|()| self.shared.lower_recovery_point(&self.partition, self.end_offset()))
            .and_then(|()| self.shared.lower_cleaned(&self.partition, self.end_offset()));
        self.truncations.fetch_add(1, Ordering::AcqRel);
        drop(writer);
        self.flushed.fetch_min(self.end_offset(), Ordering::AcqRel);
        self.mark_dirty();
        // Half a truncation is not a log.
        done.inspect_err(|fault| self.shared.fail(fault))
    }

    fn remove_now(&self, segment: &Segment) -> io::Result<()> {
        for path in segment.mark_deleted()? {
            self.home.disk.remove_file(&path)?;
        }
        Ok(())
    }

    /// From the newest snapshot at or below `end`, and the batches from there on.
    fn reload_producers(&self, writer: &mut Writer, end: Offset) -> io::Result<()> {
        writer.snapshots.retain(|(at, _)| *at <= end);
        for (at, bytes) in std::mem::take(&mut writer.snapshots) {
            self.home.disk.write_atomically(&self.home.path(at, "snapshot"), &bytes)?;
        }
        let expiry =
            (self.shared.env.clock.wall_ms(), self.config.load().producer_id_expiration_ms);
        let start = self.start_offset();
        let mut found = load::snapshots(&self.home)?;
        // Of records that are gone.
        for at in found.split_off(&(end + 1)) {
            self.home.disk.remove_file(&self.home.path(at, "snapshot"))?;
        }
        writer.producers = load::newest_snapshot(&self.home, &mut found, start, end, expiry)?;
        self.replay_producers(&mut writer.producers, end)?;
        self.publish_unstable(writer);
        Ok(())
    }

    /// Brings `producers` up to `end` from the segments.
    pub(super) fn replay_producers(
        &self,
        producers: &mut ProducerState,
        end: Offset,
    ) -> io::Result<()> {
        for segment in self.segments_from(producers.end) {
            let size = segment.size();
            let Some(place) = segment.locate(producers.end, size)? else { continue };
            let file = segment.file()?;
            let mut scan = Scan::new(&*file, place.position, size);
            loop {
                let (at, control) = match scan.next_header().map_err(ScanError::into_io)? {
                    Some((_, batch)) if batch.base_offset() >= end => break,
                    Some((at, batch)) if batch.is_control() => (at, batch.has_producer_id()),
                    Some((_, batch)) => {
                        producers.replay(&batch);
                        continue;
                    }
                    None => break,
                };
                // A control batch says what it does in its record.
                let mut whole = Scan::new(&*file, at, size);
                if let Some((_, batch)) = whole.next_whole().map_err(ScanError::into_io)?
                    && control
                {
                    let aborted = producers.replay(&batch);
                    if !aborted.is_empty() {
                        segment.note_aborted(&aborted);
                        self.any_aborted.store(true, Ordering::Release);
                    }
                }
            }
        }
        producers.end = end;
        Ok(())
    }
}
