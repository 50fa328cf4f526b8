//! ConsumerGroupHeartbeat: members come, say what they own, are told what they shall own, and go.

use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions as Said;
use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::member::{LEAVE, LEAVE_STATIC, Member, Owned, partitions};
use super::pattern::PatternChange;
use super::turn::{Subscribed, TargetNow};
use super::{ConsumerGroup, Turn};
use crate::coordinator::group::classic::ClassicGroup;
use crate::coordinator::group::modern::Partitions;
use crate::coordinator::group::records::{
    ConsumerRecord, EpochValue, TargetMemberValue, TargetTopic,
};
use crate::error::{ErrorCode, Refusal};

/// A heartbeat with what the protocol says elsewhere.
#[derive(Debug, Clone)]
pub struct HeartbeatCall {
    pub client_id: String,
    /// As Java prints an address: `/127.0.0.1`.
    pub client_host: String,
    /// The member id, should one be given (version 0 only).
    pub new_id: Uuid,
    pub request: ConsumerGroupHeartbeatRequest,
}

/// Refuses what no group could accept. From version 1 on members bring their ids (KIP-1082).
pub fn check_request(
    request: &ConsumerGroupHeartbeatRequest,
    version: i16,
    assignors: &[String],
) -> Result<(), Refusal> {
    let epoch = request.member_epoch;
    let invalid = |message: &str| Err(Refusal::new(ErrorCode::InvalidRequest, message));
    let blank = |text: Option<&str>| text.is_some_and(|text| text.trim().is_empty());
    if (version >= 1 || epoch > 0 || epoch == LEAVE) && blank(Some(&request.member_id)) {
        return invalid("MemberId can't be empty.");
    }
    if blank(Some(&request.group_id)) {
        return invalid("GroupId can't be empty.");
    }
    if blank(request.instance_id.as_deref()) {
        return invalid("InstanceId can't be empty.");
    }
    if blank(request.rack_id.as_deref()) {
        return invalid("RackId can't be empty.");
    }
    if epoch == 0 {
        if request.rebalance_timeout_ms == -1 {
            return invalid("RebalanceTimeoutMs must be provided in first request.");
        }
        if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) {
            return invalid("TopicPartitions must be empty when (re-)joining.");
        }
        if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
            return invalid(
                "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when \
                 (re-)joining.",
            );
        }
    } else if epoch == LEAVE_STATIC && request.instance_id.is_none() {
        return invalid("InstanceId can't be null.");
    } else if epoch < LEAVE_STATIC {
        return invalid("MemberEpoch is invalid.");
    }
    match request.server_assignor.as_deref() {
        Some(name) if !assignors.iter().any(|known| known == name) => {
            let message = format!(
                "ServerAssignor {name} is not supported. Supported assignors: {}.",
                assignors.join(", ")
            );
            Err(Refusal::new(ErrorCode::UnsupportedAssignor, message))
        }
        _ => Ok(()),
    }
}

