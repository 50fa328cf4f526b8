//! DescribeShareGroupOffsets 0 and 1, AlterShareGroupOffsets 0 and DeleteShareGroupOffsets 0: where share
//! groups start in each partition, read and changed from outside.
//!
//! The group coordinator knows of which partitions the share coordinator keeps state; that is then
//! asked. A group is changed only while it has no members. From version 1 on the first tells how far
//! behind a group is, for which the leaders of the partitions are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, join_all};
use kafka_protocol::messages::alter_share_group_offsets_response::{
    AlterShareGroupOffsetsResponsePartition as Altered,
    AlterShareGroupOffsetsResponseTopic as AlteredTopic,
};
use kafka_protocol::messages::delete_share_group_offsets_response::DeleteShareGroupOffsetsResponseTopic as DeletedTopic;
use kafka_protocol::messages::describe_share_group_offsets_request::DescribeShareGroupOffsetsRequestGroup as AskedGroup;
use kafka_protocol::messages::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse, ApiKey,
    DeleteShareGroupOffsetsRequest, DeleteShareGroupOffsetsResponse,
    DescribeShareGroupOffsetsRequest, GroupId,
};
use kafka_protocol::protocol::{Decodable as _, StrBytes};
use uuid::Uuid;

use super::share_group_heartbeat::{Starts, initialize};
use super::{Answer, Api, Client, Reply, Unreadable, handler, share_group_lag};
use crate::broker::Broker;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::{ShareStates, answer_in_kind};
use crate::coordinator::group::share::Named;
use crate::coordinator::share::records::ShareKey;
use crate::coordinator::share::shard::{self, Summary, What};
use crate::error::{ErrorCode, Refusal};
use crate::types::TopicPartition;
use crate::wire::message::Message as _;
use crate::wire::share::{
    DescribedGroup, DescribedOffsetsResponse, DescribedPartition, DescribedTopic,
};

pub const DESCRIBE: Api =
    Api::new(ApiKey::DescribeShareGroupOffsets, 0..=1).handled_by(read_and_describe);
pub const ALTER: Api = Api::new(ApiKey::AlterShareGroupOffsets, 0..=0).handled_by(handler!(alter));
pub const DELETE: Api =
    Api::new(ApiKey::DeleteShareGroupOffsets, 0..=0).handled_by(handler!(delete));

/// From this version on of DescribeShareGroupOffsets.
const WITH_LAG: i16 = 1;

/// How many records from its start on a group is done with, where that is known.
type Done = Option<i32>;

fn text(refusal: &Refusal) -> StrBytes {
    StrBytes::from_string(refusal.message.clone())
}

async fn ask(broker: &Broker, group: &GroupId, call: Call) -> Result<ShareStates, Refusal> {
    if !broker.shares.is_enabled() {
        return Err(ErrorCode::UnsupportedVersion.into());
    }
    answer_in_kind!(broker.groups.call(group, call).await.await, ShareStates)
}

async fn keeper(broker: &Broker, group: &str, at: (Uuid, i32), what: What) -> shard::Answer {
    let key = ShareKey { group: group.to_owned(), topic_id: at.0, partition: at.1 };
    broker.shares.coordinator().call(shard::Call { key, what }).await
}

/// The request is the same in both versions; `kafka-protocol` knows the first.
fn read_and_describe<'a>(
    broker: &'a Arc<Broker>,
    client: &'a Client,
    mut body: Bytes,
) -> BoxFuture<'a, Result<Answer, Unreadable>> {
    let (broker, version) = (broker.clone(), client.version);
    Box::pin(async move {
        let request = DescribeShareGroupOffsetsRequest::decode(&mut body, 0)
            .map_err(|error| Unreadable(format!("DescribeShareGroupOffsets: {error}")))?;
        Ok(Answer::Later(Box::pin(async move {
            let groups = request.groups.iter().map(|asked| describe_group(&broker, asked, version));
            let groups = join_all(groups).await;
            let mut body = BytesMut::new();
            DescribedOffsetsResponse { throttle_time_ms: 0, groups }.encode(version, &mut body);
            Ok(vec![body.freeze()])
        })))
    })
}

