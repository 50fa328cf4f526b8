//! The leader's side of one partition: who is in sync, and up to where a consumer may read.
//!
//! Pure: no I/O, no clock, no locks. Every method takes what happened and returns the effects that
//! the driver must carry out, in order. Time is milliseconds from any fixed start.
//!
//! Invariants, checked after each step in the property tests:
//! - the high watermark never moves back, and never passes the synced log end of a member of the ISR;
//! - a member is added to the ISR only at or past the high watermark and the epoch's start offset;
//! - with an ISR change in flight, both the old and the new set count, and no second one starts.
//!
//! As in Kafka, the high watermark stands still below `min.insync.replicas` (KIP-966), and waits
//! for replicas outside the ISR that have caught up and may join it. Deliberately absent: the last
//! stable offset, which is the high watermark until transactions exist.

use std::collections::BTreeMap;

use crate::controller::image::PartitionImage;
use crate::env::planted;
use crate::error::ErrorCode;
use crate::types::{BrokerEpoch, LeaderEpoch, Millis, NodeId, Offset};

/// What the driver must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The high watermark is now here: publish it, wake who waits for it.
    HighWatermark(Offset),
    /// Ask the controller for this ISR.
    ProposeIsr(Proposal),
}

pub type Effects = Vec<Effect>;

/// An ISR that the leader wants, and the epochs it is based on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proposal {
    pub isr: Vec<(NodeId, BrokerEpoch)>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: i32,
    pub recovering: bool,
}

/// What a leader knows about another replica.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Replica {
    /// It has, durably, all below this offset; `None` before its first fetch.
    pub log_end: Option<Offset>,
    pub log_start: Offset,
    /// When it last had all that the leader had at that time.
    caught_up_at: Millis,
    last_fetch_at: Millis,
    /// The leader's log end at its last fetch.
    leader_end_then: Offset,
    /// The registration under which it fetched; -1 when it did not say.
    broker_epoch: BrokerEpoch,
}

impl Replica {
    fn unknown(caught_up_at: Millis) -> Self {
        Self {
            log_end: None,
            log_start: -1,
            caught_up_at,
            last_fetch_at: Millis::MIN,
            leader_end_then: 0,
            broker_epoch: -1,
        }
    }

    fn is_caught_up(&self, leader_end: Offset, now: Millis, lag_max: Millis) -> bool {
        self.log_end == Some(leader_end) || now.saturating_sub(self.caught_up_at) <= lag_max
    }
}

/// What the image says of the other brokers, as far as an ISR needs it.
pub trait Brokers {
    /// The broker's epoch, when it is neither fenced nor about to stop.
    fn active(&self, id: NodeId) -> Option<BrokerEpoch>;
}

/// A fetch from another replica.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaFetch {
    pub replica: NodeId,
    /// -1 when it did not say.
    pub broker_epoch: BrokerEpoch,
    /// It holds, durably, all below.
    pub offset: Offset,
    pub log_start: Offset,
}

/// Numbers that a topic or the broker sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rules {
    pub min_insync_replicas: usize,
    pub lag_time_max: Millis,
}

/// The leader of one partition in one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Leader {
    me: NodeId,
    pub epoch: LeaderEpoch,
    /// The log end when this epoch began.
    pub epoch_start: Offset,
    pub partition_epoch: i32,
    recovering: bool,
    replica_count: usize,
    isr: Vec<NodeId>,
    proposed: Option<Proposal>,
    others: BTreeMap<NodeId, Replica>,
    high_watermark: Offset,
    log_end: Offset,
    synced: Offset,
    pub rules: Rules,
}

impl Leader {
    /// Takes over with the log as it is; the high watermark is what this replica knew before.
    pub fn new(
        me: NodeId,
        image: &PartitionImage,
        log_end: Offset,
        synced: Offset,
        high_watermark: Offset,
        rules: Rules,
        now: Millis,
    ) -> Self {
        let mut leader = Self {
            me,
            epoch: image.leader_epoch,
            epoch_start: log_end,
            partition_epoch: image.partition_epoch,
            recovering: image.recovering,
            replica_count: image.replicas.len(),
            isr: image.isr.clone(),
            proposed: None,
            others: BTreeMap::new(),
            high_watermark,
            log_end,
            synced,
            rules,
        };
        leader.take_replicas(image, now);
        leader
    }

