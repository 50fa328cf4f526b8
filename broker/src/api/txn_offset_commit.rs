//! TxnOffsetCommit: offsets of a group that count once a producer's transaction is committed.
//!
//! Versions 0 to 5; from 3 with the member that committed them (KIP-447), from 5 the group's
//! partition becomes part of the transaction by this request (KIP-890), before that it is verified
//! to be. Topics and partitions that do not exist are refused one by one.

use std::sync::Arc;

use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{ApiKey, TxnOffsetCommitRequest, TxnOffsetCommitResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::image::Image;
use crate::coordinator::group::call::{Call, TxnOffsetCommit, refuse_txn_commit};
use crate::coordinator::group::effects::answer_in_kind;
use crate::coordinator::runtime::GROUP_METADATA_TOPIC;
use crate::error::ErrorCode;
use crate::log::Guard;
use crate::replica::partition::ANY_EPOCH;
use crate::replica::verification::{Supports, Writer};

pub const API: Api = Api::new(ApiKey::TxnOffsetCommit, 0..=5).handled_by(handler!(handle));

/// From this version on a client knows that a coordinator may be loading.
const WITH_LOADING: i16 = 2;
/// From this version on a client may be told TRANSACTION_ABORTABLE.
const WITH_ABORTABLE: i16 = 4;
/// From this version on a transaction gains the group's partition by this very request.
const ADDS_PARTITION: i16 = 5;

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    mut request: TxnOffsetCommitRequest,
) -> Reply<TxnOffsetCommitResponse> {
    let version = client.version;
    let refused = refuse_unknown(&broker.image.load(), &mut request);
    if request.topics.is_empty() {
        return Reply::Now(TxnOffsetCommitResponse::default().with_topics(refused));
    }
    let group = request.group_id.clone();
    if group.is_empty() {
        let answer = refuse_txn_commit(&request, ErrorCode::InvalidGroupId);
        return Reply::Now(in_version(version, merged(refused, answer)));
    }
    let guard = match verify(broker, &request, version).await {
        Ok(guard) => guard,
        Err(code) => {
            let answer = refuse_txn_commit(&request, code);
            return Reply::Now(in_version(version, merged(refused, answer)));
        }
    };
    let call = TxnOffsetCommit { request, guard };
    let answer = broker.groups.call(&group, Call::TxnOffsetCommit(Box::new(call))).await;
    Reply::later(async move {
        in_version(version, merged(refused, answer_in_kind!(answer.await, TxnOffsetCommit)))
    })
}

/// Has the group's partition verified to be in the transaction, or added to it. Where it is not led
/// here, the group coordinator says so.
async fn verify(
    broker: &Broker,
    request: &TxnOffsetCommitRequest,
    version: i16,
) -> Result<Option<Guard>, ErrorCode> {
    let Some(partition) = broker.groups.partition_of(&request.group_id) else { return Ok(None) };
    let led = broker.partitions.as_leader(GROUP_METADATA_TOPIC, partition, ANY_EPOCH);
    let Ok(partition) = led else { return Ok(None) };
    let supports = match version {
        ADDS_PARTITION.. => Supports::Adding,
        WITH_ABORTABLE => Supports::Abortable,
        _ => Supports::OldErrors,
    };
    let writer = Writer {
        transactional_id: request.transactional_id.0.clone(),
        id: request.producer_id.0,
        epoch: request.producer_epoch,
        supports,
    };
    let verified = broker.partitions.verifier.verify_offsets(&writer, partition).await;
    verified.map_err(|refusal| refusal.code)
}

/// Takes what does not exist out of the request.
fn refuse_unknown(
    image: &Image,
    request: &mut TxnOffsetCommitRequest,
) -> Vec<TxnOffsetCommitResponseTopic> {
    let mut refused = Vec::new();
    request.topics.retain_mut(|topic| {
        let known = image.topic(&topic.name);
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
    refused
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
