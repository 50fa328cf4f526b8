//! AlterPartition: a leader proposes a new ISR.
//!
//! A proposal is checked against the epochs it was made under, and accepted only if every proposed
//! member is registered, unfenced, not about to stop, and the same incarnation that the leader saw.
//! One that completes a reassignment may cost the proposer its leadership: it is told so by
//! NEW_LEADER_ELECTED, although its ISR was taken.

use kafka_protocol::messages::alter_partition_request::PartitionData as Proposal;
use kafka_protocol::messages::alter_partition_response::{PartitionData, TopicData};
use kafka_protocol::messages::{AlterPartitionRequest, AlterPartitionResponse, BrokerId};

use super::decision::{Decision, View};
use super::image::{Image, PartitionImage};
use crate::error::{ErrorCode, Refusal};
use crate::types::NodeId;
use crate::wire::metadata::Record;

pub fn alter_partition(
    view: View<'_>,
    request: &AlterPartitionRequest,
) -> Result<Decision<AlterPartitionResponse>, Refusal> {
    if request.topics.is_empty() {
        return Ok(Decision::nothing(AlterPartitionResponse::default()));
    }
    view.check_broker_epoch(request.broker_id.0, request.broker_epoch)?;
    let mut records = Vec::new();
    let mut topics = Vec::new();
    for asked in &request.topics {
        let mut answers = Vec::new();
        for proposal in &asked.partitions {
            let answer = match propose(view, request.broker_id.0, asked.topic_id, proposal) {
                Ok((partition, record)) => {
                    records.extend(record);
                    if partition.leader == request.broker_id.0 {
                        accepted(&partition)
                    } else {
                        refused(ErrorCode::NewLeaderElected)
                    }
                }
                Err(code) => refused(code),
            };
            answers.push(answer.with_partition_index(proposal.partition_index));
        }
        topics.push(TopicData::default().with_topic_id(asked.topic_id).with_partitions(answers));
    }
    Ok(Decision::new(records, AlterPartitionResponse::default().with_topics(topics)))
}

fn accepted(partition: &PartitionImage) -> PartitionData {
    PartitionData::default()
        .with_leader_id(BrokerId(partition.leader))
        .with_leader_epoch(partition.leader_epoch)
        .with_isr(partition.isr.iter().copied().map(BrokerId).collect())
        .with_leader_recovery_state(i8::from(partition.recovering))
        .with_partition_epoch(partition.partition_epoch)
}

fn refused(code: ErrorCode) -> PartitionData {
    PartitionData::default().with_error_code(code.code())
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
    let mut change = view.change(topic, index, partition);
    change.isr = members;
    change.recovering = proposal.leader_recovery_state == 1;
    let record = change.build(|id| view.image.may_lead(partition, id));
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
