//! A member of a consumer group: what it says of itself, and what it owns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use crate::coordinator::group::modern::Partitions;
use crate::coordinator::group::records::{
    Classic, ClassicMember, ConsumerRecord, CurrentTopic, CurrentValue, MemberKey, MemberValue,
};

/// Says good-bye.
pub const LEAVE: i32 = -1;
/// Says good-bye of a static member that will be back.
pub const LEAVE_STATIC: i32 = -2;

/// Where a member is on its way to the target assignment. The numbers are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    Stable,
    /// It must give up partitions before it may go on to the next epoch.
    UnrevokedPartitions,
    /// It is in the newest epoch, but others still hold partitions that it shall own.
    UnreleasedPartitions,
    /// Of a version that is newer than this one.
    Unknown,
}

impl MemberState {
    pub fn code(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::UnrevokedPartitions => 1,
            Self::UnreleasedPartitions => 2,
            Self::Unknown => 127,
        }
    }

    pub fn from_code(code: i8) -> Self {
        match code {
            0 => Self::Stable,
            1 => Self::UnrevokedPartitions,
            2 => Self::UnreleasedPartitions,
            _ => Self::Unknown,
        }
    }
}

/// Partitions by topic, each with the epoch in which it was assigned.
pub type Owned = BTreeMap<Uuid, BTreeMap<i32, i32>>;

#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub id: Arc<str>,
    pub epoch: i32,
    pub previous_epoch: i32,
    pub state: MemberState,
    pub instance_id: Option<String>,
    pub rack_id: Option<String>,
    pub rebalance_timeout_ms: i32,
    pub client_id: String,
    /// As Java prints an address: `/127.0.0.1`.
    pub client_host: String,
    pub topics: BTreeSet<String>,
    /// Empty for none; an old broker may have written null.
    pub pattern: Option<String>,
    pub assignor: Option<String>,
    pub assigned: Owned,
    /// Told to give up, and not yet known to have done so.
    pub revoking: Owned,
    /// Set when it speaks the classic protocol.
    pub classic: Option<ClassicMember>,
}

impl Member {
    pub fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            epoch: 0,
            previous_epoch: -1,
            state: MemberState::Stable,
            instance_id: None,
            rack_id: None,
            rebalance_timeout_ms: -1,
            client_id: String::new(),
            client_host: String::new(),
            topics: BTreeSet::new(),
            pattern: Some(String::new()),
            assignor: None,
            assigned: Owned::new(),
            revoking: Owned::new(),
            classic: None,
        }
    }

    /// The pattern that it subscribes to.
    pub fn pattern(&self) -> Option<&str> {
        self.pattern.as_deref().filter(|pattern| !pattern.is_empty())
    }

    pub fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == epoch
    }

    /// A static member that left and may come back.
    pub fn is_away(&self) -> bool {
        self.epoch == LEAVE_STATIC
    }

    pub fn is_classic(&self) -> bool {
        self.classic.is_some()
    }

    /// Of a member of the classic protocol.
    pub fn classic_session_timeout_ms(&self) -> Option<i32> {
        self.classic.as_ref().map(|classic| classic.session_timeout_ms)
    }

    /// Goes to another epoch, or stays with the one before remembered.
    pub fn enter(&mut self, epoch: i32) {
        self.previous_epoch = self.epoch;
        self.epoch = epoch;
    }

    /// In which epoch a partition was assigned that it owns, or has not yet given up.
    pub fn assignment_epoch(&self, topic: Uuid, partition: i32) -> Option<i32> {
        let of = |owned: &Owned| owned.get(&topic)?.get(&partition).copied();
        of(&self.assigned).or_else(|| of(&self.revoking))
    }

    /// All that others may not have.
    pub fn held(&self) -> impl Iterator<Item = (Uuid, i32)> {
        let held = self.assigned.iter().chain(&self.revoking);
        held.flat_map(|(topic, its)| its.keys().map(|partition| (*topic, *partition)))
    }

    pub fn key(&self, group: &str) -> MemberKey {
        MemberKey { group: group.to_owned(), member: self.id.to_string() }
    }

    /// The record of what it says of itself.
    pub fn record(&self, group: &str) -> ConsumerRecord {
        let value = MemberValue {
            instance_id: self.instance_id.clone(),
            rack_id: self.rack_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            subscribed_topic_names: self.topics.iter().cloned().collect(),
            subscribed_topic_regex: self.pattern.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            server_assignor: self.assignor.clone(),
            classic: Classic(self.classic.clone()),
        };
        ConsumerRecord::Member(self.key(group), Some(value))
    }

    /// The record of what it owns.
    pub fn current_record(&self, group: &str) -> ConsumerRecord {
        let value = CurrentValue {
            member_epoch: self.epoch,
            previous_member_epoch: self.previous_epoch,
            state: self.state.code(),
            assigned_partitions: to_record(&self.assigned),
            partitions_pending_revocation: to_record(&self.revoking),
        };
        ConsumerRecord::Current(self.key(group), Some(value))
    }

    pub(super) fn describe_by(&mut self, value: MemberValue) {
        self.instance_id = value.instance_id;
        self.rack_id = value.rack_id;
        self.client_id = value.client_id;
        self.client_host = value.client_host;
        self.topics = value.subscribed_topic_names.into_iter().collect();
        self.pattern = value.subscribed_topic_regex;
        self.rebalance_timeout_ms = value.rebalance_timeout_ms;
        self.assignor = value.server_assignor;
        self.classic = value.classic.0;
    }

    pub(super) fn own_by(&mut self, value: CurrentValue) {
        self.epoch = value.member_epoch;
        self.previous_epoch = value.previous_member_epoch;
        self.state = MemberState::from_code(value.state);
        self.assigned = from_record(value.assigned_partitions, value.member_epoch);
        self.revoking = from_record(value.partitions_pending_revocation, value.member_epoch);
    }

    /// It owns nothing any more.
    pub(super) fn own_nothing(&mut self) {
        (self.epoch, self.previous_epoch) = (LEAVE, LEAVE);
        self.assigned.clear();
        self.revoking.clear();
    }
}

fn to_record(owned: &Owned) -> Vec<CurrentTopic> {
    let topic = |(topic_id, its): (&Uuid, &BTreeMap<i32, i32>)| CurrentTopic {
        topic_id: *topic_id,
        partitions: its.keys().copied().collect(),
        assignment_epochs: Some(its.values().copied().collect()),
    };
    owned.iter().map(topic).collect()
}

/// An older broker wrote no epochs: the member's counts then.
fn from_record(topics: Vec<CurrentTopic>, member_epoch: i32) -> Owned {
    let topic = |topic: CurrentTopic| {
        let count = topic.partitions.len();
        let epochs = topic.assignment_epochs.filter(|epochs| epochs.len() == count);
        let epochs = epochs.unwrap_or_else(|| vec![member_epoch.max(0); count]);
        (topic.topic_id, topic.partitions.into_iter().zip(epochs).collect())
    };
    topics.into_iter().map(topic).collect()
}

/// Without the epochs.
pub fn partitions(owned: &Owned) -> Partitions {
    owned.iter().map(|(topic, its)| (*topic, its.keys().copied().collect())).collect()
}
