//! Members of the classic protocol in a consumer group: JoinGroup, SyncGroup and Heartbeat, answered
//! from the state that members of the newer protocol share with them (KIP-848, online migration).
//!
//! Such a member's generation is its member epoch. It is told to join again by its heartbeat, when
//! its target has changed, when it must give up partitions, or when those that it waits for are free.

use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, SyncGroupRequest,
    SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::member::{Member, MemberState};
use super::migrate::{MigrationPolicy, synced};
use super::pattern::PatternChange;
use super::protocol::{Subscription, java_id, read_subscription};
use super::{ConsumerGroup, Turn};
use crate::coordinator::group::classic::{CONSUMER, ClassicGroup, JoinCall};
use crate::coordinator::group::records::{ClassicMember, ClassicProtocol};
use crate::coordinator::group::timers::{Slot, Timer};
use crate::error::{ErrorCode, Refusal};

/// What comes of a JoinGroup.
pub struct Joined {
    pub answer: JoinGroupResponse,
    /// The group is a classic one from now on, and rebalances if told so.
    pub downgraded: Option<(Box<ClassicGroup>, bool)>,
    /// The answer does not wait for records.
    pub at_once: bool,
}

impl Turn<'_> {
    pub fn classic_join(&mut self, call: &JoinCall) -> Result<Joined, Refusal> {
        if self.settings.consumer.migration_policy == MigrationPolicy::Disabled {
            return Err(ErrorCode::InconsistentGroupProtocol.into());
        }
        let request = &call.request;
        let is_unknown = request.member_id.is_empty();
        let id = if is_unknown { java_id(call.new_id) } else { request.member_id.to_string() };
        self.refuse_if_full(&id)?;
        let names = request.protocols.iter().map(|protocol| protocol.name.as_str());
        if request.protocol_type.as_str() != CONSUMER || !self.group.supports_classic(names) {
            return Err(ErrorCode::InconsistentGroupProtocol.into());
        }
        let instance = request.group_instance_id.as_deref();
        if is_unknown && instance.is_none() && call.must_know_its_id() {
            let answer = JoinGroupResponse::default()
                .with_member_id(StrBytes::from_string(id))
                .with_protocol_name(None)
                .with_error_code(ErrorCode::MemberIdRequired.code());
            return Ok(Joined { answer, downgraded: None, at_once: true });
        }
        let said = read_subscription(&request.protocols[0].metadata, self.image)
            .map_err(|_| Refusal::from(ErrorCode::InconsistentGroupProtocol))?;
        let replaced = instance.and_then(|instance| self.group.static_member(instance));
        let downgrades =
            replaced.is_some_and(|it| self.group.may_downgrade_by_replacing(it, self.settings));
        let before = match (instance, replaced) {
            (Some(_), Some(replaced)) if is_unknown => self.replace(replaced, &id),
            (Some(instance), _) if !is_unknown => self.group.current_static(&id, instance)?.clone(),
            _ => self.group.member(&id).cloned().unwrap_or_else(|| Member::new(&id)),
        };
        let after = described(&before, call, &said);
        let names_changed = self.describe(&before, &after);
        let pattern = self.update_pattern(&before, &after)?;
        let raise = names_changed || pattern != PatternChange::None;
        let subscribed = self.subscriptions(raise, &before, &after);
        if downgrades {
            let rebalance = self.group.target.epoch < subscribed.epoch;
            let mut after = after;
            if !rebalance {
                let target = self.target_now(&after);
                after = self.reconcile(after, &target, raise, Some(&said.owned))?;
            }
            let answer = joined(&after);
            let downgraded = Some((self.downgrade(&[], Some(&after)), rebalance));
            return Ok(Joined { answer, downgraded, at_once: false });
        }
        let target = self.update_target(&subscribed, &before, &after);
        let after = self.reconcile(after, &target, raise, Some(&said.owned))?;
        self.cancel(Slot::Rejoin(id.clone()));
        self.set_session(&id, request.session_timeout_ms);
        let timer = Timer::Resync { member: id.clone() };
        self.set(Slot::Resync(id), call.rebalance_timeout_ms(), timer);
        Ok(Joined { answer: joined(&after), downgraded: None, at_once: false })
    }

    /// Members go; the group becomes a classic one if all that stay speak that protocol.
    pub fn remove_or_downgrade(&mut self, leaving: &[&Member]) -> Option<Box<ClassicGroup>> {
        if !leaving.is_empty() && self.group.may_downgrade_without(leaving, self.settings) {
            return Some(self.downgrade(leaving, None));
        }
        self.remove(leaving);
        None
    }

    fn downgrade(&mut self, leaving: &[&Member], joining: Option<&Member>) -> Box<ClassicGroup> {
        tracing::info!(group = %self.group.id, "a consumer group becomes a classic one");
        let group = self.group;
        let replaced = joining.and_then(|it| group.static_id(it.instance_id.as_deref()));
        let instead = replaced.zip(joining).map(|(from, to)| (&**from, &*to.id));
        let tombstones = group.tombstones(instead);
        self.records.extend(tombstones.into_iter().map(Into::into));
        for member in group.members() {
            self.cancel_timers_of(&member.id);
        }
        let classic = group.to_classic(leaving, joining, self.image, self.now);
        self.records.push(classic.stored_record());
        Box::new(classic)
    }

    pub fn classic_sync(
        &mut self,
        request: &SyncGroupRequest,
    ) -> Result<SyncGroupResponse, ErrorCode> {
        let instance = request.group_instance_id.as_deref();
        let member = self.group.classic_member(&request.member_id, instance)?;
        if request.generation_id != member.epoch {
            return Err(ErrorCode::IllegalGeneration);
        }
        let protocol = member.classic.as_ref().and_then(|it| it.supported_protocols.first());
        let differs = |said: &Option<StrBytes>, ours: Option<&str>| {
            said.as_deref().is_some_and(|said| Some(said) != ours)
        };
        if differs(&request.protocol_type, Some(CONSUMER))
            || differs(&request.protocol_name, protocol.map(|it| it.name.as_str()))
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        let id = member.id.to_string();
        // One that has yet to give partitions up has joined already.
        if self.group.target.epoch > member.epoch
            && member.state != MemberState::UnrevokedPartitions
        {
            self.await_rejoin(member);
            return Err(ErrorCode::RebalanceInProgress);
        }
        self.cancel(Slot::Resync(id.clone()));
        self.set_session(&id, member.classic_session_timeout_ms().unwrap_or_default());
        Ok(SyncGroupResponse::default()
            .with_protocol_type(request.protocol_type.clone())
            .with_protocol_name(request.protocol_name.clone())
            .with_assignment(synced(member, self.image)))
    }

    pub fn classic_heartbeat(&mut self, request: &HeartbeatRequest) -> Result<(), ErrorCode> {
        let instance = request.group_instance_id.as_deref();
        let member = self.group.classic_member(&request.member_id, instance)?;
        if request.generation_id != member.epoch {
            return Err(ErrorCode::IllegalGeneration);
        }
        self.set_session(&member.id, member.classic_session_timeout_ms().unwrap_or_default());
        let must_rejoin = member.epoch < self.group.target.epoch
            || member.state == MemberState::UnrevokedPartitions
            || (member.state == MemberState::UnreleasedPartitions
                && !self.group.waits_for_others(member));
        if must_rejoin {
            self.await_rejoin(member);
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    fn await_rejoin(&mut self, member: &Member) {
        let id = member.id.to_string();
        let after_ms = i64::from(member.rebalance_timeout_ms);
        let timer = Timer::Rejoin { member: id.clone() };
        self.set_if_absent(Slot::Rejoin(id), after_ms, timer);
    }

    /// LeaveGroup: several members at once, each with an answer of its own.
    pub fn classic_leave(
        &mut self,
        request: &LeaveGroupRequest,
    ) -> (LeaveGroupResponse, Option<Box<ClassicGroup>>) {
        let group = self.group;
        let mut leaving: Vec<&Member> = Vec::new();
        let mut answers = Vec::with_capacity(request.members.len());
        for identity in &request.members {
            let found = group.leaving(identity);
            if let Ok(member) = &found {
                let reason = identity.reason.as_deref().unwrap_or("not provided");
                tracing::info!(group = %group.id, member = %member.id, reason, "a member leaves");
                if !leaving.iter().any(|it| it.id == member.id) {
                    leaving.push(member);
                }
            }
            answers.push(
                MemberResponse::default()
                    .with_member_id(identity.member_id.clone())
                    .with_group_instance_id(identity.group_instance_id.clone())
                    .with_error_code(found.err().map_or(0, |refusal| refusal.code.code())),
            );
        }
        let downgraded = self.remove_or_downgrade(&leaving);
        (LeaveGroupResponse::default().with_members(answers), downgraded)
    }
}

impl ConsumerGroup {
    fn supports_classic<'a>(&self, mut protocols: impl Iterator<Item = &'a str>) -> bool {
        let known = |name| self.classic_protocols.get(name).copied().unwrap_or(0);
        protocols.any(|name| known(name) == self.classic_members)
    }

    /// A member that speaks the classic protocol.
    fn classic_member(&self, id: &str, instance: Option<&str>) -> Result<&Member, ErrorCode> {
        let member = match instance {
            None => self.known(id),
            Some(instance) => self.current_static(id, instance),
        };
        let member = member.map_err(|refusal| refusal.code)?;
        if member.is_classic() { Ok(member) } else { Err(ErrorCode::UnknownMemberId) }
    }

    fn leaving(&self, identity: &MemberIdentity) -> Result<&Member, Refusal> {
        let id = identity.member_id.as_str();
        match identity.group_instance_id.as_deref() {
            None => self.known(id),
            // An administrator knows the instance id only.
            Some(instance) if id.is_empty() => {
                self.static_member(instance).ok_or_else(|| ErrorCode::UnknownMemberId.into())
            }
            Some(instance) => self.current_static(id, instance),
        }
    }

    /// Whether something that a member shall own is still held by another.
    fn waits_for_others(&self, member: &Member) -> bool {
        let Some(target) = self.target.of(&member.id) else { return false };
        target.iter().any(|(topic, its)| {
            let own = member.assigned.get(topic);
            its.iter().any(|partition| {
                own.is_none_or(|own| !own.contains_key(partition))
                    && self.holder_epoch(*topic, *partition) != -1
            })
        })
    }
}

