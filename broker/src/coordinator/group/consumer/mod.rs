//! Consumer groups (KIP-848): the coordinator assigns, and members follow one by one.
//!
//! A member sends heartbeats; a change of what the assignment rests on (members, subscriptions,
//! topics) raises the **group epoch**; a target assignment is computed for that epoch; each member
//! goes to it in its own time, with its **member epoch**:
//!
//! ```text
//!              must give up            gave all up, and all that it      others still hold
//!              partitions                 shall own is free              some of them
//!   Stable ─────────────▶ Unrevoked ─────────────────▶ Stable    ─ or ─▶ Unreleased ──▶ Stable
//!   (epoch e)              Partitions (e)              (e + 1)            Partitions (e + 1)
//! ```
//!
//! Invariants:
//! - the state changes by replaying records only ([`ConsumerGroup::replay`]), so that a group which
//!   was loaded is the group that was written;
//! - a partition is held (assigned, or not yet given up) by one member at a time;
//! - group, target and member epochs never fall while a member stays, save for a static member that
//!   is away (-2) and comes back at 0.
//!
//! What decides is a [`Turn`]: it looks at a group that does not change meanwhile and collects
//! records and timers. A heartbeat that changes nothing costs a look-up, whatever the sizes of
//! group and topics.
//!
//! As in Kafka 4.3.1, error code by error code; where Kafka follows the order of a hash map, names
//! decide here. Deliberately absent: assignors on the client's side (as in Kafka), and resolving
//! patterns elsewhere than in the coordinator's task: matching is linear, and done at most every
//! ten seconds for a group.

mod classic_members;
mod commit;
mod describe;
mod heartbeat;
mod member;
mod migrate;
mod pattern;
#[cfg(test)]
mod properties;
mod protocol;
mod reconcile;
mod turn;

use std::sync::Arc;

use imbl::OrdMap;
use uuid::Uuid;

pub use classic_members::Joined;
pub use heartbeat::{HeartbeatCall, check_request};
pub use member::{LEAVE, LEAVE_STATIC, Member, MemberState, Owned};
pub use migrate::MigrationPolicy;
pub use pattern::Resolved;
pub use turn::Turn;

use super::modern::{Partitions, Refresh, Target, Topics};
use super::records::{ConsumerRecord, EpochValue, GroupKey, MemberKey, PatternKey};
use crate::error::{ErrorCode, Refusal};
use crate::types::Millis;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Empty,
    /// The target assignment is older than the group.
    Assigning,
    /// Members are on their way to the target assignment.
    Reconciling,
    Stable,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
        }
    }
}

/// Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumerGroup {
    pub id: Arc<str>,
    pub epoch: i32,
    pub metadata_hash: i64,
    members: OrdMap<Arc<str>, Arc<Member>>,
    by_instance: OrdMap<String, Arc<str>>,
    pub topics: Topics,
    /// How many members subscribe to a pattern.
    patterns: OrdMap<String, usize>,
    resolved: OrdMap<String, Arc<Resolved>>,
    /// How many members ask for an assignor.
    assignors: OrdMap<String, usize>,
    pub target: Target,
    /// Who holds a partition tells the epoch of its member.
    holders: OrdMap<(Uuid, i32), i32>,
    classic_members: usize,
    /// How many members of the classic protocol know one of its protocols.
    classic_protocols: OrdMap<String, usize>,
    /// There is a record of type 4, which goes with the next change.
    has_old_metadata: bool,
    /// In memory only.
    pub refresh: Refresh,
}

