//! The committed image: what is below the high watermark, replayed and published.

use std::sync::Arc;

use super::image::Image;
use super::loader::Loader;
use super::metadata::Metadata;
use super::replay::Delta;
use super::snapshots;
use crate::env::Env;
use crate::error::Fault;
use crate::raft::MetadataLog;
use crate::raft::batch;
use crate::types::{NodeId, Offset};

const CHUNK: usize = 1 << 20;

pub struct Replica {
    loader: Loader,
    metadata: Arc<Metadata>,
}

impl Replica {
    pub fn new(cluster_id: &str, metadata: Arc<Metadata>) -> Self {
        Self { loader: Loader::new(Image::empty(cluster_id)), metadata }
    }

    pub fn next_offset(&self) -> Offset {
        self.loader.next_offset()
    }

    pub fn loader(&self) -> &Loader {
        &self.loader
    }

    /// Replays the log up to the high watermark, and publishes that.
    pub async fn replay(
        &mut self,
        log: &Arc<MetadataLog>,
        high_watermark: Offset,
        env: &Env,
    ) -> Result<(), Fault> {
        let end = high_watermark.min(log.end_offset());
        if self.loader.next_offset() >= end {
            return Ok(());
        }
        self.start_at_snapshot(log, env).await?;
        while self.loader.next_offset() < end {
            let (reading, from) = (log.clone(), self.loader.next_offset());
            let bytes = env.blocking(move || reading.read(from, end, CHUNK)).await?;
            if bytes.is_empty() {
                break;
            }
            replay(&mut self.loader, log, &bytes)?;
        }
        self.publish();
        Ok(())
    }

    /// Begins with the newest snapshot when the log does, or when nothing was replayed yet.
    async fn start_at_snapshot(&mut self, log: &Arc<MetadataLog>, env: &Env) -> Result<(), Fault> {
        let next = self.loader.next_offset();
        let Some(contents) = log.snapshots().newest_image() else { return Ok(()) };
        if contents.id.end_offset <= next || (next > 0 && next >= log.start_offset()) {
            return Ok(());
        }
        let (log, cluster_id) = (log.clone(), self.loader.image().cluster_id.clone());
        let load = move || snapshots::load(&log, &contents, &cluster_id);
        self.loader.start_over(env.blocking(load).await?);
        Ok(())
    }

    /// A snapshot does not say who leads.
    pub fn note_leader(&mut self, leader: Option<NodeId>) {
        let Some(leader) = leader.filter(|_| self.loader.image().controller_id < 0) else { return };
        if self.loader.next_offset() > 0 {
            self.loader.set_controller(leader);
            self.publish();
        }
    }

    fn publish(&mut self) {
        if let Some((image, delta)) = self.loader.publish() {
            self.metadata.publish(image, delta);
        }
    }

    /// What the active controller had replayed before is committed now.
    pub fn commit(&mut self, loader: Loader, published: Option<(Image, Delta)>) {
        self.loader = loader;
        if let Some((image, delta)) = published {
            self.metadata.publish(image, delta);
        }
    }
}

/// Replays whole batches.
pub fn replay(loader: &mut Loader, log: &MetadataLog, bytes: &[u8]) -> Result<(), Fault> {
    let corrupt = |what: String| Fault::Corrupt { path: log.folder().to_path_buf(), what };
    for decoded in batch::decode(bytes).map_err(|error| corrupt(error.to_string()))? {
        loader.replay(&decoded).map_err(|error| corrupt(error.to_string()))?;
    }
    Ok(())
}

/// Replays all that is in the log, committed or not.
pub fn replay_all(loader: &mut Loader, log: &MetadataLog) -> Result<(), Fault> {
    while loader.next_offset() < log.end_offset() {
        let bytes = log.read(loader.next_offset(), log.end_offset(), CHUNK)?;
        replay(loader, log, &bytes)?;
    }
    Ok(())
}
