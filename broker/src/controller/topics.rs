//! Topics: created, deleted, given more partitions.
//!
//! Pure: requests and the image in, records and answers out, in Kafka's codes and words. A request
//! for several topics is one decision; a topic that is refused leaves the others alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::decision::{Decision, View};
use super::image::{Config, Image, PartitionImage, ResourceType};
use super::{configs, directories, placement};
use crate::env::Random;
use crate::error::{ErrorCode, Refusal};
use crate::types::NodeId;
use crate::wire::metadata::{ConfigRecord, Record, RemoveTopicRecord, TopicRecord};

/// The topic that holds the metadata log; nobody may create it.
pub const METADATA_TOPIC: &str = "__cluster_metadata";
/// Its fixed id: AAAAAAAAAAAAAAAAAAAAAQ.
pub const METADATA_TOPIC_ID: Uuid = Uuid::from_u128(1);

/// More than this in one request is a mistake, and would be one huge batch.
pub(super) const MAX_RECORDS: usize = 10_000;

const MAX_NAME: usize = 249;

/// Is this a legal name for a topic?
pub fn check_name(name: &str) -> Result<(), Refusal> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let why = match name {
        "" => "the empty string is not allowed".to_owned(),
        "." | ".." => format!("'{name}' is not allowed"),
        _ if name.len() > MAX_NAME => {
            format!("the length of '{name}' is longer than the max allowed length {MAX_NAME}")
        }
        _ if !name.chars().all(legal) => format!(
            "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' \
             and '-'"
        ),
        _ => return Ok(()),
    };
    Err(Refusal::new(ErrorCode::InvalidTopicException, format!("Topic name is invalid: {why}")))
}

pub(super) fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(code, message))
}

pub fn create(
    view: View<'_>,
    random: &Random,
    request: &CreateTopicsRequest,
) -> Decision<CreateTopicsResponse> {
    let mut records = Vec::new();
    let mut results = Vec::new();
    let mut seen = BTreeMap::<&str, usize>::new();
    for topic in &request.topics {
        *seen.entry(&topic.name).or_default() += 1;
    }
    let mut new_names = BTreeSet::new();
    let mut answered = BTreeSet::new();
    for topic in &request.topics {
        let name: &str = &topic.name;
        if !answered.insert(name) {
            continue;
        }
        let created = if seen[name] > 1 {
            refuse(ErrorCode::InvalidRequest, "Duplicate topic name.")
        } else {
            check_new_name(view.image, &new_names, name)
                .and_then(|()| create_one(view, random, topic, records.len()))
        };
        results.push(match created {
            Ok((new_records, result)) => {
                new_names.insert(name);
                records.extend(new_records);
                result
            }
            Err(refusal) => CreatableTopicResult::default()
                .with_name(topic.name.clone())
                .with_error_code(refusal.code.code())
                .with_error_message(Some(StrBytes::from_string(refusal.message))),
        });
    }
    if request.validate_only {
        records.clear();
    }
    Decision::new(records, CreateTopicsResponse::default().with_topics(results))
}

fn check_new_name(image: &Image, new: &BTreeSet<&str>, name: &str) -> Result<(), Refusal> {
    check_name(name)?;
    if name == METADATA_TOPIC {
        let message = format!("Creation of internal topic {METADATA_TOPIC} is prohibited.");
        return refuse(ErrorCode::InvalidRequest, message);
    }
    if image.topic(name).is_some() {
        return refuse(ErrorCode::TopicAlreadyExists, format!("Topic '{name}' already exists."));
    }
    // Metric names cannot tell '.' from '_', so two topics must not differ in that alone.
    if name.contains(['.', '_']) {
        let unified = name.replace('.', "_");
        let collides =
            |other: &&str| other.len() == name.len() && other.replace('.', "_") == unified;
        let existing = image.topics().map(|topic| &*topic.name);
        if let Some(other) = existing.chain(new.iter().copied()).find(collides) {
            return refuse(
                ErrorCode::InvalidTopicException,
                format!("Topic '{name}' collides with existing topic: {other}"),
            );
        }
    }
    Ok(())
}

