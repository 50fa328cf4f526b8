//! Streams groups (KIP-1071): the coordinator knows the application's topology, makes its internal
//! topics and hands out its tasks.
//!
//! - [`Topology`]: what the first member says of the application, and [`Configured`], what becomes
//!   of it in the cluster: how many tasks there are, which topics are missing or do not fit.
//! - `assignor`: who shall have which tasks, active and standby; `reconcile`: one step of a member
//!   towards that. Warm-up tasks are read, written and given up, but no assignor of Kafka 4.3.1
//!   hands them out.
//! - [`Turn`]: a heartbeat, decided: as in a consumer group a change of what the assignment rests
//!   on raises the group epoch, a target assignment is computed for it, and members follow in their
//!   own time. A new group waits for more members first (`streams.initial.rebalance.delay.ms`).
//!
//! Invariants:
//! - the state changes by replaying records only ([`StreamsGroup::replay`]); what is in memory only
//!   ([`Memory`]) is found out again after a load, or forgotten as in Kafka;
//! - a task is active in one process at a time, counting what is being given up;
//! - a process has a task in one role at a time.
//!
//! Deliberately absent, and refused by name as in Kafka 4.3.1: static members, patterns as source
//! topics, offsets of tasks, updates of the topology.

mod assignor;
mod commit;
mod copartition;
mod describe;
mod endpoints;
mod heartbeat;
mod holders;
mod member;
#[cfg(test)]
mod properties;
mod protocol;
mod reconcile;
mod tasks;
#[cfg(test)]
mod tests;
mod topology;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;

pub use heartbeat::Heartbeat;
pub use member::{LEAVE, LEAVE_STATIC, Member, MemberState};
pub use protocol::check_request;
pub use tasks::{TaskSet, Tasks};
pub use topology::{
    ASSIGNMENT_DELAYED, Configured, INVALID_TOPOLOGY, InternalTopic, MISSING_INTERNAL_TOPICS,
    Topology,
};
pub use turn::{ToCreate, Turn};

use super::modern::{Refresh, Target};
use super::records::{
    GroupKey, MemberKey, StreamsEpochValue, StreamsRecord, StreamsTargetMemberValue, TargetValue,
    TopologyValue,
};
use crate::types::Millis;
use holders::Holders;
use topology::SharedTopology;

/// The group epoch, and that of the target assignment, of a group that has no record yet.
const FIRST_EPOCH: i32 = 1;

/// What a group knows without having written it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    pub refresh: Refresh,
    pub configured: Option<Arc<Configured>>,
    /// The member that asked all others to stop.
    pub shutdown_by: Option<String>,
    /// Rises as what members with an endpoint hold changes.
    pub endpoint_epoch: i32,
    /// The group is new, and waits for more members before it assigns.
    pub is_delayed: bool,
}

/// Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamsGroup {
    pub id: Arc<str>,
    pub epoch: i32,
    pub metadata_hash: i64,
    /// The epoch of the topology whose topics were found to be as they should; -1 when they are not.
    pub validated_topology_epoch: i32,
    /// What the assignor was told last.
    pub assignment_configs: Arc<BTreeMap<String, String>>,
    members: OrdMap<Arc<str>, Arc<Member>>,
    pub target: Target<TaskSet>,
    pub topology: Option<SharedTopology>,
    /// Those of the topology.
    required_topics: Arc<BTreeSet<String>>,
    holders: Holders,
    pub memory: Memory,
}

impl StreamsGroup {
    pub fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            epoch: FIRST_EPOCH,
            metadata_hash: 0,
            validated_topology_epoch: 0,
            assignment_configs: Arc::default(),
            members: OrdMap::new(),
            target: Target::before_first(FIRST_EPOCH),
            topology: None,
            required_topics: Arc::default(),
            holders: Holders::default(),
            memory: Memory::default(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn state_name(&self) -> &'static str {
        let topology = self.topology.as_ref().map(|it| it.epoch);
        if self.is_empty() {
            "Empty"
        } else if topology != Some(self.validated_topology_epoch) {
            "NotReady"
        } else if self.epoch > self.target.epoch {
            "Assigning"
        } else if self.members().any(|member| !member.is_reconciled_to(self.target.epoch)) {
            "Reconciling"
        } else {
            "Stable"
        }
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values().map(|member| &**member)
    }

    pub fn member(&self, id: &str) -> Option<&Member> {
        self.members.get(id).map(|member| &**member)
    }

    /// Whether the topology names the topic, as an input or as its own.
    pub fn requires(&self, topic: &str) -> bool {
        self.required_topics.contains(topic)
    }

