//! What a shard asks of the runtime: answers, timers, records.

use std::fmt;

use super::shard::CoordinatorShard;
use crate::log::Guard;

/// Names a request that waits for its answer.
pub type Token = u64;

/// Numbers the writes of one shard, upwards.
pub type Write = u64;

/// A timer is set, or stopped. Setting a slot again replaces what it held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimerChange<Slot, Timer> {
    Set {
        slot: Slot,
        after_ms: i64,
        timer: Timer,
    },
    /// Unless the slot holds one already.
    SetIfAbsent {
        slot: Slot,
        after_ms: i64,
        timer: Timer,
    },
    Cancel(Slot),
}

/// The transaction of a producer that records are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InTransaction {
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// What the verification of the transaction left, to be shown with the append.
    pub guard: Option<Guard>,
}

/// What one step asks for. The runtime carries it out in the order of the fields.
pub struct Effects<S: CoordinatorShard> {
    pub timers: Vec<(S::Key, TimerChange<S::Slot, S::Timer>)>,
    /// Answers that do not wait for anything.
    pub answers: Vec<(Token, S::Answer)>,
    /// What does not wait for anything either, and leaves the runtime.
    pub notices: Vec<S::Notice>,
    /// To be appended together.
    pub records: Vec<S::Record>,
    /// The transaction in which `records` are written; they count once it is committed.
    pub transaction: Option<InTransaction>,
    /// Whether `records` change the state when they are in the log (offsets, tombstones), or only
    /// describe a change that the shard made, or will make by `then`. For the shard itself.
    pub replay: bool,
    /// Told to the shard once `records` are committed, or could not be.
    pub then: Option<(S::Key, S::Continuation)>,
    /// An answer that waits until all that the coordinator wrote so far is committed.
    pub after_commit: Option<(Token, S::Answer)>,
}

impl<S: CoordinatorShard> Default for Effects<S> {
    fn default() -> Self {
        Self {
            timers: Vec::new(),
            answers: Vec::new(),
            notices: Vec::new(),
            records: Vec::new(),
            transaction: None,
            replay: false,
            then: None,
            after_commit: None,
        }
    }
}

impl<S: CoordinatorShard> Effects<S> {
    pub fn answer(&mut self, token: Token, answer: S::Answer) {
        self.answers.push((token, answer));
    }

    /// The answer to `token`, if there is one by now, is not given before the records are committed.
    pub fn wait_for_commit(&mut self, token: Token) {
        if let Some(at) = self.answers.iter().position(|(of, _)| *of == token) {
            self.after_commit = Some(self.answers.remove(at));
        }
    }
}

impl<S: CoordinatorShard> fmt::Debug for Effects<S>
where
    S::Answer: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Effects")
            .field("timers", &self.timers)
            .field("answers", &self.answers)
            .field("notices", &self.notices)
            .field("records", &self.records)
            .field("transaction", &self.transaction)
            .field("replay", &self.replay)
            .field("then", &self.then)
            .field("after_commit", &self.after_commit)
            .finish()
    }
}
