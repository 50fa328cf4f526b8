//! The shipped broker under one seed: virtual time, simulated network and disk, crashes.
//!
//! [`run`] builds the scenario of a seed, starts the brokers as turmoil hosts, lets producers and
//! readers work while faults strike, waits until the cluster has healed and judges the history.
//! Deliberately absent until the next step: network partitions, disk errors, clock jumps.

mod history;
mod node;
mod scenario;
mod trace;
mod wire;
mod workload;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic;
use std::rc::Rc;
use std::time::Duration;

use ottla_broker::env::Random;
use ottla_broker::env::simulated::SimulatedDisk;
use tracing_subscriber::layer::SubscriberExt as _;

use history::History;
use scenario::{Scenario, host};
use trace::Trace;
use workload::World;

pub use ottla_broker::env::simulated::{Bug, plant};

/// How long the cluster may take to heal after the last fault, in virtual time.
const HEAL: Duration = Duration::from_secs(90);
/// No run is longer than this, in virtual time.
const LONGEST: Duration = Duration::from_mins(10);

/// What came of one seed.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub hash: u64,
    pub events: u64,
    pub acknowledged: usize,
    pub crashes: usize,
    pub violation: Option<String>,
    pub lines: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {} trace {:016x} ({} events, {} crashes, {} records acknowledged): {}",
            self.seed,
            self.hash,
            self.events,
            self.crashes,
            self.acknowledged,
            self.violation.as_deref().unwrap_or("ok")
        )
    }
}

thread_local! {
    /// The first panic of a run, wherever it happened.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes panics part of a run's outcome instead of noise on the terminal. Once per process.
pub fn catch_panics() {
    panic::set_hook(Box::new(|info| {
        PANIC.with_borrow_mut(|first| first.get_or_insert_with(|| info.to_string()).clone());
    }));
}

/// Runs one seed to its end.
pub fn run(seed: u64, keep_lines: bool) -> Outcome {
    let trace = Trace::new(keep_lines);
    let subscriber = tracing_subscriber::registry().with(trace.clone());
    let scenario = Rc::new(Scenario::from_seed(seed));
    let history = Rc::new(RefCell::new(History::default()));
    PANIC.set(None);
    let ended = tracing::subscriber::with_default(subscriber, || {
        let world =
            World { scenario: scenario.clone(), history: history.clone(), trace: trace.clone() };
        panic::catch_unwind(panic::AssertUnwindSafe(|| play(world)))
    });
    let panicked = PANIC.take();
    let violation = match ended {
        _ if panicked.is_some() => panicked,
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(_) => Some("a panic".to_owned()),
    };
    let history = history.borrow();
    Outcome {
        seed,
        hash: trace.hash(),
        events: trace.events(),
        acknowledged: history.written.values().map(|written| written.acknowledged.len()).sum(),
        crashes: scenario.faults.iter().map(|fault| fault.brokers.len()).sum(),
        violation,
        lines: trace.take_lines(),
    }
}

/// What the loop that strikes and the clients tell each other.
#[derive(Default)]
struct Stage {
    load_began: Cell<Option<Duration>>,
    faults_over: Cell<bool>,
}

fn play(world: World) -> Result<(), String> {
    let scenario = world.scenario.clone();
    let disks: Vec<_> = (0..scenario.brokers).map(|_| SimulatedDisk::new()).collect();
    let mut sim = turmoil::Builder::new()
        .rng_seed(scenario.seed)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(scenario.latency_ms.0))
        .max_message_latency(Duration::from_millis(scenario.latency_ms.1))
        .simulation_duration(LONGEST)
        .tcp_capacity(4096)
        .build();
    for (broker, disk) in disks.iter().enumerate() {
        let disk = disk.clone();
        let life = Cell::new(0);
        let seed = scenario.seed;
        sim.host(host(broker), move || {
            life.set(life.get() + 1);
            node::run(disk.clone(), broker, seed ^ (broker as u64) << 32 ^ life.get() << 40)
        });
    }
    let stage = Rc::new(Stage::default());
    let verdict = Rc::new(RefCell::new(Err("the clients did not finish".to_owned())));
    sim.client("clients", clients(world.clone(), stage.clone(), verdict.clone()));

    let mut strikes = Strikes::new(&scenario, stage);
    loop {
        let over = sim.step().map_err(|error| error.to_string())?;
        if let Some(panic) = PANIC.with_borrow(Clone::clone) {
            return Err(panic);
        }
        if over {
            break;
        }
        strikes.strike(&mut sim, &disks, &world.trace);
    }
    verdict.replace(Ok(()))
}

async fn clients(
    world: World,
    stage: Rc<Stage>,
    verdict: Rc<RefCell<Result<(), String>>>,
) -> turmoil::Result {
    world.create_topics().await;
    world.trace.note("load begins");
    stage.load_began.set(turmoil::sim_elapsed());
    let mut tasks = Vec::new();
    for topic in &world.scenario.topics {
        for partition in 0..topic.partitions {
            let place = (topic.name.clone(), partition);
            let number = tasks.len();
            let plain = world.clone().produce(place.clone(), format!("p{number}"), false);
            let idempotent = world.clone().produce(place.clone(), format!("q{number}"), true);
            tasks.push(tokio::task::spawn_local(plain));
            tasks.push(tokio::task::spawn_local(idempotent));
            tasks.push(tokio::task::spawn_local(world.clone().read(place)));
        }
    }
    for task in tasks {
        task.await?;
    }
    world.trace.note("load ends");
    while !stage.faults_over.get() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let logs = world.final_logs(HEAL).await;
    *verdict.borrow_mut() = logs.and_then(|logs| world.history.borrow().verdict(&logs));
    Ok(())
}

/// Carries out the scenario's faults when their time comes.
struct Strikes {
    pending: Vec<scenario::Fault>,
    /// When which brokers start again.
    restarts: Vec<(Duration, usize)>,
    stage: Rc<Stage>,
    random: Random,
}

impl Strikes {
    fn new(scenario: &Scenario, stage: Rc<Stage>) -> Self {
        let mut pending = scenario.faults.clone();
        pending.reverse();
        let random = Random::from_seed(scenario.seed ^ 0xdead);
        Self { pending, restarts: Vec::new(), stage, random }
    }

    fn strike(&mut self, sim: &mut turmoil::Sim<'_>, disks: &[SimulatedDisk], trace: &Trace) {
        let Some(began) = self.stage.load_began.get() else { return };
        let now = sim.elapsed().saturating_sub(began);
        while let Some((_, broker)) = self.restarts.pop_if(|(at, _)| *at <= now) {
            trace.note(&format!("broker {broker} starts again"));
            sim.bounce(host(broker));
        }
        while let Some(fault) = self.pending.pop_if(|fault| fault.at <= now) {
            for broker in fault.brokers {
                if self.restarts.iter().any(|(_, down)| *down == broker) {
                    continue;
                }
                trace.note(&format!("broker {broker} crashes, power lost: {}", fault.power));
                sim.crash(host(broker));
                disks[broker].end_of_process();
                if fault.power {
                    disks[broker].lose_power(&self.random);
                }
                self.restarts.push((now + fault.down, broker));
            }
            self.restarts.sort_by(|a, b| b.cmp(a));
        }
        self.stage.faults_over.set(self.pending.is_empty() && self.restarts.is_empty());
    }
}