impl Turn<'_> {
    /// A member joins, or shows that it is alive.
    pub fn heartbeat(
        &mut self,
        call: &HeartbeatCall,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let request = &call.request;
        let epoch = request.member_epoch;
        let id = match request.member_id.as_str() {
            "" => super::protocol::java_id(call.new_id),
            id => id.to_owned(),
        };
        self.refuse_if_full(&id)?;
        let owned = request.topic_partitions.as_deref().map(said);
        let before = match request.instance_id.as_deref() {
            None => self.dynamic_member(&id, epoch, owned.as_ref())?,
            Some(instance) => self.static_member(&id, instance, epoch, owned.as_ref())?,
        };
        let after = described(&before, call);
        let names_changed = self.describe(&before, &after);
        let pattern = self.update_pattern(&before, &after)?;
        let changed = names_changed || pattern != PatternChange::None;
        let raise = names_changed || pattern == PatternChange::ChangedAndResolved;
        let subscribed = self.subscriptions(raise, &before, &after);
        let target = self.update_target(&subscribed, &before, &after);
        let after = self.reconcile(after, &target, changed, owned.as_ref())?;
        self.set_session(&id, self.settings.session_timeout_ms(self.image, &self.group.id));

        let interval = self.settings.heartbeat_interval_ms(self.image, &self.group.id);
        let response = ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(StrBytes::from_string(id)))
            .with_member_epoch(after.epoch)
            .with_heartbeat_interval_ms(interval);
        // Told when it may not know: it joins, or says all of itself because an answer was lost.
        let is_full = request.rebalance_timeout_ms != -1
            && (request.subscribed_topic_names.is_some()
                || request.subscribed_topic_regex.is_some())
            && request.topic_partitions.is_some();
        if epoch == 0 || is_full || before.assigned != after.assigned {
            return Ok(response.with_assignment(Some(assignment(&after.assigned))));
        }
        Ok(response)
    }

    pub(super) fn refuse_if_full(&self, id: &str) -> Result<(), Refusal> {
        let max = self.settings.consumer.max_size;
        if self.group.len() >= max && self.group.member(id).is_none() {
            let message =
                format!("The consumer group has reached its maximum capacity of {max} members.");
            return Err(Refusal::new(ErrorCode::GroupMaxSizeReached, message));
        }
        Ok(())
    }

    fn dynamic_member(
        &self,
        id: &str,
        epoch: i32,
        owned: Option<&Partitions>,
    ) -> Result<Member, Refusal> {
        if epoch == 0 {
            return Ok(self.group.member(id).cloned().unwrap_or_else(|| Member::new(id)));
        }
        let member = self.group.known(id)?;
        check_epoch(member, epoch, owned)?;
        Ok(member.clone())
    }

    /// A static member may take the place of one that has left with -2.
    fn static_member(
        &mut self,
        id: &str,
        instance: &str,
        epoch: i32,
        owned: Option<&Partitions>,
    ) -> Result<Member, Refusal> {
        let existing = self.group.static_member(instance);
        if epoch == 0 {
            let Some(existing) = existing else {
                return Ok(self.group.member(id).cloned().unwrap_or_else(|| Member::new(id)));
            };
            if !existing.is_classic() && !existing.is_away() {
                let message = format!(
                    "Static member {id} with instance id {instance} cannot join the group because \
                     the instance id is owned by {} member.",
                    existing.id
                );
                return Err(Refusal::new(ErrorCode::UnreleasedInstanceId, message));
            }
            return Ok(self.replace(existing, id));
        }
        let existing = self.group.current_static(id, instance)?;
        check_epoch(existing, epoch, owned)?;
        Ok(existing.clone())
    }

    /// A member takes over all of another, under a new id and from epoch 0 on.
    pub(super) fn replace(&mut self, old: &Member, id: &str) -> Member {
        let mut new = Member { id: id.into(), ..old.clone() };
        (new.epoch, new.previous_epoch) = (0, 0);
        self.push_removal(&old.id);
        let group = self.group.id.clone();
        self.push(new.record(&group));
        let target = self.group.target.of(&old.id).cloned().unwrap_or_default();
        let topics = target.iter().map(|(topic, its)| TargetTopic {
            topic_id: *topic,
            partitions: its.iter().copied().collect(),
        });
        let value = TargetMemberValue { topic_partitions: topics.collect() };
        self.push(ConsumerRecord::TargetMember(self.group.member_key(id), Some(value)));
        self.push(new.current_record(&group));
        new
    }

    fn push_removal(&mut self, member: &str) {
        let key = self.group.member_key(member);
        self.push(ConsumerRecord::Current(key.clone(), None));
        self.push(ConsumerRecord::TargetMember(key.clone(), None));
        self.push(ConsumerRecord::Member(key, None));
    }

    /// Writes down what a member says of itself; whether it names other topics than before.
    pub(super) fn describe(&mut self, before: &Member, after: &Member) -> bool {
        if before == after {
            return false;
        }
        self.push(after.record(&self.group.id));
        before.topics != after.topics
    }

    /// The group with the changed member; looked at only when something may be new.
    pub(super) fn subscriptions(
        &mut self,
        raise: bool,
        before: &Member,
        after: &Member,
    ) -> Subscribed {
        let group = self.group;
        if raise || group.refresh.is_due(self.now, group.epoch) {
            return self.update_subscriptions(raise, before, after);
        }
        Subscribed { epoch: group.epoch, homogeneous: group.is_homogeneous_now() }
    }

    /// A member says good-bye. The group may be a classic one without it.
    pub fn leave(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> Result<(ConsumerGroupHeartbeatResponse, Option<Box<ClassicGroup>>), Refusal> {
        let id = request.member_id.as_str();
        let response = ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(request.member_id.clone()))
            .with_member_epoch(request.member_epoch);
        let member = match request.instance_id.as_deref() {
            None => self.group.known(id)?,
            Some(instance) => self.group.current_static(id, instance)?,
        };
        tracing::info!(group = %self.group.id, member = id, "a member leaves");
        if request.instance_id.is_some() && request.member_epoch == LEAVE_STATIC {
            // Its partitions wait for it; whoever takes its place has them from epoch 0 on.
            let mut away = member.clone();
            away.epoch = LEAVE_STATIC;
            away.revoking.clear();
            for epoch in away.assigned.values_mut().flat_map(|it| it.values_mut()) {
                *epoch = 0;
            }
            self.push(away.current_record(&self.group.id));
            return Ok((response, None));
        }
        let downgraded = self.remove_or_downgrade(&[member]);
        Ok((response, downgraded))
    }

    /// Members go, and the group epoch rises.
    pub fn remove(&mut self, members: &[&Member]) {
        if members.is_empty() {
            return;
        }
        for member in members {
            self.push_removal(&member.id);
        }
        let deleted = self.delete_patterns_of(members);
        let mut topics = self.group.topics.clone();
        for member in members {
            topics.remove_names(&member.topics);
        }
        for resolved in deleted.iter().filter_map(|pattern| self.group.resolved(pattern)) {
            topics.remove_pattern(&resolved.topics);
        }
        let metadata_hash = self.hash(&topics);
        self.push_epoch(EpochValue { epoch: self.group.epoch + 1, metadata_hash });
        for member in members {
            self.cancel_timers_of(&member.id);
        }
    }

    /// The target that counts for a member when no new one is computed.
    pub(super) fn target_now(&self, member: &Member) -> TargetNow {
        TargetNow { epoch: self.group.target.epoch, of_member: self.group.target_of(member) }
    }
}

