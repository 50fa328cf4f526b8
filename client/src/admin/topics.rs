//! Topics and their partitions.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::describe_topic_partitions_response::{
    DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteTopicsRequest, DescribeTopicPartitionsRequest, ElectLeadersRequest,
    ListPartitionReassignmentsRequest, MetadataRequest,
};
use uuid::Uuid;

use super::{Admin, Election, NewTopic, PartitionInfo, Reassignment, Topic};
use crate::client::Backoff;
use crate::names::{str_bytes, topic_name};
use crate::{Error, ErrorCode, Result, TopicPartition};

/// How long the controller may take to carry out a change before the broker answers.
const CHANGE_TIMEOUT_MS: i32 = 30_000;

impl Admin {
    /// Describes `names`, or all topics. A topic that does not exist comes back with `error`.
    pub async fn topics(&self, names: Option<&[&str]>) -> Result<Vec<Topic>> {
        let mut backoff = Backoff::until(self.client.options().api_timeout);
        loop {
            match self.client.metadata(names).await {
                Ok(answer) => return Ok(answer.topics.into_iter().map(topic).collect()),
                Err(error) if error.is_retriable() && backoff.wait().await => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`topics`](Self::topics), by id.
    pub async fn topics_by_id(&self, ids: &[Uuid]) -> Result<Vec<Topic>> {
        let asked = ids
            .iter()
            .map(|id| MetadataRequestTopic::default().with_topic_id(*id).with_name(None))
            .collect();
        let request = MetadataRequest::default()
            .with_topics(Some(asked))
            .with_allow_auto_topic_creation(false);
        let answer = self.client.call_any(&request).await?;
        Ok(answer.topics.into_iter().map(topic).collect())
    }

    /// As [`topics`](Self::topics), with eligible leader replicas where the brokers can tell.
    pub async fn describe_topics(&self, names: &[&str]) -> Result<Vec<Topic>> {
        if self.client.to_any().await?.version_of::<DescribeTopicPartitionsRequest>().is_err() {
            return self.topics(Some(names)).await;
        }
        let mut topics: Vec<Topic> = Vec::new();
        let mut cursor = None;
        loop {
            let asked =
                names.iter().map(|name| TopicRequest::default().with_name(topic_name(name)));
            let request = DescribeTopicPartitionsRequest::default()
                .with_topics(asked.collect())
                .with_response_partition_limit(2000)
                .with_cursor(cursor.take());
            let answer = self.client.call_any(&request).await?;
            for one in answer.topics {
                let one = described_topic(one);
                Error::check(one.error.map_or(0, |code| code.code()), None)?;
                match topics.last_mut().filter(|last| last.name == one.name) {
                    Some(last) => last.partitions.extend(one.partitions),
                    None => topics.push(one),
                }
            }
            let Some(next) = answer.next_cursor else { return Ok(topics) };
            cursor = Some(
                Cursor::default()
                    .with_topic_name(next.topic_name)
                    .with_partition_index(next.partition_index),
            );
        }
    }

    pub async fn create_topic(&self, new: NewTopic, validate_only: bool) -> Result<()> {
        let name = new.name.clone();
        let request = CreateTopicsRequest::default()
            .with_topics(vec![creatable(new)])
            .with_timeout_ms(CHANGE_TIMEOUT_MS)
            .with_validate_only(validate_only);
        let answer = self.client.call_any(&request).await?;
        let result = answer.topics.into_iter().find(|topic| topic.name.as_str() == name);
        let result = result.ok_or_else(|| silent("CreateTopics", &name))?;
        Error::check(result.error_code, result.error_message.as_deref())
    }

    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        // Versions up to 5 carry `topic_names`, later ones `topics`: the encoder refuses the other.
        let by_state = self.client.to_any().await?.version_of::<DeleteTopicsRequest>()? >= 6;
        let request = DeleteTopicsRequest::default().with_timeout_ms(CHANGE_TIMEOUT_MS);
        let request = if by_state {
            request.with_topics(vec![DeleteTopicState::default().with_name(Some(topic_name(name)))])
        } else {
            request.with_topic_names(vec![topic_name(name)])
        };
        let answer = self.client.call_any(&request).await?;
        let result =
            answer.responses.into_iter().next().ok_or_else(|| silent("DeleteTopics", name))?;
        Error::check(result.error_code, result.error_message.as_deref())
    }

    /// Raises the number of partitions of `name` to `total`; the brokers place the new ones.
    pub async fn create_partitions(&self, name: &str, total: i32) -> Result<()> {
        self.create_partitions_on(name, total, None).await
    }

    /// As [`create_partitions`](Self::create_partitions), with the brokers of each new partition.
    pub async fn create_partitions_on(
        &self,
        name: &str,
        total: i32,
        assignment: Option<Vec<Vec<i32>>>,
    ) -> Result<()> {
        let assignments = assignment.map(|all| {
            let one = |brokers: Vec<i32>| {
                CreatePartitionsAssignment::default().with_broker_ids(broker_ids(brokers))
            };
            all.into_iter().map(one).collect()
        });
        let topic = CreatePartitionsTopic::default()
            .with_name(topic_name(name))
            .with_count(total)
            .with_assignments(assignments);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(CHANGE_TIMEOUT_MS);
        let answer = self.client.call_any(&request).await?;
        let result =
            answer.results.into_iter().next().ok_or_else(|| silent("CreatePartitions", name))?;
        Error::check(result.error_code, result.error_message.as_deref())
    }

    /// Asks for elections, of `partitions` or of all that need one; the outcome of each.
    pub async fn elect_leaders(
        &self,
        election: Election,
        partitions: Option<&BTreeSet<TopicPartition>>,
    ) -> Result<BTreeMap<TopicPartition, Result<()>>> {
        let asked = partitions.map(|partitions| {
            let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
            for at in partitions {
                topics.entry(&at.topic).or_default().push(at.partition);
            }
            let one = |(name, partitions)| {
                TopicPartitions::default().with_topic(topic_name(name)).with_partitions(partitions)
            };
            topics.into_iter().map(one).collect()
        });
        let request = ElectLeadersRequest::default()
            .with_election_type(election as i8)
            .with_topic_partitions(asked)
            .with_timeout_ms(CHANGE_TIMEOUT_MS);
        let answer = self.client.call_any(&request).await?;
        Error::check(answer.error_code, None)?;
        let mut all = BTreeMap::new();
        for topic in &answer.replica_election_results {
            for one in &topic.partition_result {
                let at = TopicPartition::new(topic.topic.as_str(), one.partition_id);
                all.insert(at, Error::check(one.error_code, one.error_message.as_deref()));
            }
        }
        Ok(all)
    }

    /// Starts a reassignment of each partition to these replicas, or with none ends the one that
    /// is under way; the outcome of each. Replicas may become more or fewer if they `may_resize`.
    pub async fn alter_reassignments(
        &self,
        change: &BTreeMap<TopicPartition, Option<Vec<i32>>>,
        may_resize: bool,
    ) -> Result<BTreeMap<TopicPartition, Result<()>>> {
        let resizing =
            self.client.to_any().await?.version_of::<AlterPartitionReassignmentsRequest>()? >= 1;
        if !may_resize && !resizing {
            return Err(Error::Invalid(
                "the brokers cannot be told to keep the number of replicas: leave that out".into(),
            ));
        }
        let mut topics: BTreeMap<&str, Vec<ReassignablePartition>> = BTreeMap::new();
        for (at, replicas) in change {
            topics.entry(&at.topic).or_default().push(
                ReassignablePartition::default()
                    .with_partition_index(at.partition)
                    .with_replicas(replicas.clone().map(broker_ids)),
            );
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            ReassignableTopic::default().with_name(topic_name(name)).with_partitions(partitions)
        });
        let mut request = AlterPartitionReassignmentsRequest::default()
            .with_timeout_ms(CHANGE_TIMEOUT_MS)
            .with_topics(topics.collect());
        if resizing {
            request = request.with_allow_replication_factor_change(may_resize);
        }
        let answer = self.client.call_any(&request).await?;
        Error::check(answer.error_code, answer.error_message.as_deref())?;
        let mut all = BTreeMap::new();
        for topic in &answer.responses {
            for one in &topic.partitions {
                let at = TopicPartition::new(topic.name.as_str(), one.partition_index);
                all.insert(at, Error::check(one.error_code, one.error_message.as_deref()));
            }
        }
        Ok(all)
    }

