//! Who leads a partition, and what its ISR becomes, when brokers come and go.
//!
//! Pure. The rules are Kafka's: a leader comes from the ISR; outside of it only an election that
//! the topic allows to be unclean looks, and what it elects is alone in the ISR and recovering.
//!
//! With eligible leader replicas (KIP-966, the feature `eligible.leader.replicas.version`) an ISR
//! may become empty. Who leaves it while it is smaller than `min.insync.replicas` stays eligible
//! (ELR): the high watermark has stood still since, so that it lacks nothing that was acknowledged.
//! An empty ISR is filled from the ELR. A broker that died without closing its logs loses that
//! place; when nobody is eligible any more, the last leader may lead again, recovering. Without the
//! feature the last member of an ISR is never removed, so that it may lead again when it returns.
//!
//! Deliberately absent: Kafka's other mode, in which the last known ELR has several members.

use uuid::Uuid;

use super::decision::View;
use super::image::{Image, PartitionImage, TopicImage};
use super::reassignments::Assignment;
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
    pub assignment: Assignment,
    pub recovering: bool,
    pub election: Election,
    elr: Vec<NodeId>,
    /// The topic's effective `min.insync.replicas`, when there are eligible leader replicas.
    min_isr: Option<usize>,
    /// Has died without closing its logs, and is no longer eligible.
    pub unclean: Option<NodeId>,
}

/// Whom an election has found.
struct Elected {
    leader: NodeId,
    /// It may lack what was acknowledged.
    unclean: bool,
}

impl View<'_> {
    /// A change of a partition, with the election that its topic allows.
    pub fn change<'a>(
        &self,
        topic: &TopicImage,
        index: i32,
        partition: &'a PartitionImage,
    ) -> Change<'a> {
        let mut change = Change::new(*self, topic, index, partition);
        if self.unclean_election_allowed(&topic.name) {
            change.election = Election::Unclean;
        }
        change
    }
}

impl<'a> Change<'a> {
    pub fn new(
        view: View<'_>,
        topic: &TopicImage,
        index: i32,
        partition: &'a PartitionImage,
    ) -> Self {
        Self::with(partition, topic.id, index, view.elr_enabled().then(|| view.min_isr(topic)))
    }

    fn with(
        partition: &'a PartitionImage,
        topic_id: Uuid,
        index: i32,
        min_isr: Option<usize>,
    ) -> Self {
        Self {
            partition,
            topic_id,
            index,
            isr: partition.isr.clone(),
            assignment: Assignment::of(partition),
            recovering: partition.recovering,
            election: Election::Online,
            elr: partition.elr.clone(),
            min_isr,
            unclean: None,
        }
    }

    /// Takes a broker out of the ISR.
    #[must_use]
    pub fn without(mut self, gone: NodeId) -> Self {
        self.isr.retain(|id| *id != gone);
        self
    }

    /// The record, or none when nothing changes. `may_lead` says which brokers are available.
    pub fn build(mut self, may_lead: impl Fn(NodeId) -> bool) -> Option<PartitionChangeRecord> {
        let mut record = PartitionChangeRecord {
            partition_id: self.index,
            topic_id: self.topic_id,
            ..Default::default()
        };
        self.assignment.complete(&mut self.isr);
        self.keep_eligible();
        let Elected { leader, unclean } = self.elect(may_lead);
        if leader != self.partition.leader {
            record.leader = leader;
            if unclean {
                self.isr = vec![leader];
                self.recovering = true;
                self.elr.clear();
            } else if self.elr.contains(&leader) {
                self.isr = vec![leader];
                self.elr.retain(|id| *id != leader);
            }
        }
        self.assignment.write(self.partition, &mut record);
        if self.min_isr.is_none() {
            self.elr.clear();
        }
        if self.elr != self.partition.elr {
            record.eligible_leader_replicas = Some(self.elr);
        }
        // Without eligible replicas, the last member must be remembered.
        let may_be_empty = self.min_isr.is_some();
        if (may_be_empty || !self.isr.is_empty()) && self.isr != self.partition.isr {
            record.isr = Some(self.isr);
        }
        if may_be_empty {
            record.last_known_elr = last_leader(self.partition, record.leader);
        }
        if self.recovering != self.partition.recovering {
            record.leader_recovery_state = i8::from(self.recovering);
        }
        changes(&record).then_some(record)
    }

    /// Who leaves an ISR that is too small for the high watermark to move stays eligible.
    fn keep_eligible(&mut self) {
        let Some(min_isr) = self.min_isr else { return };
        if self.isr.len() >= min_isr {
            self.elr.clear();
            return;
        }
        for id in &self.partition.isr {
            if !self.elr.contains(id) {
                self.elr.push(*id);
            }
        }
        self.elr.retain(|id| !self.isr.contains(id) && Some(*id) != self.unclean);
        self.elr.sort_unstable();
    }

