//! The records of a streams group (KIP-1071), types 17 and 19 to 23.
//!
//! Kafka 4.3.1 has no type 18: it stands as [`Record::Other`](super::Record::Other), as any type
//! that is not known. The keys have the shapes of a consumer group's.

use bytes::Bytes;

use super::consumer::{GroupKey, MemberKey, TargetValue};
use super::{pair, take_key, take_value};
use crate::wire::message::Malformed;
use crate::wire::streams::{Endpoint, KeyValue, OrNull, Subtopology, TaskIds};

crate::message! {
    /// Type 17: the group.
    pub struct StreamsEpochValue (0, 0, flexible 0) {
        epoch: i32 [from 0],
        metadata_hash: i64 [from 0],
        /// -1 while topics are missing or do not fit.
        validated_topology_epoch: i32 [from 0, tag 0, default -1],
        last_assignment_configs: Option<Vec<KeyValue>> [from 0, tag 1],
    }

    /// Type 19: a member, as it describes itself.
    pub struct StreamsMemberValue (0, 0, flexible 0) {
        instance_id: Option<String> [from 0],
        rack_id: Option<String> [from 0],
        client_id: String [from 0],
        client_host: String [from 0],
        rebalance_timeout_ms: i32 [from 0, default -1],
        topology_epoch: i32 [from 0],
        process_id: String [from 0],
        user_endpoint: OrNull<Endpoint> [from 0],
        client_tags: Vec<KeyValue> [from 0],
    }

    /// Type 21: what a member shall own.
    pub struct StreamsTargetMemberValue (0, 0, flexible 0) {
        active: Vec<TaskIds> [from 0],
        standby: Vec<TaskIds> [from 0],
        warmup: Vec<TaskIds> [from 0],
    }

    /// Type 22: what a member owns.
    pub struct StreamsCurrentValue (0, 0, flexible 0) {
        member_epoch: i32 [from 0],
        previous_member_epoch: i32 [from 0],
        state: i8 [from 0],
        active: Vec<CurrentTasks> [from 0],
        standby: Vec<CurrentTasks> [from 0],
        warmup: Vec<CurrentTasks> [from 0],
        revoking_active: Vec<CurrentTasks> [from 0],
        revoking_standby: Vec<CurrentTasks> [from 0],
        revoking_warmup: Vec<CurrentTasks> [from 0],
    }

    pub struct CurrentTasks {
        subtopology: String [from 0],
        partitions: Vec<i32> [from 0],
        /// In which epoch each was assigned; of active tasks only.
        assignment_epochs: Option<Vec<i32>> [from 0, tag 0],
    }

    /// Type 23: the topology.
    pub struct TopologyValue (0, 0, flexible 0) {
        epoch: i32 [from 0],
        subtopologies: Vec<Subtopology> [from 0],
    }
}

/// A record of a streams group; `None` deletes.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamsRecord {
    Epoch(GroupKey, Option<StreamsEpochValue>),
    Member(MemberKey, Option<StreamsMemberValue>),
    Target(GroupKey, Option<TargetValue>),
    TargetMember(MemberKey, Option<StreamsTargetMemberValue>),
    Current(MemberKey, Option<StreamsCurrentValue>),
    Topology(GroupKey, Option<TopologyValue>),
}

impl StreamsRecord {
    pub fn group(&self) -> &str {
        match self {
            Self::Epoch(key, _) | Self::Target(key, _) | Self::Topology(key, _) => &key.group,
            Self::Member(key, _) | Self::TargetMember(key, _) | Self::Current(key, _) => &key.group,
        }
    }

    pub fn is_tombstone(&self) -> bool {
        match self {
            Self::Epoch(_, value) => value.is_none(),
            Self::Member(_, value) => value.is_none(),
            Self::Target(_, value) => value.is_none(),
            Self::TargetMember(_, value) => value.is_none(),
            Self::Current(_, value) => value.is_none(),
            Self::Topology(_, value) => value.is_none(),
        }
    }

