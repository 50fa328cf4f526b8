//! What other nodes answer, and what becomes of this replica by that.

use super::messages::{
    At, Effect, Error, FetchAnswer, FetchId, Known, LogEnd, LogView, ReplicaKey, VoteRequest,
};
use super::node::{Effects, Raft};
use super::roles::Role;
use crate::types::{NodeId, Offset};

impl Raft {
    #[expect(clippy::too_many_arguments, reason = "an answer, what it answers, and the world")]
    pub(super) fn on_voted(
        &mut self,
        from: ReplicaKey,
        request: VoteRequest,
        known: Known,
        granted: bool,
        log: &impl LogView,
        at: At,
        out: &mut Effects,
    ) {
        if self.learn(known, at, out) || request.epoch != self.epoch {
            return;
        }
        let voters = self.voters.current();
        if !voters.has(from) {
            return;
        }
        match &mut self.role {
            Role::Prospective(it) if request.pre_vote => {
                it.votes.count(from.id, granted);
                if it.votes.won(voters) {
                    self.stand_for_election(log, at, out);
                } else if it.votes.lost(voters) {
                    self.pre_vote_lost(at);
                }
            }
            Role::Candidate(it) if !request.pre_vote => {
                it.votes.count(from.id, granted);
                if it.votes.won(voters) {
                    self.lead(log, at, out);
                } else if it.votes.lost(voters) && !it.lost {
                    it.lost = true;
                    let most = self.identity.timeouts.backoff_max.min(it.deadline - at.now);
                    it.deadline = at.within(10, most / 4);
                }
            }
            _ => {}
        }
    }

    pub(super) fn on_told(&mut self, from: ReplicaKey, known: Known, at: At, out: &mut Effects) {
        if self.learn(known, at, out) {
            return;
        }
        if let Role::Leader(leader) = &mut self.role
            && known.error.is_none()
            && known.epoch == self.epoch
        {
            leader.acknowledged.insert(from.id);
        }
    }

    pub(super) fn on_fetched(
        &mut self,
        id: FetchId,
        answer: FetchAnswer,
        log: &impl LogView,
        at: At,
        out: &mut Effects,
    ) {
        if self.fetching != Some(id) {
            return;
        }
        self.fetching = None;
        if self.leader_is_behind(answer.known) {
            out.extend(answer.known.leader.map(Effect::LeaderLostMetadata));
            return;
        }
        if answer.known.error.is_none() {
            // Whoever was thought to be dead has just answered as the leader.
            self.died = None;
        }
        if self.learn(answer.known, at, out) {
            return;
        }
        if let Some(error) = answer.known.error {
            return self.on_fetch_refused(id, error, at);
        }
        let deadline = at.now + self.timeouts().fetch;
        let Role::Follower(follower) = &mut self.role else {
            // Somebody answered as leader whom we do not follow: an old one. Look on.
            return self.search_again(at);
        };
        if answer.known.epoch < self.epoch {
            return self.search_again(at);
        }
        follower.fetched = true;
        follower.gone = false;
        follower.deadline = deadline;
        let leader = follower.leader;
        self.died = None;
        self.next_fetch = at.now;
        self.told_high_watermark = 0;
        if let Some(parted) = answer.diverging {
            self.on_diverging(leader, parted, log, out);
        } else if let Some(snapshot) = answer.snapshot {
            let committed =
                if self.has_one_fixed_voter() { log.end().offset } else { self.high_watermark };
            if snapshot.offset < committed {
                out.push(Effect::LeaderLostMetadata(leader));
                return;
            }
            self.fetching = Some(id);
            out.push(Effect::LoadSnapshot(id, snapshot));
        } else if answer.records.is_empty() {
            self.commit(answer.high_watermark.unwrap_or(0).min(log.end().offset), out);
        } else {
            // Only now do the logs agree up to our end.
            self.told_high_watermark = answer.high_watermark.unwrap_or(0);
            self.writing = true;
            out.push(Effect::Replicate(answer.records));
        }
    }

