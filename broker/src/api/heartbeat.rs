//! Heartbeat: a member lives, and learns whether it must join again.
//!
//! Versions 0 to 4.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, HeartbeatRequest, HeartbeatResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::answer_in_kind;
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::Heartbeat, 0..=4).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    request: HeartbeatRequest,
) -> Reply<HeartbeatResponse> {
    if request.group_id.is_empty() {
        let code = ErrorCode::InvalidGroupId.code();
        return Reply::Now(HeartbeatResponse::default().with_error_code(code));
    }
    let group = request.group_id.clone();
    let answer = broker.groups.call(&group, Call::Heartbeat(request)).await;
    Reply::later(async move { answer_in_kind!(answer.await, Heartbeat) })
}
