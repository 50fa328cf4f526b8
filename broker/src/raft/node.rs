//! One replica of the metadata log: its role, its vote, and how these change.
//!
//! Pure: [`Raft::step`] takes what happened, a look at the log, the time and a random number, and
//! returns what the driver has to do, in order. Invariants, checked by the model in `model.rs`:
//! at most one leader for each epoch; a vote is persisted before it is told, and is never changed
//! within an epoch; what is committed is in the log of every later leader.
//! Deliberately absent: bytes of the log, addresses, connections.

use uuid::Uuid;

use super::messages::{
    Answer, At, Effect, Election, Error, Event, FetchId, Known, LogView, ReplicaKey, Request,
    VoteRequest,
};
use super::roles::{Candidate, Follower, Leader, Prospective, Resigned, Role, Unattached, Votes};
use super::voters::{BEFORE_THE_LOG, Endpoint, History, Voter};
use crate::types::{LeaderEpoch, Millis, NodeId, Offset};
use crate::wire::metadata::control::{ChangeVoter, Control, LeaderChange};

/// Between the first two followers that notice the death of their leader, so that one is first.
const STAGGER: Millis = 40;
/// The pause after a fetch that brought nothing but a hint where else to look.
const RETRY: Millis = 20;
/// The pause between tries to find a leader while nobody knows one.
const SEARCH: Millis = 50;
const NEVER: Millis = Millis::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timeouts {
    pub election: Millis,
    pub fetch: Millis,
    pub backoff_max: Millis,
}

/// Who this replica is, for good.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    pub key: ReplicaKey,
    /// It has the controller role: if it is among the voters, it votes and may lead.
    pub may_vote: bool,
    /// Where its controller listens.
    pub endpoints: Vec<Endpoint>,
    /// The kraft.versions that it supports.
    pub versions: (i16, i16),
    pub timeouts: Timeouts,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Raft {
    pub(super) identity: Identity,
    pub(super) epoch: LeaderEpoch,
    pub(super) voted: Option<ReplicaKey>,
    pub(super) role: Role,
    pub(super) voters: History,
    /// All below is committed, as far as this replica knows.
    pub(super) high_watermark: Offset,
    /// What the leader said when it sent what is being written.
    pub(super) told_high_watermark: Offset,
    pub(super) fetching: Option<FetchId>,
    pub(super) next_fetch: Millis,
    /// Something is being written; what to fetch next is known only then.
    pub(super) writing: bool,
    /// The leader that was found dead last.
    pub(super) died: Option<NodeId>,
    /// The leader from which so little was heard that this node asked for votes.
    pub(super) silent: Option<NodeId>,
    /// This node will stop: it does not want to lead again.
    pub(super) stopping: bool,
}

pub(super) type Effects = Vec<Effect>;

impl Raft {
    /// As the disk tells: `election` is the quorum state, `voters` those of the log.
    pub fn start(
        identity: Identity,
        election: Election,
        voters: History,
        log: &impl LogView,
        at: At,
    ) -> Self {
        let epoch = election.epoch.max(log.end().epoch);
        let voted = election.voted.filter(|_| epoch == election.epoch);
        let mut raft = Self {
            identity,
            epoch,
            voted,
            role: Role::Unattached(Unattached { deadline: NEVER }),
            voters,
            high_watermark: 0,
            told_high_watermark: 0,
            fetching: None,
            next_fetch: at.now,
            writing: false,
            died: None,
            silent: None,
            stopping: false,
        };
        if raft.is_voter() {
            // A pre-vote disturbs nobody, and its answers name a leader if there is one. Who is
            // the only voter has nobody to wait for.
            let alone = raft.voters.current().len() == 1;
            let wait =
                if alone { at.now } else { at.within(STAGGER, raft.timeouts().election / 3) };
            raft.role = Role::Unattached(Unattached { deadline: wait });
        }
        raft
    }

    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    pub fn role(&self) -> &Role {
        &self.role
    }

