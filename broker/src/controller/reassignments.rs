//! Partitions move to other brokers: AlterPartitionReassignments and ListPartitionReassignments.
//!
//! A reassignment adds the new replicas to the partition at once and says which are on the way in
//! and out. It is complete when the ISR holds all that come in, and, where the partition is to have
//! fewer replicas than before, all that stay: then those on the way out leave. [`Assignment`] is
//! asked at every change of the partition, so a new ISR completes it without anybody's help.
//! Invariant: a replica that is neither on the way in nor in the target never counts.
//!
//! Deliberately absent: enforcing the replication throttles that Kafka's tool sets.

use std::collections::BTreeSet;

use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::decision::{Decision, View};
use super::directories;
use super::election::Change;
use super::image::{Image, PartitionImage, TopicImage};
use super::topics::{check_assignment, refuse};
use crate::error::{ErrorCode, Refusal};
use crate::types::NodeId;
use crate::wire::metadata::{PartitionChangeRecord, Record};

/// Who holds a partition, and who is on the way in or out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// In preferred order; those on the way out stand last.
    pub replicas: Vec<NodeId>,
    pub adding: Vec<NodeId>,
    pub removing: Vec<NodeId>,
    /// Of each replica, in the order of `replicas`.
    pub directories: Vec<Uuid>,
}

impl Assignment {
    pub fn of(partition: &PartitionImage) -> Self {
        Self {
            replicas: partition.replicas.clone(),
            adding: partition.adding.clone(),
            removing: partition.removing.clone(),
            directories: partition.directories.clone(),
        }
    }

    /// On the way from what `partition` has to `target`.
    ///
    /// A reassignment that is under way is given up: who came in with it and is not in the new
    /// target goes out again, and who was to go out and is in it stays.
    fn towards(image: &Image, partition: &PartitionImage, target: &[NodeId]) -> Self {
        let leaving = partition.replicas.iter().filter(|id| !target.contains(id));
        let removing: BTreeSet<NodeId> = leaving.copied().collect();
        let settled =
            |id: &NodeId| partition.replicas.contains(id) && !partition.adding.contains(id);
        let adding: BTreeSet<NodeId> = target.iter().copied().filter(|id| !settled(id)).collect();
        let replicas: Vec<NodeId> = target.iter().chain(&removing).copied().collect();
        let directory = |id: &NodeId| {
            partition.directory(*id).unwrap_or_else(|| directories::default_of(image, *id))
        };
        Self {
            directories: replicas.iter().map(directory).collect(),
            replicas,
            adding: adding.into_iter().collect(),
            removing: removing.into_iter().collect(),
        }
    }

    /// As before the reassignment that is under way.
    fn reverted(partition: &PartitionImage) -> Self {
        let mut assignment = Self::of(partition);
        assignment.keep(|id| !partition.adding.contains(&id));
        assignment.adding.clear();
        assignment.removing.clear();
        assignment
    }

    fn keep(&mut self, keep: impl Fn(NodeId) -> bool) {
        let directories = std::mem::take(&mut self.directories).into_iter();
        // An old record may have no directories at all.
        if directories.len() == self.replicas.len() {
            let kept = self.replicas.iter().zip(directories).filter(|(id, _)| keep(**id));
            self.directories = kept.map(|(_, directory)| directory).collect();
        }
        self.replicas.retain(|id| keep(*id));
    }

    pub fn is_moving(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// Ends the reassignment if `isr` allows it; who goes out leaves `isr`, too.
    pub fn complete(&mut self, isr: &mut Vec<NodeId>) {
        if !self.is_moving() {
            return;
        }
        let stays = |id: &NodeId| !self.removing.contains(id);
        let in_sync: Vec<NodeId> = isr.iter().copied().filter(stays).collect();
        let all_in_sync = |ids: &[NodeId]| ids.iter().all(|id| in_sync.contains(id));
        let target: Vec<NodeId> = self.replicas.iter().copied().filter(stays).collect();
        // With fewer replicas than before, going on with the few that are in sync would be worse
        // than waiting.
        let shrinks = self.adding.len() < self.removing.len();
        if in_sync.is_empty()
            || target.is_empty()
            || !all_in_sync(&self.adding)
            || (shrinks && !all_in_sync(&target))
        {
            return;
        }
        *isr = in_sync;
        let gone = std::mem::take(&mut self.removing);
        self.keep(|id| !gone.contains(&id));
        self.adding.clear();
    }

    /// Puts what differs from `partition` into `record`. A partition that loses a replica gets a
    /// new leader epoch, so that nobody takes the replica's fetches for those of a member.
    pub fn write(&self, partition: &PartitionImage, record: &mut PartitionChangeRecord) {
        let differs = |new: &Vec<NodeId>, old: &Vec<NodeId>| (new != old).then(|| new.clone());
        record.replicas = differs(&self.replicas, &partition.replicas);
        record.adding_replicas = differs(&self.adding, &partition.adding);
        record.removing_replicas = differs(&self.removing, &partition.removing);
        if self.directories != partition.directories {
            record.directories = Some(self.directories.clone());
        }
        let loses = partition.replicas.iter().any(|id| !self.replicas.contains(id));
        if loses && record.leader == super::replay::LEADER_UNCHANGED {
            record.leader = partition.leader;
        }
    }
}

/// Starts, replaces and cancels reassignments, each partition for itself.
pub fn alter(
    view: View<'_>,
    request: &AlterPartitionReassignmentsRequest,
) -> Decision<AlterPartitionReassignmentsResponse> {
    let mut records = Vec::new();
    let may_grow = request.allow_replication_factor_change;
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let answer = ReassignablePartitionResponse::default()
                .with_partition_index(asked.partition_index)
                .with_error_message(None);
            match alter_one(view, &topic.name, asked, may_grow) {
                Ok(record) => {
                    records.extend(record.map(Record::from));
                    answer
                }
                Err(refusal) => answer
                    .with_error_code(refusal.code.code())
                    .with_error_message(Some(refusal.message.into())),
            }
        });
        ReassignableTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    let response = AlterPartitionReassignmentsResponse::default()
        .with_error_message(None)
        .with_allow_replication_factor_change(may_grow)
        .with_responses(topics.collect());
    Decision::new(records, response)
}

