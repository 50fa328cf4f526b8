//! The simulated world: one seed decides time, network and disk.
//!
//! A simulated node is a turmoil host: its tasks run on one thread in virtual time, its connections
//! are turmoil's. Its disk is a [`SimulatedDisk`], which outlives a crash and forgets, after a loss
//! of power, what was never synced. Deliberately absent until the simulation asks for it: disk
//! errors, full disks, slow disks.

mod bugs;
mod disk;
mod network;

use std::sync::Arc;
use std::time::Duration;

pub use bugs::{Bug, plant, planted};
pub use disk::SimulatedDisk;

use super::{Blocking, Clock, Env, Random};

/// The wall clock at the start of every simulation: 2026-01-01T00:00:00Z.
const START_MS: i64 = 1_767_225_600_000;

/// The environment of one node's process, from now until it stops or crashes. Called on the
/// node's own turmoil host.
pub fn env(disk: SimulatedDisk, seed: u64) -> Env {
    let passed = turmoil::sim_elapsed().unwrap_or(Duration::ZERO);
    Env::new(
        Clock::Simulated {
            start: tokio::time::Instant::now(),
            start_ms: START_MS + passed.as_millis() as i64,
        },
        Arc::new(disk),
        Arc::new(network::SimulatedNetwork),
        Random::from_seed(seed),
        Blocking::Inline,
    )
}
