//! What members, and the clock, say of records that were acquired: done, given back, renewed, late.

use super::in_flight::{Batch, RecordState, Run, Write};
use super::{Asked, Effects, Limits, SharePartition, StateBatch, Token};
use crate::error::{ErrorCode, Refusal};
use crate::types::{Millis, Offset};

/// What a member says of a record. The numbers are the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum AckType {
    /// There was no record at this offset.
    Gap = 0,
    Accept = 1,
    Release = 2,
    Reject = 3,
    /// The lock is to begin anew (KIP-1222).
    Renew = 4,
}

impl AckType {
    pub fn of(number: i8) -> Option<Self> {
        [Self::Gap, Self::Accept, Self::Release, Self::Reject, Self::Renew]
            .into_iter()
            .find(|kind| *kind as i8 == number)
    }

    /// What the record becomes; `None`: it stays with its member.
    fn outcome(self) -> Option<RecordState> {
        match self {
            Self::Gap | Self::Reject => Some(RecordState::Archived),
            Self::Accept => Some(RecordState::Acknowledged),
            Self::Release => Some(RecordState::Available),
            Self::Renew => None,
        }
    }
}

/// What a member says of a range of records: one word for all, or one for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckBatch {
    pub first: Offset,
    pub last: Offset,
    pub types: Vec<AckType>,
}

impl AckBatch {
    fn type_of(&self, offset: Offset) -> AckType {
        match &self.types[..] {
            [all] => *all,
            each => each[(offset - self.first) as usize],
        }
    }
}

fn invalid_state(message: &str) -> Refusal {
    Refusal::new(ErrorCode::InvalidRecordState, message)
}

/// A step that changes states; `changes` is what is to be written of it.
struct Changing<'a> {
    member: &'a str,
    limits: &'a Limits,
    now: Millis,
    write: Write,
    start: Offset,
    changes: Vec<StateBatch>,
    done: i64,
    renewed: bool,
}

impl SharePartition {
    /// A member's word on what it has acquired. All of it counts, or nothing; the answer to `token`
    /// comes when it is written.
    pub fn acknowledge(
        &mut self,
        token: Token,
        member: &str,
        acks: &[AckBatch],
        limits: &Limits,
        now: Millis,
    ) -> Effects {
        let mut changing = self.changing(member, limits, now);
        let (start, mut result) = (self.start, Ok(()));
        for ack in acks.iter().filter(|ack| ack.last >= start) {
            result = self.acknowledge_one(ack, &mut changing);
            if result.is_err() {
                break;
            }
        }
        if changing.renewed {
            self.lock_until(now + limits.lock_ms);
        }
        self.conclude(token, changing, result)
    }

    /// A member is gone: all that it has becomes available again.
    pub fn release_all(
        &mut self,
        token: Token,
        member: &str,
        limits: &Limits,
        now: Millis,
    ) -> Effects {
        let mut changing = self.changing(member, limits, now);
        for batch in self.batches.values_mut() {
            let has_any = batch.runs.iter().any(|run| {
                run.state == RecordState::Acquired && run.member.as_deref() == Some(member)
            });
            if has_any {
                changing.release(batch);
            }
        }
        self.conclude(token, changing, Ok(()))
    }

    /// Locks have run out: others may have the records. That counts at once, written or not.
    pub fn expire(&mut self, limits: &Limits, now: Millis) -> Effects {
        let mut changing = self.changing("", limits, now);
        self.next_lock = None;
        for batch in self.batches.values_mut() {
            let is_due = |until: Option<Millis>| until.is_some_and(|until| until <= now);
            if batch.runs.iter().any(|run| run.change.is_none() && is_due(run.lock)) {
                changing.expire(batch);
            }
            let of_others = batch.runs.iter().filter(|run| run.change.is_none());
            let next = of_others.filter_map(|run| run.lock).min();
            self.next_lock = self.next_lock.into_iter().chain(next).min();
        }
        let mut effects = Effects::default();
        if changing.changes.is_empty() {
            // What was given back lies before the start: nothing to write, but perhaps in the way.
            effects.wake = self.move_start();
        } else {
            self.done += changing.done as i32;
            self.look_for_free = true;
            effects.wake = true;
            let (write, batches) = (changing.write, changing.changes);
            self.waiting.push(Asked { write, token: None, batches });
            self.write_next(&mut effects);
        }
        effects
    }