fn create_one(
    view: View<'_>,
    random: &Random,
    topic: &CreatableTopic,
    records_before: usize,
) -> Result<(Vec<Record>, CreatableTopicResult), Refusal> {
    let config = new_config(view, topic)?;
    let partitions = if topic.assignments.is_empty() {
        let count = partition_count(view, topic)?;
        let replicas = match topic.replication_factor {
            -1 => view.rules.default_replication_factor(),
            replicas => replicas,
        };
        let rest = MAX_RECORDS.saturating_sub(records_before);
        if count > rest {
            return refuse(
                ErrorCode::PolicyViolation,
                "Excessively large number of partitions per request.",
            );
        }
        let placed = placement::place(&placement::usable(view.image), count, replicas, random)?;
        let fenced_out = || {
            format!(
                "Unable to replicate the partition {replicas} time(s): All brokers are currently \
                 fenced or in controlled shutdown."
            )
        };
        new_partitions(view.image, placed)
            .ok_or_else(|| Refusal::new(ErrorCode::InvalidReplicationFactor, fenced_out()))?
    } else {
        manual_partitions(view.image, topic)?
    };
    let topic_id = random.uuid();
    let mut records = vec![Record::from(TopicRecord { name: topic.name.to_string(), topic_id })];
    for (name, value) in &config {
        records.push(
            ConfigRecord {
                resource_type: ResourceType::Topic.code(),
                resource_name: topic.name.to_string(),
                name: name.clone(),
                value: Some(value.clone()),
            }
            .into(),
        );
    }
    let replicas = partitions.first().map_or(0, |partition| partition.replicas.len());
    let count = partitions.len();
    for (index, partition) in partitions.iter().enumerate() {
        records.push(partition.to_record(topic_id, index as i32).into());
    }
    let cluster = view.image.config(ResourceType::Broker, "");
    let configs = view.rules.effective(cluster, &config).into_iter().map(|it| {
        CreatableTopicConfigs::default()
            .with_name(it.name.into())
            .with_value(it.value.filter(|_| !it.sensitive).map(StrBytes::from_string))
            .with_read_only(it.read_only)
            .with_config_source(it.source)
            .with_is_sensitive(it.sensitive)
    });
    let result = CreatableTopicResult::default()
        .with_name(topic.name.clone())
        .with_topic_id(topic_id)
        .with_error_message(None)
        .with_num_partitions(count as i32)
        .with_replication_factor(replicas as i16)
        .with_configs(Some(configs.collect()));
    Ok((records, result))
}

fn new_config(view: View<'_>, topic: &CreatableTopic) -> Result<Config, Refusal> {
    let mut config = Config::new();
    for entry in &topic.configs {
        // Kafka takes null for "not given".
        let Some(value) = &entry.value else {
            return refuse(
                ErrorCode::InvalidConfig,
                format!("Null value not supported for topic configs: {}", entry.name),
            );
        };
        configs::check(view, ResourceType::Topic, &entry.name, value)?;
        config.insert(entry.name.to_string(), value.to_string());
    }
    configs::check_together(view, ResourceType::Topic, &config)?;
    Ok(config)
}

fn partition_count(view: View<'_>, topic: &CreatableTopic) -> Result<usize, Refusal> {
    if topic.replication_factor < -1 || topic.replication_factor == 0 {
        return refuse(
            ErrorCode::InvalidReplicationFactor,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        );
    }
    match topic.num_partitions {
        -1 => Ok(view.rules.default_partitions().max(1) as usize),
        count if count > 0 => Ok(count as usize),
        _ => refuse(
            ErrorCode::InvalidPartitions,
            "Number of partitions was set to an invalid non-positive value.",
        ),
    }
}

fn manual_partitions(
    image: &Image,
    topic: &CreatableTopic,
) -> Result<Vec<PartitionImage>, Refusal> {
    let given = |what: &str| {
        let message =
            format!("A manual partition assignment was specified, but {what} was not set to -1.");
        refuse(ErrorCode::InvalidRequest, message)
    };
    if topic.replication_factor != -1 {
        return given("replication factor");
    }
    if topic.num_partitions != -1 {
        return given("numPartitions");
    }
    let mut sorted: Vec<&CreatableReplicaAssignment> = topic.assignments.iter().collect();
    sorted.sort_by_key(|assignment| assignment.partition_index);
    let mut replication = None;
    let mut partitions = Vec::new();
    for (expected, assignment) in sorted.iter().enumerate() {
        let index = assignment.partition_index;
        if expected > 0 && sorted[expected - 1].partition_index == index {
            return refuse(
                ErrorCode::InvalidReplicaAssignment,
                format!("Found multiple manual partition assignments for partition {index}"),
            );
        }
        if index != expected as i32 {
            return refuse(
                ErrorCode::InvalidReplicaAssignment,
                "partitions should be a consecutive 0-based integer sequence",
            );
        }
        let replicas: Vec<NodeId> = assignment.broker_ids.iter().map(|id| id.0).collect();
        partitions.push(manual_partition(image, replicas, &mut replication, index)?);
    }
    Ok(partitions)
}

