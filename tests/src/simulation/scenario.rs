//! What one seed makes happen: the cluster, the load and the faults, all decided before the start.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::faults::{self, Fault};

/// The port of every simulated broker's clients.
pub const PORT: u16 = 9092;
pub const CONTROLLER_PORT: u16 = 9093;

/// So many nodes, the first ones, have the controller role.
pub const CONTROLLERS: usize = 3;

pub fn host(node: usize) -> String {
    format!("node-{node}")
}

/// How the controllers are set up.
#[derive(Debug, Clone, Copy)]
pub struct Quorum {
    /// Controllers are no brokers.
    pub dedicated: bool,
    /// The first one founds the cluster, and the others are added (KIP-853); else the settings name
    /// the three, and a voter is known by its id alone.
    pub dynamic: bool,
}

#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    pub nodes: usize,
    pub quorum: Quorum,
    /// What the brokers' settings say beyond the defaults.
    pub settings: Vec<(&'static str, String)>,
    pub topics: Vec<Topic>,
    /// Topics that are written in transactions only.
    pub ledgers: Vec<Topic>,
    /// How long producers and readers work.
    pub load: Duration,
    /// The longest pause of a producer between two batches.
    pub pause_ms: u64,
    pub latency_ms: (u64, u64),
    pub disk_ms: (u64, u64),
    pub extras: Extras,
    /// In the order of their time.
    pub faults: Vec<Fault>,
}

#[derive(Debug, Clone)]
pub struct Topic {
    pub name: String,
    pub partitions: i32,
    pub replicas: i16,
    pub min_insync: i32,
    /// Its records may be deleted: by retention, or by DeleteRecords.
    pub short_lived: bool,
    pub configs: Vec<(&'static str, String)>,
}

/// Who works besides the producers and readers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras {
    /// A topic is deleted and created again, and again.
    pub churn: bool,
    /// Partitions are added, settings changed, leaders moved, records deleted.
    pub admin: bool,
    /// A group commits its offsets, and deletes them.
    pub group: bool,
    /// Members of a group come and go.
    pub members: Option<GroupKind>,
    /// Transactional producers come, go, and go on when they should not.
    pub transactions: bool,
    /// Records are consumed, transformed and produced in transactions, by members of such a group.
    pub pipeline: Option<GroupKind>,
    /// A compacted topic gains and loses keys.
    pub table: bool,
    /// A share group's members take records, and say what became of them.
    pub sharers: bool,
}

/// Which protocol the members of a group speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupKind {
    Classic,
    /// KIP-848.
    Consumer,
}

/// What groups read, what transactional producers write to, and what comes out of the pipeline.
pub const INPUT: &str = "input";
pub const LEDGER: &str = "ledger";
pub const OUTPUT: &str = "output";
pub const TABLE: &str = "table";

/// Internal topics.
pub const OFFSETS: &str = "__consumer_offsets";
pub const TRANSACTIONS: &str = "__transaction_state";

/// How often a member of a group shows that it is alive.
pub const HEARTBEAT: Duration = Duration::from_millis(300);

/// What of a seed's scenario is left out, to find the shortest run that still fails.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Less {
    /// The faults that stay, by number; `None`: all.
    pub faults: Option<Vec<usize>>,
    pub load_ms: Option<u64>,
    /// Only producers and readers.
    pub plain: bool,
}

