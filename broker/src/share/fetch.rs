//! A ShareFetch's reading part: takes its turn at share partitions, reads their logs, lets them be
//! acquired, and waits while there is too little.
//!
//! A request that finds less than its `min_bytes` registers with all its share partitions, and with
//! their high watermarks, and is woken by either; only its deadline is a timer. Invariants: between
//! choosing where to read and acquiring, no other fetch has the share partition's turn; a group sees
//! nothing past the high watermark (read-committed: the last stable offset); records are the log's
//! own bytes, whole batches, cut where acquired records begin and end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::partition::{Acquired, Ask, Limits, LogBatch, Mode};
use super::sessions::TopicIdPartition;
use super::settings::GroupConfig;
use super::shares::Shares;
use super::slot::{Slot, Stage};
use crate::error::{ErrorCode, Refusal};
use crate::log::AbortedTransaction;
use crate::replica::read::{aborted, unreadable};
use crate::types::Offset;
use crate::wire::records::{BatchView, Batches};

/// What one ShareFetch wants.
#[derive(Debug, Clone)]
pub struct ShareFetch {
    pub group: String,
    pub member: String,
    /// In the order in which they are served.
    pub partitions: Vec<TopicIdPartition>,
    pub mode: Mode,
    pub batch_size: i64,
    pub max_records: i64,
    pub min_bytes: usize,
    pub max_bytes: usize,
    pub max_wait: Duration,
}

/// Records that were acquired of one partition; both may be empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fetched {
    pub records: Bytes,
    pub acquired: Vec<Acquired>,
}

/// The outcome for those partitions that have one.
pub type Outcome = Vec<(TopicIdPartition, Result<Fetched, Refusal>)>;

/// What the log has for a fetch: whole batches, and for a read-committed group the transactions
/// among them that were aborted.
#[derive(Debug, Default)]
struct Found {
    records: Bytes,
    aborted: Vec<AbortedTransaction>,
}

impl Found {
    fn batches(&self) -> Vec<LogBatch> {
        let is_aborted = |batch: &BatchView<'_>| {
            let (producer_id, base) = (batch.producer_id(), batch.base_offset());
            batch.is_transactional()
                && !batch.is_control()
                && self.aborted.iter().any(|it| {
                    it.producer_id == producer_id
                        && (it.first_offset..it.last_offset).contains(&base)
                })
        };
        Batches::new(&self.records)
            .map_while(Result::ok)
            .map(|it| LogBatch {
                base: it.base_offset(),
                last: it.last_offset(),
                aborted: is_aborted(&it),
            })
            .collect()
    }
}

/// A fetch's turn at one share partition; over when it is dropped.
struct Turn {
    at: TopicIdPartition,
    slot: Arc<Slot>,
    from: Offset,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut inner = self.slot.inner.lock();
        if let Stage::Active(partition) = &mut inner.stage {
            partition.end_fetch();
        }
        if std::mem::take(&mut inner.contended) {
            drop(inner);
            self.slot.changed.wake();
        }
    }
}

struct Serving<'a> {
    shares: &'a Shares,
    ask: ShareFetch,
    read_committed: bool,
    slots: Vec<(TopicIdPartition, Arc<Slot>)>,
    outcome: Outcome,
}

/// Reads and acquires, after at most `max_wait`.
pub async fn serve(shares: &Shares, ask: ShareFetch) -> Outcome {
    if ask.partitions.is_empty() || ask.max_records <= 0 || ask.max_bytes == 0 {
        return Vec::new();
    }
    let image = shares.image();
    let settings = &shares.partitions.context.settings;
    let read_committed = GroupConfig::of(&image, settings, &ask.group).reads_committed();
    let serving = Serving { shares, ask, read_committed, slots: Vec::new(), outcome: Vec::new() };
    serving.run().await
}

