//! DescribeTopicPartitions: topics page by page, with their eligible leader replicas (KIP-966).
//!
//! Version 0. Topics come sorted by name; a page ends after as many partitions as the request or
//! `max.request.partition.size.limit` allows, and its cursor names where the next one starts.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName,
};

use super::metadata::{TOPIC_OPERATIONS, View, is_internal, missing_topic, text};
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::{PartitionImage, TopicImage};
use crate::error::ErrorCode;
use crate::types::NodeId;

pub const API: Api = Api::new(ApiKey::DescribeTopicPartitions, 0..=0).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: DescribeTopicPartitionsRequest,
) -> Reply<DescribeTopicPartitionsResponse> {
    let image = broker.image.load_full();
    let view = View { image: &image, listener: &client.connection.listener };
    let most = broker.settings.max_request_partition_size_limit;
    Reply::Now(match page(&view, &request, most) {
        Ok(response) => response,
        Err(code) => refuse_all(&request, code),
    })
}

fn page(
    view: &View<'_>,
    request: &DescribeTopicPartitionsRequest,
    most: i32,
) -> Result<DescribeTopicPartitionsResponse, ErrorCode> {
    let all = request.topics.is_empty();
    let (from, first) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.to_string(), cursor.partition_index),
        None => (String::new(), 0),
    };
    let asked: BTreeSet<String> = if all {
        view.image.topics().map(|topic| topic.name.to_string()).collect()
    } else {
        request.topics.iter().map(|topic| topic.name.to_string()).collect()
    };
    let misplaced = !all && request.cursor.is_some() && !asked.contains(&from);
    if misplaced || first < 0 {
        return Err(ErrorCode::InvalidRequest);
    }
    let mut left = request.response_partition_limit.min(most).max(1) as usize;
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in asked.into_iter().filter(|name| *name >= from) {
        if left == 0 {
            response.next_cursor = Some(cursor(&name, 0));
            break;
        }
        let Some(topic) = view.image.topic(&name) else {
            if !all {
                response.topics.push(missing(&name));
            }
            continue;
        };
        let start = if name == from { first } else { 0 };
        let partitions = partitions(view, topic, start, left);
        left -= partitions.len();
        let next = start + partitions.len() as i32;
        response.topics.push(described(topic, partitions));
        if (next as usize) < topic.partitions.len() {
            response.next_cursor = Some(cursor(&name, next));
            break;
        }
    }
    Ok(response)
}

fn partitions(
    view: &View<'_>,
    topic: &TopicImage,
    from: i32,
    most: usize,
) -> Vec<DescribeTopicPartitionsResponsePartition> {
    let partitions = topic.partitions.range(from..).take(most);
    partitions.map(|(index, partition)| partition_described(view, *index, partition)).collect()
}

fn partition_described(
    view: &View<'_>,
    index: i32,
    partition: &PartitionImage,
) -> DescribeTopicPartitionsResponsePartition {
    let ids = |ids: &[NodeId]| -> Vec<BrokerId> { ids.iter().map(|id| BrokerId(*id)).collect() };
    let seen = view.partition(partition);
    DescribeTopicPartitionsResponsePartition::default()
        .with_partition_index(index)
        .with_leader_id(BrokerId(seen.leader))
        .with_leader_epoch(partition.leader_epoch)
        .with_replica_nodes(ids(&partition.replicas))
        .with_isr_nodes(ids(&partition.isr))
        .with_eligible_leader_replicas(Some(ids(&partition.elr)))
        .with_last_known_elr(Some(ids(&partition.last_known_elr)))
        .with_offline_replicas(seen.offline)
}

fn described(
    topic: &TopicImage,
    partitions: Vec<DescribeTopicPartitionsResponsePartition>,
) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(TopicName(text(&topic.name))))
        .with_topic_id(topic.id)
        .with_is_internal(is_internal(&topic.name))
        .with_partitions(partitions)
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}

fn missing(name: &str) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(missing_topic(name).code())
        .with_name(Some(TopicName(text(name))))
        .with_is_internal(is_internal(name))
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}

fn refuse_all(
    request: &DescribeTopicPartitionsRequest,
    code: ErrorCode,
) -> DescribeTopicPartitionsResponse {
    let refused = request.topics.iter().map(|topic| {
        DescribeTopicPartitionsResponseTopic::default()
            .with_error_code(code.code())
            .with_name(Some(topic.name.clone()))
    });
    DescribeTopicPartitionsResponse::default().with_topics(refused.collect())
}

fn cursor(topic: &str, partition: i32) -> Cursor {
    Cursor::default().with_topic_name(TopicName(text(topic))).with_partition_index(partition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::three_brokers;
    use kafka_protocol::messages::describe_topic_partitions_request::{
        Cursor as From, TopicRequest,
    };

    fn paged(topics: &[&str], limit: i32, from: Option<(&str, i32)>) -> Result<String, ErrorCode> {
        let image = three_brokers();
        let view = View { image: &image, listener: "INSIDE" };
        let topic = |name: &&str| TopicRequest::default().with_name(TopicName(text(name)));
        let from = from.map(|(topic, partition)| {
            From::default().with_topic_name(TopicName(text(topic))).with_partition_index(partition)
        });
        let request = DescribeTopicPartitionsRequest::default()
            .with_topics(topics.iter().map(topic).collect())
            .with_response_partition_limit(limit)
            .with_cursor(from);
        let response = page(&view, &request, 2000)?;
        let topics = response.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|p| p.partition_index.to_string());
            let partitions: Vec<_> = partitions.collect();
            let name: &str = topic.name.as_deref().map_or("", |name| name);
            format!("{name} {} [{}]", topic.error_code, partitions.join(" "))
        });
        let next = response
            .next_cursor
            .map(|cursor| format!("then {} {}", &*cursor.topic_name, cursor.partition_index));
        Ok(topics.chain(next).collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn a_page_ends_at_the_limit_and_its_cursor_leads_to_the_next() {
        assert_eq!(paged(&[], 2, None).unwrap(), "orders 0 [0 1], then orders 2");
        assert_eq!(paged(&[], 2, Some(("orders", 2))).unwrap(), "orders 0 [2]");
        let both = ["orders", "zebra"];
        assert_eq!(paged(&both, 3, None).unwrap(), "orders 0 [0 1 2], then zebra 0");
        assert_eq!(paged(&both, 3, Some(("zebra", 0))).unwrap(), "zebra 3 []");
    }

    #[test]
    fn a_cursor_names_an_asked_topic_and_a_partition_that_can_exist() {
        assert_eq!(paged(&["orders"], 9, Some(("zebra", 0))), Err(ErrorCode::InvalidRequest));
        assert_eq!(paged(&[], 9, Some(("orders", -1))), Err(ErrorCode::InvalidRequest));
    }
}
