//! Transactions and their producers: who has which open, and ending those that nobody ends.

use std::collections::BTreeMap;

use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::describe_transactions_response::TransactionState;
use kafka_protocol::messages::write_txn_markers_request::{
    WritableTxnMarker, WritableTxnMarkerTopic,
};
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeTransactionsRequest, InitProducerIdRequest,
    ListTransactionsRequest, ProducerId, TransactionalId, WriteTxnMarkersRequest,
};

use super::Admin;
use crate::client::CoordinatorKey;
use crate::names::{str_bytes, topic_name};
use crate::{Error, ErrorCode, Result, TopicPartition};

/// A producer that a partition knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveProducer {
    pub id: i64,
    pub epoch: i32,
    /// Of the coordinator that wrote its last marker here; `None`: there is none yet.
    pub coordinator_epoch: Option<i32>,
    pub last_sequence: i32,
    /// Milliseconds since 1970.
    pub last_timestamp: i64,
    /// Where its open transaction begins; `None`: none is open.
    pub transaction_start: Option<i64>,
}

/// A transactional id, as ListTransactions tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionListing {
    pub transactional_id: String,
    pub coordinator: i32,
    pub producer_id: i64,
    pub state: String,
}

/// What the coordinator of a transactional id knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionDescription {
    pub coordinator: i32,
    pub state: String,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub timeout_ms: i32,
    /// Milliseconds since 1970; `None`: no transaction is open.
    pub started: Option<i64>,
    pub partitions: Vec<TopicPartition>,
}

/// A transaction in one partition, by what its marker has to name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTransaction {
    pub at: TopicPartition,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub coordinator_epoch: i32,
}

/// What of the transactional ids is listed; nothing set: all of them.
#[derive(Debug, Clone, Default)]
pub struct TransactionFilter {
    pub producer_ids: Vec<i64>,
    /// Only transactions that have been open for longer. Needs Kafka 3.8.
    pub longer_than_ms: Option<i64>,
    /// A regular expression for the whole id. Needs Kafka 4.1.
    pub pattern: Option<String>,
}

impl Admin {
    /// The producers of each partition, from its leader, or from the replica on `broker`.
    pub async fn describe_producers(
        &self,
        partitions: Vec<TopicPartition>,
        broker: Option<i32>,
    ) -> Result<BTreeMap<TopicPartition, Result<Vec<ActiveProducer>>>> {
        let ask = async |broker, partitions: &[TopicPartition]| {
            let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
            for at in partitions {
                topics.entry(&at.topic).or_default().push(at.partition);
            }
            let topics = topics.into_iter().map(|(name, partitions)| {
                TopicRequest::default()
                    .with_name(topic_name(name))
                    .with_partition_indexes(partitions)
            });
            let request = DescribeProducersRequest::default().with_topics(topics.collect());
            let answer = self.client.to_broker(broker).await?.call(&request).await?;
            let of_topic = |topic: TopicResponse| {
                let name = topic.name;
                topic.partitions.into_iter().map(move |one| {
                    (TopicPartition::new(name.as_str(), one.partition_index), producers(&one))
                })
            };
            Ok(answer.topics.into_iter().flat_map(of_topic).collect())
        };
        match broker {
            Some(broker) => {
                self.client.metadata(Some(&[])).await?;
                ask(broker, &partitions).await
            }
            None => self.each_leader(partitions, ask).await,
        }
    }

    /// The transactional ids of all brokers, in order of coordinator and name.
    pub async fn list_transactions(
        &self,
        filter: &TransactionFilter,
    ) -> Result<Vec<TransactionListing>> {
        self.client.metadata(Some(&[])).await?;
        let request = ListTransactionsRequest::default()
            .with_producer_id_filters(
                filter.producer_ids.iter().map(|id| ProducerId(*id)).collect(),
            )
            .with_duration_filter(filter.longer_than_ms.unwrap_or(-1))
            .with_transactional_id_pattern(filter.pattern.as_deref().map(str_bytes));
        let mut all = Vec::new();
        for node in self.client.brokers() {
            let answer = self.client.to_broker(node.id).await?.call(&request).await?;
            Error::check(answer.error_code, None)?;
            all.extend(answer.transaction_states.into_iter().map(|one| TransactionListing {
                transactional_id: one.transactional_id.to_string(),
                coordinator: node.id,
                producer_id: one.producer_id.0,
                state: one.transaction_state.to_string(),
            }));
        }
        all.sort_by(|a, b| {
            (a.coordinator, &a.transactional_id).cmp(&(b.coordinator, &b.transactional_id))
        });
        Ok(all)
    }

