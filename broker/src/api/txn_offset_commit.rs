//! TxnOffsetCommit: offsets of a group that count once a producer's transaction is committed.
//!
//! Versions 0 to 5; from 3 with the member that committed them (KIP-447), from 5 the group's
//! partition becomes part of the transaction by this request (KIP-890), before that it is verified
//! to be. Topics and partitions that do not exist are refused one by one.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{ApiKey, TxnOffsetCommitRequest, TxnOffsetCommitResponse};
use uuid::Uuid;

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::image::Image;
use crate::coordinator::group::call::{Call, TxnOffsetCommit, refuse_txn_commit};
use crate::coordinator::group::effects::answer_in_kind;
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::TxnOffsetCommit, 0..=5).handled_by(handler!(handle));

/// From this version on a client knows that a coordinator may be loading.
const WITH_LOADING: i16 = 2;

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    mut request: TxnOffsetCommitRequest,
) -> Reply<TxnOffsetCommitResponse> {
    let version = client.version;
    let (refused, topic_ids) = refuse_unknown(&broker.image.load(), &mut request);
    if request.topics.is_empty() {
        return Reply::Now(TxnOffsetCommitResponse::default().with_topics(refused));
    }
    let group = request.group_id.clone();
    if group.is_empty() {
        let answer = refuse_txn_commit(&request, ErrorCode::InvalidGroupId);
        return Reply::Now(in_version(version, merged(refused, answer)));
    }
    let call = TxnOffsetCommit { request, topic_ids };
    let answer = broker.groups.call(&group, Call::TxnOffsetCommit(Box::new(call))).await;
    Reply::later(async move {
        in_version(version, merged(refused, answer_in_kind!(answer.await, TxnOffsetCommit)))
    })
}

/// Takes what does not exist out of the request; says which ids the rest has.
fn refuse_unknown(
    image: &Image,
    request: &mut TxnOffsetCommitRequest,
) -> (Vec<TxnOffsetCommitResponseTopic>, BTreeMap<String, Uuid>) {
    let mut refused = Vec::new();
    let mut topic_ids = BTreeMap::new();
    request.topics.retain_mut(|topic| {
        let known = image.topic(&topic.name);
        if let Some(known) = known {
            topic_ids.insert(topic.name.to_string(), known.id);
        }
        let mut unknown = Vec::new();
        topic.partitions.retain(|partition| {
            let index = partition.partition_index;
            let exists = known.is_some_and(|known| known.partitions.contains_key(&index));
            if !exists {
                let code = ErrorCode::UnknownTopicOrPartition.code();
                let refusal = TxnOffsetCommitResponsePartition::default();
                unknown.push(refusal.with_partition_index(index).with_error_code(code));
            }
            exists
        });
        if !unknown.is_empty() {
            let topic = TxnOffsetCommitResponseTopic::default().with_name(topic.name.clone());
            refused.push(topic.with_partitions(unknown));
        }
        !topic.partitions.is_empty()
    });
    (refused, topic_ids)
}

/// One entry per topic, as clients expect.
fn merged(
    refused: Vec<TxnOffsetCommitResponseTopic>,
    mut answer: TxnOffsetCommitResponse,
) -> TxnOffsetCommitResponse {
    for topic in refused {
        match answer.topics.iter_mut().find(|it| it.name == topic.name) {
            Some(known) => known.partitions.extend(topic.partitions),
            None => answer.topics.push(topic),
        }
    }
    answer
}

fn in_version(version: i16, mut answer: TxnOffsetCommitResponse) -> TxnOffsetCommitResponse {
    let partitions = answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
    for partition in partitions {
        let loading = partition.error_code == ErrorCode::CoordinatorLoadInProgress.code();
        if loading && version < WITH_LOADING {
            partition.error_code = ErrorCode::CoordinatorNotAvailable.code();
        }
    }
    answer
}
