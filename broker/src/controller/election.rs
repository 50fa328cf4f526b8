//! Who leads a partition, and what its ISR becomes, when brokers come and go.
//!
//! Pure. The rules are Kafka's without eligible leader replicas: a leader comes from the ISR; the
//! last member of an ISR is never removed, so that it may lead again when it returns; outside the
//! ISR only an election that the topic allows to be unclean looks, and what it elects is alone in
//! the ISR and recovering.

use uuid::Uuid;

use super::decision::View;
use super::image::{Image, PartitionImage};
use super::replay::LEADER_UNCHANGED;
use crate::types::{NO_LEADER, NodeId};
use crate::wire::metadata::{PartitionChangeRecord, Record};

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Election {
    /// Keep a leader that may lead; else the first of the ISR that may.
    Online,
    /// The first replica, if it may lead; else as `Online`.
    Preferred,
    /// As `Online`; when the ISR has nobody, any replica.
    Unclean,
}

/// One partition about to change.
pub struct Change<'a> {
    pub partition: &'a PartitionImage,
    pub topic_id: Uuid,
    pub index: i32,
    pub isr: Vec<NodeId>,
    pub recovering: bool,
    pub election: Election,
}

impl<'a> Change<'a> {
    pub fn new(partition: &'a PartitionImage, topic_id: Uuid, index: i32) -> Self {
        Self {
            partition,
            topic_id,
            index,
            isr: partition.isr.clone(),
            recovering: partition.recovering,
            election: Election::Online,
        }
    }

    /// The record, or none when nothing changes. `may_lead` says which brokers are available.
    pub fn build(mut self, may_lead: impl Fn(NodeId) -> bool) -> Option<PartitionChangeRecord> {
        let mut record = PartitionChangeRecord {
            partition_id: self.index,
            topic_id: self.topic_id,
            ..Default::default()
        };
        let (leader, unclean) = self.elect(may_lead);
        if leader != self.partition.leader {
            record.leader = leader;
            if unclean {
                self.isr = vec![leader];
                self.recovering = true;
            }
        }
        if !self.isr.is_empty() && self.isr != self.partition.isr {
            record.isr = Some(self.isr);
        }
        if self.recovering != self.partition.recovering {
            record.leader_recovery_state = i8::from(self.recovering);
        }
        let changes = record.leader != LEADER_UNCHANGED
            || record.isr.is_some()
            || record.leader_recovery_state >= 0;
        changes.then_some(record)
    }

    /// The leader, and whether it had to come from outside the ISR.
    fn elect(&self, may_lead: impl Fn(NodeId) -> bool) -> (NodeId, bool) {
        let clean = |id: NodeId| self.isr.contains(&id) && may_lead(id);
        let preferred = self.partition.preferred_leader();
        if self.election == Election::Preferred && clean(preferred) {
            return (preferred, false);
        }
        if clean(self.partition.leader) {
            return (self.partition.leader, false);
        }
        let replicas = || self.partition.replicas.iter().copied();
        if let Some(leader) = replicas().find(|id| clean(*id)) {
            return (leader, false);
        }
        if self.election == Election::Unclean
            && let Some(leader) = replicas().find(|id| may_lead(*id))
        {
            return (leader, true);
        }
        (NO_LEADER, false)
    }
}

/// Takes a broker, which is about to be fenced or to stop, out of every ISR and leadership.
pub fn remove_broker(view: View<'_>, gone: NodeId) -> Vec<Record> {
    elect_where(view, |partition| partition.isr.contains(&gone), Some(gone), None)
}

/// Finds leaders for partitions that had none, now that a broker is back.
pub fn add_broker(view: View<'_>, back: NodeId) -> Vec<Record> {
    elect_where(view, |partition| !partition.has_leader(), None, Some(back))
}

