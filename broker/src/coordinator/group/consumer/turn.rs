//! One look at a group: what is decided about it, as records and timers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use super::reconcile::Reconcile;
use super::{ConsumerGroup, Member, MemberState};
use crate::controller::Image;
use crate::coordinator::group::assignor::{self, Assignment, Spec, UNIFORM};
use crate::coordinator::group::effects::TimerChange;
use crate::coordinator::group::modern::{Partitions, Refresh, Topics, may_assign, metadata_hash};
use crate::coordinator::group::records::{
    ConsumerRecord, EpochValue, Record, TargetMemberValue, TargetTopic, TargetValue,
};
use crate::coordinator::group::settings::GroupSettings;
use crate::coordinator::group::timers::{Slot, Timer};
use crate::error::Refusal;
use crate::types::{Millis, Offset};

/// Looks at `group` as it is and collects what shall change.
pub struct Turn<'a> {
    pub group: &'a ConsumerGroup,
    pub settings: &'a GroupSettings,
    pub image: &'a Image,
    /// The metadata offset at which topics were created last.
    pub topics_created_at: Offset,
    /// Wall-clock time.
    pub now: Millis,
    pub records: Vec<Record>,
    pub timers: Vec<TimerChange>,
    /// When to look at the cluster again, if that was done.
    pub refresh: Option<Refresh>,
}

/// The group after a member changed, as far as its assignment rests on it.
pub(super) struct Subscribed {
    pub epoch: i32,
    pub homogeneous: bool,
}

/// The target assignment that counts for one member now.
pub(super) struct TargetNow {
    pub epoch: i32,
    pub of_member: Arc<Partitions>,
}

impl<'a> Turn<'a> {
    pub fn new(
        group: &'a ConsumerGroup,
        settings: &'a GroupSettings,
        image: &'a Image,
        topics_created_at: Offset,
        now: Millis,
    ) -> Self {
        let (records, timers) = (Vec::new(), Vec::new());
        Self { group, settings, image, topics_created_at, now, records, timers, refresh: None }
    }

    pub(super) fn push(&mut self, record: ConsumerRecord) {
        self.records.push(record.into());
    }

    pub(super) fn push_epoch(&mut self, value: EpochValue) {
        let EpochValue { epoch, metadata_hash } = value;
        tracing::debug!(group = %self.group.id, epoch, metadata_hash, "a group goes to the next epoch");
        self.push(ConsumerRecord::Epoch(self.group.key(), Some(value)));
    }

    pub(super) fn set(&mut self, slot: Slot, after_ms: i32, timer: Timer) {
        let after_ms = i64::from(after_ms);
        self.timers.push(TimerChange::Set { slot, after_ms, timer });
    }

    pub(super) fn set_if_absent(&mut self, slot: Slot, after_ms: i64, timer: Timer) {
        self.timers.push(TimerChange::SetIfAbsent { slot, after_ms, timer });
    }

    /// Of all members, who came from a classic group.
    pub fn begin_sessions(&mut self) {
        for member in self.group.members() {
            self.set_session(&member.id, member.classic_session_timeout_ms().unwrap_or_default());
        }
    }

    pub(super) fn cancel(&mut self, slot: Slot) {
        self.timers.push(TimerChange::Cancel(slot));
    }

    pub(super) fn set_session(&mut self, member: &str, after_ms: i32) {
        let timer = Timer::Session { member: member.to_owned() };
        self.set(Slot::Session(member.to_owned()), after_ms, timer);
    }

    pub(super) fn cancel_timers_of(&mut self, member: &str) {
        for slot in [Slot::Session, Slot::Rebalance, Slot::Rejoin, Slot::Resync] {
            self.cancel(slot(member.to_owned()));
        }
    }

    pub(super) fn hash(&self, topics: &Topics) -> i64 {
        metadata_hash(topics.names(), self.image)
    }

    /// Looks at the topics again and raises the group epoch when the subscriptions (`raise`) or
    /// the topics are others than before.
    pub(super) fn update_subscriptions(
        &mut self,
        mut raise: bool,
        before: &Member,
        after: &Member,
    ) -> Subscribed {
        let group = self.group;
        let topics = group.topics_with(before, after);
        let metadata_hash = self.hash(&topics);
        let is_new = group.member(&after.id).is_none()
            && group.static_id(after.instance_id.as_deref()).is_none();
        let members = group.len() + usize::from(is_new);
        let homogeneous = group.is_homogeneous(&topics, before, after, members);
        raise |= metadata_hash != group.metadata_hash;
        let mut epoch = group.epoch;
        if raise {
            epoch += 1;
            self.push_epoch(EpochValue { epoch, metadata_hash });
        }
        self.refresh = Some(Refresh::done(self.now, epoch));
        if group.has_old_metadata {
            self.push(ConsumerRecord::Metadata(group.key(), false));
        }
        Subscribed { epoch, homogeneous }
    }

    /// Computes the next target assignment when the group has changed and it is time.
    pub(super) fn update_target(
        &mut self,
        subscribed: &Subscribed,
        before: &Member,
        after: &Member,
    ) -> TargetNow {
        let target = &self.group.target;
        let interval = self.settings.assignment_interval_ms(self.image, &self.group.id);
        if target.epoch >= subscribed.epoch || !may_assign(target.computed_at, interval, self.now) {
            return TargetNow { epoch: target.epoch, of_member: self.group.target_of(after) };
        }
        let preferred = self.group.preferred_assignor(Some(before), Some(after));
        let preferred = preferred.unwrap_or(self.settings.consumer.default_assignor());
        let spec = self.spec(after, subscribed.homogeneous);
        let next = assignor::assign(preferred, &spec);
        // A name that is not known came from an older log; members are checked when they ask.
        let next = next.or_else(|| assignor::assign(UNIFORM, &spec)).unwrap_or_default();
        self.push_target(subscribed.epoch, &next);
        let of_member = next.get(&after.id).cloned().unwrap_or_default();
        TargetNow { epoch: subscribed.epoch, of_member }
    }

