//! What one seed makes happen: the cluster, the load and the faults, all decided before the start.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The port of every simulated broker's clients.
pub const PORT: u16 = 9092;
pub const CONTROLLER_PORT: u16 = 9093;

pub fn host(broker: usize) -> String {
    format!("broker-{broker}")
}

#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    pub brokers: usize,
    pub topics: Vec<Topic>,
    /// How long producers and readers work.
    pub load: Duration,
    /// The longest pause of a producer between two batches.
    pub pause_ms: u64,
    pub latency_ms: (u64, u64),
    /// In the order of their time.
    pub faults: Vec<Fault>,
}

#[derive(Debug, Clone)]
pub struct Topic {
    pub name: String,
    pub partitions: i32,
    pub min_insync: i32,
}

/// Some brokers end at once, and start again later.
#[derive(Debug, Clone)]
pub struct Fault {
    pub at: Duration,
    pub brokers: Vec<usize>,
    /// Their machines lose power, rather than the processes alone ending.
    pub power: bool,
    pub down: Duration,
}

impl Scenario {
    pub fn from_seed(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let brokers = 3;
        let topics = (0..random.random_range(1..=2))
            .map(|number| Topic {
                name: format!("topic-{number}"),
                partitions: random.random_range(1..=3),
                min_insync: random.random_range(1..=2),
            })
            .collect();
        let load_ms = random.random_range(6_000..14_000);
        let mut faults: Vec<Fault> = (0..random.random_range(0..5))
            .map(|_| {
                let all = random.random_range(0..8) == 0;
                Fault {
                    at: Duration::from_millis(random.random_range(500..load_ms)),
                    brokers: if all {
                        (0..brokers).collect()
                    } else {
                        vec![random.random_range(0..brokers)]
                    },
                    power: random.random_bool(0.5),
                    down: Duration::from_millis(random.random_range(50..4_000)),
                }
            })
            .collect();
        faults.sort_by_key(|fault| fault.at);
        let fastest = random.random_range(0..3);
        Self {
            seed,
            brokers,
            topics,
            load: Duration::from_millis(load_ms),
            pause_ms: random.random_range(5..60),
            latency_ms: (fastest, fastest + random.random_range(1..15)),
            faults,
        }
    }
}
