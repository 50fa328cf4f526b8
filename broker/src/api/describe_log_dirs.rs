//! DescribeLogDirs: the log directory of this broker and the partitions in it.
//!
//! Versions 1 to 4. The size of the volume, which version 4 has a place for, is -1, Kafka's
//! "unknown": the environment does not tell it yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{
    ApiKey, DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::DescribeLogDirs, 1..=4).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    request: DescribeLogDirsRequest,
) -> Reply<DescribeLogDirsResponse> {
    let wanted = |name: &str, partition: i32| match &request.topics {
        None => true,
        Some(topics) => topics
            .iter()
            .any(|topic| &*topic.topic == name && topic.partitions.contains(&partition)),
    };
    let mut topics = BTreeMap::<Arc<str>, Vec<DescribeLogDirsPartition>>::new();
    for partition in broker.partitions.all() {
        let (name, index) = (&partition.id.topic, partition.id.partition);
        if wanted(name, index) {
            let lag = (partition.high_watermark() - partition.log.end_offset()).max(0);
            topics.entry(name.clone()).or_default().push(
                DescribeLogDirsPartition::default()
                    .with_partition_index(index)
                    .with_partition_size(partition.log.size() as i64)
                    .with_offset_lag(lag),
            );
        }
    }
    let dir = &broker.partitions.dir;
    let offline = dir.offline().borrow().is_some();
    let path = StrBytes::from_string(dir.path().display().to_string());
    let topics = topics.into_iter().map(|(name, partitions)| {
        DescribeLogDirsTopic::default()
            .with_name(TopicName(StrBytes::from_string(name.to_string())))
            .with_partitions(partitions)
    });
    let result = DescribeLogDirsResult::default()
        .with_error_code(if offline { ErrorCode::KafkaStorageError.code() } else { 0 })
        .with_log_dir(path)
        .with_topics(topics.collect())
        .with_total_bytes(-1)
        .with_usable_bytes(-1);
    Reply::Now(DescribeLogDirsResponse::default().with_results(vec![result]))
}