fn alter_one(
    view: View<'_>,
    name: &str,
    asked: &ReassignablePartition,
    may_grow: bool,
) -> Result<Option<PartitionChangeRecord>, Refusal> {
    let unknown = |what: String| Refusal::new(ErrorCode::UnknownTopicOrPartition, what);
    let topic = view
        .image
        .topic(name)
        .ok_or_else(|| unknown(format!("Unable to find a topic named {name}.")))?;
    let index = asked.partition_index;
    let partition = topic
        .partitions
        .get(&index)
        .ok_or_else(|| unknown(format!("Unable to find partition {name}:{index}.")))?;
    let change = match &asked.replicas {
        None => cancel(view, topic, index, partition)?,
        Some(target) => {
            let target: Vec<NodeId> = target.iter().map(|id| id.0).collect();
            start(view, topic, index, partition, &target, may_grow)?
        }
    };
    Ok(change.build(|id| view.image.may_lead(partition, id)))
}

fn start<'a>(
    view: View<'_>,
    topic: &TopicImage,
    index: i32,
    partition: &'a PartitionImage,
    target: &[NodeId],
    may_grow: bool,
) -> Result<Change<'a>, Refusal> {
    check_assignment(view.image, target, None)?;
    let settled = |id: &&NodeId| !partition.removing.contains(id);
    let current = partition.replicas.iter().filter(settled).count();
    if !may_grow && current != target.len() {
        return refuse(
            ErrorCode::InvalidReplicationFactor,
            format!("The replication factor is changed from {current} to {}", target.len()),
        );
    }
    let mut change = Change::new(view, topic, index, partition);
    change.assignment = Assignment::towards(view.image, partition, target);
    Ok(change)
}

fn cancel<'a>(
    view: View<'_>,
    topic: &TopicImage,
    index: i32,
    partition: &'a PartitionImage,
) -> Result<Change<'a>, Refusal> {
    if !Assignment::of(partition).is_moving() {
        return refuse(
            ErrorCode::NoReassignmentInProgress,
            "No partition reassignment is in progress.",
        );
    }
    let mut change = view.change(topic, index, partition);
    change.assignment = Assignment::reverted(partition);
    change.isr.retain(|id| !partition.adding.contains(id));
    if change.isr.is_empty() {
        // All that are in sync came with the reassignment: going back loses what only they have.
        if !view.unclean_election_allowed(&topic.name) {
            let name = &topic.name;
            return refuse(
                ErrorCode::InvalidReplicaAssignment,
                format!(
                    "Unable to revert partition assignment for {name}:{index} because it would \
                     require an unclean leader election."
                ),
            );
        }
        let Some(first) = change.assignment.replicas.first() else {
            return refuse(
                ErrorCode::InvalidReplicaAssignment,
                "Invalid replica assignment: addingReplicas contains all replicas.",
            );
        };
        change.isr = vec![*first];
    }
    Ok(change)
}

/// The reassignments that are under way, of all topics or of those that are asked for.
pub fn list(
    image: &Image,
    request: &ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let ongoing = |topic: &TopicImage, indexes: Vec<i32>| {
        let partitions: Vec<_> =
            indexes.into_iter().filter_map(|index| ongoing(topic, index)).collect();
        (!partitions.is_empty()).then(|| {
            OngoingTopicReassignment::default()
                .with_name(TopicName(StrBytes::from_string(topic.name.to_string())))
                .with_partitions(partitions)
        })
    };
    let topics = match &request.topics {
        None => image
            .topics()
            .filter_map(|topic| ongoing(topic, topic.partitions.keys().copied().collect()))
            .collect(),
        Some(asked) => asked
            .iter()
            .filter_map(|it| ongoing(image.topic(&it.name)?, it.partition_indexes.clone()))
            .collect(),
    };
    ListPartitionReassignmentsResponse::default().with_error_message(None).with_topics(topics)
}

fn ongoing(topic: &TopicImage, index: i32) -> Option<OngoingPartitionReassignment> {
    let partition = topic.partitions.get(&index)?;
    let brokers = |ids: &[NodeId]| ids.iter().copied().map(BrokerId).collect();
    Assignment::of(partition).is_moving().then(|| {
        OngoingPartitionReassignment::default()
            .with_partition_index(index)
            .with_replicas(brokers(&partition.replicas))
            .with_adding_replicas(brokers(&partition.adding))
            .with_removing_replicas(brokers(&partition.removing))
    })
}
