//! Who asks for elections: ElectLeaders, and the controller itself from time to time.
//!
//! Leaderships go home to their preferred replicas, and partitions without a leader get one from
//! outside the ISR where their topic allows that.

use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::decision::{Decision, View};
use super::election::{Change, Election};
use super::image::{PartitionImage, TopicImage};
use crate::error::{ErrorCode, Refusal};
use crate::wire::metadata::Record;

pub fn elect_leaders(
    view: View<'_>,
    request: &ElectLeadersRequest,
) -> Result<Decision<ElectLeadersResponse>, Refusal> {
    let election = match request.election_type {
        0 => Election::Preferred,
        1 => Election::Unclean,
        other => {
            return Err(Refusal::new(
                ErrorCode::InvalidRequest,
                format!("Unknown election type {other}"),
            ));
        }
    };
    // Asked for nothing is not asked for all.
    if request.topic_partitions.as_ref().is_some_and(Vec::is_empty) {
        return Ok(Decision::nothing(ElectLeadersResponse::default()));
    }
    let asked: Vec<(TopicName, Vec<i32>)> = match &request.topic_partitions {
        Some(topics) => topics.iter().map(|it| (it.topic.clone(), it.partitions.clone())).collect(),
        None => view
            .image
            .topics()
            .map(|topic| {
                let name = TopicName(StrBytes::from_string(topic.name.to_string()));
                (name, topic.partitions.keys().copied().collect())
            })
            .collect(),
    };
    let mut records = Vec::new();
    let mut results = Vec::new();
    for (topic, partitions) in asked {
        let mut answers = Vec::new();
        for index in partitions {
            let answer = PartitionResult::default().with_partition_id(index);
            match elect(view, &topic, index, election) {
                Ok(record) => {
                    records.push(record);
                    answers.push(answer.with_error_message(None));
                }
                // Asked for all: those that need none are not listed.
                Err(refusal)
                    if request.topic_partitions.is_none()
                        && refusal.code == ErrorCode::ElectionNotNeeded => {}
                Err(refusal) => answers.push(
                    answer
                        .with_error_code(refusal.code.code())
                        .with_error_message(Some(refusal.message.into())),
                ),
            }
        }
        results.push(
            ReplicaElectionResult::default().with_topic(topic).with_partition_result(answers),
        );
    }
    let response = ElectLeadersResponse::default().with_replica_election_results(results);
    Ok(Decision::new(records, response))
}

fn elect(view: View<'_>, name: &str, index: i32, election: Election) -> Result<Record, Refusal> {
    let unknown = |what: String| Refusal::new(ErrorCode::UnknownTopicOrPartition, what);
    let topic =
        view.image.topic(name).ok_or_else(|| unknown(format!("No such topic as {name}")))?;
    let partition = topic
        .partitions
        .get(&index)
        .ok_or_else(|| unknown(format!("No such partition as {name}-{index}")))?;
    let needed = match election {
        Election::Preferred => partition.leader != partition.preferred_leader(),
        Election::Online | Election::Unclean => !partition.has_leader(),
    };
    if !needed {
        return Err(ErrorCode::ElectionNotNeeded.into());
    }
    let mut change = Change::new(view, topic, index, partition);
    change.election = election;
    let failed = match election {
        Election::Preferred => ErrorCode::PreferredLeaderNotAvailable,
        Election::Online | Election::Unclean => ErrorCode::EligibleLeadersNotAvailable,
    };
    change
        .build(|id| view.image.may_lead(partition, id))
        .map(Record::from)
        .ok_or_else(|| Refusal::from(failed))
}

/// Moves at most `limit` partitions back to their preferred leaders.
pub fn balance(view: View<'_>, limit: usize) -> Vec<Record> {
    elect_each(view, limit, Election::Preferred, |_, partition| {
        partition.leader != partition.preferred_leader()
    })
}

/// Gives at most `limit` partitions that have none a leader from outside the ISR, where their
/// topics allow it.
pub fn unclean(view: View<'_>, limit: usize) -> Vec<Record> {
    elect_each(view, limit, Election::Unclean, |topic, partition| {
        !partition.has_leader() && view.unclean_election_allowed(&topic.name)
    })
}

fn elect_each(
    view: View<'_>,
    limit: usize,
    election: Election,
    needed: impl Fn(&TopicImage, &PartitionImage) -> bool,
) -> Vec<Record> {
    let mut records = Vec::new();
    for topic in view.image.topics() {
        for (index, partition) in &topic.partitions {
            if records.len() == limit {
                return records;
            }
            if needed(topic, partition) {
                let mut change = Change::new(view, topic, *index, partition);
                change.election = election;
                let record = change.build(|id| view.image.may_lead(partition, id));
                records.extend(record.map(Record::from));
            }
        }
    }
    records
}
