//! ListGroups: the groups that this broker coordinates.
//!
//! Versions 0 to 5; filters by state from 4 (KIP-518), by type from 5 (KIP-848). While one of the
//! partitions is being loaded the answer would be incomplete: COORDINATOR_LOAD_IN_PROGRESS.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, ListGroupsRequest, ListGroupsResponse};
use kafka_protocol::protocol::StrBytes;

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::answer_in_kind;

pub const API: Api = Api::new(ApiKey::ListGroups, 0..=5).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    request: ListGroupsRequest,
) -> Reply<ListGroupsResponse> {
    let texts = |list: Vec<StrBytes>| list.iter().map(ToString::to_string).collect();
    let (states, types) = (texts(request.states_filter), texts(request.types_filter));
    let answer = broker.groups.call_all(Call::List { states, types }).await;
    Reply::Now(match answer_in_kind!(answer, List) {
        Ok(groups) => ListGroupsResponse::default().with_groups(groups),
        Err(code) => ListGroupsResponse::default().with_error_code(code.code()),
    })
}
