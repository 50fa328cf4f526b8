//! What other nodes ask a replica for: votes, obedience, and the log.

use super::messages::{
    Answer, At, BeginRequest, Effect, EndRequest, Error, FetchRequest, Fetched, LogEnd, LogView,
    ReplicaKey, Request, VoteRequest,
};
use super::node::{Effects, Raft};
use super::roles::Role;
use crate::env::planted;
use crate::types::{LeaderEpoch, Millis, Offset};

/// Between the successors that a resigning leader names.
const TURN: Millis = 50;

impl Raft {
    pub(super) fn on_vote(
        &mut self,
        request: VoteRequest,
        log: &impl LogView,
        at: At,
        out: &mut Effects,
    ) {
        let error = self.check_vote(&request, at, out);
        let granted = error.is_none() && self.grants(&request, log);
        if granted && !request.pre_vote && self.voted.is_none() {
            self.voted = Some(request.candidate);
            self.persist(out);
        }
        if granted {
            self.give_way(at);
        }
        let known = self.known(error);
        out.push(Effect::Answer(Answer::Vote { known, granted }));
    }

    fn check_vote(&mut self, request: &VoteRequest, at: At, out: &mut Effects) -> Option<Error> {
        let end = request.end;
        // A candidate's epoch is new, so that its log cannot have it yet.
        let impossible =
            if request.pre_vote { end.epoch > request.epoch } else { end.epoch >= request.epoch };
        if end.offset < 0 || end.epoch < 0 || impossible || request.candidate.id < 0 {
            return Some(Error::InvalidRequest);
        }
        if request.epoch < self.epoch {
            return Some(Error::FencedLeaderEpoch);
        }
        if request.epoch > self.epoch {
            self.enter(request.epoch, at, out);
        }
        (!self.is_meant(request.voter)).then_some(Error::InvalidVoterKey)
    }

    /// Whether a request for that voter is one for us: a replaced disk is another voter.
    fn is_meant(&self, voter: Option<ReplicaKey>) -> bool {
        let me = self.key();
        voter.is_none_or(|key| {
            let same_disk = key.directory.is_nil() || key.directory == me.directory;
            key.id == me.id && (same_disk || planted!(WipedVoterKeepsIdentity))
        })
    }

    fn grants(&self, request: &VoteRequest, log: &impl LogView) -> bool {
        if request.end < log.end() && !planted!(VoteWithoutLogCheck) {
            return false;
        }
        if request.pre_vote {
            return match &self.role {
                Role::Follower(follower) => follower.grants_pre_vote(),
                Role::Leader(_) => false,
                Role::Unattached(_)
                | Role::Prospective(_)
                | Role::Candidate(_)
                | Role::Resigned(_) => true,
            };
        }
        match &self.role {
            Role::Unattached(_) => {}
            // It has not found a leader in this epoch: its vote is still free.
            Role::Prospective(it) if it.leader.is_none() => {}
            _ if planted!(VotesTwice) => {}
            _ => return false,
        }
        match self.voted {
            None => true,
            Some(_) if planted!(VotesTwice) => true,
            Some(voted) => {
                let candidate = request.candidate;
                voted.id == candidate.id
                    && (voted.directory.is_nil() || voted.directory == candidate.directory)
            }
        }
    }

    /// Another one is about to be elected: our own try would only split the votes.
    fn give_way(&mut self, at: At) {
        let pause = at.within(self.timeouts().election / 4, self.timeouts().election / 4);
        match &mut self.role {
            Role::Unattached(it) => it.deadline = it.deadline.max(pause),
            Role::Follower(it) if it.gone => it.deadline = it.deadline.max(pause),
            _ => {}
        }
    }