fn elect_where(
    view: View<'_>,
    concerned: impl Fn(&PartitionImage) -> bool,
    gone: Option<NodeId>,
    back: Option<NodeId>,
) -> Vec<Record> {
    let may_lead = |id: NodeId| Some(id) != gone && (Some(id) == back || view.image.is_active(id));
    let mut records = Vec::new();
    for topic in view.image.topics() {
        let mut unclean = None;
        for (index, partition) in &topic.partitions {
            if !concerned(partition) {
                continue;
            }
            let mut change = Change::new(partition, topic.id, *index);
            change.isr.retain(|id| Some(*id) != gone);
            if *unclean.get_or_insert_with(|| view.unclean_election_allowed(&topic.name)) {
                change.election = Election::Unclean;
            }
            records.extend(change.build(may_lead).map(Record::from));
        }
    }
    records
}

/// Moves at most `limit` partitions back to their preferred leaders.
pub fn balance(image: &Image, limit: usize) -> Vec<Record> {
    let mut records = Vec::new();
    for topic in image.topics() {
        for (index, partition) in &topic.partitions {
            if records.len() == limit {
                return records;
            }
            if partition.leader == partition.preferred_leader() {
                continue;
            }
            let mut change = Change::new(partition, topic.id, *index);
            change.election = Election::Preferred;
            records.extend(change.build(|id| image.is_active(id)).map(Record::from));
        }
    }
    records
}

/// Does this broker lead anything?
pub fn leads_any(image: &Image, id: NodeId) -> bool {
    image.topics().any(|topic| topic.partitions.values().any(|it| it.leader == id))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// replicas, isr, leader, alive, election → leader, isr (unchanged: as before), recovering
    type Case = (
        &'static [NodeId],
        &'static [NodeId],
        NodeId,
        &'static [NodeId],
        Election,
        Option<(NodeId, &'static [NodeId], bool)>,
    );

    #[test]
    fn elections_follow_the_table() {
        use Election::*;
        let table: &[Case] = &[
            // All is well: nothing changes.
            (&[1, 2, 3], &[1, 2, 3], 1, &[1, 2, 3], Online, None),
            (&[1, 2, 3], &[1, 2, 3], 2, &[1, 2, 3], Online, None),
            (&[1, 2, 3], &[1, 2, 3], 2, &[1, 2, 3], Preferred, Some((1, &[1, 2, 3], false))),
            // The preferred leader is out of sync: the leader stays.
            (&[1, 2, 3], &[2, 3], 2, &[1, 2, 3], Preferred, None),
            // The leader is gone: the first of the ISR in order of replicas.
            (&[1, 2, 3], &[3, 2], 1, &[2, 3], Online, Some((2, &[3, 2], false))),
            // Nobody of the ISR is alive.
            (&[1, 2, 3], &[1], 1, &[2, 3], Online, Some((-1, &[1], false))),
            (&[1, 2, 3], &[1], -1, &[2, 3], Online, None),
            (&[1, 2, 3], &[1], -1, &[2, 3], Unclean, Some((2, &[2], true))),
            // The last of the ISR returns.
            (&[1, 2, 3], &[1], -1, &[1, 2], Unclean, Some((1, &[1], false))),
        ];
        for (replicas, isr, leader, alive, election, expected) in table {
            let partition = PartitionImage {
                replicas: replicas.to_vec(),
                isr: isr.to_vec(),
                leader: *leader,
                directories: vec![],
                adding: vec![],
                removing: vec![],
                elr: vec![],
                last_known_elr: vec![],
                recovering: false,
                leader_epoch: 0,
                partition_epoch: 0,
            };
            let mut change = Change::new(&partition, Uuid::nil(), 0);
            change.election = *election;
            let record = change.build(|id| alive.contains(&id));
            let got = record.map(|record| {
                let mut after = partition.clone();
                after.merge(&record);
                (after.leader, after.isr, after.recovering)
            });
            let expected = expected.map(|(leader, isr, rec)| (leader, isr.to_vec(), rec));
            assert_eq!(got, expected, "{replicas:?} {isr:?} {leader} {alive:?} {election:?}");
        }
    }
}
