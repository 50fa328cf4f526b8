//! The coordinator of all transactional ids of one `__transaction_state` partition.
//!
//! Pure: calls, timers and news of the log go in, [`Effects`] come out.

use std::collections::BTreeMap;

use super::TRANSACTION_FEATURE;
use super::call::{Answer, Call};
use super::records::Record;
use super::settings::TransactionSettings;
use super::state::{Decision, Known, Producer, State, Transaction};
use crate::coordinator::runtime::{self, Context, MAX_SWEPT, TimerChange, Token, Write};
use crate::env::planted;
use crate::error::ErrorCode;
use crate::types::{LeaderEpoch, Millis, TopicPartition};

/// The pause before a completion that could not be written is tried again.
const RETRY_MS: i64 = 100;

pub type Effects = runtime::Effects<Shard>;

/// What a shard asks of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Markers are to be written.
    Send(Markers),
    /// A transaction took too long, and its producer has no epoch left to be fenced with: call
    /// [`Call::Abort`] with a fresh id.
    Exhausted { transactional_id: String, producer: Producer },
    /// The partition is led elsewhere: nothing of it is sent any more.
    Unloaded,
}

/// The end of a transaction, as it is told to the leaders of its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Markers {
    pub transactional_id: String,
    pub producer: Producer,
    pub commit: bool,
    /// The version of transactions under which it ended.
    pub version: i16,
    pub partitions: Vec<TopicPartition>,
}

/// A transition whose record is on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    pub transactional_id: String,
    /// `None`: the id is forgotten.
    pub to: Option<Box<Transaction>>,
    /// Whether its producer is fenced by it.
    pub fences: bool,
}

#[derive(Debug)]
pub struct Shard {
    pub(super) known: BTreeMap<String, Known>,
    epoch: LeaderEpoch,
    written: Write,
    committed: Write,
    /// When ids were last looked for that have expired.
    expired_at: Millis,
}

/// What a step may look at, and where its effects go.
struct Step<'a> {
    settings: &'a TransactionSettings,
    now: Millis,
    /// The cluster's version of transactions.
    level: i16,
    effects: Effects,
}

impl<'a> Step<'a> {
    fn new(context: &Context<'a, Shard>) -> Self {
        let level = context.image.feature(TRANSACTION_FEATURE);
        let Context { settings, now, .. } = *context;
        Self { settings, now, level, effects: Effects::default() }
    }

    /// Writes a transition; it takes place when it is committed.
    fn write(&mut self, transition: Transition) {
        let version = i16::from(self.level >= 1);
        self.effects.records.push(Record {
            transactional_id: transition.transactional_id.clone(),
            transaction: transition.to.as_ref().map(|to| ((**to).clone(), version)),
        });
        let then = self.effects.then.get_or_insert_with(Default::default);
        then.1.push(transition);
    }
}

impl Shard {
    pub fn new(epoch: LeaderEpoch) -> Self {
        Self { known: BTreeMap::new(), epoch, written: 0, committed: 0, expired_at: 0 }
    }

    pub fn written(&self) -> Write {
        self.written
    }

    pub fn is_committed(&self, write: Write) -> bool {
        write <= self.committed
    }

    pub fn commit_up_to(&mut self, write: Write) {
        self.committed = self.committed.max(write);
    }

    /// A write that could not be appended changed nothing yet.
    pub fn take_back(&mut self, write: Write) {
        self.written = self.written.min(write - 1);
    }

    /// A write that says nothing.
    pub fn skip_write(&mut self) {
        self.written += 1;
    }

    fn finish(&mut self, step: Step<'_>) -> Effects {
        self.written += Write::from(!step.effects.records.is_empty());
        step.effects
    }

    pub fn handle(&mut self, token: Token, call: Call, context: &Context<'_, Self>) -> Effects {
        let mut step = Step::new(context);
        match self.decide(call, &mut step) {
            Ok((answer, true)) => step.effects.after_commit = Some((token, answer)),
            Ok((answer, false)) => step.effects.answer(token, answer),
            Err(code) => step.effects.answer(token, Answer::Refused(code)),
        }
        self.finish(step)
    }