    pub(super) fn on_begin(&mut self, request: BeginRequest, at: At, out: &mut Effects) {
        if request.leader < 0 || request.leader == self.key().id {
            return self.refuse(Error::InvalidRequest, out);
        }
        if request.epoch < self.epoch {
            return self.refuse(Error::FencedLeaderEpoch, out);
        }
        let follows = self.epoch == request.epoch
            && matches!(&self.role, Role::Follower(it) if it.leader == request.leader);
        let other = match &self.role {
            Role::Leader(_) | Role::Resigned(_) => true,
            Role::Follower(it) => it.leader != request.leader,
            _ => false,
        };
        // An epoch has one leader: whoever says otherwise is not of this quorum.
        if self.epoch == request.epoch && other {
            return self.refuse(Error::InvalidRequest, out);
        }
        if !follows {
            self.follow(request.leader, request.epoch, at, out);
        }
        let error = (!self.is_meant(request.voter)).then_some(Error::InvalidVoterKey);
        out.push(Effect::Answer(Answer::Known(self.known(error))));
    }

    pub(super) fn on_end(&mut self, request: &EndRequest, at: At, out: &mut Effects) {
        if request.leader < 0 || request.leader == self.key().id {
            return self.refuse(Error::InvalidRequest, out);
        }
        if request.epoch < self.epoch {
            return self.refuse(Error::FencedLeaderEpoch, out);
        }
        if request.epoch > self.epoch {
            self.enter(request.epoch, at, out);
        }
        let me = self.key().id;
        let turn = request.preferred.iter().position(|id| *id == me);
        let wait = turn.map_or(request.preferred.len(), |turn| turn) as Millis * TURN;
        let deadline = at.within(wait, TURN / 5);
        let voter = self.is_voter();
        match &mut self.role {
            Role::Follower(it) if it.leader == request.leader => {
                it.gone = true;
                if voter {
                    it.deadline = it.deadline.min(deadline);
                }
            }
            Role::Unattached(it) if voter => it.deadline = it.deadline.min(deadline),
            _ => {}
        }
        out.push(Effect::Answer(Answer::Known(self.known(None))));
    }

    pub(super) fn on_fetch(
        &mut self,
        request: FetchRequest,
        log: &impl LogView,
        at: At,
        out: &mut Effects,
    ) {
        let fetched = match self.check_fetch(&request) {
            Some(error) => Fetched::Refused(self.known(Some(error))),
            None => compare(request.end, log),
        };
        // Even a fetch that finds the logs apart shows that the voter is there.
        if !matches!(fetched, Fetched::Refused(_)) {
            self.note_fetch(&request, matches!(fetched, Fetched::Read), log, at, out);
        }
        out.push(Effect::Answer(Answer::Fetch(fetched)));
    }

    fn check_fetch(&self, request: &FetchRequest) -> Option<Error> {
        let end = request.end;
        match request.epoch {
            _ if end.offset < 0 || end.epoch < 0 || end.epoch > request.epoch => {
                Some(Error::InvalidRequest)
            }
            epoch if epoch < self.epoch => Some(Error::FencedLeaderEpoch),
            epoch if epoch > self.epoch => Some(Error::UnknownLeaderEpoch),
            _ if self.role.leader().is_none() => Some(Error::NotLeaderOrFollower),
            _ => None,
        }
    }

    fn note_fetch(
        &mut self,
        request: &FetchRequest,
        agrees: bool,
        log: &impl LogView,
        at: At,
        out: &mut Effects,
    ) {
        let voter = self.is_other_voter(request.replica);
        // With kraft.version 0 an id is all that a voter has.
        let key = match self.voters.current().get(request.replica.id) {
            Some(known) if voter => known.key,
            _ => request.replica,
        };
        let Role::Leader(leader) = &mut self.role else { return };
        if agrees {
            leader.note_fetch(key, request.end.offset, log.end().offset, at.now);
        }
        self.note_contact(key, at);
        if voter && agrees {
            self.raise_high_watermark(log, at, out);
        }
    }