    fn take_replicas(&mut self, image: &PartitionImage, now: Millis) {
        self.replica_count = image.replicas.len();
        self.others.retain(|id, _| image.replicas.contains(id));
        for id in image.replicas.iter().filter(|id| **id != self.me) {
            // A member of the ISR is given the benefit of the doubt for one lag time.
            let caught_up_at = if image.isr.contains(id) { now } else { Millis::MIN };
            self.others.entry(*id).or_insert_with(|| Replica::unknown(caught_up_at));
        }
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }
    /// The committed ISR.
    pub fn isr(&self) -> &[NodeId] {
        &self.isr
    }
    pub fn others(&self) -> &BTreeMap<NodeId, Replica> {
        &self.others
    }
    pub fn is_proposing(&self) -> bool {
        self.proposed.is_some()
    }
    pub fn min_insync_replicas(&self) -> usize {
        self.rules.min_insync_replicas.min(self.replica_count)
    }
    pub fn has_enough_replicas(&self) -> bool {
        self.isr.len() >= self.min_insync_replicas()
    }

    /// In the committed ISR or in the proposed one.
    fn counts(&self, id: NodeId) -> bool {
        self.isr.contains(&id) || self.proposed.as_ref().is_some_and(|proposal| proposal.has(id))
    }

    /// Records were written to the log of this broker; not necessarily to its disk.
    pub fn on_append(&mut self, log_end: Offset) {
        self.log_end = self.log_end.max(log_end);
    }

    /// All below `synced` is durable on this broker.
    pub fn on_synced(&mut self, synced: Offset, brokers: &dyn Brokers, now: Millis) -> Effects {
        self.log_end = self.log_end.max(synced);
        self.synced = self.synced.max(synced);
        self.raise_high_watermark(now, brokers)
    }

    /// A replica asks for records from an offset on. `None`: it is no replica of this partition.
    pub fn on_fetch(
        &mut self,
        fetch: ReplicaFetch,
        brokers: &dyn Brokers,
        now: Millis,
    ) -> Option<Effects> {
        let log_end = self.log_end;
        let replica = self.others.get_mut(&fetch.replica)?;
        if fetch.offset >= log_end {
            replica.caught_up_at = replica.caught_up_at.max(now);
        } else if fetch.offset >= replica.leader_end_then {
            replica.caught_up_at = replica.caught_up_at.max(replica.last_fetch_at);
        }
        // May go back: a follower that lost its disk starts anew, and must not count as before.
        replica.log_end = Some(fetch.offset);
        replica.log_start = fetch.log_start;
        replica.last_fetch_at = now;
        replica.leader_end_then = log_end;
        replica.broker_epoch = fetch.broker_epoch;
        let mut effects = Vec::new();
        if self.may_join(fetch.replica, brokers) {
            let joined = self.isr.iter().copied().chain([fetch.replica]).collect();
            effects.push(self.propose(joined, brokers));
        }
        effects.extend(self.raise_high_watermark(now, brokers));
        Some(effects)
    }

    fn may_join(&self, id: NodeId, brokers: &dyn Brokers) -> bool {
        let Some(log_end) = self.others.get(&id).and_then(|replica| replica.log_end) else {
            return false;
        };
        self.proposed.is_none()
            && !self.recovering
            && !self.isr.contains(&id)
            && (log_end >= self.high_watermark || planted!(IsrExpandsWithoutLogEndCheck))
            && (log_end >= self.epoch_start || planted!(IsrExpandsWithoutLogEndCheck))
            && self.is_eligible(id, brokers)
    }

    /// Active, and the same registration that fetches.
    fn is_eligible(&self, id: NodeId, brokers: &dyn Brokers) -> bool {
        let fetched_as = self.others.get(&id).map_or(-1, |replica| replica.broker_epoch);
        brokers.active(id).is_some_and(|epoch| fetched_as == -1 || fetched_as == epoch)
    }

    fn propose(&mut self, isr: Vec<NodeId>, brokers: &dyn Brokers) -> Effect {
        let with_epoch = |id: NodeId| {
            let fetched_as = self.others.get(&id).map_or(-1, |replica| replica.broker_epoch);
            let known = if id == self.me { brokers.active(id).unwrap_or(-1) } else { fetched_as };
            (id, known)
        };
        let proposal = Proposal {
            isr: isr.into_iter().map(with_epoch).collect(),
            leader_epoch: self.epoch,
            partition_epoch: self.partition_epoch,
            recovering: self.recovering,
        };
        self.proposed = Some(proposal.clone());
        Effect::ProposeIsr(proposal)
    }

