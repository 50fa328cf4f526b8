//! Who waits for a partition: long-poll fetches and producers, woken by what happens, not by timers.
//!
//! A waiter registers with every partition that it is interested in, looks whether it still has to
//! wait, and then waits: what happens in between is not lost. Invariants: waking takes all waiters
//! off the list; those that gave up vanish with their handle, and the list is swept of them before
//! it can grow to more than twice those that are alive.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Lists shorter than this are not worth a sweep.
const SWEEP_FROM: usize = 16;

#[derive(Default)]
pub struct Watchers(Mutex<List>);

#[derive(Default)]
struct List {
    waiting: Vec<Weak<Notify>>,
    sweep_at: usize,
}

impl Watchers {
    /// `waiter` is woken once, by the next [`Self::wake`].
    pub fn add(&self, waiter: &Arc<Notify>) {
        let mut list = self.0.lock();
        if list.waiting.len() >= list.sweep_at.max(SWEEP_FROM) {
            list.waiting.retain(|waiter| waiter.strong_count() > 0);
            list.sweep_at = list.waiting.len() * 2;
        }
        list.waiting.push(Arc::downgrade(waiter));
    }

    pub fn wake(&self) {
        let waiting = std::mem::take(&mut self.0.lock().waiting);
        for waiter in waiting.iter().filter_map(Weak::upgrade) {
            waiter.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wake_between_registering_and_waiting_is_not_lost() {
        let (watchers, waiter) = (Watchers::default(), Arc::new(Notify::new()));
        watchers.add(&waiter);
        watchers.wake();
        waiter.notified().await;
        assert!(watchers.0.lock().waiting.is_empty());
    }

    #[test]
    fn those_that_gave_up_do_not_pile_up() {
        let watchers = Watchers::default();
        let alive = Arc::new(Notify::new());
        watchers.add(&alive);
        for _ in 0..10_000 {
            watchers.add(&Arc::new(Notify::new()));
        }
        assert!(watchers.0.lock().waiting.len() <= SWEEP_FROM + 1);
    }
}
