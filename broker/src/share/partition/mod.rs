//! A share partition: who has which records of a partition, on behalf of one share group (KIP-932).
//!
//! Pure: no I/O, no clock, no locks. Each method takes what happened, and the time where it counts,
//! and returns the [`Effects`] that the driver carries out. Records are never looked at, only the
//! offsets of their batches.
//!
//! The share-partition start offset (SPSO) is the first record that may still be delivered, the end
//! offset the last one that was ever acquired; what lies between is in flight. Invariants:
//! - a record is acquired by one member at most, and only while its lock has not run out;
//! - a record is done only when its acknowledgement is written, when its deliveries are used up,
//!   or when it is gone from the log; until then it is delivered again and again;
//! - the start offset never moves back and never passes a record that is not done;
//! - at most one write of state is on its way; what happens meanwhile goes with the next one.
//!
//! Rules and messages are Kafka 4.3's, so that clients see no difference. Deliberately absent: the
//! order of records beyond their offsets, dead letters, and metrics.

mod acknowledge;
mod acquire;
mod in_flight;
mod moves;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use acknowledge::{AckBatch, AckType};
pub use acquire::{Acquired, Acquisition, Ask, LogBatch, Mode};
pub use in_flight::{Member, RecordState, Write};

use crate::error::{ErrorCode, Refusal};
use crate::types::{LeaderEpoch, Millis, Offset};
use in_flight::Batch;

/// Names a request that waits until its change is written.
pub type Token = u64;

/// The state of neighbouring records, as the share coordinator keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateBatch {
    pub first: Offset,
    pub last: Offset,
    pub state: RecordState,
    pub deliveries: i16,
}

/// What a share partition begins with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadedState {
    pub state_epoch: i32,
    /// Where to start, the group's reset strategy applied.
    pub start: Offset,
    pub batches: Vec<StateBatch>,
}

/// A change of state that the share coordinator is to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateWrite {
    pub state_epoch: i32,
    pub leader_epoch: LeaderEpoch,
    pub start: Offset,
    /// How many records from `start` on are done.
    pub done: i32,
    pub batches: Vec<StateBatch>,
}

/// The group's settings, as they are at the time of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `group.share.delivery.count.limit`
    pub deliveries: i16,
    /// `group.share.partition.max.record.locks`
    pub in_flight: i64,
    /// `share.record.lock.duration.ms`
    pub lock_ms: Millis,
    /// `share.renew.acknowledge.enable`
    pub renew: bool,
}

/// What a step asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    pub answers: Vec<(Token, Result<(), Refusal>)>,
    /// To be written; what comes of it is told by [`SharePartition::written`].
    pub write: Option<StateWrite>,
    /// Whether a fetch that waits may find something now.
    pub wake: bool,
}

/// A change that waits to be written, or is on its way.
#[derive(Debug)]
struct Asked {
    write: Write,
    /// `None` where nobody waits and the change counts already: a lock ran out.
    token: Option<Token>,
    batches: Vec<StateBatch>,
}

/// The hole in what was read when the share partition was loaded: records that nobody had acquired,
/// before others that somebody had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    start: Offset,
    end: Offset,
}

#[derive(Debug)]
pub struct SharePartition {
    pub leader_epoch: LeaderEpoch,
    pub state_epoch: i32,
    batches: BTreeMap<Offset, Batch>,
    start: Offset,
    end: Offset,
    /// Whether something between start and end may be free.
    look_for_free: bool,
    gap: Option<Gap>,
    /// Records from the start on that are done, or will be once they are written.
    done: i32,
    next_write: Write,
    waiting: Vec<Asked>,
    on_its_way: Vec<Asked>,
    /// Not later than the first lock to run out.
    next_lock: Option<Millis>,
    /// Whether a fetch is between choosing an offset and acquiring.
    fetching: bool,
}

