//! The quorum's requests and answers as Kafka's messages.
//!
//! All of them name topic and partition, although there is only the metadata log; a request that
//! names another one is not understood. Node endpoints ride along in answers, so that a node that
//! knows nobody learns where the leader is.

use bytes::Bytes;
use kafka_protocol::messages::{
    BeginQuorumEpochRequest, BeginQuorumEpochResponse, BrokerId, EndQuorumEpochRequest,
    EndQuorumEpochResponse, FetchRequest, FetchResponse, TopicName, VoteRequest, VoteResponse,
    begin_quorum_epoch_request as begin_request, begin_quorum_epoch_response as begin_response,
    end_quorum_epoch_request as end_request, end_quorum_epoch_response as end_response,
    fetch_request, fetch_response, vote_request, vote_response,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::messages::{
    BeginRequest, EndRequest, Error, FetchAnswer, FetchId, Known, LogEnd, ReplicaKey,
    VoteRequest as Vote,
};
use super::voters::Endpoint;
use crate::types::{LeaderEpoch, NodeId};

/// The name of the metadata log.
pub const TOPIC: &str = "__cluster_metadata";
pub const TOPIC_ID: Uuid = Uuid::from_u128(1);

/// A node, and where its controller listens.
pub type Address = (NodeId, String, u16);

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic() -> TopicName {
    TopicName(StrBytes::from_static_str(TOPIC))
}

fn leader(id: BrokerId) -> Option<NodeId> {
    (id.0 >= 0).then_some(id.0)
}

fn id(leader: Option<NodeId>) -> BrokerId {
    BrokerId(leader.unwrap_or(-1))
}

fn code(error: Option<Error>) -> i16 {
    error.map_or(0, Error::code)
}

/// An answer without the part that should be there: its error, or nothing that helps.
fn nothing(error: i16) -> Known {
    let error = Error::of(error).or(Some(Error::InvalidRequest));
    Known { error, leader: None, epoch: -1 }
}

pub fn vote_request(cluster: &str, vote: &Vote) -> VoteRequest {
    let voter = vote.voter.unwrap_or(ReplicaKey::new(-1, Uuid::nil()));
    let partition = vote_request::PartitionData::default()
        .with_replica_epoch(vote.epoch)
        .with_replica_id(BrokerId(vote.candidate.id))
        .with_replica_directory_id(vote.candidate.directory)
        .with_voter_directory_id(voter.directory)
        .with_last_offset_epoch(vote.end.epoch)
        .with_last_offset(vote.end.offset)
        .with_pre_vote(vote.pre_vote);
    let topic = vote_request::TopicData::default()
        .with_topic_name(topic())
        .with_partitions(vec![partition]);
    VoteRequest::default()
        .with_cluster_id(Some(text(cluster)))
        .with_voter_id(BrokerId(voter.id))
        .with_topics(vec![topic])
}

pub fn read_vote(request: &VoteRequest) -> Option<Vote> {
    let [topic] = &request.topics[..] else { return None };
    let [it] = &topic.partitions[..] else { return None };
    if &**topic.topic_name != TOPIC || it.partition_index != 0 {
        return None;
    }
    let voter = leader(request.voter_id).map(|id| ReplicaKey::new(id, it.voter_directory_id));
    Some(Vote {
        epoch: it.replica_epoch,
        candidate: ReplicaKey::new(it.replica_id.0, it.replica_directory_id),
        voter,
        end: LogEnd { epoch: it.last_offset_epoch, offset: it.last_offset },
        pre_vote: it.pre_vote,
    })
}

pub fn vote_response(known: Known, granted: bool, nodes: &[Address]) -> VoteResponse {
    let partition = vote_response::PartitionData::default()
        .with_error_code(code(known.error))
        .with_leader_id(id(known.leader))
        .with_leader_epoch(known.epoch)
        .with_vote_granted(granted);
    let topic = vote_response::TopicData::default()
        .with_topic_name(topic())
        .with_partitions(vec![partition]);
    let node = |(id, host, port): &Address| {
        vote_response::NodeEndpoint::default()
            .with_node_id(BrokerId(*id))
            .with_host(text(host))
            .with_port(*port)
    };
    VoteResponse::default()
        .with_topics(vec![topic])
        .with_node_endpoints(nodes.iter().map(node).collect())
}

pub fn read_vote_response(response: &VoteResponse) -> (Known, bool, Vec<Address>) {
    let partition = response.topics.first().and_then(|topic| topic.partitions.first());
    let nodes = response.node_endpoints.iter();
    let nodes = nodes.map(|it| (it.node_id.0, it.host.to_string(), it.port)).collect();
    match partition {
        Some(it) if response.error_code == 0 => {
            let known = Known {
                error: Error::of(it.error_code),
                leader: leader(it.leader_id),
                epoch: it.leader_epoch,
            };
            (known, it.vote_granted && known.error.is_none(), nodes)
        }
        _ => (nothing(response.error_code), false, nodes),
    }
}

pub fn begin_request(
    cluster: &str,
    begin: &BeginRequest,
    endpoints: &[Endpoint],
) -> BeginQuorumEpochRequest {
    let voter = begin.voter.unwrap_or(ReplicaKey::new(-1, Uuid::nil()));
    let partition = begin_request::PartitionData::default()
        .with_voter_directory_id(voter.directory)
        .with_leader_id(BrokerId(begin.leader))
        .with_leader_epoch(begin.epoch);
    let topic = begin_request::TopicData::default()
        .with_topic_name(topic())
        .with_partitions(vec![partition]);
    let endpoint = |it: &Endpoint| {
        begin_request::LeaderEndpoint::default()
            .with_name(text(&it.listener))
            .with_host(text(&it.host))
            .with_port(it.port)
    };
    BeginQuorumEpochRequest::default()
        .with_cluster_id(Some(text(cluster)))
        .with_voter_id(BrokerId(voter.id))
        .with_topics(vec![topic])
        .with_leader_endpoints(endpoints.iter().map(endpoint).collect())
}

pub fn read_begin(
    request: &BeginQuorumEpochRequest,
    listener: &str,
) -> Option<(BeginRequest, Option<Address>)> {
    let [topic] = &request.topics[..] else { return None };
    let [it] = &topic.partitions[..] else { return None };
    if &**topic.topic_name != TOPIC || it.partition_index != 0 {
        return None;
    }
    let voter = leader(request.voter_id).map(|id| ReplicaKey::new(id, it.voter_directory_id));
    let named = request.leader_endpoints.iter().find(|endpoint| &*endpoint.name == listener);
    let address = named.or(request.leader_endpoints.first());
    let address = address.map(|at| (it.leader_id.0, at.host.to_string(), at.port));
    let begin = BeginRequest { epoch: it.leader_epoch, leader: it.leader_id.0, voter };
    Some((begin, address))
}

/// The answers to BeginQuorumEpoch and EndQuorumEpoch differ in their names only.
macro_rules! notice_answer {
    ($write:ident, $read:ident, $response:ident, $schema:ident) => {
        pub fn $write(known: Known) -> $response {
            let partition = $schema::PartitionData::default()
                .with_error_code(code(known.error))
                .with_leader_id(id(known.leader))
                .with_leader_epoch(known.epoch);
            let topic = $schema::TopicData::default()
                .with_topic_name(topic())
                .with_partitions(vec![partition]);
            $response::default().with_topics(vec![topic])
        }

        pub fn $read(response: &$response) -> Known {
            match response.topics.first().and_then(|topic| topic.partitions.first()) {
                Some(it) if response.error_code == 0 => Known {
                    error: Error::of(it.error_code),
                    leader: leader(it.leader_id),
                    epoch: it.leader_epoch,
                },
                _ => nothing(response.error_code),
            }
        }
    };
}

notice_answer!(begin_response, read_begin_response, BeginQuorumEpochResponse, begin_response);
notice_answer!(end_response, read_end_response, EndQuorumEpochResponse, end_response);

pub fn end_request(
    cluster: &str,
    end: &EndRequest,
    preferred: &[ReplicaKey],
    endpoints: &[Endpoint],
) -> EndQuorumEpochRequest {
    let candidate = |key: &ReplicaKey| {
        end_request::ReplicaInfo::default()
            .with_candidate_id(BrokerId(key.id))
            .with_candidate_directory_id(key.directory)
    };
    let partition = end_request::PartitionData::default()
        .with_leader_id(BrokerId(end.leader))
        .with_leader_epoch(end.epoch)
        .with_preferred_candidates(preferred.iter().map(candidate).collect());
    let topic =
        end_request::TopicData::default().with_topic_name(topic()).with_partitions(vec![partition]);
    let endpoint = |it: &Endpoint| {
        end_request::LeaderEndpoint::default()
            .with_name(text(&it.listener))
            .with_host(text(&it.host))
            .with_port(it.port)
    };
    EndQuorumEpochRequest::default()
        .with_cluster_id(Some(text(cluster)))
        .with_topics(vec![topic])
        .with_leader_endpoints(endpoints.iter().map(endpoint).collect())
}

pub fn read_end(request: &EndQuorumEpochRequest) -> Option<EndRequest> {
    let [topic] = &request.topics[..] else { return None };
    let [it] = &topic.partitions[..] else { return None };
    if &**topic.topic_name != TOPIC || it.partition_index != 0 {
        return None;
    }
    let candidates = it.preferred_candidates.iter().map(|it| it.candidate_id.0);
    let preferred = it.preferred_successors.iter().copied().chain(candidates).collect();
    Some(EndRequest { epoch: it.leader_epoch, leader: it.leader_id.0, preferred })
}

/// How a replica fetches.
pub struct Fetching<'a> {
    pub cluster: &'a str,
    pub replica: ReplicaKey,
    pub id: FetchId,
    pub high_watermark: i64,
    pub max_wait_ms: i32,
    pub max_bytes: i32,
}

