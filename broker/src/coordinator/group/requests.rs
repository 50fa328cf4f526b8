//! What a request, or a timer, means for each kind of group.
//!
//! Classic groups change themselves, and records follow; consumer groups change by their records
//! ([`Turn`]). A group may become one of the other kind on the way: empty ones always, others as
//! `group.consumer.migration.policy` allows.

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId, HeartbeatRequest,
    HeartbeatResponse, LeaveGroupRequest, OffsetCommitRequest, OffsetDeleteRequest,
    SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::classic::{ClassicGroup, JoinCall, Step, refuse_join, refuse_sync};
use super::consumer::{ConsumerGroup, HeartbeatCall, Joined, LEAVE, LEAVE_STATIC, Turn};
use super::effects::{Answer, Effects, Token};
use super::kind::Group;
use super::offsets::{self, Place, View};
use super::records::Record;
use super::shard::{Context, Shard, step};
use super::timers::Timer;
use crate::error::{ErrorCode, Refusal};

impl Shard {
    /// A timer of a group ran out. One that was meant for an earlier state does nothing.
    pub fn expire(&mut self, id: &str, timer: Timer, context: &Context<'_>) -> Effects {
        let mut effects = Effects::default();
        match self.groups.get_mut(id) {
            Some(Group::Classic(group)) => group.expire(timer, &mut step(context, &mut effects)),
            Some(Group::Consumer(_)) => self.expire_consumer(id, timer, context, &mut effects),
            Some(Group::Share(_)) => self.expire_share(id, &timer, context, &mut effects),
            Some(Group::Streams(_)) => self.expire_streams(id, &timer, context, &mut effects),
            None => {}
        }
        self.number(&mut effects);
        effects
    }

    fn expire_consumer(
        &mut self,
        id: &str,
        timer: Timer,
        context: &Context<'_>,
        effects: &mut Effects,
    ) {
        let Some(group) = self.groups.get(id).and_then(Group::as_consumer) else { return };
        let mut turn = self.turn(group, context);
        let gone = match timer {
            Timer::Patterns => {
                turn.refresh = Some(turn.resolve_patterns());
                None
            }
            Timer::Session { member } | Timer::Rejoin { member } | Timer::Resync { member } => {
                group.member(&member)
            }
            Timer::Rebalance { member, epoch } => {
                group.member(&member).filter(|member| member.epoch == epoch)
            }
            Timer::InitialJoin { .. } | Timer::Join | Timer::Sync { .. } | Timer::Delay => None,
        };
        let mut downgraded = None;
        if let Some(member) = gone {
            tracing::info!(group = id, member = %member.id, "a member was silent for too long");
            downgraded = turn.remove_or_downgrade(&[member]);
        }
        let done = Done::of(turn);
        self.apply(id, done, effects);
        if let Some(classic) = downgraded {
            self.downgrade(id, classic, true, &mut step(context, effects));
        }
    }

    fn turn<'a>(&self, group: &'a ConsumerGroup, context: &Context<'a>) -> Turn<'a> {
        Turn::new(group, context.settings, context.image, self.topics_created_at, context.now)
    }

    /// Takes over what was decided about a consumer group.
    fn apply(&mut self, id: &str, done: Done, effects: &mut Effects) {
        let timers = done.timers.into_iter().map(|change| (id.to_owned(), change));
        effects.timers.extend(timers);
        effects.records.extend(done.records);
        effects.replay = true;
        self.refreshed = done.refresh.map(|refresh| (id.to_owned(), refresh));
    }

    /// The group is a classic one from the next write on, whose records say so already.
    fn downgrade(
        &mut self,
        id: &str,
        mut classic: Box<ClassicGroup>,
        rebalance: bool,
        step: &mut Step<'_>,
    ) {
        step.effects.replay = false;
        classic.loaded(step);
        if rebalance {
            classic.rebalance(step);
        }
        self.groups.put(self.written() + 1, id, Some(Group::Classic(classic)));
    }