impl ConsumerGroup {
    pub fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            epoch: 1,
            metadata_hash: 0,
            members: OrdMap::new(),
            by_instance: OrdMap::new(),
            topics: Topics::default(),
            patterns: OrdMap::new(),
            resolved: OrdMap::new(),
            assignors: OrdMap::new(),
            target: Target::before_first(1),
            holders: OrdMap::new(),
            classic_members: 0,
            classic_protocols: OrdMap::new(),
            has_old_metadata: false,
            refresh: Refresh::default(),
        }
    }

    pub fn state(&self) -> State {
        if self.members.is_empty() {
            State::Empty
        } else if self.epoch > self.target.epoch {
            State::Assigning
        } else if self.members().any(|member| !member.is_reconciled_to(self.target.epoch)) {
            State::Reconciling
        } else {
            State::Stable
        }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values().map(|member| &**member)
    }

    pub fn member(&self, id: &str) -> Option<&Member> {
        self.members.get(id).map(|member| &**member)
    }

    /// The member, or a refusal that says that it is none.
    pub fn known(&self, id: &str) -> Result<&Member, Refusal> {
        self.member(id).ok_or_else(|| {
            let message = format!("Member {id} is not a member of group {}.", self.id);
            Refusal::new(ErrorCode::UnknownMemberId, message)
        })
    }

    /// The member that holds an instance id.
    pub fn static_member(&self, instance: &str) -> Option<&Member> {
        self.member(self.by_instance.get(instance)?)
    }

    pub fn static_id(&self, instance: Option<&str>) -> Option<&Arc<str>> {
        self.by_instance.get(instance?)
    }

    pub fn pattern_subscribers(&self, pattern: &str) -> usize {
        self.patterns.get(pattern).copied().unwrap_or(0)
    }

    pub fn resolved(&self, pattern: &str) -> Option<&Resolved> {
        self.resolved.get(pattern).map(|resolved| &**resolved)
    }

    /// The epoch of the member that holds a partition; -1 when nobody does.
    pub fn holder_epoch(&self, topic: Uuid, partition: i32) -> i32 {
        self.holders.get(&(topic, partition)).copied().unwrap_or(-1)
    }

    /// What `member` shall own, or the static member whose place it takes.
    pub fn target_of(&self, member: &Member) -> Arc<Partitions> {
        let id = self.static_id(member.instance_id.as_deref()).unwrap_or(&member.id);
        self.target.of(id).cloned().unwrap_or_default()
    }

    /// The assignor that most members ask for; of equals the last by name.
    pub fn preferred_assignor(
        &self,
        before: Option<&Member>,
        after: Option<&Member>,
    ) -> Option<&str> {
        let change = |name: &str| {
            let asks = |member: Option<&Member>| {
                usize::from(member.is_some_and(|it| it.assignor.as_deref() == Some(name)))
            };
            self.assignors.get(name).copied().unwrap_or(0) + asks(after) - asks(before)
        };
        // One that only `after` asks for has no place in the map.
        let new = after.and_then(|it| it.assignor.as_deref());
        let new = new.filter(|name| !self.assignors.contains_key(*name)).and_then(own_name);
        let names = self.assignors.keys().map(String::as_str).chain(new);
        let counts = names.map(|name| (change(name), name)).filter(|(count, _)| *count > 0);
        counts.max_by_key(|(count, _)| *count).map(|(_, name)| name)
    }

    /// Takes in a record that is in the log, or on its way there.
    pub fn replay(&mut self, record: ConsumerRecord) {
        match record {
            ConsumerRecord::Epoch(_, Some(EpochValue { epoch, metadata_hash })) => {
                self.epoch = epoch;
                self.metadata_hash = metadata_hash;
            }
            // The whole group goes: the shard sees to it.
            ConsumerRecord::Epoch(_, None) => {}
            ConsumerRecord::Metadata(_, there) => self.has_old_metadata = there,
            ConsumerRecord::Member(key, Some(value)) => {
                self.change(&key.member, |member| member.describe_by(value));
            }
            ConsumerRecord::Member(key, None) => self.remove(&key.member),
            ConsumerRecord::Target(_, Some(value)) => {
                self.target.epoch = value.assignment_epoch;
                self.target.computed_at = value.assignment_timestamp;
            }
            ConsumerRecord::Target(_, None) => {
                (self.target.epoch, self.target.computed_at) = (-1, 0);
            }
            ConsumerRecord::TargetMember(key, Some(value)) => {
                let topics = value.topic_partitions.into_iter();
                let partitions =
                    topics.map(|it| (it.topic_id, it.partitions.into_iter().collect()));
                self.target.set(&key.member, partitions.collect());
            }
            ConsumerRecord::TargetMember(key, None) => self.target.remove(&key.member),
            ConsumerRecord::Current(key, Some(value)) => {
                self.change(&key.member, |member| member.own_by(value));
            }
            ConsumerRecord::Current(key, None) => {
                if self.members.contains_key(&*key.member) {
                    self.change(&key.member, Member::own_nothing);
                }
            }
            ConsumerRecord::Pattern(key, value) => {
                if let Some(before) = self.resolved.remove(&key.pattern) {
                    self.topics.remove_pattern(&before.topics);
                }
                if let Some(value) = value {
                    let resolved = Resolved::from(value);
                    self.topics.add_pattern(&resolved.topics);
                    self.resolved.insert(key.pattern, Arc::new(resolved));
                }
            }
        }
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Member)) {
        let before = self.members.get(id).cloned();
        let mut member = before.as_deref().cloned().unwrap_or_else(|| Member::new(id));
        change(&mut member);
        if let Some(before) = &before {
            self.forget(before);
        }
        self.note(&member);
        self.members.insert(member.id.clone(), Arc::new(member));
    }

    fn remove(&mut self, id: &str) {
        if let Some(member) = self.members.remove(id) {
            self.forget(&member);
        }
    }

    /// Takes what is derived from a member back.
    fn forget(&mut self, member: &Member) {
        self.topics.remove_names(&member.topics);
        count(&mut self.patterns, member.pattern(), false);
        count(&mut self.assignors, member.assignor.as_deref(), false);
        for place in member.held() {
            if self.holders.get(&place) == Some(&member.epoch) {
                self.holders.remove(&place);
            }
        }
        if let Some(instance) = &member.instance_id
            && self.by_instance.get(instance) == Some(&member.id)
        {
            self.by_instance.remove(instance);
        }
        if let Some(classic) = &member.classic {
            self.classic_members -= 1;
            for protocol in &classic.supported_protocols {
                count(&mut self.classic_protocols, Some(&protocol.name), false);
            }
        }
    }

    /// Adds what is derived from a member.
    fn note(&mut self, member: &Member) {
        self.topics.add_names(&member.topics);
        count(&mut self.patterns, member.pattern(), true);
        count(&mut self.assignors, member.assignor.as_deref(), true);
        for place in member.held() {
            // While a compacted log is read, an older holder may still be there.
            let newest = self.holders.get(&place).copied().unwrap_or(i32::MIN).max(member.epoch);
            self.holders.insert(place, newest);
        }
        if let Some(instance) = &member.instance_id {
            self.by_instance.insert(instance.clone(), member.id.clone());
        }
        if let Some(classic) = &member.classic {
            self.classic_members += 1;
            for protocol in &classic.supported_protocols {
                count(&mut self.classic_protocols, Some(&protocol.name), true);
            }
        }
    }

    fn key(&self) -> GroupKey {
        GroupKey { group: self.id.to_string() }
    }

    fn member_key(&self, member: &str) -> MemberKey {
        MemberKey { group: self.id.to_string(), member: member.to_owned() }
    }

    /// The records that delete the group, with the members that `instead` renames.
    pub fn tombstones(&self, instead: Option<(&str, &str)>) -> Vec<ConsumerRecord> {
        let rename = |id: &Arc<str>| match instead {
            Some((from, to)) if &**id == from => self.member_key(to),
            _ => self.member_key(id),
        };
        let keys = || self.members.keys().map(rename);
        let pattern = |pattern: &String| {
            let key = PatternKey { group: self.id.to_string(), pattern: pattern.clone() };
            ConsumerRecord::Pattern(key, None)
        };
        let mut records: Vec<_> = keys().map(|key| ConsumerRecord::Current(key, None)).collect();
        records.extend(keys().map(|key| ConsumerRecord::TargetMember(key, None)));
        records.push(ConsumerRecord::Target(self.key(), None));
        records.extend(keys().map(|key| ConsumerRecord::Member(key, None)));
        records.extend(self.resolved.keys().map(pattern));
        records.push(ConsumerRecord::Metadata(self.key(), false));
        records.push(ConsumerRecord::Epoch(self.key(), None));
        records
    }

    /// Told when a topic changes that the group may read.
    pub fn topics_changed(&mut self) {
        self.refresh = Refresh::default();
    }

    /// From when on an offset committed at `committed` counts as unused.
    pub fn unused_since(&self, committed: Millis) -> Option<Millis> {
        Some(committed)
    }
}