    /// TRANSACTIONAL_ID_NOT_FOUND: nobody has used it, or it has expired.
    pub async fn describe_transaction(
        &self,
        transactional_id: &str,
    ) -> Result<TransactionDescription> {
        let key = CoordinatorKey::Transaction(transactional_id);
        let request = DescribeTransactionsRequest::default()
            .with_transactional_ids(vec![TransactionalId(str_bytes(transactional_id))]);
        let answer = self
            .client
            .call_coordinator(key, &request, |answer| {
                answer.transaction_states.first().map_or(0, |one| one.error_code)
            })
            .await?;
        let one = answer.transaction_states.into_iter().next().ok_or_else(|| {
            Error::Protocol(format!("DescribeTransactions says nothing of {transactional_id}"))
        })?;
        Error::check(one.error_code, None)?;
        Ok(description(one, self.client.coordinator(key).await?))
    }

    /// Ends an open transaction of `transactional_id`, if there is one, and fences its producer.
    pub async fn force_terminate_transaction(&self, transactional_id: &str) -> Result<()> {
        let patience = self.client.options().request_timeout.as_millis();
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(TransactionalId(str_bytes(transactional_id))))
            // How long the coordinator may take to write the new epoch.
            .with_transaction_timeout_ms(i32::try_from(patience).unwrap_or(i32::MAX))
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let key = CoordinatorKey::Transaction(transactional_id);
        let answer =
            self.client.call_coordinator(key, &request, |answer| answer.error_code).await?;
        Error::check(answer.error_code, None)
    }

    /// Writes the marker that aborts `open`, on behalf of a coordinator that does not know of it.
    pub async fn abort_transaction(&self, open: &OpenTransaction) -> Result<()> {
        let ask = async |leader, _: &[TopicPartition]| {
            let topic = WritableTxnMarkerTopic::default()
                .with_name(topic_name(&open.at.topic))
                .with_partition_indexes(vec![open.at.partition]);
            let marker = WritableTxnMarker::default()
                .with_producer_id(ProducerId(open.producer_id))
                .with_producer_epoch(open.producer_epoch)
                .with_coordinator_epoch(open.coordinator_epoch)
                .with_transaction_result(false)
                .with_topics(vec![topic]);
            let request = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
            let answer = self.client.to_broker(leader).await?.call(&request).await?;
            let results = answer.markers.iter().flat_map(|marker| &marker.topics);
            let result = results.flat_map(|topic| &topic.partitions).next().ok_or_else(|| {
                Error::Protocol(format!("WriteTxnMarkers says nothing of {}", open.at))
            })?;
            Ok(BTreeMap::from([(open.at.clone(), Error::check(result.error_code, None))]))
        };
        let mut outcome = self.each_leader(vec![open.at.clone()], ask).await?;
        outcome.remove(&open.at).unwrap_or(Ok(()))
    }

    /// Those of `ids` that their coordinators know.
    pub async fn known_transactions(
        &self,
        ids: impl IntoIterator<Item = &str>,
    ) -> Result<BTreeMap<String, TransactionDescription>> {
        let mut known = BTreeMap::new();
        for id in ids {
            match self.describe_transaction(id).await {
                Ok(description) => drop(known.insert(id.to_owned(), description)),
                Err(error) if error.code() == Some(ErrorCode::TransactionalIdNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(known)
    }
}

fn producers(one: &PartitionResponse) -> Result<Vec<ActiveProducer>> {
    Error::check(one.error_code, one.error_message.as_deref())?;
    let producer = |it: &ProducerState| ActiveProducer {
        id: it.producer_id.0,
        epoch: it.producer_epoch,
        coordinator_epoch: Some(it.coordinator_epoch).filter(|epoch| *epoch >= 0),
        last_sequence: it.last_sequence,
        last_timestamp: it.last_timestamp,
        transaction_start: Some(it.current_txn_start_offset).filter(|offset| *offset >= 0),
    };
    Ok(one.active_producers.iter().map(producer).collect())
}

fn description(one: TransactionState, coordinator: i32) -> TransactionDescription {
    let partitions = one.topics.iter().flat_map(|topic| {
        let at = |partition: &i32| TopicPartition::new(topic.topic.as_str(), *partition);
        topic.partitions.iter().map(at)
    });
    TransactionDescription {
        coordinator,
        partitions: partitions.collect(),
        state: one.transaction_state.to_string(),
        producer_id: one.producer_id.0,
        producer_epoch: one.producer_epoch,
        timeout_ms: one.transaction_timeout_ms,
        started: Some(one.transaction_start_time_ms).filter(|time| *time >= 0),
    }
}
