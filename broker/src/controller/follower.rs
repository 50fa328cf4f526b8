//! A broker follows the metadata log: Fetch, append, replay, publish.
//!
//! The log on this broker is a copy, kept so that a restart need not fetch it all again; it is
//! replayed only up to the high watermark that the controller tells. A node that has the controller
//! itself does not follow: it has the log. Deliberately absent so far: snapshots.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};
use kafka_protocol::protocol::StrBytes;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::image::Image;
use super::link::ControllerLink;
use super::loader::Loader;
use super::metadata::Metadata;
use super::topics::METADATA_TOPIC_ID;
use crate::config::Settings;
use crate::env::{self, Env};
use crate::error::{ErrorCode, Fault};
use crate::raft::MetadataLog;
use crate::raft::batch;
use crate::raft::observer::{Answer, Effect, Observer};
use crate::raft::state::QuorumState;
use crate::types::Offset;

/// The version of Fetch that both of Kafka 4 and we speak.
const FETCH_VERSION: i16 = 17;
const MAX_WAIT: Duration = Duration::from_millis(500);

/// What a follower is started with.
pub struct Follow<'a> {
    pub env: Env,
    pub settings: &'a Settings,
    pub cluster_id: &'a str,
    /// Of the metadata log directory.
    pub directory_id: Uuid,
    pub metadata: Arc<Metadata>,
    pub stop: CancellationToken,
    /// Called at most once: following has ended because of this.
    pub on_fault: Box<dyn FnOnce(Fault) + Send>,
}

/// Keeps the image of a broker current.
pub struct MetadataFollower;

impl MetadataFollower {
    /// Opens the local log and starts to follow.
    pub async fn start(follow: Follow<'_>) -> Result<tokio::task::JoinHandle<()>, Fault> {
        let env = follow.env.clone();
        let dir = follow.settings.metadata_log_dir.clone();
        let (log, state) = env
            .blocking({
                let env = env.clone();
                move || open(&env, dir)
            })
            .await?;
        let task = Task {
            link: ControllerLink::new(&env, follow.settings, "metadata"),
            env,
            cluster_id: follow.cluster_id.to_owned(),
            node_id: follow.settings.node_id,
            directory_id: follow.directory_id,
            max_bytes: follow.settings.quorum_fetch_max_bytes,
            backoff: follow.settings.quorum_retry_backoff.max(Duration::from_millis(20)),
            timeout: follow.settings.quorum_request_timeout,
            observer: Observer::new(state.leader_epoch.max(log.last_epoch())),
            log: Arc::new(log),
            loader: Loader::new(Image::empty(follow.cluster_id)),
            metadata: follow.metadata,
        };
        let (stop, on_fault) = (follow.stop, follow.on_fault);
        Ok(env::spawn(async move {
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                ended = task.run() => ended,
            };
            if let Err(fault) = ended {
                tracing::error!(%fault, "no longer following the metadata log");
                on_fault(fault);
            }
        }))
    }
}

fn open(env: &Env, dir: PathBuf) -> Result<(MetadataLog, QuorumState), Fault> {
    let log = MetadataLog::open(env, &dir)?;
    let state = QuorumState::read(&*env.disk, log.folder())?.unwrap_or_default();
    Ok((log, state))
}

struct Task {
    env: Env,
    cluster_id: String,
    node_id: i32,
    directory_id: Uuid,
    max_bytes: i32,
    backoff: Duration,
    timeout: Duration,
    link: Arc<ControllerLink>,
    log: Arc<MetadataLog>,
    observer: Observer,
    loader: Loader,
    metadata: Arc<Metadata>,
}

