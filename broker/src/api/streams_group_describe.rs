//! StreamsGroupDescribe: topology, epochs, members and tasks of streams groups (KIP-1071).
//! Version 0.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use kafka_protocol::messages::GroupId;

use super::describe_groups::ALL_OPERATIONS;
use super::streams_group_heartbeat::is_enabled;
use super::{Answer, Api, Client, Reply, Unreadable, encode};
use crate::broker::Broker;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::answer_in_kind;
use crate::error::ErrorCode;
use crate::wire::key::Key;
use crate::wire::message::Message as _;
use crate::wire::streams::{
    DescribedGroup, StreamsGroupDescribeRequest, StreamsGroupDescribeResponse,
};

pub const API: Api = Api::own(Key::STREAMS_GROUP_DESCRIBE, 0..=0).handled_by(read_and_handle);

/// Stands for a response type where the body is encoded already.
type Nothing = kafka_protocol::messages::ConsumerGroupDescribeResponse;

fn read_and_handle<'a>(
    broker: &'a Arc<Broker>,
    client: &'a Client,
    body: Bytes,
) -> BoxFuture<'a, Result<Answer, Unreadable>> {
    Box::pin(async move {
        let request = StreamsGroupDescribeRequest::decode(&mut &body[..], client.version);
        let request = request.map_err(|error| Unreadable(format!("{:?}: {error}", client.api)))?;
        encode(client, handle(broker, request).await)
    })
}

async fn handle(broker: &Arc<Broker>, request: StreamsGroupDescribeRequest) -> Reply<Nothing> {
    let refuse = |group: String, code: ErrorCode| DescribedGroup {
        group,
        error_code: code.code(),
        ..DescribedGroup::default()
    };
    let answer = |groups| {
        let answer = StreamsGroupDescribeResponse { throttle_time_ms: 0, groups };
        vec![answer.to_bytes(0)]
    };
    if !is_enabled(broker) {
        let groups = request.groups.into_iter();
        let groups = groups.map(|id| refuse(id, ErrorCode::UnsupportedVersion));
        return Reply::Encoded(answer(groups.collect()));
    }
    let mut groups = Vec::new();
    let mut by_partition: BTreeMap<Option<i32>, Vec<String>> = BTreeMap::new();
    for id in request.groups {
        if id.is_empty() {
            groups.push(refuse(id, ErrorCode::InvalidGroupId));
        } else {
            let partition = broker.groups.partition_of(&id);
            by_partition.entry(partition).or_default().push(id);
        }
    }
    let mut answers = Vec::with_capacity(by_partition.len());
    for groups in by_partition.into_values() {
        let first = GroupId(groups.first().cloned().unwrap_or_default().into());
        answers.push(broker.groups.call(&first, Call::StreamsDescribe { groups }).await);
    }
    let operations = request.include_authorized_operations;
    Reply::LaterEncoded(Box::pin(async move {
        for answer in join_all(answers).await {
            groups.extend(answer_in_kind!(answer, StreamsDescribe));
        }
        for group in groups.iter_mut().filter(|group| operations && group.error_code == 0) {
            group.authorized_operations = ALL_OPERATIONS;
        }
        answer(groups)
    }))
}
