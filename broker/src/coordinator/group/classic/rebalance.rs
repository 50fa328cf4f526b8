//! The join phase: who is waited for, for how long, and how the next generation begins.

use super::{ClassicGroup, Continuation, Slot, State, Step, Timer};
use crate::coordinator::group::effects::Answer;
use crate::error::ErrorCode;

impl ClassicGroup {
    /// Something changed: a rebalance begins, or the one under way may be complete.
    pub(super) fn rebalance_or_complete(&mut self, step: &mut Step<'_>) {
        match self.state {
            State::Empty | State::CompletingRebalance | State::Stable => {
                self.prepare_rebalance(step);
            }
            State::PreparingRebalance => self.complete_join_if_all_joined(step),
            State::Dead => {}
        }
    }

    pub(super) fn prepare_rebalance(&mut self, step: &mut Step<'_>) {
        if self.state == State::CompletingRebalance {
            self.reset_assignments(ErrorCode::RebalanceInProgress, step);
        }
        self.pending_sync.clear();
        step.cancel(&self.id, Slot::Sync);
        let first = self.state == State::Empty;
        self.transition(State::PreparingRebalance, step.now);
        if first {
            // Others of the same deployment are about to start: one rebalance for all of them.
            let delay_ms = i64::from(step.settings.initial_rebalance_delay_ms);
            let remaining_ms = (self.members.rebalance_timeout_ms() - delay_ms).max(0);
            let timer = Timer::InitialJoin { delay_ms, remaining_ms };
            step.set(&self.id, Slot::Join, delay_ms, timer);
        } else if self.all_joined() {
            self.complete_join(step);
        } else {
            step.set(&self.id, Slot::Join, self.members.rebalance_timeout_ms(), Timer::Join);
        }
    }

    /// All members have joined, and nobody is about to come back with the id that it was given.
    pub(super) fn all_joined(&self) -> bool {
        self.members.len() == self.members.parked_joins() && self.pending_join.is_empty()
    }

    /// The first rebalance of a group ends by its timer only.
    pub(super) fn complete_join_if_all_joined(&mut self, step: &mut Step<'_>) {
        if self.state == State::PreparingRebalance
            && self.previous != State::Empty
            && self.all_joined()
        {
            self.complete_join(step);
        }
    }

    pub(super) fn initial_delay_over(
        &mut self,
        delay_ms: i64,
        remaining_ms: i64,
        step: &mut Step<'_>,
    ) {
        if !self.new_member_added || remaining_ms == 0 {
            self.complete_join(step);
            return;
        }
        self.new_member_added = false;
        let next_ms = i64::from(step.settings.initial_rebalance_delay_ms).min(remaining_ms);
        let remaining_ms = (remaining_ms - delay_ms).max(0);
        let timer = Timer::InitialJoin { delay_ms: next_ms, remaining_ms };
        step.set(&self.id, Slot::Join, next_ms, timer);
    }

    /// Begins the next generation with those who joined. Dynamic members that did not are out;
    /// static ones stay in until their session ends.
    pub(super) fn complete_join(&mut self, step: &mut Step<'_>) {
        if self.state != State::PreparingRebalance {
            return;
        }
        step.cancel(&self.id, Slot::Join);
        for id in self.members.ids() {
            let late = |member: &super::Member| {
                member.parked_join.is_none() && member.instance_id.is_none()
            };
            if self.members.get(&id).is_some_and(late) {
                self.remove(&id);
                step.cancel(&self.id, Slot::Session(id));
            }
        }
        if !self.members.is_empty() && !self.elect_joined_leader() {
            // Only static members are left and none of them joined: wait on.
            step.set(&self.id, Slot::Join, self.members.rebalance_timeout_ms(), Timer::Join);
            return;
        }
        self.begin_generation(step);
    }

    /// A leader that did not join cannot assign. Whether there is one that did.
    fn elect_joined_leader(&mut self) -> bool {
        let joined = |id: &str| self.members.get(id).is_some_and(|it| it.parked_join.is_some());
        if self.leader.as_deref().is_some_and(joined) {
            return true;
        }
        let next = self.members.iter().find(|member| member.parked_join.is_some());
        match next.map(|member| member.id.clone()) {
            Some(id) => {
                self.leader = Some(id);
                true
            }
            None => false,
        }
    }

    fn begin_generation(&mut self, step: &mut Step<'_>) {
        self.generation = self.generation.wrapping_add(1).max(1);
        self.new_member_added = false;
        self.pending_sync.clear();
        self.protocol = self.members.vote();
        self.subscribed = self.read_subscriptions();
        if self.members.is_empty() {
            self.leader = None;
            self.transition(State::Empty, step.now);
            let record = self.record(|member| member.assignment.clone());
            step.store(&self.id, record, Continuation::Emptied);
            return;
        }
        self.transition(State::CompletingRebalance, step.now);
        for id in self.members.ids() {
            let told = if self.is_leader(&id) { self.as_answered() } else { Vec::new() };
            if let Some(token) = self.members.take_join(&id) {
                let answer = self.joined(&id, self.leader.clone(), told);
                step.effects.answer(token, Answer::Join(answer));
            }
            self.members.no_longer_new(&id);
            self.reset_session(&id, step);
            self.pending_sync.insert(id);
        }
        let timer = Timer::Sync { generation: self.generation };
        step.set(&self.id, Slot::Sync, self.members.rebalance_timeout_ms(), timer);
    }
}
