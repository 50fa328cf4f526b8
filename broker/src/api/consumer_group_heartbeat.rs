//! ConsumerGroupHeartbeat: a member of a consumer group (KIP-848) joins, shows that it is alive,
//! reports what it owns, is told what it shall own, or leaves.
//!
//! Versions 0 and 1. From 1 on members subscribe by pattern, too, and bring their own ids (KIP-1082).
//! Refused with UNSUPPORTED_VERSION unless group.version is 1 and
//! `group.coordinator.rebalance.protocols` has "consumer".

use std::sync::Arc;

use kafka_protocol::messages::{
    ApiKey, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::join_group::java_address;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::consumer::{HeartbeatCall, check_request};
use crate::coordinator::group::effects::answer_in_kind;
use crate::error::{ErrorCode, Refusal};

pub const API: Api = Api::new(ApiKey::ConsumerGroupHeartbeat, 0..=1).handled_by(handler!(handle));

/// Whether there may be consumer groups in this cluster, and on this broker.
pub(super) fn is_enabled(broker: &Broker) -> bool {
    broker.groups.settings.consumer.enabled && broker.image.load().feature("group.version") > 0
}

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: ConsumerGroupHeartbeatRequest,
) -> Reply<ConsumerGroupHeartbeatResponse> {
    if !is_enabled(broker) {
        return Reply::Now(refusal(&ErrorCode::UnsupportedVersion.into()));
    }
    let assignors = &broker.groups.settings.consumer.assignors;
    if let Err(refused) = check_request(&request, client.version, assignors) {
        return Reply::Now(refusal(&refused));
    }
    let group = request.group_id.clone();
    let call = HeartbeatCall {
        client_id: client.id.as_deref().unwrap_or_default().to_owned(),
        client_host: java_address(client.connection.address.ip()),
        new_id: broker.env.random.uuid(),
        request,
    };
    let answer = broker.groups.call(&group, Call::ConsumerHeartbeat(Box::new(call))).await;
    Reply::later(async move { answer_in_kind!(answer.await, ConsumerHeartbeat) })
}

fn refusal(refusal: &Refusal) -> ConsumerGroupHeartbeatResponse {
    ConsumerGroupHeartbeatResponse::default()
        .with_error_code(refusal.code.code())
        .with_error_message(Some(StrBytes::from_string(refusal.message.clone())))
}
