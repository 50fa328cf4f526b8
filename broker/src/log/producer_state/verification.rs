//! The word of the transaction coordinator that a producer may begin a transaction in a partition
//! (KIP-890): asked for before the first transactional batch is appended.
//!
//! A [`Guard`] is made before the question leaves, and the append shows it. It is void once a marker
//! of that producer has come, or its transaction has begun: an answer that is older than either says
//! nothing about the present. The lowest sequence that waits for an answer goes first.

use std::collections::BTreeMap;

use super::{Origin, Producer};
use crate::error::{ErrorCode, Refusal};
use crate::types::Millis;
use crate::wire::records::BatchView;

/// Shown by an append whose transaction was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard(u64);

/// Who appends, and what was found out beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appending {
    pub origin: Origin,
    pub guard: Option<Guard>,
    /// Whether the first transactional batch of a producer needs a guard.
    pub verified: bool,
    /// Of a marker: the version of the transactions protocol of its coordinator.
    pub transaction_version: i8,
}

impl From<Origin> for Appending {
    /// Clients need a guard; a coordinator that has something to verify says so.
    fn from(origin: Origin) -> Self {
        let verified = origin == Origin::Client;
        Self { origin, guard: None, verified, transaction_version: 0 }
    }
}

impl Appending {
    /// By a client, or a coordinator, that asked the transaction coordinator first.
    pub fn verified(origin: Origin, guard: Option<Guard>) -> Self {
        Self { guard, verified: true, ..origin.into() }
    }

    /// A marker, which the transaction coordinator itself asks for.
    pub fn marker(transaction_version: i8) -> Self {
        Self { transaction_version, ..Origin::Coordinator.into() }
    }

    /// What a leader accepted is not judged again.
    pub(super) fn is_trusted(self) -> bool {
        matches!(self.origin, Origin::Replication | Origin::Raft)
    }

    pub(super) fn needs_guard(self) -> bool {
        self.verified
    }
}

#[derive(Debug, Clone)]
struct Verification {
    guard: Guard,
    epoch: i16,
    lowest_sequence: i32,
    supports_epoch_bump: bool,
    since: Millis,
}

/// The verifications that are on their way, by producer.
#[derive(Debug, Clone, Default)]
pub(in crate::log) struct Verifications {
    waiting: BTreeMap<i64, Verification>,
    /// Guards are never used twice.
    made: u64,
}

impl Verifications {
    pub(super) fn start(
        &mut self,
        id: i64,
        epoch: i16,
        sequence: i32,
        supports_epoch_bump: bool,
        now: Millis,
    ) -> Guard {
        let made = &mut self.made;
        let waiting = self.waiting.entry(id).or_insert_with(|| {
            *made += 1;
            Verification {
                guard: Guard(*made),
                epoch,
                lowest_sequence: sequence,
                supports_epoch_bump,
                since: now,
            }
        });
        let newer = epoch > waiting.epoch;
        if newer || epoch == waiting.epoch && sequence < waiting.lowest_sequence {
            waiting.epoch = epoch;
            waiting.lowest_sequence = sequence;
        }
        waiting.guard
    }

    pub(super) fn clear(&mut self, id: i64) {
        self.waiting.remove(&id);
    }

    pub(super) fn expire(&mut self, now: Millis, after: Millis) {
        self.waiting.retain(|_, waiting| now.saturating_sub(waiting.since) < after);
    }

    pub(super) fn check(&self, id: i64, shown: Option<Guard>) -> Result<(), Refusal> {
        let expected = self.waiting.get(&id).map(|waiting| waiting.guard);
        if expected.is_some() && expected == shown {
            return Ok(());
        }
        let message = "Record was not part of an ongoing transaction";
        Err(Refusal::new(ErrorCode::InvalidTxnState, message))
    }

    /// What was sent later may not overtake what waits, and a producer of which nothing is known
    /// begins at 0, if its epochs change with each transaction.
    pub(super) fn check_sequence(
        &self,
        batch: &BatchView<'_>,
        known: Option<&Producer>,
    ) -> Result<(), Refusal> {
        let (id, next) = (batch.producer_id(), batch.base_sequence());
        let Some(waiting) = self.waiting.get(&id) else { return Ok(()) };
        let empty = known.is_none_or(|known| known.batches.is_empty());
        let refuse = |why: String| {
            let message = format!("out of order sequence number of producer {id}: {next}, {why}");
            Err(Refusal::new(ErrorCode::OutOfOrderSequenceNumber, message))
        };
        if waiting.supports_epoch_bump && next != 0 && empty {
            return refuse("nothing is known of it, so it has to begin at 0".into());
        }
        if next > waiting.lowest_sequence {
            return refuse(format!("{} is to come before", waiting.lowest_sequence));
        }
        Ok(())
    }
}

pub(super) fn old_epoch(id: i64, epoch: i16, known: i16) -> Refusal {
    Refusal::new(
        ErrorCode::InvalidProducerEpoch,
        format!("epoch {epoch} of producer {id} is smaller than the last seen epoch {known}"),
    )
}
