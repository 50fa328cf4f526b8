//! Share groups (KIP-932): who is a member, and of which partitions each member fetches.
//!
//! As in a consumer group a change of members, subscriptions or topics raises the group epoch, and
//! a target assignment is computed for it; but partitions are shared, so that a member takes its
//! target over at once. Only partitions are assigned whose state the share coordinator keeps: a
//! heartbeat that meets a new one notes it as initializing and has it initialized
//! ([`Initialize`]), and the first one after that assigns it.
//!
//! The state changes by replaying records only. Deliberately absent: static members and patterns,
//! which the protocol has not, and any assignor but Kafka's `simple`.

mod assignor;
mod describe;
mod heartbeat;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use uuid::Uuid;

pub use heartbeat::{Heartbeat, Initialize, LEAVE, Turn, check_request};

use super::modern::{Partitions, Refresh, Target, Topics};
use super::records::{
    GroupKey, MemberKey, ShareCurrentValue, ShareMemberValue, ShareRecord, ShareTopicPartitions,
    StatePartitionsTopic, StatePartitionsValue,
};
use crate::types::Millis;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShareMember {
    pub id: Arc<str>,
    pub rack_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub topics: BTreeSet<String>,
    pub epoch: i32,
    pub previous_epoch: i32,
    pub assigned: Partitions,
}

/// Partitions of a topic, with its name.
pub type Named = BTreeMap<Uuid, (String, BTreeSet<i32>)>;

/// Of which partitions the share coordinator keeps state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StatePartitions {
    pub initializing: Named,
    pub initialized: Named,
    pub deleting: BTreeMap<Uuid, String>,
}

/// Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct ShareGroup {
    pub id: Arc<str>,
    pub epoch: i32,
    pub metadata_hash: i64,
    members: OrdMap<Arc<str>, Arc<ShareMember>>,
    pub topics: Topics,
    pub target: Target,
    pub states: Arc<StatePartitions>,
    /// In memory only.
    pub refresh: Refresh,
    /// In memory only: when the states were last to be initialized.
    pub initializing_since: Option<Millis>,
}

impl ShareGroup {
    pub fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            epoch: 1,
            metadata_hash: 0,
            members: OrdMap::new(),
            topics: Topics::default(),
            target: Target::before_first(1),
            states: Arc::default(),
            refresh: Refresh::default(),
            initializing_since: None,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn state_name(&self) -> &'static str {
        if self.is_empty() { "Empty" } else { "Stable" }
    }

    pub fn members(&self) -> impl Iterator<Item = &ShareMember> {
        self.members.values().map(|member| &**member)
    }

    pub fn member(&self, id: &str) -> Option<&ShareMember> {
        self.members.get(id).map(|member| &**member)
    }

    pub fn topics_changed(&mut self) {
        self.refresh = Refresh::default();
    }

    /// Takes in a record that is in the log, or on its way there.
    pub fn replay(&mut self, record: ShareRecord) {
        match record {
            ShareRecord::Epoch(_, Some(value)) => {
                self.epoch = value.epoch;
                self.metadata_hash = value.metadata_hash;
            }
            // The whole group goes: the shard sees to it.
            ShareRecord::Epoch(_, None) => {}
            ShareRecord::Member(key, Some(value)) => self.change(&key.member, |member| {
                member.rack_id = value.rack_id;
                member.client_id = value.client_id;
                member.client_host = value.client_host;
                member.topics = value.subscribed_topic_names.into_iter().collect();
            }),
            ShareRecord::Member(key, None) => {
                if let Some(member) = self.members.remove(&*key.member) {
                    self.topics.remove_names(&member.topics);
                }
            }
            ShareRecord::Target(_, Some(value)) => {
                self.target.epoch = value.assignment_epoch;
                self.target.computed_at = value.assignment_timestamp;
            }
            ShareRecord::Target(_, None) => {
                (self.target.epoch, self.target.computed_at) = (0, 0);
            }
            ShareRecord::TargetMember(key, Some(value)) => {
                let topics = value.topic_partitions.into_iter();
                let partitions =
                    topics.map(|it| (it.topic_id, it.partitions.into_iter().collect()));
                self.target.set(&key.member, partitions.collect());
            }
            ShareRecord::TargetMember(key, None) => self.target.remove(&key.member),
            ShareRecord::Current(key, Some(value)) => self.change(&key.member, |member| {
                member.epoch = value.member_epoch;
                member.previous_epoch = value.previous_member_epoch;
                let topics = value.assigned_partitions.into_iter();
                let assigned = topics.map(|it| (it.topic_id, it.partitions.into_iter().collect()));
                member.assigned = assigned.collect();
            }),
            ShareRecord::Current(key, None) => {
                if self.members.contains_key(&*key.member) {
                    self.change(&key.member, |member| {
                        (member.epoch, member.previous_epoch) = (0, 0);
                        member.assigned.clear();
                    });
                }
            }
            ShareRecord::StatePartitions(_, value) => {
                self.states = Arc::new(value.map(StatePartitions::from).unwrap_or_default());
            }
        }
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut ShareMember)) {
        let before = self.members.get(id).cloned();
        let fresh = || ShareMember { id: id.into(), ..ShareMember::default() };
        let mut member = before.as_deref().cloned().unwrap_or_else(fresh);
        change(&mut member);
        if let Some(before) = &before {
            self.topics.remove_names(&before.topics);
        }
        self.topics.add_names(&member.topics);
        self.members.insert(member.id.clone(), Arc::new(member));
    }

    fn key(&self) -> GroupKey {
        GroupKey { group: self.id.to_string() }
    }

    fn member_key(&self, member: &str) -> MemberKey {
        MemberKey { group: self.id.to_string(), member: member.to_owned() }
    }

    /// The records that delete the group.
    pub fn tombstones(&self) -> Vec<ShareRecord> {
        let keys = || self.members.keys().map(|id| self.member_key(id));
        let mut records: Vec<_> = keys().map(|key| ShareRecord::Current(key, None)).collect();
        records.extend(keys().map(|key| ShareRecord::TargetMember(key, None)));
        records.push(ShareRecord::Target(self.key(), None));
        records.extend(keys().map(|key| ShareRecord::Member(key, None)));
        records.push(ShareRecord::StatePartitions(self.key(), None));
        records.push(ShareRecord::Epoch(self.key(), None));
        records
    }

    /// The record of other states than now.
    pub fn states_record(&self, states: &StatePartitions) -> ShareRecord {
        ShareRecord::StatePartitions(self.key(), Some(states.to_value()))
    }
}

