//! The records of `__share_group_state`, in Kafka's own bytes, so that a Kafka broker can take the
//! topic over, and the reverse.
//!
//! A key begins with its type (2 bytes), a value with its version (2 bytes). A snapshot (type 0)
//! replaces all that was known of a share partition, without a value it deletes it; an update
//! (type 1) changes some of it. Deliberately absent: any other type; the log's loader skips them.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::types::{LeaderEpoch, Millis, Offset};
use crate::wire::message::{Field, Malformed, Message};

crate::message! {
    /// Names a share partition: a group's view of a partition. The key of both types.
    pub struct ShareKey (0, 0, flexible i16::MAX) {
        group: String [from 0],
        topic_id: Uuid [from 0],
        partition: i32 [from 0],
    }

    /// All that is kept of a share partition.
    pub struct ShareSnapshotValue (0, 0, flexible 0) {
        snapshot_epoch: i32 [from 0],
        state_epoch: i32 [from 0],
        leader_epoch: LeaderEpoch [from 0],
        start_offset: Offset [from 0],
        done: i32 [from 0, tag 0, default -1],
        create_timestamp: Millis [from 0],
        write_timestamp: Millis [from 0],
        state_batches: Vec<StateBatch> [from 0],
    }

    /// What has changed since the snapshot of the same epoch. A start of -1 is no change.
    pub struct ShareUpdateValue (0, 0, flexible 0) {
        snapshot_epoch: i32 [from 0],
        leader_epoch: LeaderEpoch [from 0],
        start_offset: Offset [from 0],
        done: i32 [from 0, tag 0, default -1],
        state_batches: Vec<StateBatch> [from 0],
    }

    /// Neighbouring records in one state: 0 available, 2 acknowledged, 4 archived.
    pub struct StateBatch {
        first: Offset [from 0],
        last: Offset [from 0],
        state: i8 [from 0],
        deliveries: i16 [from 0],
    }
}

impl Copy for StateBatch {}
impl Eq for ShareKey {}

impl PartialOrd for ShareKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ShareKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |it: &Self| (it.topic_id, it.partition);
        self.group.cmp(&other.group).then(key(self).cmp(&key(other)))
    }
}

const SNAPSHOT: i16 = 0;
const UPDATE: i16 = 1;

/// A record to be written, or one that was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// `None` deletes.
    Snapshot(ShareKey, Option<ShareSnapshotValue>),
    Update(ShareKey, ShareUpdateValue),
    /// A record type that this broker does not build.
    Other(i16),
}

impl Record {
    pub fn encode(&self) -> Option<(Bytes, Option<Bytes>)> {
        let (kind, key, value) = match self {
            Self::Snapshot(key, value) => (SNAPSHOT, key, value.as_ref().map(versioned)),
            Self::Update(key, value) => (UPDATE, key, Some(versioned(value))),
            Self::Other(_) => return None,
        };
        let mut out = BytesMut::new();
        out.put_i16(kind);
        key.encode(0, &mut out);
        Some((out.freeze(), value))
    }

    pub fn decode(mut key: &[u8], value: Option<&[u8]>) -> Result<Self, Malformed> {
        let input = &mut key;
        match i16::take(input, 0, false)? {
            SNAPSHOT => {
                let key = ShareKey::decode(input, 0)?;
                Ok(Self::Snapshot(key, value.map(take_versioned).transpose()?))
            }
            UPDATE => {
                let key = ShareKey::decode(input, 0)?;
                let value = value.ok_or(Malformed::Other("an update without a value"))?;
                Ok(Self::Update(key, take_versioned(value)?))
            }
            other => Ok(Self::Other(other)),
        }
    }
}

fn versioned<M: Message>(message: &M) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(0);
    message.encode(0, &mut out);
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

    fn key() -> ShareKey {
        ShareKey { group: "g".into(), topic_id: Uuid::from_u128(7), partition: 5 }
    }

    #[test]
    fn a_snapshot_is_written_as_kafka_writes_it() {
        let state_batches = vec![StateBatch { first: 3, last: 4, state: 2, deliveries: 1 }];
        let value = ShareSnapshotValue {
            snapshot_epoch: 1,
            state_epoch: 2,
            leader_epoch: 3,
            start_offset: 3,
            done: 2,
            create_timestamp: 9,
            write_timestamp: 10,
            state_batches,
        };
        let (written, value) = Record::Snapshot(key(), Some(value)).encode().unwrap();
        let mut expected = b"\0\0\0\x01g".to_vec();
        expected.extend_from_slice(Uuid::from_u128(7).as_bytes());
        expected.extend_from_slice(&5_i32.to_be_bytes());
        assert_eq!(&written[..], &expected[..]);
        let mut expected = b"\0\0\0\0\0\x01\0\0\0\x02\0\0\0\x03".to_vec();
        for number in [3_i64, 9, 10] {
            expected.extend_from_slice(&number.to_be_bytes());
        }
        expected.push(2); // one batch
        expected.extend_from_slice(&3_i64.to_be_bytes());
        expected.extend_from_slice(&4_i64.to_be_bytes());
        expected.extend_from_slice(b"\x02\0\x01\0\x01\0\x04\0\0\0\x02");
        assert_eq!(&value.unwrap()[..], &expected[..]);
    }

    proptest! {
        #[test]
        fn an_update_reads_back_as_it_was_written(
            batches in proptest::collection::vec((any::<i64>(), any::<i64>(), 0..5i8), 0..5),
            start_offset in any::<i64>(),
            done in -1..9i32,
        ) {
            let batch = |(first, last, state)| StateBatch { first, last, state, deliveries: 1 };
            let state_batches = batches.into_iter().map(batch).collect();
            let (snapshot_epoch, leader_epoch) = (1, 2);
            let value =
                ShareUpdateValue { snapshot_epoch, leader_epoch, start_offset, done, state_batches };
            let record = Record::Update(key(), value);
            let (key, value) = record.encode().unwrap();
            prop_assert_eq!(Record::decode(&key, value.as_deref()), Ok(record));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(key in any::<Vec<u8>>(), value in any::<Vec<u8>>()) {
            let _ = Record::decode(&key, Some(&value));
        }
    }
}
