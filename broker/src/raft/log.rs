//! The metadata log: segments in `__cluster_metadata-0/`, and the snapshots next to them.
//!
//! Offsets and epochs are given by the caller, leader or follower; this appends, reads, syncs and
//! truncates. Opening scans the segments, checks every batch and cuts off a torn end. Where each
//! batch lies is kept in memory: the log holds metadata only. What is cut off at the front, because
//! a snapshot stands for it, is in [`trim`](super::trim).
//!
//! Invariants: segments and batches are contiguous in offsets, epochs never fall, and a log that
//! does not start at 0 has a whole snapshot that reaches at least to its start. Segments are
//! deleted one by one, so that a crash leaves no gap.
//! Deliberately absent: index files (Kafka rebuilds them when it opens the folder). Not a
//! [`crate::log::Log`]: it must be read before the directory's other logs are opened, because their
//! settings stand in it.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::messages::{LogEnd, LogView};
use super::segment::Segment;
use super::snapshot::{SnapshotId, Snapshots};
use crate::config::Settings;
use crate::env::disk::read_full;
use crate::env::{Disk, Env};
use crate::error::Fault;
use crate::types::{LeaderEpoch, Millis, NO_EPOCH, Offset};
use crate::wire::records::{BatchView, Batches};

/// The folder's name inside of the metadata log directory.
pub const FOLDER: &str = "__cluster_metadata-0";

/// How large and how old segments, and the log with its snapshots, may become.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    pub segment_bytes: u64,
    pub segment_ms: Millis,
    /// Negative: no limit.
    pub retention_bytes: i64,
    /// Negative: no limit.
    pub retention_ms: Millis,
}

impl Default for LogOptions {
    fn default() -> Self {
        const WEEK: Millis = 7 * 24 * 3600 * 1000;
        Self {
            segment_bytes: 1 << 30,
            segment_ms: WEEK,
            retention_bytes: 100 << 20,
            retention_ms: WEEK,
        }
    }
}

impl LogOptions {
    pub fn of(settings: &Settings) -> Self {
        let for_tests = settings.value("internal.metadata.log.segment.bytes");
        let segment_bytes = for_tests
            .and_then(|text| text.parse().ok())
            .unwrap_or(settings.metadata_log_segment_bytes.unsigned_abs());
        Self {
            segment_bytes: segment_bytes.into(),
            segment_ms: settings.metadata_log_segment_ms,
            retention_bytes: settings.metadata_max_retention_bytes,
            retention_ms: settings.metadata_max_retention_ms,
        }
    }
}

pub struct MetadataLog {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) options: LogOptions,
    pub(super) snapshots: Snapshots,
    pub(super) inner: Mutex<Inner>,
}

impl LogView for MetadataLog {
    fn end(&self) -> LogEnd {
        LogEnd { epoch: self.last_epoch().max(0), offset: self.end_offset() }
    }

    fn end_of_epoch(&self, epoch: LeaderEpoch) -> LogEnd {
        let (epoch, offset) = self.end_of_epoch(epoch);
        LogEnd { epoch: epoch.max(0), offset }
    }

    fn start_offset(&self) -> Offset {
        self.start_offset()
    }

    fn snapshot(&self) -> Option<LogEnd> {
        let newest = self.snapshots.newest_image()?.id;
        Some(LogEnd { epoch: newest.epoch, offset: newest.end_offset })
    }

    fn oldest_epoch(&self) -> LeaderEpoch {
        let mut all = self.snapshots.all().into_iter().map(|(id, _)| id);
        all.find(|id| *id != SnapshotId::BOOTSTRAP).map_or(0, |id| id.epoch)
    }
}

pub(super) struct Inner {
    /// At least one; the last is appended to.
    pub segments: Vec<Segment>,
    /// At or after the first segment's base.
    pub start: Offset,
    /// The first offset of each epoch.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
}

impl Inner {
    pub fn end(&self) -> Offset {
        self.segments.last().map_or(0, Segment::end)
    }

