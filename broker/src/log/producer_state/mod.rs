//! What each idempotent or transactional producer last wrote into a partition.
//!
//! Follows Kafka's ProducerStateManager. Two steps: [`ProducerState::check`] judges the batches of
//! an append against the state and collects the changes; [`ProducerState::commit`] takes the
//! changes over once the bytes are in the log. A snapshot of the map at offset `n` says all about
//! the batches below `n`.
//!
//! Transactions: the first offset of each ongoing one, and, until the high watermark has passed the
//! marker, of each that ended, make the first unstable offset, which read-committed readers do not
//! pass. The first transactional batch of a producer needs a [`Guard`]: the word that the
//! transaction coordinator knows of it ([`verification`], KIP-890).

mod snapshot;
#[cfg(test)]
mod tests;
mod verification;

use std::collections::{BTreeMap, VecDeque};

pub(super) use snapshot::{decode, encode};
use verification::Verifications;
pub use verification::{Appending, Guard};

use super::aborted::AbortedTransaction;
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
    /// Producers whose transaction has begun or ended: a verification on its way is void.
    verified: Vec<i64>,
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
    /// Of transactions whose marker may not be committed yet: the first offset, and the marker's.
    unreplicated: BTreeMap<Offset, Offset>,
    pub(super) verifications: Verifications,
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
                let mut producer = producer;
                if let Some(start) = producer.transaction_start {
                    state.ongoing.insert(start, id);
                }
                if planted!(SnapshotLosesTransactions) {
                    producer.transaction_start = None;
                }
                state.producers.insert(id, producer);
            }
        }
        state
    }

    pub(super) fn producers(&self) -> &BTreeMap<i64, Producer> {
        &self.producers
    }

    /// The first offset of an ongoing transaction.
    pub(super) fn first_undecided(&self) -> Option<Offset> {
        self.ongoing.first_key_value().map(|(offset, _)| *offset)
    }

    /// The first offset that a read-committed reader may not pass: of a transaction that is ongoing,
    /// or whose marker is not known to be committed.
    pub(super) fn first_unstable(&self) -> Option<Offset> {
        let unreplicated = self.unreplicated.first_key_value().map(|(offset, _)| *offset);
        self.first_undecided().into_iter().chain(unreplicated).min()
    }

    pub(super) fn has_unreplicated(&self) -> bool {
        !self.unreplicated.is_empty()
    }

    /// All below `offset` is committed.
    pub(super) fn on_high_watermark(&mut self, offset: Offset) {
        self.unreplicated.retain(|_, marker| *marker >= offset);
    }

    /// What the last stable offset is once `done` has ended, as the transaction index records it.
    pub(super) fn stable_after(&self, done: &CompletedTransaction) -> Offset {
        let other = self.ongoing.iter().find(|(_, producer)| **producer != done.producer_id);
        other.map_or(done.last_offset + 1, |(first, _)| *first)
    }

    /// The producer is in a transaction, which it began in this epoch.
    pub(super) fn has_ongoing(&self, id: i64, epoch: i16) -> bool {
        let known = self.producers.get(&id);
        known.is_some_and(|known| known.epoch == epoch && known.transaction_start.is_some())
    }

    pub(super) fn expire(&mut self, now: Millis, after: Millis) {
        self.producers.retain(|_, producer| !producer.expired(now, after));
        self.verifications.expire(now, after);
    }

    /// Judges `batches`, whose offsets are those that they will have.
    pub(super) fn check<'a>(
        &self,
        batches: impl Iterator<Item = BatchView<'a>>,
        appending: impl Into<Appending>,
    ) -> Result<Verdict, Refusal> {
        let appending = appending.into();
        let origin = appending.origin;
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
            if batch.is_transactional() {
                self.check_verified(&batch, known, appending)?;
                changes.verified.push(id);
            }
            let updated = changes
                .producers
                .entry(id)
                .or_insert_with(|| known.cloned().unwrap_or_else(Producer::unknown));
            if batch.is_control() {
                if let Some(done) = end_transaction(updated, &batch, appending)? {
                    changes.completed.push(done);
                }
                continue;
            }
            if origin == Origin::Client {
                self.verifications.check_sequence(&batch, known)?;
            }
            if let Some(started) = add_data(updated, known.is_some(), &batch, origin)? {
                changes.started.push((started, id));
            }
        }
        Ok(Verdict::Append(changes))
    }

    /// Returns what the index of aborted transactions gains. It must have that before a reader
    /// learns of the new first unstable offset.
    pub(super) fn commit(&mut self, changes: Changes, end: Offset) -> Vec<AbortedTransaction> {
        self.producers.extend(changes.producers);
        self.ongoing.extend(changes.started);
        for id in changes.verified {
            self.verifications.clear(id);
        }
        let mut aborted = Vec::new();
        for done in &changes.completed {
            if done.aborted {
                aborted.push(AbortedTransaction {
                    producer_id: done.producer_id,
                    first_offset: done.first_offset,
                    last_offset: done.last_offset,
                    last_stable_offset: self.stable_after(done),
                });
            }
            self.ongoing.remove(&done.first_offset);
            self.unreplicated.insert(done.first_offset, done.last_offset);
        }
        self.end = end;
        aborted
    }

    /// For recovery and followers, where nothing is refused. Returns what [`Self::commit`] does.
    pub(super) fn replay(&mut self, batch: &BatchView<'_>) -> Vec<AbortedTransaction> {
        match self.check(std::iter::once(*batch), Origin::Replication) {
            Ok(Verdict::Append(mut changes)) => {
                if planted!(FollowerForgetsOpenTransactions) {
                    changes.started.clear();
                }
                self.commit(changes, batch.next_offset())
            }
            Ok(Verdict::Duplicate(_)) | Err(_) => {
                self.end = batch.next_offset();
                Vec::new()
            }
        }
    }

    /// A transactional batch is of a transaction that is ongoing here, or the coordinator was asked.
    fn check_verified(
        &self,
        batch: &BatchView<'_>,
        known: Option<&Producer>,
        appending: Appending,
    ) -> Result<(), Refusal> {
        let (id, epoch) = (batch.producer_id(), batch.producer_epoch());
        if appending.is_trusted() || self.has_ongoing(id, epoch) {
            return Ok(());
        }
        if let Some(known) = known.filter(|known| epoch < known.epoch)
            && !planted!(FencedEpochAccepted)
        {
            return Err(verification::old_epoch(id, epoch, known.epoch));
        }
        if planted!(LateProduceUnverified) {
            return Ok(());
        }
        if batch.is_control() || !appending.needs_guard() {
            return Ok(());
        }
        self.verifications.check(id, appending.guard)
    }

    /// The first step of a verification: what the append must show once the coordinator has
    /// agreed. `None`: the transaction is ongoing, nothing is to be verified.
    pub(super) fn start_verification(
        &mut self,
        (id, epoch): (i64, i16),
        sequence: i32,
        supports_epoch_bump: bool,
        now: Millis,
    ) -> Result<Option<Guard>, Refusal> {
        if self.has_ongoing(id, epoch) {
            return Ok(None);
        }
        if let Some(known) = self.producers.get(&id).filter(|known| epoch < known.epoch)
            && !planted!(FencedEpochAccepted)
        {
            return Err(verification::old_epoch(id, epoch, known.epoch));
        }
        if planted!(LateProduceUnverified) {
            return Ok(None);
        }
        let guard = self.verifications.start(id, epoch, sequence, supports_epoch_bump, now);
        Ok(Some(guard))
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
    let planted = planted!(FencedEpochAccepted) && batch.is_transactional() && !batch.is_control();
    if origin == Origin::Replication || batch.producer_epoch() >= producer.epoch || planted {
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

/// A marker of a transaction of version 2 has a new epoch. One that comes twice, because the answer
/// to it was lost, may come in the same, when it finds nothing to end.
fn check_marker_epoch(
    producer: &Producer,
    batch: &BatchView<'_>,
    appending: Appending,
) -> Result<(), Refusal> {
    let repeats = appending.transaction_version >= 2
        && batch.producer_epoch() == producer.epoch
        && producer.transaction_start.is_some()
        && appending.origin != Origin::Replication;
    if !repeats {
        return check_epoch(producer, batch, appending.origin);
    }
    Err(Refusal::new(
        ErrorCode::InvalidProducerEpoch,
        format!(
            "a marker of producer {} in epoch {}, in which its transaction is ongoing",
            batch.producer_id(),
            batch.producer_epoch()
        ),
    ))
}

fn end_transaction(
    producer: &mut Producer,
    batch: &BatchView<'_>,
    appending: Appending,
) -> Result<Option<CompletedTransaction>, Refusal> {
    let origin = appending.origin;
    let records = batch.records(crate::wire::records::MAX_DECOMPRESSED)?;
    // None: all of the transaction was cleaned away.
    let Some(record) = records.first()? else { return Ok(None) };
    let Some(marker) = EndTransactionMarker::of(&record) else { return Ok(None) };
    check_marker_epoch(producer, batch, appending)?;
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
