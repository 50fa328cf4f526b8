//! The classic group protocol: who is a member, in which generation, with which assignment.
//!
//! One [`ClassicGroup`] is a pure state machine: no I/O, no clock, no locks. A request, a timer that
//! ran out or the news that records were stored goes in; answers to parked requests, timers and
//! records come out ([`Effects`](super::effects::Effects)).
//!
//! ```text
//!            join                    all joined, or          leader's assignment
//!   Empty ─────────▶ Preparing ─── the time is over ──▶ Completing ─── is stored ──▶ Stable
//!     ▲              Rebalance ◀── join, leave, expiry ─ Rebalance                     │
//!     │                  │  ▲                                                         │
//!     └── nobody left ───┘  └─────────────── join, leave, expiry ─────────────────────┘
//!   Dead: the partition is being unloaded.
//! ```
//!
//! Invariants, checked after each step in tests ([`ClassicGroup::check`]):
//! - the generation never falls, and grows only when a rebalance completes;
//! - a member is parked in JoinGroup only while the group is PreparingRebalance, save a static
//!   member whose replacement is being stored; in SyncGroup only while it is CompletingRebalance;
//! - a pending member (KIP-394) is not yet a member; a pending sync is of a member;
//! - the leader is a member; every instance id names exactly one member (KIP-345);
//! - each parked request is answered once, a newer one of the same member at the latest then.
//!   (Kafka forgets the older one; its client has given up on it.)
//!
//! The behaviour follows Kafka 4.3.1, error code by error code. Ties that Kafka decides by the
//! order of a hash map (the next leader, the protocol among equal votes) are decided by name here.
//! Becoming a consumer group, and coming back from being one, is in
//! [`consumer`](super::consumer).

mod arrive;
mod join;
mod leave;
mod member;
mod rebalance;
mod step;
mod sync;
mod transactional;

use std::collections::BTreeSet;

use bytes::Bytes;

use super::effects::{Effects, TimerChange, Token};
use super::records::{GroupMetadataValue, MemberMetadata, Record};
pub use super::timers::{Slot, Timer};
use crate::env::planted;
use crate::error::ErrorCode;
use crate::types::Millis;
pub use join::{JoinCall, refusal as refuse_join};
pub use member::{Member, Members, Standing};
pub use step::Step;
pub use sync::refusal as refuse_sync;

/// The protocol type of consumers, whose subscriptions the coordinator can read.
pub const CONSUMER: &str = "consumer";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    Dead,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// What a group goes on with once its record is stored, or could not be.
#[derive(Debug, Clone, PartialEq)]
pub enum Continuation {
    /// The group is new; its first member waits for `join`.
    Created { join: Token },
    /// The last member left.
    Emptied,
    /// A static member came back under a new id.
    Replaced(Box<Replacement>),
    /// The leader sent the assignments of a generation.
    Assigned { generation: i32, assignments: Vec<(String, Bytes)> },
}

/// What is needed to finish, or to undo, the replacement of a static member's id.
#[derive(Debug, Clone, PartialEq)]
pub struct Replacement {
    instance_id: String,
    old_id: String,
    new_id: String,
    old: Member,
    leader_before: Option<String>,
    join: Token,
    can_skip_assignment: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ClassicGroup {
    pub id: String,
    pub state: State,
    previous: State,
    /// When the state was entered; `None` for a group that an old broker wrote.
    pub state_since: Option<Millis>,
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    pub members: Members,
    /// Members that were given an id and have not come back with it (KIP-394).
    pending_join: BTreeSet<String>,
    /// Members that have not yet asked for their assignment.
    pending_sync: BTreeSet<String>,
    /// `None` when it cannot be told.
    subscribed: Option<BTreeSet<String>>,
    /// Whether a member came while the first rebalance waited for more.
    new_member_added: bool,
}

impl ClassicGroup {
    pub fn new(id: &str, now: Millis) -> Self {
        Self {
            id: id.to_owned(),
            state: State::Empty,
            previous: State::Dead,
            state_since: Some(now),
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: Members::default(),
            pending_join: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            subscribed: None,
            new_member_added: false,
        }
    }

    /// The group that a record describes: Stable, or Empty when it names no members.
    pub fn from_record(id: &str, value: GroupMetadataValue) -> Self {
        let mut group = Self::new(id, 0);
        group.state = if value.members.is_empty() { State::Empty } else { State::Stable };
        group.state_since = Some(value.current_state_timestamp).filter(|since| *since != -1);
        group.generation = value.generation;
        group.protocol_type = Some(value.protocol_type).filter(|kind| !kind.is_empty());
        group.protocol = value.protocol;
        group.leader = value.leader;
        for member in value.members {
            group.members.insert(Member::from_record(member, group.protocol.as_deref()));
        }
        // A record cannot be trusted to name a leader that is a member.
        if !group.leader.as_ref().is_some_and(|leader| group.members.contains(leader)) {
            group.leader = group.members.first_id();
        }
        group.subscribed = group.read_subscriptions();
        group
    }