    pub fn last_epoch(&self) -> Option<LeaderEpoch> {
        self.epochs.last().map(|(epoch, _)| *epoch)
    }

    fn add(&mut self, batch: &BatchView<'_>) {
        let epoch = batch.leader_epoch();
        if self.last_epoch().is_none_or(|last| last < epoch) {
            self.epochs.push((epoch, batch.base_offset()));
        }
        if let Some(segment) = self.segments.last_mut() {
            segment.add(batch);
        }
    }

    /// The segment that holds `offset`, or the one before.
    fn segment_of(&self, offset: Offset) -> usize {
        self.segments.partition_point(|segment| segment.base <= offset).saturating_sub(1)
    }
}

impl MetadataLog {
    /// Opens or creates the log below `log_dir`, with Kafka's defaults. Blocks.
    pub fn open(env: &Env, log_dir: &Path) -> Result<Self, Fault> {
        Self::open_with(env, log_dir, LogOptions::default())
    }

    /// Opens or creates the log below `log_dir`. Blocks.
    pub fn open_with(env: &Env, log_dir: &Path, options: LogOptions) -> Result<Self, Fault> {
        let disk = env.disk.clone();
        let folder = log_dir.join(FOLDER);
        disk.create_dir_all(&folder).map_err(Fault::disk(&folder))?;
        write_partition_metadata(&*disk, &folder)?;
        let snapshots = Snapshots::open(&disk, &folder)?;
        let inner = open_segments(&*disk, &folder)?;
        disk.sync_dir(&folder).map_err(Fault::disk(&folder))?;
        disk.sync_dir(log_dir).map_err(Fault::disk(log_dir))?;
        let log = Self { disk, folder, options, snapshots, inner: Mutex::new(inner) };
        log.start_at_snapshot_unless_ours()?;
        log.require_snapshot_of_start()?;
        log.delete_snapshots_before_start()?;
        log.sync()?;
        Ok(log)
    }

    pub fn start_offset(&self) -> Offset {
        self.inner.lock().start
    }

    pub fn end_offset(&self) -> Offset {
        self.inner.lock().end()
    }

    /// Of the last record, or of the snapshot that stands for it; -1 when there is neither.
    pub fn last_epoch(&self) -> LeaderEpoch {
        let inner = self.inner.lock();
        let of_snapshot = || {
            let newest = self.snapshots.newest_image();
            newest.map(|it| it.id).filter(|id| id.end_offset == inner.end()).map(|id| id.epoch)
        };
        inner.last_epoch().or_else(of_snapshot).unwrap_or(NO_EPOCH)
    }

    /// The end of `epoch`, or of the largest epoch below it: what a follower's log is compared
    /// with. For an epoch before all of ours, its end is where ours begins.
    pub fn end_of_epoch(&self, epoch: LeaderEpoch) -> (LeaderEpoch, Offset) {
        let inner = self.inner.lock();
        let after = inner.epochs.partition_point(|(other, _)| *other <= epoch);
        match (after.checked_sub(1), inner.epochs.get(after)) {
            (Some(found), Some((_, start))) => (inner.epochs[found].0, *start),
            (None, Some((_, start))) => (epoch, *start),
            (_, None) => {
                let end = inner.end();
                drop(inner);
                (self.last_epoch(), end)
            }
        }
    }

    /// Appends batches that continue the log. Durable after [`Self::sync`].
    pub fn append(&self, bytes: &[u8]) -> Result<(), Fault> {
        let mut inner = self.inner.lock();
        let views = self.check(&inner, bytes)?;
        let epochs = inner.epochs.len();
        let mut rest = &views[..];
        let mut bytes = bytes;
        while !rest.is_empty() {
            self.roll_if_needed(&mut inner, &rest[0])?;
            let count = self.that_fit(&inner, rest);
            let (now, later) = rest.split_at(count);
            let (head, tail) = bytes.split_at(now.iter().map(BatchView::size).sum());
            let Some(active) = inner.segments.last() else { break };
            active
                .file
                .write_all_at(&[IoSlice::new(head)], active.len)
                .map_err(Fault::disk(&active.path))?;
            for batch in now {
                inner.add(batch);
            }
            (rest, bytes) = (later, tail);
        }
        if inner.epochs.len() != epochs {
            self.write_epochs(&inner)?;
        }
        Ok(())
    }

