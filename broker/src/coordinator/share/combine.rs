//! Joins what was known of records with what is new: one state for each record, neighbours in one
//! state as one batch.
//!
//! Where batches overlap, the record that was delivered more often is the newer one, and of equals
//! the one that is further: states only go forward between two deliveries. Acknowledgements may
//! arrive in any order for that reason.

use std::collections::BTreeSet;

use super::records::StateBatch;
use crate::types::Offset;

/// All of `batches`, from `start` on (-1: from the first), by offset, without overlaps.
pub fn combine(batches: impl IntoIterator<Item = StateBatch>, start: Offset) -> Vec<StateBatch> {
    let mut known: Vec<StateBatch> = batches
        .into_iter()
        .filter(|batch| batch.last >= start)
        .map(|batch| StateBatch { first: batch.first.max(start), ..batch })
        .collect();
    if known.len() < 2 {
        return known;
    }
    known.sort_by_key(|batch| batch.first);
    let cuts = known.iter().flat_map(|batch| [batch.first, batch.last.saturating_add(1)]);
    let mut cuts: Vec<Offset> = cuts.collect();
    cuts.sort_unstable();
    cuts.dedup();
    // Of those that hold the range between two cuts; the furthest is the last.
    let mut open: BTreeSet<(i16, i8, Offset)> = BTreeSet::new();
    let mut next = known.iter().peekable();
    let mut combined: Vec<StateBatch> = Vec::with_capacity(known.len());
    for pair in cuts.windows(2) {
        let (first, last) = (pair[0], pair[1] - 1);
        while let Some(batch) = next.next_if(|batch| batch.first <= first) {
            open.insert((batch.deliveries, batch.state, batch.last));
        }
        open.retain(|(_, _, end)| *end >= first);
        let Some((deliveries, state, _)) = open.last() else { continue };
        let batch = StateBatch { first, last, state: *state, deliveries: *deliveries };
        match combined.last_mut() {
            Some(before)
                if before.last + 1 == first
                    && (before.state, before.deliveries) == (*state, *deliveries) =>
            {
                before.last = last;
            }
            _ => combined.push(batch),
        }
    }
    combined
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch((first, last, state, deliveries): (i64, i64, i8, i16)) -> StateBatch {
        StateBatch { first, last, state, deliveries }
    }

    fn combined(batches: &[(i64, i64, i8, i16)], start: Offset) -> Vec<(i64, i64, i8, i16)> {
        let combined = combine(batches.iter().copied().map(batch), start);
        combined.into_iter().map(|it| (it.first, it.last, it.state, it.deliveries)).collect()
    }

    #[test]
    fn neighbours_in_one_state_are_one() {
        let batches = [(0, 4, 2, 1), (5, 9, 2, 1), (10, 12, 2, 2)];
        assert_eq!(combined(&batches, -1), [(0, 9, 2, 1), (10, 12, 2, 2)]);
    }

    #[test]
    fn the_later_delivery_wins_and_then_the_further_state() {
        assert_eq!(
            combined(&[(0, 9, 2, 1), (3, 5, 0, 2)], -1),
            [(0, 2, 2, 1), (3, 5, 0, 2), (6, 9, 2, 1)]
        );
        assert_eq!(combined(&[(0, 9, 4, 1), (3, 5, 2, 1)], -1), [(0, 9, 4, 1)]);
    }

    #[test]
    fn what_lies_before_the_start_is_left_out() {
        assert_eq!(combined(&[(0, 4, 2, 1), (5, 9, 0, 1)], 3), [(3, 4, 2, 1), (5, 9, 0, 1)]);
        assert_eq!(combined(&[(0, 4, 2, 1)], 3), [(3, 4, 2, 1)]);
        assert_eq!(combined(&[(0, 4, 2, 1)], 5), []);
    }

    proptest! {
        #[test]
        fn each_record_has_the_furthest_of_its_states(
            batches in proptest::collection::vec((0..20i64, 0..6i64, 0..3usize, 1..4i16), 0..9),
            start in -1..10i64,
        ) {
            let batches: Vec<_> = batches
                .into_iter()
                .map(|(first, len, state, deliveries)| (first, first + len, [0, 2, 4][state], deliveries))
                .collect();
            let result = combined(&batches, start);
            for offset in 0..30 {
                let holds = |it: &&(i64, i64, i8, i16)| (it.0..=it.1).contains(&offset);
                let best = batches.iter().filter(holds).map(|it| (it.3, it.2)).max();
                let best = best.filter(|_| offset >= start);
                let mut found = result.iter().filter(holds).map(|it| (it.3, it.2));
                prop_assert_eq!(found.next(), best);
                prop_assert_eq!(found.next(), None);
            }
        }
    }
}
