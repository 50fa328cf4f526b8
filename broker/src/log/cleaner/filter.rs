//! What becomes of one batch: it stays, loses records, is emptied, or goes.
//!
//! Pure. A record stays while it is the newest of its key. A tombstone and a marker that decides
//! nothing any more stay for `delete.retention.ms` after the cleaner first saw them so: their
//! batch gets a delete horizon (KIP-534). An emptied batch stays where it has the last sequence of
//! a producer that is still known, or the last offset of what was cleaned.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::offset_map::OffsetMap;
use super::transactions::Transactions;
use crate::env::planted;
use crate::log::aborted::AbortedTransaction;
use crate::log::producer_state::Producer;
use crate::types::{Millis, Offset};
use crate::wire::records::{BatchView, MAX_DECOMPRESSED, RawRecord, RecordsError};

/// What holds for all batches of a round.
pub(super) struct Rules<'a> {
    pub(super) newest: &'a OffsetMap,
    /// Where what may be cleaned ends.
    pub(super) up_to: Offset,
    pub(super) now: Millis,
    pub(super) delete_retention_ms: Millis,
    pub(super) producers: &'a BTreeMap<i64, LastBatch>,
}

/// What the last batch of a producer is known by.
#[derive(Debug, Clone, Copy)]
pub(super) enum LastBatch {
    Data(Offset),
    /// There is none but the marker of this epoch.
    Marker(i16),
}

impl LastBatch {
    pub(super) fn of(producer: &Producer) -> Self {
        let data = producer.batches.back().map(|batch| Self::Data(batch.last_offset));
        data.unwrap_or(Self::Marker(producer.epoch))
    }

    fn is(self, batch: &BatchView<'_>) -> bool {
        match self {
            Self::Data(offset) => batch.last_offset() == offset,
            Self::Marker(epoch) => batch.is_control() && batch.producer_epoch() == epoch,
        }
    }
}

/// What is left of a batch.
#[derive(Debug)]
pub(super) enum Left {
    Nothing,
    Same,
    Less(Bytes),
}

pub(super) fn filter(
    batch: &BatchView<'_>,
    rules: &Rules<'_>,
    transactions: &mut Transactions,
) -> Result<(Left, Option<AbortedTransaction>), RecordsError> {
    let (idle, aborted) = if batch.is_control() {
        transactions.on_control(batch)?
    } else {
        (transactions.on_data(batch), None)
    };
    let horizon = batch.delete_horizon();
    let over = horizon.is_some_and(|horizon| horizon <= rules.now) || planted!(CleanerDropsMarkers);
    let discard = idle && (!batch.is_control() || over);
    let last_of_producer = batch.has_producer_id()
        && rules.producers.get(&batch.producer_id()).is_some_and(|last| last.is(batch));
    let keep_empty = last_of_producer || batch.next_offset() == rules.up_to;
    if discard && !keep_empty {
        return Ok((Left::Nothing, aborted));
    }
    let records = batch.records(MAX_DECOMPRESSED)?;
    let mut raw = records.raw()?;
    let before = raw.len();
    raw.retain(|record| !discard && (batch.is_control() || stays(record, horizon, rules)));
    let left = match () {
        () if raw.is_empty() && !keep_empty => Left::Nothing,
        () if raw.is_empty() && before == 0 => Left::Same,
        () if raw.is_empty() => Left::Less(batch.emptied()?.freeze()),
        () => {
            let waits = batch.is_control() && idle || raw.iter().any(|record| !record.has_value);
            let new = waits && horizon.is_none();
            if raw.len() == before && !new {
                Left::Same
            } else {
                let later = || rules.now.saturating_add(rules.delete_retention_ms);
                let horizon = horizon.or_else(|| new.then(later));
                Left::Less(BytesMut::freeze(batch.with_only(&raw, horizon)?))
            }
        }
    };
    Ok((left, aborted))
}

fn stays(record: &RawRecord<'_>, horizon: Option<Millis>, rules: &Rules<'_>) -> bool {
    if record.offset > rules.newest.latest() {
        return true;
    }
    let Some(key) = record.key else { return false };
    let newest = rules.newest.get(key).is_none_or(|newest| record.offset >= newest);
    let kept = horizon.is_none_or(|horizon| rules.now < horizon);
    newest && (record.has_value || kept && !planted!(TombstonesRemovedAtOnce))
}
