//! DescribeTransactions: where the transactions of transactional ids stand.
//!
//! Version 0 (KIP-664). Answered by the coordinator of each id.

use std::sync::Arc;

use kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState};
use kafka_protocol::messages::{
    ApiKey, DescribeTransactionsRequest, DescribeTransactionsResponse, ProducerId, TopicName,
    TransactionalId,
};
use kafka_protocol::protocol::StrBytes;

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::transaction::Transaction;
use crate::coordinator::transaction::call::{Answer, Call};
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::DescribeTransactions, 0..=0).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    request: DescribeTransactionsRequest,
) -> Reply<DescribeTransactionsResponse> {
    let mut states = Vec::with_capacity(request.transactional_ids.len());
    for id in request.transactional_ids {
        let answer = if id.is_empty() {
            Answer::Refused(ErrorCode::InvalidRequest)
        } else {
            let call = Call::Describe { transactional_id: id.to_string() };
            broker.transactions.call(&id, call).await.await
        };
        states.push(match answer {
            Answer::Described(transaction) => described(id, &transaction),
            Answer::Refused(code) => refused(id, code),
            _ => refused(id, ErrorCode::UnknownServerError),
        });
    }
    Reply::Now(DescribeTransactionsResponse::default().with_transaction_states(states))
}

fn refused(id: TransactionalId, code: ErrorCode) -> TransactionState {
    // As in Kafka, zeros where nothing is known.
    TransactionState::default().with_transactional_id(id).with_error_code(code.code())
}

fn described(id: TransactionalId, transaction: &Transaction) -> TransactionState {
    let mut topics: Vec<TopicData> = Vec::new();
    for at in &transaction.partitions {
        if topics.last().is_none_or(|topic| topic.topic.as_str() != &*at.topic) {
            let name = TopicName(StrBytes::from_string(at.topic.to_string()));
            topics.push(TopicData::default().with_topic(name));
        }
        if let Some(topic) = topics.last_mut() {
            topic.partitions.push(at.partition);
        }
    }
    TransactionState::default()
        .with_transactional_id(id)
        .with_transaction_state(StrBytes::from_static_str(transaction.state.name()))
        .with_transaction_timeout_ms(transaction.timeout_ms)
        .with_transaction_start_time_ms(transaction.started)
        .with_producer_id(ProducerId(transaction.producer_id))
        .with_producer_epoch(transaction.epoch)
        .with_topics(topics)
}
