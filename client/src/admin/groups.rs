//! Groups: who is in them, and the offsets they committed.

use std::collections::BTreeMap;

use kafka_protocol::messages::consumer_group_describe_response as modern;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerProtocolAssignment, DeleteGroupsRequest,
    DescribeGroupsRequest, ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest,
    OffsetFetchRequest,
};
use kafka_protocol::protocol::Decodable;

use super::{Admin, GroupDescription, GroupListing, GroupMember, GroupOffset};
use crate::names::{group_id, str_bytes, topic_name};
use crate::{Error, ErrorCode, Node, Result, TopicPartition};

type PerPartition = BTreeMap<TopicPartition, Result<()>>;

impl Admin {
    /// The groups of all brokers. Empty filters: all states, all types. Type filters need Kafka 3.8.
    pub async fn list_groups(
        &self,
        states: &[String],
        types: &[String],
    ) -> Result<Vec<GroupListing>> {
        self.client.metadata(Some(&[])).await?;
        let request = ListGroupsRequest::default()
            .with_states_filter(states.iter().map(|state| str_bytes(state)).collect())
            .with_types_filter(types.iter().map(|kind| str_bytes(kind)).collect());
        let mut all = BTreeMap::new();
        for node in self.client.brokers() {
            let answer = self.client.to_broker(node.id).await?.call(&request).await?;
            Error::check(answer.error_code, None)?;
            for group in answer.groups {
                let listing = GroupListing {
                    id: group.group_id.to_string(),
                    protocol_type: group.protocol_type.to_string(),
                    state: group.group_state.to_string(),
                    kind: group.group_type.to_string(),
                };
                all.insert(listing.id.clone(), listing);
            }
        }
        Ok(all.into_values().collect())
    }

    /// Describes a group of either protocol; GROUP_ID_NOT_FOUND when there is none.
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription> {
        let coordinator = self.client.coordinator(group).await?;
        let node = self.client.brokers().into_iter().find(|node| node.id == coordinator);
        let connection = self.client.to_broker(coordinator).await?;
        if connection.version_of::<ConsumerGroupDescribeRequest>().is_ok() {
            match self.describe_modern(group, node.clone()).await {
                // Not of the new protocol, or a broker that has it switched off: ask the old way.
                Err(Error::Kafka {
                    code: ErrorCode::GroupIdNotFound | ErrorCode::UnsupportedVersion,
                    ..
                }) => {}
                other => return other,
            }
        }
        self.describe_classic(group, node).await
    }