    /// A record of the group with the given assignments, or with none.
    fn record(&self, assignment: impl Fn(&Member) -> Bytes) -> Record {
        let members = self.members.iter().map(|member| MemberMetadata {
            member_id: member.id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout: member.rebalance_timeout_ms,
            session_timeout: member.session_timeout_ms,
            subscription: member.subscription(self.protocol.as_deref()),
            assignment: assignment(member),
        });
        let value = GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            current_state_timestamp: self.state_since.unwrap_or(-1),
            members: members.collect(),
        };
        Record::group(&self.id, Some(value))
    }

    /// The record that makes a new group known before it has a generation.
    fn created_record(&self) -> Record {
        let current_state_timestamp = self.state_since.unwrap_or(-1);
        Record::group(
            &self.id,
            Some(GroupMetadataValue { current_state_timestamp, ..Default::default() }),
        )
    }

    /// A timer ran out. One that was meant for an earlier state does nothing.
    pub fn expire(&mut self, timer: Timer, step: &mut Step<'_>) {
        match timer {
            Timer::Session { member } => self.session_expired(&member, step),
            Timer::InitialJoin { delay_ms, remaining_ms } => {
                self.initial_delay_over(delay_ms, remaining_ms, step);
            }
            Timer::Join => self.complete_join(step),
            Timer::Sync { generation } => self.sync_expired(generation, step),
            // Of another kind of group, which this may have been.
            Timer::Rebalance { .. }
            | Timer::Rejoin { .. }
            | Timer::Resync { .. }
            | Timer::Patterns
            | Timer::Delay => {}
        }
    }

    /// The record that a step wrote is committed, or was refused with an error of the log.
    pub fn stored(
        &mut self,
        then: Continuation,
        result: Result<(), ErrorCode>,
        step: &mut Step<'_>,
    ) {
        let result = result.map_err(append_error);
        match then {
            Continuation::Created { join } => {
                if let Err(code) = result {
                    step.answer_join(join, "", code);
                }
            }
            // The next load corrects what the log does not know.
            Continuation::Emptied => {}
            Continuation::Replaced(replacement) => self.replaced(*replacement, result, step),
            Continuation::Assigned { generation, assignments } => {
                self.assigned(generation, assignments, result, step);
            }
        }
    }

    /// The group ends here: whoever waits is told `code`, as a rule to look for the new coordinator.
    pub fn unload(&mut self, code: ErrorCode, step: &mut Step<'_>) {
        self.transition(State::Dead, step.now);
        for id in self.members.ids() {
            self.answer_parked_join(&id, code, step);
            self.answer_parked_sync(&id, code, step);
        }
    }

    fn transition(&mut self, to: State, now: Millis) {
        debug_assert!(
            matches!(
                (self.state, to),
                (State::PreparingRebalance, State::Empty | State::CompletingRebalance)
                    | (
                        State::Empty | State::CompletingRebalance | State::Stable,
                        State::PreparingRebalance
                    )
                    | (State::CompletingRebalance, State::Stable)
                    | (_, State::Dead)
            ),
            "a group goes from {:?} to {to:?}",
            self.state
        );
        self.previous = self.state;
        self.state = to;
        self.state_since = Some(now);
    }

    pub fn is_pending(&self, member: &str) -> bool {
        self.pending_join.contains(member)
    }

    pub fn is_leader(&self, member: &str) -> bool {
        self.leader.as_deref() == Some(member)
    }

    /// Only ever used for its offsets, as by a consumer that assigns partitions to itself.
    pub fn is_simple(&self) -> bool {
        self.protocol_type.is_none() && self.state == State::Empty && self.pending_join.is_empty()
    }

    fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    /// Removes a member or pending member from everywhere; another becomes leader if it was.
    fn remove(&mut self, member: &str) {
        self.members.remove(member);
        if self.is_leader(member) {
            self.leader = self.members.first_id();
        }
        self.pending_join.remove(member);
        self.pending_sync.remove(member);
    }