impl ShareMember {
    fn to_value(&self) -> ShareMemberValue {
        ShareMemberValue {
            rack_id: self.rack_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            subscribed_topic_names: self.topics.iter().cloned().collect(),
        }
    }

    fn to_current(&self) -> ShareCurrentValue {
        let topic = |(topic_id, its): (&Uuid, &BTreeSet<i32>)| ShareTopicPartitions {
            topic_id: *topic_id,
            partitions: its.iter().copied().collect(),
        };
        ShareCurrentValue {
            member_epoch: self.epoch,
            previous_member_epoch: self.previous_epoch,
            state: 0, // stable, as all members of share groups are
            assigned_partitions: self.assigned.iter().map(topic).collect(),
        }
    }
}

impl StatePartitions {
    fn to_value(&self) -> StatePartitionsValue {
        let named = |all: &Named| {
            all.iter()
                .map(|(topic_id, (name, partitions))| StatePartitionsTopic {
                    topic_id: *topic_id,
                    name: name.clone(),
                    partitions: partitions.iter().copied().collect(),
                })
                .collect()
        };
        let deleting = self.deleting.iter().map(|(topic_id, name)| super::records::DeletingTopic {
            topic_id: *topic_id,
            name: name.clone(),
        });
        StatePartitionsValue {
            initializing: named(&self.initializing),
            initialized: named(&self.initialized),
            deleting: deleting.collect(),
        }
    }

    /// What was initializing is initialized.
    #[must_use]
    pub fn with_initialized(&self, topics: &Named) -> Self {
        let mut states = self.clone();
        for (id, (name, partitions)) in topics {
            let known =
                states.initialized.entry(*id).or_insert_with(|| (name.clone(), BTreeSet::new()));
            known.1.extend(partitions);
            if let Some((_, left)) = states.initializing.get_mut(id) {
                left.retain(|it| !partitions.contains(it));
                if left.is_empty() {
                    states.initializing.remove(id);
                }
            }
        }
        states
    }

    /// A topic's state is deleted.
    #[must_use]
    pub fn without(&self, topics: &[Uuid]) -> Self {
        let mut states = self.clone();
        for id in topics {
            states.initialized.remove(id);
            states.initializing.remove(id);
            states.deleting.remove(id);
        }
        states
    }
}

impl From<StatePartitionsValue> for StatePartitions {
    fn from(value: StatePartitionsValue) -> Self {
        let named = |all: Vec<StatePartitionsTopic>| {
            all.into_iter()
                .map(|it| (it.topic_id, (it.name, it.partitions.into_iter().collect())))
                .collect()
        };
        Self {
            initializing: named(value.initializing),
            initialized: named(value.initialized),
            deleting: value.deleting.into_iter().map(|it| (it.topic_id, it.name)).collect(),
        }
    }
}
