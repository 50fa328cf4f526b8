//! Which transactions the cleaner is in the midst of, as it walks over a log: records of aborted
//! ones go, and a marker goes when nothing of its transaction was left for it to decide.

use std::collections::{BTreeMap, BTreeSet};

use crate::env::planted;
use crate::log::aborted::AbortedTransaction;
use crate::types::Offset;
use crate::wire::records::{BatchView, ControlKind, MAX_DECOMPRESSED, RecordsError};

#[derive(Debug, Default)]
pub(super) struct Transactions {
    /// To come, by first offset. A transaction that touches two segments is here twice.
    ahead: BTreeMap<(Offset, i64, Offset), AbortedTransaction>,
    /// By producer, and whether a batch of it was seen.
    aborted: BTreeMap<i64, (AbortedTransaction, bool)>,
    /// Producers of batches that no abort was known for.
    others: BTreeSet<i64>,
}

impl Transactions {
    /// Those that touch what is read next.
    pub(super) fn expect(&mut self, aborted: Vec<AbortedTransaction>) {
        for it in aborted {
            self.ahead.insert((it.first_offset, it.producer_id, it.last_offset), it);
        }
    }

    fn begin_up_to(&mut self, offset: Offset) {
        while let Some(first) = self.ahead.first_entry().filter(|it| it.key().0 <= offset) {
            let transaction = first.remove();
            self.aborted.entry(transaction.producer_id).or_insert((transaction, false));
        }
    }

    /// Whether the batch, which is no marker, is of an aborted transaction.
    pub(super) fn on_data(&mut self, batch: &BatchView<'_>) -> bool {
        self.begin_up_to(batch.last_offset());
        if !batch.is_transactional() {
            return false;
        }
        if let Some((_, seen)) = self.aborted.get_mut(&batch.producer_id()) {
            *seen = true;
            return true;
        }
        self.others.insert(batch.producer_id());
        false
    }

    /// Whether the control batch decides nothing any more; and the aborted transaction that stays
    /// in the index because it does.
    pub(super) fn on_control(
        &mut self,
        batch: &BatchView<'_>,
    ) -> Result<(bool, Option<AbortedTransaction>), RecordsError> {
        self.begin_up_to(batch.last_offset());
        let records = batch.records(MAX_DECOMPRESSED)?;
        let Some(record) = records.first()? else {
            // Was emptied before.
            return Ok((true, None));
        };
        let id = batch.producer_id();
        if planted!(CleanerDropsMarkers) {
            return Ok((true, None));
        }
        Ok(match record.key.and_then(ControlKind::of_key) {
            Some(ControlKind::Abort) => match self.aborted.remove(&id) {
                Some((transaction, true)) => (false, Some(transaction)),
                _ => (true, None),
            },
            Some(ControlKind::Commit) => (!self.others.remove(&id), None),
            _ => (false, None),
        })
    }
}
