//! The replicas of a directory that are to take the place of one in another directory (KIP-113):
//! folders `<topic>-<partition>.<id>-future`, as Kafka names them.
//!
//! Invariant: such a folder gets a partition's own name only when it holds, durably, all that the
//! replica in the other directory does; [`super::moving`] copies, `replica` decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::checkpoint;
use super::config::LogConfig;
use super::dir::LogDir;
use super::identity;
use super::load::{self, Known};
use super::partition_log::Log;
use super::shared::remove;
use crate::error::Fault;
use crate::types::{Offset, TopicPartition};

/// A file in the folder of a replica whose successor is about to be renamed: names the directory of
/// that. It counts only once both folders have the partition's name.
const MOVED: &str = "ottla.moved";
/// The longest name of a folder.
const LONGEST: usize = 255;

#[derive(Default)]
pub(super) struct Futures {
    pub(super) open: BTreeMap<TopicPartition, Arc<Log>>,
    /// Found on the disk, and not opened so far: their folders.
    pub(super) unopened: BTreeMap<TopicPartition, String>,
}

/// Whether a replica of the partition can be moved: names of folders have an end.
pub fn can_be_moved(partition: &TopicPartition) -> bool {
    partition.to_string().len() + ".-".len() + 32 + identity::FUTURE.len() <= LONGEST
}

impl LogDir {
    pub(super) fn find_future(&self, partition: TopicPartition, folder: String) {
        let env = &self.shared.env;
        let other = self.futures.lock().unopened.insert(partition, folder);
        // One that was cancelled, in a run that ended at once: nobody needs it.
        let Some(other) = other else { return };
        if let Err(error) = env.disk.remove_dir_all(&self.path().join(&other)) {
            tracing::warn!(folder = other, %error, "could not be removed");
        }
    }

    /// Open ones.
    pub fn futures(&self) -> Vec<Arc<Log>> {
        self.futures.lock().open.values().cloned().collect()
    }
    pub fn future(&self, partition: &TopicPartition) -> Option<Arc<Log>> {
        self.futures.lock().open.get(partition).cloned()
    }
    /// Found on the disk, and not opened so far.
    pub fn unopened_futures(&self) -> Vec<TopicPartition> {
        self.futures.lock().unopened.keys().cloned().collect()
    }
    pub fn found_future(&self, partition: &TopicPartition) -> bool {
        self.futures.lock().unopened.contains_key(partition)
    }
    /// All open logs, in place or to come.
    pub(super) fn all_logs(&self) -> Vec<Arc<Log>> {
        let mut all = self.logs();
        all.extend(self.futures());
        all
    }

    /// Blocking. The topic that a replica that was found belongs to.
    pub fn future_topic_id(&self, partition: &TopicPartition) -> Result<Option<Uuid>, Fault> {
        let folder = self.futures.lock().unopened.get(partition).cloned();
        let Some(folder) = folder else { return Ok(None) };
        let path = self.path().join(folder).join(checkpoint::PARTITION_METADATA);
        checkpoint::read_topic_id(&*self.shared.env.disk, &path)
    }

    /// Blocking. Opens one that was found on the disk. `None`: there is none.
    pub fn open_future(
        &self,
        partition: &TopicPartition,
        config: LogConfig,
    ) -> Result<Option<Arc<Log>>, Fault> {
        let _one_at_a_time = self.changing.lock();
        let folder = self.futures.lock().unopened.get(partition).cloned();
        let Some(folder) = folder else { return Ok(self.future(partition)) };
        let log = self.load(partition, &folder, config)?;
        let mut futures = self.futures.lock();
        futures.unopened.remove(partition);
        futures.open.insert(partition.clone(), log.clone());
        Ok(Some(log))
    }

    /// Blocking. Begins one, empty, whose first offset is `start`.
    pub fn create_future(
        &self,
        partition: &TopicPartition,
        topic_id: Uuid,
        start: Offset,
        config: LogConfig,
    ) -> Result<Arc<Log>, Fault> {
        self.check_online()?;
        let _one_at_a_time = self.changing.lock();
        let folder = identity::renamed(&self.shared.env, partition, identity::FUTURE);
        let path = self.path().join(&folder);
        let disk = &*self.shared.env.disk;
        let begin = || {
            self.forget(partition)?;
            disk.create_dir_all(&path).map_err(Fault::disk(&path))?;
            disk.sync_dir(self.path()).map_err(Fault::disk(self.path()))?;
            let known = Known { clean: true, start, ..Known::default() };
            let log = load::open(&self.shared, partition.clone(), &folder, config, known)?;
            log.assign_topic_id(topic_id)?;
            Ok(log)
        };
        let log = begin().inspect_err(|fault| self.shared.fail_if_broken(fault))?;
        self.futures.lock().open.insert(partition.clone(), log.clone());
        log.mark_dirty();
        Ok(log)
    }

