//! The metadata quorum, asked through any broker: who votes, who follows, and changing the voters.
//!
//! [`crate::Controllers`] asks the same of the controllers themselves.

use std::collections::BTreeMap;

use kafka_protocol::messages::add_raft_voter_request::Listener;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::describe_quorum_response::{self, ReplicaState};
use kafka_protocol::messages::{
    AddRaftVoterRequest, BrokerId, DescribeQuorumRequest, DescribeQuorumResponse,
    RemoveRaftVoterRequest, UnregisterBrokerRequest,
};
use kafka_protocol::protocol::Request;
use uuid::Uuid;

use super::Admin;
use crate::client::Backoff;
use crate::names::{str_bytes, topic_name};
use crate::{Error, Result};

const METADATA_TOPIC: &str = "__cluster_metadata";
/// How long the leader may wait for a new voter to catch up and for the change to be committed.
const CHANGE_TIMEOUT_MS: i32 = 8_000;

/// The quorum as its leader sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quorum {
    pub leader: i32,
    pub epoch: i32,
    pub high_watermark: i64,
    pub voters: Vec<QuorumReplica>,
    pub observers: Vec<QuorumReplica>,
    /// How nodes are reached, as far as the leader tells: from version 2 on, of voters.
    pub endpoints: BTreeMap<i32, Vec<QuorumEndpoint>>,
}

/// One copy of the metadata log. A node with a new disk is another one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuorumReplica {
    pub id: i32,
    /// Of the metadata directory; nil where the quorum knows none (`kraft.version` 0).
    pub directory: Uuid,
    pub log_end_offset: i64,
    /// In milliseconds since 1970, by the leader's clock; none until it fetched from this leader.
    pub last_fetch: Option<i64>,
    /// When it last had all that the leader had.
    pub last_caught_up: Option<i64>,
}

/// An address of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumEndpoint {
    pub listener: String,
    pub host: String,
    pub port: u16,
}

impl Admin {
    /// The quorum, as its leader told the broker that was asked.
    pub async fn describe_quorum(&self) -> Result<Quorum> {
        self.until_led(&describe(), described).await
    }

    /// Makes `id` with its directory a voter, reached at `endpoints`.
    pub async fn add_raft_voter(
        &self,
        id: i32,
        directory: Uuid,
        endpoints: &[QuorumEndpoint],
    ) -> Result<()> {
        let answer = self.client.call_any(&add(id, directory, endpoints)).await?;
        Error::check(answer.error_code, answer.error_message.as_deref())
    }

    /// Takes its vote from `id` with this directory.
    pub async fn remove_raft_voter(&self, id: i32, directory: Uuid) -> Result<()> {
        let answer = self.client.call_any(&remove(id, directory)).await?;
        Error::check(answer.error_code, answer.error_message.as_deref())
    }

    /// Forgets the registration of a broker that will not come back.
    pub async fn unregister_broker(&self, id: i32) -> Result<()> {
        let answer = self.client.call_any(&unregister(id)).await?;
        Error::check(answer.error_code, answer.error_message.as_deref())
    }

    /// Asks again while the answer is that nobody leads at the moment.
    async fn until_led<R: Request, T>(
        &self,
        request: &R,
        read: impl Fn(R::Response) -> Result<T>,
    ) -> Result<T> {
        let mut backoff = Backoff::until(self.client.options().api_timeout);
        loop {
            match self.client.call_any(request).await.and_then(&read) {
                Err(error) if error.is_retriable() && backoff.wait().await => {}
                other => return other,
            }
        }
    }
}

pub(crate) fn describe() -> DescribeQuorumRequest {
    let topic = TopicData::default()
        .with_topic_name(topic_name(METADATA_TOPIC))
        .with_partitions(vec![PartitionData::default()]);
    DescribeQuorumRequest::default().with_topics(vec![topic])
}