    fn changing<'a>(&mut self, member: &'a str, limits: &'a Limits, now: Millis) -> Changing<'a> {
        let (write, start) = (self.number_write(), self.start);
        let changes = Vec::new();
        Changing { member, limits, now, write, start, changes, done: 0, renewed: false }
    }

    fn conclude(
        &mut self,
        token: Token,
        changing: Changing<'_>,
        result: Result<(), Refusal>,
    ) -> Effects {
        let mut effects = Effects::default();
        let Changing { write, changes: batches, limits, now, done, .. } = changing;
        self.done += done as i32;
        if result.is_err() {
            self.decide(write, &batches, false, limits, now);
        }
        if result.is_err() || batches.is_empty() {
            effects.wake |= self.move_start();
            effects.answers.push((token, result));
            return effects;
        }
        self.waiting.push(Asked { write, token: Some(token), batches });
        self.write_next(&mut effects);
        effects
    }

    fn acknowledge_one(
        &mut self,
        ack: &AckBatch,
        changing: &mut Changing<'_>,
    ) -> Result<(), Refusal> {
        let floor = |offset| self.batches.range(..=offset).next_back().map(|(first, _)| *first);
        let start_moved = ack.first < self.start && self.start <= ack.last;
        let from = floor(ack.first).or_else(|| floor(self.start).filter(|_| start_moved));
        let Some(from) = from else {
            return Err(invalid_state(
                "Batch record not found. The request batch offsets are not found in the cache.",
            ));
        };
        let last = self.batches.range(from..=ack.last).next_back().map_or(-1, |(_, it)| it.last);
        if last < ack.first {
            return Err(not_found("first"));
        }
        if last < ack.last {
            return Err(not_found("last"));
        }
        for batch in self.batches.range_mut(from..=ack.last).map(|(_, batch)| batch) {
            if batch.last >= changing.start {
                changing.acknowledge(batch, ack)?;
            }
        }
        Ok(())
    }

    /// The changes of `write` count now, or never were.
    pub(super) fn decide(
        &mut self,
        write: Write,
        changes: &[StateBatch],
        written: bool,
        limits: &Limits,
        now: Millis,
    ) {
        let start = self.start;
        for change in changes {
            let floor = self.batches.range(..=change.first).next_back();
            let Some(from) = floor.map(|(first, _)| *first) else { continue };
            for batch in self.batches.range_mut(from..=change.last).map(|(_, batch)| batch) {
                let ours = |run: &&mut Run| {
                    run.change.as_ref().is_some_and(|change| change.write == write)
                };
                for run in batch.runs.iter_mut().filter(ours) {
                    let was_terminal = run.state.is_terminal();
                    run.decide(written, limits.deliveries, now);
                    self.look_for_free |= run.state == RecordState::Available;
                    if was_terminal && !run.state.is_terminal() {
                        self.done -= from_start(self.start, run.first, run.last) as i32;
                    }
                    if let Some(until) = run.lock {
                        self.next_lock = Some(self.next_lock.map_or(until, |at| at.min(until)));
                    }
                }
                if batch.first < start {
                    // What was given back is gone from the log meanwhile.
                    batch.split |= batch.last >= start;
                    let gone = batch.runs_in(batch.first, start - 1).iter_mut();
                    gone.filter(|run| run.is_free()).for_each(Run::archive);
                }
                batch.join_runs();
            }
        }
    }
}

fn not_found(which: &str) -> Refusal {
    let message =
        format!("Batch record not found. The {which} offset in request is past acquired records.");
    Refusal::new(ErrorCode::InvalidRequest, message)
}

/// How many of the records lie from `start` on.
pub(super) fn from_start(start: Offset, first: Offset, last: Offset) -> i64 {
    (last - first.max(start) + 1).max(0)
}

