//! The timers of all groups of this broker: one map by time, whatever their number.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::coordinator::group::classic::{Slot, Timer};

type Due = (Instant, u64);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    partition: i32,
    group: String,
    slot: Slot,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeMap<Due, (Key, Timer)>,
    by_key: BTreeMap<Key, Due>,
    /// Tells timers of the same instant apart, in the order in which they were set.
    next: u64,
}

impl Timers {
    /// Sets a slot, in place of what it held.
    pub fn set(&mut self, partition: i32, group: String, slot: Slot, at: Instant, timer: Timer) {
        let key = Key { partition, group, slot };
        let due = (at, self.next);
        self.next += 1;
        if let Some(before) = self.by_key.insert(key.clone(), due) {
            self.by_time.remove(&before);
        }
        self.by_time.insert(due, (key, timer));
    }

    pub fn cancel(&mut self, partition: i32, group: String, slot: Slot) {
        if let Some(due) = self.by_key.remove(&Key { partition, group, slot }) {
            self.by_time.remove(&due);
        }
    }

    pub fn cancel_all(&mut self, partition: i32) {
        self.by_key.retain(|key, due| {
            let keep = key.partition != partition;
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
    pub fn pop(&mut self, now: Instant) -> Option<(i32, String, Timer)> {
        let first = self.by_time.first_entry().filter(|entry| entry.key().0 <= now)?;
        let (key, timer) = first.remove();
        self.by_key.remove(&key);
        Some((key.partition, key.group, timer))
    }
}
