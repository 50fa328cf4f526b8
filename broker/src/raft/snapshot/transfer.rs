//! FetchSnapshot, both sides: the leader sends its snapshot in chunks, a replica gathers them.
//!
//! A Fetch that was answered with a snapshot id is followed by FetchSnapshots for that id, one after
//! the other, until its size is reached. The leader keeps no state; a snapshot that it deletes
//! meanwhile is SNAPSHOT_NOT_FOUND, and the replica fetches anew.

use std::cmp::Ordering;
use std::future::Future;
use std::sync::Arc;

use kafka_protocol::messages::fetch_snapshot_request::{
    PartitionSnapshot as Asked, SnapshotId as AskedId, TopicSnapshot as AskedTopic,
};
use kafka_protocol::messages::fetch_snapshot_response::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionSnapshot, SnapshotId as SentId, TopicSnapshot,
};
use kafka_protocol::messages::{BrokerId, FetchSnapshotRequest, FetchSnapshotResponse, TopicName};
use uuid::Uuid;

use super::download::{Download, Step};
use super::{Chunk, PartFile, SnapshotId};
use crate::env::Env;
use crate::error::{ErrorCode, Fault};
use crate::raft::MetadataLog;
use crate::types::{LeaderEpoch, NodeId};

/// The log's topic.
const TOPIC: &str = "__cluster_metadata";

/// Who asks for a snapshot.
#[derive(Debug, Clone)]
pub struct Asker {
    pub cluster_id: String,
    pub node_id: NodeId,
    pub directory_id: Uuid,
    /// The epoch of the leader that is asked.
    pub epoch: LeaderEpoch,
    pub max_bytes: i32,
}

impl Asker {
    /// For the next chunk.
    pub fn request(&self, download: &Download) -> FetchSnapshotRequest {
        let id = AskedId::default()
            .with_end_offset(download.id.end_offset)
            .with_epoch(download.id.epoch);
        let partition = Asked::default()
            .with_partition(0)
            .with_current_leader_epoch(self.epoch)
            .with_snapshot_id(id)
            .with_position(download.position() as i64)
            .with_replica_directory_id(self.directory_id);
        let topic = AskedTopic::default()
            .with_name(TopicName(TOPIC.into()))
            .with_partitions(vec![partition]);
        FetchSnapshotRequest::default()
            .with_cluster_id(Some(self.cluster_id.clone().into()))
            .with_replica_id(BrokerId(self.node_id))
            .with_max_bytes(self.max_bytes)
            .with_topics(vec![topic])
    }
}

/// What became of a download.
pub enum Fetched {
    /// All of it has arrived; [`MetadataLog::install`] checks it and puts it in place.
    Whole(PartFile),
    /// It came to nothing: fetch records again, and see which snapshot the leader names then.
    StartOver(String),
}

/// Gathers a snapshot. `ask` sends one request and returns the answer, or why there is none.
///
/// # Errors
/// Only those of our own disk.
pub async fn fetch<Fut>(
    env: &Env,
    log: &Arc<MetadataLog>,
    asker: &Asker,
    id: SnapshotId,
    ask: impl Fn(FetchSnapshotRequest) -> Fut,
) -> Result<Fetched, Fault>
where
    Fut: Future<Output = Result<FetchSnapshotResponse, String>>,
{
    let mut download = Download::new(id);
    let opening = log.clone();
    let mut part = env.blocking(move || opening.snapshots().begin_part(id)).await?;
    loop {
        let chunk = match ask(asker.request(&download)).await.and_then(read) {
            Ok(chunk) => chunk,
            Err(why) => return Ok(Fetched::StartOver(why)),
        };
        let (bytes, last) = match download.on_chunk(chunk) {
            Step::Append(bytes) => (bytes, false),
            Step::Finish(bytes) => (bytes, true),
            Step::StartOver(why) => return Ok(Fetched::StartOver(why)),
        };
        part = env.blocking(move || part.append(&bytes).map(|()| part)).await?;
        if last {
            return Ok(Fetched::Whole(part));
        }
    }
}

