//! Reads a partition of an internal topic into a fresh shard.
//!
//! A record that cannot be read is skipped with a warning: Kafka does so, and one bad record must
//! not take a fiftieth of all groups away. What was written in transactions is given to the shard
//! as such, and so are the ends of transactions.

use bytes::Bytes;

use super::shard::CoordinatorShard;
use super::state_log::StateLog;
use crate::env::planted;
use crate::error::Refusal;
use crate::types::LeaderEpoch;
use crate::wire::records::{BatchView, Batches, ControlKind, RecordsError};

/// More than any batch that a broker takes.
const MAX_DECOMPRESSED: usize = 64 << 20;

/// Loads `partition`, which this broker leads since `epoch`.
pub(super) async fn load<S: CoordinatorShard>(
    log: &dyn StateLog,
    partition: i32,
    epoch: LeaderEpoch,
) -> Result<S, Refusal> {
    let mut loading = Loading { partition, shard: S::new(partition, epoch) };
    log.load(S::TOPIC, partition, epoch, &mut |bytes| loading.take(&bytes)).await?;
    Ok(loading.shard)
}

struct Loading<S> {
    partition: i32,
    shard: S,
}

impl<S: CoordinatorShard> Loading<S> {
    fn take(&mut self, bytes: &Bytes) {
        for batch in Batches::new(bytes) {
            if let Err(error) = batch.and_then(|batch| self.take_batch(&batch)) {
                let (topic, partition) = (S::TOPIC, self.partition);
                tracing::warn!(topic, partition, %error, "a batch is skipped");
            }
        }
    }

    fn take_batch(&mut self, batch: &BatchView<'_>) -> Result<(), RecordsError> {
        let producer = batch.is_transactional().then(|| batch.producer_id());
        let records = batch.records(MAX_DECOMPRESSED)?;
        for record in &records {
            let record = record?;
            let Some(key) = record.key else { continue };
            if planted!(TombstonesNotReplayed) && record.value.is_none() {
                continue;
            }
            if batch.is_control() {
                match ControlKind::of_key(key) {
                    Some(ControlKind::Commit) => self.shard.load_end(batch.producer_id(), true),
                    Some(ControlKind::Abort) => self.shard.load_end(batch.producer_id(), false),
                    _ => {}
                }
            } else if let Err(error) = self.shard.load(key, record.value, producer, record.offset) {
                let (topic, partition, offset) = (S::TOPIC, self.partition, record.offset);
                tracing::warn!(topic, partition, offset, %error, "a record is skipped");
            }
        }
        Ok(())
    }
}