    /// A leader that sends its snapshot, part by part, lives.
    pub(super) fn on_loading(&mut self, id: FetchId, at: At) {
        let deadline = at.now + self.timeouts().fetch;
        if self.fetching == Some(id)
            && let Role::Follower(follower) = &mut self.role
        {
            follower.deadline = deadline;
        }
    }

    pub(super) fn on_loaded(&mut self, id: FetchId, at: At) {
        self.on_loading(id, at);
        if self.fetching == Some(id) {
            self.fetching = None;
            self.next_fetch = at.now;
        }
    }

    fn on_diverging(
        &mut self,
        leader: NodeId,
        parted: LogEnd,
        log: &impl LogView,
        out: &mut Effects,
    ) {
        let ours = log.end_of_epoch(parted.epoch);
        let cut =
            if ours.epoch == parted.epoch { ours.offset.min(parted.offset) } else { ours.offset };
        if cut < self.high_watermark || self.has_one_fixed_voter() {
            out.push(Effect::LeaderLostMetadata(leader));
            return;
        }
        self.voters.truncate(cut);
        self.writing = true;
        out.push(Effect::Truncate(cut));
    }

    /// A lone voter sends only what is committed, and its epochs grow: if it parts from what it
    /// sent, it has lost its log.
    fn has_one_fixed_voter(&self) -> bool {
        !self.is_voter() && self.voters.kraft_version() == 0 && self.voters.current().len() == 1
    }

    fn leader_is_behind(&self, known: Known) -> bool {
        let leads = known.leader.is_some_and(|leader| self.voters.current().get(leader).is_some());
        leads && known.epoch < self.epoch && self.has_one_fixed_voter()
    }

    fn on_fetch_refused(&mut self, id: FetchId, error: Error, at: At) {
        match error {
            // Our leader itself says that it does not lead: it has resigned, or was restarted.
            Error::NotLeaderOrFollower if id.to.is_some() => self.on_leader_gone(id, at),
            _ if id.to.is_none() => self.search_again(at),
            _ => self.retry_fetch(at),
        }
    }

    pub(super) fn on_fetch_failed(&mut self, id: FetchId, at: At) {
        if self.fetching != Some(id) {
            return;
        }
        self.fetching = None;
        if id.to.is_none() {
            self.search_again(at);
        } else if self.is_voter() {
            self.retry_fetch(at);
        } else {
            // An observer has no say in who leads; it asks the others.
            self.detach(at);
        }
    }

    pub(super) fn on_leader_died(&mut self, id: FetchId, at: At) {
        if self.fetching != Some(id) {
            return;
        }
        self.fetching = None;
        if id.to.is_none() {
            return self.search_again(at);
        }
        self.on_leader_gone(id, at);
    }

    fn on_leader_gone(&mut self, id: FetchId, at: At) {
        let voter = self.is_voter();
        let Role::Follower(follower) = &mut self.role else { return };
        let leader = follower.leader;
        if id.to != Some(leader) || id.epoch != self.epoch {
            return;
        }
        self.died = Some(leader);
        if !voter {
            return self.detach(at);
        }
        let first = !follower.gone;
        follower.gone = true;
        if first {
            let turn = self.stagger(leader, at);
            if let Role::Follower(follower) = &mut self.role {
                follower.deadline = follower.deadline.min(turn);
            }
        }
        self.search_again(at);
    }

    pub(super) fn on_synced(&mut self, log: &impl LogView, at: At, out: &mut Effects) {
        self.writing = false;
        match self.role {
            Role::Leader(_) => self.raise_high_watermark(log, at, out),
            Role::Follower(_) => {
                let committed: Offset = self.told_high_watermark.min(log.end().offset);
                self.commit(committed, out);
            }
            _ => {}
        }
    }
}
