//! AlterReplicaLogDirs: moves replicas of this broker from one of its log directories to another.
//!
//! Versions 1 and 2. The answer says that a move has begun, or why not; DescribeLogDirs shows how
//! far it is (KIP-113). For a replica that is not here yet the directory is remembered, and the
//! answer is REPLICA_NOT_AVAILABLE, as in Kafka.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_protocol::messages::{
    AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, ApiKey, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::replica::Partitions;
use crate::types::TopicPartition;

pub const API: Api = Api::new(ApiKey::AlterReplicaLogDirs, 1..=2).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    request: AlterReplicaLogDirsRequest,
) -> Reply<AlterReplicaLogDirsResponse> {
    let (env, partitions) = (broker.env.clone(), broker.partitions.clone());
    Reply::later(async move { env.blocking(move || answer(&partitions, &request)).await })
}

fn answer(
    partitions: &Partitions,
    request: &AlterReplicaLogDirsRequest,
) -> AlterReplicaLogDirsResponse {
    // Of a partition that is named twice, the last one counts.
    let mut wanted = BTreeMap::<TopicPartition, PathBuf>::new();
    for dir in &request.dirs {
        for topic in &dir.topics {
            for partition in &topic.partitions {
                let id = TopicPartition::new(&*topic.name.0, *partition);
                wanted.insert(id, PathBuf::from(dir.path.as_str()));
            }
        }
    }
    let mut results = Vec::<AlterReplicaLogDirTopicResult>::new();
    for (id, path) in wanted {
        let code = match partitions.alter_log_dir(&id, &path) {
            Ok(()) => 0,
            Err(code) => code.code(),
        };
        let result = AlterReplicaLogDirPartitionResult::default()
            .with_partition_index(id.partition)
            .with_error_code(code);
        match results.last_mut() {
            Some(topic) if *topic.topic_name.0 == *id.topic => topic.partitions.push(result),
            _ => results.push(
                AlterReplicaLogDirTopicResult::default()
                    .with_topic_name(TopicName(StrBytes::from_string(id.topic.to_string())))
                    .with_partitions(vec![result]),
            ),
        }
    }
    AlterReplicaLogDirsResponse::default().with_results(results)
}
