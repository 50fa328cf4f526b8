//! OffsetCommit: what a group has read, kept until it asks.
//!
//! Versions 2 to 9; 2 to 4 may ask for a retention time of their own. Topics and partitions that
//! do not exist are refused one by one. Answered when the offsets are committed. Deliberately
//! absent: version 10 (topic ids), whose request `kafka-protocol` does not know.

use std::sync::Arc;

use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{ApiKey, OffsetCommitRequest, OffsetCommitResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::image::Image;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::answer_in_kind;
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::OffsetCommit, 2..=9).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    mut request: OffsetCommitRequest,
) -> Reply<OffsetCommitResponse> {
    let refused = refuse_unknown(&broker.image.load(), &mut request);
    if request.topics.is_empty() {
        return Reply::Now(OffsetCommitResponse::default().with_topics(refused));
    }
    let group = request.group_id.clone();
    let answer = broker.groups.call(&group, Call::OffsetCommit(request)).await;
    Reply::later(async move { merged(refused, answer_in_kind!(answer.await, OffsetCommit)) })
}

/// Takes what does not exist out of the request, and gives what does its topic id.
fn refuse_unknown(
    image: &Image,
    request: &mut OffsetCommitRequest,
) -> Vec<OffsetCommitResponseTopic> {
    let mut refused = Vec::new();
    request.topics.retain_mut(|topic| {
        let known = image.topic(&topic.name);
        topic.topic_id = known.map(|known| known.id).unwrap_or_default();
        let mut unknown = Vec::new();
        topic.partitions.retain(|partition| {
            let index = partition.partition_index;
            let exists = known.is_some_and(|known| known.partitions.contains_key(&index));
            if !exists {
                let code = ErrorCode::UnknownTopicOrPartition.code();
                let refusal = OffsetCommitResponsePartition::default();
                unknown.push(refusal.with_partition_index(index).with_error_code(code));
            }
            exists
        });
        if !unknown.is_empty() {
            let topic = OffsetCommitResponseTopic::default().with_name(topic.name.clone());
            refused.push(topic.with_partitions(unknown));
        }
        !topic.partitions.is_empty()
    });
    refused
}

/// One entry per topic, as clients expect.
fn merged(
    refused: Vec<OffsetCommitResponseTopic>,
    mut answer: OffsetCommitResponse,
) -> OffsetCommitResponse {
    for topic in &mut answer.topics {
        topic.topic_id = uuid::Uuid::nil(); // From version 10 on only.
    }
    for topic in refused {
        match answer.topics.iter_mut().find(|it| it.name == topic.name) {
            Some(known) => known.partitions.extend(topic.partitions),
            None => answer.topics.push(topic),
        }
    }
    answer
}