    /// Refuses a request of `member` that is none, or that a newer one with its instance id fenced.
    pub fn validate(&self, member: &str, instance: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            match self.members.static_id(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if current != member => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains(member) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// Refuses an offset commit that is not by a member of this generation. A group without
    /// members takes commits of anyone who names no generation.
    pub fn validate_commit(
        &self,
        member: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> Result<(), ErrorCode> {
        if self.state == State::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        if generation < 0 && self.state == State::Empty || planted!(OldGenerationCommits) {
            return Ok(());
        }
        if generation >= 0 || !member.is_empty() || instance.is_some() {
            self.validate(member, instance)?;
            if generation != self.generation {
                return Err(ErrorCode::IllegalGeneration);
            }
        } else if self.state != State::Empty {
            return Err(ErrorCode::UnknownMemberId);
        }
        if self.state == State::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    /// A commit shows that its member lives.
    pub fn committed(&self, member: &str, step: &mut Step<'_>) {
        if matches!(self.state, State::Stable | State::PreparingRebalance)
            && let Some(member) = self.members.get(member)
        {
            step.set_session(&self.id, &member.id, i64::from(member.session_timeout_ms));
        }
    }

    /// A member lives. Told REBALANCE_IN_PROGRESS, it joins again.
    pub fn heartbeat(
        &mut self,
        member: &str,
        instance: Option<&str>,
        generation: i32,
        step: &mut Step<'_>,
    ) -> Result<(), ErrorCode> {
        if self.state == State::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        self.validate(member, instance)?;
        if generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        self.reset_session(member, step);
        match self.state {
            State::Empty | State::Dead => Err(ErrorCode::UnknownMemberId),
            State::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => Ok(()),
        }
    }

    fn reset_session(&self, member: &str, step: &mut Step<'_>) {
        if let Some(member) = self.members.get(member) {
            step.set_session(&self.id, &member.id, i64::from(member.session_timeout_ms));
        }
    }

    /// Whether a member reads `topic`; when subscriptions cannot be told, a consumer group might.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    fn read_subscriptions(&self) -> Option<BTreeSet<String>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        self.members.subscribed_topics(self.protocol.as_deref()?)
    }

    /// From when on an offset committed at `committed` counts as unused; `None`: it is in use.
    pub fn unused_since(&self, committed: Millis) -> Option<Millis> {
        if self.protocol_type.is_none() {
            return Some(committed);
        }
        match self.state {
            State::Empty => Some(self.state_since.unwrap_or(committed)),
            State::Stable if self.uses_consumer_protocol() && self.subscribed.is_some() => {
                Some(committed)
            }
            _ => None,
        }
    }

    /// Refuses the deletion of offsets while their use cannot be told.
    pub fn validate_offset_delete(&self) -> Result<(), ErrorCode> {
        match self.state {
            State::Dead => Err(ErrorCode::GroupIdNotFound),
            State::Empty => Ok(()),
            _ if self.uses_consumer_protocol() => Ok(()),
            _ => Err(ErrorCode::NonEmptyGroup),
        }
    }

    pub fn validate_delete(&self) -> Result<(), ErrorCode> {
        match self.state {
            State::Dead => Err(ErrorCode::GroupIdNotFound),
            State::Empty => Ok(()),
            _ => Err(ErrorCode::NonEmptyGroup),
        }
    }

    /// Stops all timers, for a group that is deleted.
    pub fn cancel_timers(&self, effects: &mut Effects) {
        let sessions = self.members.ids().into_iter().chain(self.pending_join.iter().cloned());
        for slot in sessions.map(Slot::Session).chain([Slot::Join, Slot::Sync]) {
            effects.timers.push((self.id.clone(), TimerChange::Cancel(slot)));
        }
    }
}

/// What a client is told when its change could not be stored.
pub fn append_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge
        | ErrorCode::RecordListTooLarge
        | ErrorCode::InvalidFetchSize => ErrorCode::UnknownServerError,
        other => other,
    }
}

#[cfg(test)]
impl ClassicGroup {
    /// The invariants named at the top.
    pub(super) fn check(&self) {
        for member in self.members.iter() {
            assert!(
                member.parked_join.is_none()
                    || matches!(self.state, State::PreparingRebalance | State::Stable),
                "{} waits to join in {:?}",
                member.id,
                self.state
            );
            assert!(
                member.parked_sync.is_none() || self.state == State::CompletingRebalance,
                "{} waits to sync in {:?}",
                member.id,
                self.state
            );
            assert!(member.parked_join.is_none() || member.parked_sync.is_none());
            assert!(!self.pending_join.contains(&member.id));
        }
        assert!(self.pending_sync.iter().all(|member| self.members.contains(member)));
        match &self.leader {
            Some(leader) => assert!(self.members.contains(leader), "the leader is a member"),
            None => assert!(self.members.is_empty(), "members have a leader"),
        }
        assert!(self.state != State::Empty || self.members.is_empty(), "Empty has no members");
        self.members.check();
    }
}
