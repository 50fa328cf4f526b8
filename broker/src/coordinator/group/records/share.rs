//! The records of a share group's members (KIP-932), types 10 to 15.
//!
//! Their keys and some values have the shapes of a consumer group's.

use bytes::Bytes;
use uuid::Uuid;

use super::consumer::{GroupKey, MemberKey, TargetMemberValue, TargetValue};
use super::{pair, take_key, take_value};
use crate::wire::message::Malformed;

crate::message! {
    /// Type 10: a member, as it describes itself.
    pub struct ShareMemberValue (0, 0, flexible 0) {
        rack_id: Option<String> [from 0],
        client_id: String [from 0],
        client_host: String [from 0],
        subscribed_topic_names: Vec<String> [from 0],
    }

    /// Type 11: the group.
    pub struct ShareEpochValue (0, 0, flexible 0) {
        epoch: i32 [from 0],
        metadata_hash: i64 [from 0],
    }

    /// Type 14: what a member has been assigned.
    pub struct ShareCurrentValue (0, 0, flexible 0) {
        member_epoch: i32 [from 0],
        previous_member_epoch: i32 [from 0],
        state: i8 [from 0],
        assigned_partitions: Vec<ShareTopicPartitions> [from 0],
    }
    pub struct ShareTopicPartitions {
        topic_id: Uuid [from 0],
        partitions: Vec<i32> [from 0],
    }

    /// Type 15: of which partitions the share coordinator keeps state.
    pub struct StatePartitionsValue (0, 0, flexible 0) {
        initializing: Vec<StatePartitionsTopic> [from 0],
        initialized: Vec<StatePartitionsTopic> [from 0],
        deleting: Vec<DeletingTopic> [from 0],
    }
    pub struct StatePartitionsTopic {
        topic_id: Uuid [from 0],
        name: String [from 0],
        partitions: Vec<i32> [from 0],
    }
    pub struct DeletingTopic {
        topic_id: Uuid [from 0],
        name: String [from 0],
    }
}

/// A record of a share group; `None` deletes.
#[derive(Debug, Clone, PartialEq)]
pub enum ShareRecord {
    Member(MemberKey, Option<ShareMemberValue>),
    Epoch(GroupKey, Option<ShareEpochValue>),
    Target(GroupKey, Option<TargetValue>),
    TargetMember(MemberKey, Option<TargetMemberValue>),
    Current(MemberKey, Option<ShareCurrentValue>),
    StatePartitions(GroupKey, Option<StatePartitionsValue>),
}

impl ShareRecord {
    pub fn group(&self) -> &str {
        match self {
            Self::Epoch(key, _) | Self::Target(key, _) | Self::StatePartitions(key, _) => {
                &key.group
            }
            Self::Member(key, _) | Self::TargetMember(key, _) | Self::Current(key, _) => &key.group,
        }
    }

    pub fn is_tombstone(&self) -> bool {
        match self {
            Self::Member(_, value) => value.is_none(),
            Self::Epoch(_, value) => value.is_none(),
            Self::Target(_, value) => value.is_none(),
            Self::TargetMember(_, value) => value.is_none(),
            Self::Current(_, value) => value.is_none(),
            Self::StatePartitions(_, value) => value.is_none(),
        }
    }

    pub(super) fn encode(&self) -> (Bytes, Option<Bytes>) {
        match self {
            Self::Member(key, value) => pair(10, key, value.as_ref()),
            Self::Epoch(key, value) => pair(11, key, value.as_ref()),
            Self::Target(key, value) => pair(12, key, value.as_ref()),
            Self::TargetMember(key, value) => pair(13, key, value.as_ref()),
            Self::Current(key, value) => pair(14, key, value.as_ref()),
            Self::StatePartitions(key, value) => pair(15, key, value.as_ref()),
        }
    }

    /// `None` when `kind` is none of these.
    pub(super) fn decode(
        kind: i16,
        key: &mut &[u8],
        value: Option<&[u8]>,
    ) -> Result<Option<Self>, Malformed> {
        Ok(Some(match kind {
            10 => Self::Member(take_key(key)?, take_value(value)?),
            11 => Self::Epoch(take_key(key)?, take_value(value)?),
            12 => Self::Target(take_key(key)?, take_value(value)?),
            13 => Self::TargetMember(take_key(key)?, take_value(value)?),
            14 => Self::Current(take_key(key)?, take_value(value)?),
            15 => Self::StatePartitions(take_key(key)?, take_value(value)?),
            _ => return Ok(None),
        }))
    }
}
