//! The controller's side of KRaft's reads: Fetch of the metadata log, and DescribeQuorum.
//!
//! A fetch names the epoch that the fetcher believes in and the epoch of its last record: it is
//! told who leads, where its log parts from ours, or gets committed batches. At the end it waits
//! for the high watermark to move. Deliberately absent so far: snapshots; the log is kept whole,
//! so nobody can be behind its start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::describe_quorum_response::{
    Listener, Node, PartitionData as QuorumPartition, ReplicaState, TopicData as QuorumTopic,
};
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{
    EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, PartitionData,
};
use kafka_protocol::messages::{
    BrokerId, DescribeQuorumRequest, DescribeQuorumResponse, FetchRequest, FetchResponse,
};
use uuid::Uuid;

use super::driver::Controller;
use super::topics::{METADATA_TOPIC, METADATA_TOPIC_ID};
use crate::error::ErrorCode;
use crate::types::{Millis, NodeId, Offset};

/// No fetch waits longer than this.
const MAX_WAIT: Duration = Duration::from_secs(10);
const MAX_BYTES: usize = 8 << 20;

/// Who follows the metadata log, and how far each one is.
pub(super) type Observers = BTreeMap<NodeId, Observed>;

#[derive(Debug, Clone, Copy)]
pub(super) struct Observed {
    directory: Uuid,
    end_offset: Offset,
    fetched_at: Millis,
    caught_up_at: Millis,
}

/// Answers a Fetch whose one partition is the metadata log's.
///
/// Called for every Fetch on the controller listener, and for one on a broker's listener that
/// names `__cluster_metadata` or its id.
pub async fn serve_metadata_fetch(
    controller: &Arc<Controller>,
    request: &FetchRequest,
) -> FetchResponse {
    if request.cluster_id.as_deref().is_some_and(|id| *id != *controller.cluster_id) {
        return FetchResponse::default().with_error_code(ErrorCode::InconsistentClusterId.code());
    }
    let [topic] = &request.topics[..] else { return invalid() };
    let [asked] = &topic.partitions[..] else { return invalid() };
    if topic.topic_id != METADATA_TOPIC_ID && &*topic.topic != METADATA_TOPIC {
        let unknown = PartitionData::default()
            .with_partition_index(asked.partition)
            .with_error_code(ErrorCode::UnknownTopicId.code());
        return answer(topic.topic_id, unknown);
    }
    // From version 15 on the replica id has a place of its own, and the old one reads -1.
    let replica = request.replica_id.0.max(request.replica_state.replica_id.0);
    answer(METADATA_TOPIC_ID, serve_partition(controller, request, asked, replica).await)
}

fn invalid() -> FetchResponse {
    FetchResponse::default().with_error_code(ErrorCode::InvalidRequest.code())
}

fn answer(topic_id: Uuid, partition: PartitionData) -> FetchResponse {
    let topic = FetchableTopicResponse::default()
        .with_topic(kafka_protocol::messages::TopicName(METADATA_TOPIC.into()))
        .with_topic_id(topic_id)
        .with_partitions(vec![partition]);
    FetchResponse::default().with_responses(vec![topic])
}

async fn serve_partition(
    controller: &Arc<Controller>,
    request: &FetchRequest,
    asked: &FetchPartition,
    replica: NodeId,
) -> PartitionData {
    let leader = LeaderIdAndEpoch::default()
        .with_leader_id(BrokerId(controller.node_id))
        .with_leader_epoch(controller.epoch);
    let base = PartitionData::default()
        .with_partition_index(asked.partition)
        .with_current_leader(leader)
        .with_records(Some(bytes::Bytes::new()));
    let refuse = |code: ErrorCode| base.clone().with_error_code(code.code());
    if asked.partition != 0 {
        return refuse(ErrorCode::UnknownTopicOrPartition);
    }
    if asked.current_leader_epoch >= 0 && asked.current_leader_epoch < controller.epoch {
        return refuse(ErrorCode::FencedLeaderEpoch);
    }
    if asked.current_leader_epoch > controller.epoch {
        return refuse(ErrorCode::UnknownLeaderEpoch);
    }
    let log = &controller.log;
    let mut high_watermark = controller.high_watermark.clone();
    let committed = |mark: Offset| {
        base.clone()
            .with_high_watermark(mark)
            .with_last_stable_offset(mark)
            .with_log_start_offset(log.start_offset())
    };
    // An empty log agrees with any; Kafka gives its last epoch as 0.
    if asked.fetch_offset > 0 {
        let (epoch, end) = log.end_of_epoch(asked.last_fetched_epoch);
        // The protocol cannot say "before all epochs"; no epoch is 0.
        let epoch = epoch.max(0);
        if epoch != asked.last_fetched_epoch || end < asked.fetch_offset {
            let parted = EpochEndOffset::default().with_epoch(epoch).with_end_offset(end);
            let mark = *high_watermark.borrow();
            return committed(mark).with_diverging_epoch(parted);
        }
    }
    controller.observe(replica, asked);
    let wait = Duration::from_millis(request.max_wait_ms.max(0) as u64).min(MAX_WAIT);
    let moved = high_watermark.wait_for(|mark| *mark > asked.fetch_offset);
    let mark = match tokio::time::timeout(wait, moved).await {
        Ok(Ok(mark)) => *mark,
        Ok(Err(_)) => return refuse(ErrorCode::NotLeaderOrFollower),
        Err(_) => asked.fetch_offset.min(*controller.high_watermark.borrow()),
    };
    let mark = mark.max(*controller.high_watermark.borrow());
    let max = (asked.partition_max_bytes.max(1) as usize).min(MAX_BYTES);
    let (log, from) = (controller.log.clone(), asked.fetch_offset);
    match controller.env.blocking(move || log.read(from, mark, max)).await {
        Ok(records) => committed(mark).with_records(Some(records)),
        Err(fault) => {
            tracing::error!(%fault, "cannot read the metadata log");
            refuse(ErrorCode::KafkaStorageError)
        }
    }
}

