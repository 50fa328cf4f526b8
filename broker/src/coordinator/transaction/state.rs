//! What is known of a transactional id, and the transitions that it can make.
//!
//! A transition is decided here and takes place when its record is committed. The rules are those
//! of Kafka 4.3.1, code by code.

use std::collections::BTreeSet;

use crate::env::planted;
use crate::error::ErrorCode;
use crate::types::{Millis, TopicPartition};

/// No producer.
pub const NO_PRODUCER_ID: i64 = -1;
/// A producer that has not been given an epoch yet.
pub const NO_EPOCH: i16 = -1;
/// The first version of transactions in which every end gives the producer a new epoch (KIP-890).
pub const BUMPS_EPOCH: i16 = 2;
/// The version of clients that know nothing of versions.
pub const OLD_CLIENT: i16 = 0;

/// By the numbers that stand in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum State {
    Empty = 0,
    Ongoing = 1,
    PrepareCommit = 2,
    PrepareAbort = 3,
    CompleteCommit = 4,
    CompleteAbort = 5,
    /// Its id has expired and is being forgotten.
    Dead = 6,
    /// Its producer is being fenced; never in the log.
    PrepareEpochFence = 7,
}

impl State {
    const ALL: [Self; 8] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
        Self::Dead,
        Self::PrepareEpochFence,
    ];

    pub fn from_id(id: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i8 == id)
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
            Self::Dead => "Dead",
            Self::PrepareEpochFence => "PrepareEpochFence",
        }
    }

    pub fn is_prepared(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }

    /// Whether an id that is not used may be forgotten.
    pub fn may_expire(self) -> bool {
        matches!(self, Self::Empty | Self::CompleteCommit | Self::CompleteAbort)
    }
}

/// A transactional id as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub producer_id: i64,
    /// The producer id before the last transition.
    pub previous_producer_id: i64,
    /// What the producer goes on with once the markers are written, when its epochs ran out.
    pub next_producer_id: i64,
    pub epoch: i16,
    pub last_epoch: i16,
    pub timeout_ms: i32,
    pub state: State,
    /// Those that still wait for their marker, once the end is prepared.
    pub partitions: BTreeSet<TopicPartition>,
    /// -1 before the first partition.
    pub started: Millis,
    pub updated: Millis,
    /// The version of transactions that the client of the last transition knows.
    pub client_version: i16,
}

/// A producer as a request names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
}

/// What a request comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// This is to be written.
    Write(Box<Transaction>),
    /// There is nothing to do any more.
    Already,
    Refuse(ErrorCode),
    /// Ask again with a fresh producer id.
    NeedsProducerId,
}

/// What the coordinator has in mind for an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub at: Transaction,
    /// The state that a transition on its way leads to.
    pub pending: Option<State>,
    /// What is written when all partitions have their marker.
    pub completion: Option<Box<Transaction>>,
    /// A fence could not be written: its epoch was never told, and need not be left out.
    pub failed_fence: bool,
}

impl Transaction {
    /// Before its first record.
    pub fn created(producer_id: i64, timeout_ms: i32, now: Millis) -> Self {
        Self {
            producer_id,
            previous_producer_id: NO_PRODUCER_ID,
            next_producer_id: NO_PRODUCER_ID,
            epoch: NO_EPOCH,
            last_epoch: NO_EPOCH,
            timeout_ms,
            state: State::Empty,
            partitions: BTreeSet::new(),
            started: -1,
            updated: now,
            client_version: OLD_CLIENT,
        }
    }

    /// The largest epoch is left for fencing.
    pub fn is_epoch_exhausted(&self) -> bool {
        is_exhausted(self.epoch)
    }

    fn to(&self, state: State) -> Self {
        Self { state, previous_producer_id: self.producer_id, ..self.clone() }
    }

