//! ShareGroupHeartbeat, decided: a member joins, shows that it is alive, or leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::messages::share_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::{ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse};
use kafka_protocol::protocol::StrBytes;

use super::assignor::{Candidate, assign};
use super::{Named, ShareGroup, ShareMember, StatePartitions};
use crate::controller::Image;
use crate::coordinator::group::modern::{Partitions, Refresh, Topics, may_assign, metadata_hash};
use crate::coordinator::group::records::{
    ShareEpochValue, ShareRecord, TargetMemberValue, TargetTopic, TargetValue,
};
use crate::coordinator::group::settings::GroupSettings;
use crate::error::{ErrorCode, Refusal};
use crate::types::Millis;

/// The member epoch of a member that leaves.
pub const LEAVE: i32 = -1;

/// A heartbeat, and who sent it.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    pub request: ShareGroupHeartbeatRequest,
    pub client_id: String,
    pub client_host: String,
}

/// States that the share coordinator is to be asked for, once the group has noted them.
#[derive(Debug, Clone, PartialEq)]
pub struct Initialize {
    pub state_epoch: i32,
    pub topics: Named,
}

/// Refuses what no member may send.
pub fn check_request(request: &ShareGroupHeartbeatRequest) -> Result<(), Refusal> {
    let invalid = |message: &str| Err(Refusal::new(ErrorCode::InvalidRequest, message));
    if request.member_id.is_empty() {
        return invalid("MemberId can't be empty.");
    }
    if request.group_id.is_empty() {
        return invalid("GroupId can't be empty.");
    }
    if request.rack_id.as_deref() == Some("") {
        return invalid("RackId can't be empty.");
    }
    if request.member_epoch < LEAVE {
        return invalid("MemberEpoch is invalid.");
    }
    if request.member_epoch == 0
        && request.subscribed_topic_names.as_ref().is_none_or(Vec::is_empty)
    {
        return invalid("SubscribedTopicNames must be set in first request.");
    }
    Ok(())
}

/// Looks at `group` as it is and collects what shall change.
pub struct Turn<'a> {
    pub group: &'a ShareGroup,
    pub settings: &'a GroupSettings,
    pub image: &'a Image,
    pub now: Millis,
    pub records: Vec<ShareRecord>,
    pub refresh: Option<Refresh>,
}

impl<'a> Turn<'a> {
    pub fn new(
        group: &'a ShareGroup,
        settings: &'a GroupSettings,
        image: &'a Image,
        now: Millis,
    ) -> Self {
        Self { group, settings, image, now, records: Vec::new(), refresh: None }
    }

    pub fn heartbeat(
        &mut self,
        call: &Heartbeat,
    ) -> Result<(ShareGroupHeartbeatResponse, Option<Initialize>), Refusal> {
        let (group, request) = (self.group, &call.request);
        let id = request.member_id.as_str();
        let known = group.member(id);
        if known.is_none() && group.len() >= self.settings.share.max_size {
            let message = format!(
                "The share group has reached its maximum capacity of {} members.",
                self.settings.share.max_size
            );
            return Err(Refusal::new(ErrorCode::GroupMaxSizeReached, message));
        }
        let fresh = ShareMember { id: id.into(), ..ShareMember::default() };
        let before = match known {
            Some(member) => member,
            None if request.member_epoch == 0 => &fresh,
            None => return Err(unknown(group, id)),
        };
        check_epoch(before, request.member_epoch)?;
        let mut member = described(before, call);
        let mut raise = false;
        if known.is_none() || member != *before {
            self.records.push(ShareRecord::Member(group.member_key(id), Some(member.to_value())));
            raise = member.topics != before.topics;
        }
        let mut epoch = group.epoch;
        raise |= group.target.epoch >= epoch && self.has_new_states();
        let mut topics = group.topics.clone();
        topics.remove_names(&before.topics);
        topics.add_names(&member.topics);
        if raise || group.refresh.is_due(self.now, group.epoch) {
            epoch = self.refresh(raise, &topics);
        }
        let (target_epoch, target) = self.target(epoch, &member);
        if target_epoch != member.epoch || raise {
            let assigned = self.within_subscription(&target, &member.topics);
            let mut moved = ShareMember { assigned, ..member.clone() };
            if target_epoch != member.epoch {
                (moved.previous_epoch, moved.epoch) = (member.epoch, target_epoch);
            }
            if moved != member || known.is_none() {
                let current = ShareRecord::Current(group.member_key(id), Some(moved.to_current()));
                self.records.push(current);
            }
            member = moved;
        }
        let initialize = self.initialize(epoch, &topics);
        let mut response = ShareGroupHeartbeatResponse::default()
            .with_member_id(Some(request.member_id.clone()))
            .with_member_epoch(member.epoch)
            .with_heartbeat_interval_ms(self.settings.share_heartbeat_ms(self.image, &group.id));
        let is_full = request.subscribed_topic_names.is_some();
        if request.member_epoch == 0 || is_full || member.assigned != before.assigned {
            response = response.with_assignment(Some(assignment(&member.assigned)));
        }
        Ok((response, initialize))
    }

