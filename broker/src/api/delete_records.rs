//! DeleteRecords: moves the start of a partition's log, on all its replicas (KIP-107).
//!
//! Versions 0 to 2. The answer comes once every living replica has moved its start, which
//! followers tell with their fetches, or at the request's time-out. Topics that are only compacted
//! are refused with POLICY_VIOLATION.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::delete_records_request::DeleteRecordsPartition;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{ApiKey, DeleteRecordsRequest, DeleteRecordsResponse};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::metadata::is_internal;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::error::ErrorCode;
use crate::replica::partition::ANY_EPOCH;
use crate::replica::{Partition, Partitions};
use crate::types::Offset;

pub const API: Api = Api::new(ApiKey::DeleteRecords, 0..=2).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    request: DeleteRecordsRequest,
) -> Reply<DeleteRecordsResponse> {
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let deadline = broker.env.clock.now() + timeout;
    let partitions = broker.partitions.clone();
    Reply::later(async move { answer(&partitions, request, deadline).await })
}

async fn answer(
    partitions: &Partitions,
    request: DeleteRecordsRequest,
    deadline: Instant,
) -> DeleteRecordsResponse {
    // All are started before any is waited for.
    let mut started = Vec::new();
    for topic in &request.topics {
        for asked in &topic.partitions {
            started.push(delete(partitions, &topic.name, asked));
        }
    }
    let mut started = started.into_iter();
    let mut topics = Vec::new();
    for topic in request.topics {
        let mut answers = Vec::new();
        for (asked, deleted) in topic.partitions.iter().zip(&mut started) {
            let settled = match deleted {
                Ok((partition, wanted)) => wait(&partition, wanted, deadline).await,
                Err(code) => Err(code),
            };
            let answer =
                DeleteRecordsPartitionResult::default().with_partition_index(asked.partition_index);
            answers.push(match settled {
                Ok(low) => answer.with_low_watermark(low),
                Err(code) => answer.with_low_watermark(-1).with_error_code(code.code()),
            });
        }
        let result = DeleteRecordsTopicResult::default().with_name(topic.name);
        topics.push(result.with_partitions(answers));
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

fn delete(
    partitions: &Partitions,
    topic: &str,
    asked: &DeleteRecordsPartition,
) -> Result<(Arc<Partition>, Offset), ErrorCode> {
    if is_internal(topic) {
        return Err(ErrorCode::InvalidTopicException);
    }
    let partition = partitions.as_leader(topic, asked.partition_index, ANY_EPOCH)?;
    if !partition.log().config().delete {
        return Err(ErrorCode::PolicyViolation);
    }
    let wanted = partition.delete_records(asked.offset)?;
    Ok((partition, wanted))
}

async fn wait(
    partition: &Partition,
    wanted: Offset,
    deadline: Instant,
) -> Result<Offset, ErrorCode> {
    let waiter = Arc::new(Notify::new());
    loop {
        partition.on_commit.add(&waiter);
        let low = partition.low_watermark()?;
        if low >= wanted {
            return Ok(low);
        }
        if tokio::time::timeout_at(deadline, waiter.notified()).await.is_err() {
            return Err(ErrorCode::RequestTimedOut);
        }
    }
}
