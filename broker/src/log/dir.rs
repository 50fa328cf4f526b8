//! One log directory: its identity, its lock, its checkpoints, and the logs in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::checkpoint::{self, Offsets};
use super::config::LogConfig;
use super::future::Futures;
use super::identity::{self, Folder};
use super::load::{self, Known};
use super::meta_properties::MetaProperties;
use super::partition_log::Log;
use super::shared::{Shared, remove};
use super::{flusher, tail_cache::TailCache};
use crate::env::disk::Space;
use crate::env::{Env, spawn};
use crate::error::Fault;
use crate::types::{BrokerEpoch, Millis, NodeId, TopicPartition};

const LOCK: &str = ".lock";
/// How many logs are opened, or closed, at the same time.
pub(super) const AT_ONCE: usize = 8;
/// How often files that are due are removed.
const TICK: Duration = Duration::from_secs(5);
/// The same while the volume has too little room.
const SHORT_TICK: Duration = Duration::from_secs(1);

/// What opening a directory needs to know.
#[derive(Clone)]
pub struct LogDirOptions {
    pub path: PathBuf,
    pub cluster_id: String,
    pub node_id: NodeId,
    /// May be shared by several directories; the budget is then theirs together.
    pub tail_cache: Arc<TailCache>,
    /// log.flush.offset.checkpoint.interval.ms
    pub checkpoint_every: Millis,
    /// producer.id.expiration.check.interval.ms
    pub expire_every: Millis,
    /// ottla.log.reserve.bytes
    pub reserve_bytes: i64,
}

/// One of `log.dirs`, in use by this process alone.
pub struct LogDir {
    pub(super) shared: Arc<Shared>,
    meta: MetaProperties,
    options: LogDirOptions,
    pub(super) logs: Mutex<BTreeMap<TopicPartition, Arc<Log>>>,
    /// Found on the disk, and not opened so far.
    pub(super) unopened: Mutex<BTreeSet<TopicPartition>>,
    /// Being opened, by one thread each: two would tidy up and write the same files.
    opening: Mutex<BTreeMap<TopicPartition, Arc<Mutex<()>>>>,
    /// Replicas that are to take the place of one in another directory.
    pub(super) futures: Mutex<Futures>,
    /// One folder is made, renamed or removed at a time; `logs` is not held for so long.
    pub(super) changing: Mutex<()>,
    /// The broker epoch of the run that ended cleanly, if the last one did.
    clean: Option<BrokerEpoch>,
    /// The log start offsets as they are in the file.
    pub(super) starts: Mutex<Offsets>,
    /// As they are in the file.
    pub(super) high_watermarks: Mutex<Offsets>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    _lock: Box<dyn Send + Sync>,
}