    fn elect(&self, may_lead: impl Fn(NodeId) -> bool) -> Elected {
        let clean = |id: NodeId| {
            let in_sync = if self.isr.is_empty() { &self.elr } else { &self.isr };
            in_sync.contains(&id) && may_lead(id)
        };
        if self.election == Election::Preferred
            && let Some(preferred) = self.assignment.replicas.first()
            && clean(*preferred)
        {
            return Elected { leader: *preferred, unclean: false };
        }
        if clean(self.partition.leader) {
            return Elected { leader: self.partition.leader, unclean: false };
        }
        let replicas = || self.assignment.replicas.iter().copied();
        if let Some(leader) = replicas().find(|id| clean(*id)) {
            return Elected { leader, unclean: false };
        }
        if let Some(leader) = self.last_known_leader().filter(|id| may_lead(*id)) {
            return Elected { leader, unclean: true };
        }
        if self.election == Election::Unclean
            && let Some(leader) = replicas().find(|id| may_lead(*id))
        {
            return Elected { leader, unclean: true };
        }
        Elected { leader: NO_LEADER, unclean: false }
    }

    /// When nobody is eligible any more, whoever led last is the best that is left.
    fn last_known_leader(&self) -> Option<NodeId> {
        if self.min_isr.is_none() || !self.isr.is_empty() || !self.elr.is_empty() {
            return None;
        }
        match self.partition.last_known_elr[..] {
            [last] => Some(last),
            _ => None,
        }
    }
}

/// The last known ELR is used for the last leader: remembered once when a partition loses its
/// leader, forgotten once it has one.
fn last_leader(partition: &PartitionImage, leader: NodeId) -> Option<Vec<NodeId>> {
    let known = !partition.last_known_elr.is_empty();
    match leader {
        NO_LEADER if !known => Some(vec![partition.leader]),
        LEADER_UNCHANGED | NO_LEADER => None,
        _ => known.then(Vec::new),
    }
}

/// Who comes and who goes while records are made.
#[derive(Default)]
struct Movement {
    /// About to be fenced, or to stop.
    gone: Option<NodeId>,
    /// About to be unfenced.
    back: Option<NodeId>,
    /// A new process of this broker found logs that nobody had closed.
    unclean: Option<NodeId>,
}

fn changes(record: &PartitionChangeRecord) -> bool {
    record.leader != LEADER_UNCHANGED
        || record.isr.is_some()
        || record.eligible_leader_replicas.is_some()
        || record.last_known_elr.is_some()
        || record.leader_recovery_state >= 0
        || record.replicas.is_some()
        || record.adding_replicas.is_some()
        || record.removing_replicas.is_some()
        || record.directories.is_some()
}

/// Takes a broker, which is about to be fenced or to stop, out of every ISR and leadership.
pub fn remove_broker(view: View<'_>, gone: NodeId) -> Vec<Record> {
    remove_broker_where(view, gone, |partition| partition.isr.contains(&gone))
}

/// Takes a broker out of the ISR and leadership of some partitions.
pub fn remove_broker_where(
    view: View<'_>,
    gone: NodeId,
    concerned: impl Fn(&PartitionImage) -> bool,
) -> Vec<Record> {
    let movement = Movement { gone: Some(gone), ..Movement::default() };
    elect_where(view, concerned, &movement)
}

/// Takes a broker whose last process was killed out of every ISR, ELR and leadership: what it wrote
/// last may not have reached its disk.
pub fn remove_unclean_broker(view: View<'_>, id: NodeId) -> Vec<Record> {
    if !view.elr_enabled() {
        return remove_broker(view, id);
    }
    let movement = Movement { unclean: Some(id), ..Movement::default() };
    elect_where(view, |it| it.isr.contains(&id) || it.elr.contains(&id), &movement)
}

/// Finds leaders for partitions that had none, now that a broker is back.
pub fn add_broker(view: View<'_>, back: NodeId) -> Vec<Record> {
    let movement = Movement { back: Some(back), ..Movement::default() };
    elect_where(view, |partition| !partition.has_leader(), &movement)
}

