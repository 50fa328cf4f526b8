//! All log directories of a broker: which of them holds a partition, where a new one goes, and which
//! have failed.
//!
//! Invariants: a partition lies in one directory; a directory that failed, or could not be opened,
//! is not looked at again by this process. The broker goes on with the others, unless the metadata
//! log's is among the failed: without that it cannot take part in the cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use uuid::Uuid;

use super::config::LogConfig;
use super::dir::{AT_ONCE, LogDir, LogDirOptions};
use super::partition_log::Log;
use crate::env::Env;
use crate::error::Fault;
use crate::types::{BrokerEpoch, Offset, TopicPartition};

pub struct LogDirs {
    env: Env,
    /// In the order of `log.dirs`.
    dirs: Vec<Arc<LogDir>>,
    /// Those of `log.dirs` that could not be opened, and why.
    broken: BTreeMap<PathBuf, String>,
    /// Holds the metadata log; may be one of `dirs`.
    metadata: Arc<LogDir>,
}

impl LogDirs {
    /// Blocking. Opens `paths`, and the directory of the metadata log, which may be one of them.
    /// `options` are those of each but for the path.
    pub fn open(
        env: &Env,
        paths: &[PathBuf],
        metadata: &Path,
        options: &LogDirOptions,
    ) -> Result<Arc<Self>, Fault> {
        let open = |path: &Path| {
            LogDir::open(env.clone(), LogDirOptions { path: path.to_owned(), ..options.clone() })
        };
        let (mut dirs, mut broken) = (Vec::<Arc<LogDir>>::new(), BTreeMap::new());
        for path in paths {
            match open(path) {
                Ok(dir) => dirs.push(dir),
                Err(fault @ Fault::Disk { .. }) if path != metadata && paths.len() > 1 => {
                    tracing::error!(%fault, "a log directory is offline");
                    broken.insert(path.clone(), fault.to_string());
                }
                Err(fault) => return Err(fault),
            }
        }
        if dirs.is_empty() {
            let why: Vec<_> = broken.into_values().collect();
            return Err(Fault::Start(format!("none of log.dirs can be used: {}", why.join("; "))));
        }
        let metadata = match dirs.iter().find(|dir| dir.path() == metadata) {
            Some(dir) => dir.clone(),
            None => open(metadata)?,
        };
        for (index, dir) in dirs.iter().enumerate() {
            let same = |other: &&Arc<LogDir>| other.directory_id() == dir.directory_id();
            if let Some(other) = dirs[..index].iter().find(same) {
                return Err(Fault::Start(format!(
                    "{} and {} have the same directory.id: one is a copy of the other",
                    other.path().display(),
                    dir.path().display()
                )));
            }
        }
        Ok(Arc::new(Self { env: env.clone(), dirs, broken, metadata }))
    }

    /// One directory that is open already.
    #[cfg(test)]
    pub fn of_one(env: &Env, dir: Arc<LogDir>) -> Arc<Self> {
        Arc::new(Self {
            env: env.clone(),
            metadata: dir.clone(),
            dirs: vec![dir],
            broken: BTreeMap::new(),
        })
    }

    /// Looks what is there and starts the flushers. One that fails goes offline.
    pub async fn start(&self) -> Result<(), Fault> {
        for dir in &self.dirs {
            if let Err(fault) = dir.start().await {
                dir.take_offline(&fault);
            }
        }
        match self.why_unusable() {
            Some(why) => Err(Fault::Start(why)),
            None => Ok(()),
        }
    }

    /// All that could be opened at the start, those that failed since included.
    pub fn all(&self) -> &[Arc<LogDir>] {
        &self.dirs
    }
    /// Those that could not be opened at the start, and why.
    pub fn broken(&self) -> &BTreeMap<PathBuf, String> {
        &self.broken
    }
    pub fn online(&self) -> impl Iterator<Item = &Arc<LogDir>> {
        self.dirs.iter().filter(|dir| dir.why_offline().is_none())
    }
    /// Some directory is offline, be it since the start.
    pub fn any_offline(&self) -> bool {
        !self.broken.is_empty() || self.dirs.iter().any(|dir| dir.why_offline().is_some())
    }
    /// Of those that went offline since the start.
    pub fn offline_ids(&self) -> Vec<Uuid> {
        let offline = self.dirs.iter().filter(|dir| dir.why_offline().is_some());
        offline.map(|dir| dir.directory_id()).collect()
    }
    /// Of those that can be used, as a registration lists them.
    pub fn ids(&self) -> Vec<Uuid> {
        self.online().map(|dir| dir.directory_id()).collect()
    }
    /// Of the metadata log's directory: a voter's identity.
    pub fn metadata_id(&self) -> Uuid {
        self.metadata.directory_id()
    }
    pub fn metadata_path(&self) -> &Path {
        self.metadata.path()
    }
    pub fn by_id(&self, id: Uuid) -> Option<&Arc<LogDir>> {
        self.dirs.iter().find(|dir| dir.directory_id() == id)
    }
    /// As it is written in the settings: Kafka knows no other way to write it either.
    pub fn by_path(&self, path: &Path) -> Option<&Arc<LogDir>> {
        self.dirs.iter().find(|dir| dir.path().as_os_str() == path.as_os_str())
    }