    fn check<'a>(&self, inner: &Inner, bytes: &'a [u8]) -> Result<Vec<BatchView<'a>>, Fault> {
        let (mut expected, mut last_epoch) = (inner.end(), self.epoch_before(inner));
        let mut views = Vec::new();
        for batch in Batches::new(bytes) {
            let batch = batch.map_err(|error| self.corrupt(&error.to_string()))?;
            let (first, epoch) = (batch.base_offset(), batch.leader_epoch());
            if first != expected || epoch < last_epoch || batch.last_offset() < first {
                let what = format!("a batch at {first} of epoch {epoch} cannot follow {expected}");
                return Err(self.corrupt(&what));
            }
            (expected, last_epoch) = (batch.last_offset() + 1, epoch);
            views.push(batch);
        }
        Ok(views)
    }

    fn epoch_before(&self, inner: &Inner) -> LeaderEpoch {
        let snapshot = || self.snapshots.newest_image().map(|it| it.id);
        inner
            .last_epoch()
            .or_else(|| snapshot().filter(|it| it.end_offset == inner.end()).map(|it| it.epoch))
            .unwrap_or(NO_EPOCH)
    }

    /// Begins a new segment when the active one is full, or too old, for `batch`.
    fn roll_if_needed(&self, inner: &mut Inner, batch: &BatchView<'_>) -> Result<(), Fault> {
        let Some(active) = inner.segments.last() else { return Ok(()) };
        let full = active.len + batch.size() as u64 > self.options.segment_bytes;
        let old = active
            .first_timestamp
            .is_some_and(|first| batch.max_timestamp() - first > self.options.segment_ms);
        if active.batches.is_empty() || !(full || old) {
            return Ok(());
        }
        // Only the end of the last segment may be torn.
        active.file.sync().map_err(Fault::disk(&active.path))?;
        let next = Segment::create(&*self.disk, &self.folder, active.end())?;
        inner.segments.push(next);
        Ok(())
    }

    /// How many of `batches` go to the active segment; at least one.
    fn that_fit(&self, inner: &Inner, batches: &[BatchView<'_>]) -> usize {
        let mut len = inner.segments.last().map_or(0, |active| active.len);
        let fits = |batch: &&BatchView<'_>| {
            len += batch.size() as u64;
            len <= self.options.segment_bytes
        };
        batches.iter().take_while(fits).count().max(1)
    }

    /// Makes all that was appended durable. Blocks; returns the end offset that is now durable.
    pub fn sync(&self) -> Result<Offset, Fault> {
        let (end, file, path) = {
            let inner = self.inner.lock();
            let Some(active) = inner.segments.last() else { return Ok(inner.end()) };
            (inner.end(), active.file.clone(), active.path.clone())
        };
        file.sync().map_err(Fault::disk(path))?;
        Ok(end)
    }

    /// Whole batches from the one that holds `from` on, below `up_to`: at least one if there is
    /// one, then as many as `max_bytes` allow and as lie in the same segment. Blocks.
    pub fn read(&self, from: Offset, up_to: Offset, max_bytes: usize) -> Result<Bytes, Fault> {
        let (file, path, position, size) = {
            let inner = self.inner.lock();
            if from < inner.start {
                let what = format!("{from} is before the log's start, {}", inner.start);
                return Err(self.corrupt(&what));
            }
            let segment = &inner.segments[inner.segment_of(from)];
            let first = segment.batches.partition_point(|batch| batch.last < from);
            let mut size = 0;
            for batch in &segment.batches[first..] {
                if batch.last >= up_to || (size > 0 && size + batch.size > max_bytes) {
                    break;
                }
                size += batch.size;
            }
            let position = segment.batches.get(first).map_or(0, |batch| batch.position);
            (segment.file.clone(), segment.path.clone(), position, size)
        };
        let mut bytes = BytesMut::zeroed(size);
        let read = read_full(&*file, &mut bytes, position).map_err(Fault::disk(&path))?;
        if read < size {
            let what = "the file is shorter than what was appended".into();
            return Err(Fault::Corrupt { path, what });
        }
        Ok(bytes.freeze())
    }

    /// Forgets everything from `offset` on, and the rest of a batch that it cuts. Not what a
    /// snapshot stands for: that is committed.
    pub fn truncate_to(&self, offset: Offset) -> Result<(), Fault> {
        let newest = self.snapshots.newest_image().map_or(0, |it| it.id.end_offset);
        if offset < newest {
            let what = format!("it cannot be cut at {offset}: a snapshot reaches to {newest}");
            return Err(self.corrupt(&what));
        }
        let mut inner = self.inner.lock();
        while inner.segments.len() > 1
            && inner.segments.last().is_some_and(|segment| segment.base >= offset)
        {
            if let Some(segment) = inner.segments.pop() {
                segment.delete(&*self.disk, &self.folder)?;
            }
        }
        if let Some(active) = inner.segments.last_mut() {
            active.truncate_to(offset)?;
        }
        let end = inner.end();
        inner.epochs.retain(|(_, start)| *start < end);
        self.write_epochs(&inner)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    pub(super) fn corrupt(&self, what: &str) -> Fault {
        Fault::Corrupt { path: self.folder.clone(), what: what.into() }
    }

    pub(super) fn write_epochs(&self, inner: &Inner) -> Result<(), Fault> {
        let path = self.folder.join("leader-epoch-checkpoint");
        let entries = inner.epochs.iter().map(|(epoch, start)| format!("{epoch} {start}\n"));
        let text = format!("0\n{}\n{}", inner.epochs.len(), entries.collect::<String>());
        self.disk.write_atomically(&path, text.as_bytes()).map_err(Fault::disk(path))
    }
}

