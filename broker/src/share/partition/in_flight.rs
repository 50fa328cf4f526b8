//! The records of a share partition that are on their way: batches of them, as they were acquired.
//!
//! A [`Batch`] is what one acquisition made. It holds runs: neighbouring records that share one
//! state. Kafka keeps one state for a batch or one for each of its records; here a batch is
//! `split` where Kafka would keep the latter, because answers show the difference. Invariants:
//! the runs of a batch cover it without gap or overlap; a run with a change on its way
//! ([`Run::change`]) is not changed again before that is decided; only an acquired run, or one on
//! its way from there, has a member and a lock.

use std::sync::Arc;

use crate::types::{Millis, Offset};

/// A share group's member, as its requests name it.
pub type Member = Arc<str>;

/// Numbers the writes of a share partition's state.
pub type Write = u64;

/// How far a record's delivery is. The numbers are Kafka's, on disk and between brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum RecordState {
    Available = 0,
    Acquired = 1,
    Acknowledged = 2,
    Archived = 4,
}

impl RecordState {
    pub fn of(number: i8) -> Option<Self> {
        [Self::Available, Self::Acquired, Self::Acknowledged, Self::Archived]
            .into_iter()
            .find(|state| *state as i8 == number)
    }

    /// Whether the record is never delivered again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Acknowledged | Self::Archived)
    }
}

/// A change that counts once it is written, and what was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub write: Write,
    before: RecordState,
    member: Option<Member>,
}

/// Neighbouring records in the same state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub first: Offset,
    pub last: Offset,
    pub state: RecordState,
    pub deliveries: i16,
    pub member: Option<Member>,
    /// Until when the member may keep it.
    pub lock: Option<Millis>,
    pub change: Option<Change>,
    /// Gone from the log, or aborted: whatever becomes of a change on its way.
    archived: bool,
}

impl Run {
    fn new(first: Offset, last: Offset, state: RecordState, deliveries: i16) -> Self {
        let (member, lock, change) = (None, None, None);
        Self { first, last, state, deliveries, member, lock, change, archived: false }
    }

    pub fn len(&self) -> i64 {
        self.last - self.first + 1
    }

    /// Whether it can be acquired now.
    pub fn is_free(&self) -> bool {
        self.state == RecordState::Available && self.change.is_none()
    }

    /// Whether it is decided that it is never delivered again.
    pub fn is_done(&self) -> bool {
        self.state.is_terminal() && self.change.is_none()
    }

    pub fn acquire(&mut self, member: &Member, until: Millis) {
        self.state = RecordState::Acquired;
        self.deliveries = self.deliveries.saturating_add(1);
        self.member = Some(member.clone());
        self.lock = Some(until);
    }

    /// What a record becomes that is given back: available, until its deliveries are used up.
    fn or_archived(state: RecordState, deliveries: i16, limit: i16) -> RecordState {
        match state {
            RecordState::Available if deliveries >= limit => RecordState::Archived,
            state => state,
        }
    }

    /// Begins a change that `write` decides.
    pub fn begin(&mut self, state: RecordState, limit: i16, write: Write) {
        self.change = Some(Change { write, before: self.state, member: self.member.take() });
        self.state = Self::or_archived(state, self.deliveries, limit);
    }

    /// Takes the record from its member at once.
    pub fn release(&mut self, state: RecordState, limit: i16) {
        self.state = Self::or_archived(state, self.deliveries, limit);
        self.member = None;
        self.lock = None;
    }

    pub fn archive(&mut self) {
        self.archived = true;
        self.state = RecordState::Archived;
        self.member = None;
        self.lock = None;
    }

    /// The write of its change is decided. A lock that ran out meanwhile is not given again.
    pub fn decide(&mut self, written: bool, limit: i16, now: Millis) {
        let Some(change) = self.change.take() else { return };
        if written || self.archived {
            self.lock = None;
        } else if self.lock.is_some_and(|until| until <= now) {
            self.release(RecordState::Available, limit);
        } else {
            self.state = change.before;
            self.member = change.member;
        }
    }

    fn continues(&self, before: &Self) -> bool {
        let shape = |run: &Self| (run.state, run.deliveries, run.lock, run.archived);
        shape(self) == shape(before) && self.member == before.member && self.change == before.change
    }
}

/// Records that were acquired together. Its first offset is its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub first: Offset,
    pub last: Offset,
    /// Whether each record has had a state of its own.
    pub split: bool,
    pub runs: Vec<Run>,
}

impl Batch {
    pub fn new(first: Offset, last: Offset, state: RecordState, deliveries: i16) -> Self {
        Self { first, last, split: false, runs: vec![Run::new(first, last, state, deliveries)] }
    }

    pub fn acquired(first: Offset, last: Offset, member: &Member, until: Millis) -> Self {
        let mut batch = Self::new(first, last, RecordState::Available, 0);
        batch.runs[0].acquire(member, until);
        batch
    }

    pub fn len(&self) -> i64 {
        self.last - self.first + 1
    }

    /// The one run of a batch that is not split.
    pub fn whole(&self) -> Option<&Run> {
        self.runs.first().filter(|_| !self.split)
    }

    pub fn is_within(&self, first: Offset, last: Offset) -> bool {
        first <= self.first && self.last <= last
    }

    /// The runs that cover what the batch holds from `first` to `last`, cut to fit.
    pub fn runs_in(&mut self, first: Offset, last: Offset) -> &mut [Run] {
        self.cut_at(first);
        self.cut_at(last.saturating_add(1));
        let from = self.runs.partition_point(|run| run.last < first);
        let to = self.runs.partition_point(|run| run.first <= last);
        &mut self.runs[from..to.max(from)]
    }

    /// Makes `offset` the first one of a run, if the batch holds it.
    fn cut_at(&mut self, offset: Offset) {
        let at = self.runs.partition_point(|run| run.last < offset);
        if let Some(run) = self.runs.get_mut(at)
            && run.first < offset
        {
            let mut rest = run.clone();
            run.last = offset - 1;
            rest.first = offset;
            self.runs.insert(at + 1, rest);
        }
    }

    /// Joins neighbours that have become alike.
    pub fn join_runs(&mut self) {
        self.runs.dedup_by(|run, before| {
            let joins = run.continues(before);
            if joins {
                before.last = run.last;
            }
            joins
        });
    }
}