impl SharePartition {
    /// Refuses state that contradicts itself.
    pub fn load(leader_epoch: LeaderEpoch, loaded: &LoadedState) -> Result<Self, &'static str> {
        let start = loaded.start;
        let mut partition = Self {
            leader_epoch,
            state_epoch: loaded.state_epoch,
            batches: BTreeMap::new(),
            start,
            end: start,
            look_for_free: false,
            gap: None,
            done: 0,
            next_write: 0,
            waiting: Vec::new(),
            on_its_way: Vec::new(),
            next_lock: None,
            fetching: false,
        };
        let mut gap_start = None;
        let mut before = start - 1;
        for batch in &loaded.batches {
            if batch.first < start || batch.last < batch.first {
                return Err("a batch of the state lies outside of what it belongs to");
            }
            if batch.first > before + 1 {
                gap_start.get_or_insert(before + 1);
            }
            before = batch.last;
            // A share coordinator keeps no locks: nobody has what it calls acquired.
            let state = match batch.state {
                RecordState::Acquired => RecordState::Available,
                state => state,
            };
            let cached = Batch::new(batch.first, batch.last, state, batch.deliveries);
            if state.is_terminal() {
                partition.done += cached.len() as i32;
            }
            partition.batches.insert(batch.first, cached);
        }
        if let Some(last) = partition.last_in_flight() {
            partition.look_for_free = true;
            partition.end = last;
            partition.gap = gap_start.map(|start| Gap { start, end: last });
            partition.move_start();
        }
        Ok(partition)
    }

    pub fn start(&self) -> Offset {
        self.start
    }

    pub fn end(&self) -> Offset {
        self.end
    }

    /// Records from the start on that will not be delivered again.
    pub fn done(&self) -> i32 {
        self.done
    }

    /// When to call [`SharePartition::expire`], if not before.
    pub fn next_lock(&self) -> Option<Millis> {
        self.next_lock
    }

    /// A fetch takes its turn: from where it is to read, or `None` when another one has the turn or
    /// nothing can be acquired.
    pub fn begin_fetch(&mut self, limits: &Limits) -> Option<Offset> {
        if self.fetching {
            return None;
        }
        let next = self.next_fetch_offset();
        if next == self.end + 1 && self.in_flight() >= limits.in_flight {
            return None;
        }
        self.fetching = true;
        Some(next)
    }

    /// Whether a fetch has its turn.
    pub fn is_fetched_from(&self) -> bool {
        self.fetching
    }

    /// Whether nobody has anything of it, and all is written.
    pub fn is_settled(&self) -> bool {
        let runs = self.batches.values().flat_map(|batch| &batch.runs);
        let mut acquired = runs.filter(|it| it.state == RecordState::Acquired);
        self.waiting.is_empty() && self.on_its_way.is_empty() && acquired.next().is_none()
    }

    /// The turn of a fetch is over.
    pub fn end_fetch(&mut self) {
        self.fetching = false;
    }

    fn last_in_flight(&self) -> Option<Offset> {
        self.batches.last_key_value().map(|(_, batch)| batch.last)
    }

    fn in_flight(&self) -> i64 {
        if self.batches.is_empty() { 0 } else { self.end - self.start + 1 }
    }

    fn active_gap(&self) -> Option<Gap> {
        self.gap.filter(|gap| gap.end == self.end)
    }

    /// The first record that nobody has and that is not done.
    fn next_fetch_offset(&mut self) -> Offset {
        let nothing_in_flight = self.last_in_flight().is_none_or(|last| self.start > last);
        if nothing_in_flight {
            self.look_for_free = false;
            return self.end;
        }
        if !self.look_for_free {
            return self.end + 1;
        }
        let mut gap = self.active_gap().map(|gap| gap.start);
        for (first, batch) in &self.batches {
            if let Some(gap) = &mut gap {
                if *first > *gap {
                    return *gap;
                }
                *gap = (*gap).max(batch.last + 1);
            }
            if let Some(run) = batch.runs.iter().find(|run| run.is_free()) {
                return run.first;
            }
        }
        self.look_for_free = false;
        self.end + 1
    }

    /// Numbers a write that is to come.
    fn number_write(&mut self) -> Write {
        self.next_write += 1;
        self.next_write
    }

    /// Hands out what waits to be written, unless a write is on its way.
    fn write_next(&mut self, effects: &mut Effects) {
        if !self.on_its_way.is_empty() || self.waiting.is_empty() {
            return;
        }
        self.on_its_way = std::mem::take(&mut self.waiting);
        let batches = self.on_its_way.iter().flat_map(|asked| asked.batches.iter().copied());
        effects.write = Some(StateWrite {
            state_epoch: self.state_epoch,
            leader_epoch: self.leader_epoch,
            start: self.start,
            done: self.done,
            batches: batches.collect(),
        });
    }

    /// What became of the write that the last step asked for.
    pub fn written(
        &mut self,
        result: &Result<(), Refusal>,
        limits: &Limits,
        now: Millis,
    ) -> Effects {
        let mut effects = Effects::default();
        for asked in std::mem::take(&mut self.on_its_way) {
            if asked.token.is_some() {
                self.decide(asked.write, &asked.batches, result.is_ok(), limits, now);
            }
            effects.answers.extend(asked.token.map(|token| (token, result.clone())));
        }
        self.move_start();
        effects.wake = true;
        self.write_next(&mut effects);
        effects
    }

    /// This broker does not serve the share partition any more: all that wait are told.
    pub fn fence(&mut self) -> Effects {
        let asked = self.on_its_way.drain(..).chain(self.waiting.drain(..));
        let tokens: Vec<_> = asked.filter_map(|asked| asked.token).collect();
        let refusal = Refusal::from(ErrorCode::NotLeaderOrFollower);
        let answers = tokens.into_iter().map(|token| (token, Err(refusal.clone()))).collect();
        Effects { answers, write: None, wake: true }
    }
}