impl LogDir {
    /// Blocking. Takes the lock, checks or makes the identity, reads the checkpoints.
    pub fn open(env: Env, options: LogDirOptions) -> Result<Arc<Self>, Fault> {
        let path = options.path.clone();
        let disk = &*env.disk;
        disk.create_dir_all(&path).map_err(Fault::disk(&path))?;
        let lock = disk.lock(&path.join(LOCK)).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => {
                Fault::Start(format!("{}: another process uses this log directory", path.display()))
            }
            _ => Fault::Disk { path: path.join(LOCK), source: error },
        })?;
        let meta = identity::identify(&env, &options)?;
        let offsets = |name| checkpoint::read_offsets_or_none(disk, &path.join(name));
        let points = offsets(checkpoint::RECOVERY_POINTS)?;
        let starts = offsets(checkpoint::LOG_STARTS)?;
        let high_watermarks = offsets(checkpoint::HIGH_WATERMARKS)?;
        let cleaned = offsets(checkpoint::CLEANED)?;
        let clean = identity::read_clean_shutdown(&env, &path);
        let (cache, reserve) = (options.tail_cache.clone(), options.reserve_bytes);
        let shared = Shared::new(env, path, cache, points, cleaned, reserve);
        Ok(Arc::new(Self {
            shared,
            meta,
            options,
            logs: Mutex::default(),
            unopened: Mutex::default(),
            opening: Mutex::default(),
            futures: Mutex::default(),
            changing: Mutex::default(),
            clean,
            starts: Mutex::new(starts),
            high_watermarks: Mutex::new(high_watermarks),
            tasks: Mutex::default(),
            _lock: lock,
        }))
    }

    /// Looks which partitions are there, removes the folders of deleted ones, and starts the
    /// flusher and the housekeeping. No log is opened.
    pub async fn start(self: &Arc<Self>) -> Result<(), Fault> {
        let me = self.clone();
        let find = move || {
            me.find_partitions()?;
            me.forget_clean_shutdown()
        };
        self.shared.env.blocking(find).await?;
        let flusher = spawn(flusher::run(self.shared.clone()));
        let keeper = spawn(housekeeping(Arc::downgrade(self), self.shared.env.clone()));
        self.tasks.lock().extend([flusher, keeper]);
        Ok(())
    }

    pub(super) fn stop_tasks(&self) {
        self.tasks.lock().drain(..).for_each(|task| task.abort());
    }

    fn find_partitions(&self) -> Result<(), Fault> {
        let path = &self.shared.path;
        let entries = self.shared.env.disk.list(path).map_err(Fault::disk(path))?;
        let mut found = BTreeSet::new();
        for entry in entries.into_iter().filter(|entry| entry.is_dir) {
            match Folder::of(&entry.name) {
                Folder::Partition(partition) => {
                    found.insert(partition);
                }
                Folder::Deleted => remove(&self.shared.env, &path.join(&entry.name)),
                Folder::Metadata => {}
                Folder::Future(partition) => self.find_future(partition, entry.name),
                Folder::Stray => {
                    tracing::warn!(folder = entry.name, "set aside: belongs to no replica here");
                }
                Folder::Unknown => {
                    tracing::warn!(folder = entry.name, "ignored a folder that is no partition");
                }
            }
        }
        *self.unopened.lock() = found;
        Ok(())
    }

    /// In the order of their names.
    pub fn unopened(&self) -> Vec<TopicPartition> {
        self.unopened.lock().iter().cloned().collect()
    }

    /// Blocking. The topic that the partition on the disk belongs to, if it says so.
    pub fn topic_id(&self, partition: &TopicPartition) -> Result<Option<Uuid>, Fault> {
        if let Some(log) = self.log(partition) {
            return Ok(log.topic_id());
        }
        let path = self.path().join(partition.to_string()).join(checkpoint::PARTITION_METADATA);
        checkpoint::read_topic_id(&*self.shared.env.disk, &path)
    }

    /// Blocking. Opens a log that was found on the disk. `None`: there is none.
    pub fn open_log(
        &self,
        partition: &TopicPartition,
        config: LogConfig,
    ) -> Result<Option<Arc<Log>>, Fault> {
        let door = self.opening.lock().entry(partition.clone()).or_default().clone();
        let _alone = door.lock();
        let opened = self.open_found(partition, config);
        let mut opening = self.opening.lock();
        // One count is the map's, one is ours: the last who waited here closes the door.
        if Arc::strong_count(&door) == 2 {
            opening.remove(partition);
        }
        opened
    }

    fn open_found(
        &self,
        partition: &TopicPartition,
        config: LogConfig,
    ) -> Result<Option<Arc<Log>>, Fault> {
        if let Some(log) = self.log(partition) {
            return Ok(Some(log));
        }
        if !self.unopened.lock().contains(partition) {
            return Ok(None);
        }
        let log = self.load(partition, &partition.to_string(), config)?;
        self.logs.lock().insert(partition.clone(), log.clone());
        self.unopened.lock().remove(partition);
        Ok(Some(log))
    }

    /// What was found in `folder`, with what the checkpoints say of it. A partition has one replica
    /// here at most, in place or to come, so their names say whose they are.
    pub(super) fn load(
        &self,
        partition: &TopicPartition,
        folder: &str,
        config: LogConfig,
    ) -> Result<Arc<Log>, Fault> {
        let known = Known {
            clean: self.clean.is_some(),
            recovery_point: self.shared.recovery_points.lock().get(partition).copied().unwrap_or(0),
            start: self.starts.lock().get(partition).copied().unwrap_or(0),
        };
        load::open(&self.shared, partition.clone(), folder, config, known)
            .inspect_err(|fault| self.shared.fail_if_broken(fault))
    }

    /// Opens all logs that were found, several at a time.
    pub async fn open_all<F>(self: &Arc<Self>, config: F) -> Result<Vec<Arc<Log>>, Fault>
    where
        F: Fn(&TopicPartition) -> LogConfig,
    {
        let wanted = self.unopened().into_iter().map(|id| (config(&id), id));
        let mut opening = futures::stream::iter(wanted)
            .map(|(config, partition)| {
                let me = self.clone();
                self.shared.env.blocking(move || me.open_log(&partition, config))
            })
            .buffered(AT_ONCE);
        let mut logs = Vec::new();
        while let Some(log) = opening.next().await {
            logs.extend(log?);
        }
        Ok(logs)
    }

    pub fn path(&self) -> &Path {
        &self.shared.path
    }
    pub fn meta(&self) -> &MetaProperties {
        &self.meta
    }
    pub fn directory_id(&self) -> Uuid {
        self.meta.directory_id
    }
    pub fn tail_cache(&self) -> &Arc<TailCache> {
        &self.shared.cache
    }
    /// The broker epoch of the last run, if that ended with a clean shutdown (KIP-966).
    pub fn clean_shutdown_epoch(&self) -> Option<BrokerEpoch> {
        self.clean
    }
    pub fn why_offline(&self) -> Option<Arc<str>> {
        self.shared.why_offline()
    }
    pub fn take_offline(&self, fault: &Fault) {
        self.shared.fail(fault);
    }
    /// Of the volume; `None` when it does not say.
    pub fn space(&self) -> Option<Space> {
        self.shared.room.ask(&*self.shared.env.disk, self.path())
    }
    /// The partition is here, opened or not.
    pub fn holds(&self, partition: &TopicPartition) -> bool {
        self.logs.lock().contains_key(partition) || self.unopened.lock().contains(partition)
    }
    /// How many are here, opened or not.
    pub fn partitions(&self) -> usize {
        self.logs.lock().len() + self.unopened.lock().len()
    }
    /// Tells when the directory goes offline, and why. It never comes back in this process.
    pub fn offline(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared.offline.subscribe()
    }
    pub fn log(&self, partition: &TopicPartition) -> Option<Arc<Log>> {
        self.logs.lock().get(partition).cloned()
    }
    /// In the order of their names.
    pub fn logs(&self) -> Vec<Arc<Log>> {
        self.logs.lock().values().cloned().collect()
    }

    /// Blocking. The log of `partition`; begins an empty one if there is none.
    pub fn create(
        &self,
        partition: &TopicPartition,
        topic_id: Option<Uuid>,
        config: LogConfig,
    ) -> Result<Arc<Log>, Fault> {
        self.check_online()?;
        let _one_at_a_time = self.changing.lock();
        let log = if let Some(log) = self.open_log(partition, config.clone())? {
            log
        } else {
            self.forget(partition)?;
            let dir = self.path().join(partition.to_string());
            let disk = &*self.shared.env.disk;
            disk.create_dir_all(&dir).map_err(Fault::disk(&dir))?;
            disk.sync_dir(self.path()).map_err(Fault::disk(self.path()))?;
            let known = Known { clean: true, ..Known::default() };
            let folder = partition.to_string();
            let log = load::open(&self.shared, partition.clone(), &folder, config, known)?;
            self.logs.lock().insert(partition.clone(), log.clone());
            // Makes the names of its files durable.
            log.mark_dirty();
            log
        };
        if let Some(id) = topic_id {
            log.assign_topic_id(id)?;
        }
        Ok(log)
    }

    pub(super) fn check_online(&self) -> Result<(), Fault> {
        match self.shared.why_offline() {
            Some(why) => Err(Fault::Start(format!("{}: offline: {why}", self.path().display()))),
            None => Ok(()),
        }
    }

    /// Blocking. The log is gone at once for everybody, its files after `file.delete.delay.ms`.
    pub fn delete(&self, partition: &TopicPartition) -> Result<bool, Fault> {
        let _one_at_a_time = self.changing.lock();
        let Some(log) = self.logs.lock().remove(partition) else { return Ok(false) };
        self.doom(&log)?;
        self.shared.set_cleaned(partition, None)?;
        Ok(true)
    }

    pub(super) fn doom(&self, log: &Log) -> Result<(), Fault> {
        let to = self.rename(log, identity::DELETED)?;
        let due = self.shared.env.clock.wall_ms() + log.config().file_delete_delay_ms;
        self.shared.remove_later([to], due);
        Ok(())
    }

    /// Blocking. As [`Self::delete`], but the folder stays, for a person to look at.
    pub fn set_aside(&self, partition: &TopicPartition) -> Result<bool, Fault> {
        let _one_at_a_time = self.changing.lock();
        let open = self.logs.lock().remove(partition);
        if let Some(log) = open {
            self.rename(&log, identity::STRAY)?;
            return Ok(true);
        }
        if !self.unopened.lock().remove(partition) {
            return Ok(false);
        }
        let from = self.path().join(partition.to_string());
        self.rename_folder(&from, partition, identity::STRAY)?;
        Ok(true)
    }

    /// Nobody uses the log any more; its folder gets a name that ends with `suffix`.
    fn rename(&self, log: &Log, suffix: &str) -> Result<PathBuf, Fault> {
        let _no_flush = log.flushing.lock();
        let _no_append = log.writer.lock();
        log.deleted.store(true, Ordering::Release);
        log.tail.clear();
        let to = self.rename_folder(&log.dir(), &log.partition, suffix)?;
        log.home.dir.write().clone_from(&to);
        Ok(to)
    }

    pub(super) fn rename_folder(
        &self,
        from: &Path,
        partition: &TopicPartition,
        suffix: &str,
    ) -> Result<PathBuf, Fault> {
        let to = self.path().join(identity::renamed(&self.shared.env, partition, suffix));
        self.rename_durably(from, &to)?;
        Ok(to)
    }

    pub(super) fn rename_durably(&self, from: &Path, to: &Path) -> Result<(), Fault> {
        let disk = &*self.shared.env.disk;
        disk.rename(from, to)
            .and_then(|()| disk.sync_dir(self.path()))
            .map_err(Fault::disk(from))
            .inspect_err(|fault| self.shared.fail_unless_full(fault))
    }

    fn keep_house(&self, now: Millis, checkpoint: bool, expire: bool) {
        self.shared.remove_due(now);
        self.shared.look_for_room();
        if self.shared.why_offline().is_some() {
            return;
        }
        if checkpoint && let Err(fault) = self.checkpoint() {
            self.shared.fail_unless_full(&fault);
        }
        if expire {
            self.all_logs().iter().for_each(|log| log.expire_producers(now));
        }
    }
}

impl Drop for LogDir {
    fn drop(&mut self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

async fn housekeeping(dir: std::sync::Weak<LogDir>, env: Env) {
    let (mut checkpointed, mut expired) = (env.clock.wall_ms(), env.clock.wall_ms());
    let mut tick = TICK;
    loop {
        env.clock.sleep(tick).await;
        let Some(dir) = dir.upgrade() else { return };
        let now = env.clock.wall_ms();
        let checkpoint = now - checkpointed >= dir.options.checkpoint_every;
        let expire = now - expired >= dir.options.expire_every;
        if checkpoint {
            checkpointed = now;
        }
        if expire {
            expired = now;
        }
        let enough = move || {
            dir.keep_house(now, checkpoint, expire);
            dir.shared.room.is_enough(false)
        };
        tick = if env.blocking(enough).await { TICK } else { SHORT_TICK };
    }
}