impl Changing<'_> {
    fn acknowledge(&mut self, batch: &mut Batch, ack: &AckBatch) -> Result<(), Refusal> {
        if let Some(run) = batch.whole() {
            match run.member.as_deref() {
                None => {
                    return Err(invalid_state(
                        "The batch cannot be acknowledged. The batch is not in the acquired state.",
                    ));
                }
                Some(member) if member != self.member => {
                    return Err(invalid_state("Member is not the owner of batch record"));
                }
                Some(_) => {}
            }
        }
        let start_moved = batch.first < self.start && self.start <= batch.last;
        if !batch.is_within(ack.first, ack.last) || ack.types.len() > 1 || start_moved {
            batch.split = true;
        }
        let (first, last) = (ack.first.max(self.start).max(batch.first), ack.last.min(batch.last));
        let split = batch.split;
        // Ranges of one word: cut there, then look at each.
        let mut at = first;
        while at <= last {
            let kind = ack.type_of(at);
            let mut end = at;
            if ack.types.len() == 1 {
                end = last;
            } else {
                while end < last && ack.type_of(end + 1) == kind {
                    end += 1;
                }
            }
            for run in batch.runs_in(at, end) {
                self.acknowledge_run(run, kind, split)?;
            }
            at = end + 1;
        }
        batch.join_runs();
        Ok(())
    }

    fn acknowledge_run(
        &mut self,
        run: &mut Run,
        kind: AckType,
        split: bool,
    ) -> Result<(), Refusal> {
        if run.change.is_some() {
            let is_acquired = run.state == RecordState::Acquired;
            return Err(invalid_state(if split && !is_acquired {
                "The offset cannot be acknowledged. The offset is not acquired."
            } else {
                "The record state is invalid. The acknowledgement of delivery could not be \
                 completed."
            }));
        }
        if run.state != RecordState::Acquired {
            return Err(invalid_state(
                "The offset cannot be acknowledged. The offset is not acquired.",
            ));
        }
        if run.member.as_deref() != Some(self.member) {
            return Err(invalid_state("Member is not the owner of offset"));
        }
        let Some(outcome) = kind.outcome() else {
            if !self.limits.renew {
                return Err(invalid_state(
                    "Renewing acquisition locks is not enabled for the group.",
                ));
            }
            run.lock = Some(self.now + self.limits.lock_ms);
            self.renewed = true;
            return Ok(());
        };
        run.begin(outcome, self.limits.deliveries, self.write);
        self.note(run);
        Ok(())
    }

    /// What a member has of `batch` is given back, once that is written.
    fn release(&mut self, batch: &mut Batch) {
        self.each_from_start(batch, |it, run, state| {
            let is_theirs = run.member.as_deref() == Some(it.member);
            if run.state == RecordState::Acquired && run.change.is_none() && is_theirs {
                run.begin(state, it.limits.deliveries, it.write);
                it.note(run);
            }
        });
    }

    fn expire(&mut self, batch: &mut Batch) {
        self.each_from_start(batch, |it, run, state| {
            let is_due = run.lock.is_some_and(|until| until <= it.now);
            if run.state == RecordState::Acquired && run.change.is_none() && is_due {
                run.release(state, it.limits.deliveries);
                it.note(run);
            }
        });
    }

    /// Offers the runs of `batch`, cut where the share partition starts, and what they become when
    /// they are given back: what lies before the start is gone.
    fn each_from_start(
        &mut self,
        batch: &mut Batch,
        mut each: impl FnMut(&mut Self, &mut Run, RecordState),
    ) {
        if batch.first < self.start && self.start <= batch.last {
            batch.split = true;
            batch.runs_in(self.start, batch.last);
        }
        for run in &mut batch.runs {
            let gone = run.last < self.start;
            let state = if gone { RecordState::Archived } else { RecordState::Available };
            each(self, run, state);
        }
        batch.join_runs();
    }

    fn note(&mut self, run: &Run) {
        let (first, last, state, deliveries) = (run.first, run.last, run.state, run.deliveries);
        self.changes.push(StateBatch { first, last, state, deliveries });
        if run.state.is_terminal() {
            self.done += from_start(self.start, first, last);
        }
    }
}