fn elect_where(
    view: View<'_>,
    concerned: impl Fn(&PartitionImage) -> bool,
    movement: &Movement,
) -> Vec<Record> {
    let leaves = |id: NodeId| Some(id) == movement.gone || Some(id) == movement.unclean;
    let may_lead =
        |id: NodeId| !leaves(id) && (Some(id) == movement.back || view.image.is_active(id));
    let mut records = Vec::new();
    for topic in view.image.topics() {
        let mut rules = None;
        for (index, partition) in &topic.partitions {
            if !concerned(partition) {
                continue;
            }
            // Once per topic: they are looked up in its configuration.
            let (min_isr, unclean_allowed) = *rules.get_or_insert_with(|| {
                let min_isr = view.elr_enabled().then(|| view.min_isr(topic));
                (min_isr, view.unclean_election_allowed(&topic.name))
            });
            let mut change = Change::with(partition, topic.id, *index, min_isr);
            change.isr.retain(|id| !leaves(*id));
            change.unclean = movement.unclean;
            let may_lead = |id| may_lead(id) && view.image.has_online(partition, id);
            if unclean_allowed {
                change.election = Election::Unclean;
            }
            records.extend(change.build(may_lead).map(Record::from));
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

    fn partition(replicas: &[NodeId], isr: &[NodeId], leader: NodeId) -> PartitionImage {
        PartitionImage {
            replicas: replicas.to_vec(),
            isr: isr.to_vec(),
            leader,
            directories: vec![],
            adding: vec![],
            removing: vec![],
            elr: vec![],
            last_known_elr: vec![],
            recovering: false,
            leader_epoch: 0,
            partition_epoch: 0,
        }
    }

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
            let partition = partition(replicas, isr, *leader);
            let mut change = Change::with(&partition, Uuid::nil(), 0, None);
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
    /// What happens to a partition with three replicas and `min.insync.replicas` of two.
    enum Step {
        Fenced(NodeId),
        /// A new process, after a kill.
        Unclean(NodeId),
        Unfenced(NodeId),
        /// The leader's proposal.
        Isr(&'static [NodeId]),
    }

    #[test]
    fn eligible_replicas_follow_the_table() {
        use Step::{Fenced, Isr, Unclean, Unfenced};
        // step → leader, isr, elr, last known, recovering
        type Row = (Step, NodeId, &'static [NodeId], &'static [NodeId], &'static [NodeId], bool);
        let stories: [&[Row]; 4] = [
            // All stop cleanly; one that is eligible leads, though it was not the last.
            &[
                (Fenced(3), 1, &[1, 2], &[], &[], false),
                (Fenced(2), 1, &[1], &[2], &[], false),
                (Fenced(1), -1, &[], &[1, 2], &[1], false),
                (Unfenced(3), -1, &[], &[1, 2], &[1], false),
                (Unfenced(2), 2, &[2], &[1], &[], false),
                (Isr(&[2, 3]), 2, &[2, 3], &[], &[], false),
            ],
            // All are killed; the last leader is waited for, and recovers.
            &[
                (Fenced(3), 1, &[1, 2], &[], &[], false),
                (Fenced(2), 1, &[1], &[2], &[], false),
                (Fenced(1), -1, &[], &[1, 2], &[1], false),
                (Unclean(2), -1, &[], &[1], &[1], false),
                (Unfenced(2), -1, &[], &[1], &[1], false),
                (Unclean(1), -1, &[], &[], &[1], false),
                (Unfenced(3), -1, &[], &[], &[1], false),
                (Unfenced(1), 1, &[1], &[], &[], true),
            ],
            // A follower that was killed is eligible until its next process registers.
            &[
                (Fenced(2), 1, &[1, 3], &[], &[], false),
                (Isr(&[1]), 1, &[1], &[3], &[], false),
                (Unclean(3), 1, &[1], &[], &[], false),
                (Fenced(1), -1, &[], &[1], &[1], false),
                (Unfenced(3), -1, &[], &[1], &[1], false),
                (Unfenced(1), 1, &[1], &[], &[], false),
            ],
            // A leader that was killed and is back before anybody noticed.
            &[(Unclean(1), 2, &[2, 3], &[], &[], false)],
        ];
        for story in stories {
            let mut now = partition(&[1, 2, 3], &[1, 2, 3], 1);
            let mut alive = vec![1, 2, 3];
            for (step, leader, isr, elr, last, recovering) in story {
                let mut change = Change::with(&now, Uuid::nil(), 0, Some(2));
                match step {
                    Fenced(id) | Unclean(id) => {
                        alive.retain(|it| it != id);
                        change.isr.retain(|it| it != id);
                        change.unclean = matches!(step, Unclean(_)).then_some(*id);
                    }
                    Unfenced(id) => alive.push(*id),
                    Isr(isr) => change.isr = isr.to_vec(),
                }
                if let Some(record) = change.build(|id| alive.contains(&id)) {
                    now.merge(&record);
                }
                let got = (
                    now.leader,
                    &now.isr[..],
                    &now.elr[..],
                    &now.last_known_elr[..],
                    now.recovering,
                );
                assert_eq!(got, (*leader, *isr, *elr, *last, *recovering));
            }
        }
    }

    #[test]
    fn without_the_feature_an_eligible_replica_still_leads_what_kafka_left_without_an_isr() {
        let mut left = partition(&[1], &[], -1);
        (left.elr, left.last_known_elr) = (vec![1], vec![1]);
        let record = Change::with(&left, Uuid::nil(), 0, None).build(|_| true).unwrap();
        left.merge(&record);
        assert_eq!((left.leader, &left.isr[..], &left.elr[..]), (1, &[1][..], &[][..]));
    }
}
