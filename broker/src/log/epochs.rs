//! Which leader epoch began at which offset: Kafka's LeaderEpochFileCache and its checkpoint.
//!
//! Pure; [`super::flusher`] writes it when it changed. Invariant: epochs and offsets both ascend.

use std::collections::BTreeMap;

use crate::types::{LeaderEpoch, NO_EPOCH, Offset};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Epochs {
    starts: BTreeMap<LeaderEpoch, Offset>,
    pub(super) dirty: bool,
}

impl Epochs {
    pub(super) fn from_entries(entries: impl IntoIterator<Item = (LeaderEpoch, Offset)>) -> Self {
        let mut epochs = Self::default();
        for (epoch, start) in entries {
            epochs.assign(epoch, start);
        }
        epochs.dirty = false;
        epochs
    }

    pub(super) fn entries(&self) -> Vec<(LeaderEpoch, Offset)> {
        self.starts.iter().map(|(epoch, start)| (*epoch, *start)).collect()
    }

    /// Entries that contradict the new one, because they are not before it, go.
    pub(super) fn assign(&mut self, epoch: LeaderEpoch, start: Offset) {
        if epoch < 0 || start < 0 {
            return;
        }
        if let Some((&latest, &offset)) = self.starts.last_key_value()
            && latest == epoch
            && start >= offset
        {
            return;
        }
        while let Some(last) = self.starts.last_entry() {
            if *last.key() < epoch && *last.get() < start {
                break;
            }
            last.remove();
        }
        self.starts.insert(epoch, start);
        self.dirty = true;
    }

    /// What the file lacks, if it lacks anything.
    pub(super) fn take_dirty(&mut self) -> Option<Vec<(LeaderEpoch, Offset)>> {
        std::mem::take(&mut self.dirty).then(|| self.entries())
    }

    pub(super) fn latest(&self) -> Option<LeaderEpoch> {
        self.starts.last_key_value().map(|(epoch, _)| *epoch)
    }

    /// The epoch in which the record at `offset` was written.
    pub(super) fn at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.starts.iter().take_while(|(_, start)| **start <= offset).last().map(|(e, _)| *e)
    }

    /// The largest epoch not above `asked`, and where it ended.
    pub(super) fn end_offset_for(
        &self,
        asked: LeaderEpoch,
        log_end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        if asked == NO_EPOCH {
            return None;
        }
        if self.latest() == Some(asked) {
            return Some((asked, log_end));
        }
        let (_, &end) = self.starts.range(asked.checked_add(1)?..).next()?;
        // Below the first known epoch: its records are gone, what follows starts at `end`.
        let epoch = self.starts.range(..=asked).next_back().map_or(asked, |(epoch, _)| *epoch);
        Some((epoch, end))
    }

    pub(super) fn truncate_from_end(&mut self, end: Offset) {
        let before = self.starts.len();
        self.starts.retain(|_, start| *start < end);
        self.dirty |= self.starts.len() != before;
    }

    /// The epoch that goes on over `start` now begins there.
    pub(super) fn truncate_from_start(&mut self, start: Offset) {
        let gone = self.starts.iter().take_while(|(_, at)| **at <= start).count();
        let mut last = None;
        for _ in 0..gone {
            last = self.starts.pop_first();
        }
        if let Some((epoch, before)) = last {
            self.starts.insert(epoch, start);
            self.dirty |= gone > 1 || before != start;
        }
    }

    pub(super) fn clear(&mut self) {
        self.dirty |= !self.starts.is_empty();
        self.starts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_epoch_is_the_start_of_the_next() {
        let epochs = Epochs::from_entries([(2, 10), (4, 20), (7, 35)]);
        let cases = [
            (-1, None),
            (1, Some((1, 10))),
            (2, Some((2, 20))),
            (3, Some((2, 20))),
            (4, Some((4, 35))),
            (6, Some((4, 35))),
            (7, Some((7, 50))),
            (8, None),
        ];
        for (asked, expected) in cases {
            assert_eq!(epochs.end_offset_for(asked, 50), expected, "{asked}");
        }
        assert_eq!(Epochs::default().end_offset_for(0, 50), None);
        let at: Vec<_> = [9, 10, 34, 35].into_iter().map(|offset| epochs.at(offset)).collect();
        assert_eq!(at, [None, Some(2), Some(4), Some(7)]);
    }

    #[test]
    fn a_new_entry_removes_those_that_contradict_it() {
        let mut epochs = Epochs::from_entries([(1, 0), (2, 10), (3, 20)]);
        epochs.assign(3, 25);
        assert!(!epochs.dirty, "an epoch keeps its first offset");
        epochs.assign(4, 10);
        assert_eq!(epochs.entries(), [(1, 0), (4, 10)]);
        epochs.assign(2, 50);
        assert_eq!(epochs.entries(), [(1, 0), (2, 50)]);
    }

    #[test]
    fn truncation_cuts_both_ends() {
        let mut epochs = Epochs::from_entries([(1, 0), (2, 10), (3, 20)]);
        epochs.truncate_from_end(20);
        assert_eq!(epochs.entries(), [(1, 0), (2, 10)]);
        epochs.truncate_from_start(15);
        assert_eq!(epochs.entries(), [(2, 15)]);
        epochs.truncate_from_start(5);
        assert_eq!(epochs.entries(), [(2, 15)]);
    }
}
