//! Where the metadata log and its snapshots meet: what is deleted because a snapshot stands for it,
//! and a log that starts anew at one.
//!
//! As Kafka does it (`KafkaRaftLog`): the log starts at the oldest snapshot that is kept. While the
//! log and its snapshots are larger than `metadata.max.retention.bytes`, or the oldest snapshot is
//! older than `metadata.max.retention.ms`, that one is deleted and the log's start moves to the next
//! one; the newest is never deleted. Segments that lie below the start as a whole are deleted.

use super::log::{Inner, MetadataLog};
use super::segment::Segment;
use super::snapshot::{Contents, PartFile, SnapshotId};
use crate::error::Fault;
use crate::types::{LeaderEpoch, Millis, Offset};

impl Inner {
    /// The epoch of the record at `offset`, which is in the log.
    fn epoch_of(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.epochs.iter().rev().find(|(_, start)| *start <= offset).map(|(epoch, _)| *epoch)
    }

    /// Does a snapshot stand for the beginning of this log?
    fn agrees_with(&self, id: SnapshotId) -> bool {
        let begins_there = id.end_offset == self.segments[0].base;
        id.end_offset < self.segments[0].base
            || begins_there && self.epochs.first().is_none_or(|(first, _)| *first >= id.epoch)
            || id.end_offset <= self.end() && self.epoch_of(id.end_offset - 1) == Some(id.epoch)
    }
}

impl MetadataLog {
    /// The id of a snapshot of everything below `end_offset`; none when the log does not hold a
    /// batch that ends there, or a snapshot reaches as far.
    pub fn snapshot_id_at(&self, end_offset: Offset) -> Option<SnapshotId> {
        let newest = self.snapshots.newest_image().map_or(0, |it| it.id.end_offset);
        let inner = self.inner.lock();
        if end_offset <= newest.max(inner.start) || end_offset > inner.end() {
            return None;
        }
        let last = end_offset - 1;
        let segment = inner.segments.iter().find(|it| it.base <= last && last < it.end())?;
        let batch = segment.batches.partition_point(|batch| batch.last < last);
        let epoch = inner.epoch_of(last)?;
        (segment.batches[batch].last == last).then(|| SnapshotId::new(end_offset, epoch))
    }

    /// Bytes of the batches between the newest snapshot and the log's end.
    pub fn bytes_since_snapshot(&self) -> u64 {
        let newest = self.snapshots.newest_image().map_or(0, |it| it.id.end_offset);
        let inner = self.inner.lock();
        inner.segments.iter().map(|segment| segment.bytes_from(newest)).sum()
    }

    /// Deletes old snapshots, and segments below the oldest that is left, as far as the limits
    /// demand. Blocks.
    pub fn trim(&self, now: Millis) -> Result<(), Fault> {
        loop {
            let all = self.snapshots.all();
            let [(oldest, _), (next, _), ..] = all[..] else { return Ok(()) };
            if !self.too_large(&all) && !self.too_old(oldest, now)? {
                return Ok(());
            }
            tracing::info!(snapshot = %oldest, start = next.end_offset, "trimming the metadata log");
            self.start_at(next)?;
        }
    }

    fn too_large(&self, snapshots: &[(SnapshotId, u64)]) -> bool {
        let Ok(limit) = u64::try_from(self.options.retention_bytes) else { return false };
        let log: u64 = self.inner.lock().segments.iter().map(|segment| segment.len).sum();
        log + snapshots.iter().map(|(_, size)| size).sum::<u64>() > limit
    }

    fn too_old(&self, snapshot: SnapshotId, now: Millis) -> Result<bool, Fault> {
        let limit = self.options.retention_ms;
        Ok(limit >= 0 && now - self.snapshots.timestamp(snapshot)? > limit)
    }

    /// Moves the start of the log up to a snapshot, and deletes what lies before.
    fn start_at(&self, id: SnapshotId) -> Result<(), Fault> {
        {
            let mut inner = self.inner.lock();
            inner.start = inner.start.max(id.end_offset);
            let start = inner.start;
            // Front first: what a crash leaves is contiguous up to the end.
            while inner.segments.len() > 1 && inner.segments[0].end() <= start {
                inner.segments[0].delete(&*self.disk, &self.folder)?;
                inner.segments.remove(0);
            }
            let first = inner.epochs.partition_point(|(_, begin)| *begin <= start);
            inner.epochs.drain(..first.saturating_sub(1));
            if let Some((_, begin)) = inner.epochs.first_mut() {
                *begin = (*begin).max(start);
            }
            self.write_epochs(&inner)?;
        }
        // Then the snapshots: until here, the log's start was covered by an older one, too.
        self.snapshots.delete_before(id)?;
        Ok(())
    }

    /// Makes a snapshot that was fetched the beginning of this log: everything else is deleted.
    /// Blocks.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] when what was fetched is not a whole snapshot: nothing has changed then.
    pub fn install(&self, part: PartFile) -> Result<Contents, Fault> {
        let contents = part.finish()?;
        self.snapshots.add(contents.clone());
        self.start_at_snapshot_unless_ours()?;
        Ok(contents)
    }

    /// Empties the log and starts it at the newest snapshot, if that does not stand for records of
    /// this log: one was just fetched, also if the node crashed before the log was emptied. Whoever
    /// led had committed what is in it, so what contradicts it never was.
    pub(super) fn start_at_snapshot_unless_ours(&self) -> Result<(), Fault> {
        let Some(id) = self.snapshots.newest_image().map(|it| it.id) else { return Ok(()) };
        let mut inner = self.inner.lock();
        if inner.agrees_with(id) {
            return Ok(());
        }
        tracing::info!(snapshot = %id, end = inner.end(), "the metadata log starts at a snapshot");
        self.start_anew(&mut inner, id.end_offset)?;
        drop(inner);
        self.snapshots.delete_before(id)?;
        Ok(())
    }

    fn start_anew(&self, inner: &mut Inner, at: Offset) -> Result<(), Fault> {
        // Back first: what a crash leaves is contiguous from the start, and still ends before the
        // snapshot.
        while let Some(segment) = inner.segments.last() {
            segment.delete(&*self.disk, &self.folder)?;
            inner.segments.pop();
        }
        inner.segments.push(Segment::create(&*self.disk, &self.folder, at)?);
        inner.start = at;
        inner.epochs.clear();
        self.write_epochs(inner)
    }

    /// Those that nothing in the log goes on from, except the newest: a crash left them, or one was
    /// written while the log started anew.
    pub(super) fn delete_snapshots_before_start(&self) -> Result<(), Fault> {
        let start = self.start_offset();
        let useful = |id: &SnapshotId| id.end_offset >= start;
        match self.snapshots.all().into_iter().map(|(id, _)| id).find(useful) {
            Some(oldest) => self.snapshots.delete_before(oldest).map(drop),
            None => Ok(()),
        }
    }

    pub(super) fn require_snapshot_of_start(&self) -> Result<(), Fault> {
        let start = self.start_offset();
        let newest = self.snapshots.newest_image().map(|it| it.id);
        if start == 0 || newest.is_some_and(|id| id.end_offset >= start) {
            return Ok(());
        }
        let has = newest.map_or("there is none".to_owned(), |id| format!("the newest is {id}"));
        Err(self.corrupt(&format!(
            "the metadata log starts at {start}, and no whole snapshot stands for what is before: \
             {has}"
        )))
    }
}
