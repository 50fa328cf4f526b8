//! The records of `__consumer_offsets` that groups and committed offsets are made of, as Kafka
//! 4.3.1 writes them: offsets and classic groups here, each newer kind of group in a file of its
//! own.
//!
//! A key is the record type (2 bytes) and the key's fields; a value is its version (2 bytes) and
//! the value's fields; a null value deletes what the key names. Every version of the two values is
//! read. Written are, as Kafka does: OffsetCommitValue 4, or 1 when the client asked for a
//! retention time of its own, and GroupMetadataValue 3.
//!
//! A type that is not known is named by [`Record::Other`], skipped when a partition is loaded, and
//! stays on disk.

mod consumer;
mod share;
mod streams;

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::types::{Millis, Offset};
use crate::wire::message::{Field, Malformed, Message};
pub use consumer::{
    Classic, ClassicMember, ClassicProtocol, ConsumerRecord, CurrentTopic, CurrentValue,
    EpochValue, GroupKey, MemberKey, MemberValue, PatternKey, PatternValue, TargetMemberValue,
    TargetTopic, TargetValue,
};
pub use share::{
    DeletingTopic, ShareCurrentValue, ShareEpochValue, ShareMemberValue, ShareRecord,
    ShareTopicPartitions, StatePartitionsTopic, StatePartitionsValue,
};
pub use streams::{
    CurrentTasks, StreamsCurrentValue, StreamsEpochValue, StreamsMemberValue, StreamsRecord,
    StreamsTargetMemberValue, TopologyValue,
};

crate::message! {
    /// Type 0 (until Kafka 0.9) and 1: an offset that a group committed for a partition.
    pub struct OffsetCommitKey (0, 0, flexible i16::MAX) {
        group: String [from 0],
        topic: String [from 0],
        partition: i32 [from 0],
    }

    /// What was committed.
    pub struct OffsetCommitValue (0, 4, flexible 4) {
        offset: Offset [from 0],
        leader_epoch: i32 [from 3, default -1],
        metadata: String [from 0],
        commit_timestamp: Millis [from 0],
        /// Only in version 1: when the offset expires, whatever the broker's retention says.
        expire_timestamp: Millis [from 1, until 1, default -1],
        topic_id: Uuid [from 4, tag 0],
    }

    /// Type 2: a classic group.
    pub struct GroupMetadataKey (0, 0, flexible i16::MAX) {
        group: String [from 0],
    }

    /// A generation of a classic group, or its being empty.
    pub struct GroupMetadataValue (0, 4, flexible 4) {
        protocol_type: String [from 0],
        generation: i32 [from 0],
        protocol: Option<String> [from 0],
        leader: Option<String> [from 0],
        current_state_timestamp: Millis [from 2, default -1],
        members: Vec<MemberMetadata> [from 0],
    }

    /// A member in a generation.
    pub struct MemberMetadata {
        member_id: String [from 0],
        group_instance_id: Option<String> [from 3],
        client_id: String [from 0],
        client_host: String [from 0],
        rebalance_timeout: i32 [from 1, default -1],
        session_timeout: i32 [from 0],
        subscription: Bytes [from 0],
        assignment: Bytes [from 0],
    }
}

const GROUP_METADATA_VERSION: i16 = 3;
const OFFSET_COMMIT_VERSION: i16 = 4;
const OFFSET_COMMIT_VERSION_WITH_EXPIRY: i16 = 1;

/// A record to be written, or one that was read: `None` deletes.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    Offset(OffsetCommitKey, Option<OffsetCommitValue>),
    Group(GroupMetadataKey, Option<GroupMetadataValue>),
    Consumer(ConsumerRecord),
    Share(ShareRecord),
    Streams(StreamsRecord),
    /// A record type that this broker does not build.
    Other(i16),
}

impl Record {
    pub fn group(group: &str, value: Option<GroupMetadataValue>) -> Self {
        Self::Group(GroupMetadataKey { group: group.to_owned() }, value)
    }

    pub fn offset(
        group: &str,
        topic: &str,
        partition: i32,
        value: Option<OffsetCommitValue>,
    ) -> Self {
        let (group, topic) = (group.to_owned(), topic.to_owned());
        Self::Offset(OffsetCommitKey { group, topic, partition }, value)
    }

    /// Key and value as they stand in the log; `None` for a type that is never written.
    pub fn encode(&self) -> Option<(Bytes, Option<Bytes>)> {
        Some(match self {
            Self::Offset(key, value) => {
                let version = match value {
                    Some(value) if value.expire_timestamp != -1 => {
                        OFFSET_COMMIT_VERSION_WITH_EXPIRY
                    }
                    _ => OFFSET_COMMIT_VERSION,
                };
                (encode_key(1, key), value.as_ref().map(|value| versioned(value, version)))
            }
            Self::Group(key, value) => {
                let value = value.as_ref().map(|value| versioned(value, GROUP_METADATA_VERSION));
                (encode_key(2, key), value)
            }
            Self::Consumer(record) => record.encode(),
            Self::Share(record) => record.encode(),
            Self::Streams(record) => record.encode(),
            Self::Other(_) => return None,
        })
    }

