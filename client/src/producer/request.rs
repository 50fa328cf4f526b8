//! The producer's two requests, without the state around them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProducerId};

use super::{Acks, ProducerOptions};
use crate::names::topic_name;
use crate::{Client, Error, Result, TopicPartition};

pub(super) async fn ask_producer_id(client: &Client) -> Result<(i64, i16)> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(i32::MAX)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    let answer = client.to_any().await?.call(&request).await?;
    Error::check(answer.error_code, None)?;
    Ok((answer.producer_id.0, answer.producer_epoch))
}

/// Sends one batch of each partition to `leader`. With acks=0 there is no answer, and the list is empty.
pub(super) async fn produce(
    client: &Client,
    options: &ProducerOptions,
    leader: i32,
    batches: Vec<(&TopicPartition, Option<Bytes>)>,
) -> Result<Vec<(TopicPartition, PartitionProduceResponse)>> {
    let mut topics: BTreeMap<&str, Vec<PartitionProduceData>> = BTreeMap::new();
    for (at, records) in batches {
        let data = PartitionProduceData::default().with_index(at.partition).with_records(records);
        topics.entry(&at.topic).or_default().push(data);
    }
    let topics = topics.into_iter().map(|(name, data)| {
        TopicProduceData::default().with_name(topic_name(name)).with_partition_data(data)
    });
    let request = ProduceRequest::default()
        .with_acks(options.acks.number())
        .with_timeout_ms(options.request_timeout.as_millis() as i32)
        .with_topic_data(topics.collect());
    let connection = client.to_broker(leader).await?;
    if options.acks == Acks::None {
        connection.send_and_forget(&request).await?;
        return Ok(Vec::new());
    }
    let answer = connection.send_for(&request, options.request_timeout).await?.answer().await?;
    let mut answers = Vec::new();
    for topic in answer.responses {
        let name: Arc<str> = topic.name.as_str().into();
        for partition in topic.partition_responses {
            answers.push((TopicPartition::new(name.clone(), partition.index), partition));
        }
    }
    Ok(answers)
}