impl Scenario {
    pub fn from_seed(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let quorum =
            Quorum { dedicated: random.random_bool(0.25), dynamic: random.random_bool(0.4) };
        let nodes = match random.random_range(0..10) {
            _ if quorum.dedicated => CONTROLLERS + 3,
            0..6 => 3,
            6..8 => 4,
            8 => 5,
            _ => random.random_range(6..8),
        };
        let mut topics: Vec<Topic> =
            (0..random.random_range(1..=2)).map(|number| topic(&mut random, number)).collect();
        let load_ms = random.random_range(6_000..16_000);
        let faults = faults::plan(&mut random, nodes, quorum, load_ms);
        let fastest = random.random_range(0..3);
        let disk_ms = one_of(&mut random, &[(0, 3), (1, 12), (2, 40), (10, 150)]);
        let mut settings = settings(&mut random, disk_ms.1);
        // Of their own, so that what was drawn before them stays as it was.
        let mut more = StdRng::seed_from_u64(seed ^ 0x6772_6f75_7073);
        settings.extend(coordinators(&mut more));
        let new = more_extras(&mut more);
        if new.members.is_some() || new.pipeline.is_some() || new.sharers {
            topics.push(ledger(&mut more, INPUT));
        }
        let mut ledgers = Vec::new();
        if new.transactions {
            ledgers.push(ledger(&mut more, LEDGER));
        }
        if new.pipeline.is_some() {
            ledgers.push(ledger(&mut more, OUTPUT));
        }
        if new.table {
            let mut table = ledger(&mut more, TABLE);
            // Small, so that whoever is away for a moment misses a round of the cleaner.
            table.configs.retain(|(name, _)| *name != "internal.segment.bytes");
            let bytes = more.random_range(300..1_500).to_string();
            table.configs.push(("internal.segment.bytes", bytes));
            table.configs.push(("cleanup.policy", "compact".to_owned()));
            table.configs.push(("min.cleanable.dirty.ratio", "0.01".to_owned()));
            ledgers.push(table);
        }
        Self {
            seed,
            nodes,
            quorum,
            settings,
            topics,
            ledgers,
            load: Duration::from_millis(load_ms),
            pause_ms: random.random_range(10..150),
            latency_ms: (fastest, fastest + random.random_range(1..15)),
            disk_ms,
            extras: Extras {
                churn: random.random_bool(0.25),
                admin: random.random_bool(0.3),
                group: random.random_bool(0.3),
                ..new
            },
            faults,
        }
    }

    pub fn cut(mut self, less: &Less) -> Self {
        if let Some(kept) = &less.faults {
            let mut number = 0;
            self.faults.retain(|_| {
                number += 1;
                kept.contains(&(number - 1))
            });
        }
        if let Some(ms) = less.load_ms {
            self.load = Duration::from_millis(ms);
        }
        if less.plain {
            self.extras = Extras::default();
        }
        self
    }

    /// The nodes with the broker role.
    pub fn brokers(&self) -> std::ops::Range<usize> {
        if self.quorum.dedicated { CONTROLLERS..self.nodes } else { 0..self.nodes }
    }

    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.iter().find(|topic| topic.name == name)
    }

    pub fn ledger(&self, name: &str) -> Option<&Topic> {
        self.ledgers.iter().find(|topic| topic.name == name)
    }

    /// How long a member of a group may be silent.
    pub fn session(&self) -> Duration {
        let named = self.settings.iter().find(|(name, _)| *name == SESSION);
        Duration::from_millis(named.and_then(|(_, value)| value.parse().ok()).unwrap_or(3_000))
    }
}

const SESSION: &str = "group.consumer.session.timeout.ms";

/// Settings of coordinators and the cleaner: short times, small logs.
fn coordinators(random: &mut StdRng) -> Vec<(&'static str, String)> {
    let session = one_of(random, &[1_500, 2_500, 4_000]);
    let interval = one_of(random, &[0, 0, 300]);
    let settings: [(&'static str, i64); 18] = [
        (SESSION, session),
        ("group.consumer.min.session.timeout.ms", 1_000),
        ("group.min.session.timeout.ms", 1_000),
        ("group.consumer.heartbeat.interval.ms", 300),
        ("group.consumer.min.heartbeat.interval.ms", 100),
        ("group.consumer.assignment.interval.ms", interval),
        ("transaction.state.log.num.partitions", 2),
        ("transaction.abort.timed.out.transaction.cleanup.interval.ms", 500),
        ("log.cleaner.backoff.ms", one_of(random, &[100, 700])),
        ("log.cleaner.dedupe.buffer.size", 1 << 20),
        ("offsets.retention.check.interval.ms", 2_000),
        ("group.share.min.session.timeout.ms", 1_000),
        ("group.share.session.timeout.ms", session),
        ("group.share.min.heartbeat.interval.ms", 100),
        ("group.share.heartbeat.interval.ms", 300),
        ("share.coordinator.state.topic.num.partitions", 2),
        ("group.share.record.lock.duration.ms", 1_500),
        ("group.share.delivery.count.limit", 10),
    ];
    settings.into_iter().map(|(name, value)| (name, value.to_string())).collect()
}

fn more_extras(random: &mut StdRng) -> Extras {
    let kind = |random: &mut StdRng, share: f64| {
        let kind = one_of(random, &[GroupKind::Classic, GroupKind::Consumer]);
        random.random_bool(share).then_some(kind)
    };
    Extras {
        members: kind(random, 0.35),
        pipeline: kind(random, 0.35),
        transactions: random.random_bool(0.35),
        table: random.random_bool(0.3),
        sharers: random.random_bool(0.25),
        ..Extras::default()
    }
}

/// A topic whose records are never deleted by time.
fn ledger(random: &mut StdRng, name: &str) -> Topic {
    let bytes = random.random_range(800..6_000).to_string();
    Topic {
        name: name.to_owned(),
        partitions: random.random_range(2..=3),
        replicas: 3,
        min_insync: random.random_range(1..=2),
        short_lived: false,
        configs: vec![
            ("file.delete.delay.ms", "1000".to_owned()),
            ("internal.segment.bytes", bytes),
            ("index.interval.bytes", one_of(random, &[0, 100, 4096]).to_string()),
        ],
    }
}

/// Its batches may lose records, and go.
pub fn is_compacted(topic: &str) -> bool {
    matches!(topic, TABLE | OFFSETS | TRANSACTIONS)
}

/// The internal topics as their coordinators would create them, but with small segments, which are
/// compacted as soon as there is anything to gain.
pub fn internal_topics(seed: u64) -> Vec<Topic> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x0069_6e74_6572);
    [OFFSETS, TRANSACTIONS]
        .into_iter()
        .map(|name| Topic {
            name: name.to_owned(),
            partitions: 2,
            replicas: 3,
            min_insync: 1,
            short_lived: false,
            configs: vec![
                ("cleanup.policy", "compact".to_owned()),
                ("file.delete.delay.ms", "1000".to_owned()),
                ("internal.segment.bytes", random.random_range(2_500..8_000).to_string()),
                ("min.cleanable.dirty.ratio", "0.01".to_owned()),
            ],
        })
        .collect()
}

