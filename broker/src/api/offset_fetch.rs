//! OffsetFetch: what groups have committed.
//!
//! Versions 1 to 9. From 2 no topics mean all, from 7 a client may ask for stable offsets only
//! (KIP-447), from 8 for several groups at once (KIP-709). Version 1 has no error of its own: each
//! partition carries it. Deliberately absent: version 10 (topic ids), whose request
//! `kafka-protocol` does not know.

use std::sync::Arc;

use futures::future::join_all;
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use kafka_protocol::messages::{ApiKey, OffsetFetchRequest, OffsetFetchResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::answer_in_kind;

pub const API: Api = Api::new(ApiKey::OffsetFetch, 1..=9).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: OffsetFetchRequest,
) -> Reply<OffsetFetchResponse> {
    let (version, require_stable) = (client.version, request.require_stable);
    let asked = if version < 8 { vec![as_group(request)] } else { request.groups };
    let mut answers = Vec::with_capacity(asked.len());
    for group in asked {
        let id = group.group_id.clone();
        let call = Call::OffsetFetch { group: group.clone(), require_stable };
        answers.push((group, broker.groups.call(&id, call).await));
    }
    Reply::later(async move {
        let answers = answers
            .into_iter()
            .map(|(group, answer)| async { (group, answer_in_kind!(answer.await, OffsetFetch)) });
        in_version(version, join_all(answers).await)
    })
}

fn as_group(request: OffsetFetchRequest) -> OffsetFetchRequestGroup {
    let topics = request.topics.map(|topics| {
        let topic = topics.into_iter().map(|topic| {
            OffsetFetchRequestTopics::default()
                .with_name(topic.name)
                .with_partition_indexes(topic.partition_indexes)
        });
        topic.collect()
    });
    OffsetFetchRequestGroup::default().with_group_id(request.group_id).with_topics(topics)
}

fn in_version(
    version: i16,
    answers: Vec<(OffsetFetchRequestGroup, OffsetFetchResponseGroup)>,
) -> OffsetFetchResponse {
    if version >= 8 {
        let groups = answers.into_iter().map(|(_, answer)| answer).collect();
        return OffsetFetchResponse::default().with_groups(groups);
    }
    let mut response = OffsetFetchResponse::default();
    for (asked, answer) in answers {
        if version >= 2 {
            response.error_code = answer.error_code;
        } else if answer.error_code != 0 {
            response.topics = refuse_each(&asked, answer.error_code);
        }
        response.topics.extend(answer.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.into_iter().map(|partition| {
                OffsetFetchResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_committed_offset(partition.committed_offset)
                    .with_committed_leader_epoch(partition.committed_leader_epoch)
                    .with_metadata(partition.metadata)
                    .with_error_code(partition.error_code)
            });
            OffsetFetchResponseTopic::default()
                .with_name(topic.name)
                .with_partitions(partitions.collect())
        }));
    }
    response
}

fn refuse_each(asked: &OffsetFetchRequestGroup, code: i16) -> Vec<OffsetFetchResponseTopic> {
    let topics = asked.topics.iter().flatten().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|partition| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(-1)
                .with_error_code(code)
        });
        OffsetFetchResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    topics.collect()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::offset_fetch_response::{
        OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
    };
    use kafka_protocol::messages::{GroupId, TopicName};
    use kafka_protocol::protocol::Encodable;

    use super::*;

    #[test]
    fn an_answer_fits_into_every_version() {
        let asked = || OffsetFetchRequestGroup::default().with_group_id(GroupId("g".into()));
        let found = OffsetFetchResponsePartitions::default().with_committed_leader_epoch(3);
        let topic = OffsetFetchResponseTopics::default()
            .with_name(TopicName("t".into()))
            .with_partitions(vec![found]);
        let good = OffsetFetchResponseGroup::default().with_topics(vec![topic]);
        let bad = OffsetFetchResponseGroup::default().with_error_code(14);
        for version in 1..=9 {
            for answer in [good.clone(), bad.clone()] {
                let response = in_version(version, vec![(asked(), answer)]);
                response.encode(&mut BytesMut::new(), version).unwrap();
            }
        }
    }
}
