//! What each idempotent or transactional producer last wrote into a partition.
//!
//! Follows Kafka's ProducerStateManager. Two steps: [`ProducerState::check`] judges the batches of
//! an append against the state and collects the changes; [`ProducerState::commit`] takes the
//! changes over once the bytes are in the log. A snapshot of the map at offset `n` says all about
//! the batches below `n`.
//!
//! Transactions' fields (ongoing transactions, coordinator epoch) are kept right already, also from
//! control batches; the transaction index and verification are not built yet.

mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

pub(super) use snapshot::{decode, encode};

use crate::env::planted;
use crate::error::{ErrorCode, Refusal};
use crate::types::{Millis, Offset};
use crate::wire::records::{
    BatchView, EndTransactionMarker, NO_PRODUCER_EPOCH, NO_SEQUENCE, NO_TIMESTAMP,
};

/// How many batches back a duplicate is recognised.
const REMEMBERED: usize = 5;

/// One batch that a producer wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenBatch {
    pub last_sequence: i32,
    pub last_offset: Offset,
    pub offset_delta: i32,
    pub timestamp: Millis,
}

impl WrittenBatch {
    pub fn first_sequence(&self) -> i32 {
        let first = i64::from(self.last_sequence) - i64::from(self.offset_delta);
        (if first < 0 { first + (1 << 31) } else { first }) as i32
    }
    pub fn first_offset(&self) -> Offset {
        self.last_offset - i64::from(self.offset_delta)
    }
}

/// One producer's state; what DescribeProducers shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    pub epoch: i16,
    pub coordinator_epoch: i32,
    pub last_timestamp: Millis,
    pub transaction_start: Option<Offset>,
    /// Oldest first, at most five, all of the current epoch.
    pub batches: VecDeque<WrittenBatch>,
}

impl Producer {
    fn unknown() -> Self {
        Self {
            epoch: NO_PRODUCER_EPOCH,
            coordinator_epoch: -1,
            last_timestamp: NO_TIMESTAMP,
            transaction_start: None,
            batches: VecDeque::new(),
        }
    }
    pub fn last_sequence(&self) -> i32 {
        self.batches.back().map_or(NO_SEQUENCE, |batch| batch.last_sequence)
    }
    fn remember(&mut self, epoch: i16, batch: WrittenBatch) {
        self.enter(epoch);
        if self.batches.len() == REMEMBERED {
            self.batches.pop_front();
        }
        self.batches.push_back(batch);
        self.last_timestamp = batch.timestamp;
    }
    fn enter(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.batches.clear();
            self.epoch = epoch;
        }
    }
    fn duplicate_of(&self, batch: &BatchView<'_>) -> Option<WrittenBatch> {
        if batch.producer_epoch() != self.epoch {
            return None;
        }
        let (first, last) = (batch.base_sequence(), batch.last_sequence());
        let same = |old: &&WrittenBatch| old.first_sequence() == first && old.last_sequence == last;
        self.batches.iter().find(same).copied()
    }
    fn expired(&self, now: Millis, after: Millis) -> bool {
        self.transaction_start.is_none() && now.saturating_sub(self.last_timestamp) >= after
    }
}

/// Who appends, which decides what is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Client,
    Coordinator,
    /// The metadata log's leader: batches carry their epoch already, sizes are not bounded here.
    Raft,
    /// A follower, or recovery: what the leader accepted is not judged again.
    Replication,
}

/// A transaction that a marker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletedTransaction {
    pub producer_id: i64,
    pub first_offset: Offset,
    pub last_offset: Offset,
    pub aborted: bool,
}

/// The changes that an append would make.
#[derive(Debug, Default)]
pub(super) struct Changes {
    producers: BTreeMap<i64, Producer>,
    started: Vec<(Offset, i64)>,
    pub(super) completed: Vec<CompletedTransaction>,
}

/// What [`ProducerState::check`] says to an append that is not refused.
#[derive(Debug)]
pub(super) enum Verdict {
    Append(Changes),
    /// This very batch was appended before.
    Duplicate(WrittenBatch),
}

#[derive(Debug, Default, Clone)]
pub(super) struct ProducerState {
    producers: BTreeMap<i64, Producer>,
    /// Ongoing transactions by first offset.
    ongoing: BTreeMap<Offset, i64>,
    /// All batches below are in the map.
    pub(super) end: Offset,
    /// Where the newest snapshot was taken.
    pub(super) snapshot_at: Offset,
}

impl ProducerState {
    pub(super) fn starting_at(offset: Offset) -> Self {
        Self { end: offset, snapshot_at: offset, ..Self::default() }
    }

    pub(super) fn from_snapshot(
        at: Offset,
        entries: Vec<(i64, Producer)>,
        now: Millis,
        expire_after: Millis,
    ) -> Self {
        let mut state = Self::starting_at(at);
        for (id, producer) in entries {
            if !producer.expired(now, expire_after) {
                if let Some(start) = producer.transaction_start {
                    state.ongoing.insert(start, id);
                }
                state.producers.insert(id, producer);
            }
        }
        state
    }

    pub(super) fn producers(&self) -> &BTreeMap<i64, Producer> {
        &self.producers
    }

    /// The first offset that a read-committed reader may not pass, if a transaction is ongoing.
    pub(super) fn first_undecided(&self) -> Option<Offset> {
        self.ongoing.first_key_value().map(|(offset, _)| *offset)
    }

    pub(super) fn expire(&mut self, now: Millis, after: Millis) {
        self.producers.retain(|_, producer| !producer.expired(now, after));
    }