    /// Blocking. It is not wanted any more.
    pub fn remove_future(&self, partition: &TopicPartition) -> Result<bool, Fault> {
        let _one_at_a_time = self.changing.lock();
        let (open, unopened) = {
            let mut futures = self.futures.lock();
            (futures.open.remove(partition), futures.unopened.remove(partition))
        };
        if let Some(log) = &open {
            self.doom(log)?;
        }
        if let Some(folder) = &unopened {
            let from = self.path().join(folder);
            let gone = self.rename_folder(&from, partition, identity::DELETED)?;
            remove(&self.shared.env, &gone);
        }
        Ok(open.is_some() || unopened.is_some())
    }

    /// Blocking. Keeps the folder of one that was found for a person to look at.
    pub fn set_future_aside(&self, partition: &TopicPartition) -> Result<(), Fault> {
        let _one_at_a_time = self.changing.lock();
        let folder = self.futures.lock().unopened.remove(partition);
        let Some(folder) = folder else { return Ok(()) };
        let from = self.path().join(folder);
        self.rename_folder(&from, partition, identity::STRAY).map(drop)
    }

    /// Blocking. The future replica is the partition's from now on: its folder has the name.
    pub fn promote(&self, partition: &TopicPartition) -> Result<(), Fault> {
        let _one_at_a_time = self.changing.lock();
        let to = self.path().join(partition.to_string());
        if let Some(log) = self.future(partition) {
            let _no_flush = log.flushing.lock();
            let disk = &*self.shared.env.disk;
            let renamed = {
                // Not while a file is made in the folder; an append waits for no sync.
                let _no_append = log.writer.lock();
                let renamed = disk.rename(&log.dir(), &to);
                if renamed.is_ok() {
                    log.home.dir.write().clone_from(&to);
                }
                renamed
            };
            renamed
                .and_then(|()| disk.sync_dir(self.path()))
                .map_err(Fault::disk(&to))
                .inspect_err(|fault| self.shared.fail_unless_full(fault))?;
            self.logs.lock().insert(partition.clone(), log.clone());
            self.futures.lock().open.remove(partition);
            return Ok(());
        }
        let folder = self.futures.lock().unopened.get(partition).cloned();
        if let Some(folder) = folder {
            self.rename_durably(&self.path().join(folder), &to)?;
            self.unopened.lock().insert(partition.clone());
            self.futures.lock().unopened.remove(partition);
        }
        Ok(())
    }

    /// Blocking. Notes that a replica in directory `to` is about to take the place of the one here.
    pub fn note_moved(&self, partition: &TopicPartition, to: Uuid) -> Result<(), Fault> {
        let path = self.path().join(partition.to_string()).join(MOVED);
        let text = checkpoint::uuid_to_text(to);
        let disk = &*self.shared.env.disk;
        disk.write_atomically(&path, text.as_bytes()).map_err(Fault::disk(path))
    }

    /// Blocking. Where the replica went whose folder is here, if its move was about to end.
    pub fn moved_to(&self, partition: &TopicPartition) -> Option<Uuid> {
        let path = self.path().join(partition.to_string()).join(MOVED);
        let disk = &*self.shared.env.disk;
        let text = if disk.exists(&path) { disk.read(&path).ok()? } else { return None };
        checkpoint::uuid_from_text(std::str::from_utf8(&text).ok()?)
    }

    /// Blocking. Removes a replica that was found here and not opened.
    pub fn remove_found(&self, partition: &TopicPartition) -> Result<(), Fault> {
        let _one_at_a_time = self.changing.lock();
        if !self.unopened.lock().remove(partition) {
            return Ok(());
        }
        let from = self.path().join(partition.to_string());
        let gone = self.rename_folder(&from, partition, identity::DELETED)?;
        remove(&self.shared.env, &gone);
        Ok(())
    }
}