impl Task {
    async fn run(mut self) -> Result<(), Fault> {
        loop {
            let call = self.link.send_once(FETCH_VERSION, self.request(), MAX_WAIT + self.timeout);
            match call.await {
                Ok(response) => {
                    let answer = self.read(response)?;
                    for effect in self.observer.on_answer(answer) {
                        self.carry_out(effect).await?;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot fetch the metadata log");
                    self.env.clock.sleep(self.backoff).await;
                }
            }
        }
    }

    fn request(&self) -> FetchRequest {
        let partition = FetchPartition::default()
            .with_current_leader_epoch(-1)
            .with_fetch_offset(self.log.end_offset())
            .with_last_fetched_epoch(self.log.last_epoch())
            .with_partition_max_bytes(self.max_bytes)
            .with_replica_directory_id(self.directory_id);
        let topic =
            FetchTopic::default().with_topic_id(METADATA_TOPIC_ID).with_partitions(vec![partition]);
        FetchRequest::default()
            .with_cluster_id(Some(StrBytes::from_string(self.cluster_id.clone())))
            .with_replica_state(ReplicaState::default().with_replica_id(BrokerId(self.node_id)))
            .with_max_wait_ms(MAX_WAIT.as_millis() as i32)
            .with_min_bytes(0)
            .with_max_bytes(self.max_bytes)
            .with_session_epoch(-1)
            .with_topics(vec![topic])
    }

    fn read(&self, response: FetchResponse) -> Result<Answer, Fault> {
        if response.error_code == ErrorCode::InconsistentClusterId.code() {
            return Err(Fault::Start(format!(
                "the controller belongs to another cluster than {}, which this broker's data is \
                 of: check controller.quorum.voters and the log directory",
                self.cluster_id
            )));
        }
        let mut partitions = response.responses.into_iter().flat_map(|topic| topic.partitions);
        let Some(it) = partitions.next() else {
            return Ok(Answer {
                error: -1,
                leader_epoch: self.observer.epoch,
                ..Answer::default()
            });
        };
        let error = if response.error_code != 0 { response.error_code } else { it.error_code };
        let snapshot = (it.snapshot_id.epoch >= 0)
            .then_some((it.snapshot_id.end_offset, it.snapshot_id.epoch));
        Ok(Answer {
            error,
            leader_id: it.current_leader.leader_id.0,
            leader_epoch: it.current_leader.leader_epoch,
            high_watermark: it.high_watermark,
            diverging: (it.diverging_epoch.epoch, it.diverging_epoch.end_offset),
            snapshot,
            records: it.records.unwrap_or_default(),
        })
    }

    async fn carry_out(&mut self, effect: Effect) -> Result<(), Fault> {
        match effect {
            Effect::RecordEpoch(leader_id, leader_epoch) => {
                let state = QuorumState { leader_id, leader_epoch, ..QuorumState::default() };
                let (env, log) = (self.env.clone(), self.log.clone());
                self.env.blocking(move || state.write(&*env.disk, log.folder())).await
            }
            Effect::LeaderLostMetadata => Err(Fault::Start(format!(
                "controller {} no longer has metadata that this broker was sent as committed: its \
                 volume was lost or replaced. This broker stops instead of forgetting its topics; \
                 give the controller its old {} back, or start over with empty folders on all nodes",
                self.observer.leader_id,
                crate::raft::log::FOLDER,
            ))),
            Effect::Append(records) => {
                if !records.is_empty() {
                    let log = self.log.clone();
                    self.env
                        .blocking(move || log.append(&records).and_then(|()| log.sync()))
                        .await?;
                }
                self.replay(self.observer.high_watermark).await
            }
            Effect::FindLeader => {
                self.env.clock.sleep(self.backoff).await;
                Ok(())
            }
            Effect::NeedsSnapshot(offset, epoch) => Err(Fault::Start(format!(
                "the controller's metadata log starts after ours ends: fetching its snapshot \
                 {offset:020}-{epoch:010} is not supported yet; remove __cluster_metadata-0 of \
                 this broker and restart it"
            ))),
        }
    }

    /// Replays what is committed, and publishes it.
    async fn replay(&mut self, high_watermark: Offset) -> Result<(), Fault> {
        const CHUNK: usize = 1 << 20;
        let end = high_watermark.min(self.log.end_offset());
        if self.loader.next_offset() >= end {
            return Ok(());
        }
        while self.loader.next_offset() < end {
            let (log, from) = (self.log.clone(), self.loader.next_offset());
            let bytes = self.env.blocking(move || log.read(from, end, CHUNK)).await?;
            let corrupt =
                |what: String| Fault::Corrupt { path: self.log.folder().to_path_buf(), what };
            let batches = batch::decode(&bytes).map_err(|error| corrupt(error.to_string()))?;
            if batches.is_empty() {
                break;
            }
            for batch in batches {
                self.loader.replay(&batch).map_err(|error| corrupt(error.to_string()))?;
            }
        }
        if let Some((image, delta)) = self.loader.publish() {
            self.metadata.publish(image, delta);
        }
        Ok(())
    }
}
