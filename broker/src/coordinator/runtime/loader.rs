//! Reads a partition of `__consumer_offsets` into a fresh shard.
//!
//! A record that cannot be read is skipped with a warning: Kafka does so, and one bad record must
//! not take a fiftieth of all groups away. Offsets that Kafka committed in transactions count from
//! the transaction's end; those of transactions that are still open are dropped with a warning,
//! because transactions are not built.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::state_log::StateLog;
use crate::coordinator::group::records::Record;
use crate::coordinator::group::shard::Shard;
use crate::error::Refusal;
use crate::types::LeaderEpoch;
use crate::wire::records::{BatchView, Batches, ControlKind, RecordsError};

/// More than any batch that a broker takes.
const MAX_DECOMPRESSED: usize = 64 << 20;

/// Loads `partition`, which this broker leads since `epoch`.
pub(super) async fn load(
    log: &dyn StateLog,
    partition: i32,
    epoch: LeaderEpoch,
) -> Result<Shard, Refusal> {
    let mut loading = Loading { partition, ..Loading::default() };
    log.load(partition, epoch, &mut |bytes| loading.take(&bytes)).await?;
    Ok(loading.finish())
}

#[derive(Default)]
struct Loading {
    partition: i32,
    shard: Shard,
    /// By producer id.
    open: BTreeMap<i64, Vec<Record>>,
    skipped: BTreeMap<i16, usize>,
}

impl Loading {
    fn take(&mut self, bytes: &Bytes) {
        for batch in Batches::new(bytes) {
            let taken = batch.and_then(|batch| self.take_batch(&batch));
            if let Err(error) = taken {
                tracing::warn!(partition = self.partition, %error, "a batch of offsets is skipped");
            }
        }
    }

    fn take_batch(&mut self, batch: &BatchView<'_>) -> Result<(), RecordsError> {
        let records = batch.records(MAX_DECOMPRESSED)?;
        for record in &records {
            let record = record?;
            let Some(key) = record.key else { continue };
            if batch.is_control() {
                self.end_transaction(batch.producer_id(), key);
                continue;
            }
            match Record::decode(key, record.value) {
                Ok(Record::Other(kind)) => *self.skipped.entry(kind).or_default() += 1,
                Ok(record) if batch.is_transactional() => {
                    self.open.entry(batch.producer_id()).or_default().push(record);
                }
                Ok(record) => {
                    self.supersede(&record);
                    self.shard.load(record);
                }
                Err(error) => {
                    let (partition, offset) = (self.partition, record.offset);
                    tracing::warn!(partition, offset, %error, "a record of offsets is skipped");
                }
            }
        }
        Ok(())
    }

    /// An offset of an open transaction does not win over what was written after it.
    fn supersede(&mut self, newer: &Record) {
        if let Record::Offset(newer, _) = newer {
            for records in self.open.values_mut() {
                records.retain(|it| !matches!(it, Record::Offset(older, _) if older == newer));
            }
        }
    }

    fn end_transaction(&mut self, producer: i64, key: &[u8]) {
        let records = self.open.remove(&producer).unwrap_or_default();
        if ControlKind::of_key(key) == Some(ControlKind::Commit) {
            for record in records {
                self.shard.load(record);
            }
        }
    }

    fn finish(self) -> Shard {
        let partition = self.partition;
        for (kind, count) in self.skipped {
            tracing::warn!(partition, kind, count, "records of groups that are not built stay");
        }
        if !self.open.is_empty() {
            let transactions = self.open.len();
            tracing::warn!(partition, transactions, "offsets of open transactions are dropped");
        }
        self.shard
    }
}
