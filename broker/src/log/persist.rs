//! What bounds the work of the next start: recovery points, and what recovery needs to begin there.
//!
//! A recovery point is written to the checkpoint only when the log below it is durable, the indexes
//! know all below it, and a snapshot has the producers up to it. So after a crash nothing below is
//! looked at. Also topics with `log.flush=page-cache` are synced for that, once per checkpoint.
//!
//! The checkpoints name partitions by their topics' names: [`LogDir::forget`] keeps what they say of
//! one topic from the next of that name.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;

use super::checkpoint::{self, Offsets};
use super::dir::{AT_ONCE, LogDir};
use super::identity::CLEAN_SHUTDOWN;
use super::partition_log::Log;
use super::producer_state;
use crate::env::planted;
use crate::error::Fault;
use crate::types::{BrokerEpoch, Offset, TopicPartition};

impl LogDir {
    /// Blocking. Writes the recovery points and log start offsets if they changed.
    pub fn checkpoint(&self) -> Result<(), Fault> {
        let mut points = self.of_unopened(&self.shared.recovery_points.lock());
        for log in &self.all_logs() {
            let before = self.shared.recovery_points.lock().get(&log.partition).copied();
            points.insert(log.partition.clone(), log.prepare_recovery(before)?);
        }
        let mut written = self.shared.recovery_points.lock();
        for (partition, point) in &mut points {
            // A truncation between may have lowered it.
            if let Some(log) = self.log(partition).or_else(|| self.future(partition)) {
                *point = log.recovery_point().min(*point);
            }
        }
        if *written != points {
            self.shared.write_recovery_points(&points)?;
            *written = points;
        }
        drop(written);
        let mut written = self.starts.lock();
        // Gathered under the lock: a log that begins meanwhile has none of its name afterwards.
        let mut starts = self.of_unopened(&written);
        for log in &self.all_logs() {
            let start = log.start_offset();
            let first = log.segments.load().first_key_value().map_or(0, |(base, _)| *base);
            if start > first {
                starts.insert(log.partition.clone(), start);
            }
        }
        self.replace(checkpoint::LOG_STARTS, &mut written, starts)
    }

    /// What nobody has opened yet is as it was. What is opened meanwhile is in both.
    fn of_unopened(&self, offsets: &Offsets) -> Offsets {
        let (unopened, futures) = (self.unopened.lock(), self.futures.lock());
        let is = |id| unopened.contains(id) || futures.unopened.contains_key(id);
        let kept = offsets.iter().filter(|(id, _)| is(*id));
        kept.map(|(id, offset)| (id.clone(), *offset)).collect()
    }

    /// As far as the checkpoint has it.
    pub fn high_watermark(&self, partition: &TopicPartition) -> Option<Offset> {
        self.high_watermarks.lock().get(partition).copied()
    }
    /// Blocking. Replaces the checkpoint with the high watermarks `of` the partitions that are here.
    /// What nobody has opened yet keeps what it had.
    pub fn write_high_watermarks(
        &self,
        of: impl Fn(&TopicPartition) -> Option<Offset>,
    ) -> Result<(), Fault> {
        let mut written = self.high_watermarks.lock();
        let mut here: BTreeSet<_> = self.unopened.lock().clone();
        here.extend(self.all_logs().iter().map(|log| log.partition.clone()));
        let offset = |id: TopicPartition| {
            let offset = of(&id).or_else(|| written.get(&id).copied())?;
            Some((id, offset))
        };
        let all = here.into_iter().filter_map(offset).collect();
        self.replace(checkpoint::HIGH_WATERMARKS, &mut written, all)
    }

    /// Of the offsets in a checkpoint file, `written` are there and `new` are to be.
    fn replace(&self, file: &str, written: &mut Offsets, new: Offsets) -> Result<(), Fault> {
        if *written != new {
            let disk = &*self.shared.env.disk;
            checkpoint::write_offsets(disk, &self.path().join(file), &new)?;
            *written = new;
        }
        Ok(())
    }

    /// Blocking. The checkpoints go by names: before a log begins, what they say of a topic that had
    /// the name before goes, on the disk as well. Else a crash would give it to the new records: a
    /// log start that hides them, a high watermark above what is committed.
    pub(super) fn forget(&self, partition: &TopicPartition) -> Result<(), Fault> {
        if planted!(CheckpointsOutliveTopics) {
            return Ok(());
        }
        let files = [
            (checkpoint::LOG_STARTS, &self.starts),
            (checkpoint::HIGH_WATERMARKS, &self.high_watermarks),
        ];
        for (file, offsets) in files {
            let mut written = offsets.lock();
            if written.contains_key(partition) {
                let mut left = written.clone();
                // Others that are gone go as well: a topic has many partitions.
                left.retain(|id, _| id != partition && self.knows(id));
                self.replace(file, &mut written, left)?;
            }
        }
        self.shared.set_cleaned(partition, None)
    }