    /// Whether a member reads the topic.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        let reads = |topology: &SharedTopology| topology.reader_of(topic).is_some();
        !self.is_empty() && self.topology.as_ref().is_some_and(reads)
    }

    pub fn topics_changed(&mut self) {
        self.memory.refresh = Refresh::default();
    }

    /// Nobody is asked to stop once all have gone.
    pub fn remember(&mut self, memory: Memory) {
        self.memory = memory;
        if self.is_empty() {
            self.memory.shutdown_by = None;
        }
    }

    /// From when on an offset committed at `committed` counts as unused.
    pub fn unused_since(&self, committed: Millis) -> Millis {
        committed
    }

    /// Takes in a record that is in the log, or on its way there.
    pub fn replay(&mut self, record: StreamsRecord) {
        match record {
            StreamsRecord::Epoch(_, Some(value)) => self.at_epoch(value),
            // The whole group goes: the shard sees to it.
            StreamsRecord::Epoch(_, None) => {}
            StreamsRecord::Member(key, Some(value)) => {
                self.change(&key.member, |member| member.described_by(value));
            }
            StreamsRecord::Member(key, None) => self.remove(&key.member),
            StreamsRecord::Target(_, Some(value)) => {
                self.target.epoch = value.assignment_epoch;
                self.target.computed_at = value.assignment_timestamp;
            }
            StreamsRecord::Target(_, None) => {
                (self.target.epoch, self.target.computed_at) = (-1, 0);
            }
            StreamsRecord::TargetMember(key, Some(value)) => {
                let tasks = TaskSet {
                    active: tasks::from_ids(&value.active),
                    standby: tasks::from_ids(&value.standby),
                    warmup: tasks::from_ids(&value.warmup),
                };
                self.target.set(&key.member, tasks);
            }
            StreamsRecord::TargetMember(key, None) => self.target.remove(&key.member),
            StreamsRecord::Current(key, Some(value)) => {
                self.change(&key.member, |member| member.assigned_by(value));
            }
            StreamsRecord::Current(key, None) => {
                if self.members.contains_key(&*key.member) {
                    self.change(&key.member, |member| {
                        (member.epoch, member.previous_epoch) = (LEAVE, LEAVE);
                        (member.held, member.revoking) = Default::default();
                    });
                }
            }
            StreamsRecord::Topology(_, value) => {
                self.topology = value.map(|it| Arc::new(Topology::from_value(it)));
                let required = self.topology.as_ref().map(|it| it.required_topics());
                self.required_topics = Arc::new(required.unwrap_or_default());
            }
        }
    }

    fn at_epoch(&mut self, value: StreamsEpochValue) {
        self.epoch = value.epoch;
        self.metadata_hash = value.metadata_hash;
        self.validated_topology_epoch = value.validated_topology_epoch;
        let configs = value.last_assignment_configs.unwrap_or_default();
        self.assignment_configs =
            Arc::new(configs.into_iter().map(|it| (it.key, it.value)).collect());
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Member)) {
        let before = self.members.get(id).cloned();
        let mut member = before.as_deref().cloned().unwrap_or_else(|| Member::new(id));
        change(&mut member);
        if let Some(before) = &before {
            self.holders.remove(before);
        }
        self.holders.add(&member);
        self.members.insert(member.id.clone(), Arc::new(member));
    }

    fn remove(&mut self, id: &str) {
        if let Some(member) = self.members.remove(id) {
            self.holders.remove(&member);
        }
        if self.members.is_empty() {
            self.memory.shutdown_by = None;
        }
    }

    /// What must hold after each step.
    #[cfg(test)]
    pub fn check(&self) {
        let mut active = BTreeMap::new();
        let mut in_process = BTreeSet::new();
        let mut holders = Holders::default();
        for member in self.members() {
            holders.add(member);
            for held in [&member.held, &member.revoking] {
                let tasks = |tasks: &Tasks| {
                    let each =
                        tasks.iter().flat_map(|(id, its)| its.iter().map(move |it| (id, it)));
                    each.map(|(id, it)| (id.clone(), *it)).collect::<Vec<_>>()
                };
                let its = tasks(&tasks::plain(&held.active));
                for task in &its {
                    let other = active.insert(task.clone(), member.id.clone());
                    assert_eq!(other, None, "{task:?} is active twice: {self:?}");
                }
                for task in its.into_iter().chain(tasks(&held.standby)).chain(tasks(&held.warmup)) {
                    let place = (member.process_id.clone(), task);
                    assert!(in_process.insert(place.clone()), "{place:?} twice: {self:?}");
                }
            }
        }
        assert_eq!(holders, self.holders, "who holds what is counted along: {self:?}");
    }

    fn key(&self) -> GroupKey {
        GroupKey { group: self.id.to_string() }
    }

    fn member_key(&self, member: &str) -> MemberKey {
        MemberKey { group: self.id.to_string(), member: member.to_owned() }
    }

    fn epoch_record(&self, value: StreamsEpochValue) -> StreamsRecord {
        StreamsRecord::Epoch(self.key(), Some(value))
    }

    fn topology_record(&self, topology: TopologyValue) -> StreamsRecord {
        StreamsRecord::Topology(self.key(), Some(topology))
    }

    fn target_record(&self, epoch: i32, now: Millis) -> StreamsRecord {
        let value = TargetValue { assignment_epoch: epoch, assignment_timestamp: now };
        StreamsRecord::Target(self.key(), Some(value))
    }

    fn target_member_record(&self, member: &str, tasks: &TaskSet) -> StreamsRecord {
        let value = StreamsTargetMemberValue {
            active: tasks::to_ids(&tasks.active),
            standby: tasks::to_ids(&tasks.standby),
            warmup: tasks::to_ids(&tasks.warmup),
        };
        StreamsRecord::TargetMember(self.member_key(member), Some(value))
    }

    /// The records that delete the group.
    pub fn tombstones(&self) -> Vec<StreamsRecord> {
        let keys = || self.members.keys().map(|id| self.member_key(id));
        let mut records: Vec<_> = keys().map(|key| StreamsRecord::Current(key, None)).collect();
        records.extend(keys().map(|key| StreamsRecord::TargetMember(key, None)));
        records.push(StreamsRecord::Target(self.key(), None));
        records.extend(keys().map(|key| StreamsRecord::Member(key, None)));
        records.push(StreamsRecord::Epoch(self.key(), None));
        records.push(StreamsRecord::Topology(self.key(), None));
        records
    }
}
