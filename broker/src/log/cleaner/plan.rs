//! What of a log can be cleaned, and whether it is worth it.

use std::sync::Arc;

use crate::log::partition_log::Log;
use crate::log::read::ReadError;
use crate::log::segment::Segment;
use crate::types::{Millis, Offset};

/// A log that could be cleaned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub first_dirty: Offset,
    /// The base of the first segment that must stay as it is.
    pub up_to: Offset,
    pub clean_bytes: u64,
    pub dirty_bytes: u64,
    /// Some record has waited for `max.compaction.lag.ms`.
    pub due: bool,
}

impl Candidate {
    /// The part of the bytes that were not cleaned before.
    pub fn dirty_ratio(&self) -> f64 {
        let total = self.clean_bytes + self.dirty_bytes;
        if total == 0 { 0.0 } else { self.dirty_bytes as f64 / total as f64 }
    }
}

impl Log {
    /// Blocking. What the cleaner would find to do here, where readers of committed records come up
    /// to `stable`; `None` if it is not worth it. Neither the active segment is touched, nor what
    /// is not on the disk, nor records that are younger than `min.compaction.lag.ms`.
    pub fn cleanable(&self, stable: Offset, now: Millis) -> Result<Option<Candidate>, ReadError> {
        let config = self.config();
        if !config.compact {
            return Ok(None);
        }
        let first_dirty = self.first_dirty();
        let segments: Vec<Arc<Segment>> = self.segments.load().values().cloned().collect();
        let Some((active, closed)) = segments.split_last() else { return Ok(None) };
        let limit = stable.min(active.base).min(self.recovery_point());
        let dirty = |segment: &&Arc<Segment>| segment.base >= first_dirty;
        let mut limit = limit;
        if config.min_compaction_lag_ms > 0 {
            let young = now.saturating_sub(config.min_compaction_lag_ms);
            for segment in closed.iter().filter(dirty) {
                let largest =
                    segment.largest_timestamp().map_err(|error| self.unreadable(error))?;
                if largest.0 > young {
                    limit = limit.min(segment.base);
                    break;
                }
            }
        }
        let limit = limit.max(first_dirty);
        let floor = segments.iter().rev().map(|segment| segment.base).find(|base| *base <= limit);
        let up_to = floor.unwrap_or(limit).min(active.base);
        let bases = segments.iter().map(|segment| segment.base).skip(1).chain([Offset::MAX]);
        let (mut clean_bytes, mut dirty_bytes) = (0, 0);
        let mut due = false;
        let old = now.saturating_sub(config.max_compaction_lag_ms);
        for (segment, next) in segments.iter().zip(bases).filter(|(it, _)| it.base < up_to) {
            if next > first_dirty {
                dirty_bytes += segment.size();
                if config.max_compaction_lag_ms < Millis::MAX && !due {
                    let first =
                        segment.first_timestamp().map_err(|error| self.unreadable(error))?;
                    due = first.is_some_and(|first| first > 0 && first < old);
                }
            }
            if segment.base < first_dirty {
                clean_bytes += segment.size();
            }
        }
        let candidate = Candidate { first_dirty, up_to, clean_bytes, dirty_bytes, due };
        let worth = due || candidate.dirty_ratio() > config.min_cleanable_dirty_ratio;
        Ok(Some(candidate).filter(|_| worth && dirty_bytes > 0))
    }

    /// From where on the log was never cleaned.
    fn first_dirty(&self) -> Offset {
        let (start, end) = (self.start_offset(), self.end_offset());
        let known = self.shared.cleaned(&self.partition).unwrap_or(start);
        // What lies past the end was cut off since.
        if (start..=end).contains(&known) { known } else { start }
    }
}

/// Puts neighbours together, as far as they fit one segment.
pub(super) fn group(
    segments: Vec<Arc<Segment>>,
    up_to: Offset,
    most: u64,
) -> Vec<Vec<Arc<Segment>>> {
    let ends: Vec<_> = segments.iter().skip(1).map(|it| it.base).chain([up_to]).collect();
    let mut groups: Vec<Vec<Arc<Segment>>> = Vec::new();
    let mut bytes = 0;
    for (segment, end) in segments.into_iter().zip(ends) {
        match groups.last_mut() {
            Some(group)
                if bytes + segment.size() <= most
                    && end - 1 - group[0].base <= i64::from(i32::MAX) =>
            {
                bytes += segment.size();
                group.push(segment);
            }
            _ => {
                bytes = segment.size();
                groups.push(vec![segment]);
            }
        }
    }
    groups
}