    /// Why this process cannot go on: no directory is left, or not that of the metadata log.
    pub fn why_unusable(&self) -> Option<String> {
        if let Some(why) = self.metadata.why_offline() {
            let path = self.metadata.path().display();
            return Some(format!("{path}, which holds the metadata log, is offline: {why}"));
        }
        if self.online().next().is_some() {
            return None;
        }
        let why = self.dirs.iter().filter_map(|dir| {
            dir.why_offline().map(|why| format!("{}: {why}", dir.path().display()))
        });
        let why: Vec<_> = why.collect();
        Some(format!("all log directories are offline: {}", why.join("; ")))
    }

    /// Waits until a directory goes offline that is not among `known`.
    pub async fn gone_offline(&self, known: &[Uuid]) -> Arc<LogDir> {
        let mut watched = self.dirs.clone();
        if self.by_id(self.metadata_id()).is_none() {
            watched.push(self.metadata.clone());
        }
        watched.retain(|dir| !known.contains(&dir.directory_id()));
        let mut waiting: FuturesUnordered<_> = watched
            .into_iter()
            .map(|dir| async move {
                let mut offline = dir.offline();
                // An error means that the directory is gone, which it is not: it is held here.
                let _ = offline.wait_for(Option::is_some).await;
                dir
            })
            .collect();
        match waiting.next().await {
            Some(dir) => dir,
            None => std::future::pending().await,
        }
    }

    /// The directory that holds the partition, opened or not; `wanted` if several do.
    pub fn holder(&self, id: &TopicPartition, wanted: Option<Uuid>) -> Option<&Arc<LogDir>> {
        let holders = || self.online().filter(|dir| dir.holds(id));
        holders().find(|dir| Some(dir.directory_id()) == wanted).or_else(|| holders().next())
    }
    /// Where a new partition goes: where the fewest are.
    pub fn emptiest(&self) -> Option<&Arc<LogDir>> {
        self.online().min_by_key(|dir| dir.partitions())
    }
    /// The open log of a partition.
    pub fn log(&self, id: &TopicPartition) -> Option<Arc<Log>> {
        self.online().find_map(|dir| dir.log(id))
    }
    /// Found on the disks, and not opened so far.
    pub fn unopened(&self) -> Vec<(Arc<LogDir>, TopicPartition)> {
        let of = |dir: &Arc<LogDir>| {
            let ids = dir.unopened().into_iter();
            ids.map(|id| (dir.clone(), id)).collect::<Vec<_>>()
        };
        self.online().flat_map(of).collect()
    }

    /// Opens logs that were found, several at a time. What fails is left to the one who needs it.
    pub async fn open_all(&self, wanted: Vec<(Arc<LogDir>, TopicPartition, LogConfig)>) {
        futures::stream::iter(wanted)
            .for_each_concurrent(AT_ONCE * self.dirs.len(), |(dir, id, config)| {
                self.env.blocking(move || {
                    if let Err(fault) = dir.open_log(&id, config) {
                        tracing::warn!(partition = %id, %fault, "not opened");
                    }
                })
            })
            .await;
    }

    /// Blocking. Replaces the checkpoints of the high watermarks.
    pub fn write_high_watermarks(
        &self,
        of: impl Fn(&TopicPartition) -> Option<Offset>,
    ) -> Result<(), Fault> {
        for dir in self.online() {
            dir.write_high_watermarks(&of)?;
        }
        Ok(())
    }

    /// The broker epoch of the last run, if all directories were closed at its end (KIP-966).
    pub fn clean_shutdown_epoch(&self) -> Option<BrokerEpoch> {
        let first = self.dirs.first()?.clean_shutdown_epoch()?;
        let all = self.dirs.iter().all(|dir| dir.clean_shutdown_epoch() == Some(first));
        (all && self.broken.is_empty()).then_some(first)
    }

    /// Closes all logs; see [`LogDir::shut_down_cleanly`]. Returns what went wrong first.
    pub async fn shut_down_cleanly(&self, epoch: BrokerEpoch) -> Result<(), Fault> {
        let mut result = Ok(());
        for dir in self.online() {
            result = result.and(dir.shut_down_cleanly(epoch).await);
        }
        result
    }
}
