//! FindCoordinator: which broker coordinates a group or a transactional id, or keeps the state of a
//! share partition.
//!
//! Versions 0 to 6; from 4 for several keys at once (KIP-699). The first question makes the internal
//! topic; until it has a leader that the client can reach, the answer is
//! COORDINATOR_NOT_AVAILABLE, and clients ask again.
//!
//! Before version 6 a share key is INVALID_REQUEST, as in Kafka; so is a type that nobody knows, and
//! a share key that names no share partition.

use std::sync::Arc;

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{ApiKey, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::image::{Endpoint, Image};
use crate::coordinator::group::partition_of;
use crate::coordinator::runtime::GROUP_METADATA_TOPIC;
use crate::coordinator::share::SHARE_STATE_TOPIC;
use crate::coordinator::share::records::ShareKey;
use crate::coordinator::transaction::TRANSACTION_STATE_TOPIC;
use crate::error::{ErrorCode, Refusal};
use crate::types::NodeId;

pub const API: Api = Api::new(ApiKey::FindCoordinator, 0..=6).handled_by(handler!(handle));

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const SHARE: i8 = 2;

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: FindCoordinatorRequest,
) -> Reply<FindCoordinatorResponse> {
    let image = broker.image.load();
    match request.key_type {
        GROUP if image.topic(GROUP_METADATA_TOPIC).is_none() => broker.groups.topic.make(),
        TRANSACTION if image.topic(TRANSACTION_STATE_TOPIC).is_none() => {
            broker.transactions.topic.make();
        }
        _ => {}
    }
    if image.topic(SHARE_STATE_TOPIC).is_none() && request.key_type == SHARE && client.version >= 6
    {
        broker.share_coordinator.topic.make();
    }
    let find = |key: &StrBytes| {
        let found = locate(&image, client, request.key_type, key);
        coordinator(key.clone(), found)
    };
    if client.version >= 4 {
        let found = request.coordinator_keys.iter().map(find).collect();
        return Reply::Now(FindCoordinatorResponse::default().with_coordinators(found));
    }
    let found = find(&request.key);
    Reply::Now(
        FindCoordinatorResponse::default()
            .with_error_code(found.error_code)
            .with_error_message(found.error_message)
            .with_node_id(found.node_id)
            .with_host(found.host)
            .with_port(found.port),
    )
}

/// The broker and where the client reaches it: on the listener that it came by.
fn locate<'a>(
    image: &'a Image,
    client: &Client,
    key_type: i8,
    key: &str,
) -> Result<(NodeId, &'a Endpoint), Refusal> {
    let topic = match key_type {
        GROUP => GROUP_METADATA_TOPIC,
        TRANSACTION => TRANSACTION_STATE_TOPIC,
        SHARE if client.version >= 6 && ShareKey::from_coordinator_key(key).is_some() => {
            SHARE_STATE_TOPIC
        }
        _ => return Err(ErrorCode::InvalidRequest.into()),
    };
    let not_available = || Refusal::from(ErrorCode::CoordinatorNotAvailable);
    let topic = image.topic(topic).ok_or_else(not_available)?;
    let partition = partition_of(key, topic.partitions.len() as i32);
    let leader = topic.partitions.get(&partition).map(|partition| partition.leader);
    let broker = leader.and_then(|leader| image.broker(leader)).ok_or_else(not_available)?;
    let endpoint = broker.endpoint(&client.connection.listener).filter(|_| !broker.fenced);
    Ok((broker.id, endpoint.ok_or_else(not_available)?))
}

fn coordinator(key: StrBytes, found: Result<(NodeId, &Endpoint), Refusal>) -> Coordinator {
    let answer = Coordinator::default().with_key(key);
    match found {
        Ok((id, endpoint)) => answer
            .with_node_id(id.into())
            .with_host(StrBytes::from_string(endpoint.host.to_string()))
            .with_port(i32::from(endpoint.port)),
        Err(refusal) => answer
            .with_node_id((-1).into())
            .with_port(-1)
            .with_error_code(refusal.code.code())
            .with_error_message(Some(StrBytes::from_string(refusal.message))),
    }
}
