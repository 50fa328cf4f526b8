//! What the logs of one directory share with it: the queue of the flusher, the state of health, the
//! files that wait for their removal.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::checkpoint::{self, Offsets};
use super::partition_log::Log;
use super::room::Room;
use super::tail_cache::TailCache;
use crate::env::Env;
use crate::error::Fault;
use crate::types::{Millis, Offset, TopicPartition};

pub(super) struct Shared {
    pub(super) env: Env,
    pub(super) path: PathBuf,
    pub(super) cache: Arc<TailCache>,
    /// Each log at most once, so bounded by their number.
    pub(super) dirty: Mutex<Vec<Arc<Log>>>,
    pub(super) wake: Notify,
    /// Why the directory is offline.
    pub(super) offline: watch::Sender<Option<Arc<str>>>,
    /// What is to be removed, and when.
    doomed: Mutex<BTreeMap<PathBuf, Millis>>,
    /// As they are in the file.
    pub(super) recovery_points: Mutex<Offsets>,
    /// Up to where logs were cleaned; as they are in the file.
    cleaned: Mutex<Offsets>,
    pub(super) room: Room,
    /// Logs whose small files found no room: the flusher tries again.
    starved: Mutex<Vec<Arc<Log>>>,
}

impl Shared {
    pub(super) fn new(
        env: Env,
        path: PathBuf,
        cache: Arc<TailCache>,
        points: Offsets,
        cleaned: Offsets,
        reserve_bytes: i64,
    ) -> Arc<Self> {
        let room = Room::new(reserve_bytes);
        room.ask(&*env.disk, &path);
        Arc::new(Self {
            env,
            path,
            cache,
            dirty: Mutex::default(),
            wake: Notify::new(),
            offline: watch::channel(None).0,
            doomed: Mutex::default(),
            recovery_points: Mutex::new(points),
            cleaned: Mutex::new(cleaned),
            room,
            starved: Mutex::default(),
        })
    }

    /// Takes the directory offline, for good: only a restart, with recovery, brings it back.
    pub(super) fn fail(&self, fault: &Fault) {
        self.offline.send_if_modified(|why| {
            if why.is_some() {
                return false;
            }
            tracing::error!(dir = %self.path.display(), %fault, "log directory goes offline");
            *why = Some(fault.to_string().into());
            true
        });
    }

    /// Refuses records that would use up the reserve.
    pub(super) fn take_room(&self, bytes: usize, internal: bool) -> Result<(), String> {
        self.room.take(bytes, internal, &*self.env.disk, &self.path)
    }

    pub(super) fn try_later(&self, log: Arc<Log>) {
        self.starved.lock().push(log);
    }

    /// Looks whether there is room again.
    pub(super) fn look_for_room(&self) {
        self.room.ask(&*self.env.disk, &self.path);
        for log in std::mem::take(&mut *self.starved.lock()) {
            log.mark_dirty();
        }
    }

    /// As [`Self::fail`], but for a lack of space, which passes.
    pub(super) fn fail_unless_full(&self, fault: &Fault) {
        if fault.is_full() {
            tracing::warn!(%fault, "no room on the volume");
        } else {
            self.fail(fault);
        }
    }

    /// As [`Self::fail`] for an error of the device; damaged data concern one partition only.
    pub(super) fn fail_if_broken(&self, fault: &Fault) {
        if let Fault::Disk { source, .. } = fault
            && !matches!(source.kind(), ErrorKind::InvalidData | ErrorKind::NotFound)
            && !fault.is_full()
        {
            self.fail(fault);
        }
    }

    pub(super) fn why_offline(&self) -> Option<Arc<str>> {
        self.offline.borrow().clone()
    }

    pub(super) fn remove_later(&self, paths: impl IntoIterator<Item = PathBuf>, at: Millis) {
        self.doomed.lock().extend(paths.into_iter().map(|path| (path, at)));
    }

    /// Removes what is due. What cannot be removed is tried again at the next start.
    pub(super) fn remove_due(&self, now: Millis) {
        let due: Vec<_> = {
            let mut doomed = self.doomed.lock();
            let due = doomed.iter().filter(|(_, at)| **at <= now).map(|(p, _)| p.clone()).collect();
            doomed.retain(|_, at| *at > now);
            due
        };
        for path in due {
            remove(&self.env, &path);
        }
    }

    /// Makes sure that the checkpoint does not claim `offset` and more: before a truncation.
    pub(super) fn lower_recovery_point(
        &self,
        partition: &TopicPartition,
        offset: Offset,
    ) -> Result<(), Fault> {
        let mut points = self.recovery_points.lock();
        match points.get_mut(partition) {
            Some(point) if *point > offset => *point = offset,
            _ => return Ok(()),
        }
        self.write_recovery_points(&points)
    }

    pub(super) fn cleaned(&self, partition: &TopicPartition) -> Option<Offset> {
        self.cleaned.lock().get(partition).copied()
    }

    /// Up to where the partition was cleaned; `None`: never.
    pub(super) fn set_cleaned(
        &self,
        partition: &TopicPartition,
        offset: Option<Offset>,
    ) -> Result<(), Fault> {
        let mut cleaned = self.cleaned.lock();
        if cleaned.get(partition).copied() == offset {
            return Ok(());
        }
        match offset {
            Some(offset) => cleaned.insert(partition.clone(), offset),
            None => cleaned.remove(partition),
        };
        let path = self.path.join(checkpoint::CLEANED);
        checkpoint::write_offsets(&*self.env.disk, &path, &cleaned)
    }

    /// What is appended from `offset` on was not cleaned.
    pub(super) fn lower_cleaned(
        &self,
        partition: &TopicPartition,
        offset: Offset,
    ) -> Result<(), Fault> {
        match self.cleaned(partition).filter(|cleaned| *cleaned > offset) {
            Some(_) => self.set_cleaned(partition, Some(offset)),
            None => Ok(()),
        }
    }

    pub(super) fn write_recovery_points(&self, points: &Offsets) -> Result<(), Fault> {
        let path = self.path.join(checkpoint::RECOVERY_POINTS);
        checkpoint::write_offsets(&*self.env.disk, &path, points)
    }
}

pub(super) fn remove(env: &Env, path: &Path) {
    let is_folder = path.extension().is_some_and(|ext| ext.to_string_lossy().ends_with("-delete"));
    let removed =
        if is_folder { env.disk.remove_dir_all(path) } else { env.disk.remove_file(path) };
    match removed {
        Ok(()) => tracing::debug!(path = %path.display(), "removed"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "could not be removed"),
    }
}
