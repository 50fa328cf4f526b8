//! AddOffsetsToTxn: the partition that keeps a group's offsets becomes part of a transaction.
//!
//! Versions 0 to 4; from 2 PRODUCER_FENCED has a word of its own. Clients of transactions of
//! version 2 leave this to TxnOffsetCommit.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, ApiKey};

use super::init_producer_id::fenced_as;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::runtime::GROUP_METADATA_TOPIC;
use crate::coordinator::transaction::call::{Answer, Call};
use crate::coordinator::transaction::{OLD_CLIENT, Producer};
use crate::error::ErrorCode;
use crate::types::TopicPartition;

pub const API: Api = Api::new(ApiKey::AddOffsetsToTxn, 0..=4).handled_by(handler!(handle));

/// From this version on a fenced producer is told so.
const WITH_FENCED: i16 = 2;

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: AddOffsetsToTxnRequest,
) -> Reply<AddOffsetsToTxnResponse> {
    let version = client.version;
    let refuse = move |code: ErrorCode| {
        let code = fenced_as(code, version >= WITH_FENCED);
        AddOffsetsToTxnResponse::default().with_error_code(code.code())
    };
    let id = request.transactional_id.0;
    if id.is_empty() {
        return Reply::Now(refuse(ErrorCode::InvalidRequest));
    }
    // The client has found the group's coordinator, so the topic is there or about to be.
    let Some(partition) = broker.groups.partition_of(&request.group_id) else {
        return Reply::Now(refuse(ErrorCode::CoordinatorNotAvailable));
    };
    let call = Call::Add {
        transactional_id: id.to_string(),
        producer: Producer { id: request.producer_id.0, epoch: request.producer_epoch },
        partitions: BTreeSet::from([TopicPartition::new(GROUP_METADATA_TOPIC, partition)]),
        version: OLD_CLIENT,
    };
    let answer = broker.transactions.call(&id, call).await;
    Reply::later(async move {
        match answer.await {
            Answer::Producer(_) => AddOffsetsToTxnResponse::default(),
            Answer::Refused(code) => refuse(code),
            _ => refuse(ErrorCode::UnknownServerError),
        }
    })
}