    pub(super) fn encode(&self) -> (Bytes, Option<Bytes>) {
        match self {
            Self::Epoch(key, value) => pair(17, key, value.as_ref()),
            Self::Member(key, value) => pair(19, key, value.as_ref()),
            Self::Target(key, value) => pair(20, key, value.as_ref()),
            Self::TargetMember(key, value) => pair(21, key, value.as_ref()),
            Self::Current(key, value) => pair(22, key, value.as_ref()),
            Self::Topology(key, value) => pair(23, key, value.as_ref()),
        }
    }

    /// `None` when `kind` is none of these.
    pub(super) fn decode(
        kind: i16,
        key: &mut &[u8],
        value: Option<&[u8]>,
    ) -> Result<Option<Self>, Malformed> {
        Ok(Some(match kind {
            17 => Self::Epoch(take_key(key)?, take_value(value)?),
            19 => Self::Member(take_key(key)?, take_value(value)?),
            20 => Self::Target(take_key(key)?, take_value(value)?),
            21 => Self::TargetMember(take_key(key)?, take_value(value)?),
            22 => Self::Current(take_key(key)?, take_value(value)?),
            23 => Self::Topology(take_key(key)?, take_value(value)?),
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Record;
    use super::*;

    fn group() -> GroupKey {
        GroupKey { group: "g".into() }
    }

    fn member() -> MemberKey {
        MemberKey { group: "g".into(), member: "m".into() }
    }

    #[test]
    fn every_record_reads_back_as_it_was_written_and_so_does_its_tombstone() {
        let tasks = |epochs| CurrentTasks {
            subtopology: "0".into(),
            partitions: vec![0, 1],
            assignment_epochs: epochs,
        };
        let current = StreamsCurrentValue {
            member_epoch: 3,
            previous_member_epoch: 2,
            state: 2,
            active: vec![tasks(Some(vec![2, 3]))],
            revoking_standby: vec![tasks(None)],
            ..StreamsCurrentValue::default()
        };
        let config = KeyValue { key: "num.standby.replicas".into(), value: "1".into() };
        let epoch = StreamsEpochValue {
            epoch: 3,
            metadata_hash: -5,
            validated_topology_epoch: 0,
            last_assignment_configs: Some(vec![config]),
        };
        let endpoint = Endpoint { host: "h".into(), port: 1 };
        let described = StreamsMemberValue {
            process_id: "p".into(),
            user_endpoint: OrNull(Some(endpoint)),
            ..StreamsMemberValue::default()
        };
        for record in [
            StreamsRecord::Epoch(group(), Some(epoch)),
            StreamsRecord::Epoch(group(), None),
            StreamsRecord::Member(member(), Some(described)),
            StreamsRecord::Member(member(), None),
            StreamsRecord::Target(group(), Some(TargetValue::default())),
            StreamsRecord::Target(group(), None),
            StreamsRecord::TargetMember(member(), Some(StreamsTargetMemberValue::default())),
            StreamsRecord::TargetMember(member(), None),
            StreamsRecord::Current(member(), Some(current)),
            StreamsRecord::Current(member(), None),
            StreamsRecord::Topology(group(), Some(TopologyValue::default())),
            StreamsRecord::Topology(group(), None),
        ] {
            let (key, value) = Record::Streams(record.clone()).encode().unwrap();
            let read = Record::decode(&key, value.as_deref());
            assert_eq!(read, Ok(Record::Streams(record)));
        }
    }

    #[test]
    fn a_group_whose_topics_are_valid_says_so_in_tagged_fields() {
        let value = StreamsEpochValue {
            epoch: 2,
            metadata_hash: 1,
            validated_topology_epoch: 0,
            last_assignment_configs: Some(Vec::new()),
        };
        let record = StreamsRecord::Epoch(group(), Some(value));
        let (key, value) = record.encode();
        assert_eq!(&key[..], b"\0\x11\0\x01g");
        let expected = b"\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\x02\0\x04\0\0\0\0\x01\x01\x01";
        assert_eq!(&value.unwrap()[..], expected);
    }

    #[test]
    fn type_18_is_left_alone() {
        assert_eq!(Record::decode(b"\0\x12\0\x01g", None), Ok(Record::Other(18)));
    }
}