    fn next_epoch(
        &self,
        timeout_ms: i32,
        expected: Option<i16>,
        now: Millis,
    ) -> Result<Self, ErrorCode> {
        let (epoch, last_epoch) = match expected {
            None => (self.epoch + 1, NO_EPOCH),
            Some(expected) if self.epoch == NO_EPOCH || expected == self.epoch => {
                (self.epoch + 1, self.epoch)
            }
            // The answer to the same request got lost.
            Some(expected) if expected == self.last_epoch => (self.epoch, self.last_epoch),
            Some(_) => return Err(ErrorCode::ProducerFenced),
        };
        Ok(Self { epoch, last_epoch, ..self.emptied(timeout_ms, now) })
    }

    fn next_id(&self, producer_id: i64, timeout_ms: i32, keeps_last: bool, now: Millis) -> Self {
        let last_epoch = if keeps_last { self.epoch } else { NO_EPOCH };
        Self { producer_id, epoch: 0, last_epoch, ..self.emptied(timeout_ms, now) }
    }

    fn emptied(&self, timeout_ms: i32, now: Millis) -> Self {
        Self {
            timeout_ms,
            partitions: BTreeSet::new(),
            started: -1,
            updated: now,
            ..self.to(State::Empty)
        }
    }

    fn with(&self, added: BTreeSet<TopicPartition>, version: i16, now: Millis) -> Self {
        let started = if self.state == State::Ongoing { self.started } else { now };
        let partitions = self.partitions.iter().cloned().chain(added).collect();
        Self {
            partitions,
            started,
            updated: now,
            client_version: version,
            ..self.to(State::Ongoing)
        }
    }

    /// Towards its end. `is_empty`: no partition was ever added.
    fn prepared(
        &self,
        state: State,
        version: i16,
        next_producer_id: i64,
        is_empty: bool,
        now: Millis,
    ) -> Self {
        let (epoch, last_epoch) = if version >= BUMPS_EPOCH {
            (self.epoch.saturating_add(1), self.epoch)
        } else {
            (self.epoch, self.last_epoch)
        };
        Self {
            epoch,
            last_epoch,
            next_producer_id,
            started: if is_empty { now } else { self.started },
            updated: now,
            client_version: version,
            ..self.to(state)
        }
    }

    /// After all markers are written.
    #[must_use]
    pub fn completed(&self, now: Millis) -> Self {
        let state = match self.state {
            State::PrepareCommit => State::CompleteCommit,
            _ => State::CompleteAbort,
        };
        let rotates = self.client_version >= BUMPS_EPOCH && self.next_producer_id != NO_PRODUCER_ID;
        let (producer_id, epoch) =
            if rotates { (self.next_producer_id, 0) } else { (self.producer_id, self.epoch) };
        Self {
            producer_id,
            epoch,
            next_producer_id: NO_PRODUCER_ID,
            partitions: BTreeSet::new(),
            updated: now,
            ..self.to(state)
        }
    }
}

fn is_exhausted(epoch: i16) -> bool {
    epoch >= i16::MAX - 1
}

fn prepare(commit: bool) -> State {
    if commit { State::PrepareCommit } else { State::PrepareAbort }
}

impl Known {
    pub fn new(at: Transaction) -> Self {
        Self { at, pending: None, completion: None, failed_fence: false }
    }