    pub(super) fn join(&mut self, call: JoinCall, context: &Context<'_>, step: &mut Step<'_>) {
        let id = call.request.group_id.to_string();
        let member = call.request.member_id.clone();
        let token = call.token;
        let mut tombstones = Vec::new();
        match self.groups.get(&id) {
            Some(Group::Consumer(group)) if !group.is_empty() => {
                let mut turn = self.turn(group, context);
                let joined = turn.classic_join(&call);
                let done = Done::of(turn);
                return self.joined(&id, &call, joined, done, step);
            }
            // The name is taken by a group that this protocol cannot enter.
            Some(group @ (Group::Share(_) | Group::Streams(_)))
                if group.as_share().is_some() || group.validate_delete().is_err() =>
            {
                let refusal = refuse_join(&member, ErrorCode::InconsistentGroupProtocol);
                return step.effects.answer(call.token, Answer::Join(refusal));
            }
            // A member of a group that is not: it must begin anew.
            Some(Group::Consumer(_) | Group::Streams(_)) | None if !member.is_empty() => {
                let refusal = refuse_join(&member, ErrorCode::UnknownMemberId);
                return step.effects.answer(call.token, Answer::Join(refusal));
            }
            Some(Group::Consumer(group)) => {
                tracing::info!(group = id, "an empty consumer group becomes a classic one");
                tombstones = group.tombstones(None).into_iter().map(Record::Consumer).collect();
            }
            Some(group @ Group::Streams(_)) => {
                tracing::info!(group = id, "an empty streams group becomes a classic one");
                tombstones = group.tombstones(&id);
                group.cancel_timers(step.effects);
            }
            Some(Group::Classic(_) | Group::Share(_)) | None => {}
        }
        let is_new = self.groups.get(&id).is_none_or(|group| group.as_classic().is_none());
        if is_new {
            let fresh = Group::classic(ClassicGroup::new(&id, step.now));
            self.groups.put(self.written() + 1, &id, Some(fresh));
        }
        if let Some(Group::Classic(group)) = self.groups.get_mut(&id) {
            group.join(call, is_new, step);
        }
        if !tombstones.is_empty() {
            // Whoever is told to come back finds a classic group.
            step.effects.wait_for_commit(token);
            step.effects.records.splice(0..0, tombstones);
        }
    }

    /// A classic member has joined a consumer group, or was refused.
    fn joined(
        &mut self,
        id: &str,
        call: &JoinCall,
        joined: Result<Joined, Refusal>,
        done: Done,
        step: &mut Step<'_>,
    ) {
        match joined {
            Err(refusal) => {
                let refusal = refuse_join(&call.request.member_id, refusal.code);
                step.effects.answer(call.token, Answer::Join(refusal));
            }
            Ok(Joined { answer, at_once: true, .. }) => {
                step.effects.answer(call.token, Answer::Join(answer));
            }
            Ok(Joined { answer, downgraded, .. }) => {
                self.apply(id, done, step.effects);
                step.effects.after_commit = Some((call.token, Answer::Join(answer)));
                if let Some((classic, rebalance)) = downgraded {
                    self.downgrade(id, classic, rebalance, step);
                }
            }
        }
    }

    /// An answer that waits for what is written so far; a classic group answers by itself.
    pub(super) fn sync(
        &mut self,
        token: Token,
        request: &SyncGroupRequest,
        context: &Context<'_>,
        step: &mut Step<'_>,
    ) -> Option<SyncGroupResponse> {
        let id = request.group_id.as_str();
        let result = match self.groups.get_mut(id) {
            Some(Group::Classic(group)) => {
                group.sync(token, request, step);
                return None;
            }
            Some(Group::Consumer(_)) => self.consumer_sync(request, context, step),
            Some(Group::Share(_) | Group::Streams(_)) | None => Err(ErrorCode::UnknownMemberId),
        };
        match result {
            Ok(answer) => Some(answer),
            Err(code) => {
                step.effects.answer(token, Answer::Sync(refuse_sync(code)));
                None
            }
        }
    }

    fn consumer_sync(
        &mut self,
        request: &SyncGroupRequest,
        context: &Context<'_>,
        step: &mut Step<'_>,
    ) -> Result<SyncGroupResponse, ErrorCode> {
        let id = request.group_id.as_str();
        let group = self.groups.get(id).and_then(Group::as_consumer);
        let group = group.ok_or(ErrorCode::UnknownMemberId)?;
        let mut turn = self.turn(group, context);
        let answer = turn.classic_sync(request);
        let done = Done::of(turn);
        self.apply(id, done, step.effects);
        answer
    }

    pub(super) fn heartbeat(
        &mut self,
        request: &HeartbeatRequest,
        context: &Context<'_>,
        step: &mut Step<'_>,
    ) -> Result<Answer, ErrorCode> {
        let id = request.group_id.as_str();
        match self.groups.get_mut(id).ok_or(ErrorCode::UnknownMemberId)? {
            Group::Classic(group) => {
                let instance = request.group_instance_id.as_deref();
                group.heartbeat(&request.member_id, instance, request.generation_id, step)?;
            }
            Group::Consumer(_) => {
                let group = self.groups.get(id).and_then(Group::as_consumer);
                let mut turn = self.turn(group.ok_or(ErrorCode::UnknownMemberId)?, context);
                let result = turn.classic_heartbeat(request);
                let done = Done::of(turn);
                self.apply(id, done, step.effects);
                result?;
            }
            Group::Share(_) | Group::Streams(_) => return Err(ErrorCode::UnknownMemberId),
        }
        Ok(Answer::Heartbeat(HeartbeatResponse::default()))
    }