pub(super) fn manual_partition(
    image: &Image,
    replicas: Vec<NodeId>,
    replication: &mut Option<usize>,
    index: i32,
) -> Result<PartitionImage, Refusal> {
    check_assignment(image, &replicas, *replication)?;
    *replication = Some(replicas.len());
    new_partition(image, replicas).ok_or_else(|| {
        Refusal::new(
            ErrorCode::InvalidReplicaAssignment,
            format!(
                "All brokers specified in the manual partition assignment for partition {index} \
                 are fenced or in controlled shutdown."
            ),
        )
    })
}

pub(super) fn check_assignment(
    image: &Image,
    replicas: &[NodeId],
    replication: Option<usize>,
) -> Result<(), Refusal> {
    let code = ErrorCode::InvalidReplicaAssignment;
    if replicas.is_empty() {
        return refuse(code, "The manual partition assignment includes an empty replica list.");
    }
    for (index, id) in replicas.iter().enumerate() {
        if image.broker(*id).is_none() {
            return refuse(
                code,
                format!(
                    "The manual partition assignment includes broker {id}, but no such broker is \
                     registered."
                ),
            );
        }
        if replicas[..index].contains(id) {
            return refuse(
                code,
                format!("The manual partition assignment includes the broker {id} more than once."),
            );
        }
    }
    match replication {
        Some(expected) if expected != replicas.len() => refuse(
            code,
            format!(
                "The manual partition assignment includes a partition with {} replica(s), but \
                 this is not consistent with previous partitions, which have {expected} \
                 replica(s).",
                replicas.len()
            ),
        ),
        _ => Ok(()),
    }
}

/// New partitions as placed; none when one of them would have nobody to lead it.
pub(super) fn new_partitions(
    image: &Image,
    placed: Vec<Vec<NodeId>>,
) -> Option<Vec<PartitionImage>> {
    placed.into_iter().map(|replicas| new_partition(image, replicas)).collect()
}

fn new_partition(image: &Image, replicas: Vec<NodeId>) -> Option<PartitionImage> {
    let isr: Vec<_> = replicas.iter().copied().filter(|id| image.is_active(*id)).collect();
    Some(PartitionImage {
        directories: replicas.iter().map(|id| directories::default_of(image, *id)).collect(),
        leader: *isr.first()?,
        isr,
        replicas,
        adding: Vec::new(),
        removing: Vec::new(),
        elr: Vec::new(),
        last_known_elr: Vec::new(),
        recovering: false,
        leader_epoch: 0,
        partition_epoch: 0,
    })
}

pub fn delete(view: View<'_>, request: &DeleteTopicsRequest) -> Decision<DeleteTopicsResponse> {
    let mut records = Vec::new();
    let mut results = Vec::new();
    let by_name = request.topic_names.iter().map(|name| (Some(name.clone()), Uuid::nil()));
    let by_state = request.topics.iter().map(|topic| (topic.name.clone(), topic.topic_id));
    let mut seen = BTreeSet::new();
    for (name, id) in by_name.chain(by_state) {
        let found = find_topic(view.image, name.as_ref(), id);
        let result = DeletableTopicResult::default().with_error_message(None);
        results.push(match found {
            Ok((found_name, found_id)) if seen.insert(found_id) => {
                records.push(RemoveTopicRecord { topic_id: found_id }.into());
                result.with_name(Some(topic_name(&found_name))).with_topic_id(found_id)
            }
            found => {
                let refusal = found.err().unwrap_or_else(|| {
                    Refusal::new(ErrorCode::InvalidRequest, "Duplicate topic name.")
                });
                result
                    .with_name(name)
                    .with_topic_id(id)
                    .with_error_code(refusal.code.code())
                    .with_error_message(Some(refusal.message.into()))
            }
        });
    }
    Decision::new(records, DeleteTopicsResponse::default().with_responses(results))
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn find_topic(
    image: &Image,
    name: Option<&TopicName>,
    id: Uuid,
) -> Result<(Arc<str>, Uuid), Refusal> {
    let (topic, code, message) = match name {
        Some(_) if !id.is_nil() => {
            return refuse(
                ErrorCode::InvalidRequest,
                "You may not specify both topic name and topic id.",
            );
        }
        Some(name) => (
            image.topic(name),
            ErrorCode::UnknownTopicOrPartition,
            "This server does not host this topic-partition.",
        ),
        None if id.is_nil() => {
            return refuse(ErrorCode::InvalidRequest, "Neither topic name nor id were specified.");
        }
        None => (
            image.topic_by_id(id),
            ErrorCode::UnknownTopicId,
            "This server does not host this topic ID.",
        ),
    };
    topic.map(|topic| (topic.name.clone(), topic.id)).ok_or_else(|| Refusal::new(code, message))
}
