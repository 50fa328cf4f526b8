//! Time: monotonic for time-outs, wall-clock for timestamps.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Monotonic time is tokio's, which a simulation advances by itself; wall-clock time is the
/// system's, or a fixed start plus what has passed, plus what somebody set it forward or back.
#[derive(Clone)]
pub enum Clock {
    Real,
    Simulated { start: Instant, start_ms: i64, skew_ms: Arc<AtomicI64> },
}

impl Clock {
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// Milliseconds since the Unix epoch.
    pub fn wall_ms(&self) -> i64 {
        match self {
            Self::Real => super::real::wall_ms(),
            Self::Simulated { start, start_ms, skew_ms } => {
                let passed = Instant::now().duration_since(*start).as_millis() as i64;
                start_ms + passed + skew_ms.load(Ordering::Relaxed)
            }
        }
    }

    pub async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    pub async fn sleep_until(&self, deadline: Instant) {
        tokio::time::sleep_until(deadline).await;
    }
}
