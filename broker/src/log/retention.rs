//! Removing old segments: by time, by size, and below the log start offset.
//!
//! The writer lock is held only to take segments out of the list. Files are renamed to `.deleted`
//! and removed after `file.delete.delay.ms`, so that a reader that is at them can finish.
//! With `cleanup.policy=compact` alone only what is below the log start goes. A segment that the
//! cleaner has emptied goes with the next one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::config::LogConfig;
use super::load;
use super::partition_log::Log;
use super::segment::Segment;
use crate::error::Fault;
use crate::types::{Millis, Offset};

impl Log {
    /// Blocking. One pass of retention; nothing at or above `high_watermark` is removed. Returns
    /// the bytes that went.
    pub fn retain(&self, now: Millis, high_watermark: Offset) -> Result<u64, Fault> {
        let config = self.config.load_full();
        let segments: Vec<_> = self.segments.load().values().cloned().collect();
        let count = self.deletable(&segments, &config, now, high_watermark)?;
        if count == 0 {
            return Ok(0);
        }
        let _no_flush = self.flushing.lock();
        let fault = |error| {
            let fault = Fault::Disk { path: self.dir(), source: error };
            self.shared.fail_unless_full(&fault);
            fault
        };
        {
            let mut writer = self.writer.lock();
            if count == segments.len() {
                // The active one is old, too: a new one follows, if nothing was appended meanwhile.
                let end = self.end_offset();
                let same = Arc::ptr_eq(&writer.active, &segments[count - 1]);
                if !same || end > high_watermark {
                    return Ok(0);
                }
                self.roll(&mut writer, end, now).map_err(fault)?;
            }
            writer.names = true;
            let gone = &segments[..count];
            writer.unsynced.retain(|left| !gone.iter().any(|gone| Arc::ptr_eq(gone, left)));
            self.publish_segments(|left| {
                left.retain(|_, segment| !gone.iter().any(|gone| Arc::ptr_eq(gone, segment)));
            });
        }
        let first = self.segments.load().first_key_value().map_or(0, |(base, _)| *base);
        self.start.fetch_max(first, Ordering::AcqRel);
        self.epochs.lock().truncate_from_start(self.start_offset());
        let mut bytes = 0;
        let due = now + config.file_delete_delay_ms;
        for segment in &segments[..count] {
            bytes += segment.size();
            let renamed = segment.mark_deleted().map_err(fault)?;
            self.shared.remove_later(renamed, due);
        }
        for at in load::snapshots(&self.home).map_err(fault)? {
            if at < first {
                let path = self.home.path(at, "snapshot");
                let gone = self.home.path(at, "snapshot.deleted");
                self.home.disk.rename(&path, &gone).map_err(fault)?;
                self.shared.remove_later([gone], due);
            }
        }
        self.mark_dirty();
        tracing::info!(partition = %self.partition, segments = count, bytes, start = first, "removed old segments");
        Ok(bytes)
    }

    /// How many of the oldest segments can go.
    fn deletable(
        &self,
        segments: &[Arc<Segment>],
        config: &LogConfig,
        now: Millis,
        high_watermark: Offset,
    ) -> Result<usize, Fault> {
        let start = self.start_offset();
        let mut excess = match config.retention_bytes {
            bound if bound >= 0 => self.size() as i64 - bound,
            _ => -1,
        };
        let mut count = 0;
        for (index, segment) in segments.iter().enumerate() {
            let next = segments.get(index + 1).map(|next| next.base);
            let size = segment.size() as i64;
            let upper = next.unwrap_or_else(|| self.end_offset());
            if upper > high_watermark || next.is_none() && size == 0 {
                break;
            }
            let too_old = config.delete && config.retention_ms >= 0 && {
                let largest = segment.largest_timestamp().map_err(Fault::disk(self.dir()))?.0;
                largest >= 0 && now.saturating_sub(largest) > config.retention_ms
            };
            let too_much = config.delete && excess - size >= 0;
            let below_start = next.is_some_and(|next| next <= start);
            let emptied = size == 0 && config.delete && config.retention_ms >= 0;
            if emptied && !(too_much || below_start) {
                continue;
            }
            if !(too_old || too_much || below_start) {
                break;
            }
            excess -= size;
            count = index + 1;
        }
        Ok(count)
    }
}
