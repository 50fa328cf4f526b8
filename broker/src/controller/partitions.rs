//! More partitions for a topic. Pure, like [`topics`](super::topics).

use std::collections::BTreeSet;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use super::decision::{Decision, View};
use super::image::PartitionImage;
use super::placement;
use super::topics::{MAX_RECORDS, manual_partition, new_partitions, refuse};
use crate::env::Random;
use crate::error::{ErrorCode, Refusal};
use crate::wire::metadata::Record;

/// More partitions for existing topics; those that exist stay as they are.
pub fn create_partitions(
    view: View<'_>,
    random: &Random,
    request: &CreatePartitionsRequest,
) -> Decision<CreatePartitionsResponse> {
    let mut records = Vec::new();
    let mut results = Vec::new();
    let mut answered = BTreeSet::new();
    for topic in &request.topics {
        if !answered.insert(&*topic.name) {
            continue;
        }
        let twice = request.topics.iter().filter(|it| it.name == topic.name).count() > 1;
        let outcome = if twice {
            refuse(ErrorCode::InvalidRequest, "Duplicate topic name.")
        } else {
            more(view, random, topic)
        };
        let result = CreatePartitionsTopicResult::default()
            .with_name(topic.name.clone())
            .with_error_message(None);
        results.push(match outcome {
            Ok(new) => {
                records.extend(new);
                result
            }
            Err(refusal) => result
                .with_error_code(refusal.code.code())
                .with_error_message(Some(refusal.message.into())),
        });
    }
    if request.validate_only {
        records.clear();
    }
    Decision::new(records, CreatePartitionsResponse::default().with_results(results))
}

fn more(
    view: View<'_>,
    random: &Random,
    request: &CreatePartitionsTopic,
) -> Result<Vec<Record>, Refusal> {
    let topic = view.image.topic(&request.name).ok_or_else(|| {
        Refusal::new(
            ErrorCode::UnknownTopicOrPartition,
            "This server does not host this topic-partition.",
        )
    })?;
    let existing = topic.partitions.len();
    let count = request.count;
    if count == existing as i32 {
        let message = format!("Topic already has {count} partition(s).");
        return refuse(ErrorCode::InvalidPartitions, message);
    }
    if count < existing as i32 {
        let name = &topic.name;
        return refuse(
            ErrorCode::InvalidPartitions,
            format!(
                "The topic {name} currently has {existing} partition(s); {count} would not \
                 be an increase."
            ),
        );
    }
    let additional = count as usize - existing;
    if additional > MAX_RECORDS {
        return refuse(
            ErrorCode::PolicyViolation,
            "Excessively large number of partitions per request.",
        );
    }
    let replication = topic.partitions.get(&0).map_or(1, |it| it.replicas.len());
    let partitions = match &request.assignments {
        Some(given) if given.len() != additional => {
            return refuse(
                ErrorCode::InvalidReplicaAssignment,
                format!(
                    "Attempted to add {additional} additional partition(s), but only {} \
                     assignment(s) were specified.",
                    given.len()
                ),
            );
        }
        Some(given) => {
            let mut replication = Some(replication);
            let assigned = given.iter().enumerate().map(|(offset, assignment)| {
                let replicas = assignment.broker_ids.iter().map(|id| id.0).collect();
                let index = (existing + offset) as i32;
                manual_partition(view.image, replicas, &mut replication, index)
            });
            assigned.collect::<Result<Vec<_>, _>>()?
        }
        None => {
            let usable = placement::usable(view.image);
            let placed = placement::place(&usable, additional, replication as i16, random)?;
            new_partitions(view.image, placed).ok_or_else(|| {
                Refusal::new(
                    ErrorCode::InvalidReplicationFactor,
                    format!(
                        "Unable to replicate the partition {replication} time(s): All \
                         brokers are currently fenced or in controlled shutdown."
                    ),
                )
            })?
        }
    };
    let record = |(offset, partition): (usize, &PartitionImage)| {
        partition.to_record(topic.id, (existing + offset) as i32).into()
    };
    Ok(partitions.iter().enumerate().map(record).collect())
}