    /// The reassignments under way.
    pub async fn reassignments(&self) -> Result<BTreeMap<TopicPartition, Reassignment>> {
        let request = ListPartitionReassignmentsRequest::default()
            .with_timeout_ms(CHANGE_TIMEOUT_MS)
            .with_topics(None);
        let answer = self.client.call_any(&request).await?;
        Error::check(answer.error_code, answer.error_message.as_deref())?;
        let mut all = BTreeMap::new();
        for topic in answer.topics {
            for partition in topic.partitions {
                let at = TopicPartition::new(topic.name.as_str(), partition.partition_index);
                all.insert(
                    at,
                    Reassignment {
                        replicas: ids(&partition.replicas),
                        adding: ids(&partition.adding_replicas),
                        removing: ids(&partition.removing_replicas),
                    },
                );
            }
        }
        Ok(all)
    }
}

fn silent(api: &str, about: &str) -> Error {
    Error::Protocol(format!("the answer to {api} says nothing about {about}"))
}

fn creatable(new: NewTopic) -> CreatableTopic {
    let assigned = new.assignment.is_some();
    let assignments = new.assignment.unwrap_or_default().into_iter().map(|(partition, brokers)| {
        CreatableReplicaAssignment::default()
            .with_partition_index(partition)
            .with_broker_ids(broker_ids(brokers))
    });
    let configs = new.configs.iter().map(|(key, value)| {
        CreatableTopicConfig::default().with_name(str_bytes(key)).with_value(Some(str_bytes(value)))
    });
    CreatableTopic::default()
        .with_name(topic_name(&new.name))
        .with_num_partitions(if assigned { -1 } else { new.partitions.unwrap_or(-1) })
        .with_replication_factor(if assigned { -1 } else { new.replication.unwrap_or(-1) })
        .with_assignments(assignments.collect())
        .with_configs(configs.collect())
}