    /// Looks at the topics again; the group epoch that counts now.
    fn refresh(&mut self, raise: bool, topics: &Topics) -> i32 {
        let hash = metadata_hash(topics.names(), self.image);
        let raise = raise || hash != self.group.metadata_hash;
        let epoch = self.group.epoch + i32::from(raise);
        if raise {
            self.push_epoch(epoch, hash);
        }
        self.refresh = Some(Refresh::done(self.now, epoch));
        epoch
    }

    fn push_epoch(&mut self, epoch: i32, metadata_hash: i64) {
        let value = ShareEpochValue { epoch, metadata_hash };
        self.records.push(ShareRecord::Epoch(self.group.key(), Some(value)));
    }

    /// Whether partitions were initialized that the target does not know.
    fn has_new_states(&self) -> bool {
        let group = self.group;
        if group.is_empty() {
            return false;
        }
        let mut assigned = Partitions::new();
        for (_, partitions) in group.target.members() {
            for (topic, its) in &**partitions {
                assigned.entry(*topic).or_default().extend(its);
            }
        }
        group.states.initialized.iter().any(|(topic, (name, its))| {
            group.topics.contains(name) && assigned.get(topic) != Some(its)
        })
    }

    /// The target assignment's epoch, and what it has for `member`; computed if it is due.
    fn target(&mut self, epoch: i32, member: &ShareMember) -> (i32, Arc<Partitions>) {
        let group = self.group;
        let interval = self.settings.share_assignment_interval_ms(self.image, &group.id);
        if group.target.epoch >= epoch || !may_assign(group.target.computed_at, interval, self.now)
        {
            return (group.target.epoch, group.target.of(&member.id).cloned().unwrap_or_default());
        }
        let mut members: BTreeMap<&str, &ShareMember> =
            group.members().map(|member| (&*member.id, member)).collect();
        members.insert(&member.id, member);
        let candidates: Vec<Candidate<'_>> = members
            .values()
            .map(|member| Candidate {
                id: &member.id,
                wants: self.assignable(&member.topics),
                has: group.target.of(&member.id).map(|it| (**it).clone()).unwrap_or_default(),
            })
            .collect();
        let next: BTreeMap<&str, Arc<Partitions>> = candidates
            .iter()
            .map(|it| it.id)
            .zip(assign(&candidates).into_iter().map(Arc::new))
            .collect();
        for (id, partitions) in group.target.changes(&next) {
            let topic = |(topic_id, its): (&uuid::Uuid, &BTreeSet<i32>)| TargetTopic {
                topic_id: *topic_id,
                partitions: its.iter().copied().collect(),
            };
            let value =
                TargetMemberValue { topic_partitions: partitions.iter().map(topic).collect() };
            self.records.push(ShareRecord::TargetMember(group.member_key(id), Some(value)));
        }
        let value = TargetValue { assignment_epoch: epoch, assignment_timestamp: self.now };
        self.records.push(ShareRecord::Target(group.key(), Some(value)));
        (epoch, next.get(&*member.id).cloned().unwrap_or_default())
    }

    /// Of `topics`, the partitions whose state is kept.
    fn assignable(&self, topics: &BTreeSet<String>) -> Partitions {
        let initialized = &self.group.states.initialized;
        let known = |name: &String| {
            let topic = self.image.topic(name)?;
            let (_, its) = initialized.get(&topic.id)?;
            let exist = its.iter().copied().filter(|it| topic.partitions.contains_key(it));
            Some((topic.id, exist.collect::<BTreeSet<i32>>()))
        };
        topics.iter().filter_map(known).filter(|(_, its)| !its.is_empty()).collect()
    }

