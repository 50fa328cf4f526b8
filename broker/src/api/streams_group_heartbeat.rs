//! StreamsGroupHeartbeat: a member of a streams group (KIP-1071) joins with the topology of its
//! application, shows that it is alive, is told its tasks, or leaves.
//!
//! Version 0. Refused with UNSUPPORTED_VERSION unless streams.version is 1 and
//! `group.coordinator.rebalance.protocols` has "streams". Internal topics that are missing are made
//! behind the answer ([`StreamsTopics`](super::streams_topics::StreamsTopics)); what could not be
//! made is told with the next one.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::join_group::java_address;
use super::metadata::is_internal;
use super::streams_topics;
use super::{Answer, Api, Client, Reply, Unreadable, encode};
use crate::broker::Broker;
use crate::controller::topics::check_name;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::answer_in_kind;
use crate::coordinator::group::streams::{
    Heartbeat, INVALID_TOPOLOGY, MISSING_INTERNAL_TOPICS, check_request,
};
use crate::error::{ErrorCode, Refusal};
use crate::wire::key::Key;
use crate::wire::message::Message as _;
use crate::wire::streams::{
    StreamsGroupHeartbeatRequest, StreamsGroupHeartbeatResponse, Subtopology, Topology,
};

pub const API: Api = Api::own(Key::STREAMS_GROUP_HEARTBEAT, 0..=0).handled_by(read_and_handle);

/// Stands for a response type where the body is encoded already.
type Nothing = kafka_protocol::messages::ConsumerGroupHeartbeatResponse;

/// Whether there may be streams groups in this cluster, and on this broker.
pub(super) fn is_enabled(broker: &Broker) -> bool {
    broker.groups.settings.streams.enabled && broker.image.load().feature("streams.version") > 0
}

fn read_and_handle<'a>(
    broker: &'a Arc<Broker>,
    client: &'a Client,
    body: Bytes,
) -> BoxFuture<'a, Result<Answer, Unreadable>> {
    Box::pin(async move {
        let request = StreamsGroupHeartbeatRequest::decode(&mut &body[..], client.version);
        let request = request.map_err(|error| Unreadable(format!("{:?}: {error}", client.api)))?;
        encode(client, handle(broker, client, request).await)
    })
}

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: StreamsGroupHeartbeatRequest,
) -> Reply<Nothing> {
    let now = |answer: StreamsGroupHeartbeatResponse| Reply::Encoded(vec![answer.to_bytes(0)]);
    if !is_enabled(broker) {
        let code = ErrorCode::UnsupportedVersion.code();
        return now(StreamsGroupHeartbeatResponse::refused(code, None));
    }
    let checked = request.topology.0.as_ref().map_or(Ok(()), check_names);
    if let Err(refused) = checked.and_then(|()| check_request(&request)) {
        return now(refusal(refused));
    }
    let group = kafka_protocol::messages::GroupId(request.group.clone().into());
    let call = Heartbeat {
        client_id: client.id.as_deref().unwrap_or_default().to_owned(),
        client_host: java_address(client.connection.address.ip()),
        request,
    };
    let answer = broker.groups.call(&group, Call::StreamsHeartbeat(Box::new(call))).await;
    let broker = broker.clone();
    Reply::LaterEncoded(Box::pin(async move {
        let response = match answer_in_kind!(answer.await, StreamsHeartbeat) {
            Ok((response, missing)) if missing.is_empty() => response,
            Ok((mut response, missing)) => {
                let failed = streams_topics::create(&broker, &group, missing);
                let status = response.status.iter_mut().flatten();
                let mut status = status.filter(|it| it.code == MISSING_INTERNAL_TOPICS);
                if let (Some(failed), Some(status)) = (failed, status.next()) {
                    status.detail += &format!("; Creation failed: {failed}.");
                }
                response
            }
            Err(refused) => refusal(refused),
        };
        vec![response.to_bytes(0)]
    }))
}

/// Refuses names of topics that nobody may create, or read like that.
fn check_names(topology: &Topology) -> Result<(), Refusal> {
    let mut names: Vec<&str> = Vec::new();
    for name in topology.subtopologies.iter().flat_map(names_of) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let those = |wrong: &dyn Fn(&str) -> bool| {
        let those: Vec<&str> = names.iter().copied().filter(|name| wrong(name)).collect();
        (!those.is_empty()).then(|| those.join(","))
    };
    if let Some(names) = those(&|name| is_internal(name)) {
        let message = format!(
            "Use of Kafka internal topics {names} in a Kafka Streams topology is prohibited."
        );
        return Err(Refusal::new(INVALID_TOPOLOGY, message));
    }
    if let Some(names) = those(&|name| check_name(name).is_err()) {
        let message = format!("Topic names {names} are not valid topic names.");
        return Err(Refusal::new(INVALID_TOPOLOGY, message));
    }
    Ok(())
}

fn names_of(subtopology: &Subtopology) -> impl Iterator<Item = &str> {
    let named = subtopology.source_topics.iter().chain(&subtopology.repartition_sinks);
    let made = subtopology.repartition_sources.iter().chain(&subtopology.changelogs);
    named.chain(made.map(|topic| &topic.name)).map(String::as_str)
}

fn refusal(refusal: Refusal) -> StreamsGroupHeartbeatResponse {
    let message = Some(refusal.message).filter(|message| !message.is_empty());
    StreamsGroupHeartbeatResponse::refused(refusal.code.code(), message)
}
