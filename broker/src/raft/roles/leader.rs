//! Leads an epoch: who has fetched how far, and so what is committed.
//!
//! Invariants: the high watermark is an offset that a majority of the voters holds durably, and is
//! raised only to offsets beyond the start of the leader's own epoch (an entry of an earlier epoch
//! may be on a majority and still be overwritten, the case of figure 8 of the Raft paper). A leader
//! that is no voter any more does not count itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::env::planted;
use crate::raft::messages::ReplicaKey;
use crate::raft::voters::VoterSet;
use crate::types::{Millis, NodeId, Offset};

/// Observers that are remembered at most; ids from the outside must not fill the memory.
const MAX_REPLICAS: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Leader {
    /// The offset of the LeaderChange record.
    pub epoch_start: Offset,
    /// Everyone who fetches, voters and observers.
    pub replicas: BTreeMap<ReplicaKey, Progress>,
    /// Voters that know of this epoch: told, or seen fetching.
    pub acknowledged: BTreeSet<NodeId>,
    /// Voters heard of since the quorum was last known to be there.
    pub heard: BTreeSet<NodeId>,
    /// A majority must have been heard of by then.
    pub quorum_deadline: Millis,
    /// Voters that do not know of this epoch are told again then.
    pub begin_deadline: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Progress {
    /// The replica's log holds all below, durably.
    pub end: Offset,
    pub fetched_at: Millis,
    /// When it last had all that the leader had; -1: never.
    pub caught_up_at: Millis,
    /// Where the leader's log ended when it last fetched.
    leader_end: Offset,
}

impl Leader {
    pub fn new(me: NodeId, epoch_start: Offset, quorum_deadline: Millis, begin: Millis) -> Self {
        Self {
            epoch_start,
            replicas: BTreeMap::new(),
            acknowledged: BTreeSet::from([me]),
            heard: BTreeSet::new(),
            quorum_deadline,
            begin_deadline: begin,
        }
    }

    pub fn deadline(&self) -> Millis {
        self.quorum_deadline.min(self.begin_deadline)
    }

    /// A replica fetches from `end` on. An end that falls is believed: the disk may have been lost.
    pub fn note_fetch(&mut self, replica: ReplicaKey, end: Offset, own_end: Offset, now: Millis) {
        if replica.id < 0 {
            return;
        }
        let before = self.replicas.get(&replica).copied();
        if before.is_none() && self.replicas.len() >= MAX_REPLICAS {
            return;
        }
        let caught_up_at = match before {
            _ if end >= own_end => now,
            Some(before) if end >= before.leader_end => before.fetched_at,
            Some(before) => before.caught_up_at,
            None => -1,
        };
        let progress = Progress { end, fetched_at: now, caught_up_at, leader_end: own_end };
        self.replicas.insert(replica, progress);
    }

    /// The end of a voter's log, as far as it is known.
    fn end_of(&self, key: ReplicaKey) -> Offset {
        self.replicas.get(&key).map_or(0, |progress| progress.end)
    }

    /// What a majority holds, when that proves anything: see the invariants above.
    pub fn committed(&self, me: ReplicaKey, voters: &VoterSet, own_end: Offset) -> Option<Offset> {
        let mine = |key: ReplicaKey| key == me || (key.id == me.id && key.directory.is_nil());
        let end = |key: ReplicaKey| if mine(key) { own_end } else { self.end_of(key) };
        let mut ends: Vec<_> = voters.iter().map(|voter| end(voter.key)).collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        if planted!(LeaderCommitsAlone) {
            return Some(own_end);
        }
        let held = *ends.get(voters.majority().checked_sub(1)?)?;
        (held > self.epoch_start).then_some(held)
    }

    /// Notes that a voter is there; true when that makes a majority.
    pub fn note_contact(&mut self, me: ReplicaKey, voter: NodeId, voters: &VoterSet) -> bool {
        self.acknowledged.insert(voter);
        self.heard.insert(voter);
        self.has_quorum(me, voters)
    }

    pub fn has_quorum(&self, me: ReplicaKey, voters: &VoterSet) -> bool {
        let there = |id| id == me.id || self.heard.contains(&id);
        voters.iter().filter(|voter| there(voter.key.id)).count() >= voters.majority()
    }

    /// The other voters, the most caught-up first.
    pub fn successors(&self, me: ReplicaKey, voters: &VoterSet) -> Vec<NodeId> {
        let others = voters.iter().map(|voter| voter.key).filter(|key| key.id != me.id);
        let mut others: Vec<_> = others.map(|key| (-self.end_of(key), key.id)).collect();
        others.sort_unstable();
        others.into_iter().map(|(_, id)| id).collect()
    }

    /// Whether the replica had all that there was at most `within` ago.
    pub fn is_caught_up(&self, key: ReplicaKey, now: Millis, within: Millis) -> bool {
        self.replicas
            .get(&key)
            .is_some_and(|it| it.caught_up_at >= 0 && now - it.caught_up_at <= within)
    }
}

#[cfg(test)]
impl Leader {
    pub fn forget_time(&mut self) {
        for progress in self.replicas.values_mut() {
            (progress.fetched_at, progress.caught_up_at, progress.leader_end) = (0, 0, 0);
        }
    }
}
