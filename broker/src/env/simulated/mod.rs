//! The simulated world: one seed decides time, network and disk.
//!
//! A simulated node is a turmoil host: its tasks run on one thread in virtual time, its connections
//! are turmoil's. Its [`Machine`] outlives a crash: a wall clock that can be set, and a
//! [`SimulatedDisk`] that forgets, after a loss of power, what was never synced, takes its time, and
//! fails or fills up when told to. Deliberately absent: interleavings within one piece of blocking
//! work, which happens in one step.

mod bugs;
mod disk;
mod disk_faults;
pub mod network;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

pub use bugs::{Bug, plant, planted};
pub use disk::SimulatedDisk;
pub use disk_faults::Fails;

use super::{Blocking, Clock, Env, Random};

/// The wall clock at the start of every simulation: 2026-01-01T00:00:00Z.
const START_MS: i64 = 1_767_225_600_000;

/// What of a node outlives its process.
#[derive(Clone, Default)]
pub struct Machine {
    host: String,
    pub disk: SimulatedDisk,
    skew_ms: Arc<AtomicI64>,
}

impl Machine {
    /// The machine of a turmoil host; its disk is as slow, and as forgetful, as `seed` says.
    pub fn new(host: String, seed: u64) -> Self {
        Self { host, disk: SimulatedDisk::with_seed(seed), skew_ms: Arc::default() }
    }

    /// Sets the wall clock forward, or back.
    pub fn jump(&self, by_ms: i64) {
        self.skew_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// The environment of a process on this machine, from now until it stops or crashes. Called on
    /// the node's own turmoil host.
    pub fn env(&self, seed: u64) -> Env {
        let passed = turmoil::sim_elapsed().unwrap_or(Duration::ZERO);
        Env::new(
            Clock::Simulated {
                start: tokio::time::Instant::now(),
                start_ms: START_MS + passed.as_millis() as i64,
                skew_ms: self.skew_ms.clone(),
            },
            Arc::new(self.disk.clone()),
            Arc::new(network::SimulatedNetwork { host: self.host.clone() }),
            Random::from_seed(seed),
            Blocking::Simulated(self.disk.clone()),
        )
    }
}