    async fn describe_modern(
        &self,
        group: &str,
        coordinator: Option<Node>,
    ) -> Result<GroupDescription> {
        let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group_id(group)]);
        let code = |answer: &modern::ConsumerGroupDescribeResponse| {
            answer.groups.first().map_or(0, |one| one.error_code)
        };
        let answer = self.client.call_coordinator(group, &request, code).await?;
        let one = answer
            .groups
            .into_iter()
            .next()
            .ok_or_else(|| silent("ConsumerGroupDescribe", group))?;
        Error::check(one.error_code, one.error_message.as_deref())?;
        Ok(GroupDescription {
            id: group.to_owned(),
            state: one.group_state.to_string(),
            kind: "Consumer",
            protocol_type: "consumer".into(),
            assignor: one.assignor_name.to_string(),
            coordinator,
            epochs: Some((one.group_epoch, one.assignment_epoch)),
            members: one.members.into_iter().map(modern_member).collect(),
        })
    }

    async fn describe_classic(
        &self,
        group: &str,
        coordinator: Option<Node>,
    ) -> Result<GroupDescription> {
        let request = DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
        let answer = self
            .client
            .call_coordinator(group, &request, |answer| {
                answer.groups.first().map_or(0, |one| one.error_code)
            })
            .await?;
        let one: DescribedGroup =
            answer.groups.into_iter().next().ok_or_else(|| silent("DescribeGroups", group))?;
        Error::check(one.error_code, one.error_message.as_deref())?;
        if one.group_state.as_str() == "Dead" {
            let words = format!("Group {group} not found.");
            return Err(Error::kafka(ErrorCode::GroupIdNotFound, Some(&words)));
        }
        Ok(GroupDescription {
            id: group.to_owned(),
            state: one.group_state.to_string(),
            kind: "Classic",
            protocol_type: one.protocol_type.to_string(),
            assignor: one.protocol_data.to_string(),
            coordinator,
            epochs: None,
            members: one.members.into_iter().map(classic_member).collect::<Result<_>>()?,
        })
    }

    pub async fn delete_group(&self, group: &str) -> Result<()> {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(group)]);
        let answer = self
            .client
            .call_coordinator(group, &request, |answer| {
                answer.results.first().map_or(0, |one| one.error_code)
            })
            .await?;
        let one = answer.results.into_iter().next().ok_or_else(|| silent("DeleteGroups", group))?;
        Error::check(one.error_code, None)
    }

    /// The committed offsets of `group`, of all partitions or of these; those without one are absent.
    pub async fn group_offsets(
        &self,
        group: &str,
        partitions: Option<&[TopicPartition]>,
    ) -> Result<BTreeMap<TopicPartition, GroupOffset>> {
        let topics = partitions.map(|partitions| {
            let topic = |(name, partitions): (&str, Vec<i32>)| {
                OffsetFetchRequestTopics::default()
                    .with_name(topic_name(name))
                    .with_partition_indexes(partitions)
            };
            by_topic(partitions.iter()).into_iter().map(topic).collect()
        });
        let one = OffsetFetchRequestGroup::default()
            .with_group_id(group_id(group))
            .with_member_id(None)
            .with_member_epoch(-1)
            .with_topics(topics);
        // Stable offsets: those of open transactions are still to be decided, so the broker says wait.
        let request =
            OffsetFetchRequest::default().with_groups(vec![one]).with_require_stable(true);
        let answer = self
            .client
            .call_coordinator(group, &request, |answer| {
                answer.groups.first().map_or(0, |one| one.error_code)
            })
            .await?;
        let one = answer.groups.into_iter().next().ok_or_else(|| silent("OffsetFetch", group))?;
        Error::check(one.error_code, None)?;
        let mut offsets = BTreeMap::new();
        for topic in one.topics {
            for partition in topic.partitions {
                Error::check(partition.error_code, None)?;
                if partition.committed_offset < 0 {
                    continue;
                }
                let offset = GroupOffset {
                    offset: partition.committed_offset,
                    leader_epoch: Some(partition.committed_leader_epoch)
                        .filter(|epoch| *epoch >= 0),
                    metadata: partition.metadata.map(|text| text.to_string()).unwrap_or_default(),
                };
                offsets.insert(
                    TopicPartition::new(topic.name.as_str(), partition.partition_index),
                    offset,
                );
            }
        }
        Ok(offsets)
    }

    /// Sets the committed offsets of a group that has no member.
    pub async fn alter_group_offsets(
        &self,
        group: &str,
        to: &BTreeMap<TopicPartition, i64>,
    ) -> Result<PerPartition> {
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for (at, offset) in to {
            topics.entry(&at.topic).or_default().push(
                OffsetCommitRequestPartition::default()
                    .with_partition_index(at.partition)
                    .with_committed_offset(*offset)
                    .with_committed_leader_epoch(-1)
                    .with_committed_metadata(Some(str_bytes(""))),
            );
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            OffsetCommitRequestTopic::default()
                .with_name(topic_name(name))
                .with_partitions(partitions)
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id_or_member_epoch(-1)
            .with_retention_time_ms(-1)
            .with_topics(topics.collect());
        let answer = self
            .client
            .call_coordinator(group, &request, |answer| {
                answer
                    .topics
                    .first()
                    .and_then(|topic| topic.partitions.first())
                    .map_or(0, |one| one.error_code)
            })
            .await?;
        let mut results = PerPartition::new();
        for topic in answer.topics {
            for one in topic.partitions {
                let at = TopicPartition::new(topic.name.as_str(), one.partition_index);
                results.insert(at, Error::check(one.error_code, None));
            }
        }
        Ok(results)
    }

    /// Forgets the committed offsets of these partitions.
    pub async fn delete_group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<PerPartition> {
        let topics = by_topic(partitions.iter()).into_iter().map(|(name, partitions)| {
            let partition = |id| OffsetDeleteRequestPartition::default().with_partition_index(id);
            OffsetDeleteRequestTopic::default()
                .with_name(topic_name(name))
                .with_partitions(partitions.into_iter().map(partition).collect())
        });
        let request = OffsetDeleteRequest::default()
            .with_group_id(group_id(group))
            .with_topics(topics.collect());
        let answer =
            self.client.call_coordinator(group, &request, |answer| answer.error_code).await?;
        Error::check(answer.error_code, None)?;
        let mut results = PerPartition::new();
        for topic in answer.topics {
            for one in topic.partitions {
                let at = TopicPartition::new(topic.name.as_str(), one.partition_index);
                results.insert(at, Error::check(one.error_code, None));
            }
        }
        Ok(results)
    }
}

fn silent(api: &str, group: &str) -> Error {
    Error::Protocol(format!("the answer to {api} says nothing about group {group}"))
}

/// The partition numbers of each topic.
pub(crate) fn by_topic<'a>(
    partitions: impl Iterator<Item = &'a TopicPartition>,
) -> BTreeMap<&'a str, Vec<i32>> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for at in partitions {
        topics.entry(&at.topic).or_default().push(at.partition);
    }
    topics
}

fn modern_member(member: modern::Member) -> GroupMember {
    GroupMember {
        id: member.member_id.to_string(),
        instance_id: member.instance_id.map(|id| id.to_string()),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
        epoch: Some(member.member_epoch),
        upgraded: match member.member_type {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
        assignment: modern_assignment(&member.assignment),
        target: modern_assignment(&member.target_assignment),
    }
}

fn modern_assignment(assignment: &modern::Assignment) -> Vec<TopicPartition> {
    let topics = assignment.topic_partitions.iter();
    topics
        .flat_map(|topic| {
            topic.partitions.iter().map(|id| TopicPartition::new(topic.topic_name.as_str(), *id))
        })
        .collect()
}

fn classic_member(member: DescribedGroupMember) -> Result<GroupMember> {
    Ok(GroupMember {
        id: member.member_id.to_string(),
        instance_id: member.group_instance_id.map(|id| id.to_string()),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
        epoch: None,
        upgraded: None,
        assignment: decode_assignment(&member.member_assignment)?,
        target: Vec::new(),
    })
}

/// The partitions in an assignment as the classic consumer protocol writes it; empty means none yet.
pub(crate) fn decode_assignment(bytes: &[u8]) -> Result<Vec<TopicPartition>> {
    let Some((version, body)) = bytes.split_first_chunk::<2>() else { return Ok(Vec::new()) };
    // Later versions only add fields at the end.
    let version = i16::from_be_bytes(*version).clamp(0, 3);
    let mut body = bytes::Bytes::copy_from_slice(body);
    let decoded = ConsumerProtocolAssignment::decode(&mut body, version).map_err(|error| {
        Error::Protocol(format!("a member's assignment is unreadable: {error}"))
    })?;
    let topics = decoded.assigned_partitions.iter();
    Ok(topics
        .flat_map(|topic| {
            topic.partitions.iter().map(|id| TopicPartition::new(topic.topic.as_str(), *id))
        })
        .collect())
}
