//! The timers of all shards of this broker: one map by time, whatever their number.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::shard::CoordinatorShard;

type Due = (Instant, u64);

/// A partition, whose the timer is within it, and which of its timers.
type At<S> = (i32, <S as CoordinatorShard>::Key, <S as CoordinatorShard>::Slot);

pub(super) struct Timers<S: CoordinatorShard> {
    by_time: BTreeMap<Due, (At<S>, S::Timer)>,
    by_place: BTreeMap<At<S>, Due>,
    /// Tells timers of the same instant apart, in the order in which they were set.
    next: u64,
}

impl<S: CoordinatorShard> Default for Timers<S> {
    fn default() -> Self {
        Self { by_time: BTreeMap::new(), by_place: BTreeMap::new(), next: 0 }
    }
}

impl<S: CoordinatorShard> Timers<S> {
    /// Sets a slot, in place of what it held.
    pub fn set(&mut self, place: At<S>, at: Instant, timer: S::Timer) {
        let due = (at, self.next);
        self.next += 1;
        if let Some(before) = self.by_place.insert(place.clone(), due) {
            self.by_time.remove(&before);
        }
        self.by_time.insert(due, (place, timer));
    }

    pub fn holds(&self, place: &At<S>) -> bool {
        self.by_place.contains_key(place)
    }

    pub fn cancel(&mut self, place: &At<S>) {
        if let Some(due) = self.by_place.remove(place) {
            self.by_time.remove(&due);
        }
    }

    pub fn cancel_all(&mut self, partition: i32) {
        self.by_place.retain(|place, due| {
            let keep = place.0 != partition;
            if !keep {
                self.by_time.remove(due);
            }
            keep
        });
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.by_time.keys().next().map(|(at, _)| *at)
    }

    /// Takes the first timer that has run out by `now`.
    pub fn pop(&mut self, now: Instant) -> Option<(i32, S::Key, S::Timer)> {
        let first = self.by_time.first_entry().filter(|entry| entry.key().0 <= now)?;
        let (place, timer) = first.remove();
        self.by_place.remove(&place);
        Some((place.0, place.1, timer))
    }
}
