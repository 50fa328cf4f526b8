//! What only the controller decides, as the listeners for clients serve it: passed on unread.
//!
//! The body goes to the active controller inside an Envelope (KIP-590), in the name of the client,
//! and its answer comes back as it is. When no controller answers in time the request is read after
//! all, and refused in the way of its API, as Kafka does; only a controller that does not know the
//! version makes the connection close, so that the client asks for versions anew. Invariant: the
//! versions are those that the controller's listeners serve; a test holds the two lists against
//! each other.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::messages::{
    AddRaftVoterRequest, AlterConfigsRequest, AlterPartitionReassignmentsRequest, ApiKey,
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeQuorumRequest,
    ElectLeadersRequest, IncrementalAlterConfigsRequest, ListPartitionReassignmentsRequest,
    RemoveRaftVoterRequest, UnregisterBrokerRequest, UpdateFeaturesRequest,
};
use tracing::debug;

use super::controller::Refusable;
use super::{Answer, Api, Client, Unreadable, decode, encode_body};
use crate::broker::Broker;
use crate::controller::link::LinkError;
use crate::error::{ErrorCode, Refusal};

pub const CREATE_TOPICS: Api = passed_on::<CreateTopicsRequest>(ApiKey::CreateTopics, 2, 7);
pub const DELETE_TOPICS: Api = passed_on::<DeleteTopicsRequest>(ApiKey::DeleteTopics, 1, 6);
pub const CREATE_PARTITIONS: Api =
    passed_on::<CreatePartitionsRequest>(ApiKey::CreatePartitions, 0, 3);
pub const ALTER_CONFIGS: Api = passed_on::<AlterConfigsRequest>(ApiKey::AlterConfigs, 0, 2);
pub const INCREMENTAL_ALTER_CONFIGS: Api =
    passed_on::<IncrementalAlterConfigsRequest>(ApiKey::IncrementalAlterConfigs, 0, 1);
pub const ELECT_LEADERS: Api = passed_on::<ElectLeadersRequest>(ApiKey::ElectLeaders, 0, 2);
pub const ALTER_PARTITION_REASSIGNMENTS: Api =
    passed_on::<AlterPartitionReassignmentsRequest>(ApiKey::AlterPartitionReassignments, 0, 1);
pub const LIST_PARTITION_REASSIGNMENTS: Api =
    passed_on::<ListPartitionReassignmentsRequest>(ApiKey::ListPartitionReassignments, 0, 0);
pub const UNREGISTER_BROKER: Api =
    passed_on::<UnregisterBrokerRequest>(ApiKey::UnregisterBroker, 0, 0);
pub const UPDATE_FEATURES: Api = passed_on::<UpdateFeaturesRequest>(ApiKey::UpdateFeatures, 0, 2);
pub const DESCRIBE_QUORUM: Api = passed_on::<DescribeQuorumRequest>(ApiKey::DescribeQuorum, 0, 2);
pub const ADD_RAFT_VOTER: Api = passed_on::<AddRaftVoterRequest>(ApiKey::AddRaftVoter, 0, 0);
pub const REMOVE_RAFT_VOTER: Api =
    passed_on::<RemoveRaftVoterRequest>(ApiKey::RemoveRaftVoter, 0, 0);

const fn passed_on<R: Refusable + Send>(key: ApiKey, min: i16, max: i16) -> Api {
    Api::new(key, min..=max).handled_by(pass_on::<R>)
}

fn pass_on<'a, R: Refusable + Send>(
    broker: &'a Arc<Broker>,
    client: &'a Client,
    body: Bytes,
) -> BoxFuture<'a, Result<Answer, Unreadable>> {
    let (link, client) = (broker.link.clone(), client.clone());
    let answer = async move {
        match link.forward(&client, body.clone()).await {
            Ok(answer) => Ok(vec![answer]),
            Err(error) => {
                debug!(api = ?client.api, %error, "could not be passed on");
                refuse::<R>(&client, body, &error)
            }
        }
    };
    Box::pin(std::future::ready(Ok(Answer::Later(Box::pin(answer)))))
}

