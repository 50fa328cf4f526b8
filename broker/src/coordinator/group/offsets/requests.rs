//! OffsetCommit, OffsetFetch and OffsetDelete on the offsets of one shard, once their group has
//! agreed.

use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    TopicName, TxnOffsetCommitResponse,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::{Committed, Offsets, View};
use crate::coordinator::group::call::TxnOffsetCommit;
use crate::coordinator::group::records::{OffsetCommitValue, Record};
use crate::error::ErrorCode;
use crate::types::Millis;

const NO_RETENTION: i64 = -1;

/// The answer, and the records that make it true. Metadata that is too large fails its partition.
pub fn commit(
    request: &OffsetCommitRequest,
    metadata_max: usize,
    now: Millis,
) -> (OffsetCommitResponse, Vec<Record>) {
    let expire_timestamp = match request.retention_time_ms {
        NO_RETENTION => -1,
        retention => now.saturating_add(retention),
    };
    let mut records = Vec::new();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let answer = OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index);
            let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
            if metadata.encode_utf16().count() > metadata_max {
                return answer.with_error_code(ErrorCode::OffsetMetadataTooLarge.code());
            }
            let value = OffsetCommitValue {
                offset: partition.committed_offset,
                leader_epoch: partition.committed_leader_epoch.max(-1),
                metadata: metadata.to_owned(),
                commit_timestamp: now,
                expire_timestamp,
                topic_id: topic.topic_id,
            };
            let index = partition.partition_index;
            records.push(Record::offset(&request.group_id, &topic.name, index, Some(value)));
            answer
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    (OffsetCommitResponse::default().with_topics(topics.collect()), records)
}

/// As [`commit`], for offsets in a transaction.
pub fn commit_in_transaction(
    call: &TxnOffsetCommit,
    metadata_max: usize,
    now: Millis,
) -> (TxnOffsetCommitResponse, Vec<Record>) {
    let request = &call.request;
    let mut records = Vec::new();
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let index = partition.partition_index;
            let answer = TxnOffsetCommitResponsePartition::default().with_partition_index(index);
            let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
            if metadata.encode_utf16().count() > metadata_max {
                return answer.with_error_code(ErrorCode::OffsetMetadataTooLarge.code());
            }
            let value = OffsetCommitValue {
                offset: partition.committed_offset,
                leader_epoch: partition.committed_leader_epoch.max(-1),
                metadata: metadata.to_owned(),
                commit_timestamp: now,
                expire_timestamp: -1,
                // The request has no ids, and Kafka keeps none that it was not told.
                topic_id: Uuid::nil(),
            };
            records.push(Record::offset(&request.group_id, &topic.name, index, Some(value)));
            answer
        });
        TxnOffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    (TxnOffsetCommitResponse::default().with_topics(topics.collect()), records)
}

/// The offsets asked for, or all of the group; -1 where there is none.
pub fn fetch(
    offsets: &Offsets,
    request: &OffsetFetchRequestGroup,
    exists: bool,
    view: View,
) -> OffsetFetchResponseGroup {
    let group = request.group_id.as_str();
    // Who wants the newest wants what is stable.
    let is_unstable = |topic: &str, partition| {
        view == View::Newest && offsets.is_unstable(group, topic, partition)
    };
    let answer = OffsetFetchResponseGroup::default().with_group_id(request.group_id.clone());
    let Some(asked) = &request.topics else {
        let mut topics: Vec<OffsetFetchResponseTopics> = Vec::new();
        let all = exists.then(|| offsets.of_group(group, view));
        for (topic, partition, value) in all.into_iter().flatten() {
            if topics.last().is_none_or(|last| last.name.as_str() != topic) {
                let name = TopicName(StrBytes::from_string(topic.to_owned()));
                topics.push(OffsetFetchResponseTopics::default().with_name(name));
            }
            if let Some(last) = topics.last_mut() {
                last.partitions.push(if is_unstable(topic, partition) {
                    unstable(partition)
                } else {
                    fetched(partition, Some(value))
                });
            }
        }
        return answer.with_topics(topics);
    };
    let topics = asked.iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|partition| {
            if exists && is_unstable(&topic.name, *partition) {
                return unstable(*partition);
            }
            let value = exists.then(|| offsets.get(group, &topic.name, *partition, view)).flatten();
            fetched(*partition, value.filter(|value| same_topic(value.topic_id, topic.topic_id)))
        });
        OffsetFetchResponseTopics::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    answer.with_topics(topics.collect())
}

/// An offset of a topic of the same name that was deleted means nothing to its successor.
fn same_topic(stored: Uuid, asked: Uuid) -> bool {
    stored.is_nil() || asked.is_nil() || stored == asked
}

/// A transaction is about to change it: the client asks again.
fn unstable(partition: i32) -> OffsetFetchResponsePartitions {
    fetched(partition, None).with_error_code(ErrorCode::UnstableOffsetCommit.code())
}

fn fetched(partition: i32, value: Option<&Committed>) -> OffsetFetchResponsePartitions {
    let answer = OffsetFetchResponsePartitions::default().with_partition_index(partition);
    match value {
        Some(value) => answer
            .with_committed_offset(value.offset)
            .with_committed_leader_epoch(value.leader_epoch)
            .with_metadata(Some(StrBytes::from_string(value.metadata.to_string()))),
        None => answer.with_committed_offset(-1),
    }
}

/// The answer, and the tombstones that make it true. Topics that a member reads are kept.
pub fn delete(
    offsets: &Offsets,
    request: &OffsetDeleteRequest,
    is_read: impl Fn(&str) -> bool,
) -> (OffsetDeleteResponse, Vec<Record>) {
    let group = request.group_id.as_str();
    let mut records = Vec::new();
    let topics = request.topics.iter().map(|topic| {
        let subscribed = is_read(&topic.name);
        let partitions = topic.partitions.iter().map(|partition| {
            let index = partition.partition_index;
            let answer = OffsetDeleteResponsePartition::default().with_partition_index(index);
            if subscribed {
                return answer.with_error_code(ErrorCode::GroupSubscribedToTopic.code());
            }
            if offsets.get(group, &topic.name, index, View::Newest).is_some()
                || offsets.is_unstable(group, &topic.name, index)
            {
                records.push(Record::offset(group, &topic.name, index, None));
            }
            answer
        });
        OffsetDeleteResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    (OffsetDeleteResponse::default().with_topics(topics.collect()), records)
}
