//! What may strike a simulated cluster, and the plan of a seed: which of it strikes when.

use std::fmt;
use std::time::Duration;

use ottla_broker::env::simulated::Fails;
use rand::Rng;
use rand::rngs::StdRng;

use super::scenario::{CONTROLLERS, Quorum};

/// One thing that happens to the cluster.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Since the begin of the load.
    pub at: Duration,
    pub act: Act,
}

#[derive(Debug, Clone)]
pub enum Act {
    /// Some processes end at once (`kill -9`), or their machines lose power, and start again later.
    Crash { nodes: Vec<usize>, power: bool, down: Duration },
    /// One node stops as it is asked to, and starts again.
    Restart { node: usize, down: Duration },
    /// All nodes restart, each when the one before is in service again.
    Roll { down: Duration },
    /// Nothing gets from some hosts to others.
    Cut(Cut),
    /// A link is slow.
    SlowLink { a: usize, b: usize, ms: u64, lasts: Duration },
    /// Links lose what is on them now and then, and with it the connections.
    Loss { rate: f64, lasts: Duration },
    /// Each piece of work on a disk takes up to so long.
    SlowDisk { node: usize, ms: u64, lasts: Duration },
    /// A disk is full.
    FullDisk { node: usize, lasts: Duration },
    /// A disk answers the next calls of a kind with an I/O error.
    FailingDisk { node: usize, fails: Fails, times: u32 },
    /// A node crashes, and a bit of one of its index files or producer snapshots is flipped.
    Rot { node: usize, down: Duration },
    /// A node comes back with an empty disk: one at a time, and a broker only when all replicas are
    /// in sync, as an operator would do it.
    Wipe { node: usize, down: Duration },
    /// Somebody sets a wall clock.
    ClockJump { node: usize, ms: i64 },
}

/// What does not get through.
#[derive(Debug, Clone)]
pub struct Cut {
    pub from: Vec<usize>,
    pub to: Vec<usize>,
    /// The other way, too.
    pub both: bool,
    /// It arrives when the cut is over, as after TCP has sent again; else it is lost, and with it
    /// the connection.
    pub held: bool,
    /// Clients cannot reach `from` either.
    pub clients: bool,
    pub lasts: Duration,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} ms  {:?}", self.at.as_millis(), self.act)
    }
}

impl Act {
    /// How many processes it ends at once.
    pub fn crashes(&self) -> usize {
        match self {
            Self::Crash { nodes, .. } => nodes.len(),
            Self::Rot { .. } | Self::Wipe { .. } => 1,
            _ => 0,
        }
    }

    fn is_wipe(&self) -> bool {
        matches!(self, Self::Wipe { .. })
    }
}

/// Around a wiped disk there is quiet: without eligible leader replicas nobody promises more.
const QUIET_BEFORE: Duration = Duration::from_secs(2);
const QUIET_AFTER: Duration = Duration::from_secs(15);

/// A plan for a cluster of `nodes` whose load lasts `load_ms`, in the order of time.
pub fn plan(random: &mut StdRng, nodes: usize, quorum: Quorum, load_ms: u64) -> Vec<Fault> {
    let count = match random.random_range(0..10) {
        0 => 0,
        1..=6 => random.random_range(1..6),
        _ => random.random_range(6..14),
    };
    // Much goes wrong only when one thing follows shortly upon another.
    let clustered = random.random_bool(0.5);
    let centres: Vec<u64> = (0..2).map(|_| random.random_range(500..load_ms)).collect();
    let mut faults: Vec<Fault> = (0..count)
        .map(|_| {
            let at = if clustered {
                centres[random.random_range(0..2)] + random.random_range(0..1500)
            } else {
                random.random_range(500..load_ms)
            };
            Fault { at: Duration::from_millis(at), act: act(random, nodes) }
        })
        .collect();
    if random.random_bool(0.3) {
        faults.extend(storm(random, quorum, load_ms));
    }
    if quorum.dedicated && quorum.dynamic && random.random_bool(0.5) {
        faults.extend(replaced(random, nodes, load_ms));
    }
    let power_cuts: Vec<Fault> =
        faults.iter().filter_map(|fault| power_cut(random, fault, nodes)).collect();
    faults.extend(power_cuts);
    faults.sort_by_key(|fault| fault.at);
    let of_broker = |fault: &Fault| match fault.act {
        Act::Wipe { node, .. } => !quorum.dedicated || node >= CONTROLLERS,
        _ => false,
    };
    if let Some(wipe) = faults.iter().position(of_broker) {
        let at = faults[wipe].at;
        let mut index = 0;
        faults.retain(|fault| {
            index += 1;
            index == wipe + 1
                || fault.at + QUIET_BEFORE < at && !fault.act.is_wipe()
                || fault.at > at + QUIET_AFTER && !fault.act.is_wipe()
        });
    }
    faults
}

/// One thing after the other happens to the controllers, within the time of a few elections.
fn storm(random: &mut StdRng, quorum: Quorum, load_ms: u64) -> Vec<Fault> {
    let mut at = random.random_range(500..load_ms);
    let count = random.random_range(4..12);
    let strike = |random: &mut StdRng| {
        let node = random.random_range(0..CONTROLLERS);
        let short = |random: &mut StdRng| Duration::from_millis(random.random_range(20..1_200));
        let wiped = quorum.dedicated && quorum.dynamic;
        match random.random_range(0..10) {
            0..5 => {
                let other = (node + random.random_range(1..CONTROLLERS)) % CONTROLLERS;
                let all = (0..CONTROLLERS).filter(|it| *it != node).collect();
                let to = if random.random_bool(0.5) { vec![other] } else { all };
                let (both, held) = (random.random_bool(0.7), random.random_bool(0.3));
                let lasts = short(random);
                Act::Cut(Cut { from: vec![node], to, both, held, clients: false, lasts })
            }
            5 if wiped => Act::Wipe { node, down: short(random) },
            5..9 => Act::Crash {
                nodes: vec![node],
                power: random.random_bool(0.5),
                down: short(random),
            },
            _ => {
                let nodes = (0..CONTROLLERS).collect();
                Act::Crash { nodes, power: random.random_bool(0.7), down: short(random) }
            }
        }
    };
    let faults = (0..count).map(|_| {
        at += random.random_range(0..500);
        Fault { at: Duration::from_millis(at), act: strike(random) }
    });
    faults.collect()
}