    /// A replica of the partition is here, in place or to come, opened or not.
    fn knows(&self, partition: &TopicPartition) -> bool {
        self.holds(partition) || self.future(partition).is_some() || self.found_future(partition)
    }

    /// Syncs and closes all logs, writes all checkpoints and last the marker, which makes the next
    /// start instant. Logs refuse appends from here on.
    pub async fn shut_down_cleanly(self: &Arc<Self>, epoch: BrokerEpoch) -> Result<(), Fault> {
        self.stop_tasks();
        let env = &self.shared.env;
        futures::stream::iter(self.all_logs())
            .for_each_concurrent(AT_ONCE, |log| env.blocking(move || log.close()))
            .await;
        if let Some(why) = self.shared.why_offline() {
            return Err(Fault::Start(format!("not shut down cleanly: {why}")));
        }
        let me = self.clone();
        env.blocking(move || {
            me.checkpoint()?;
            if me.clean_shutdown_epoch().is_none() && !me.unopened.lock().is_empty() {
                // What the crash before this run left is not recovered yet.
                return Ok(());
            }
            let path = me.path().join(CLEAN_SHUTDOWN);
            let content = format!("{{\"version\":0,\"brokerEpoch\":{epoch}}}");
            let disk = &*me.shared.env.disk;
            disk.write_atomically(&path, content.as_bytes()).map_err(Fault::disk(path))
        })
        .await
    }

    pub(super) fn forget_clean_shutdown(&self) -> Result<(), Fault> {
        let path = self.path().join(CLEAN_SHUTDOWN);
        let disk = &*self.shared.env.disk;
        if !disk.exists(&path) {
            return Ok(());
        }
        disk.remove_file(&path).and_then(|()| disk.sync_dir(self.path())).map_err(Fault::disk(path))
    }
}

impl Log {
    /// Makes sure that recovery can begin at the offset that is returned, which is at or past the
    /// end of now, or `before` if nothing was appended since.
    fn prepare_recovery(&self, before: Option<Offset>) -> Result<Offset, Fault> {
        if before == Some(self.end_offset()) && before == Some(self.recovery_point()) {
            return Ok(self.recovery_point());
        }
        let truncations = self.truncations.load(Ordering::Acquire);
        let snapshot = {
            let mut writer = self.writer.lock();
            let at = writer.producers.end;
            let newer = at > writer.producers.snapshot_at;
            writer.producers.snapshot_at = writer.producers.snapshot_at.max(at);
            newer.then(|| (at, producer_state::encode(writer.producers.producers())))
        };
        self.flush(true);
        let point = self.recovery_point();
        if let Some((at, bytes)) = snapshot.filter(|(at, _)| *at <= point) {
            self.write_extra_snapshot(at, &bytes, truncations)?;
        }
        if self.size() > 0 {
            self.persist_indexes()?;
        }
        Ok(point)
    }

    /// Replaces the snapshot of the checkpoint before, unless that is a segment's, too.
    fn write_extra_snapshot(
        &self,
        at: Offset,
        bytes: &[u8],
        truncations: i64,
    ) -> Result<(), Fault> {
        let _no_truncation = self.flushing.lock();
        let other_records = self.truncations.load(Ordering::Acquire) != truncations;
        if other_records || self.deleted.load(Ordering::Acquire) {
            return Ok(());
        }
        let path = self.home.path(at, "snapshot");
        self.home.disk.write_atomically(&path, bytes).map_err(Fault::disk(path))?;
        let Some(old) = self.extra_snapshot.lock().replace(at) else { return Ok(()) };
        if old == at || self.segments.load().contains_key(&old) {
            return Ok(());
        }
        let path = self.home.path(old, "snapshot");
        match self.home.disk.remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Fault::Disk { path, source: error })
            }
            _ => Ok(()),
        }
    }

    /// Of the segments that are not closed: what the recovery point covers must not need them anew.
    fn persist_indexes(&self) -> Result<(), Fault> {
        let _one_at_a_time = self.flushing.lock();
        if self.deleted.load(Ordering::Acquire) {
            return Ok(());
        }
        let (active, sealed) = {
            let writer = self.writer.lock();
            (writer.active.clone(), writer.unsynced.clone())
        };
        sealed
            .iter()
            .chain([&active])
            .try_for_each(|segment| segment.persist_indexes())
            .map_err(Fault::disk(self.dir()))
    }

    /// Nothing is appended any more; all is on the disk, with a snapshot of the producers.
    pub(super) fn close(&self) {
        {
            let mut writer = self.writer.lock();
            self.closed.store(true, Ordering::Release);
            let end: Offset = writer.producers.end;
            if end > writer.producers.snapshot_at {
                let snapshot = producer_state::encode(writer.producers.producers());
                writer.snapshots.push((end, snapshot));
                writer.producers.snapshot_at = end;
            }
            writer.active.seal();
        }
        self.flush(true);
        if let Err(fault) = self.persist_indexes() {
            self.shared.fail(&fault);
        }
    }
}