fn described(before: &Member, call: &JoinCall, said: &Subscription) -> Member {
    let request = &call.request;
    let protocols = request.protocols.iter().map(|protocol| ClassicProtocol {
        name: protocol.name.to_string(),
        // A copy, because the request's frame would live as long as the member.
        metadata: bytes::Bytes::copy_from_slice(&protocol.metadata),
    });
    let instance = request.group_instance_id.as_ref().map(ToString::to_string);
    Member {
        instance_id: instance.or_else(|| before.instance_id.clone()),
        rack_id: said.rack_id.clone().or_else(|| before.rack_id.clone()),
        rebalance_timeout_ms: call.rebalance_timeout_ms(),
        topics: said.topics.clone(),
        pattern: Some(String::new()),
        client_id: call.client_id.clone(),
        client_host: call.client_host.clone(),
        classic: Some(ClassicMember {
            session_timeout_ms: request.session_timeout_ms,
            supported_protocols: protocols.collect(),
        }),
        ..before.clone()
    }
}

fn joined(member: &Member) -> JoinGroupResponse {
    let protocols = member.classic.iter().flat_map(|classic| &classic.supported_protocols);
    let protocol = protocols.into_iter().next().map(|it| it.name.clone());
    JoinGroupResponse::default()
        .with_member_id(StrBytes::from_string(member.id.to_string()))
        .with_generation_id(member.epoch)
        .with_protocol_type(Some(StrBytes::from_static_str(CONSUMER)))
        .with_protocol_name(protocol.map(StrBytes::from_string))
}
