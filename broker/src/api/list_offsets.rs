//! ListOffsets: where a timestamp, or a named place, lies in a partition's log.
//!
//! Versions 1 to 10. From 4 the answer carries the leader epoch, from 7 it knows MAX_TIMESTAMP
//! (KIP-734), from 8 EARLIEST_LOCAL (KIP-405), from 9 LATEST_TIERED, which is -1 without tiering.
//! A consumer sees up to the high watermark, or the last stable offset when it reads committed
//! records; a follower up to the log end. Reads only.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ApiKey, ListOffsetsRequest, ListOffsetsResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::error::ErrorCode;
use crate::log::TimestampOffset;
use crate::replica::{Partition, Partitions};
use crate::types::{NodeId, Offset};

pub const API: Api = Api::new(ApiKey::ListOffsets, 1..=10).handled_by(handler!(handle));

pub const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: ListOffsetsRequest,
) -> Reply<ListOffsetsResponse> {
    let (partitions, version) = (broker.partitions.clone(), client.version);
    let env = broker.env.clone();
    // Looking up a timestamp reads indexes and batches.
    Reply::later(async move { env.blocking(move || answer(&partitions, &request, version)).await })
}

/// Who asks decides how far it sees.
#[derive(Clone, Copy)]
enum Reader {
    Consumer { read_committed: bool },
    Replica,
}

impl Reader {
    fn of(replica: NodeId, isolation: i8) -> Self {
        if replica >= 0 { Self::Replica } else { Self::Consumer { read_committed: isolation == 1 } }
    }
}

/// Blocking.
pub fn answer(
    partitions: &Partitions,
    request: &ListOffsetsRequest,
    version: i16,
) -> ListOffsetsResponse {
    let reader = Reader::of(request.replica_id.0, request.isolation_level);
    let mut seen = BTreeSet::new();
    let mut twice = BTreeSet::new();
    for topic in &request.topics {
        for asked in &topic.partitions {
            let key = (topic.name.to_string(), asked.partition_index);
            if !seen.insert(key.clone()) {
                twice.insert(key);
            }
        }
    }
    let topics = request.topics.iter().map(|topic| {
        let one = |asked: &ListOffsetsPartition| {
            let located = if twice.contains(&(topic.name.to_string(), asked.partition_index)) {
                Err(ErrorCode::InvalidRequest)
            } else {
                locate(partitions, &topic.name, asked, reader, version)
            };
            respond(asked.partition_index, located, version)
        };
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(topic.partitions.iter().map(one).collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

fn respond(
    index: i32,
    located: Result<Option<TimestampOffset>, ErrorCode>,
    version: i16,
) -> ListOffsetsPartitionResponse {
    let answer = ListOffsetsPartitionResponse::default()
        .with_partition_index(index)
        .with_timestamp(-1)
        .with_offset(-1);
    match located {
        Err(code) => answer.with_error_code(code.code()),
        Ok(None) => answer,
        Ok(Some(found)) => {
            let answer = answer.with_timestamp(found.timestamp).with_offset(found.offset);
            match found.leader_epoch {
                Some(epoch) if version >= 4 => answer.with_leader_epoch(epoch),
                _ => answer,
            }
        }
    }
}

/// Finds the offset that `asked` names, as far as `reader` may see.
fn locate(
    partitions: &Partitions,
    topic: &str,
    asked: &ListOffsetsPartition,
    reader: Reader,
    version: i16,
) -> Result<Option<TimestampOffset>, ErrorCode> {
    let known_from = match asked.timestamp {
        0.. | LATEST | EARLIEST => 1,
        MAX_TIMESTAMP => 7,
        EARLIEST_LOCAL => 8,
        LATEST_TIERED => 9,
        _ => i16::MAX,
    };
    if version < known_from {
        return Err(ErrorCode::UnsupportedVersion);
    }
    let partition =
        partitions.as_leader(topic, asked.partition_index, asked.current_leader_epoch)?;
    let log = partition.log();
    let at = |offset: Offset, leader_epoch| {
        Ok(Some(TimestampOffset { timestamp: -1, offset, leader_epoch }))
    };
    match asked.timestamp {
        EARLIEST | EARLIEST_LOCAL => at(log.start_offset(), log.epoch_at(log.start_offset())),
        LATEST_TIERED => at(-1, None),
        LATEST => at(end_for(&partition, reader, version)?, log.latest_epoch()),
        timestamp => {
            let end = end_for(&partition, reader, version)?;
            let found = match timestamp {
                MAX_TIMESTAMP => log.max_timestamp(),
                _ => log.offset_for_timestamp(timestamp),
            };
            let found = found.map_err(|error| {
                tracing::error!(partition = %partition.id, %error, "cannot be searched");
                ErrorCode::KafkaStorageError
            })?;
            Ok(found.filter(|found| found.offset < end))
        }
    }
}

/// Up to where the reader sees. A new leader does not know yet how far its predecessor let
/// consumers read, until its own high watermark has reached the start of its epoch.
fn end_for(partition: &Partition, reader: Reader, version: i16) -> Result<Offset, ErrorCode> {
    let Reader::Consumer { read_committed } = reader else {
        return Ok(partition.log().end_offset());
    };
    if partition.is_catching_up() {
        let since = if version >= 5 {
            ErrorCode::OffsetNotAvailable
        } else {
            ErrorCode::LeaderNotAvailable
        };
        return Err(since);
    }
    Ok(if read_committed { partition.last_stable_offset() } else { partition.high_watermark() })
}