async fn describe_group(broker: &Arc<Broker>, asked: &AskedGroup, version: i16) -> DescribedGroup {
    let id = &asked.group_id;
    let group = id.to_string();
    let states = match ask(broker, id, Call::ShareStates { group: id.clone() }).await {
        Ok(states) => states.states,
        Err(Refusal { code, message, .. }) => {
            let (error_code, error_message) = (code.code(), Some(message));
            return DescribedGroup { group, error_code, error_message, ..Default::default() };
        }
    };
    let wanted: Vec<(String, Vec<i32>)> = match &asked.topics {
        Some(topics) => {
            topics.iter().map(|it| (it.topic_name.to_string(), it.partitions.clone())).collect()
        }
        None => states
            .initialized
            .values()
            .map(|(name, its)| (name.clone(), its.iter().copied().collect()))
            .collect(),
    };
    let topics = wanted.iter().map(|(name, its)| describe_topic(broker, id, name, its));
    let mut topics = join_all(topics).await;
    if version >= WITH_LAG {
        tell_lag(broker, &mut topics).await;
    }
    let topics = topics.into_iter().map(|(topic, _)| topic).collect();
    DescribedGroup { group, topics, ..Default::default() }
}

/// Adds to where the group starts in each partition how far it is behind.
async fn tell_lag(broker: &Arc<Broker>, topics: &mut [(DescribedTopic, Vec<Done>)]) {
    let partitions = |(topic, done): &(DescribedTopic, Vec<Done>)| {
        let known = topic.partitions.iter().zip(done).filter(|(_, done)| done.is_some());
        known.map(|(it, _)| TopicPartition::new(&*topic.topic, it.partition)).collect::<Vec<_>>()
    };
    let ends = share_group_lag::ends(broker, topics.iter().flat_map(partitions).collect()).await;
    for (topic, done) in topics {
        for (partition, done) in topic.partitions.iter_mut().zip(done) {
            let Some(done) = *done else { continue };
            let at = TopicPartition::new(&*topic.topic, partition.partition);
            match ends.get(&at) {
                Some(Ok(end)) => partition.lag = end - partition.start - i64::from(done),
                Some(Err(code)) => {
                    *partition = refused(partition.partition, Refusal::from(*code));
                }
                None => {}
            }
        }
    }
}

fn refused(partition: i32, refusal: Refusal) -> DescribedPartition {
    let (error_code, error_message) = (refusal.code.code(), Some(refusal.message));
    DescribedPartition { partition, start: -1, error_code, error_message, ..Default::default() }
}

async fn describe_topic(
    broker: &Broker,
    group: &GroupId,
    name: &str,
    partitions: &[i32],
) -> (DescribedTopic, Vec<Done>) {
    let topic_id = broker.image.load().topic(name).map(|topic| topic.id);
    let one = |partition: i32| async move {
        let Some(topic_id) = topic_id else {
            return (refused(partition, ErrorCode::UnknownTopicOrPartition.into()), None);
        };
        match keeper(broker, group, (topic_id, partition), What::Summarize).await {
            shard::Answer::Summary(Ok(Summary { start, leader_epoch, done, .. })) => {
                let known = (start >= 0 && done >= 0).then_some(done);
                let it =
                    DescribedPartition { partition, start, leader_epoch, ..Default::default() };
                (it, known)
            }
            shard::Answer::Summary(Err(refusal)) => (refused(partition, refusal), None),
            _ => (refused(partition, ErrorCode::UnknownServerError.into()), None),
        }
    };
    let described = join_all(partitions.iter().map(|it| one(*it))).await;
    let (partitions, done) = described.into_iter().unzip();
    let topic_id = topic_id.unwrap_or_default();
    (DescribedTopic { topic: name.to_owned(), topic_id, partitions }, done)
}

async fn alter(
    broker: &Arc<Broker>,
    _: &Client,
    request: AlterShareGroupOffsetsRequest,
) -> Reply<AlterShareGroupOffsetsResponse> {
    let broker = broker.clone();
    Reply::later(async move {
        alter_offsets(&broker, &request).await.unwrap_or_else(|refusal| {
            AlterShareGroupOffsetsResponse::default()
                .with_error_code(refusal.code.code())
                .with_error_message(Some(text(&refusal)))
        })
    })
}

