//! AddPartitionsToTxn: partitions become part of a transaction, or are verified to be.
//!
//! Versions 0 to 5. Up to 3 clients add partitions of one transaction; from 4 on brokers ask, for
//! several transactions at once, either to add partitions for a client of transactions of version 2
//! or only to verify that its client has (KIP-890). From 2 on PRODUCER_FENCED has a word of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTransaction;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, ApiKey, TopicName, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;

use super::init_producer_id::fenced_as;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::image::Image;
use crate::coordinator::transaction::call::{Answer, Call};
use crate::coordinator::transaction::{BUMPS_EPOCH, OLD_CLIENT, Producer};
use crate::error::ErrorCode;
use crate::types::TopicPartition;

pub const API: Api = Api::new(ApiKey::AddPartitionsToTxn, 0..=5).handled_by(handler!(handle));

/// From this version on a fenced producer is told so.
const WITH_FENCED: i16 = 2;
/// From this version on brokers ask.
const FOR_BROKERS: i16 = 4;

/// What each partition is told; `None` is no error.
type Results = BTreeMap<TopicPartition, Option<ErrorCode>>;

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: AddPartitionsToTxnRequest,
) -> Reply<AddPartitionsToTxnResponse> {
    let version = client.version;
    let transactions = if version >= FOR_BROKERS {
        request.transactions
    } else {
        vec![
            AddPartitionsToTxnTransaction::default()
                .with_transactional_id(request.v3_and_below_transactional_id)
                .with_producer_id(request.v3_and_below_producer_id)
                .with_producer_epoch(request.v3_and_below_producer_epoch)
                .with_topics(request.v3_and_below_topics),
        ]
    };
    let mut asked = Vec::with_capacity(transactions.len());
    for transaction in transactions {
        let id = transaction.transactional_id.clone();
        asked.push((id, ask(broker, transaction, version).await));
    }
    Reply::later(async move {
        let mut results = Vec::with_capacity(asked.len());
        for (id, answer) in asked {
            results.push((id, answer.await));
        }
        respond(results, version)
    })
}

/// Hands one transaction's partitions over; the future is what becomes of them.
async fn ask(
    broker: &Broker,
    transaction: AddPartitionsToTxnTransaction,
    version: i16,
) -> BoxFuture<'static, Results> {
    let partitions = partitions_of(&transaction);
    let refused = refuse_unknown(&broker.image.load(), &partitions);
    if !refused.is_empty() {
        return Box::pin(std::future::ready(refused));
    }
    let id = transaction.transactional_id.0;
    if id.is_empty() {
        let refused = all(&partitions, Some(ErrorCode::InvalidRequest));
        return Box::pin(std::future::ready(refused));
    }
    let producer = Producer { id: transaction.producer_id.0, epoch: transaction.producer_epoch };
    let transactional_id = id.to_string();
    let call = if transaction.verify_only {
        Call::Verify { transactional_id, producer, partitions: partitions.clone() }
    } else {
        let version = if version >= FOR_BROKERS { BUMPS_EPOCH } else { OLD_CLIENT };
        Call::Add { transactional_id, producer, partitions: partitions.clone(), version }
    };
    let answer = broker.transactions.call(&id, call).await;
    Box::pin(async move {
        match answer.await {
            Answer::Producer(_) => all(&partitions, None),
            Answer::Verified(verified) => {
                let told = |is_in: bool| (!is_in).then_some(ErrorCode::TransactionAbortable);
                verified.into_iter().map(|(at, is_in)| (at, told(is_in))).collect()
            }
            Answer::Refused(code) => {
                all(&partitions, Some(fenced_as(code, version >= WITH_FENCED)))
            }
            _ => all(&partitions, Some(ErrorCode::UnknownServerError)),
        }
    })
}

fn partitions_of(transaction: &AddPartitionsToTxnTransaction) -> BTreeSet<TopicPartition> {
    let topics = transaction.topics.iter();
    let partitions = topics.flat_map(|topic| {
        let name: Arc<str> = topic.name.as_str().into();
        topic.partitions.iter().map(move |index| TopicPartition::new(name.clone(), *index))
    });
    partitions.collect()
}

fn all(partitions: &BTreeSet<TopicPartition>, code: Option<ErrorCode>) -> Results {
    partitions.iter().map(|at| (at.clone(), code)).collect()
}

/// One partition that does not exist keeps the others out, too. Empty when all exist.
fn refuse_unknown(image: &Image, partitions: &BTreeSet<TopicPartition>) -> Results {
    let exists = |at: &TopicPartition| image.partition(&at.topic, at.partition).is_some();
    if partitions.iter().all(exists) {
        return Results::new();
    }
    let told = |at: &TopicPartition| {
        if exists(at) {
            ErrorCode::OperationNotAttempted
        } else {
            ErrorCode::UnknownTopicOrPartition
        }
    };
    partitions.iter().map(|at| (at.clone(), Some(told(at)))).collect()
}

fn respond(results: Vec<(TransactionalId, Results)>, version: i16) -> AddPartitionsToTxnResponse {
    let mut by_transaction = results.into_iter().map(|(id, results)| {
        AddPartitionsToTxnResult::default()
            .with_transactional_id(id)
            .with_topic_results(by_topic(results))
    });
    let response = AddPartitionsToTxnResponse::default();
    if version >= FOR_BROKERS {
        return response.with_results_by_transaction(by_transaction.collect());
    }
    let only = by_transaction.next().map(|only| only.topic_results);
    response.with_results_by_topic_v3_and_below(only.unwrap_or_default())
}

fn by_topic(results: Results) -> Vec<AddPartitionsToTxnTopicResult> {
    let mut topics: Vec<AddPartitionsToTxnTopicResult> = Vec::new();
    for (at, code) in results {
        if topics.last().is_none_or(|topic| topic.name.as_str() != &*at.topic) {
            let name = TopicName(StrBytes::from_string(at.topic.to_string()));
            topics.push(AddPartitionsToTxnTopicResult::default().with_name(name));
        }
        let result = AddPartitionsToTxnPartitionResult::default()
            .with_partition_index(at.partition)
            .with_partition_error_code(code.map_or(0, |code| code.code()));
        if let Some(topic) = topics.last_mut() {
            topic.results_by_partition.push(result);
        }
    }
    topics
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::three_brokers;

    #[test]
    fn a_partition_that_does_not_exist_keeps_the_others_out() {
        let partitions: BTreeSet<_> =
            [("orders", 0), ("orders", 9)].map(|(topic, id)| TopicPartition::new(topic, id)).into();
        let image = three_brokers();
        let told: Vec<_> = refuse_unknown(&image, &partitions).into_values().collect();
        assert_eq!(
            told,
            [Some(ErrorCode::OperationNotAttempted), Some(ErrorCode::UnknownTopicOrPartition)]
        );
        let partitions: BTreeSet<_> = [TopicPartition::new("orders", 0)].into();
        assert!(refuse_unknown(&image, &partitions).is_empty());
    }
}
