//! OffsetCommit: what a group has read, kept until it asks.
//!
//! Versions 2 to 10; 2 to 4 may ask for a retention time of their own, 10 names topics by id.
//! Topics and partitions that do not exist are refused one by one. Answered when the offsets are
//! committed. `kafka-protocol` does not know version 10 of the request: its schema is here.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, GroupId, OffsetCommitRequest, OffsetCommitResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::{Answer, Api, Client, Reply, Unreadable, decode, encode};
use crate::broker::Broker;
use crate::controller::image::Image;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::answer_in_kind;
use crate::error::ErrorCode;
use crate::wire::message::Message as _;

pub const API: Api = Api::new(ApiKey::OffsetCommit, 2..=10).handled_by(read_and_handle);

/// From this version on topics are named by id.
const BY_ID: i16 = 10;
/// From this version on a group that does not exist has a word of its own.
const WITH_NO_GROUP: i16 = 9;

crate::message! {
    /// The request from version 10 on.
    pub struct CommitById (10, 10, flexible 10) {
        group: String [from 10],
        generation: i32 [from 10, default -1],
        member: String [from 10],
        instance: Option<String> [from 10],
        topics: Vec<TopicById> [from 10],
    }
    /// One topic of it.
    pub struct TopicById {
        id: Uuid [from 10],
        partitions: Vec<PartitionById> [from 10],
    }
    /// One partition of that.
    pub struct PartitionById {
        index: i32 [from 10],
        offset: i64 [from 10],
        leader_epoch: i32 [from 10, default -1],
        metadata: Option<String> [from 10],
    }
}

impl From<CommitById> for OffsetCommitRequest {
    fn from(request: CommitById) -> Self {
        let partition = |it: PartitionById| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(it.index)
                .with_committed_offset(it.offset)
                .with_committed_leader_epoch(it.leader_epoch)
                .with_committed_metadata(it.metadata.map(StrBytes::from_string))
        };
        let topic = |it: TopicById| {
            OffsetCommitRequestTopic::default()
                .with_topic_id(it.id)
                .with_partitions(it.partitions.into_iter().map(partition).collect())
        };
        Self::default()
            .with_group_id(GroupId(StrBytes::from_string(request.group)))
            .with_generation_id_or_member_epoch(request.generation)
            .with_member_id(StrBytes::from_string(request.member))
            .with_group_instance_id(request.instance.map(StrBytes::from_string))
            .with_topics(request.topics.into_iter().map(topic).collect())
    }
}

fn read_and_handle<'a>(
    broker: &'a Arc<Broker>,
    client: &'a Client,
    body: Bytes,
) -> BoxFuture<'a, Result<Answer, Unreadable>> {
    Box::pin(async move {
        let request = if client.version < BY_ID {
            decode(client, body)?
        } else {
            let request = CommitById::decode(&mut &body[..], client.version);
            request.map_err(|error| Unreadable(format!("OffsetCommit: {error}")))?.into()
        };
        encode(client, handle(broker, client, request).await)
    })
}

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    mut request: OffsetCommitRequest,
) -> Reply<OffsetCommitResponse> {
    let version = client.version;
    let refused = refuse_unknown(&broker.image.load(), &mut request, version);
    if request.topics.is_empty() {
        let response = OffsetCommitResponse::default().with_topics(refused);
        return Reply::Now(in_version(version, response));
    }
    let group = request.group_id.clone();
    let answer = broker.groups.call(&group, Call::OffsetCommit { request, version }).await;
    Reply::later(async move {
        in_version(version, merged(refused, answer_in_kind!(answer.await, OffsetCommit)))
    })
}

/// Takes what does not exist out of the request, and gives what does both its name and its id.
fn refuse_unknown(
    image: &Image,
    request: &mut OffsetCommitRequest,
    version: i16,
) -> Vec<OffsetCommitResponseTopic> {
    let mut refused = Vec::new();
    request.topics.retain_mut(|topic| {
        let mut code = ErrorCode::UnknownTopicOrPartition;
        let known = if version < BY_ID {
            image.topic(&topic.name)
        } else {
            let known = image.topic_by_id(topic.topic_id);
            match known {
                Some(known) => {
                    topic.name = TopicName(StrBytes::from_string(known.name.to_string()))
                }
                None => code = ErrorCode::UnknownTopicId,
            }
            known
        };
        if version < BY_ID {
            topic.topic_id = known.map(|known| known.id).unwrap_or_default();
        }
        let mut unknown = Vec::new();
        topic.partitions.retain(|partition| {
            let index = partition.partition_index;
            let exists = known.is_some_and(|known| known.partitions.contains_key(&index));
            if !exists {
                let refusal = OffsetCommitResponsePartition::default();
                unknown.push(refusal.with_partition_index(index).with_error_code(code.code()));
            }
            exists
        });
        if !unknown.is_empty() {
            let (name, id) = (topic.name.clone(), topic.topic_id);
            let topic = OffsetCommitResponseTopic::default().with_name(name).with_topic_id(id);
            refused.push(topic.with_partitions(unknown));
        }
        !topic.partitions.is_empty()
    });
    refused
}

