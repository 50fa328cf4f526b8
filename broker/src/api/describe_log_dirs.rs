//! DescribeLogDirs: the log directories of this broker and the partitions in them.
//!
//! Versions 1 to 4, which carries the size of each volume and what is free on it. A replica that is
//! being moved is shown in both directories; its copy's lag is what is left to be copied.

use std::collections::BTreeMap;
use std::path::Path;
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
use crate::log::{Log, LogDir};

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
    let partitions = &broker.partitions;
    let mut results = Vec::new();
    for dir in partitions.dirs.all() {
        if dir.why_offline().is_some() {
            results.push(offline(dir.path()));
            continue;
        }
        let mut topics = BTreeMap::<Arc<str>, Vec<DescribeLogDirsPartition>>::new();
        for (log, is_future) in with_futures(dir) {
            let (name, index) = (&log.partition().topic, log.partition().partition);
            if !wanted(name, index) {
                continue;
            }
            let here = partitions.get(name, index);
            let lag = here.map_or(0, |here| {
                let all = if is_future { here.log().end_offset() } else { here.high_watermark() };
                (all - log.end_offset()).max(0)
            });
            topics.entry(name.clone()).or_default().push(
                DescribeLogDirsPartition::default()
                    .with_partition_index(index)
                    .with_partition_size(log.size() as i64)
                    .with_offset_lag(lag)
                    .with_is_future_key(is_future),
            );
        }
        let space = dir.space();
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let topics = topics.into_iter().map(|(name, partitions)| {
            DescribeLogDirsTopic::default()
                .with_name(TopicName(StrBytes::from_string(name.to_string())))
                .with_partitions(partitions)
        });
        results.push(
            DescribeLogDirsResult::default()
                .with_log_dir(text(dir.path()))
                .with_topics(topics.collect())
                .with_total_bytes(space.map_or(-1, |space| bytes(space.total)))
                .with_usable_bytes(space.map_or(-1, |space| bytes(space.available))),
        );
    }
    results.extend(partitions.dirs.broken().keys().map(|path| offline(path)));
    Reply::Now(DescribeLogDirsResponse::default().with_results(results))
}

/// The logs of a directory, and whether they are to take the place of one in another.
fn with_futures(dir: &LogDir) -> impl Iterator<Item = (Arc<Log>, bool)> {
    let logs = dir.logs().into_iter().map(|log| (log, false));
    logs.chain(dir.futures().into_iter().map(|log| (log, true)))
}

fn offline(path: &Path) -> DescribeLogDirsResult {
    DescribeLogDirsResult::default()
        .with_error_code(ErrorCode::KafkaStorageError.code())
        .with_log_dir(text(path))
        .with_total_bytes(-1)
        .with_usable_bytes(-1)
}

fn text(path: &Path) -> StrBytes {
    StrBytes::from_string(path.display().to_string())
}