    pub(super) fn leave(
        &mut self,
        request: &LeaveGroupRequest,
        context: &Context<'_>,
        step: &mut Step<'_>,
    ) -> Result<Answer, ErrorCode> {
        let id = request.group_id.as_str();
        match self.groups.get_mut(id).ok_or(ErrorCode::UnknownMemberId)? {
            Group::Classic(group) => Ok(Answer::Leave(group.leave(request, step))),
            Group::Consumer(_) => {
                let group = self.groups.get(id).and_then(Group::as_consumer);
                let mut turn = self.turn(group.ok_or(ErrorCode::UnknownMemberId)?, context);
                let (answer, downgraded) = turn.classic_leave(request);
                let done = Done::of(turn);
                self.apply(id, done, step.effects);
                if let Some(classic) = downgraded {
                    self.downgrade(id, classic, true, step);
                }
                Ok(Answer::Leave(answer))
            }
            Group::Share(_) | Group::Streams(_) => Err(ErrorCode::UnknownMemberId),
        }
    }

    /// An answer that waits for what is written so far; refusals do not.
    pub(super) fn consumer_heartbeat(
        &mut self,
        token: Token,
        call: &HeartbeatCall,
        context: &Context<'_>,
        step: &mut Step<'_>,
    ) -> Option<Answer> {
        let result = match call.request.member_epoch {
            LEAVE | LEAVE_STATIC => self.consumer_leave(&call.request, context, step),
            _ => self.consumer_alive(call, context, step),
        };
        match result {
            Ok(answer) => Some(Answer::ConsumerHeartbeat(answer)),
            Err(Refusal { code, message, .. }) => {
                let answer = ConsumerGroupHeartbeatResponse::default()
                    .with_error_code(code.code())
                    .with_error_message(Some(StrBytes::from_string(message)));
                step.effects.answer(token, Answer::ConsumerHeartbeat(answer));
                None
            }
        }
    }

    fn consumer_leave(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest,
        context: &Context<'_>,
        step: &mut Step<'_>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let id = request.group_id.as_str();
        let group = match self.groups.get(id) {
            Some(Group::Consumer(group)) => group,
            Some(_) => return Err(no_group(format!("Group {id} is not a consumer group."))),
            None => return Err(no_group(format!("Group {id} not found."))),
        };
        let mut turn = self.turn(group, context);
        let (answer, downgraded) = turn.leave(request)?;
        let done = Done::of(turn);
        self.apply(id, done, step.effects);
        if let Some(classic) = downgraded {
            self.downgrade(id, classic, true, step);
        }
        Ok(answer)
    }

    /// A member joins, or shows that it is alive; a classic group becomes a consumer group by the
    /// first that joins.
    fn consumer_alive(
        &mut self,
        call: &HeartbeatCall,
        context: &Context<'_>,
        step: &mut Step<'_>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let id = call.request.group_id.as_str();
        let joins = call.request.member_epoch == 0;
        let fresh;
        let mut before = Vec::new();
        let mut upgraded = false;
        let group: &ConsumerGroup = match self.groups.get(id) {
            Some(Group::Consumer(group)) => group,
            Some(group @ (Group::Share(_) | Group::Streams(_))) => {
                let message = format!("Group {id} is not a consumer group.");
                tracing::debug!(kind = group.kind(), message);
                return Err(no_group(message));
            }
            Some(group) if !joins => {
                let message = format!("Group {id} is not a consumer group.");
                tracing::debug!(kind = group.kind(), message);
                return Err(no_group(message));
            }
            None if !joins => return Err(no_group(format!("Consumer group {id} not found."))),
            None => {
                fresh = ConsumerGroup::new(id);
                &fresh
            }
            Some(Group::Classic(classic)) => {
                before.push(Record::group(id, None));
                if classic.validate_delete().is_ok() {
                    fresh = ConsumerGroup::new(id);
                } else {
                    fresh = ConsumerGroup::from_classic(classic, context.settings, context.image)?;
                    before.extend(fresh.records().into_iter().map(Record::Consumer));
                    upgraded = true;
                }
                &fresh
            }
        };
        let mut turn = self.turn(group, context);
        if upgraded {
            turn.begin_sessions();
        }
        let answer = turn.heartbeat(call)?;
        let done = Done::of(turn);
        if let Some(Group::Classic(classic)) = self.groups.get_mut(id) {
            tracing::info!(group = id, "a classic group becomes a consumer group");
            classic.cancel_timers(step.effects);
            classic.hand_over(step);
        }
        step.effects.records = before;
        self.apply(id, done, step.effects);
        Ok(answer)
    }