    pub fn key(&self) -> ReplicaKey {
        self.identity.key
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// What a leader tells those who fetch: nothing before it has committed something in its epoch.
    /// Until then others may know better than it does, and a follower of Kafka's does not live on
    /// when it is told less than it knows.
    pub fn high_watermark_to_tell(&self) -> Option<Offset> {
        let leader = self.role.leader()?;
        (self.high_watermark > leader.epoch_start).then_some(self.high_watermark)
    }

    pub fn voters(&self) -> &History {
        &self.voters
    }

    /// The leader that was found dead last, until another one is known.
    pub fn died(&self) -> Option<NodeId> {
        self.died
    }

    pub fn silent(&self) -> Option<NodeId> {
        self.silent
    }

    /// The driver has read these records in what it replicated.
    pub fn note_control(&mut self, offset: Offset, control: &Control) {
        self.voters.replay(offset, control);
    }

    /// The log starts with a snapshot that ends here: all of it is committed.
    pub fn note_snapshot(&mut self, end: Offset, voters: History) {
        self.voters = voters;
        self.high_watermark = self.high_watermark.max(end);
    }

    /// The leader of the current epoch, this node included.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(_) => Some(self.key().id),
            Role::Follower(it) => Some(it.leader),
            _ => None,
        }
    }

    pub fn is_voter(&self) -> bool {
        self.identity.may_vote && self.voters.current().has(self.key())
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self) -> Millis {
        let fetch = if self.wants_to_fetch() { self.next_fetch } else { NEVER };
        self.role.deadline().min(fetch)
    }

    /// Whether what came of that fetch is still of use.
    pub fn is_fetching(&self, id: FetchId) -> bool {
        self.fetching == Some(id)
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        self.identity.timeouts
    }

    pub(super) fn known(&self, error: Option<Error>) -> Known {
        Known { error, leader: self.leader(), epoch: self.epoch }
    }

    pub fn step(&mut self, event: Event, log: &impl LogView, at: At) -> Effects {
        let mut out = Vec::new();
        match event {
            Event::Tick => {}
            Event::Vote(request) => self.on_vote(request, log, at, &mut out),
            Event::Begin(request) => self.on_begin(request, at, &mut out),
            Event::End(request) => self.on_end(&request, at, &mut out),
            Event::Fetch(request) => self.on_fetch(request, log, at, &mut out),
            Event::Voted { from, request, known, granted } => {
                self.on_voted(from, request, known, granted, log, at, &mut out);
            }
            Event::Told { from, known } => self.on_told(from, known, at, &mut out),
            Event::Fetched(id, answer) => self.on_fetched(id, answer, log, at, &mut out),
            Event::Loading(id) => self.on_loading(id, at),
            Event::Loaded(id) => self.on_loaded(id, at),
            Event::SnapshotAsked(replica, epoch) => self.on_snapshot_asked(replica, epoch, at),
            Event::FetchFailed(id) => self.on_fetch_failed(id, at),
            Event::LeaderDied(id) => self.on_leader_died(id, at),
            Event::Synced => self.on_synced(log, at, &mut out),
            Event::Resign => {
                self.stopping = true;
                if self.voters.current().iter().any(|voter| voter.key.id != self.key().id) {
                    self.resign(at, &mut out);
                }
            }
        }
        self.on_time(log, at, &mut out);
        if self.wants_to_fetch() && self.next_fetch <= at.now {
            let to = self.role.follows();
            let id = FetchId { to, epoch: self.epoch, end: log.end() };
            self.fetching = Some(id);
            out.push(Effect::Fetch(id));
        }
        out
    }

    fn wants_to_fetch(&self) -> bool {
        let role = matches!(self.role, Role::Follower(_) | Role::Unattached(_));
        role && self.fetching.is_none() && !self.writing
    }

    fn on_time(&mut self, log: &impl LogView, at: At, out: &mut Effects) {
        if self.role.deadline() > at.now {
            return;
        }
        let may_lead = self.is_voter() && !self.stopping;
        match &self.role {
            Role::Unattached(_) | Role::Follower(_) | Role::Candidate(_) if may_lead => {
                self.ask_before_election(log, at, out);
            }
            Role::Prospective(_) => self.pre_vote_lost(at),
            Role::Leader(_) => self.on_leader_time(at, out),
            Role::Follower(_) | Role::Candidate(_) | Role::Resigned(_) => self.detach(at),
            Role::Unattached(_) => {
                self.role = Role::Unattached(Unattached { deadline: NEVER });
            }
        }
    }

    /// Unattached in the same epoch, with the same vote.
    pub(super) fn detach(&mut self, at: At) {
        let election = self.timeouts().election;
        let deadline = if self.is_voter() { at.within(election, election) } else { NEVER };
        self.role = Role::Unattached(Unattached { deadline });
        self.fetching = None;
        self.next_fetch = at.now + SEARCH;
    }

    /// A higher epoch exists, and nobody is known to lead it.
    pub(super) fn enter(&mut self, epoch: LeaderEpoch, at: At, out: &mut Effects) {
        self.epoch = epoch;
        self.voted = None;
        self.detach(at);
        self.persist(out);
    }

    /// `leader` leads `epoch`, which is not lower than ours.
    pub(super) fn follow(&mut self, leader: NodeId, epoch: LeaderEpoch, at: At, out: &mut Effects) {
        if epoch > self.epoch {
            self.voted = None;
        }
        self.epoch = epoch;
        self.role = Role::Follower(Follower::new(leader, at.now + self.timeouts().fetch));
        self.fetching = None;
        self.told_high_watermark = 0;
        self.next_fetch = at.now;
        self.died = None;
        self.silent = None;
        self.persist(out);
    }

    pub(super) fn persist(&self, out: &mut Effects) {
        let leader = self.leader();
        out.push(Effect::Persist(Election { epoch: self.epoch, leader, voted: self.voted }));
    }

    /// Takes note of what another node knows; true when that changed who leads for us.
    pub(super) fn learn(&mut self, known: Known, at: At, out: &mut Effects) -> bool {
        let leader = known.leader.filter(|leader| *leader != self.key().id);
        if known.epoch > self.epoch {
            match leader {
                Some(leader) => self.follow(leader, known.epoch, at, out),
                None => self.enter(known.epoch, at, out),
            }
            return true;
        }
        let Some(leader) = leader.filter(|_| known.epoch == self.epoch) else { return false };
        // Who looks for a better leader does not go back to the one it has just lost.
        let open = match &self.role {
            Role::Unattached(_) => self.died != Some(leader),
            Role::Candidate(_) => true,
            Role::Prospective(it) => it.leader.is_none(),
            Role::Follower(_) | Role::Leader(_) | Role::Resigned(_) => false,
        };
        if open {
            self.follow(leader, known.epoch, at, out);
        }
        open
    }

    pub(super) fn ask_before_election(&mut self, log: &impl LogView, at: At, out: &mut Effects) {
        let leader = self.role.follows();
        self.silent = leader.or(self.silent);
        let election = self.timeouts().election;
        let deadline = at.within(election, election);
        self.fetching = None;
        let votes = Votes::of(self.key().id);
        if votes.won(self.voters.current()) {
            return self.stand_for_election(log, at, out);
        }
        self.role = Role::Prospective(Prospective { votes, leader, deadline });
        self.ask_for_votes(true, log, out);
    }

    /// The others would not elect us now: back to where we were, for a while.
    pub(super) fn pre_vote_lost(&mut self, at: At) {
        let wait =
            at.within(STAGGER, self.timeouts().backoff_max.min(self.timeouts().election) / 2);
        self.next_fetch = at.now + RETRY;
        self.role = match self.role.follows() {
            Some(leader) => {
                let mut follower = Follower::new(leader, wait);
                follower.gone = self.died == Some(leader);
                Role::Follower(follower)
            }
            None => Role::Unattached(Unattached { deadline: wait }),
        };
    }

    pub(super) fn stand_for_election(&mut self, log: &impl LogView, at: At, out: &mut Effects) {
        let election = self.timeouts().election;
        let votes = Votes::of(self.key().id);
        let won = votes.won(self.voters.current());
        self.epoch += 1;
        self.voted = Some(self.key());
        let deadline = at.within(election, election);
        self.role = Role::Candidate(Candidate { votes, lost: false, deadline });
        self.persist(out);
        if won {
            self.lead(log, at, out);
        } else {
            self.ask_for_votes(false, log, out);
        }
    }

    fn ask_for_votes(&self, pre_vote: bool, log: &impl LogView, out: &mut Effects) {
        for voter in self.others() {
            let request = VoteRequest {
                epoch: self.epoch,
                candidate: self.key(),
                voter: Some(voter),
                end: log.end(),
                pre_vote,
            };
            out.push(Effect::Send(voter, Request::Vote(request)));
        }
    }

    /// The other voters.
    pub(super) fn others(&self) -> Vec<ReplicaKey> {
        let me = self.key().id;
        self.voters.current().iter().map(|voter| voter.key).filter(|key| key.id != me).collect()
    }

    pub(super) fn lead(&mut self, log: &impl LogView, at: At, out: &mut Effects) {
        let granted = match &self.role {
            Role::Candidate(candidate) => candidate.votes.granted.clone(),
            _ => return,
        };
        let start = log.end().offset;
        let quorum_deadline = self.quorum_deadline(at.now);
        let begin = self.begin_deadline(at.now);
        let leader = Leader::new(self.key().id, start, quorum_deadline, begin);
        self.role = Role::Leader(leader);
        self.persist(out);
        let directories = self.voters.kraft_version() > 0;
        let voter =
            |voter: &Voter| ChangeVoter { voter_id: voter.key.id, voter_directory_id: Uuid::nil() };
        let voters = self.voters.current();
        let mut controls = vec![Control::LeaderChange(LeaderChange {
            // Kafka 4.3.1 writes this version, without directories, in every quorum, and can read
            // no other.
            version: 0,
            leader_id: self.key().id,
            voters: voters.iter().map(voter).collect(),
            granting_voters: voters
                .iter()
                .filter(|it| granted.contains(&it.key.id))
                .map(voter)
                .collect(),
        })];
        if directories {
            controls.extend(self.own_voters_record());
        }
        for (offset, control) in (start..).zip(&controls) {
            self.voters.replay(offset, control);
        }
        self.writing = true;
        out.push(Effect::Append(controls));
        self.tell_epoch(out);
    }

    /// The voters' record, when the log has none yet or tells other endpoints of this leader.
    fn own_voters_record(&self) -> Vec<Control> {
        let voters = self.voters.current();
        let identity = &self.identity;
        let own = Voter {
            key: identity.key,
            endpoints: identity.endpoints.clone(),
            versions: identity.versions,
        };
        if self.voters.changed_at() != BEFORE_THE_LOG && voters.get(own.key.id) == Some(&own) {
            return Vec::new();
        }
        History::to_records(&voters.with(own), self.voters.kraft_version())
    }

    pub(super) fn quorum_deadline(&self, now: Millis) -> Millis {
        if self.others().is_empty() { NEVER } else { now + self.timeouts().fetch * 3 / 2 }
    }

    pub(super) fn begin_deadline(&self, now: Millis) -> Millis {
        now + (self.timeouts().fetch / 4).max(1)
    }

    /// Leads no more, and tells the voters who should.
    pub(super) fn resign(&mut self, at: At, out: &mut Effects) {
        let Role::Leader(leader) = &self.role else { return };
        let me = self.key();
        let preferred = leader.successors(me, self.voters.current());
        for voter in self.others() {
            let end = super::messages::EndRequest {
                epoch: self.epoch,
                leader: me.id,
                preferred: preferred.clone(),
            };
            out.push(Effect::Send(voter, Request::End(end)));
        }
        let election = self.timeouts().election;
        self.role = Role::Resigned(Resigned { deadline: at.within(election, election) });
    }

    pub(super) fn commit(&mut self, offset: Offset, out: &mut Effects) {
        if offset > self.high_watermark {
            self.high_watermark = offset;
            out.push(Effect::Commit(offset));
        }
    }

    pub(super) fn refuse(&self, error: Error, out: &mut Effects) {
        out.push(Effect::Answer(Answer::Known(self.known(Some(error)))));
    }

    /// How long this voter waits after the death of its leader: the first of the others hardly.
    pub(super) fn stagger(&self, leader: NodeId, at: At) -> Millis {
        let me = self.key().id;
        let ids = self.voters.current().iter().map(|voter| voter.key.id);
        let before = ids.filter(|id| *id != leader && *id < me).count();
        at.within(before as Millis * STAGGER, STAGGER / 4)
    }

    pub(super) fn search_again(&mut self, at: At) {
        self.next_fetch = at.now + SEARCH;
    }

    pub(super) fn retry_fetch(&mut self, at: At) {
        self.next_fetch = at.now + RETRY;
    }
}

#[cfg(test)]
impl Raft {
    /// For a model that counts no time: all deadlines are at `ahead`, and nothing was long ago.
    pub fn forget_time(&mut self, ahead: Millis) {
        self.next_fetch = 0;
        match &mut self.role {
            Role::Unattached(it) => it.deadline = ahead,
            Role::Follower(it) => it.deadline = ahead,
            Role::Prospective(it) => it.deadline = ahead,
            Role::Candidate(it) => it.deadline = ahead,
            Role::Resigned(it) => it.deadline = ahead,
            Role::Leader(it) => {
                (it.quorum_deadline, it.begin_deadline) = (ahead, ahead);
                it.heard.clear();
                it.forget_time();
            }
        }
    }
}