fn write_partition_metadata(disk: &dyn Disk, folder: &Path) -> Result<(), Fault> {
    let path = folder.join("partition.metadata");
    if disk.exists(&path) {
        return Ok(());
    }
    let text = b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ";
    disk.write_atomically(&path, text).map_err(Fault::disk(path))
}

/// Finds the segments and their batches. What follows the last sound batch of the last segment is
/// cut off: it was not written whole.
fn open_segments(disk: &dyn Disk, folder: &Path) -> Result<Inner, Fault> {
    let entries = disk.list(folder).map_err(Fault::disk(folder))?;
    let bases: Vec<Offset> =
        entries.iter().filter_map(|entry| Segment::base_of(&entry.name)).collect();
    let mut inner = Inner { segments: Vec::new(), start: 0, epochs: Vec::new() };
    for (index, base) in bases.iter().enumerate() {
        let scanned = Segment::scan(disk, folder, *base)?;
        let segment = scanned.segment;
        let corrupt = |what: String| Fault::Corrupt { path: segment.path.clone(), what };
        if let Some(before) = inner.segments.last().filter(|before| before.end() != segment.base) {
            let what = format!("it starts at {}, the one before ends at {}", base, before.end());
            return Err(corrupt(what));
        }
        if let Some(error) = scanned.torn {
            if index + 1 < bases.len() {
                return Err(corrupt(format!("at byte {}: {error}", segment.len)));
            }
            tracing::warn!(
                path = %segment.path.display(), at = segment.len, %error,
                "the end of the metadata log was not written whole; it is cut off"
            );
            segment.file.truncate(segment.len).map_err(Fault::disk(&segment.path))?;
        }
        let last = inner.last_epoch().unwrap_or(NO_EPOCH);
        inner.epochs.extend(scanned.epochs.into_iter().filter(|(epoch, _)| *epoch > last));
        inner.segments.push(segment);
    }
    if inner.segments.is_empty() {
        inner.segments.push(Segment::create(disk, folder, 0)?);
    }
    inner.start = inner.segments[0].base;
    Ok(inner)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
