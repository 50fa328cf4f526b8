//! The records of `__transaction_state`, as Kafka 4.3.1 writes them.
//!
//! A key is the record type (2 bytes, always 0) and the transactional id; a value is its version
//! (2 bytes) and its fields; a null value forgets the id. Version 0 is written while the feature
//! transaction.version is at 0, else version 1, whose new fields are tagged.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};

use super::state::{State, Transaction};
use crate::types::{Millis, TopicPartition};
use crate::wire::message::{Field, Malformed, Message};

crate::message! {
    /// Type 0.
    pub struct TransactionLogKey (0, 0, flexible i16::MAX) {
        transactional_id: String [from 0],
    }

    /// What is known of a transactional id.
    pub struct TransactionLogValue (0, 1, flexible 1) {
        producer_id: i64 [from 0],
        previous_producer_id: i64 [from 1, tag 0, default -1],
        next_producer_id: i64 [from 1, tag 1, default -1],
        producer_epoch: i16 [from 0],
        next_producer_epoch: i16 [from 1, tag 3, default -1],
        transaction_timeout: i32 [from 0],
        transaction_status: i8 [from 0],
        /// Null for a transaction that is empty.
        partitions: Option<Vec<TransactionPartitions>> [from 0],
        last_update: Millis [from 0],
        start: Millis [from 0],
        client_transaction_version: i16 [from 1, tag 2, default 0],
    }

    /// The partitions of one topic.
    pub struct TransactionPartitions {
        topic: String [from 0],
        partition_ids: Vec<i32> [from 0],
    }
}

/// The type of the only kind of key.
const TRANSACTION: i16 = 0;

/// A record to be written, or one that was read: without a transaction it forgets the id.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub transactional_id: String,
    /// With the version of the value that it is written in.
    pub transaction: Option<(Transaction, i16)>,
}

impl Record {
    pub fn encode(&self) -> (Bytes, Option<Bytes>) {
        let mut key = BytesMut::new();
        key.put_i16(TRANSACTION);
        TransactionLogKey { transactional_id: self.transactional_id.clone() }.encode(0, &mut key);
        let value = self.transaction.as_ref().map(|(transaction, version)| {
            let mut value = BytesMut::new();
            value.put_i16(*version);
            value_of(transaction).encode(*version, &mut value);
            value.freeze()
        });
        (key.freeze(), value)
    }

    /// `None` for a kind of key that Kafka 4.3.1 does not know either.
    pub fn decode(mut key: &[u8], value: Option<&[u8]>) -> Result<Option<Self>, Malformed> {
        if i16::take(&mut key, 0, false)? != TRANSACTION {
            return Ok(None);
        }
        let TransactionLogKey { transactional_id } = TransactionLogKey::decode(&mut key, 0)?;
        let transaction = value.map(|mut value| {
            let version = i16::take(&mut value, 0, false)?;
            let value = TransactionLogValue::decode(&mut value, version)?;
            Ok((transaction_of(value)?, version))
        });
        Ok(Some(Self { transactional_id, transaction: transaction.transpose()? }))
    }
}

fn value_of(transaction: &Transaction) -> TransactionLogValue {
    let partitions = (transaction.state != State::Empty).then(|| {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for at in &transaction.partitions {
            topics.entry(&at.topic).or_default().push(at.partition);
        }
        let topic = |(topic, partition_ids): (&str, _)| TransactionPartitions {
            topic: topic.to_owned(),
            partition_ids,
        };
        topics.into_iter().map(topic).collect()
    });
    TransactionLogValue {
        producer_id: transaction.producer_id,
        previous_producer_id: transaction.previous_producer_id,
        next_producer_id: transaction.next_producer_id,
        producer_epoch: transaction.epoch,
        next_producer_epoch: -1,
        transaction_timeout: transaction.timeout_ms,
        transaction_status: transaction.state as i8,
        partitions,
        last_update: transaction.updated,
        start: transaction.started,
        client_transaction_version: transaction.client_version,
    }
}