/// The answer to a request that reached no controller.
fn refuse<R: Refusable>(
    client: &Client,
    body: Bytes,
    error: &LinkError,
) -> Result<Vec<Bytes>, Unreadable> {
    let code = match error {
        LinkError::Refused(ErrorCode::UnsupportedVersion) => {
            return Err(Unreadable(format!("{:?} could not be passed on: {error}", client.api)));
        }
        LinkError::TimedOut(..) => ErrorCode::RequestTimedOut,
        // The client tries again, and the controller that was may be found by then.
        LinkError::Refused(code @ ErrorCode::NotController) => *code,
        LinkError::Refused(_) | LinkError::Unreadable(_) => ErrorCode::UnknownServerError,
    };
    let request: R = decode(client, body)?;
    let refusal = Refusal::new(code, error.to_string());
    encode_body(client.api, client.version, &request.refuse(client.version, &refusal))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::create_topics_request::CreatableTopic;
    use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
    use kafka_protocol::messages::{CreateTopicsResponse, ElectLeadersResponse, TopicName};
    use kafka_protocol::protocol::Decodable;
    use parking_lot::Mutex;

    use super::*;
    use crate::api::{Attached, Connection, Principal, Scope, table};
    use crate::controller::link::is_forwardable;
    use crate::wire::key::Key;

    fn client(api: Key, version: i16) -> Client {
        let connection = Arc::new(Connection {
            number: 0,
            address: "127.0.0.1:9".parse().unwrap(),
            listener: "INSIDE".into(),
            scope: Scope::Broker,
            principal: Principal::ANONYMOUS,
            software: Mutex::new(None),
            misdirected: std::sync::atomic::AtomicBool::new(false),
            attached: Attached::default(),
        });
        Client { connection, id: None, api, version, correlation: 1 }
    }

    fn refused<R: Refusable>(
        version: i16,
        request: &R,
        error: &LinkError,
    ) -> Result<R::Response, Unreadable> {
        let mut body = BytesMut::new();
        request.encode(&mut body, version).unwrap();
        let client = client(ApiKey::try_from(R::KEY).unwrap().into(), version);
        let answer = refuse::<R>(&client, body.freeze(), error)?;
        let mut answer = Bytes::from(answer.concat());
        let response = R::Response::decode(&mut answer, version).unwrap();
        assert!(answer.is_empty());
        Ok(response)
    }

    fn time_out() -> LinkError {
        LinkError::TimedOut(std::time::Duration::from_secs(30), "nobody there".into())
    }

    fn in_every_version<R: Refusable + Default>() -> usize {
        let api = table::find(Scope::Broker, R::KEY).unwrap();
        for version in api.advertised() {
            refused(version, &R::default(), &time_out()).unwrap();
        }
        api.advertised().count()
    }

    #[test]
    fn without_a_controller_every_api_is_answered_in_every_version() {
        let answered = in_every_version::<CreateTopicsRequest>()
            + in_every_version::<DeleteTopicsRequest>()
            + in_every_version::<CreatePartitionsRequest>()
            + in_every_version::<AlterConfigsRequest>()
            + in_every_version::<IncrementalAlterConfigsRequest>()
            + in_every_version::<ElectLeadersRequest>()
            + in_every_version::<DescribeQuorumRequest>()
            + in_every_version::<AddRaftVoterRequest>()
            + in_every_version::<RemoveRaftVoterRequest>();
        assert_eq!(answered, 6 + 6 + 4 + 3 + 2 + 3 + 3 + 1 + 1);
    }

    #[test]
    fn each_part_of_a_request_is_told_why_and_an_unknown_version_closes_the_connection() {
        let name = || TopicName("orders".into());
        let request = CreateTopicsRequest::default()
            .with_topics(vec![CreatableTopic::default().with_name(name())]);
        let code = |error: &LinkError| {
            let answer: CreateTopicsResponse = refused(7, &request, error).unwrap();
            assert_eq!((answer.topics.len(), &answer.topics[0].name), (1, &name()));
            answer.topics[0].error_code
        };
        assert_eq!(code(&time_out()), 7);
        assert_eq!(code(&LinkError::Refused(ErrorCode::NotController)), 41);
        assert_eq!(code(&LinkError::Refused(ErrorCode::InvalidRequest)), -1);
        assert_eq!(code(&LinkError::Unreadable("noise".into())), -1);
        let closed = refused(7, &request, &LinkError::Refused(ErrorCode::UnsupportedVersion));
        assert!(closed.is_err());

        let partitions = TopicPartitions::default().with_topic(name()).with_partitions(vec![0, 3]);
        let request = ElectLeadersRequest::default().with_topic_partitions(Some(vec![partitions]));
        let answer: ElectLeadersResponse = refused(0, &request, &time_out()).unwrap();
        let told = &answer.replica_election_results[0].partition_result;
        let told: Vec<_> = told.iter().map(|it| (it.partition_id, it.error_code)).collect();
        assert_eq!(told, [(0, 7), (3, 7)]);
    }

    #[test]
    fn brokers_and_controllers_agree_on_what_is_passed_on_and_in_which_versions() {
        let mut passed_on = 0;
        for api in table::apis(Scope::Broker).iter().filter(|api| is_forwardable(api.key)) {
            let decided = table::find(Scope::Controller, api.key.number()).unwrap();
            assert_eq!(api.advertised(), decided.advertised(), "{api:?}");
            passed_on += 1;
        }
        assert_eq!(passed_on, 13);
    }
}
