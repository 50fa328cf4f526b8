//! Acquisition: a fetch has read batches from the log, and its member takes of them what it may.

use super::in_flight::{Batch, Member, RecordState};
use super::{Limits, SharePartition};
use crate::types::{Millis, Offset};

/// A record batch that was read, by its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBatch {
    pub base: Offset,
    pub last: Offset,
    /// Written in a transaction that was aborted: not for a read-committed group.
    pub aborted: bool,
}

/// Records that a member has got. They may be done since, or gone, but nobody else has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acquired {
    pub first: Offset,
    pub last: Offset,
    pub deliveries: i16,
}

/// What a fetch has acquired, and how many records count against its limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acquisition {
    pub records: Vec<Acquired>,
    pub count: i64,
}

/// How a fetch wants its limit to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Whole batches of the log, even if they hold more.
    BatchOptimized,
    /// Not a record more (KIP-1206).
    RecordLimit,
}

/// What a fetch asks for.
#[derive(Debug, Clone)]
pub struct Ask {
    pub member: Member,
    pub mode: Mode,
    /// So many records make a batch, if the log's batches allow.
    pub batch_size: i64,
    pub max_records: i64,
    /// From where it read.
    pub from: Offset,
}

/// One acquisition in the making.
struct Taking<'a> {
    ask: &'a Ask,
    log: &'a [LogBatch],
    limits: &'a Limits,
    now: Millis,
    last: Offset,
    max: i64,
    got: Acquisition,
}

impl Taking<'_> {
    fn left(&self) -> i64 {
        self.max - self.got.count
    }

    fn until(&self) -> Millis {
        self.now + self.limits.lock_ms
    }

    fn first_read(&self) -> Offset {
        self.log[0].base
    }

    fn is_exact(&self) -> bool {
        self.ask.mode == Mode::RecordLimit
    }
}

/// From so many deliveries on, records are delivered in smaller and smaller portions, so that one
/// that its consumers cannot take is found.
fn throttled_from(limit: i16) -> i16 {
    (limit / 2 + limit % 2).max(2)
}

impl SharePartition {
    /// Gives the member what it may have of `log`, in order of offsets.
    pub fn acquire(
        &mut self,
        ask: &Ask,
        log: &[LogBatch],
        limits: &Limits,
        now: Millis,
    ) -> Acquisition {
        let Some(last_read) = log.last() else { return Acquisition::default() };
        if ask.max_records <= 0 || last_read.last < self.start {
            return Acquisition::default();
        }
        let (last, max) = self.may_take(ask, last_read.last, limits);
        if max <= 0 {
            return Acquisition::default();
        }
        let got = Acquisition::default();
        let mut taking = Taking { ask, log, limits, now, last, max, got };
        self.take(&mut taking);
        self.keep_from_aborted(log, taking.got)
    }

    /// Up to which offset, and how many. When all that may be in flight is, only holes are filled.
    fn may_take(&self, ask: &Ask, last: Offset, limits: &Limits) -> (Offset, i64) {
        let max = ask.max_records.min(limits.in_flight - self.in_flight());
        if max <= 0 && ask.from <= self.end {
            return (last.min(self.end), ask.max_records.min(self.end - ask.from + 1));
        }
        (last, max)
    }

    fn take(&mut self, taking: &mut Taking<'_>) {
        let first_read = taking.first_read();
        let mut base = first_read;
        self.archive_what_is_gone(taking.ask.from, base);
        match self.batches.range(..=base).next_back() {
            Some((first, batch)) if batch.last >= base => base = *first,
            Some(_) | None => base = base.max(self.start),
        }
        let from = first_read.min(base);
        let known: Vec<Offset> = if from <= taking.last {
            self.batches.range(from..=taking.last).map(|(first, _)| *first).collect()
        } else {
            Vec::new()
        };
        let mut next = base;
        for first in &known {
            if taking.left() <= 0 {
                break;
            }
            if self.active_gap().is_some() {
                if next < *first {
                    self.take_new(taking, next, first - 1);
                }
                next = self.batches[first].last + 1;
                if taking.left() <= 0 {
                    break;
                }
            }
            if self.take_known(taking, *first) {
                taking.max = 0;
                break;
            }
        }
        let after = known.last().map_or(base, |first| self.batches[first].last + 1);
        if taking.left() > 0 && after <= taking.last {
            self.take_new(taking, after, taking.last);
        }
        if let Some(last) = taking.got.records.last() {
            self.fill_gap(last.last + 1);
        }
    }