    fn is_other_voter(&self, replica: ReplicaKey) -> bool {
        self.voters.current().has(replica) && replica.id != self.key().id
    }

    /// A voter that follows is there.
    fn note_contact(&mut self, replica: ReplicaKey, at: At) {
        let (me, deadline) = (self.key(), self.quorum_deadline(at.now));
        if !self.is_other_voter(replica) {
            return;
        }
        if let Role::Leader(leader) = &mut self.role
            && leader.note_contact(me, replica.id, self.voters.current())
        {
            leader.heard.clear();
            leader.quorum_deadline = deadline;
        }
    }

    /// A voter does not fetch while it gathers a snapshot.
    pub(super) fn on_snapshot_asked(&mut self, replica: ReplicaKey, epoch: LeaderEpoch, at: At) {
        if epoch == self.epoch {
            self.note_contact(replica, at);
        }
    }

    /// What a leader tells those who fetch: nothing before it has committed something in its epoch.
    /// Until then others may know more, and a follower of Kafka's that is told less ends its process.
    pub fn high_watermark_to_tell(&self) -> Option<Offset> {
        let start = self.role.leader()?.epoch_start;
        (self.high_watermark > start).then_some(self.high_watermark)
    }

    pub(super) fn raise_high_watermark(&mut self, log: &impl LogView, at: At, out: &mut Effects) {
        let Role::Leader(leader) = &self.role else { return };
        let committed = leader.committed(self.key(), self.voters.current(), log.end().offset);
        let Some(committed) = committed else { return };
        self.commit(committed, out);
        let gone = !self.voters.current().has(self.key());
        if gone && self.voters.changed_at() < self.high_watermark {
            // The set without this leader is committed: its work is done.
            self.resign(at, out);
        }
    }

    pub(super) fn on_leader_time(&mut self, at: At, out: &mut Effects) {
        let deadline = self.quorum_deadline(at.now);
        let me = self.key();
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.quorum_deadline <= at.now {
            if leader.has_quorum(me, self.voters.current()) {
                leader.heard.clear();
                leader.quorum_deadline = deadline;
            } else {
                return self.resign(at, out);
            }
        }
        if leader.begin_deadline <= at.now {
            self.tell_epoch(out);
            let next = self.begin_deadline(at.now);
            if let Role::Leader(leader) = &mut self.role {
                leader.begin_deadline = next;
            }
        }
    }

    /// Tells the voters that do not know it yet who leads.
    pub(super) fn tell_epoch(&self, out: &mut Effects) {
        let Role::Leader(leader) = &self.role else { return };
        for voter in self.others() {
            if !leader.acknowledged.contains(&voter.id) {
                let begin =
                    BeginRequest { epoch: self.epoch, leader: self.key().id, voter: Some(voter) };
                out.push(Effect::Send(voter, Request::Begin(begin)));
            }
        }
    }
}

/// Where a fetcher's log that ends at `end` and ours stand to each other, as Kafka decides it.
pub(super) fn compare(end: LogEnd, log: &impl LogView) -> Fetched {
    let start = log.start_offset();
    if let Some(snapshot) = log.snapshot().filter(|it| *it != end) {
        // From the beginning, the log may still be there, but the snapshot is shorter. And where
        // the log starts, its epochs do: an earlier one cannot be compared with it.
        let parted = end.offset == start && end.epoch != log.oldest_epoch();
        if end.offset == 0 || end.offset < start || parted || end.epoch < log.oldest_epoch() {
            return Fetched::Snapshot(snapshot);
        }
    }
    // An empty log agrees with any, and a snapshot with itself.
    if end.offset == 0 || log.snapshot() == Some(end) {
        return Fetched::Read;
    }
    let ours = log.end_of_epoch(end.epoch);
    let same = ours.epoch == end.epoch || planted!(MetadataDivergenceNotChecked);
    if same && ours.offset >= end.offset { Fetched::Read } else { Fetched::Diverging(ours) }
}