    pub(super) fn commit(
        &mut self,
        request: &OffsetCommitRequest,
        version: i16,
        step: &mut Step<'_>,
    ) -> Result<Answer, ErrorCode> {
        let epoch = request.generation_id_or_member_epoch;
        let instance = request.group_instance_id.as_deref();
        let mut member = None;
        match self.groups.get(request.group_id.as_str()) {
            Some(Group::Classic(group)) => {
                group.validate_commit(&request.member_id, instance, epoch)?;
                group.committed(&request.member_id, step);
            }
            Some(Group::Consumer(group)) => {
                member = group.validate_commit(&request.member_id, epoch, Some(version))?;
            }
            Some(Group::Streams(group)) => {
                let member =
                    group.validate_commit(&request.member_id, instance, epoch, Some(version))?;
                for topic in member.is_some().then_some(&request.topics).into_iter().flatten() {
                    for partition in &topic.partitions {
                        let it = partition.partition_index;
                        member
                            .map_or(Ok(()), |its| group.may_commit(its, &topic.name, it, epoch))?;
                    }
                }
            }
            // Anyone may commit who does without a group.
            None if epoch < 0 => {}
            Some(Group::Share(_)) | None => return Err(ErrorCode::GroupIdNotFound),
        }
        if let Some(member) = member {
            for topic in &request.topics {
                for partition in &topic.partitions {
                    member.may_commit(topic.topic_id, partition.partition_index, epoch)?;
                }
            }
        }
        let max = step.settings.offset_metadata_max;
        let (answer, records) = offsets::commit(request, max, step.now);
        step.effects.records = records;
        step.effects.replay = true;
        Ok(Answer::OffsetCommit(answer))
    }

    pub(super) fn fetch(
        &self,
        request: &OffsetFetchRequestGroup,
        view: View,
    ) -> Result<Answer, ErrorCode> {
        let exists = self.validate_fetch(request, view)?;
        Ok(Answer::OffsetFetch(offsets::fetch(&self.offsets, request, exists, view)))
    }

    pub(super) fn delete_offsets(
        &mut self,
        request: &OffsetDeleteRequest,
        step: &mut Step<'_>,
    ) -> Result<Answer, ErrorCode> {
        let id = request.group_id.as_str();
        let group = self.groups.get(id).ok_or(ErrorCode::GroupIdNotFound)?;
        group.validate_offset_delete()?;
        let (answer, records) =
            offsets::delete(&self.offsets, request, |topic| group.is_subscribed_to(topic));
        step.effects.records = records;
        step.effects.replay = true;
        Ok(Answer::OffsetDelete(answer))
    }

    pub(super) fn delete(&mut self, groups: &[GroupId], step: &mut Step<'_>) -> Answer {
        step.effects.replay = true;
        let results = groups.iter().map(|id| {
            let group = self.groups.get(id.as_str()).ok_or(ErrorCode::GroupIdNotFound);
            let result = group.and_then(|group| group.validate_delete().map(|()| group));
            if let Ok(group) = result {
                for (topic, partition, _) in self.offsets.of_group(id, View::Newest) {
                    step.effects.records.push(Record::offset(id, topic, partition, None));
                }
                for Place { topic, partition, .. } in self.offsets.unstable_of_group(id) {
                    if self.offsets.get(id, topic, *partition, View::Newest).is_none() {
                        step.effects.records.push(Record::offset(id, topic, *partition, None));
                    }
                }
                step.effects.records.extend(group.tombstones(id));
                group.cancel_timers(step.effects);
            }
            DeletableGroupResult::default()
                .with_group_id(id.clone())
                .with_error_code(result.err().map_or(0, |code| code.code()))
        });
        Answer::Delete(results.collect())
    }
}

/// What was decided about a consumer group, without the group.
struct Done {
    records: Vec<Record>,
    timers: Vec<super::effects::TimerChange>,
    refresh: Option<super::modern::Refresh>,
}

impl Done {
    fn of(turn: Turn<'_>) -> Self {
        let Turn { records, timers, refresh, .. } = turn;
        Self { records, timers, refresh }
    }
}

fn no_group(message: String) -> Refusal {
    Refusal::new(ErrorCode::GroupIdNotFound, message)
}