    /// The answer, and whether it waits for what is written.
    fn decide(&mut self, call: Call, step: &mut Step<'_>) -> Result<(Answer, bool), ErrorCode> {
        match call {
            Call::Init { transactional_id, timeout_ms, expected, fresh } => {
                self.init(transactional_id, timeout_ms, expected, fresh, step)
            }
            Call::Add { transactional_id, producer, partitions, version } => {
                let known = self.owned(&transactional_id)?;
                let decision = known.add(producer, partitions, version, step.now);
                self.carry_out(transactional_id, decision, false, step)
            }
            Call::Verify { transactional_id, producer, partitions } => {
                let added = self.owned(&transactional_id)?.verify(producer)?;
                let verified = partitions.into_iter().map(|it| {
                    let is_in = added.contains(&it);
                    (it, is_in)
                });
                Ok((Answer::Verified(verified.collect()), false))
            }
            Call::End { transactional_id, producer, commit, version, fresh } => {
                let known = self.owned(&transactional_id)?;
                let decision = if version >= super::state::BUMPS_EPOCH {
                    known.end(producer, commit, version, fresh, step.now)
                } else {
                    known.end_old(producer, commit, step.now)
                };
                self.carry_out(transactional_id, decision, false, step)
            }
            Call::Abort { transactional_id, producer, fresh } => {
                self.abort(&transactional_id, producer, Some(fresh), step);
                Ok((Answer::Done, false))
            }
            Call::Marked { transactional_id, coordinator_epoch, producer, partitions } => {
                if coordinator_epoch == self.epoch {
                    self.marked(&transactional_id, producer, &partitions, step);
                }
                Ok((Answer::Done, false))
            }
            Call::Describe { transactional_id } => Ok((self.describe(&transactional_id), false)),
            Call::List(filter) => {
                Ok((Answer::Listed(self.list(&filter, step.now).collect()), false))
            }
        }
    }

    fn owned(&mut self, transactional_id: &str) -> Result<&mut Known, ErrorCode> {
        self.known.get_mut(transactional_id).ok_or(ErrorCode::InvalidProducerIdMapping)
    }

    fn init(
        &mut self,
        id: String,
        timeout_ms: i32,
        expected: Option<Producer>,
        fresh: Option<i64>,
        step: &mut Step<'_>,
    ) -> Result<(Answer, bool), ErrorCode> {
        if !(1..=step.settings.max_timeout_ms).contains(&timeout_ms) {
            return Err(ErrorCode::InvalidTransactionTimeout);
        }
        if !self.known.contains_key(&id) {
            let Some(fresh) = fresh else { return Ok((Answer::NeedsProducerId, false)) };
            let created = Transaction::created(fresh, timeout_ms, step.now);
            self.known.insert(id.clone(), Known::new(created));
        }
        let known = self.owned(&id)?;
        let decision = known.init(timeout_ms, expected, fresh, step.level, step.now);
        let fences = known.at.state == State::Ongoing;
        let done = self.carry_out(id, decision, fences, step)?;
        match done {
            // What was going on is aborted first: the client comes again.
            (Answer::Producer(_), waits) if fences => {
                Ok((Answer::Refused(ErrorCode::ConcurrentTransactions), waits))
            }
            other => Ok(other),
        }
    }

    /// Writes what was decided. The answer names the producer that the client will be.
    fn carry_out(
        &mut self,
        id: String,
        decision: Decision,
        fences: bool,
        step: &mut Step<'_>,
    ) -> Result<(Answer, bool), ErrorCode> {
        let known = self.owned(&id)?;
        match decision {
            Decision::Refuse(code) => Err(code),
            Decision::NeedsProducerId => Ok((Answer::NeedsProducerId, false)),
            Decision::Already => Ok((Answer::Producer(producer_of(&known.at)), false)),
            Decision::Write(to) => {
                known.pending = Some(to.state);
                let told =
                    if to.state.is_prepared() { to.completed(step.now) } else { *to.clone() };
                if planted!(MarkersBeforeDecision) && to.state.is_prepared() {
                    step.effects.notices.push(markers(&id, &to));
                }
                step.write(Transition { transactional_id: id, to: Some(to), fences });
                Ok((Answer::Producer(producer_of(&told)), true))
            }
        }
    }

