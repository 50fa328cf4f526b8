//! One log directory: its identity, its lock, its checkpoints, and the logs in it.

use std::collections::BTreeMap;
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
use super::load::{self, Known};
use super::meta_properties::MetaProperties;
use super::partition_log::Log;
use super::shared::{Shared, remove};
use super::{flusher, tail_cache::TailCache};
use crate::env::{Env, spawn};
use crate::error::Fault;
use crate::types::{BrokerEpoch, Millis, NodeId, Offset, TopicPartition};

const LOCK: &str = ".lock";
const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
/// How many logs are opened, or closed, at the same time.
const AT_ONCE: usize = 8;
/// How often files that are due are removed.
const TICK: Duration = Duration::from_secs(5);
/// producer.id.expiration.check.interval.ms
const EXPIRY_EVERY: Millis = 600_000;

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
}

/// One of `log.dirs`, in use by this process alone.
pub struct LogDir {
    shared: Arc<Shared>,
    meta: MetaProperties,
    options: LogDirOptions,
    logs: Mutex<BTreeMap<TopicPartition, Arc<Log>>>,
    /// One folder is made at a time; `logs` is not held for so long.
    creating: Mutex<()>,
    /// The broker epoch of the run that ended cleanly, if the last one did.
    clean: Option<BrokerEpoch>,
    /// The log start offsets as they are in the file.
    starts: Mutex<Offsets>,
    /// As the last run left them.
    high_watermarks: Offsets,
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
        let meta = identify(&env, &options)?;
        let points = checkpoint::read_offsets(disk, &path.join(checkpoint::RECOVERY_POINTS))?;
        let starts = checkpoint::read_offsets(disk, &path.join(checkpoint::LOG_STARTS))?;
        let high_watermarks =
            checkpoint::read_offsets(disk, &path.join(checkpoint::HIGH_WATERMARKS))?;
        let clean = read_clean_shutdown(&env, &path);
        let shared = Shared::new(env, path, options.tail_cache.clone(), points);
        Ok(Arc::new(Self {
            shared,
            meta,
            options,
            logs: Mutex::default(),
            creating: Mutex::default(),
            clean,
            starts: Mutex::new(starts),
            high_watermarks,
            tasks: Mutex::default(),
            _lock: lock,
        }))
    }

    /// Opens all logs in the directory, several at a time, and starts the flusher and the
    /// housekeeping. Folders of deleted topics are removed.
    pub async fn load_all<F>(self: &Arc<Self>, config: F) -> Result<Vec<Arc<Log>>, Fault>
    where
        F: Fn(&TopicPartition) -> LogConfig + Send + Sync + 'static,
    {
        let (me, env) = (self.clone(), &self.shared.env);
        let found = env.blocking(move || me.find_partitions()).await?;
        let config = Arc::new(config);
        let mut opening = futures::stream::iter(found)
            .map(|partition| {
                let (me, config) = (self.clone(), config.clone());
                env.blocking(move || {
                    let config = config(&partition);
                    let known = me.known(&partition);
                    load::open(&me.shared, partition, config, known)
                })
            })
            .buffered(AT_ONCE);
        let mut logs = Vec::new();
        while let Some(log) = opening.next().await {
            logs.push(log?);
        }
        drop(opening);
        let me = self.clone();
        env.blocking(move || me.forget_clean_shutdown()).await?;
        let by_partition = logs.iter().map(|log| (log.partition.clone(), log.clone()));
        self.logs.lock().extend(by_partition);
        self.start_tasks();
        Ok(logs)
    }

    fn start_tasks(self: &Arc<Self>) {
        let flusher = spawn(flusher::run(self.shared.clone()));
        let keeper = spawn(housekeeping(Arc::downgrade(self), self.shared.env.clone()));
        self.tasks.lock().extend([flusher, keeper]);
    }

    /// For tests that do the tasks' work themselves.
    #[cfg(test)]
    pub(super) fn stop_tasks(&self) {
        self.tasks.lock().drain(..).for_each(|task| task.abort());
    }

    fn find_partitions(&self) -> Result<Vec<TopicPartition>, Fault> {
        let path = &self.shared.path;
        let entries = self.shared.env.disk.list(path).map_err(Fault::disk(path))?;
        let mut found = Vec::new();
        for entry in entries.into_iter().filter(|entry| entry.is_dir) {
            if entry.name.ends_with("-delete") {
                remove(&self.shared.env, &path.join(&entry.name));
            } else if entry.name.ends_with("-future") || entry.name.ends_with("-stray") {
                tracing::warn!(folder = entry.name, "ignored a folder that Kafka set aside");
            } else if entry.name == crate::raft::log::FOLDER {
                // The metadata log is kept by `raft`, which needs it before any other log is open.
            } else if let Some(partition) = parse_folder(&entry.name) {
                found.push(partition);
            } else {
                tracing::warn!(folder = entry.name, "ignored a folder that is no partition");
            }
        }
        Ok(found)
    }

    fn known(&self, partition: &TopicPartition) -> Known {
        Known {
            clean: self.clean.is_some(),
            recovery_point: self.shared.recovery_points.lock().get(partition).copied().unwrap_or(0),
            start: self.starts.lock().get(partition).copied().unwrap_or(0),
        }
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
        if let Some(why) = self.shared.why_offline() {
            return Err(Fault::Start(format!("{}: offline: {why}", self.path().display())));
        }
        let _one_at_a_time = self.creating.lock();
        let log = if let Some(log) = self.log(partition) {
            log
        } else {
            let dir = self.path().join(partition.to_string());
            let disk = &*self.shared.env.disk;
            disk.create_dir_all(&dir).map_err(Fault::disk(&dir))?;
            disk.sync_dir(self.path()).map_err(Fault::disk(self.path()))?;
            let known = Known { clean: true, ..Known::default() };
            let log = load::open(&self.shared, partition.clone(), config, known)?;
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

    /// Blocking. The log is gone at once for everybody, its files after `file.delete.delay.ms`.
    pub fn delete(&self, partition: &TopicPartition) -> Result<bool, Fault> {
        let _not_while_one_is_made = self.creating.lock();
        let Some(log) = self.logs.lock().remove(partition) else { return Ok(false) };
        let _no_flush = log.flushing.lock();
        let _no_append = log.writer.lock();
        log.deleted.store(true, Ordering::Release);
        log.tail.clear();
        let id = self.shared.env.random.uuid().simple().to_string();
        let suffix = format!(".{id}-delete");
        let mut name = partition.to_string();
        // A file name has 255 bytes at most.
        name.truncate(255 - suffix.len());
        let to = self.path().join(name + &suffix);
        let from = log.dir();
        let disk = &*self.shared.env.disk;
        disk.rename(&from, &to)
            .and_then(|()| disk.sync_dir(self.path()))
            .map_err(Fault::disk(from))
            .inspect_err(|fault| self.shared.fail(fault))?;
        log.home.dir.write().clone_from(&to);
        let due = self.shared.env.clock.wall_ms() + log.config().file_delete_delay_ms;
        self.shared.remove_later([to], due);
        Ok(true)
    }

    /// The high watermarks that the last run left behind.
    pub fn high_watermarks(&self) -> &Offsets {
        &self.high_watermarks
    }
    /// Blocking. Replaces the checkpoint of the high watermarks.
    pub fn write_high_watermarks(&self, offsets: &Offsets) -> Result<(), Fault> {
        let path = self.path().join(checkpoint::HIGH_WATERMARKS);
        checkpoint::write_offsets(&*self.shared.env.disk, &path, offsets)
    }

    /// Blocking. Writes the recovery points and log start offsets if they changed.
    pub fn checkpoint(&self) -> Result<(), Fault> {
        let logs = self.logs();
        let mut points = Offsets::new();
        let mut starts = Offsets::new();
        for log in &logs {
            let start = log.start_offset();
            let first = log.segments.load().first_key_value().map_or(0, |(base, _)| *base);
            if start > first {
                starts.insert(log.partition.clone(), start);
            }
            let point = log.recovery_point();
            let before = self.shared.recovery_points.lock().get(&log.partition).copied();
            if before != Some(point) {
                // Recovery begins in the index of the active segment, so that must be there.
                log.persist_indexes()?;
            }
            points.insert(log.partition.clone(), point);
        }
        let mut written = self.shared.recovery_points.lock();
        for (partition, point) in &mut points {
            // A truncation between may have lowered it.
            if let Some(log) = self.log(partition) {
                *point = log.recovery_point().min(*point);
            }
        }
        if *written != points {
            self.shared.write_recovery_points(&points)?;
            *written = points;
        }
        drop(written);
        let mut written = self.starts.lock();
        if *written != starts {
            let path = self.path().join(checkpoint::LOG_STARTS);
            checkpoint::write_offsets(&*self.shared.env.disk, &path, &starts)?;
            *written = starts;
        }
        Ok(())
    }

    /// Syncs and closes all logs, writes all checkpoints and last the marker, which makes the next
    /// start instant. Logs refuse appends from here on.
    pub async fn shut_down_cleanly(self: &Arc<Self>, epoch: BrokerEpoch) -> Result<(), Fault> {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        let env = &self.shared.env;
        futures::stream::iter(self.logs())
            .for_each_concurrent(AT_ONCE, |log| env.blocking(move || log.close()))
            .await;
        if let Some(why) = self.shared.why_offline() {
            return Err(Fault::Start(format!("not shut down cleanly: {why}")));
        }
        let me = self.clone();
        env.blocking(move || {
            me.checkpoint()?;
            let path = me.path().join(CLEAN_SHUTDOWN);
            let content = format!("{{\"version\":0,\"brokerEpoch\":{epoch}}}");
            let disk = &*me.shared.env.disk;
            disk.write_atomically(&path, content.as_bytes()).map_err(Fault::disk(path))
        })
        .await
    }

    fn forget_clean_shutdown(&self) -> Result<(), Fault> {
        let path = self.path().join(CLEAN_SHUTDOWN);
        let disk = &*self.shared.env.disk;
        if !disk.exists(&path) {
            return Ok(());
        }
        disk.remove_file(&path).and_then(|()| disk.sync_dir(self.path())).map_err(Fault::disk(path))
    }

    fn keep_house(&self, now: Millis, checkpoint: bool, expire: bool) {
        self.shared.remove_due(now);
        if self.shared.why_offline().is_some() {
            return;
        }
        if checkpoint && let Err(fault) = self.checkpoint() {
            self.shared.fail(&fault);
        }
        if expire {
            self.logs().iter().for_each(|log| log.expire_producers(now));
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
    loop {
        env.clock.sleep(TICK).await;
        let Some(dir) = dir.upgrade() else { return };
        let now = env.clock.wall_ms();
        let checkpoint = now - checkpointed >= dir.options.checkpoint_every;
        let expire = now - expired >= EXPIRY_EVERY;
        if checkpoint {
            checkpointed = now;
        }
        if expire {
            expired = now;
        }
        env.blocking(move || dir.keep_house(now, checkpoint, expire)).await;
    }
}

fn identify(env: &Env, options: &LogDirOptions) -> Result<MetaProperties, Fault> {
    let path = &options.path;
    let Some(meta) = MetaProperties::read(&*env.disk, path)? else {
        let meta = MetaProperties {
            cluster_id: options.cluster_id.clone(),
            node_id: options.node_id,
            directory_id: env.random.uuid(),
        };
        meta.write(&*env.disk, path)?;
        return Ok(meta);
    };
    let wrong = |what: &str, theirs: &str, ours: &str| {
        Fault::Start(format!(
            "{}: the log directory belongs to {what} {theirs}, not to {ours}",
            path.display()
        ))
    };
    if meta.cluster_id != options.cluster_id {
        return Err(wrong("cluster", &meta.cluster_id, &options.cluster_id));
    }
    if meta.node_id != options.node_id {
        return Err(wrong("node", &meta.node_id.to_string(), &options.node_id.to_string()));
    }
    Ok(meta)
}

/// The marker's broker epoch; -1 when it has none that can be read, as an older Kafka leaves it.
fn read_clean_shutdown(env: &Env, dir: &Path) -> Option<BrokerEpoch> {
    let path = dir.join(CLEAN_SHUTDOWN);
    if !env.disk.exists(&path) {
        return None;
    }
    let content = env.disk.read(&path).unwrap_or_default();
    let content = String::from_utf8_lossy(&content).into_owned();
    let epoch = content.split("\"brokerEpoch\"").nth(1).and_then(|rest| {
        let digits = rest.trim_start_matches([':', ' ']);
        let length = digits.find(|c: char| c != '-' && !c.is_ascii_digit());
        digits[..length.unwrap_or(digits.len())].parse().ok()
    });
    Some(epoch.unwrap_or(-1))
}

/// `<topic>-<partition>`
fn parse_folder(name: &str) -> Option<TopicPartition> {
    let (topic, partition) = name.rsplit_once('-')?;
    let partition: u32 = partition.parse().ok()?;
    let partition = i32::try_from(partition).ok()?;
    (!topic.is_empty()).then(|| TopicPartition::new(topic, partition))
}

impl Log {
    /// Of the segments that are not closed: what the recovery point covers must not need them anew.
    pub(super) fn persist_indexes(&self) -> Result<(), Fault> {
        let _one_at_a_time = self.flushing.lock();
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
    fn close(&self) {
        {
            let mut writer = self.writer.lock();
            self.closed.store(true, Ordering::Release);
            let end: Offset = writer.producers.end;
            if end > writer.producers.snapshot_at {
                let snapshot = super::producer_state::encode(writer.producers.producers());
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