/// Ties the name to a constant's lifetime; only our own assignors can be asked for.
fn own_name(name: &str) -> Option<&'static str> {
    use super::assignor::{RANGE, UNIFORM};
    [UNIFORM, RANGE].into_iter().find(|own| *own == name)
}

fn count(counts: &mut OrdMap<String, usize>, name: Option<&str>, more: bool) {
    let Some(name) = name else { return };
    let now = counts.get(name).copied().unwrap_or(0);
    match if more { now + 1 } else { now.saturating_sub(1) } {
        0 => drop(counts.remove(name)),
        next => drop(counts.insert(name.to_owned(), next)),
    }
}

#[cfg(test)]
impl ConsumerGroup {
    /// The invariants named at the top.
    pub(super) fn check(&self) {
        let mut holders = std::collections::BTreeMap::new();
        for member in self.members() {
            for place in member.held() {
                let other = holders.insert(place, &member.id);
                assert_eq!(other, None, "{place:?} is also held by {}", member.id);
                assert_eq!(self.holder_epoch(place.0, place.1), member.epoch);
            }
            assert!(member.epoch <= self.target.epoch.max(0), "{member:?} is ahead of the target");
        }
        assert_eq!(holders.len(), self.holders.len(), "somebody holds what nobody has");
        assert!(self.target.epoch <= self.epoch);
        let mut again = Self::new(&self.id);
        for member in self.members() {
            again.note(member);
        }
        for resolved in self.resolved.values() {
            again.topics.add_pattern(&resolved.topics);
        }
        assert_eq!(again.topics, self.topics);
        assert_eq!(again.patterns, self.patterns);
        assert_eq!(again.assignors, self.assignors);
        assert_eq!(again.by_instance, self.by_instance);
        assert_eq!(again.classic_protocols, self.classic_protocols);
    }
}