    fn within_subscription(&self, target: &Partitions, topics: &BTreeSet<String>) -> Partitions {
        let is_wanted = |id: &uuid::Uuid| {
            self.image.topic_by_id(*id).is_some_and(|topic| topics.contains(&*topic.name))
        };
        target.iter().filter(|(id, _)| is_wanted(id)).map(|(id, its)| (*id, its.clone())).collect()
    }

    /// Partitions that nobody has had initialized are noted, and to be initialized.
    fn initialize(&mut self, epoch: i32, topics: &Topics) -> Option<Initialize> {
        let group = self.group;
        let states = &group.states;
        let waits = group
            .initializing_since
            .is_some_and(|since| self.now - since < self.settings.share.initialize_retry_ms);
        let mut wanted = Named::new();
        for topic in topics.names().filter_map(|name| self.image.topic(name)) {
            let knows =
                |all: &Named, it: i32| all.get(&topic.id).is_some_and(|(_, its)| its.contains(&it));
            let is_new = |it: &i32| {
                let under_way = waits && knows(&states.initializing, *it);
                !under_way && !knows(&states.initialized, *it)
            };
            let new: BTreeSet<i32> = topic.partitions.keys().copied().filter(is_new).collect();
            if !new.is_empty() {
                wanted.insert(topic.id, (topic.name.to_string(), new));
            }
        }
        if wanted.is_empty() {
            return None;
        }
        let mut next: StatePartitions = (**states).clone();
        for (id, (name, its)) in &wanted {
            let noted =
                next.initializing.entry(*id).or_insert_with(|| (name.clone(), BTreeSet::new()));
            noted.1.extend(its);
        }
        if next != **states {
            self.records.push(group.states_record(&next));
        }
        Some(Initialize { state_epoch: epoch, topics: wanted })
    }

    /// A member goes, by itself or because it was silent.
    pub fn leave(&mut self, id: &str) -> Result<ShareGroupHeartbeatResponse, Refusal> {
        let group = self.group;
        let member = group.member(id).ok_or_else(|| unknown(group, id))?;
        tracing::info!(group = %group.id, member = id, "a member leaves");
        let key = || group.member_key(id);
        self.records.push(ShareRecord::Current(key(), None));
        self.records.push(ShareRecord::TargetMember(key(), None));
        self.records.push(ShareRecord::Member(key(), None));
        let mut topics = group.topics.clone();
        topics.remove_names(&member.topics);
        let hash = metadata_hash(topics.names(), self.image);
        self.push_epoch(group.epoch + 1, hash);
        Ok(ShareGroupHeartbeatResponse::default()
            .with_member_id(Some(StrBytes::from_string(id.to_owned())))
            .with_member_epoch(LEAVE))
    }
}

fn unknown(group: &ShareGroup, id: &str) -> Refusal {
    let message = format!("Member {id} is not a member of group {}.", group.id);
    Refusal::new(ErrorCode::UnknownMemberId, message)
}

/// Refuses a member that is in another epoch than it should be; the one before counts, too, as the
/// answer that told the newer one may have been lost.
fn check_epoch(member: &ShareMember, epoch: i32) -> Result<(), Refusal> {
    if epoch == 0 || epoch == member.epoch || epoch == member.previous_epoch && epoch < member.epoch
    {
        return Ok(());
    }
    let than = if epoch > member.epoch { "greater" } else { "smaller" };
    let message = format!(
        "The share group member has a {than} member epoch ({epoch}) than the one known by the group \
         coordinator ({}). The member must abandon all its partitions and rejoin.",
        member.epoch
    );
    Err(Refusal::new(ErrorCode::FencedMemberEpoch, message))
}

/// The member as its heartbeat describes it; what it leaves out stays as it was.
fn described(before: &ShareMember, call: &Heartbeat) -> ShareMember {
    let request = &call.request;
    ShareMember {
        rack_id: request
            .rack_id
            .as_ref()
            .map(ToString::to_string)
            .or_else(|| before.rack_id.clone()),
        client_id: call.client_id.clone(),
        client_host: call.client_host.clone(),
        topics: match &request.subscribed_topic_names {
            Some(names) => names.iter().map(|name| name.to_string()).collect(),
            None => before.topics.clone(),
        },
        ..before.clone()
    }
}

fn assignment(assigned: &Partitions) -> Assignment {
    let topics = assigned.iter().map(|(topic, its)| {
        TopicPartitions::default()
            .with_topic_id(*topic)
            .with_partitions(its.iter().copied().collect())
    });
    Assignment::default().with_topic_partitions(topics.collect())
}
