//! SyncGroup: the leader hands in the assignments; every member waits for its own.
//!
//! Versions 0 to 5. From 5 the client must name the protocol that it believes in.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, SyncGroupRequest, SyncGroupResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::classic::refuse_sync;
use crate::coordinator::group::effects::answer_in_kind;
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::SyncGroup, 0..=5).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: SyncGroupRequest,
) -> Reply<SyncGroupResponse> {
    let unnamed = request.protocol_type.is_none() || request.protocol_name.is_none();
    if client.version >= 5 && unnamed {
        return Reply::Now(refuse_sync(ErrorCode::InconsistentGroupProtocol));
    }
    if request.group_id.is_empty() {
        return Reply::Now(refuse_sync(ErrorCode::InvalidGroupId));
    }
    let group = request.group_id.clone();
    let answer = broker.groups.call(&group, Call::Sync(request)).await;
    Reply::later(async move { answer_in_kind!(answer.await, Sync) })
}
