//! How much memory requests in hand may take, over all connections (`queued.max.request.bytes`).
//!
//! A connection waits for room before it starts to read a frame, never in its middle, so that
//! half-read frames cannot wait for each other. So the bound is overrun by at most one frame for
//! each connection, as in Kafka.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

pub struct Budget {
    used: AtomicU64,
    /// `None`: no bound.
    max: Option<u64>,
    freed: Notify,
}

impl Budget {
    /// A `max` of 0 or less is no bound.
    pub fn new(max: i64) -> Arc<Self> {
        let max = u64::try_from(max).ok().filter(|max| *max > 0);
        Arc::new(Self { used: AtomicU64::new(0), max, freed: Notify::new() })
    }

    /// Returns once less than the bound is in use.
    pub async fn has_room(&self) {
        let Some(max) = self.max else { return };
        loop {
            // Before the look, so that what is freed between the two is not missed.
            let freed = self.freed.notified();
            if self.used.load(Ordering::Acquire) < max {
                return;
            }
            freed.await;
        }
    }

    /// Counts `bytes` as used until the returned value is dropped.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        self.used.fetch_add(bytes as u64, Ordering::AcqRel);
        Held { budget: self.clone(), bytes: bytes as u64 }
    }
}

/// A share of a budget.
pub struct Held {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_waits_until_others_have_freed_memory() {
        let budget = Budget::new(100);
        budget.has_room().await;
        let held = budget.hold(150);
        let mut waiting = tokio_test_free(budget.clone());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(held);
        (&mut waiting).await.unwrap();
    }

    fn tokio_test_free(budget: Arc<Budget>) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move { budget.has_room().await })
    }

    #[tokio::test]
    async fn without_a_bound_there_is_always_room() {
        let budget = Budget::new(-1);
        let _held = budget.hold(usize::MAX / 2);
        budget.has_room().await;
    }
}