impl Controller {
    fn observe(&self, replica: NodeId, asked: &FetchPartition) {
        if replica < 0 {
            return;
        }
        let now = self.env.clock.wall_ms();
        let caught_up = asked.fetch_offset >= *self.high_watermark.borrow();
        let mut observers = self.observers.lock();
        let before = observers.get(&replica).map_or(-1, |it| it.caught_up_at);
        observers.insert(
            replica,
            Observed {
                directory: asked.replica_directory_id,
                end_offset: asked.fetch_offset,
                fetched_at: now,
                caught_up_at: if caught_up { now } else { before },
            },
        );
    }

    /// Who votes, who follows, and how far each one is.
    pub fn describe_quorum(&self, request: &DescribeQuorumRequest) -> DescribeQuorumResponse {
        let now = self.env.clock.wall_ms();
        let replica = |id: NodeId, it: &Observed| {
            ReplicaState::default()
                .with_replica_id(BrokerId(id))
                .with_replica_directory_id(it.directory)
                .with_log_end_offset(it.end_offset)
                .with_last_fetch_timestamp(it.fetched_at)
                .with_last_caught_up_timestamp(it.caught_up_at)
        };
        let myself = Observed {
            directory: self.directory_id,
            end_offset: self.log.end_offset(),
            fetched_at: now,
            caught_up_at: now,
        };
        // An observer that has not fetched for long has gone.
        let recent = |it: &&Observed| now - it.fetched_at < 300_000;
        let observers = self.observers.lock();
        let observers: Vec<_> = observers
            .iter()
            .filter(|(id, it)| **id != self.node_id && recent(it))
            .map(|(id, it)| replica(*id, it))
            .collect();
        let partition = QuorumPartition::default()
            .with_error_message(None)
            .with_leader_id(BrokerId(self.node_id))
            .with_leader_epoch(self.epoch)
            .with_high_watermark(*self.high_watermark.borrow())
            .with_current_voters(vec![replica(self.node_id, &myself)])
            .with_observers(observers);
        let unknown = |index: i32| {
            QuorumPartition::default()
                .with_partition_index(index)
                .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
        };
        let topics = request.topics.iter().map(|topic| {
            let known = &*topic.topic_name == METADATA_TOPIC;
            let partitions = topic.partitions.iter().map(|asked| match asked.partition_index {
                0 if known => partition.clone(),
                index => unknown(index),
            });
            QuorumTopic::default()
                .with_topic_name(topic.topic_name.clone())
                .with_partitions(partitions.collect())
        });
        let topics = topics.collect();
        DescribeQuorumResponse::default()
            .with_error_message(None)
            .with_topics(topics)
            .with_nodes(self.controller_nodes())
    }

    fn controller_nodes(&self) -> Vec<Node> {
        let image = self.metadata.image();
        let node = |controller: &super::image::ControllerImage| {
            let listener = |endpoint: &super::image::Endpoint| {
                Listener::default()
                    .with_name(endpoint.listener.to_string().into())
                    .with_host(endpoint.host.to_string().into())
                    .with_port(endpoint.port)
            };
            Node::default()
                .with_node_id(BrokerId(controller.id))
                .with_listeners(controller.endpoints.iter().map(listener).collect())
        };
        image.controllers().map(node).collect()
    }
}
