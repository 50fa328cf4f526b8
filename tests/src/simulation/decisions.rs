//! Whether the outcome of a transaction was decided before it was told: a marker that is committed
//! in some partition has its decision committed in the log of transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ottla_broker::wire::records::{BatchView, ControlKind};

/// The decision may be seen a little later than the marker: its leader may have died just then.
const GRACE: Duration = Duration::from_secs(1);
/// Of `__transaction_state`'s values: where the producer's id, its epoch and the state lie.
const PRODUCER: usize = 2;
const EPOCH: usize = PRODUCER + 8;
const STATE: usize = EPOCH + 2 + 4;

/// A producer, its epoch, and whether it commits.
type End = (i64, i16, bool);

#[derive(Default)]
pub struct Decisions {
    made: BTreeSet<End>,
    /// Markers without, with where and when they were first seen.
    told: BTreeMap<End, (String, Duration)>,
}

impl Decisions {
    /// Of the log of transactions.
    pub fn decided(&mut self, batch: &BatchView<'_>) {
        let Ok(records) = batch.records(1 << 24) else { return };
        let values = records.iter().map_while(Result::ok).filter_map(|record| record.value);
        self.made.extend(values.filter_map(end_of));
    }

    /// Of any other log.
    pub fn told(&mut self, place: &str, batch: &BatchView<'_>, now: Duration) {
        if !batch.is_control() || !batch.is_transactional() {
            return;
        }
        let Ok(records) = batch.records(1 << 16) else { return };
        let record = records.iter().map_while(Result::ok).next();
        let kind = record.and_then(|record| ControlKind::of_key(record.key?));
        let commits = matches!(kind, Some(ControlKind::Commit));
        if commits || matches!(kind, Some(ControlKind::Abort)) {
            let end = (batch.producer_id(), batch.producer_epoch(), commits);
            if !self.made.contains(&end) {
                self.told.entry(end).or_insert_with(|| (place.to_owned(), now));
            }
        }
    }

    pub fn judge(&mut self, now: Duration) -> Result<(), String> {
        let made = &self.made;
        self.told.retain(|end, _| !made.contains(end));
        match self.told.iter().find(|(_, (_, seen))| now > *seen + GRACE) {
            None => Ok(()),
            Some(((producer, epoch, commits), (place, _))) => Err(format!(
                "undecided: {place} has the end of a transaction of producer {producer} in epoch \
                 {epoch} (commit: {commits}), which its coordinator has not committed"
            )),
        }
    }
}

/// What a value says of the end of a transaction: prepared, or complete.
fn end_of(value: &[u8]) -> Option<End> {
    let producer = value.get(PRODUCER..)?.first_chunk()?;
    let epoch = value.get(EPOCH..)?.first_chunk()?;
    let commits = match value.get(STATE)? {
        2 | 4 => true,
        3 | 5 => false,
        _ => return None,
    };
    Some((i64::from_be_bytes(*producer), i16::from_be_bytes(*epoch), commits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_transaction_is_read_from_its_record() {
        let value = |state: u8| {
            let parts: [&[u8]; 5] = [
                &[0, 1],
                &7i64.to_be_bytes(),
                &3i16.to_be_bytes(),
                &60_000i32.to_be_bytes(),
                &[state, 0],
            ];
            parts.concat()
        };
        assert_eq!(end_of(&value(1)), None);
        assert_eq!(end_of(&value(2)), Some((7, 3, true)));
        assert_eq!(end_of(&value(5)), Some((7, 3, false)));
        assert_eq!(end_of(&[]), None);
    }
}