    /// InitProducerId. A transaction that is going on is aborted, and its producer fenced: the
    /// client is told to come again. `level` is the cluster's version of transactions.
    pub fn init(
        &mut self,
        timeout_ms: i32,
        expected: Option<Producer>,
        fresh: Option<i64>,
        level: i16,
        now: Millis,
    ) -> Decision {
        let at = &self.at;
        if self.pending.is_some() {
            return Decision::Refuse(ErrorCode::ConcurrentTransactions);
        }
        let may_be = |producer: &Producer| {
            at.epoch == NO_EPOCH
                || producer.id == at.producer_id
                || (producer.id == at.previous_producer_id && is_exhausted(producer.epoch))
        };
        if !expected.as_ref().is_none_or(may_be) {
            return Decision::Refuse(ErrorCode::ProducerFenced);
        }
        match at.state {
            State::PrepareCommit | State::PrepareAbort => {
                Decision::Refuse(ErrorCode::ConcurrentTransactions)
            }
            State::Ongoing => self.fence(fresh, level, now),
            _ => {
                let rotates = at.is_epoch_exhausted()
                    && expected.is_none_or(|producer| producer.epoch == at.epoch);
                if rotates {
                    let Some(fresh) = fresh else { return Decision::NeedsProducerId };
                    let keeps_last = expected.is_some();
                    return Decision::Write(at.next_id(fresh, timeout_ms, keeps_last, now).into());
                }
                if at.is_epoch_exhausted() {
                    // Kafka fails here with an exception of no name.
                    return Decision::Refuse(ErrorCode::UnknownServerError);
                }
                match at.next_epoch(timeout_ms, expected.map(|it| it.epoch), now) {
                    Ok(next) => Decision::Write(next.into()),
                    Err(code) => Decision::Refuse(code),
                }
            }
        }
    }

    /// Aborts what is going on under an epoch that nobody has: its producer can do no more.
    pub fn fence(&mut self, fresh: Option<i64>, level: i16, now: Millis) -> Decision {
        if level >= BUMPS_EPOCH {
            let next = match (self.at.is_epoch_exhausted(), fresh) {
                (true, None) => return Decision::NeedsProducerId,
                (true, Some(fresh)) => fresh,
                (false, _) => NO_PRODUCER_ID,
            };
            let to = self.at.prepared(State::PrepareAbort, level, next, false, now);
            return Decision::Write(to.into());
        }
        if !self.failed_fence {
            self.at.epoch = self.at.epoch.saturating_add(1);
        }
        self.at.last_epoch = NO_EPOCH;
        let to = self.at.prepared(State::PrepareAbort, OLD_CLIENT, NO_PRODUCER_ID, false, now);
        Decision::Write(to.into())
    }

    /// AddPartitionsToTxn and AddOffsetsToTxn.
    pub fn add(
        &self,
        producer: Producer,
        partitions: BTreeSet<TopicPartition>,
        version: i16,
        now: Millis,
    ) -> Decision {
        let at = &self.at;
        if self.pending.is_some() {
            Decision::Refuse(ErrorCode::ConcurrentTransactions)
        } else if at.producer_id != producer.id {
            Decision::Refuse(ErrorCode::InvalidProducerIdMapping)
        } else if at.epoch != producer.epoch && !planted!(FencedEpochAccepted) {
            Decision::Refuse(ErrorCode::ProducerFenced)
        } else if at.state.is_prepared() {
            Decision::Refuse(ErrorCode::ConcurrentTransactions)
        } else if at.state == State::Ongoing && at.partitions.is_superset(&partitions) {
            Decision::Already
        } else {
            Decision::Write(at.with(partitions, version, now).into())
        }
    }

    /// AddPartitionsToTxn, verify only: what a leader asks before a producer's first append. A
    /// transition on its way does not matter: the append is checked once more.
    pub fn verify(&self, producer: Producer) -> Result<&BTreeSet<TopicPartition>, ErrorCode> {
        if self.at.producer_id != producer.id {
            Err(ErrorCode::InvalidProducerIdMapping)
        } else if self.at.epoch != producer.epoch {
            Err(ErrorCode::ProducerFenced)
        } else if self.at.state.is_prepared() {
            Err(ErrorCode::ConcurrentTransactions)
        } else {
            Ok(&self.at.partitions)
        }
    }

