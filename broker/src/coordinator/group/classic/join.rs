//! JoinGroup: how a client becomes a member, and a member takes part in the next generation.

use bytes::Bytes;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::member::owned;
use super::{ClassicGroup, Continuation, Member, Replacement, State, Step};
use crate::coordinator::group::effects::{Answer, Token};
use crate::error::ErrorCode;

/// A JoinGroup request with what the protocol says elsewhere.
#[derive(Debug, Clone)]
pub struct JoinCall {
    pub token: Token,
    pub version: i16,
    pub client_id: String,
    /// As Java prints an address: `/127.0.0.1`.
    pub client_host: String,
    /// The random part of a member id, should one be given.
    pub new_id: Uuid,
    pub request: JoinGroupRequest,
}

impl JoinCall {
    fn instance(&self) -> Option<&str> {
        self.request.group_instance_id.as_deref()
    }

    fn new_member_id(&self) -> String {
        format!("{}-{}", self.instance().unwrap_or(&self.client_id), self.new_id)
    }

    /// From version 4 on a client must come back with the id it was given (KIP-394): else a client
    /// whose answer was lost leaves a member behind with each try.
    pub fn must_know_its_id(&self) -> bool {
        self.version >= 4
    }

    /// KIP-814.
    fn can_skip_assignment(&self) -> bool {
        self.version >= 9
    }

    pub fn rebalance_timeout_ms(&self) -> i32 {
        match self.request.rebalance_timeout_ms {
            // Version 0 has none.
            -1 => self.request.session_timeout_ms,
            timeout => timeout,
        }
    }
}

/// The answer that refuses.
pub fn refusal(member: &str, code: ErrorCode) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_member_id(StrBytes::from_string(member.to_owned()))
        .with_protocol_name(None)
        .with_error_code(code.code())
}

impl ClassicGroup {
    /// A client joins, or a member joins again. `is_new` is set when the group was made for it.
    pub fn join(&mut self, call: JoinCall, is_new: bool, step: &mut Step<'_>) {
        let token = call.token;
        if self.accepts(&call.request.member_id, step) {
            self.join_accepted(call, step);
        } else {
            self.remove(&call.request.member_id);
            step.answer_join(token, "", ErrorCode::GroupMaxSizeReached);
        }
        // A group is known to the log from its first JoinGroup on, be that answered or parked.
        if is_new && step.effects.records.is_empty() {
            let record = self.created_record();
            step.store(&self.id, record, Continuation::Created { join: token });
        }
    }

    /// Whether the group has room for `member` (`group.max.size`).
    fn accepts(&self, member: &str, step: &Step<'_>) -> bool {
        let max = step.settings.max_size;
        let known = self.members.get(member);
        match self.state {
            State::Empty | State::Dead => true,
            State::PreparingRebalance => {
                known.is_some_and(|member| member.parked_join.is_some())
                    || self.members.parked_joins() < max
            }
            State::CompletingRebalance | State::Stable => {
                known.is_some() || self.members.len() < max
            }
        }
    }

