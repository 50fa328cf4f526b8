//! OffsetForLeaderEpoch: where an epoch ended in the leader's log, so that consumers notice
//! truncations (KIP-320).
//!
//! Versions 2 to 4. An epoch that the log does not know is answered with epoch and offset -1.

use std::sync::Arc;

use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{ApiKey, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;

pub const API: Api = Api::new(ApiKey::OffsetForLeaderEpoch, 2..=4).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    request: OffsetForLeaderEpochRequest,
) -> Reply<OffsetForLeaderEpochResponse> {
    let topics = request.topics.iter().map(|topic| {
        let one = |asked: &OffsetForLeaderPartition| {
            let answer = EpochEndOffset::default()
                .with_partition(asked.partition)
                .with_leader_epoch(-1)
                .with_end_offset(-1);
            let known = asked.current_leader_epoch;
            match broker.partitions.as_leader(&topic.topic, asked.partition, known) {
                Err(code) => answer.with_error_code(code.code()),
                Ok(partition) => match partition.log().end_offset_for_epoch(asked.leader_epoch) {
                    Some((epoch, end)) => answer.with_leader_epoch(epoch).with_end_offset(end),
                    None => answer,
                },
            }
        };
        OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic.clone())
            .with_partitions(topic.partitions.iter().map(one).collect())
    });
    Reply::Now(OffsetForLeaderEpochResponse::default().with_topics(topics.collect()))
}