/// The worst moment for a voter to lose its disk: one of the others has been cut off for a while, in
/// which something was decided, and comes back when the third one dies.
fn replaced(random: &mut StdRng, nodes: usize, load_ms: u64) -> Vec<Fault> {
    let behind = random.random_range(0..CONTROLLERS);
    let turn = random.random_range(1..CONTROLLERS);
    let (wiped, dies) = ((behind + turn) % CONTROLLERS, (behind + 2 * turn) % CONTROLLERS);
    let broker = random.random_range(CONTROLLERS..nodes);
    let from = random.random_range(500..load_ms);
    let millis = Duration::from_millis;
    let cut = Cut {
        from: vec![behind],
        to: (0..nodes).filter(|it| *it != behind).collect(),
        both: true,
        held: false,
        clients: false,
        lasts: millis(random.random_range(2_500..4_000)),
    };
    let crash = |node: usize, ms: u64| Act::Crash {
        nodes: vec![node],
        power: false,
        down: Duration::from_millis(ms),
    };
    let acts = [
        (0, Act::Cut(cut)),
        (500, crash(broker, 300)),
        (2_000, Act::Wipe { node: wiped, down: millis(random.random_range(50..400)) }),
        (2_200, crash(dies, random.random_range(2_000..4_000))),
    ];
    acts.map(|(after, act)| Fault { at: millis(from + after), act }).into()
}

/// While a disk is slow, much is unsynced: a good moment for the power to fail.
fn power_cut(random: &mut StdRng, fault: &Fault, nodes: usize) -> Option<Fault> {
    let Act::SlowDisk { node, lasts, .. } = fault.act else { return None };
    if random.random_bool(0.4) {
        return None;
    }
    let nodes = if random.random_bool(0.5) { vec![node] } else { (0..nodes).collect() };
    let after = Duration::from_millis(random.random_range(0..lasts.as_millis() as u64));
    let down = Duration::from_millis(random.random_range(50..3_000));
    Some(Fault { at: fault.at + after, act: Act::Crash { nodes, power: true, down } })
}

fn act(random: &mut StdRng, nodes: usize) -> Act {
    let millis =
        |random: &mut StdRng, from, to| Duration::from_millis(random.random_range(from..to));
    let node = random.random_range(0..nodes);
    match random.random_range(0..100) {
        0..26 => Act::Crash {
            nodes: vec![node],
            power: random.random_bool(0.5),
            down: millis(random, 50, 4_000),
        },
        26..36 => Act::Crash {
            nodes: (0..nodes).collect(),
            power: random.random_bool(0.8),
            down: millis(random, 50, 2_000),
        },
        36..41 => Act::Crash {
            nodes: some(random, nodes),
            power: random.random_bool(0.5),
            down: millis(random, 50, 4_000),
        },
        41..47 => Act::Restart { node, down: millis(random, 10, 1_000) },
        47..50 => Act::Roll { down: millis(random, 10, 500) },
        50..68 => Act::Cut(cut(random, nodes, node)),
        68..73 => {
            let other = (node + random.random_range(1..nodes)) % nodes;
            let lasts = millis(random, 300, 6_000);
            Act::SlowLink { a: node, b: other, ms: random.random_range(50..1_500), lasts }
        }
        73..76 => Act::Loss { rate: 0.002, lasts: millis(random, 300, 3_000) },
        76..83 => {
            let lasts = millis(random, 300, 6_000);
            Act::SlowDisk { node, ms: random.random_range(50..1_500), lasts }
        }
        83..86 => Act::FullDisk { node, lasts: millis(random, 100, 3_000) },
        86..91 => Act::FailingDisk {
            node,
            fails: [Fails::Reads, Fails::Writes, Fails::Syncs, Fails::Syncs]
                [random.random_range(0..4)],
            times: random.random_range(1..4),
        },
        91..94 => Act::Rot { node, down: millis(random, 50, 3_000) },
        94..96 => Act::Wipe { node, down: millis(random, 50, 3_000) },
        _ => Act::ClockJump { node, ms: random.random_range(-600_000..600_000) },
    }
}

fn some(random: &mut StdRng, nodes: usize) -> Vec<usize> {
    let mut chosen: Vec<usize> = (0..nodes).filter(|_| random.random_bool(0.5)).collect();
    if chosen.is_empty() {
        chosen.push(random.random_range(0..nodes));
    }
    chosen
}

fn cut(random: &mut StdRng, nodes: usize, node: usize) -> Cut {
    let from = if random.random_bool(0.6) { vec![node] } else { some(random, nodes) };
    let mut to: Vec<usize> = (0..nodes).filter(|other| !from.contains(other)).collect();
    if random.random_bool(0.3) && to.len() > 1 {
        to.truncate(1);
    }
    Cut {
        from,
        to,
        both: random.random_bool(0.6),
        held: random.random_bool(0.3),
        clients: random.random_bool(0.25),
        lasts: Duration::from_millis(random.random_range(100..8_000)),
    }
}