pub fn fetch_request(it: &Fetching<'_>, version: i16) -> FetchRequest {
    let mut partition = fetch_request::FetchPartition::default()
        .with_current_leader_epoch(it.id.epoch)
        .with_fetch_offset(it.id.end.offset)
        .with_last_fetched_epoch(it.id.end.epoch)
        .with_partition_max_bytes(it.max_bytes)
        .with_replica_directory_id(it.replica.directory);
    if version >= 18 {
        partition.high_watermark = it.high_watermark;
    }
    let topic = fetch_request::FetchTopic::default()
        .with_topic_id(TOPIC_ID)
        .with_partitions(vec![partition]);
    let replica = fetch_request::ReplicaState::default().with_replica_id(BrokerId(it.replica.id));
    FetchRequest::default()
        .with_cluster_id(Some(text(it.cluster)))
        .with_replica_state(replica)
        .with_max_wait_ms(it.max_wait_ms)
        .with_min_bytes(0)
        .with_max_bytes(it.max_bytes)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

pub fn read_fetch_response(response: FetchResponse) -> (FetchAnswer, Vec<Address>) {
    let nodes = response.node_endpoints.iter();
    let port = |port: i32| u16::try_from(port).unwrap_or(0);
    let nodes = nodes.map(|it| (it.node_id.0, it.host.to_string(), port(it.port))).collect();
    let partition = response.responses.into_iter().flat_map(|topic| topic.partitions).next();
    let answer = match partition {
        Some(it) if response.error_code == 0 => fetch_answer(it),
        _ => FetchAnswer {
            known: nothing(response.error_code),
            high_watermark: None,
            diverging: None,
            snapshot: None,
            records: Bytes::new(),
        },
    };
    (answer, nodes)
}

fn fetch_answer(it: fetch_response::PartitionData) -> FetchAnswer {
    let end = |epoch: LeaderEpoch, offset| (epoch >= 0).then_some(LogEnd { epoch, offset });
    FetchAnswer {
        known: Known {
            error: Error::of(it.error_code),
            leader: leader(it.current_leader.leader_id),
            epoch: it.current_leader.leader_epoch,
        },
        high_watermark: (it.high_watermark >= 0).then_some(it.high_watermark),
        diverging: end(it.diverging_epoch.epoch, it.diverging_epoch.end_offset),
        snapshot: end(it.snapshot_id.epoch, it.snapshot_id.end_offset),
        records: it.records.unwrap_or_default(),
    }
}