    /// EndTxn of a client that does not know of version 2.
    pub fn end_old(&self, producer: Producer, commit: bool, now: Millis) -> Decision {
        let at = &self.at;
        if at.producer_id != producer.id {
            return Decision::Refuse(ErrorCode::InvalidProducerIdMapping);
        }
        if at.epoch != producer.epoch {
            return Decision::Refuse(ErrorCode::ProducerFenced);
        }
        if self.pending.is_some() {
            return Decision::Refuse(ErrorCode::ConcurrentTransactions);
        }
        match (at.state, commit) {
            (State::Ongoing, _) => {
                let to = at.prepared(prepare(commit), OLD_CLIENT, NO_PRODUCER_ID, false, now);
                Decision::Write(to.into())
            }
            (State::CompleteCommit, true) | (State::CompleteAbort, false) => Decision::Already,
            (State::PrepareCommit, true) | (State::PrepareAbort, false) => {
                Decision::Refuse(ErrorCode::ConcurrentTransactions)
            }
            _ => Decision::Refuse(ErrorCode::InvalidTxnState),
        }
    }

    /// EndTxn of version 2: every end gives the producer its next epoch, so the same request again
    /// is told from the next one, and a transaction without partitions can be aborted.
    pub fn end(
        &self,
        producer: Producer,
        commit: bool,
        version: i16,
        fresh: Option<i64>,
        now: Millis,
    ) -> Decision {
        let at = &self.at;
        if self.pending.is_some() {
            return Decision::Refuse(ErrorCode::ConcurrentTransactions);
        }
        let again_after_rotation = at.previous_producer_id == producer.id
            && producer.epoch == i16::MAX - 1
            && at.epoch == 0;
        let again = i32::from(at.epoch) == i32::from(producer.epoch) + 1;
        let current = at.epoch == producer.epoch;
        if at.producer_id != producer.id && !again_after_rotation {
            return Decision::Refuse(ErrorCode::InvalidProducerIdMapping);
        }
        let valid = match at.state {
            State::PrepareCommit | State::PrepareAbort => again,
            State::CompleteCommit | State::CompleteAbort => {
                again || again_after_rotation || current
            }
            _ => current,
        };
        if !valid {
            return Decision::Refuse(ErrorCode::ProducerFenced);
        }
        let is_retry = again || again_after_rotation;
        match (at.state, commit) {
            (State::Ongoing, _) => self.prepare(prepare(commit), version, fresh, false, now),
            (State::CompleteCommit, true) | (State::CompleteAbort, false) if is_retry => {
                Decision::Already
            }
            (State::CompleteCommit | State::CompleteAbort, false) if !is_retry => {
                self.prepare(State::PrepareAbort, version, fresh, true, now)
            }
            (State::Empty, false) => self.prepare(State::PrepareAbort, version, fresh, true, now),
            (State::PrepareCommit, true) | (State::PrepareAbort, false) => {
                Decision::Refuse(ErrorCode::ConcurrentTransactions)
            }
            _ => Decision::Refuse(ErrorCode::InvalidTxnState),
        }
    }

    fn prepare(
        &self,
        state: State,
        version: i16,
        fresh: Option<i64>,
        is_empty: bool,
        now: Millis,
    ) -> Decision {
        let next = match (self.at.is_epoch_exhausted(), fresh) {
            (true, None) => return Decision::NeedsProducerId,
            (true, Some(fresh)) => fresh,
            (false, _) => NO_PRODUCER_ID,
        };
        Decision::Write(self.at.prepared(state, version, next, is_empty, now).into())
    }

    /// Whether it went on for too long. Those of two-phase commits have no time-out.
    pub fn is_overdue(&self, now: Millis) -> bool {
        self.pending.is_none()
            && self.at.state == State::Ongoing
            && self.at.timeout_ms != i32::MAX
            && self.at.started + i64::from(self.at.timeout_ms) < now
    }

    pub fn is_expired(&self, now: Millis, after_ms: i64) -> bool {
        self.pending.is_none() && self.at.state.may_expire() && self.at.updated <= now - after_ms
    }
}
