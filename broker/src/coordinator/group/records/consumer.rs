//! The records of a consumer group (KIP-848), types 3 to 8 and 16.
//!
//! Written as Kafka 4.3.1 does: the hash of the topics stands in the group's own record (KIP-1101),
//! so that type 4 is only ever deleted; epochs of partitions stand in the current assignment.

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::{pair, take_key, take_value};
use crate::types::Millis;
use crate::wire::message::{Field, Malformed};

crate::message! {
    /// Types 3, 4 and 6.
    pub struct GroupKey (0, 0, flexible i16::MAX) {
        group: String [from 0],
    }

    /// Types 5, 7 and 8.
    pub struct MemberKey (0, 0, flexible i16::MAX) {
        group: String [from 0],
        member: String [from 0],
    }

    /// Type 16.
    pub struct PatternKey (0, 0, flexible i16::MAX) {
        group: String [from 0],
        pattern: String [from 0],
    }

    /// Type 3: the group.
    pub struct EpochValue (0, 0, flexible 0) {
        epoch: i32 [from 0],
        metadata_hash: i64 [from 0, tag 0],
    }

    /// Type 5: a member, as it describes itself.
    pub struct MemberValue (0, 0, flexible 0) {
        instance_id: Option<String> [from 0],
        rack_id: Option<String> [from 0],
        client_id: String [from 0],
        client_host: String [from 0],
        subscribed_topic_names: Vec<String> [from 0],
        subscribed_topic_regex: Option<String> [from 0],
        rebalance_timeout_ms: i32 [from 0, default -1],
        server_assignor: Option<String> [from 0],
        // Kafka's code takes a value of its own for the default, and so writes that there is none.
        classic: Classic [from 0, tag 0, default Classic(Some(ClassicMember::default()))],
    }

    /// A member that speaks the classic protocol.
    pub struct ClassicMember {
        session_timeout_ms: i32 [from 0],
        supported_protocols: Vec<ClassicProtocol> [from 0],
    }

    pub struct ClassicProtocol {
        name: String [from 0],
        metadata: Bytes [from 0],
    }

    /// Type 6: for which group epoch the target assignment was computed, and when.
    pub struct TargetValue (0, 0, flexible 0) {
        assignment_epoch: i32 [from 0],
        assignment_timestamp: Millis [from 0, tag 0],
    }

    /// Type 7: what a member shall own.
    pub struct TargetMemberValue (0, 0, flexible 0) {
        topic_partitions: Vec<TargetTopic> [from 0],
    }

    pub struct TargetTopic {
        topic_id: Uuid [from 0],
        partitions: Vec<i32> [from 0],
    }

    /// Type 8: what a member owns.
    pub struct CurrentValue (0, 0, flexible 0) {
        member_epoch: i32 [from 0],
        previous_member_epoch: i32 [from 0],
        state: i8 [from 0],
        assigned_partitions: Vec<CurrentTopic> [from 0],
        partitions_pending_revocation: Vec<CurrentTopic> [from 0],
    }

    pub struct CurrentTopic {
        topic_id: Uuid [from 0],
        partitions: Vec<i32> [from 0],
        /// In which epoch each was assigned.
        assignment_epochs: Option<Vec<i32>> [from 0, tag 0],
    }

    /// Type 16: what a pattern was last found to match.
    pub struct PatternValue (0, 0, flexible 0) {
        topics: Vec<String> [from 0],
        version: i64 [from 0],
        timestamp: Millis [from 0],
    }
}

/// A nullable struct: a byte, and the struct unless that is 0.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Classic(pub Option<ClassicMember>);

impl Field for Classic {
    fn put(&self, out: &mut BytesMut, version: i16, flexible: bool) {
        out.extend_from_slice(&[u8::from(self.0.is_some())]);
        if let Some(member) = &self.0 {
            member.put(out, version, flexible);
        }
    }

    fn take(input: &mut &[u8], version: i16, flexible: bool) -> Result<Self, Malformed> {
        match i8::take(input, version, flexible)? {
            0 => Ok(Self(None)),
            _ => ClassicMember::take(input, version, flexible).map(|it| Self(Some(it))),
        }
    }
}

/// A record of a consumer group; `None` deletes.
#[derive(Debug, Clone, PartialEq)]
pub enum ConsumerRecord {
    Epoch(GroupKey, Option<EpochValue>),
    /// Of Kafka before 4.1. Whether it is there; what it holds is of no use any more.
    Metadata(GroupKey, bool),
    Member(MemberKey, Option<MemberValue>),
    Target(GroupKey, Option<TargetValue>),
    TargetMember(MemberKey, Option<TargetMemberValue>),
    Current(MemberKey, Option<CurrentValue>),
    Pattern(PatternKey, Option<PatternValue>),
}

impl ConsumerRecord {
    pub fn group(&self) -> &str {
        match self {
            Self::Epoch(key, _) | Self::Metadata(key, _) | Self::Target(key, _) => &key.group,
            Self::Member(key, _) | Self::TargetMember(key, _) | Self::Current(key, _) => &key.group,
            Self::Pattern(key, _) => &key.group,
        }
    }

    pub fn is_tombstone(&self) -> bool {
        match self {
            Self::Epoch(_, value) => value.is_none(),
            Self::Metadata(_, there) => !there,
            Self::Member(_, value) => value.is_none(),
            Self::Target(_, value) => value.is_none(),
            Self::TargetMember(_, value) => value.is_none(),
            Self::Current(_, value) => value.is_none(),
            Self::Pattern(_, value) => value.is_none(),
        }
    }

    pub(super) fn encode(&self) -> (Bytes, Option<Bytes>) {
        match self {
            Self::Epoch(key, value) => pair(3, key, value.as_ref()),
            Self::Metadata(key, _) => pair::<_, EpochValue>(4, key, None),
            Self::Member(key, value) => pair(5, key, value.as_ref()),
            Self::Target(key, value) => pair(6, key, value.as_ref()),
            Self::TargetMember(key, value) => pair(7, key, value.as_ref()),
            Self::Current(key, value) => pair(8, key, value.as_ref()),
            Self::Pattern(key, value) => pair(16, key, value.as_ref()),
        }
    }

    /// `None` when `kind` is none of these.
    pub(super) fn decode(
        kind: i16,
        key: &mut &[u8],
        value: Option<&[u8]>,
    ) -> Result<Option<Self>, Malformed> {
        Ok(Some(match kind {
            3 => Self::Epoch(take_key(key)?, take_value(value)?),
            4 => Self::Metadata(take_key(key)?, value.is_some()),
            5 => Self::Member(take_key(key)?, take_value(value)?),
            6 => Self::Target(take_key(key)?, take_value(value)?),
            7 => Self::TargetMember(take_key(key)?, take_value(value)?),
            8 => Self::Current(take_key(key)?, take_value(value)?),
            16 => Self::Pattern(take_key(key)?, take_value(value)?),
            _ => return Ok(None),
        }))
    }
}