    /// Judges `batches`, whose offsets are those that they will have.
    pub(super) fn check<'a>(
        &self,
        batches: impl Iterator<Item = BatchView<'a>>,
        origin: Origin,
    ) -> Result<Verdict, Refusal> {
        let mut changes = Changes::default();
        for batch in batches {
            if !batch.has_producer_id() {
                continue;
            }
            let id = batch.producer_id();
            let known = self.producers.get(&id);
            if origin == Origin::Client
                && !planted!(SequenceNotChecked)
                && let Some(duplicate) = known.and_then(|known| known.duplicate_of(&batch))
            {
                return Ok(Verdict::Duplicate(duplicate));
            }
            let updated = changes
                .producers
                .entry(id)
                .or_insert_with(|| known.cloned().unwrap_or_else(Producer::unknown));
            if batch.is_control() {
                if let Some(done) = end_transaction(updated, &batch, origin)? {
                    changes.completed.push(done);
                }
            } else if let Some(started) = add_data(updated, known.is_some(), &batch, origin)? {
                changes.started.push((started, id));
            }
        }
        Ok(Verdict::Append(changes))
    }

    pub(super) fn commit(&mut self, changes: Changes, end: Offset) {
        self.producers.extend(changes.producers);
        self.ongoing.extend(changes.started);
        for done in &changes.completed {
            self.ongoing.remove(&done.first_offset);
        }
        self.end = end;
    }

    /// For recovery and followers, where nothing is refused.
    pub(super) fn replay(&mut self, batch: &BatchView<'_>) {
        match self.check(std::iter::once(*batch), Origin::Replication) {
            Ok(Verdict::Append(changes)) => self.commit(changes, batch.next_offset()),
            Ok(Verdict::Duplicate(_)) | Err(_) => self.end = batch.next_offset(),
        }
    }
}

fn add_data(
    producer: &mut Producer,
    was_known: bool,
    batch: &BatchView<'_>,
    origin: Origin,
) -> Result<Option<Offset>, Refusal> {
    check_epoch(producer, batch, origin)?;
    if origin == Origin::Client {
        check_sequence(producer, was_known, batch)?;
    }
    producer.remember(
        batch.producer_epoch(),
        WrittenBatch {
            last_sequence: batch.last_sequence(),
            last_offset: batch.last_offset(),
            offset_delta: batch.last_offset_delta(),
            timestamp: batch.max_timestamp(),
        },
    );
    match (producer.transaction_start, batch.is_transactional()) {
        (Some(_), false) if origin != Origin::Replication => Err(Refusal::new(
            ErrorCode::InvalidTxnState,
            format!("producer {} is in a transaction, the batch is not", batch.producer_id()),
        )),
        (None, true) => {
            producer.transaction_start = Some(batch.base_offset());
            Ok(Some(batch.base_offset()))
        }
        _ => Ok(None),
    }
}

fn check_epoch(producer: &Producer, batch: &BatchView<'_>, origin: Origin) -> Result<(), Refusal> {
    if origin == Origin::Replication || batch.producer_epoch() >= producer.epoch {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorCode::InvalidProducerEpoch,
        format!(
            "epoch {} of producer {} is smaller than the last seen epoch {}",
            batch.producer_epoch(),
            batch.producer_id(),
            producer.epoch
        ),
    ))
}

/// A producer of which nothing is known (its records may all have been deleted) may start anywhere;
/// a known one starts at 0 in a new epoch, and goes on without a gap in the same.
fn check_sequence(
    producer: &Producer,
    was_known: bool,
    batch: &BatchView<'_>,
) -> Result<(), Refusal> {
    let next = batch.base_sequence();
    let in_order = if batch.producer_epoch() == producer.epoch {
        let last = producer.last_sequence();
        i64::from(next) == i64::from(last) + 1 || (next == 0 && last == i32::MAX)
    } else {
        next == 0 || producer.epoch == NO_PRODUCER_EPOCH
    };
    if in_order || planted!(SequenceNotChecked) || (!was_known && producer.batches.is_empty()) {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorCode::OutOfOrderSequenceNumber,
        format!(
            "out of order sequence number of producer {}: {next} in epoch {}, after {} in epoch {}",
            batch.producer_id(),
            batch.producer_epoch(),
            producer.last_sequence(),
            producer.epoch
        ),
    ))
}

fn end_transaction(
    producer: &mut Producer,
    batch: &BatchView<'_>,
    origin: Origin,
) -> Result<Option<CompletedTransaction>, Refusal> {
    let records = batch.records(crate::wire::records::MAX_DECOMPRESSED)?;
    // None: all of the transaction was cleaned away.
    let Some(record) = records.first()? else { return Ok(None) };
    let Some(marker) = EndTransactionMarker::of(&record) else { return Ok(None) };
    check_epoch(producer, batch, origin)?;
    if origin != Origin::Replication && producer.coordinator_epoch > marker.coordinator_epoch {
        return Err(Refusal::new(
            ErrorCode::TransactionCoordinatorFenced,
            format!(
                "coordinator epoch {} is older than {}",
                marker.coordinator_epoch, producer.coordinator_epoch
            ),
        ));
    }
    let done = producer.transaction_start.take().map(|first_offset| CompletedTransaction {
        producer_id: batch.producer_id(),
        first_offset,
        last_offset: batch.base_offset(),
        aborted: !marker.committed,
    });
    producer.enter(batch.producer_epoch());
    producer.coordinator_epoch = marker.coordinator_epoch;
    producer.last_timestamp = record.timestamp;
    Ok(done)
}