    fn supports(&self, call: &JoinCall) -> bool {
        let kind = call.request.protocol_type.as_str();
        if self.state == State::Empty {
            return !kind.is_empty() && !call.request.protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(kind)
            && self.members.support_any(call.request.protocols.iter().map(|asked| &*asked.name))
    }

    fn join_accepted(&mut self, call: JoinCall, step: &mut Step<'_>) {
        let member = call.request.member_id.to_string();
        if self.state == State::Dead {
            step.answer_join(call.token, &member, ErrorCode::CoordinatorNotAvailable);
        } else if !self.supports(&call) {
            step.answer_join(call.token, &member, ErrorCode::InconsistentGroupProtocol);
        } else if member.is_empty() {
            self.join_unknown(call, step);
        } else if self.is_pending(&member) && call.instance().is_none() {
            self.add(member, call, step);
        } else {
            self.join_known(&member, call, step);
        }
    }

    /// A client without a member id.
    fn join_unknown(&mut self, call: JoinCall, step: &mut Step<'_>) {
        let new_id = call.new_member_id();
        let replaced = call.instance().and_then(|instance| self.members.static_id(instance));
        if let Some(old_id) = replaced.map(str::to_owned) {
            self.replace_static(old_id, new_id, call, step);
        } else if call.instance().is_some() || !call.must_know_its_id() {
            self.add(new_id, call, step);
        } else {
            step.set_session(&self.id, &new_id, i64::from(call.request.session_timeout_ms));
            step.answer_join(call.token, &new_id, ErrorCode::MemberIdRequired);
            self.pending_join.insert(new_id);
        }
    }

    fn join_known(&mut self, id: &str, call: JoinCall, step: &mut Step<'_>) {
        if let Err(code) = self.validate(id, call.instance()) {
            step.answer_join(call.token, id, code);
            return;
        }
        let same = self.members.get(id).is_some_and(|it| it.matches(&call.request.protocols));
        match self.state {
            // Its answer was lost: the same again.
            State::CompletingRebalance if same => self.answer_again(id, &call, step),
            // A leader that joins again wants a rebalance, e.g. for partitions that came or went.
            State::Stable if same && !self.is_leader(id) => self.answer_again(id, &call, step),
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                self.rejoin(id, call, step);
            }
            State::Empty | State::Dead => {
                step.answer_join(call.token, id, ErrorCode::UnknownMemberId);
            }
        }
    }

    /// A member takes part in the next generation.
    fn rejoin(&mut self, id: &str, call: JoinCall, step: &mut Step<'_>) {
        self.park_join(id, &call, step);
        self.rebalance_or_complete(step);
    }

    /// A client becomes a member. It has no heartbeats until it is answered, so its session is as
    /// long as a rebalance may take.
    fn add(&mut self, id: String, call: JoinCall, step: &mut Step<'_>) {
        if self.state == State::PreparingRebalance && self.previous == State::Empty {
            self.new_member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(call.request.protocol_type.to_string());
        }
        if self.leader.is_none() {
            self.leader = Some(id.clone());
        }
        self.pending_join.remove(&id);
        self.members.insert(Member {
            id: id.clone(),
            instance_id: call.instance().map(str::to_owned),
            client_id: call.client_id.clone(),
            client_host: call.client_host.clone(),
            rebalance_timeout_ms: call.rebalance_timeout_ms(),
            session_timeout_ms: call.request.session_timeout_ms,
            protocols: owned(&call.request.protocols),
            assignment: Bytes::new(),
            parked_join: Some(call.token),
            parked_sync: None,
            is_new: true,
        });
        step.set_session(&self.id, &id, i64::from(step.settings.new_member_join_timeout_ms));
        self.rebalance_or_complete(step);
    }

    /// Takes over what a JoinGroup says, and parks it in place of an earlier one.
    fn park_join(&mut self, id: &str, call: &JoinCall, step: &mut Step<'_>) {
        if let Some(earlier) = self.members.take_join(id) {
            step.answer_join(earlier, id, ErrorCode::RebalanceInProgress);
        }
        self.members.change(id, |member| {
            member.protocols = owned(&call.request.protocols);
            member.rebalance_timeout_ms = call.rebalance_timeout_ms();
            member.session_timeout_ms = call.request.session_timeout_ms;
            member.parked_join = Some(call.token);
        });
    }

    /// A static member comes back under a new id, and takes over everything of the old (KIP-345).
    fn replace_static(
        &mut self,
        old_id: String,
        new_id: String,
        call: JoinCall,
        step: &mut Step<'_>,
    ) {
        let leader_before = self.leader.clone();
        self.answer_parked_join(&old_id, ErrorCode::FencedInstanceId, step);
        self.answer_parked_sync(&old_id, ErrorCode::FencedInstanceId, step);
        let Some(old) = self.rename(&old_id, &new_id) else { return };
        self.reset_session(&new_id, step);
        self.park_join(&new_id, &call, step);
        match self.state {
            State::Stable if self.members.vote() == self.protocol => {
                let instance_id = call.instance().unwrap_or_default().to_owned();
                let record = self.record(|member| member.assignment.clone());
                let replacement = Replacement {
                    instance_id,
                    old_id,
                    new_id,
                    old,
                    leader_before,
                    join: call.token,
                    can_skip_assignment: call.can_skip_assignment(),
                };
                step.store(&self.id, record, Continuation::Replaced(Box::new(replacement)));
            }
            State::CompletingRebalance => self.prepare_rebalance(step),
            _ => self.rebalance_or_complete(step),
        }
    }