fn transaction_of(value: TransactionLogValue) -> Result<Transaction, Malformed> {
    let state = State::from_id(value.transaction_status)
        .ok_or(Malformed::Other("a transaction is in a state that does not exist"))?;
    let topics = value.partitions.unwrap_or_default().into_iter();
    let partitions = topics.flat_map(|topic| {
        let name: std::sync::Arc<str> = topic.topic.into();
        topic.partition_ids.into_iter().map(move |id| TopicPartition::new(name.clone(), id))
    });
    Ok(Transaction {
        producer_id: value.producer_id,
        previous_producer_id: value.previous_producer_id,
        next_producer_id: value.next_producer_id,
        epoch: value.producer_epoch,
        // It is not kept: a retry that spans a change of coordinators fails, as in Kafka.
        last_epoch: -1,
        timeout_ms: value.transaction_timeout,
        state,
        partitions: if state == State::Empty { BTreeSet::new() } else { partitions.collect() },
        started: value.start,
        updated: value.last_update,
        client_version: value.client_transaction_version,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn transactions() -> impl Strategy<Value = Transaction> {
        let ids = (any::<i64>(), any::<i64>(), any::<i64>(), any::<i16>());
        let places = proptest::collection::btree_set(("[a-z]{1,3}", 0..9), 0..6);
        (ids, 0..=5i8, any::<i32>(), places, any::<(Millis, Millis)>(), 0..=2i16).prop_map(
            |(ids, state, timeout_ms, places, (started, updated), client_version)| {
                let state = State::from_id(state).unwrap();
                let places = places.iter().map(|(topic, id)| TopicPartition::new(&**topic, *id));
                Transaction {
                    producer_id: ids.0,
                    previous_producer_id: ids.1,
                    next_producer_id: ids.2,
                    epoch: ids.3,
                    last_epoch: -1,
                    timeout_ms,
                    state,
                    partitions: places.filter(|_| state != State::Empty).collect(),
                    started,
                    updated,
                    client_version,
                }
            },
        )
    }

    #[test]
    fn a_first_record_is_written_as_kafka_writes_it() {
        let transaction = Transaction {
            producer_id: 1_000,
            previous_producer_id: 1_000,
            epoch: 0,
            timeout_ms: 60_000,
            started: -1,
            updated: 5,
            ..Transaction::created(1_000, 60_000, 5)
        };
        let record = Record {
            transactional_id: "tx".to_owned(),
            transaction: Some((transaction.clone(), 1)),
        };
        let (key, value) = record.encode();
        assert_eq!(&key[..], b"\0\0\0\x02tx");
        let mut expected = vec![0, 1];
        expected.extend(1_000i64.to_be_bytes());
        expected.extend([0, 0]);
        expected.extend(60_000i32.to_be_bytes());
        expected.extend([0, 0]); // Empty, and no partitions
        expected.extend(5i64.to_be_bytes());
        expected.extend((-1i64).to_be_bytes());
        expected.extend([1, 0, 8]); // one tagged field: the previous producer id
        expected.extend(1_000i64.to_be_bytes());
        assert_eq!(value.unwrap(), expected);
        let old = Record { transaction: Some((transaction, 0)), ..record };
        let value = old.encode().1.unwrap();
        assert_eq!(value.len(), 2 + 8 + 2 + 4 + 1 + 4 + 8 + 8);
    }

    #[test]
    fn an_unknown_kind_of_key_is_none_of_ours() {
        assert_eq!(Record::decode(b"\0\x01\0\x01x", Some(b"nonsense")), Ok(None));
    }

    proptest! {
        #[test]
        fn a_transaction_reads_back_as_it_was_written(transaction in transactions(), old: bool) {
            let version = i16::from(!old);
            let record = Record {
                transactional_id: "tx".to_owned(),
                transaction: Some((transaction.clone(), version)),
            };
            let (key, value) = record.encode();
            let read = Record::decode(&key, value.as_deref()).unwrap().unwrap();
            let expected = if old {
                Transaction {
                    previous_producer_id: -1,
                    next_producer_id: -1,
                    client_version: 0,
                    ..transaction
                }
            } else {
                transaction
            };
            prop_assert_eq!(read.transaction, Some((expected, version)));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(key in any::<Vec<u8>>(), value in any::<Vec<u8>>()) {
            let _ = Record::decode(&key, Some(&value));
            let _ = Record::decode(b"\0\0\0\x01x", Some(&value));
        }
    }
}
