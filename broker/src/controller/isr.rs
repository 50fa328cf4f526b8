//! AlterPartition: a leader proposes a new ISR; and ElectLeaders: somebody asks for an election.
//!
//! A proposal is checked against the epochs it was made under, and accepted only if every proposed
//! member is registered, unfenced, not about to stop, and the same incarnation that the leader saw.

use kafka_protocol::messages::alter_partition_request::PartitionData as Proposal;
use kafka_protocol::messages::alter_partition_response::{PartitionData, TopicData};
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{
    AlterPartitionRequest, AlterPartitionResponse, BrokerId, ElectLeadersRequest,
    ElectLeadersResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::decision::{Decision, View};
use super::election::{Change, Election};
use super::image::{Image, PartitionImage};
use crate::error::{ErrorCode, Refusal};
use crate::types::NodeId;
use crate::wire::metadata::Record;

pub fn alter_partition(
    view: View<'_>,
    request: &AlterPartitionRequest,
) -> Result<Decision<AlterPartitionResponse>, Refusal> {
    view.check_broker_epoch(request.broker_id.0, request.broker_epoch)?;
    let mut records = Vec::new();
    let mut topics = Vec::new();
    for asked in &request.topics {
        let mut answers = Vec::new();
        for proposal in &asked.partitions {
            let answer = match propose(view, request.broker_id.0, asked.topic_id, proposal) {
                Ok((partition, record)) => {
                    records.extend(record);
                    PartitionData::default()
                        .with_leader_id(BrokerId(partition.leader))
                        .with_leader_epoch(partition.leader_epoch)
                        .with_isr(partition.isr.iter().copied().map(BrokerId).collect())
                        .with_leader_recovery_state(i8::from(partition.recovering))
                        .with_partition_epoch(partition.partition_epoch)
                }
                Err(code) => PartitionData::default().with_error_code(code.code()),
            };
            answers.push(answer.with_partition_index(proposal.partition_index));
        }
        topics.push(TopicData::default().with_topic_id(asked.topic_id).with_partitions(answers));
    }
    Ok(Decision::new(records, AlterPartitionResponse::default().with_topics(topics)))
}

/// The partition as it will be, and the record that makes it so, if anything changes.
fn propose(
    view: View<'_>,
    leader: NodeId,
    topic_id: uuid::Uuid,
    proposal: &Proposal,
) -> Result<(PartitionImage, Option<Record>), ErrorCode> {
    let topic = view.image.topic_by_id(topic_id).ok_or(ErrorCode::UnknownTopicId)?;
    let index = proposal.partition_index;
    let partition = topic.partitions.get(&index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let isr = proposed_isr(proposal);
    let members: Vec<NodeId> = isr.iter().map(|(id, _)| *id).collect();
    validate(view.image, leader, partition, proposal, &isr)?;
    let mut change = Change::new(view, topic, index, partition);
    change.isr = members;
    change.recovering = proposal.leader_recovery_state == 1;
    if view.unclean_election_allowed(&topic.name) {
        change.election = Election::Unclean;
    }
    let record = change.build(|id| view.image.is_active(id));
    let mut after = PartitionImage::clone(partition);
    if let Some(record) = &record {
        after.merge(record);
    }
    Ok((after, record.map(Record::from)))
}

/// The proposed members and the epochs that the leader knows them by; -1: any.
fn proposed_isr(proposal: &Proposal) -> Vec<(NodeId, i64)> {
    if proposal.new_isr_with_epochs.is_empty() {
        proposal.new_isr.iter().map(|id| (id.0, -1)).collect()
    } else {
        proposal.new_isr_with_epochs.iter().map(|it| (it.broker_id.0, it.broker_epoch)).collect()
    }
}

fn validate(
    image: &Image,
    leader: NodeId,
    partition: &PartitionImage,
    proposal: &Proposal,
    isr: &[(NodeId, i64)],
) -> Result<(), ErrorCode> {
    // A leader that knows more than this controller talks to one that is no longer active.
    if proposal.leader_epoch > partition.leader_epoch
        || proposal.partition_epoch > partition.partition_epoch
    {
        return Err(ErrorCode::NotController);
    }
    if proposal.leader_epoch < partition.leader_epoch {
        return Err(ErrorCode::FencedLeaderEpoch);
    }
    if leader != partition.leader {
        return Err(ErrorCode::InvalidRequest);
    }
    if proposal.partition_epoch < partition.partition_epoch {
        return Err(ErrorCode::InvalidUpdateVersion);
    }
    let legal = isr.iter().enumerate().all(|(index, (id, _))| {
        partition.replicas.contains(id) && !isr[..index].iter().any(|(other, _)| other == id)
    });
    let recovering = proposal.leader_recovery_state == 1;
    if !legal
        || !isr.iter().any(|(id, _)| *id == leader)
        || (recovering && (isr.len() > 1 || !partition.recovering))
    {
        return Err(ErrorCode::InvalidRequest);
    }
    let eligible = |(id, epoch): &(NodeId, i64)| {
        image
            .broker(*id)
            .is_some_and(|broker| broker.is_active() && (*epoch == -1 || broker.epoch == *epoch))
    };
    if isr.iter().all(eligible) { Ok(()) } else { Err(ErrorCode::IneligibleReplica) }
}

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
        .build(|id| view.image.is_active(id))
        .map(Record::from)
        .ok_or_else(|| Refusal::from(failed))
}
