//! How the start of a share partition moves: over what is done, and with the start of the log.

use super::SharePartition;
use super::acknowledge::from_start;
use super::in_flight::{RecordState, Run};
use crate::types::Offset;

impl SharePartition {
    /// Moves the start over all that is done, and forgets it. Returns whether it moved.
    pub(super) fn move_start(&mut self) -> bool {
        let Some(last_in_flight) = self.last_in_flight() else { return false };
        let Some(last_done) = self.last_done() else { return false };
        if last_done == last_in_flight {
            self.start = self.start.max(last_done + 1);
            self.end = self.start;
            self.batches.clear();
            self.done = 0;
            return true;
        }
        let before = self.start;
        let mut next = last_done + 1;
        if let Some((first, _)) = self.batches.range(next..).next()
            && self.batches.range(..next).next_back().is_none_or(|(_, batch)| batch.last < next)
        {
            // Nobody has had what lies between two batches: it is not there.
            next = *first;
        }
        if let Some(gap) = self.active_gap() {
            next = next.min(gap.start);
        }
        self.start = self.start.max(next);
        let (from, to) = (before, self.start - 1);
        let passed = self.batches.values().flat_map(|batch| &batch.runs);
        let passed = passed.filter(|run| run.state.is_terminal() && run.first <= to);
        let passed: i64 = passed.map(|run| from_start(from, run.first, run.last.min(to))).sum();
        self.done -= passed as i32;
        let start = self.start;
        while self.batches.first_key_value().is_some_and(|(_, batch)| batch.last < start) {
            self.batches.pop_first();
        }
        true
    }

    /// The last record before the first that is not done, if the first in flight is done.
    fn last_done(&self) -> Option<Offset> {
        let (_, at_start) = self.batches.range(..=self.start).next_back()?;
        let of_start = at_start.runs.iter().find(|run| run.last >= self.start);
        if !of_start.or(at_start.runs.last()).is_some_and(Run::is_done) {
            return None;
        }
        let mut last = None;
        for batch in self.batches.values() {
            if self.active_gap().is_some_and(|gap| batch.last >= gap.start) {
                return last;
            }
            for run in &batch.runs {
                if !run.is_done() {
                    return last;
                }
                last = Some(run.last);
            }
        }
        last
    }

    /// The log begins at `log_start` now: what was before is gone, and done. What a member has of
    /// it stays with the member until it says so or its lock runs out.
    pub fn log_start_moved(&mut self, log_start: Offset) {
        if let Some(gap) = &mut self.gap {
            gap.start = gap.start.max(log_start);
        }
        if log_start <= self.start {
            return;
        }
        if self.batches.is_empty() {
            (self.start, self.end, self.done) = (log_start, log_start, 0);
            return;
        }
        let runs = self.batches.values().flat_map(|batch| &batch.runs);
        let passed = runs.filter(|run| run.state.is_terminal() && run.first < log_start);
        let start = self.start;
        let passed: i64 =
            passed.map(|run| from_start(start, run.first, run.last.min(log_start - 1))).sum();
        self.archive_range(start, log_start - 1, RecordState::Available);
        self.start = log_start;
        self.done -= passed as i32;
        self.end = self.end.max(log_start);
        self.move_start();
    }

    /// A read from `from` found nothing before `base`: compaction took it.
    pub(super) fn archive_what_is_gone(&mut self, from: Offset, base: Offset) {
        if from < base {
            self.archive_between(from, base - 1, RecordState::Available);
        }
    }

    /// Records in `state` are done, without anybody's word.
    pub(super) fn archive_between(&mut self, first: Offset, last: Offset, state: RecordState) {
        let archived = self.archive_range(first, last, state);
        self.done += archived as i32;
    }

    fn archive_range(&mut self, first: Offset, last: Offset, state: RecordState) -> i64 {
        let floor = self.batches.range(..=first).next_back().map_or(first, |(at, _)| *at);
        let (start, mut archived) = (self.start, 0);
        if floor > last {
            return 0;
        }
        for batch in self.batches.range_mut(floor..=last).map(|(_, batch)| batch) {
            let whole = batch.whole().map(|run| run.state == state);
            if batch.last < first || whole == Some(false) {
                continue;
            }
            batch.split |= !batch.is_within(first, last);
            for run in batch.runs_in(first, last) {
                if run.state == state {
                    run.archive();
                    archived += from_start(start, run.first, run.last);
                    self.look_for_free = true;
                }
            }
            batch.join_runs();
        }
        archived
    }
}
