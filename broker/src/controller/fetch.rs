//! The controller's side of KRaft's reads: Fetch of the metadata log, and DescribeQuorum.
//!
//! The quorum knows the answers; here they get their form, and the nodes their addresses.

use std::sync::Arc;

use kafka_protocol::messages::describe_quorum_response::{
    Listener, Node, PartitionData as QuorumPartition, ReplicaState, TopicData as QuorumTopic,
};
use kafka_protocol::messages::{
    BrokerId, DescribeQuorumRequest, DescribeQuorumResponse, FetchRequest, FetchResponse,
    FetchSnapshotRequest, FetchSnapshotResponse,
};

use super::driver::Controller;
use super::topics::METADATA_TOPIC;
use crate::error::ErrorCode;
use crate::raft::messages::ReplicaKey;
use crate::raft::rpc::text;
use crate::raft::serve::Description;
use crate::types::{Millis, NodeId};

/// An observer that has not fetched for so long has gone.
const GONE: Millis = 300_000;

/// Answers a Fetch whose one partition is the metadata log's.
pub async fn serve_metadata_fetch(
    controller: &Arc<Controller>,
    request: &FetchRequest,
) -> FetchResponse {
    controller.quorum.fetch(request).await
}

impl Controller {
    /// Answers a FetchSnapshot.
    pub async fn fetch_snapshot(&self, request: FetchSnapshotRequest) -> FetchSnapshotResponse {
        self.quorum.fetch_snapshot(request).await
    }

    /// Who votes, who follows, and how far each one is. Only the leader knows.
    pub async fn describe_quorum(&self, request: &DescribeQuorumRequest) -> DescribeQuorumResponse {
        let described = self.quorum.describe().await.filter(|it| it.status.leads);
        let wall = self.env.clock.wall_ms();
        let partition = match &described {
            Some(it) => partition(it, wall),
            None => refused(0, ErrorCode::NotLeaderOrFollower),
        };
        let topics = request.topics.iter().map(|topic| {
            let known = &*topic.topic_name == METADATA_TOPIC;
            let partitions = topic.partitions.iter().map(|asked| match asked.partition_index {
                0 if known => partition.clone(),
                index => refused(index, ErrorCode::UnknownTopicOrPartition),
            });
            QuorumTopic::default()
                .with_topic_name(topic.topic_name.clone())
                .with_partitions(partitions.collect())
        });
        let topics = topics.collect();
        DescribeQuorumResponse::default()
            .with_error_message(None)
            .with_topics(topics)
            .with_nodes(described.map(|it| self.nodes(&it)).unwrap_or_default())
    }

    /// The voters as the log names them, and every other controller as it has registered.
    fn nodes(&self, described: &Description) -> Vec<Node> {
        let listener = |name: &str, host: &str, port: u16| {
            Listener::default().with_name(text(name)).with_host(text(host)).with_port(port)
        };
        let voters = described.voters.iter().map(|voter| {
            let at = voter.endpoints.iter().map(|it| listener(&it.listener, &it.host, it.port));
            Node::default().with_node_id(BrokerId(voter.key.id)).with_listeners(at.collect())
        });
        let image = self.metadata.image();
        let votes = |id: NodeId| described.voters.iter().any(|voter| voter.key.id == id);
        let others = image.controllers().filter(|it| !votes(it.id)).map(|controller| {
            let at = controller.endpoints.iter();
            let at = at.map(|it| listener(&it.listener, &it.host, it.port));
            Node::default().with_node_id(BrokerId(controller.id)).with_listeners(at.collect())
        });
        voters.chain(others).collect()
    }
}

fn refused(index: i32, code: ErrorCode) -> QuorumPartition {
    QuorumPartition::default()
        .with_partition_index(index)
        .with_error_code(code.code())
        .with_error_message(Some(text(&code.to_string())))
}

fn partition(described: &Description, wall: Millis) -> QuorumPartition {
    let Description { status, me, voters, replicas, now, .. } = described;
    let at = |time: Millis| if time < 0 { -1 } else { wall - (now - time) };
    let unknown = |key: &ReplicaKey| {
        ReplicaState::default()
            .with_replica_id(BrokerId(key.id))
            .with_replica_directory_id(key.directory)
            .with_log_end_offset(-1)
            .with_last_fetch_timestamp(-1)
            .with_last_caught_up_timestamp(-1)
    };
    let state = |key: &ReplicaKey| match replicas.iter().find(|(other, _)| other == key) {
        // The leader does not fetch, and lacks nothing.
        _ if key.id == me.id => unknown(key)
            .with_log_end_offset(status.end)
            .with_last_fetch_timestamp(wall)
            .with_last_caught_up_timestamp(wall),
        Some((_, it)) => unknown(key)
            .with_log_end_offset(it.end)
            .with_last_fetch_timestamp(at(it.fetched_at))
            .with_last_caught_up_timestamp(at(it.caught_up_at)),
        None => unknown(key),
    };
    let votes = |key: &ReplicaKey| voters.iter().any(|voter| voter.key == *key);
    let observers = replicas
        .iter()
        .filter(|(key, it)| !votes(key) && now - it.fetched_at < GONE)
        .map(|(key, _)| state(key));
    QuorumPartition::default()
        .with_error_message(None)
        .with_leader_id(BrokerId(status.leader.unwrap_or(-1)))
        .with_leader_epoch(status.epoch)
        .with_high_watermark(status.high_watermark)
        .with_current_voters(voters.iter().map(|voter| state(&voter.key)).collect())
        .with_observers(observers.collect())
}