    /// Looks for members of the ISR that lag behind, and for a replica that may join it.
    pub fn on_tick(&mut self, brokers: &dyn Brokers, now: Millis) -> Effects {
        if self.proposed.is_some() {
            return Vec::new();
        }
        if self.recovering {
            // The one member that an unclean election leaves; from now on an ordinary leader.
            self.recovering = false;
            let isr = self.isr.clone();
            return vec![self.propose(isr, brokers)];
        }
        let lag = self.rules.lag_time_max;
        let lags = |id: &NodeId| {
            *id != self.me
                && !self.others.get(id).is_some_and(|it| it.is_caught_up(self.log_end, now, lag))
        };
        if self.isr.iter().any(lags) {
            let rest = self.isr.iter().copied().filter(|id| !lags(id)).collect();
            return vec![self.propose(rest, brokers)];
        }
        let joins = self.others.keys().copied().find(|id| self.may_join(*id, brokers));
        joins.map_or_else(Vec::new, |id| {
            let joined = self.isr.iter().copied().chain([id]).collect();
            vec![self.propose(joined, brokers)]
        })
    }

    /// The controller accepted a proposal of ours, or told the state it is in already.
    pub fn on_isr_accepted(
        &mut self,
        epoch: LeaderEpoch,
        isr: &[NodeId],
        partition_epoch: i32,
        brokers: &dyn Brokers,
        now: Millis,
    ) -> Effects {
        // The image was faster. Then what is proposed now is another one, on its way, and its
        // members count: the high watermark must not pass one that the controller may let in.
        if epoch != self.epoch || partition_epoch <= self.partition_epoch {
            return Vec::new();
        }
        self.isr = isr.to_vec();
        self.partition_epoch = partition_epoch;
        self.proposed = None;
        self.raise_high_watermark(now, brokers)
    }

    /// The controller refused. Returns whether to send the same proposal again.
    pub fn on_isr_refused(&mut self, refused: &Proposal, code: ErrorCode) -> bool {
        if self.proposed.as_ref() != Some(refused) {
            return false;
        }
        match code {
            // Surely not done: the old ISR stands, and the next fetch or tick may try again.
            ErrorCode::OperationNotAttempted | ErrorCode::IneligibleReplica => {
                self.proposed = None;
                false
            }
            // The image will tell what holds; until then both sets count.
            ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::InvalidUpdateVersion
            | ErrorCode::InvalidRequest
            | ErrorCode::NewLeaderElected => false,
            _ => true,
        }
    }

    /// A newer state of the partition in the same leader epoch.
    pub fn on_image(
        &mut self,
        image: &PartitionImage,
        brokers: &dyn Brokers,
        now: Millis,
    ) -> Effects {
        if image.leader_epoch != self.epoch || image.partition_epoch < self.partition_epoch {
            return Vec::new();
        }
        let newer = image.partition_epoch > self.partition_epoch;
        self.take_replicas(image, now);
        if newer {
            self.partition_epoch = image.partition_epoch;
            self.isr.clone_from(&image.isr);
            self.recovering = image.recovering;
            self.proposed = None;
        }
        self.raise_high_watermark(now, brokers)
    }

    /// The lowest log start offset of all replicas that have told theirs.
    pub fn low_watermark(&self, own_start: Offset, brokers: &dyn Brokers) -> Offset {
        let alive = self.others.iter().filter(|(id, _)| brokers.active(**id).is_some());
        alive.map(|(_, replica)| replica.log_start).fold(own_start, Offset::min)
    }

    fn raise_high_watermark(&mut self, now: Millis, brokers: &dyn Brokers) -> Effects {
        if !self.has_enough_replicas() {
            return Vec::new();
        }
        let lag = self.rules.lag_time_max;
        let counted = self.others.iter().filter(|(id, replica)| {
            self.counts(**id)
                || (replica.log_end.is_some()
                    && replica.is_caught_up(self.log_end, now, lag)
                    && self.is_eligible(**id, brokers))
        });
        let ends = counted.map(|(_, replica)| replica.log_end.unwrap_or(-1));
        let mut lowest = ends.clone().fold(self.synced, Offset::min);
        if planted!(HighWatermarkByMajority) {
            let mut all: Vec<_> = ends.chain([self.synced]).collect();
            all.sort_unstable();
            lowest = all[(all.len() - 1) / 2];
        }
        if lowest <= self.high_watermark {
            return Vec::new();
        }
        self.high_watermark = lowest;
        vec![Effect::HighWatermark(lowest)]
    }
}

impl Proposal {
    pub fn has(&self, id: NodeId) -> bool {
        self.isr.iter().any(|(member, _)| *member == id)
    }
}

#[cfg(test)]
mod tests;