    /// A transaction that took too long, unless something else happens to it.
    fn abort(&mut self, id: &str, producer: Producer, fresh: Option<i64>, step: &mut Step<'_>) {
        let Some(known) = self.known.get_mut(id) else { return };
        if producer_of(&known.at) != producer || !known.is_overdue(step.now) {
            return;
        }
        match known.fence(fresh, step.level, step.now) {
            Decision::Write(to) => {
                tracing::info!(transactional_id = id, "a transaction took too long and is aborted");
                known.pending = Some(to.state);
                step.write(Transition {
                    transactional_id: id.to_owned(),
                    to: Some(to),
                    fences: true,
                });
            }
            _ => step
                .effects
                .notices
                .push(Notice::Exhausted { transactional_id: id.to_owned(), producer }),
        }
    }

    /// News of records that were to be committed.
    pub fn stored(
        &mut self,
        transitions: Vec<Transition>,
        result: Result<(), ErrorCode>,
        context: &Context<'_, Self>,
    ) -> Effects {
        let mut step = Step::new(context);
        match result {
            Ok(()) => {
                for transition in transitions {
                    self.take_place(transition, &mut step);
                }
            }
            // It is in the log, and takes place when it is committed; clients were told to come
            // again, and find a transition on its way until then.
            Err(ErrorCode::RequestTimedOut) => {
                step.effects.then = Some((String::new(), transitions));
            }
            Err(code) => {
                for transition in transitions {
                    self.give_up(transition, code, &mut step);
                }
            }
        }
        self.finish(step)
    }

    fn take_place(&mut self, transition: Transition, step: &mut Step<'_>) {
        let Transition { transactional_id: id, to, .. } = transition;
        let Some(to) = to else {
            self.known.remove(&id);
            return;
        };
        let Some(known) = self.known.get_mut(&id) else { return };
        known.at = *to;
        known.pending = None;
        if known.at.state.is_prepared() {
            known.failed_fence = false;
            self.complete_later(&id, step);
        }
    }

    /// The outcome stands: the markers go out, and what follows on them is settled.
    fn complete_later(&mut self, id: &str, step: &mut Step<'_>) {
        let Some(known) = self.known.get_mut(id) else { return };
        let completion = Box::new(known.at.completed(step.now));
        known.pending = Some(completion.state);
        known.completion = Some(completion);
        if known.at.partitions.is_empty() {
            self.complete(id, step);
            return;
        }
        step.effects.notices.push(markers(id, &known.at));
    }

    fn marked(
        &mut self,
        id: &str,
        producer: Producer,
        partitions: &[TopicPartition],
        step: &mut Step<'_>,
    ) {
        let Some(known) = self.known.get_mut(id) else { return };
        if producer_of(&known.at) != producer || !known.at.state.is_prepared() {
            return;
        }
        for partition in partitions {
            known.at.partitions.remove(partition);
        }
        if known.at.partitions.is_empty() {
            self.complete(id, step);
        }
    }

    /// All markers are written. Does nothing while the completion is on its way already.
    fn complete(&mut self, id: &str, step: &mut Step<'_>) {
        let Some(to) = self.known.get_mut(id).and_then(|known| known.completion.take()) else {
            return;
        };
        step.write(Transition { transactional_id: id.to_owned(), to: Some(to), fences: false });
    }

    fn give_up(&mut self, transition: Transition, code: ErrorCode, step: &mut Step<'_>) {
        let Transition { transactional_id: id, to, fences } = transition;
        let Some(known) = self.known.get_mut(&id) else { return };
        let completes = known.at.state.is_prepared();
        tracing::info!(transactional_id = id, ?code, pending = ?known.pending, "not written");
        if completes {
            known.completion = to;
            let change = TimerChange::Set { slot: (), after_ms: RETRY_MS, timer: () };
            step.effects.timers.push((id, change));
            return;
        }
        known.pending = None;
        known.failed_fence |= fences;
    }