impl ConsumerGroup {
    /// The static member, if `id` is still its id.
    pub(super) fn current_static(&self, id: &str, instance: &str) -> Result<&Member, Refusal> {
        let Some(existing) = self.static_member(instance) else {
            let message = format!("Instance id {instance} is unknown.");
            return Err(Refusal::new(ErrorCode::UnknownMemberId, message));
        };
        if &*existing.id != id {
            let message = format!(
                "Static member {id} with instance id {instance} was fenced by member {}.",
                existing.id
            );
            return Err(Refusal::new(ErrorCode::FencedInstanceId, message));
        }
        Ok(existing)
    }
}

/// Refuses a member that is in another epoch than it should be. The one before counts when the
/// answer that told the newer one may have been lost: the member then has nothing that it may not.
fn check_epoch(member: &Member, epoch: i32, owned: Option<&Partitions>) -> Result<(), Refusal> {
    let fenced = |than: &str| {
        let message = format!(
            "The consumer group member has a {than} member epoch ({epoch}) than the one known by \
             the group coordinator ({}). The member must abandon all its partitions and rejoin.",
            member.epoch
        );
        Err(Refusal::new(ErrorCode::FencedMemberEpoch, message))
    };
    if epoch > member.epoch {
        return fenced("greater");
    }
    let has_no_more = || owned.is_some_and(|owned| is_within(owned, &member.assigned));
    if epoch < member.epoch && (epoch != member.previous_epoch || !has_no_more()) {
        return fenced("smaller");
    }
    Ok(())
}

fn is_within(owned: &Partitions, assigned: &Owned) -> bool {
    owned.iter().all(|(topic, its)| {
        let assigned = assigned.get(topic);
        assigned.is_some_and(|assigned| its.iter().all(|it| assigned.contains_key(it)))
    })
}

/// The member as its heartbeat describes it; what it leaves out stays as it was.
fn described(before: &Member, call: &HeartbeatCall) -> Member {
    let request = &call.request;
    let text = |text: &Option<StrBytes>, before: &Option<String>| {
        text.as_ref().map(ToString::to_string).or_else(|| before.clone())
    };
    let names = |names: &Vec<TopicName>| names.iter().map(|name| name.to_string()).collect();
    Member {
        instance_id: text(&request.instance_id, &before.instance_id),
        rack_id: text(&request.rack_id, &before.rack_id),
        rebalance_timeout_ms: match request.rebalance_timeout_ms {
            -1 => before.rebalance_timeout_ms,
            timeout => timeout,
        },
        assignor: text(&request.server_assignor, &before.assignor),
        topics: match &request.subscribed_topic_names {
            Some(said) => names(said),
            None => before.topics.clone(),
        },
        pattern: text(&request.subscribed_topic_regex, &before.pattern),
        client_id: call.client_id.clone(),
        client_host: call.client_host.clone(),
        classic: None,
        ..before.clone()
    }
}

fn said(owned: &[Said]) -> Partitions {
    let mut partitions = Partitions::new();
    for topic in owned {
        partitions.entry(topic.topic_id).or_default().extend(&topic.partitions);
    }
    partitions.retain(|_, its| !its.is_empty());
    partitions
}

fn assignment(assigned: &Owned) -> Assignment {
    let topics = partitions(assigned).into_iter().map(|(topic, its)| {
        TopicPartitions::default().with_topic_id(topic).with_partitions(its.into_iter().collect())
    });
    Assignment::default().with_topic_partitions(topics.collect())
}
