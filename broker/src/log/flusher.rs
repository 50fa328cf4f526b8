//! Group commit: one task per log directory syncs all logs that were appended to, then publishes
//! their synced offsets.
//!
//! No timers: while one pass is on the disk the next one's logs gather. Order within a log: sealed
//! segments with their indexes and snapshots, the active segment, names of new files, epochs; only
//! then does the recovery point move, so it never covers what a crash could take.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;

use super::checkpoint;
use super::config::FlushPolicy;
use super::partition_log::Log;
use super::segment::Segment;
use super::shared::Shared;
use crate::env::planted;
use crate::error::Fault;
use crate::types::{LeaderEpoch, Offset};

/// So many files are synced at the same time: a device has a queue, and one slow log holds up few.
const AT_ONCE: usize = 8;

/// Runs until the directory is offline or the task is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut offline = shared.offline.subscribe();
    loop {
        let logs = std::mem::take(&mut *shared.dirty.lock());
        if !logs.is_empty() {
            flush_all(&shared, logs).await;
            continue;
        }
        tokio::select! {
            biased;
            _ = offline.wait_for(Option::is_some) => return,
            () = shared.wake.notified() => {}
        }
    }
}

async fn flush_all(shared: &Arc<Shared>, logs: Vec<Arc<Log>>) {
    futures::stream::iter(logs)
        .for_each_concurrent(AT_ONCE, |log| async move {
            shared.env.blocking(move || log.flush(false)).await;
        })
        .await;
}

impl Log {
    /// Blocking. Makes durable what the flush policy asks for, or all if `everything`.
    /// A failure takes the directory offline and publishes nothing.
    pub(super) fn flush(&self, everything: bool) {
        let _one_at_a_time = self.flushing.lock();
        self.dirty.store(false, Ordering::Release);
        if self.deleted.load(Ordering::Acquire) || self.shared.why_offline().is_some() {
            return;
        }
        match self.sync(everything) {
            Ok(Some(offset)) => {
                self.flushed.store(offset, Ordering::Release);
                let listener = self.listener.read().clone();
                if let Some(listener) = listener {
                    listener.synced(offset);
                }
            }
            Ok(None) => {}
            // No record is lost by that: what found no room was put back.
            Err(fault) if fault.is_full() => {
                tracing::warn!(%fault, "no room on the volume; tried again later");
                self.me.upgrade().into_iter().for_each(|me| self.shared.try_later(me));
            }
            Err(_) if planted!(FailedSyncIsRetried) => self.mark_dirty(),
            Err(fault) => self.shared.fail(&fault),
        }
    }

    /// Returns the new recovery point, if it moved.
    fn sync(&self, everything: bool) -> Result<Option<i64>, Fault> {
        let (work, end) = {
            let mut writer = self.writer.lock();
            let work = Work {
                active: writer.active.clone(),
                sealed: std::mem::take(&mut writer.unsynced),
                snapshots: std::mem::take(&mut writer.snapshots),
                names: std::mem::take(&mut writer.names),
                epochs: self.epochs.lock().take_dirty(),
            };
            (work, self.end_offset())
        };
        let before = self.flushed.load(Ordering::Acquire);
        let mut durable = work.active.base.min(end).max(before);
        let policy = self.config.load().flush;
        let sync_active = (everything || policy == FlushPolicy::Sync) && end > durable;
        if let Err(fault) = self.carry_out(&work, sync_active) {
            self.put_back(work);
            return Err(fault);
        }
        if sync_active {
            durable = end;
        }
        for segment in work.sealed {
            segment.close();
        }
        Ok((durable > before).then_some(durable))
    }

    fn carry_out(&self, work: &Work, sync_active: bool) -> Result<(), Fault> {
        let disk = &*self.home.disk;
        for (at, bytes) in &work.snapshots {
            let path = self.home.path(*at, "snapshot");
            disk.write_atomically(&path, bytes).map_err(Fault::disk(path))?;
        }
        for segment in &work.sealed {
            segment.sync().map_err(Fault::disk(self.dir()))?;
            segment.persist_indexes().map_err(Fault::disk(self.dir()))?;
        }
        if sync_active {
            work.active.sync().map_err(Fault::disk(self.dir()))?;
        }
        if work.names {
            work.active.write_index_files().map_err(Fault::disk(self.dir()))?;
            let dir = self.dir();
            disk.sync_dir(&dir).map_err(Fault::disk(dir))?;
        }
        if let Some(entries) = &work.epochs {
            checkpoint::write_epochs(disk, &self.home.file(checkpoint::EPOCHS), entries)?;
        }
        Ok(())
    }

    /// What could not be done is still to be done, before what came since.
    fn put_back(&self, work: Work) {
        let mut writer = self.writer.lock();
        writer.unsynced.splice(0..0, work.sealed);
        writer.snapshots.splice(0..0, work.snapshots);
        writer.names |= work.names;
        self.epochs.lock().dirty |= work.epochs.is_some();
    }
}

/// What one flush of a log has to do.
struct Work {
    active: Arc<Segment>,
    sealed: Vec<Arc<Segment>>,
    snapshots: Vec<(Offset, Vec<u8>)>,
    names: bool,
    epochs: Option<Vec<(LeaderEpoch, Offset)>>,
}