async fn alter_offsets(
    broker: &Broker,
    request: &AlterShareGroupOffsetsRequest,
) -> Result<AlterShareGroupOffsetsResponse, Refusal> {
    let image = broker.image.load_full();
    let (mut topics, mut starts) = (Named::new(), Starts::new());
    for asked in &request.topics {
        let Some(topic) = image.topic(&asked.topic_name) else { continue };
        let exist =
            asked.partitions.iter().filter(|it| topic.partitions.contains_key(&it.partition_index));
        let named =
            topics.entry(topic.id).or_insert_with(|| (topic.name.to_string(), BTreeSet::new()));
        for partition in exist {
            named.1.insert(partition.partition_index);
            starts.push((topic.id, partition.partition_index, partition.start_offset));
        }
    }
    let group = &request.group_id;
    let call = Call::ShareAlter { group: group.clone(), topics: topics.clone() };
    let noted = ask(broker, group, call).await?;
    let failed: BTreeMap<(Uuid, i32), Refusal> =
        initialize(broker, group, noted.epoch, &topics, &starts)
            .await
            .into_iter()
            .map(|(topic, partition, refusal)| ((topic, partition), refusal))
            .collect();
    let answered = request.topics.iter().map(|asked| {
        let topic = image.topic(&asked.topic_name);
        let one = |index: i32| {
            let exists = topic.filter(|topic| topic.partitions.contains_key(&index));
            let refusal = match exists {
                None => Some(Refusal::from(ErrorCode::UnknownTopicOrPartition)),
                Some(topic) => failed.get(&(topic.id, index)).cloned(),
            };
            let answer = Altered::default().with_partition_index(index);
            match refusal {
                None => answer,
                Some(it) => {
                    answer.with_error_code(it.code.code()).with_error_message(Some(text(&it)))
                }
            }
        };
        AlteredTopic::default()
            .with_topic_name(asked.topic_name.clone())
            .with_topic_id(topic.map(|topic| topic.id).unwrap_or_default())
            .with_partitions(asked.partitions.iter().map(|it| one(it.partition_index)).collect())
    });
    Ok(AlterShareGroupOffsetsResponse::default().with_responses(answered.collect()))
}

async fn delete(
    broker: &Arc<Broker>,
    _: &Client,
    request: DeleteShareGroupOffsetsRequest,
) -> Reply<DeleteShareGroupOffsetsResponse> {
    let broker = broker.clone();
    Reply::later(async move {
        delete_offsets(&broker, &request).await.unwrap_or_else(|refusal| {
            DeleteShareGroupOffsetsResponse::default()
                .with_error_code(refusal.code.code())
                .with_error_message(Some(text(&refusal)))
        })
    })
}

async fn delete_offsets(
    broker: &Broker,
    request: &DeleteShareGroupOffsetsRequest,
) -> Result<DeleteShareGroupOffsetsResponse, Refusal> {
    let group = &request.group_id;
    let known = ask(broker, group, Call::ShareStates { group: group.clone() }).await?;
    if !known.is_empty {
        let message = format!("Share group {} is not empty.", group.as_str());
        return Err(Refusal::new(ErrorCode::NonEmptyGroup, message));
    }
    let image = broker.image.load_full();
    let mut answers = Vec::new();
    let mut gone = Vec::new();
    for asked in &request.topics {
        let answer = DeletedTopic::default().with_topic_name(asked.topic_name.clone());
        let Some(topic) = image.topic(&asked.topic_name) else {
            let refusal = Refusal::from(ErrorCode::UnknownTopicOrPartition);
            let code = refusal.code.code();
            answers.push(answer.with_error_code(code).with_error_message(Some(text(&refusal))));
            continue;
        };
        let answer = answer.with_topic_id(topic.id);
        let Some((_, its)) = known.states.initialized.get(&topic.id) else { continue };
        match delete_states(broker, group, topic.id, its).await {
            Ok(()) => {
                gone.push(topic.id);
                answers.push(answer);
            }
            Err(refusal) => {
                let code = refusal.code.code();
                answers.push(answer.with_error_code(code).with_error_message(Some(text(&refusal))));
            }
        }
    }
    if !gone.is_empty() {
        ask(broker, group, Call::ShareForget { group: group.clone(), topics: gone }).await?;
    }
    Ok(DeleteShareGroupOffsetsResponse::default().with_responses(answers))
}

/// Has the share coordinator forget the partitions of a topic.
pub(super) async fn delete_states(
    broker: &Broker,
    group: &GroupId,
    topic: Uuid,
    partitions: &BTreeSet<i32>,
) -> Result<(), Refusal> {
    let all = partitions.iter().map(|it| keeper(broker, group, (topic, *it), What::Delete));
    for answer in join_all(all).await {
        match answer {
            shard::Answer::Done(result) => result?,
            _ => return Err(ErrorCode::UnknownServerError.into()),
        }
    }
    Ok(())
}

/// Before a group is deleted: what is kept for it goes first. Other kinds of groups have nothing.
pub(super) async fn forget_group(broker: &Broker, group: &GroupId) -> Result<(), Refusal> {
    let Ok(known) = ask(broker, group, Call::ShareStates { group: group.clone() }).await else {
        return Ok(());
    };
    if !known.is_empty {
        return Err(ErrorCode::NonEmptyGroup.into());
    }
    for (topic, (_, its)) in known.states.initialized.iter().chain(&known.states.initializing) {
        match delete_states(broker, group, *topic, its).await {
            Err(refusal) if refusal.code != ErrorCode::UnknownTopicOrPartition => {
                return Err(refusal);
            }
            _ => {}
        }
    }
    Ok(())
}