    /// The pause before another attempt is over.
    pub fn retry(&mut self, id: &str, context: &Context<'_, Self>) -> Effects {
        let mut step = Step::new(context);
        self.complete(id, &mut step);
        self.finish(step)
    }

    /// Takes in what was read from the log.
    pub fn load(&mut self, record: Record) {
        match record.transaction {
            Some((transaction, _)) => {
                self.known.insert(record.transactional_id, Known::new(transaction));
            }
            None => {
                self.known.remove(&record.transactional_id);
            }
        }
    }

    /// All records are in: what was prepared goes on.
    pub fn loaded(&mut self, context: &Context<'_, Self>) -> Effects {
        let mut step = Step::new(context);
        self.expired_at = step.now;
        let prepared = self.known.iter().filter(|(_, known)| known.at.state.is_prepared());
        let prepared: Vec<String> = prepared.map(|(id, _)| id.clone()).collect();
        for id in prepared {
            self.complete_later(&id, &mut step);
        }
        self.finish(step)
    }

    /// Transactions that took too long are aborted, and ids that nobody uses are forgotten.
    pub fn sweep(&mut self, context: &Context<'_, Self>) -> Effects {
        let mut step = Step::new(context);
        let now = step.now;
        let overdue: Vec<(String, Producer)> = self
            .known
            .iter()
            .filter(|(_, known)| known.is_overdue(now))
            .take(MAX_SWEPT)
            .map(|(id, known)| (id.clone(), producer_of(&known.at)))
            .collect();
        for (id, producer) in overdue {
            self.abort(&id, producer, None, &mut step);
        }
        self.forget_expired(&mut step);
        self.finish(step)
    }

    fn forget_expired(&mut self, step: &mut Step<'_>) {
        let interval = step.settings.expiration_interval.as_millis() as i64;
        if step.now - self.expired_at < interval {
            return;
        }
        let after = step.settings.id_expiration_ms;
        let room = MAX_SWEPT.saturating_sub(step.effects.records.len());
        let expired: Vec<String> = self
            .known
            .iter()
            .filter(|(_, known)| known.is_expired(step.now, after))
            .take(room)
            .map(|(id, _)| id.clone())
            .collect();
        if expired.len() < room {
            self.expired_at = step.now;
        }
        for id in expired {
            if let Some(known) = self.known.get_mut(&id) {
                known.pending = Some(State::Dead);
                step.write(Transition { transactional_id: id, to: None, fences: false });
            }
        }
    }

    /// For tests: what must hold after every step.
    #[cfg(test)]
    pub(super) fn check(&self) {
        for (id, known) in &self.known {
            assert!(known.at.state <= State::CompleteAbort, "{id} is {:?}", known.at.state);
            assert!(
                known.at.state != State::Ongoing || known.at.started >= 0,
                "{id} goes on since never"
            );
            assert!(
                !known.at.state.is_prepared() || known.pending.is_some(),
                "{id} is prepared, and nothing follows"
            );
            let has_none = matches!(known.at.state, State::Empty) || known.at.state.may_expire();
            assert!(!has_none || known.at.partitions.is_empty(), "{id} has partitions left");
            assert!(known.at.epoch >= super::state::NO_EPOCH);
        }
    }
}

/// The end of a transaction that is prepared, for all its partitions.
fn markers(id: &str, prepared: &Transaction) -> Notice {
    Notice::Send(Markers {
        transactional_id: id.to_owned(),
        producer: producer_of(prepared),
        commit: prepared.state == State::PrepareCommit,
        version: prepared.client_version,
        partitions: prepared.partitions.iter().cloned().collect(),
    })
}

fn producer_of(transaction: &Transaction) -> Producer {
    Producer { id: transaction.producer_id, epoch: transaction.epoch }
}