    pub fn decode(mut key: &[u8], value: Option<&[u8]>) -> Result<Self, Malformed> {
        let key = &mut key;
        match i16::take(key, 0, false)? {
            0 | 1 => Ok(Self::Offset(take_key(key)?, take_value(value)?)),
            2 => Ok(Self::Group(take_key(key)?, take_value(value)?)),
            kind => {
                if let Some(record) = ConsumerRecord::decode(kind, key, value)? {
                    return Ok(Self::Consumer(record));
                }
                if let Some(record) = ShareRecord::decode(kind, key, value)? {
                    return Ok(Self::Share(record));
                }
                let streams = StreamsRecord::decode(kind, key, value)?;
                Ok(streams.map_or(Self::Other(kind), Self::Streams))
            }
        }
    }
}

impl From<ShareRecord> for Record {
    fn from(record: ShareRecord) -> Self {
        Self::Share(record)
    }
}

impl From<ConsumerRecord> for Record {
    fn from(record: ConsumerRecord) -> Self {
        Self::Consumer(record)
    }
}

fn encode_key(kind: i16, key: &impl Message) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(kind);
    key.encode(0, &mut out);
    out.freeze()
}

/// A key of type `kind` with a value in version 0.
fn pair<K: Message, V: Message>(kind: i16, key: &K, value: Option<&V>) -> (Bytes, Option<Bytes>) {
    (encode_key(kind, key), value.map(|value| versioned(value, 0)))
}

fn take_key<K: Message>(key: &mut &[u8]) -> Result<K, Malformed> {
    K::decode(key, 0)
}

fn take_value<V: Message>(value: Option<&[u8]>) -> Result<Option<V>, Malformed> {
    value.map(take_versioned).transpose()
}

fn versioned<M: Message>(message: &M, version: i16) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(version);
    message.encode(version, &mut out);
    out.freeze()
}

fn take_versioned<M: Message>(mut value: &[u8]) -> Result<M, Malformed> {
    let version = i16::take(&mut value, 0, false)?;
    M::decode(&mut value, version)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn commit() -> OffsetCommitValue {
        OffsetCommitValue {
            offset: 42,
            leader_epoch: 3,
            metadata: "m".into(),
            commit_timestamp: 1_000,
            expire_timestamp: -1,
            topic_id: Uuid::from_u128(7),
        }
    }

    #[test]
    fn an_offset_is_written_in_version_4_with_the_topic_id_as_a_tag() {
        let (key, value) = Record::offset("g", "t", 5, Some(commit())).encode().unwrap();
        assert_eq!(&key[..], b"\0\x01\0\x01g\0\x01t\0\0\0\x05");
        let mut expected = Vec::new();
        expected.extend_from_slice(b"\0\x04\0\0\0\0\0\0\0\x2a\0\0\0\x03\x02m");
        expected.extend_from_slice(&1_000_i64.to_be_bytes());
        expected.extend_from_slice(b"\x01\0\x10");
        expected.extend_from_slice(Uuid::from_u128(7).as_bytes());
        assert_eq!(&value.unwrap()[..], &expected[..]);
    }

    #[test]
    fn an_offset_with_its_own_expiry_is_written_in_version_1_without_epoch_and_topic_id() {
        let value = OffsetCommitValue { expire_timestamp: 2_000, ..commit() };
        let record = Record::offset("g", "t", 5, Some(value.clone()));
        let (key, bytes) = record.encode().unwrap();
        let bytes = bytes.unwrap();
        assert_eq!(&bytes[..2], b"\0\x01");
        let read = OffsetCommitValue { leader_epoch: -1, topic_id: Uuid::nil(), ..value };
        assert_eq!(Record::decode(&key, Some(&bytes)), Ok(Record::offset("g", "t", 5, Some(read))));
    }

    #[test]
    fn the_key_of_the_oldest_kind_reads_as_an_offset() {
        let read = Record::decode(b"\0\0\0\x01g\0\x01t\0\0\0\x05", None);
        assert_eq!(read, Ok(Record::offset("g", "t", 5, None)));
    }

    #[test]
    fn an_unknown_kind_is_named_and_its_value_not_looked_at() {
        assert_eq!(Record::decode(b"\0\x63\0\x01g", Some(b"nonsense")), Ok(Record::Other(99)));
        assert_eq!(Record::Other(99).encode(), None);
    }

    fn members() -> impl Strategy<Value = MemberMetadata> {
        (".{0,9}", proptest::option::of("[a-z]{1,9}"), any::<i32>(), any::<Vec<u8>>()).prop_map(
            |(member_id, group_instance_id, timeout, data)| MemberMetadata {
                member_id,
                group_instance_id,
                client_id: "c".into(),
                client_host: "/127.0.0.1".into(),
                rebalance_timeout: timeout,
                session_timeout: timeout / 2,
                subscription: data.clone().into(),
                assignment: data.into(),
            },
        )
    }

    proptest! {
        #[test]
        fn a_group_reads_back_as_it_was_written(
            members in proptest::collection::vec(members(), 0..4),
            generation in any::<i32>(),
            protocol in proptest::option::of("[a-z]{1,9}"),
        ) {
            let value = GroupMetadataValue {
                protocol_type: "consumer".into(),
                generation,
                protocol: protocol.clone(),
                leader: protocol,
                current_state_timestamp: 5,
                members,
            };
            let record = Record::group("g", Some(value));
            let (key, value) = record.encode().unwrap();
            prop_assert_eq!(Record::decode(&key, value.as_deref()), Ok(record));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(key in any::<Vec<u8>>(), value in any::<Vec<u8>>()) {
            let _ = Record::decode(&key, Some(&value));
        }
    }
}
