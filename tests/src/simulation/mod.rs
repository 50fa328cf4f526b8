//! The shipped broker under one seed: virtual time, simulated machines and network, and faults.
//!
//! [`run`] builds the scenario of a seed, starts the brokers as turmoil hosts, lets clients work
//! while faults strike, looks all the time for what must not be, waits until the cluster has healed
//! and judges the history. docs/simulation.md says what is simulated and what is checked.

mod checks;
mod decisions;
mod faults;
mod groups;
mod history;
mod ledger;
mod node;
mod scenario;
mod shares;
mod strikes;
mod trace;
mod wire;
mod workload;

#[cfg(not(any(tokio_unstable, doc, doctest)))]
compile_error!(
    "the same seed would not give the same trace: tokio takes a seed only with `--cfg tokio_unstable`, \
     which .cargo/config.toml sets unless RUSTFLAGS is set: unset that, or add the flag to it"
);

use std::cell::RefCell;
use std::fmt;
use std::panic;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use tracing_subscriber::layer::SubscriberExt as _;

use checks::Checks;
use history::History;
use node::Node;
use scenario::{Scenario, host};
use strikes::{CLIENTS, Stage, Strikes};
use trace::Trace;
use workload::World;

pub use ottla_broker::env::simulated::{Bug, plant};
pub use scenario::Less;

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
    pub faults: usize,
    pub crashes: usize,
    /// It begins with a word for its kind.
    pub violation: Option<String>,
    pub lines: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {} trace {:016x} ({} events, {} faults, {} crashes, {} records acknowledged): {}",
            self.seed,
            self.hash,
            self.events,
            self.faults,
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
pub fn catch_panics(seed: u64) {
    panic::set_hook(Box::new(move |info| {
        let what = info.to_string().replace('\n', " ");
        if cfg!(panic = "abort") {
            // Nobody will be left to say it.
            println!("seed {seed} trace {:016x} (): panic: {what}", 0);
            std::process::exit(1);
        }
        PANIC.with_borrow_mut(|first| first.get_or_insert(what).clone());
    }));
}

/// The faults of a seed and how long its load lasts, for those who leave some out.
pub fn plan(seed: u64) -> (Vec<String>, Duration) {
    let scenario = Scenario::from_seed(seed);
    (scenario.faults.iter().map(ToString::to_string).collect(), scenario.load)
}

/// Runs one seed to its end.
pub fn run(seed: u64, less: &Less, keep_lines: bool) -> Outcome {
    let trace = Trace::new(keep_lines);
    let subscriber = tracing_subscriber::registry().with(trace.clone());
    let scenario = Rc::new(Scenario::from_seed(seed).cut(less));
    let history = Rc::new(RefCell::new(History::default()));
    PANIC.set(None);
    let ended = tracing::subscriber::with_default(subscriber, || {
        trace.note(&format!("{scenario:?}"));
        let nodes = (0..scenario.nodes).map(|number| Node::new(&scenario, number)).collect();
        let world = World::new(scenario.clone(), history.clone(), trace.clone(), Rc::new(nodes));
        panic::catch_unwind(panic::AssertUnwindSafe(|| play(&world)))
    });
    let panicked = PANIC.take().map(|what| format!("panic: {what}"));
    let violation = match ended {
        _ if panicked.is_some() => panicked,
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(_) => Some("panic: nobody knows where".to_owned()),
    };
    let history = history.borrow();
    Outcome {
        seed,
        hash: trace.hash(),
        events: trace.events(),
        acknowledged: history.written.values().map(|written| written.acknowledged.len()).sum(),
        faults: scenario.faults.len(),
        crashes: scenario.faults.iter().map(|fault| fault.act.crashes()).sum(),
        violation,
        lines: trace.take_lines(),
    }
}

fn play(world: &World) -> Result<(), String> {
    let scenario = world.scenario.clone();
    let mut sim = turmoil::Builder::new()
        .rng_seed(scenario.seed)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(scenario.latency_ms.0))
        .max_message_latency(Duration::from_millis(scenario.latency_ms.1))
        .repair_rate(0.2)
        .simulation_duration(LONGEST)
        .tcp_capacity(4096)
        .build();
    for node in world.nodes.iter() {
        let node = node.clone();
        sim.host(host(node.number), move || node.clone().live());
    }
    let stage = Rc::new(Stage::default());
    let checks = Rc::new(RefCell::new(Checks::default()));
    let verdict = Rc::new(RefCell::new(Err("stuck: the clients did not finish".to_owned())));
    sim.client(CLIENTS, clients(world.clone(), stage.clone(), checks.clone(), verdict.clone()));

    let nodes = world.nodes.to_vec();
    let mut strikes = Strikes::new(world, stage);
    loop {
        world.trace.set_time(sim.elapsed());
        let over = sim.step().map_err(|error| format!("stuck: {error}"))?;
        if let Some(panic) = PANIC.with_borrow(Clone::clone) {
            return Err(panic);
        }
        if let Some(violation) = world.history.borrow().violation.clone() {
            return Err(violation);
        }
        if over {
            break;
        }
        checks.borrow_mut().look(&nodes, sim.elapsed())?;
        strikes.strike(&mut sim)?;
    }
    verdict.replace(Ok(()))
}

async fn clients(
    world: World,
    stage: Rc<Stage>,
    checks: Rc<RefCell<Checks>>,
    verdict: Rc<RefCell<Result<(), String>>>,
) -> turmoil::Result {
    if world.scenario.quorum.dynamic {
        tokio::task::spawn_local(world.clone().look_after_voters());
        while !world.voters_are_complete.get() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    world.create_topics().await;
    world.trace.note("load begins");
    stage.load_began.set(turmoil::sim_elapsed());
    world.work().await;
    world.trace.note("load ends");
    while !stage.faults_over.get() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.trace.note("faults are over");
    let newest = checks.borrow().newest_image();
    *verdict.borrow_mut() = settle(&world, newest).await;
    world.over.set(true);
    Ok(())
}

/// Waits until all is well again, and judges what there is then.
async fn settle(world: &World, newest: i64) -> Result<(), String> {
    let logs = world.final_logs(HEAL, newest).await?;
    world.history.borrow().verdict(&logs)?;
    let end = Instant::now() + HEAL;
    world.groups_are_done(end).await?;
    if world.scenario.extras.sharers {
        world.all_were_shared(&logs, end).await?;
    }
    world.over.set(true);
    world.check_ledgers(&logs, end).await?;
    world.check_table(end).await
}