    /// Gives a member another id; returns it as it was.
    fn rename(&mut self, from: &str, to: &str) -> Option<Member> {
        let old = self.members.remove(from)?;
        if self.is_leader(from) {
            self.leader = Some(to.to_owned());
        }
        self.pending_sync.remove(from);
        self.members.insert(Member { id: to.to_owned(), ..old.clone() });
        Some(old)
    }

    /// The replacement of a static member is stored: it goes on in the current generation, without
    /// a rebalance. If it is not stored, the old id stays in force.
    pub(super) fn replaced(
        &mut self,
        replacement: Replacement,
        result: Result<(), ErrorCode>,
        step: &mut Step<'_>,
    ) {
        let Replacement { instance_id, old_id, new_id, old, leader_before, join, .. } = replacement;
        let current = self.members.static_id(&instance_id) == Some(&new_id);
        if let Err(code) = result {
            if current {
                self.members.take_join(&new_id);
                self.rename(&new_id, &old_id);
                self.members.change(&old_id, |member| {
                    member.protocols = old.protocols;
                    member.rebalance_timeout_ms = old.rebalance_timeout_ms;
                    member.session_timeout_ms = old.session_timeout_ms;
                });
                self.reset_session(&old_id, step);
            }
            let answer = self.joined("", leader_before, Vec::new());
            step.effects.answer(join, Answer::Join(answer.with_error_code(code.code())));
            return;
        }
        // Something else may have answered it meanwhile: a rebalance, or yet another replacement.
        if !current || self.members.take_join(&new_id).is_none() {
            return;
        }
        let answer = if replacement.can_skip_assignment {
            let leads = self.is_leader(&new_id);
            let members = if leads { self.as_answered() } else { Vec::new() };
            self.joined(&new_id, self.leader.clone(), members).with_skip_assignment(leads)
        } else {
            // An older client that learned that it leads would assign anew, and nobody would ask
            // for the result: it is told of the leader before it.
            self.joined(&new_id, leader_before, Vec::new())
        };
        step.effects.answer(join, Answer::Join(answer));
    }

    fn answer_again(&self, id: &str, call: &JoinCall, step: &mut Step<'_>) {
        let tell = self.is_leader(id) && self.state == State::CompletingRebalance;
        let members = if tell { self.as_answered() } else { Vec::new() };
        let answer = self.joined(id, self.leader.clone(), members);
        step.effects.answer(call.token, Answer::Join(answer));
    }

    /// The answer to a member of the current generation.
    pub(super) fn joined(
        &self,
        id: &str,
        leader: Option<String>,
        members: Vec<JoinGroupResponseMember>,
    ) -> JoinGroupResponse {
        JoinGroupResponse::default()
            .with_member_id(StrBytes::from_string(id.to_owned()))
            .with_generation_id(self.generation)
            .with_protocol_type(self.protocol_type.clone().map(StrBytes::from_string))
            .with_protocol_name(self.protocol.clone().map(StrBytes::from_string))
            .with_leader(StrBytes::from_string(leader.unwrap_or_default()))
            .with_members(members)
    }

    /// The members as the leader is told of them.
    pub(super) fn as_answered(&self) -> Vec<JoinGroupResponseMember> {
        let tell = |member: &Member| {
            JoinGroupResponseMember::default()
                .with_member_id(StrBytes::from_string(member.id.clone()))
                .with_group_instance_id(member.instance_id.clone().map(StrBytes::from_string))
                .with_metadata(member.subscription(self.protocol.as_deref()))
        };
        self.members.iter().map(tell).collect()
    }

    pub(super) fn answer_parked_join(&mut self, id: &str, code: ErrorCode, step: &mut Step<'_>) {
        if let Some(token) = self.members.take_join(id) {
            let named = if code == ErrorCode::UnknownMemberId { "" } else { id };
            step.answer_join(token, named, code);
        }
    }
}