    /// Takes from a batch that was acquired before. Returns whether to stop here.
    fn take_known(&mut self, taking: &mut Taking<'_>, first: Offset) -> bool {
        let (from, last, until) = (taking.first_read(), taking.last, taking.until());
        let Some(batch) = self.batches.get_mut(&first) else { return false };
        let throttle = throttled_from(taking.limits.deliveries);
        let throttled = batch
            .runs
            .iter()
            .filter(|run| run.last >= from && run.first <= last || !batch.split)
            .any(|run| run.is_free() && run.deliveries >= throttle);
        if throttled && taking.got.count > 0 {
            return true;
        }
        let too_many = taking.is_exact() && batch.len() > taking.left();
        if batch.split || !batch.is_within(from, last) || too_many || throttled {
            if batch.whole().is_some_and(|run| !run.is_free()) {
                return false;
            }
            batch.split = true;
            let taken = take_some(taking, batch, throttle);
            self.lock_until(until);
            return taken > 0 && throttled;
        }
        if let Some(run) = batch.runs.first_mut().filter(|run| run.is_free()) {
            run.acquire(&taking.ask.member, until);
            let (last, deliveries) = (run.last, run.deliveries);
            taking.got.records.push(Acquired { first, last, deliveries });
            taking.got.count += batch.len();
            self.lock_until(until);
        }
        false
    }

    /// Takes records that nobody has had, `first` to `last`.
    fn take_new(&mut self, taking: &mut Taking<'_>, first: Offset, last: Offset) {
        let first = if self.batches.is_empty() { first.max(self.end) } else { first };
        if first > last {
            return;
        }
        let mut taken_to = last;
        if taking.left() < last - first + 1 {
            taken_to = end_of_batch(taking.log, first + taking.left() - 1);
            if self.active_gap().is_some() {
                taken_to = taken_to.min(last);
            }
        }
        let got = self.make_batches(taking, first, taken_to);
        if self.batches.keys().next() == Some(&first) {
            self.start = first;
        }
        self.end = self.end.max(taken_to);
        let taken_to = match got.first() {
            Some(only) if taking.is_exact() => only.last,
            _ => taken_to,
        };
        self.fill_gap(taken_to + 1);
        taking.got.count += taken_to - first + 1;
        taking.got.records.extend(got);
        self.lock_until(taking.until());
    }

    fn make_batches(&mut self, taking: &Taking<'_>, first: Offset, last: Offset) -> Vec<Acquired> {
        let (member, until) = (&taking.ask.member, taking.until());
        let one = |first, last| Acquired { first, last, deliveries: 1 };
        if taking.is_exact() {
            let mut batch = Batch::acquired(first, last, member, until);
            let fits = last.min(first + taking.left() - 1);
            if fits < last {
                // The rest of the log's batch waits for whoever comes next.
                batch.split = true;
                for run in batch.runs_in(fits + 1, last) {
                    run.release(RecordState::Available, i16::MAX);
                    run.deliveries = 0;
                }
                self.look_for_free = true;
            }
            self.batches.insert(first, batch);
            return vec![one(first, fits)];
        }
        let mut got = Vec::new();
        let mut from = first;
        if last - first + 1 > taking.ask.batch_size {
            for batch in taking.log.iter().take_while(|batch| batch.base <= last) {
                if batch.base > from && batch.base - from >= taking.ask.batch_size {
                    got.push(one(from, batch.base - 1));
                    from = batch.base;
                }
            }
        }
        got.push(one(from, last));
        for it in &got {
            let batch = Batch::acquired(it.first, it.last, member, until);
            self.batches.insert(it.first, batch);
        }
        got
    }