    fn push_target(&mut self, epoch: i32, next: &Assignment) {
        let group = self.group;
        for (member, partitions) in group.target.changes(next) {
            let topics = partitions.iter().map(|(topic, its)| TargetTopic {
                topic_id: *topic,
                partitions: its.iter().copied().collect(),
            });
            let value = TargetMemberValue { topic_partitions: topics.collect() };
            self.push(ConsumerRecord::TargetMember(group.member_key(member), Some(value)));
        }
        let value = TargetValue { assignment_epoch: epoch, assignment_timestamp: self.now };
        self.push(ConsumerRecord::Target(group.key(), Some(value)));
    }

    /// What the assignor is told: all members, with `changed` as it will be.
    fn spec(&self, changed: &Member, homogeneous: bool) -> Spec {
        let group = self.group;
        let replaced = group.static_id(changed.instance_id.as_deref());
        let mut spec = Spec { homogeneous, ..Spec::default() };
        // Members mostly have the same topics: looked up once.
        let mut known: BTreeMap<(BTreeSet<&str>, Option<&str>), Arc<BTreeSet<Uuid>>> =
            BTreeMap::new();
        let others = group.members().filter(|it| it.id != changed.id && Some(&it.id) != replaced);
        let all: Vec<_> = others.chain([changed]).collect();
        for member in all {
            let key = (member.topics.iter().map(String::as_str).collect(), member.pattern());
            let topics = known.entry(key).or_insert_with(|| Arc::new(self.subscribed_ids(member)));
            let own = group.target.of(&member.id);
            let assigned = match replaced {
                Some(id) if member.id == changed.id => group.target.of(id),
                _ => own,
            };
            let told = assignor::Member {
                instance_id: member.instance_id.clone(),
                topics: topics.clone(),
                assigned: assigned.cloned().unwrap_or_default(),
            };
            spec.members.insert(member.id.clone(), told);
        }
        for topic in known.values().flat_map(|topics| topics.iter()) {
            let count = self.image.topic_by_id(*topic).map_or(0, |it| it.partitions.len() as i32);
            spec.partition_counts.insert(*topic, count);
        }
        spec
    }

    /// Topics that a member subscribes to, and that exist. A pattern that is not resolved yet
    /// matches nothing.
    fn subscribed_ids(&self, member: &Member) -> BTreeSet<Uuid> {
        let resolved = member.pattern().and_then(|pattern| self.group.resolved(pattern));
        let matched = resolved.into_iter().flat_map(|resolved| &resolved.topics);
        let names = member.topics.iter().chain(matched);
        names.filter_map(|name| self.image.topic(name)).map(|topic| topic.id).collect()
    }

    /// Lets a member take its next step, and writes it down if there is one.
    pub(super) fn reconcile(
        &mut self,
        member: Member,
        target: &TargetNow,
        subscription_changed: bool,
        owned: Option<&Partitions>,
    ) -> Result<Member, Refusal> {
        if !subscription_changed && member.is_reconciled_to(target.epoch) {
            return Ok(member);
        }
        let subscribed = self.subscribed_ids(&member);
        let holder_epoch = |topic, partition| self.group.holder_epoch(topic, partition);
        let next = Reconcile {
            target_epoch: target.epoch,
            target: &target.of_member,
            subscribed: &subscribed,
            subscription_changed,
            holder_epoch: &holder_epoch,
            owned,
        }
        .step(&member)?;
        if next == member {
            return Ok(member);
        }
        self.push(next.current_record(&self.group.id));
        if !next.is_classic() {
            let id = next.id.to_string();
            if next.state == MemberState::UnrevokedPartitions {
                let timer = Timer::Rebalance { member: id.clone(), epoch: next.epoch };
                self.set(Slot::Rebalance(id), next.rebalance_timeout_ms, timer);
            } else {
                self.cancel(Slot::Rebalance(id));
            }
        }
        Ok(next)
    }
}

impl ConsumerGroup {
    /// The topics that the group subscribes to when `before` becomes `after`.
    fn topics_with(&self, before: &Member, after: &Member) -> Topics {
        let mut topics = self.topics.clone();
        topics.remove_names(&before.topics);
        topics.add_names(&after.topics);
        if let Some(pattern) = before.pattern()
            && after.pattern() != Some(pattern)
            && self.pattern_subscribers(pattern) == 1
            && let Some(resolved) = self.resolved(pattern)
        {
            topics.remove_pattern(&resolved.topics);
        }
        topics
    }

    /// Whether all members subscribe to the same topics when `before` becomes `after`.
    fn is_homogeneous(
        &self,
        topics: &Topics,
        before: &Member,
        after: &Member,
        members: usize,
    ) -> bool {
        let mut patterns = self.patterns.clone();
        super::count(&mut patterns, before.pattern(), false);
        super::count(&mut patterns, after.pattern(), true);
        homogeneous(&patterns, topics, members)
    }

    pub(super) fn is_homogeneous_now(&self) -> bool {
        homogeneous(&self.patterns, &self.topics, self.len())
    }
}

/// With patterns, members have the same topics only when all have the one pattern and no names.
fn homogeneous(patterns: &imbl::OrdMap<String, usize>, topics: &Topics, members: usize) -> bool {
    match patterns.values().next() {
        None => topics.are_named_by_all(members),
        Some(subscribers) => {
            *subscribers == members
                && topics.subscribers().all(|it| it.by_pattern == 1 && it.by_name == 0)
        }
    }
}
