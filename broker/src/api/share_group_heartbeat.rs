//! ShareGroupHeartbeat: a member of a share group (KIP-932) joins, shows that it is alive, is told
//! which partitions to fetch from, or leaves.
//!
//! Version 1. Refused with UNSUPPORTED_VERSION unless share.version is 1. A heartbeat that brings a
//! partition into the group for the first time is answered once the share coordinator keeps its
//! state, or could not be asked; the partition is assigned from the next heartbeat on.

use std::sync::Arc;

use futures::future::join_all;
use kafka_protocol::messages::{
    ApiKey, GroupId, ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::join_group::java_address;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::answer_in_kind;
use crate::coordinator::group::share::{Heartbeat, Initialize, Named, check_request};
use crate::coordinator::share::records::ShareKey;
use crate::coordinator::share::shard::{self, What};
use crate::error::{ErrorCode, Refusal};
use crate::types::Offset;

pub const API: Api = Api::new(ApiKey::ShareGroupHeartbeat, 1..=1).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: ShareGroupHeartbeatRequest,
) -> Reply<ShareGroupHeartbeatResponse> {
    if !broker.shares.is_enabled() {
        return Reply::Now(refusal(&ErrorCode::UnsupportedVersion.into()));
    }
    if let Err(refused) = check_request(&request) {
        return Reply::Now(refusal(&refused));
    }
    let group = request.group_id.clone();
    let call = Heartbeat {
        client_id: client.id.as_deref().unwrap_or_default().to_owned(),
        client_host: java_address(client.connection.address.ip()),
        request,
    };
    let answer = broker.groups.call(&group, Call::ShareHeartbeat(Box::new(call))).await;
    let broker = broker.clone();
    Reply::later(async move {
        match answer_in_kind!(answer.await, ShareHeartbeat) {
            Ok((response, None)) => response,
            Ok((response, Some(Initialize { state_epoch, topics }))) => {
                let starts = every(&topics, -1);
                initialize(&broker, &group, state_epoch, &topics, &starts).await;
                response
            }
            Err(refused) => refusal(&refused),
        }
    })
}

/// Where each partition of `topics` is to start.
pub(super) type Starts = Vec<(uuid::Uuid, i32, Offset)>;

fn every(topics: &Named, start: Offset) -> Starts {
    let each = topics.iter().flat_map(|(topic, (_, its))| its.iter().map(move |it| (*topic, *it)));
    each.map(|(topic, partition)| (topic, partition, start)).collect()
}

/// Has the share coordinator keep the states, and the group note those that it keeps. Returns what
/// failed.
pub(super) async fn initialize(
    broker: &Broker,
    group: &GroupId,
    state_epoch: i32,
    topics: &Named,
    starts: &Starts,
) -> Vec<(uuid::Uuid, i32, Refusal)> {
    let calls = starts.iter().map(|(topic_id, partition, start)| async move {
        let key = ShareKey { group: group.to_string(), topic_id: *topic_id, partition: *partition };
        let what = What::Initialize { state_epoch, start: *start };
        let answer = broker.shares.coordinator().call(shard::Call { key, what }).await;
        match answer {
            shard::Answer::Done(Ok(())) => None,
            shard::Answer::Done(Err(refusal)) => Some((*topic_id, *partition, refusal)),
            _ => Some((*topic_id, *partition, ErrorCode::UnknownServerError.into())),
        }
    });
    let failed: Vec<_> = join_all(calls).await.into_iter().flatten().collect();
    let mut kept = topics.clone();
    for (topic_id, partition, refusal) in &failed {
        tracing::warn!(group = group.as_str(), %topic_id, partition, %refusal, "no state is kept");
        if let Some((_, its)) = kept.get_mut(topic_id) {
            its.remove(partition);
        }
    }
    kept.retain(|_, (_, its)| !its.is_empty());
    if !kept.is_empty() {
        let call = Call::ShareInitialized { group: group.clone(), topics: kept };
        let noted = answer_in_kind!(broker.groups.call(group, call).await.await, ShareStates);
        if let Err(refusal) = noted {
            tracing::warn!(group = group.as_str(), %refusal, "states are kept, but not noted");
        }
    }
    failed
}

fn refusal(refusal: &Refusal) -> ShareGroupHeartbeatResponse {
    ShareGroupHeartbeatResponse::default()
        .with_error_code(refusal.code.code())
        .with_error_message(Some(StrBytes::from_string(refusal.message.clone())))
}