pub(crate) fn add(id: i32, directory: Uuid, endpoints: &[QuorumEndpoint]) -> AddRaftVoterRequest {
    let listeners = endpoints.iter().map(|one| {
        Listener::default()
            .with_name(str_bytes(&one.listener))
            .with_host(str_bytes(&one.host))
            .with_port(one.port)
    });
    AddRaftVoterRequest::default()
        .with_cluster_id(None)
        .with_timeout_ms(CHANGE_TIMEOUT_MS)
        .with_voter_id(id)
        .with_voter_directory_id(directory)
        .with_listeners(listeners.collect())
}

pub(crate) fn remove(id: i32, directory: Uuid) -> RemoveRaftVoterRequest {
    RemoveRaftVoterRequest::default()
        .with_cluster_id(None)
        .with_voter_id(id)
        .with_voter_directory_id(directory)
}

pub(crate) fn unregister(id: i32) -> UnregisterBrokerRequest {
    UnregisterBrokerRequest::default().with_broker_id(BrokerId(id))
}

pub(crate) fn described(answer: DescribeQuorumResponse) -> Result<Quorum> {
    Error::check(answer.error_code, answer.error_message.as_deref())?;
    let topic = answer.topics.into_iter().next();
    let partition =
        topic.and_then(|topic| topic.partitions.into_iter().next()).ok_or_else(|| {
            Error::Protocol(
                "the answer to DescribeQuorum says nothing about the metadata log".into(),
            )
        })?;
    Error::check(partition.error_code, partition.error_message.as_deref())?;
    let endpoints = answer
        .nodes
        .iter()
        .map(|node| (node.node_id.0, node.listeners.iter().map(endpoint).collect::<Vec<_>>()));
    Ok(Quorum {
        leader: partition.leader_id.0,
        epoch: partition.leader_epoch,
        high_watermark: partition.high_watermark,
        voters: partition.current_voters.iter().map(replica).collect(),
        observers: partition.observers.iter().map(replica).collect(),
        endpoints: endpoints.collect(),
    })
}

fn endpoint(listener: &describe_quorum_response::Listener) -> QuorumEndpoint {
    QuorumEndpoint {
        listener: listener.name.to_string(),
        host: listener.host.to_string(),
        port: listener.port,
    }
}

fn replica(state: &ReplicaState) -> QuorumReplica {
    let time = |millis: i64| (millis >= 0).then_some(millis);
    QuorumReplica {
        id: state.replica_id.0,
        directory: state.replica_directory_id,
        log_end_offset: state.log_end_offset,
        last_fetch: time(state.last_fetch_timestamp),
        last_caught_up: time(state.last_caught_up_timestamp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;

    fn answer(partition: describe_quorum_response::PartitionData) -> DescribeQuorumResponse {
        let topic = describe_quorum_response::TopicData::default()
            .with_topic_name(topic_name(METADATA_TOPIC))
            .with_partitions(vec![partition]);
        DescribeQuorumResponse::default().with_topics(vec![topic])
    }

    #[test]
    fn a_time_of_minus_one_is_no_time() {
        let state = ReplicaState::default()
            .with_replica_id(BrokerId(2))
            .with_last_fetch_timestamp(-1)
            .with_last_caught_up_timestamp(7);
        let partition = describe_quorum_response::PartitionData::default()
            .with_leader_id(BrokerId(1))
            .with_current_voters(vec![state]);
        let quorum = described(answer(partition)).expect("an answer without an error");
        assert_eq!((quorum.leader, quorum.voters[0].id), (1, 2));
        assert_eq!((quorum.voters[0].last_fetch, quorum.voters[0].last_caught_up), (None, Some(7)));
    }

    #[test]
    fn an_error_of_the_partition_is_an_error() {
        let code = ErrorCode::NotLeaderOrFollower;
        let partition =
            describe_quorum_response::PartitionData::default().with_error_code(code.code());
        let error = described(answer(partition)).expect_err("not the leader");
        assert_eq!(error.code(), Some(code));
        assert!(described(DescribeQuorumResponse::default()).is_err());
    }
}