/// The chunk in an answer, or why there is none.
fn read(response: FetchSnapshotResponse) -> Result<Chunk, String> {
    let refused = |code: i16| match ErrorCode::try_from_code(code) {
        Some(code) => Err(format!("the leader answered {code:?}")),
        None => Ok(()),
    };
    refused(response.error_code)?;
    let mut partitions = response.topics.into_iter().flat_map(|topic| topic.partitions);
    let it = partitions.next().ok_or("the leader's answer is empty")?;
    refused(it.error_code)?;
    let position = u64::try_from(it.position).map_err(|_| "a negative position")?;
    let size = u64::try_from(it.size).map_err(|_| "a negative size")?;
    let id = SnapshotId::new(it.snapshot_id.end_offset, it.snapshot_id.epoch);
    Ok(Chunk { id, size, position, bytes: it.unaligned_records })
}

/// Who answers, and who leads, as far as the one who answers knows.
pub struct Answerer<'a> {
    pub cluster_id: &'a str,
    /// -1: nobody.
    pub leader: NodeId,
    pub epoch: LeaderEpoch,
    /// Whether that is this node.
    pub leads: bool,
    /// Where the leader listens.
    pub endpoint: Option<(String, u16)>,
}

/// Answers a FetchSnapshot. Blocks.
///
/// Refuses with INCONSISTENT_CLUSTER_ID, INVALID_REQUEST, UNKNOWN_TOPIC_OR_PARTITION,
/// FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH, NOT_LEADER_OR_FOLLOWER, SNAPSHOT_NOT_FOUND and
/// POSITION_OUT_OF_RANGE, in this order.
pub fn serve(
    log: &MetadataLog,
    me: &Answerer<'_>,
    request: &FetchSnapshotRequest,
) -> FetchSnapshotResponse {
    let refuse = |code: ErrorCode| FetchSnapshotResponse::default().with_error_code(code.code());
    if request.cluster_id.as_deref().is_some_and(|id| id != me.cluster_id) {
        return refuse(ErrorCode::InconsistentClusterId);
    }
    let [topic] = &request.topics[..] else { return refuse(ErrorCode::InvalidRequest) };
    let [asked] = &topic.partitions[..] else { return refuse(ErrorCode::InvalidRequest) };
    let partition = if &*topic.name == TOPIC && asked.partition == 0 {
        answer(log, me, asked, request.max_bytes)
    } else {
        let code = ErrorCode::UnknownTopicOrPartition.code();
        PartitionSnapshot::default().with_index(asked.partition).with_error_code(code)
    };
    let topic =
        TopicSnapshot::default().with_name(topic.name.clone()).with_partitions(vec![partition]);
    let node = |(host, port): &(String, u16)| {
        NodeEndpoint::default()
            .with_node_id(BrokerId(me.leader))
            .with_host(host.clone().into())
            .with_port(*port)
    };
    FetchSnapshotResponse::default()
        .with_topics(vec![topic])
        .with_node_endpoints(me.endpoint.iter().map(node).collect())
}

fn answer(
    log: &MetadataLog,
    me: &Answerer<'_>,
    asked: &Asked,
    max_bytes: i32,
) -> PartitionSnapshot {
    let leader =
        LeaderIdAndEpoch::default().with_leader_id(BrokerId(me.leader)).with_leader_epoch(me.epoch);
    let partition = PartitionSnapshot::default().with_current_leader(leader);
    let wrong_leader = match asked.current_leader_epoch.cmp(&me.epoch) {
        Ordering::Less => Some(ErrorCode::FencedLeaderEpoch),
        Ordering::Greater => Some(ErrorCode::UnknownLeaderEpoch),
        Ordering::Equal => (!me.leads).then_some(ErrorCode::NotLeaderOrFollower),
    };
    if let Some(code) = wrong_leader {
        return partition.with_error_code(code.code());
    }
    let id = SnapshotId::new(asked.snapshot_id.end_offset, asked.snapshot_id.epoch);
    match log.snapshots().chunk(id, asked.position, max_bytes) {
        Ok(chunk) => {
            let id = SentId::default().with_end_offset(id.end_offset).with_epoch(id.epoch);
            partition
                .with_snapshot_id(id)
                .with_size(chunk.size as i64)
                .with_position(chunk.position as i64)
                .with_unaligned_records(chunk.bytes)
        }
        Err(refusal) => partition.with_error_code(refusal.code.code()),
    }
}
