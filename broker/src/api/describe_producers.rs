//! DescribeProducers: the idempotent producers that a partition remembers (KIP-664).
//!
//! Version 0; any replica tells what its log knows, so that each can be looked at.

use std::sync::Arc;

use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{
    ApiKey, DescribeProducersRequest, DescribeProducersResponse, ProducerId,
};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;

pub const API: Api = Api::new(ApiKey::DescribeProducers, 0..=0).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    request: DescribeProducersRequest,
) -> Reply<DescribeProducersResponse> {
    let topics = request.topics.iter().map(|topic| {
        let one = |index: &i32| {
            let answer = PartitionResponse::default().with_partition_index(*index);
            match broker.partitions.find(&topic.name, *index) {
                Err(code) => answer.with_error_code(code.code()),
                Ok(partition) => {
                    let producers = partition.log().producers();
                    answer.with_active_producers(producers.iter().map(state).collect())
                }
            }
        };
        TopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(topic.partition_indexes.iter().map(one).collect())
    });
    Reply::Now(DescribeProducersResponse::default().with_topics(topics.collect()))
}

fn state((id, producer): (&i64, &crate::log::Producer)) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(*id))
        .with_producer_epoch(producer.epoch.into())
        .with_last_sequence(producer.last_sequence())
        .with_last_timestamp(producer.last_timestamp)
        .with_coordinator_epoch(producer.coordinator_epoch)
        .with_current_txn_start_offset(producer.transaction_start.unwrap_or(-1))
}
