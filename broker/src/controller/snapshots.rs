//! The image as a snapshot, and when it is time for one.
//!
//! Every node does this for itself, controllers and brokers alike: [`Snapshotter`] watches the
//! images that are published, which are committed and end where a batch ends. A new snapshot is
//! written once `metadata.log.max.record.bytes.between.snapshots` have been appended since the last
//! one, or `metadata.log.max.snapshot.interval.ms` have passed and there is something new; then, and
//! every minute, the log is trimmed. A snapshot that cannot be written is no fault of the node: the log
//! is still whole, and it is tried again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::image::Image;
use super::loader::Loader;
use super::metadata::Metadata;
use super::replay::Delta;
use crate::config::Settings;
use crate::env::{self, Env};
use crate::error::Fault;
use crate::raft::MetadataLog;
use crate::raft::batch::Entry;
use crate::raft::snapshot::{Contents, Header, KRaftState};
use crate::types::Offset;

/// How often old snapshots and segments are looked for; Kafka's figure.
const TRIM_INTERVAL: Duration = Duration::from_mins(1);

/// The image that a snapshot holds. Blocks.
///
/// # Errors
/// [`Fault::Corrupt`] when the file is not whole or its records contradict each other.
pub fn load(log: &MetadataLog, contents: &Contents, cluster_id: &str) -> Result<Image, Fault> {
    let mut reader = log.snapshots().reader(contents.id)?;
    let (mut image, mut delta) = (Image::empty(cluster_id), Delta::default());
    while let Some(batch) = reader.next_batch()? {
        for (offset, entry) in batch.entries {
            let Entry::Record(record) = entry else { continue };
            image.replay(&record, &mut delta).map_err(|error| Fault::Corrupt {
                path: log.folder().join(contents.id.file_name()),
                what: format!("record {offset}: {error}"),
            })?;
        }
    }
    image.offset = contents.id.end_offset - 1;
    image.epoch = contents.id.epoch;
    image.timestamp = contents.last_contained_timestamp;
    Ok(image)
}

/// A loader that has the newest snapshot, or nothing yet; what follows in the log is still to be
/// replayed. Blocks.
pub fn loader(log: &MetadataLog, cluster_id: &str) -> Result<Loader, Fault> {
    let mut loader = Loader::new(Image::empty(cluster_id));
    if let Some(contents) = log.snapshots().newest_image() {
        loader.start_over(load(log, &contents, cluster_id)?);
    }
    Ok(loader)
}

/// Writes `image` as a snapshot and takes note of it; none when there is one that reaches as far.
/// Blocks.
pub fn write(
    env: &Env,
    log: &MetadataLog,
    image: &Image,
    kraft: Option<KRaftState>,
) -> Result<Option<Contents>, Fault> {
    let Some(id) = log.snapshot_id_at(image.offset + 1) else { return Ok(None) };
    let header = Header { last_contained_timestamp: image.timestamp, kraft };
    let mut writer = log.snapshots().begin(env, id, &header)?;
    for record in image.records() {
        writer.push(&record)?;
    }
    let contents = writer.finish()?;
    log.snapshots().add(contents.clone());
    Ok(Some(contents))
}

/// The quorum's own state below an end offset; none with kraft.version 0.
pub type KRaftAt = Box<dyn Fn(Offset) -> Option<KRaftState> + Send + Sync>;

/// Writes snapshots and trims the log. One task for each node.
pub struct Snapshotter {
    pub env: Env,
    pub log: Arc<MetadataLog>,
    pub metadata: Arc<Metadata>,
    pub limits: Limits,
    pub kraft: KRaftAt,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Between two snapshots, at most.
    pub bytes: u64,
    /// Zero: no limit.
    pub interval: Duration,
}

impl Limits {
    pub fn of(settings: &Settings) -> Self {
        Self {
            bytes: settings.metadata_log_max_record_bytes_between_snapshots.unsigned_abs(),
            interval: settings.metadata_log_max_snapshot_interval,
        }
    }

    fn are_reached(&self, bytes: u64, waited: Duration) -> bool {
        bytes >= self.bytes || (!self.interval.is_zero() && waited >= self.interval)
    }
}

impl Snapshotter {
    /// For a quorum whose voters stand in the settings; set `kraft` for another one.
    pub fn new(
        env: &Env,
        settings: &Settings,
        log: &Arc<MetadataLog>,
        metadata: &Arc<Metadata>,
    ) -> Self {
        Self {
            env: env.clone(),
            log: log.clone(),
            metadata: metadata.clone(),
            limits: Limits::of(settings),
            kraft: Box::new(|_| None),
        }
    }

    pub fn start(self, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
        env::spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = self.run() => {}
            }
        })
    }

    async fn run(self) {
        let now = || self.env.clock.now();
        let mut published = self.metadata.applied();
        let (mut last, mut next_trim) = (now(), now() + TRIM_INTERVAL);
        loop {
            let timed = self.has_news() && !self.limits.interval.is_zero();
            let wake = if timed { next_trim.min(last + self.limits.interval) } else { next_trim };
            tokio::select! {
                biased;
                () = self.env.clock.sleep_until(wake) => {}
                Ok(()) = published.changed() => {}
            }
            if self.is_due(last) {
                last = now();
                self.write().await;
                self.trim().await;
            } else if now() >= next_trim {
                next_trim = now() + TRIM_INTERVAL;
                self.trim().await;
            }
        }
    }

    /// There is an image that no snapshot holds. Before its metadata.version is known, it is none.
    fn has_news(&self) -> bool {
        let image = self.metadata.image();
        let newest = self.log.snapshots().newest_image();
        image.feature("metadata.version") > 0
            && image.offset + 1 > newest.map_or(0, |it| it.id.end_offset)
    }

    fn is_due(&self, last: Instant) -> bool {
        let waited = self.env.clock.now().saturating_duration_since(last);
        self.has_news() && self.limits.are_reached(self.log.bytes_since_snapshot(), waited)
    }

    async fn write(&self) {
        let image = self.metadata.image();
        let kraft = (self.kraft)(image.offset + 1);
        let (env, log) = (self.env.clone(), self.log.clone());
        match self.env.blocking(move || write(&env, &log, &image, kraft)).await {
            Ok(Some(it)) => tracing::info!(snapshot = %it.id, bytes = it.size, "snapshot written"),
            Ok(None) => {}
            Err(fault) => tracing::error!(%fault, "no snapshot of the metadata was written"),
        }
    }

    async fn trim(&self) {
        let (now, log) = (self.env.clock.wall_ms(), self.log.clone());
        if let Err(fault) = self.env.blocking(move || log.trim(now)).await {
            tracing::error!(%fault, "the metadata log was not trimmed");
        }
    }
}
