//! Decisions that are too large for one batch of the metadata log.
//!
//! The records of a decision become true together. As long as they fit, one batch sees to that;
//! else they are a metadata transaction (KIP-868): a begin marker, batches, an end marker. Kafka
//! reads both. A leader that dies in between leaves a transaction that its successor aborts
//! ([`abort`]). Kafka itself writes transactions for its bootstrap records only, and lets larger
//! results become true piece by piece.

use crate::wire::metadata::{
    AbortTransactionRecord, BeginTransactionRecord, EndTransactionRecord, Record,
};

/// As many records as Kafka puts into a batch at most.
const MAX_RECORDS: usize = 10_000;
/// Below the 8 MiB that Kafka reads at once.
const MAX_BYTES: usize = 4 << 20;

/// The batches to append, in order, for the records of one decision.
pub fn batches(records: Vec<Record>) -> Vec<Vec<Record>> {
    split(records, MAX_RECORDS, MAX_BYTES)
}

fn split(records: Vec<Record>, max_records: usize, max_bytes: usize) -> Vec<Vec<Record>> {
    if records.is_empty() {
        return Vec::new();
    }
    let (mut batches, mut bytes) = (vec![Vec::new()], 0);
    for record in records {
        let size = record.to_frame().len();
        let last = batches.len() - 1;
        let full = batches[last].len() >= max_records || bytes + size > max_bytes;
        if full && !batches[last].is_empty() {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        let last = batches.len() - 1;
        batches[last].push(record);
    }
    if batches.len() > 1 {
        // In batches of their own, so that what is before and after ends where a batch ends.
        batches.insert(0, vec![BeginTransactionRecord::default().into()]);
        batches.push(vec![EndTransactionRecord {}.into()]);
    }
    batches
}

/// Ends a transaction that an earlier leader did not finish: a new leader's first record.
pub fn abort() -> Record {
    AbortTransactionRecord { reason: Some("Controller failover".into()) }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::metadata::NoOpRecord;

    fn records(count: usize) -> Vec<Record> {
        vec![NoOpRecord {}.into(); count]
    }

    #[test]
    fn what_fits_is_one_batch_and_what_does_not_is_a_transaction() {
        assert!(split(records(0), 3, 100).is_empty());
        assert_eq!(split(records(3), 3, 100), [records(3)]);
        let size = records(1)[0].to_frame().len();
        for (max_records, max_bytes) in [(3, 1000), (100, size * 3)] {
            let batches = split(records(7), max_records, max_bytes);
            let sizes: Vec<_> = batches.iter().map(Vec::len).collect();
            assert_eq!(sizes, [1, 3, 3, 1, 1]);
            assert!(matches!(batches[0][..], [Record::BeginTransaction(_)]));
            assert!(matches!(batches[4][..], [Record::EndTransaction(_)]));
        }
        assert_eq!(split(records(2), 3, 1).len(), 4, "a record that is too large has its own");
    }
}