fn broker_ids(ids: Vec<i32>) -> Vec<BrokerId> {
    ids.into_iter().map(BrokerId).collect()
}

fn ids(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|id| id.0).collect()
}

fn topic(topic: MetadataResponseTopic) -> Topic {
    let mut partitions: Vec<PartitionInfo> = topic.partitions.iter().map(partition).collect();
    partitions.sort_by_key(|partition| partition.id);
    Topic {
        name: topic.name.map(|name| name.to_string()).unwrap_or_default(),
        id: topic.topic_id,
        internal: topic.is_internal,
        error: ErrorCode::try_from_code(topic.error_code),
        partitions,
    }
}

fn described_topic(topic: DescribeTopicPartitionsResponseTopic) -> Topic {
    let partition = |partition: &DescribeTopicPartitionsResponsePartition| PartitionInfo {
        id: partition.partition_index,
        error: ErrorCode::try_from_code(partition.error_code),
        leader: Some(partition.leader_id.0).filter(|id| *id >= 0),
        leader_epoch: partition.leader_epoch,
        replicas: ids(&partition.replica_nodes),
        isr: ids(&partition.isr_nodes),
        offline: ids(&partition.offline_replicas),
        elr: partition.eligible_leader_replicas.as_deref().map(ids),
        last_known_elr: partition.last_known_elr.as_deref().map(ids),
    };
    let mut partitions: Vec<PartitionInfo> = topic.partitions.iter().map(partition).collect();
    partitions.sort_by_key(|partition| partition.id);
    Topic {
        name: topic.name.map(|name| name.to_string()).unwrap_or_default(),
        id: topic.topic_id,
        internal: topic.is_internal,
        error: ErrorCode::try_from_code(topic.error_code),
        partitions,
    }
}

fn partition(partition: &MetadataResponsePartition) -> PartitionInfo {
    PartitionInfo {
        id: partition.partition_index,
        error: ErrorCode::try_from_code(partition.error_code),
        leader: Some(partition.leader_id.0).filter(|id| *id >= 0),
        leader_epoch: partition.leader_epoch,
        replicas: ids(&partition.replica_nodes),
        isr: ids(&partition.isr_nodes),
        offline: ids(&partition.offline_replicas),
        elr: None,
        last_known_elr: None,
    }
}
