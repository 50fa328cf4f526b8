//! How members go: by LeaveGroup, or because they are no longer heard of.

use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::{ClassicGroup, Slot, State, Step};
use crate::error::ErrorCode;

impl ClassicGroup {
    /// Several members leave at once (KIP-345); each gets an answer of its own.
    pub fn leave(
        &mut self,
        request: &LeaveGroupRequest,
        step: &mut Step<'_>,
    ) -> LeaveGroupResponse {
        if self.state == State::Dead {
            let code = ErrorCode::CoordinatorNotAvailable.code();
            return LeaveGroupResponse::default().with_error_code(code);
        }
        let mut someone_left = false;
        let mut answers = Vec::with_capacity(request.members.len());
        for leaving in &request.members {
            let result = self.leave_one(leaving, step);
            someone_left |= result.is_ok();
            answers.push(
                MemberResponse::default()
                    .with_member_id(leaving.member_id.clone())
                    .with_group_instance_id(leaving.group_instance_id.clone())
                    .with_error_code(result.err().map_or(0, |code| code.code())),
            );
        }
        if someone_left {
            match self.state {
                State::Stable | State::CompletingRebalance => self.rebalance_or_complete(step),
                State::PreparingRebalance => self.complete_join_if_all_joined(step),
                State::Empty | State::Dead => {}
            }
        }
        LeaveGroupResponse::default().with_members(answers)
    }

    fn leave_one(
        &mut self,
        leaving: &MemberIdentity,
        step: &mut Step<'_>,
    ) -> Result<(), ErrorCode> {
        let instance = leaving.group_instance_id.as_deref();
        let mut id = leaving.member_id.to_string();
        if id.is_empty() {
            // An administrator knows the instance id only.
            let current = instance.and_then(|instance| self.members.static_id(instance));
            id = current.ok_or(ErrorCode::UnknownMemberId)?.to_owned();
        } else if !self.is_pending(&id) {
            self.validate(&id, instance)?;
        }
        let reason = leaving.reason.as_deref().unwrap_or("not provided");
        tracing::info!(group = %self.id, member = %id, reason, "a member leaves");
        self.dismiss(&id, step);
        Ok(())
    }

    /// Takes a member, or pending member, out.
    fn dismiss(&mut self, id: &str, step: &mut Step<'_>) {
        step.cancel(&self.id, Slot::Session(id.to_owned()));
        self.answer_parked_join(id, ErrorCode::UnknownMemberId, step);
        self.answer_parked_sync(id, ErrorCode::UnknownMemberId, step);
        self.remove(id);
    }

    /// A member was silent for too long.
    pub(super) fn session_expired(&mut self, id: &str, step: &mut Step<'_>) {
        let out = match self.members.get(id) {
            Some(member) => !member.may_be_silent(),
            None => self.is_pending(id),
        };
        if self.state == State::Dead || !out {
            return;
        }
        tracing::info!(group = %self.id, member = %id, "a member's session ended");
        let was_pending = self.is_pending(id);
        self.dismiss(id, step);
        match self.state {
            State::Stable | State::CompletingRebalance if !was_pending => {
                self.rebalance_or_complete(step);
            }
            State::PreparingRebalance if self.all_joined() => self.complete_join(step),
            _ => {}
        }
    }
}