impl Serving<'_> {
    async fn run(mut self) -> Outcome {
        for at in std::mem::take(&mut self.ask.partitions) {
            match self.shares.open(&self.ask.group, at) {
                Ok(slot) => self.slots.push((at, slot)),
                Err(refusal) => self.outcome.push((at, Err(refusal))),
            }
        }
        if self.slots.is_empty() {
            return self.outcome;
        }
        let clock = self.shares.partitions.context.env.clock.clone();
        let deadline = clock.now() + self.ask.max_wait;
        let waiter = Arc::new(Notify::new());
        let mut registered = false;
        loop {
            let is_late = clock.now() >= deadline;
            if self.attempt(is_late).await || is_late {
                return self.outcome;
            }
            if !registered {
                // What happened since the attempt is found by one more.
                for (_, slot) in &self.slots {
                    slot.changed.add(&waiter);
                    slot.partition.on_commit.add(&waiter);
                }
                registered = true;
                continue;
            }
            tokio::select! {
                biased;
                () = waiter.notified() => registered = false,
                () = clock.sleep_until(deadline) => {}
            }
        }
    }

    /// Whether there is enough to answer.
    async fn attempt(&mut self, is_late: bool) -> bool {
        let limits = self.shares.limits(&self.ask.group);
        let turns = self.take_turns(&limits);
        if turns.is_empty() {
            return !self.outcome.is_empty();
        }
        let share = self.ask.max_bytes / turns.len();
        let mut rest = self.ask.max_bytes % turns.len();
        let (mut found, mut bytes, mut failed) = (Vec::with_capacity(turns.len()), 0, false);
        for turn in turns {
            let read = self.read(&turn, share + std::mem::take(&mut rest)).await;
            bytes += read.as_ref().map_or(0, |found| found.records.len());
            failed |= read.is_err();
            found.push((turn, read));
        }
        let any = failed || !self.outcome.is_empty() || is_late;
        if bytes < self.ask.min_bytes.max(1) && !any {
            return false;
        }
        let mut left = self.ask.max_records;
        for (turn, read) in found {
            let fetched = self.acquire(&turn, read, &mut left, &limits);
            self.outcome.push((turn.at, fetched));
        }
        true
    }

    /// Takes its turn where it can; what is gone is told.
    fn take_turns(&mut self, limits: &Limits) -> Vec<Turn> {
        let mut turns = Vec::new();
        let outcome = &mut self.outcome;
        self.slots.retain(|(at, slot)| {
            let mut inner = slot.inner.lock();
            let from = match &mut inner.stage {
                Stage::Loading => None,
                Stage::Gone(why) => {
                    outcome.push((*at, Err(why.clone())));
                    return false;
                }
                Stage::Active(partition) if partition.is_fetched_from() => {
                    inner.contended = true;
                    None
                }
                Stage::Active(partition) => partition.begin_fetch(limits),
            };
            if let Some(from) = from {
                turns.push(Turn { at: *at, slot: slot.clone(), from });
            }
            true
        });
        turns
    }

    async fn read(&self, turn: &Turn, limit: usize) -> Result<Found, Refusal> {
        let partition = &turn.slot.partition;
        partition.check_leader(turn.slot.epoch).map_err(|_| ErrorCode::NotLeaderOrFollower)?;
        let up_to = if self.read_committed {
            partition.last_stable_offset()
        } else {
            partition.high_watermark()
        };
        let env = &self.shares.partitions.context.env;
        let (from, log) = (turn.from, partition.log());
        let read = match log.read(from, limit, up_to, true) {
            Ok(Some(records)) => Ok(records),
            Ok(None) => env.blocking(move || log.read_cold(from, limit, up_to, true)).await,
            Err(error) => Err(error),
        };
        let records = read.map_err(|error| unreadable(partition, error))?;
        if !self.read_committed || records.is_empty() {
            return Ok(Found { records, aborted: Vec::new() });
        }
        let aborted = aborted(env, partition, from, &records).await;
        let aborted = aborted.map_err(|error| unreadable(partition, error))?;
        Ok(Found { records, aborted })
    }

    fn acquire(
        &self,
        turn: &Turn,
        read: Result<Found, Refusal>,
        left: &mut i64,
        limits: &Limits,
    ) -> Result<Fetched, Refusal> {
        let slot = &turn.slot;
        let mut inner = slot.inner.lock();
        let Stage::Active(partition) = &mut inner.stage else { return Ok(Fetched::default()) };
        let found = match read {
            Ok(found) => found,
            Err(refusal) if refusal.code == ErrorCode::OffsetOutOfRange => {
                // The log begins later now. There is no error that the member could do without.
                partition.log_start_moved(slot.partition.log().start_offset());
                self.shares.schedule(slot, &mut inner);
                return Ok(Fetched::default());
            }
            Err(refusal) => return Err(refusal),
        };
        let ask = Ask {
            member: self.ask.member.as_str().into(),
            mode: self.ask.mode,
            batch_size: self.ask.batch_size,
            max_records: *left,
            from: turn.from,
        };
        let got = partition.acquire(&ask, &found.batches(), limits, self.shares.now());
        self.shares.schedule(slot, &mut inner);
        let (Some(first), Some(last)) = (got.records.first(), got.records.last()) else {
            return Ok(Fetched::default());
        };
        *left -= got.count;
        let records = cut(&found.records, first.first, last.last);
        drop(inner);
        // Others may want what is left of it.
        slot.changed.wake();
        Ok(Fetched { records, acquired: got.records })
    }
}

/// The batches that hold `first` to `last`.
fn cut(records: &Bytes, first: Offset, last: Offset) -> Bytes {
    let (mut from, mut to) = (0, 0);
    for batch in Batches::new(records).map_while(Result::ok) {
        if batch.base_offset() > last {
            break;
        }
        if batch.last_offset() < first {
            from += batch.size();
        }
        to += batch.size();
    }
    records.slice(from.min(to)..to)
}