fn one_of<T: Copy>(random: &mut StdRng, values: &[T]) -> T {
    values[random.random_range(0..values.len())]
}

fn topic(random: &mut StdRng, number: usize) -> Topic {
    let short_lived = random.random_bool(0.2);
    let mut configs = vec![("file.delete.delay.ms", "1000".to_owned())];
    if short_lived || random.random_bool(0.7) {
        let bytes = random.random_range(300..3_000);
        configs.push(("internal.segment.bytes", bytes.to_string()));
        configs.push(("index.interval.bytes", one_of(random, &[0, 100, 4096]).to_string()));
    }
    if short_lived {
        configs.push(("retention.bytes", random.random_range(500..5_000).to_string()));
    }
    Topic {
        name: format!("topic-{number}"),
        partitions: random.random_range(1..=3),
        replicas: one_of(random, &[3, 3, 3, 2]),
        min_insync: random.random_range(1..=2),
        short_lived,
        configs,
    }
}

/// Times that are short enough for something to happen within a run, or Kafka's.
fn settings(random: &mut StdRng, slowest_disk_ms: u64) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("offsets.topic.num.partitions", 2),
        ("log.initial.task.delay.ms", 500),
        ("log.retention.check.interval.ms", 700),
    ];
    let choices: [(&'static str, &[i64]); 6] = [
        ("replica.lag.time.max.ms", &[1_000, 3_000, 10_000, 30_000]),
        ("replica.high.watermark.checkpoint.interval.ms", &[100, 1_000, 5_000]),
        ("log.flush.offset.checkpoint.interval.ms", &[200, 2_000, 60_000]),
        ("replica.socket.timeout.ms", &[1_500, 5_000, 30_000]),
        ("replica.fetch.max.bytes", &[150, 1_000, 1 << 20]),
        ("leader.imbalance.check.interval.seconds", &[2, 300]),
    ];
    for (name, values) in choices {
        settings.push((name, one_of(random, values)));
    }
    // A voter whose usual write takes longer than the others' patience is not broken, but set up
    // wrongly: elections would never end.
    let election = one_of(random, &[200, 500, 1_000]).max(slowest_disk_ms as i64 * 10);
    settings.push(("controller.quorum.election.timeout.ms", election));
    settings.push(("controller.quorum.fetch.timeout.ms", election * 2));
    let session = one_of(random, &[2_000, 5_000, 9_000]);
    settings.push(("broker.session.timeout.ms", session));
    settings.push(("broker.heartbeat.interval.ms", (session / 4).min(2_000)));
    settings.into_iter().map(|(name, value)| (name, value.to_string())).collect()
}