/// One entry per topic, as clients expect.
fn merged(
    refused: Vec<OffsetCommitResponseTopic>,
    mut answer: OffsetCommitResponse,
) -> OffsetCommitResponse {
    for topic in refused {
        let same = |it: &&mut OffsetCommitResponseTopic| {
            it.name == topic.name && it.topic_id == topic.topic_id
        };
        match answer.topics.iter_mut().find(same) {
            Some(known) => known.partitions.extend(topic.partitions),
            None => answer.topics.push(topic),
        }
    }
    answer
}

fn in_version(version: i16, mut answer: OffsetCommitResponse) -> OffsetCommitResponse {
    for topic in &mut answer.topics {
        if version < BY_ID {
            topic.topic_id = Uuid::nil();
        } else {
            topic.name = TopicName::default();
        }
        for partition in &mut topic.partitions {
            let no_group = partition.error_code == ErrorCode::GroupIdNotFound.code();
            if no_group && version < WITH_NO_GROUP {
                partition.error_code = ErrorCode::IllegalGeneration.code();
            }
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable as _;

    use super::*;
    use crate::api::testing::{ORDERS, three_brokers};
    use crate::wire::bounds;

    fn commit(id: Uuid, index: i32) -> CommitById {
        let partition = PartitionById { index, offset: 7, ..PartitionById::default() };
        CommitById {
            group: "g".into(),
            generation: 3,
            member: "m".into(),
            topics: vec![TopicById { id, partitions: vec![partition] }],
            ..CommitById::default()
        }
    }

    fn refused(id: Uuid, index: i32) -> Vec<(String, Uuid, i16)> {
        let mut request = commit(id, index).into();
        let refused = refuse_unknown(&three_brokers(), &mut request, BY_ID);
        assert_eq!(request.topics.is_empty(), !refused.is_empty());
        let line = |it: &OffsetCommitResponseTopic| {
            (it.name.to_string(), it.topic_id, it.partitions[0].error_code)
        };
        refused.iter().map(line).collect()
    }

    #[test]
    fn version_10_is_within_the_bounds_of_its_schema_and_reads_back() {
        let bytes = commit(ORDERS, 1).to_bytes(BY_ID);
        bounds::check(ApiKey::OffsetCommit as i16, BY_ID, &bytes).unwrap();
        assert_eq!(CommitById::decode(&mut &bytes[..], BY_ID), Ok(commit(ORDERS, 1)));
        let request = OffsetCommitRequest::from(commit(ORDERS, 1));
        assert_eq!(request.topics[0].topic_id, ORDERS);
        assert_eq!(request.topics[0].partitions[0].committed_offset, 7);
        assert_eq!(request.generation_id_or_member_epoch, 3);
    }

    #[test]
    fn from_version_10_on_unknown_topics_and_unknown_partitions_are_told_apart() {
        let stranger = Uuid::from_u128(77);
        assert_eq!(refused(ORDERS, 0), []);
        assert_eq!(refused(ORDERS, 99), [("orders".to_owned(), ORDERS, 3)]);
        assert_eq!(refused(stranger, 0), [(String::new(), stranger, 100)]);
    }

    #[test]
    fn an_answer_fits_into_every_version() {
        let partition = OffsetCommitResponsePartition::default().with_error_code(69);
        let topic = OffsetCommitResponseTopic::default()
            .with_name(TopicName("orders".into()))
            .with_topic_id(ORDERS)
            .with_partitions(vec![partition]);
        for version in 2..=BY_ID {
            let answer = OffsetCommitResponse::default().with_topics(vec![topic.clone()]);
            let answer = in_version(version, answer);
            answer.encode(&mut BytesMut::new(), version).unwrap();
            let expected = if version < 9 { 22 } else { 69 };
            assert_eq!(answer.topics[0].partitions[0].error_code, expected);
        }
    }
}