    /// A read-committed group passes over what was aborted: it is done.
    fn keep_from_aborted(&mut self, log: &[LogBatch], got: Acquisition) -> Acquisition {
        if !log.iter().any(|batch| batch.aborted) || got.records.is_empty() {
            return got;
        }
        let mut records = got.records;
        for gone in log.iter().filter(|batch| batch.aborted) {
            self.archive_between(gone.base, gone.last, RecordState::Acquired);
            records = records.into_iter().flat_map(|it| without(it, gone)).collect();
        }
        let count = records.iter().map(|it| it.last - it.first + 1).sum();
        // They may be the first ones, and nobody will acknowledge them.
        self.move_start();
        Acquisition { records, count }
    }

    pub(super) fn lock_until(&mut self, until: Millis) {
        self.next_lock = Some(self.next_lock.map_or(until, |next| next.min(until)));
    }

    /// All below `next` has been had; the gap begins behind what is known from there on.
    fn fill_gap(&mut self, mut next: Offset) {
        let end = self.end;
        while let Some((_, batch)) = self.batches.range(..=next).next_back()
            && batch.last >= next
        {
            next = batch.last + 1;
        }
        self.gap = self.gap.filter(|gap| gap.end == end && next <= end);
        if let Some(gap) = &mut self.gap {
            gap.start = next;
        }
    }
}

/// Takes single records out of a batch; returns how many.
fn take_some(taking: &mut Taking<'_>, batch: &mut Batch, throttle: i16) -> i64 {
    let limit = taking.limits.deliveries;
    let (from, last, until) = (taking.first_read(), taking.last, taking.until());
    let (left, size, exact) = (taking.left(), batch.len(), taking.is_exact());
    let mut portion = None;
    let (mut taken, mut at) = (0, from.max(batch.first));
    while at <= last.min(batch.last) {
        let run = &batch.runs_in(at, last)[0];
        let (first, deliveries) = (run.first, run.deliveries);
        at = run.last + 1;
        if !run.is_free() {
            continue;
        }
        let mut count = run.len();
        let is_last_try = limit > 2 && deliveries == limit - 1;
        if is_last_try {
            // Delivered alone, so that it takes no other record down with it.
            if taken > 0 {
                break;
            }
            count = 1;
        }
        if deliveries >= throttle && portion.is_none() {
            portion = Some((size >> (deliveries - throttle + 1).min(62)).max(1));
        }
        if exact {
            count = count.min(left - taken);
        }
        if let Some(portion) = portion.filter(|portion| *portion > taken) {
            count = count.min(portion - taken);
        }
        let last_taken = first + count - 1;
        for run in batch.runs_in(first, last_taken) {
            run.acquire(&taking.ask.member, until);
        }
        push(&mut taking.got.records, taken == 0, first, last_taken, deliveries + 1);
        taken += count;
        at = last_taken + 1;
        if is_last_try || exact && taken == left || portion == Some(taken) {
            break;
        }
    }
    batch.join_runs();
    taking.got.count += taken;
    taken
}

/// Neighbours of one batch with as many deliveries are told as one.
fn push(records: &mut Vec<Acquired>, anew: bool, first: Offset, last: Offset, deliveries: i16) {
    match records.last_mut() {
        Some(before) if !anew && before.last + 1 == first && before.deliveries == deliveries => {
            before.last = last;
        }
        _ => records.push(Acquired { first, last, deliveries }),
    }
}

/// The end of the log's batch that holds `offset`.
fn end_of_batch(log: &[LogBatch], offset: Offset) -> Offset {
    let before = log.iter().take_while(|batch| batch.base <= offset).last();
    before.map_or(offset, |batch| batch.last.max(offset))
}

fn without(it: Acquired, gone: &LogBatch) -> Vec<Acquired> {
    if it.last < gone.base || it.first > gone.last {
        return vec![it];
    }
    let before = Acquired { last: gone.base - 1, ..it };
    let after = Acquired { first: gone.last + 1, ..it };
    [before, after].into_iter().filter(|it| it.first <= it.last).collect()
}
