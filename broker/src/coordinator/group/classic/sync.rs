//! SyncGroup: the leader hands in the assignments, each member fetches its own.

use bytes::Bytes;
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};
use kafka_protocol::protocol::StrBytes;

use super::{ClassicGroup, Continuation, Slot, State, Step};
use crate::coordinator::group::effects::{Answer, Token};
use crate::error::ErrorCode;

/// The answer that refuses.
pub fn refusal(code: ErrorCode) -> SyncGroupResponse {
    SyncGroupResponse::default().with_error_code(code.code())
}

impl ClassicGroup {
    pub fn sync(&mut self, token: Token, request: &SyncGroupRequest, step: &mut Step<'_>) {
        if let Err(code) = self.validate_sync(request) {
            step.answer_sync(token, code);
            return;
        }
        let member = request.member_id.as_str();
        match self.state {
            State::PreparingRebalance => step.answer_sync(token, ErrorCode::RebalanceInProgress),
            State::CompletingRebalance => {
                if let Some(earlier) = self.members.park_sync(member, token) {
                    step.answer_sync(earlier, ErrorCode::RebalanceInProgress);
                }
                self.synced(member, step);
                if self.is_leader(member) {
                    self.store_assignments(request, step);
                }
            }
            State::Stable => {
                self.synced(member, step);
                // It is alive; after a change of coordinators this may be the first sign of it.
                self.reset_session(member, step);
                let assignment = self.members.get(member).map(|it| it.assignment.clone());
                let answer = self.assignment_answer(assignment.unwrap_or_default());
                step.effects.answer(token, Answer::Sync(answer));
            }
            State::Empty | State::Dead => step.answer_sync(token, ErrorCode::UnknownMemberId),
        }
    }

    fn validate_sync(&self, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        match self.state {
            State::Dead => return Err(ErrorCode::CoordinatorNotAvailable),
            State::Empty => return Err(ErrorCode::UnknownMemberId),
            _ => {}
        }
        self.validate(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        // From version 5 on a client says what it believes to be in force.
        let differs = |said: &Option<StrBytes>, ours: &Option<String>| {
            said.as_ref().is_some_and(|said| Some(said.as_str()) != ours.as_deref())
        };
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }

    /// One member less to wait for.
    fn synced(&mut self, member: &str, step: &mut Step<'_>) {
        self.pending_sync.remove(member);
        if self.pending_sync.is_empty() {
            step.cancel(&self.id, Slot::Sync);
        }
    }

    /// The leader's assignments; members that it forgot have none.
    fn store_assignments(&mut self, request: &SyncGroupRequest, step: &mut Step<'_>) {
        let of = |id: &str| {
            let mut given = request.assignments.iter().rev();
            let given = given.find(|given| given.member_id.as_str() == id);
            given.map(|given| Bytes::copy_from_slice(&given.assignment)).unwrap_or_default()
        };
        let record = self.record(|member| of(&member.id));
        let assignments = self.members.ids().into_iter().map(|id| {
            let assignment = of(&id);
            (id, assignment)
        });
        let then = Continuation::Assigned {
            generation: self.generation,
            assignments: assignments.collect(),
        };
        step.store(&self.id, record, then);
    }

    /// The assignments are stored: all who wait are answered. If not, all must join again.
    pub(super) fn assigned(
        &mut self,
        generation: i32,
        assignments: Vec<(String, Bytes)>,
        result: Result<(), ErrorCode>,
        step: &mut Step<'_>,
    ) {
        // A rebalance may have begun meanwhile; it has answered everyone.
        if self.state != State::CompletingRebalance || self.generation != generation {
            return;
        }
        if let Err(code) = result {
            self.reset_assignments(code, step);
            self.prepare_rebalance(step);
            return;
        }
        for (id, assignment) in assignments {
            self.members.set_assignment(&id, assignment);
        }
        self.transition(State::Stable, step.now);
        for id in self.members.ids() {
            if let Some(token) = self.members.take_sync(&id) {
                let assignment = self.members.get(&id).map(|it| it.assignment.clone());
                let answer = self.assignment_answer(assignment.unwrap_or_default());
                step.effects.answer(token, Answer::Sync(answer));
                self.reset_session(&id, step);
            }
        }
    }

    /// Takes all assignments back, and tells those who wait why.
    pub(super) fn reset_assignments(&mut self, code: ErrorCode, step: &mut Step<'_>) {
        for id in self.members.ids() {
            self.members.set_assignment(&id, Bytes::new());
            if self.answer_parked_sync(&id, code, step) {
                self.reset_session(&id, step);
            }
        }
    }

    fn assignment_answer(&self, assignment: Bytes) -> SyncGroupResponse {
        SyncGroupResponse::default()
            .with_protocol_type(self.protocol_type.clone().map(StrBytes::from_string))
            .with_protocol_name(self.protocol.clone().map(StrBytes::from_string))
            .with_assignment(assignment)
    }

    /// Whether there was one.
    pub(super) fn answer_parked_sync(
        &mut self,
        id: &str,
        code: ErrorCode,
        step: &mut Step<'_>,
    ) -> bool {
        let token = self.members.take_sync(id);
        if let Some(token) = token {
            step.answer_sync(token, code);
        }
        token.is_some()
    }

    /// Members that joined and never asked for their assignment are out.
    pub(super) fn sync_expired(&mut self, generation: i32, step: &mut Step<'_>) {
        let waits = matches!(self.state, State::CompletingRebalance | State::Stable);
        if !waits || generation != self.generation || self.pending_sync.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.pending_sync) {
            self.answer_parked_sync(&id, ErrorCode::UnknownMemberId, step);
            self.remove(&id);
            step.cancel(&self.id, Slot::Session(id));
        }
        self.prepare_rebalance(step);
    }
}
