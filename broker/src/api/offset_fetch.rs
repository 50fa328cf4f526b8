//! OffsetFetch: what groups have committed.
//!
//! Versions 1 to 10. From 2 no topics mean all, from 7 a client may ask for stable offsets only
//! (KIP-447), from 8 for several groups at once (KIP-709); 10 names topics by id. Version 1 has no
//! error of its own: each partition carries it. `kafka-protocol` does not know version 10 of the
//! request: its schema is here.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    ApiKey, GroupId, OffsetFetchRequest, OffsetFetchResponse, TopicName,
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

pub const API: Api = Api::new(ApiKey::OffsetFetch, 1..=10).handled_by(read_and_handle);

/// From this version on topics are named by id.
const BY_ID: i16 = 10;

crate::message! {
    /// The request from version 10 on.
    pub struct FetchById (10, 10, flexible 10) {
        groups: Vec<GroupById> [from 10],
        require_stable: bool [from 10],
    }
    /// One group of it.
    pub struct GroupById {
        group: String [from 10],
        member: Option<String> [from 10],
        member_epoch: i32 [from 10, default -1],
        topics: Option<Vec<TopicById>> [from 10],
    }
    /// One topic of that.
    pub struct TopicById {
        id: Uuid [from 10],
        partitions: Vec<i32> [from 10],
    }
}

impl From<FetchById> for OffsetFetchRequest {
    fn from(request: FetchById) -> Self {
        let topic = |it: TopicById| {
            OffsetFetchRequestTopics::default()
                .with_topic_id(it.id)
                .with_partition_indexes(it.partitions)
        };
        let group = |it: GroupById| {
            OffsetFetchRequestGroup::default()
                .with_group_id(GroupId(StrBytes::from_string(it.group)))
                .with_member_id(it.member.map(StrBytes::from_string))
                .with_member_epoch(it.member_epoch)
                .with_topics(it.topics.map(|topics| topics.into_iter().map(topic).collect()))
        };
        Self::default()
            .with_groups(request.groups.into_iter().map(group).collect())
            .with_require_stable(request.require_stable)
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
            let request = FetchById::decode(&mut &body[..], client.version);
            request.map_err(|error| Unreadable(format!("OffsetFetch: {error}")))?.into()
        };
        encode(client, handle(broker, client, request).await)
    })
}

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: OffsetFetchRequest,
) -> Reply<OffsetFetchResponse> {
    let (version, require_stable) = (client.version, request.require_stable);
    let asked = if version < 8 { vec![as_group(request)] } else { request.groups };
    let mut answers = Vec::with_capacity(asked.len());
    let image = broker.image.load_full();
    for mut group in asked {
        let unknown = if version < BY_ID { Vec::new() } else { name_topics(&image, &mut group) };
        let id = group.group_id.clone();
        let call = Call::OffsetFetch { group: group.clone(), require_stable };
        answers.push((group, unknown, broker.groups.call(&id, call).await));
    }
    Reply::later(async move {
        let answers = answers.into_iter().map(|(group, unknown, answer)| async {
            let mut answer = answer_in_kind!(answer.await, OffsetFetch);
            if version >= BY_ID && answer.error_code == 0 {
                name_by_id(&image, &mut answer);
                answer.topics.extend(unknown);
            }
            (group, answer)
        });
        in_version(version, join_all(answers).await)
    })
}

/// Gives the asked topics their names; those whose ids nobody knows are taken out and refused.
fn name_topics(
    image: &Image,
    group: &mut OffsetFetchRequestGroup,
) -> Vec<OffsetFetchResponseTopics> {
    let mut refused = Vec::new();
    let Some(topics) = &mut group.topics else { return refused };
    topics.retain_mut(|topic| {
        let known = image.topic_by_id(topic.topic_id);
        if let Some(known) = known {
            topic.name = TopicName(StrBytes::from_string(known.name.to_string()));
            return true;
        }
        let refuse = |index: &i32| {
            OffsetFetchResponsePartitions::default()
                .with_partition_index(*index)
                .with_committed_offset(-1)
                .with_error_code(ErrorCode::UnknownTopicId.code())
        };
        refused.push(
            OffsetFetchResponseTopics::default()
                .with_topic_id(topic.topic_id)
                .with_partitions(topic.partition_indexes.iter().map(refuse).collect()),
        );
        false
    });
    refused
}

/// The other way round, for the answer: a topic that is gone has no id, and is left out.
fn name_by_id(image: &Image, answer: &mut OffsetFetchResponseGroup) {
    answer.topics.retain_mut(|topic| {
        if topic.topic_id.is_nil() {
            topic.topic_id = image.topic(&topic.name).map(|known| known.id).unwrap_or_default();
        }
        topic.name = TopicName::default();
        !topic.topic_id.is_nil()
    });
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
    use kafka_protocol::protocol::Encodable;

    use super::*;
    use crate::api::testing::{ORDERS, three_brokers};
    use crate::wire::bounds;

    fn asking(id: Uuid) -> FetchById {
        let topic = TopicById { id, partitions: vec![0, 1] };
        let group =
            GroupById { group: "g".into(), topics: Some(vec![topic]), ..GroupById::default() };
        FetchById { groups: vec![group], require_stable: true }
    }

    #[test]
    fn version_10_is_within_the_bounds_of_its_schema_and_reads_back() {
        let bytes = asking(ORDERS).to_bytes(BY_ID);
        bounds::check(ApiKey::OffsetFetch as i16, BY_ID, &bytes).unwrap();
        assert_eq!(FetchById::decode(&mut &bytes[..], BY_ID), Ok(asking(ORDERS)));
    }

    #[test]
    fn ids_become_names_for_the_coordinator_and_ids_again_for_the_client() {
        let image = three_brokers();
        let mut known = OffsetFetchRequest::from(asking(ORDERS)).groups.remove(0);
        assert!(name_topics(&image, &mut known).is_empty());
        assert_eq!(known.topics.as_ref().unwrap()[0].name.as_str(), "orders");

        let stranger = Uuid::from_u128(77);
        let mut unknown = OffsetFetchRequest::from(asking(stranger)).groups.remove(0);
        let refused = name_topics(&image, &mut unknown);
        assert!(unknown.topics.unwrap().is_empty());
        assert_eq!((refused[0].topic_id, refused[0].partitions.len()), (stranger, 2));
        assert_eq!(refused[0].partitions[1].error_code, 100);

        let named = |name: &'static str| {
            OffsetFetchResponseTopics::default().with_name(TopicName(name.into()))
        };
        let mut answer =
            OffsetFetchResponseGroup::default().with_topics(vec![named("orders"), named("gone")]);
        name_by_id(&image, &mut answer);
        let left: Vec<_> = answer.topics.iter().map(|it| (it.name.as_str(), it.topic_id)).collect();
        assert_eq!(left, [("", ORDERS)]);
        let response = in_version(BY_ID, vec![(OffsetFetchRequestGroup::default(), answer)]);
        response.encode(&mut BytesMut::new(), BY_ID).unwrap();
    }

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
