//! Runs simulations: the shipped broker under seeds.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use clap::Parser;
use ottla_tests::simulation::{self, Bug, Outcome};

#[derive(Parser)]
#[command(after_help = "Examples:
  simulate --seeds 0..100
  simulate --trace 17
  simulate --seeds 0..100 --bug acknowledge-before-append")]
struct Args {
    /// Which seeds: FIRST..END, END excluded
    #[arg(long, value_parser = seeds, default_value = "0..100")]
    seeds: Range<u64>,
    /// Run this one seed and print its whole trace
    #[arg(long, value_name = "SEED", conflicts_with = "seeds")]
    trace: Option<u64>,
    /// Plant a bug: then a run without a violation is the failure
    #[arg(long, value_parser = bug)]
    bug: Option<Bug>,
    /// Print every seed's outcome, not only the failures
    #[arg(long)]
    verbose: bool,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("expected FIRST..END, as in 0..100")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let range = number(first)?..number(end)?;
    if range.is_empty() { Err(format!("{text} holds no seed")) } else { Ok(range) }
}

fn bug(text: &str) -> Result<Bug, String> {
    let known = Bug::ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let found = Bug::ALL.iter().find(|(name, _)| *name == text);
    found.map(|(_, bug)| *bug).ok_or(format!("there is no such bug; known: {known}"))
}

fn main() -> ExitCode {
    let args = Args::parse();
    simulation::catch_panics();
    if let Some(seed) = args.trace {
        simulation::plant(args.bug);
        let outcome = simulation::run(seed, true);
        for line in &outcome.lines {
            println!("{line}");
        }
        println!("{outcome}");
        return if outcome.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    run_all(&args)
}

fn run_all(args: &Args) -> ExitCode {
    let begun = Instant::now();
    let next = AtomicU64::new(args.seeds.start);
    let (done, outcomes) = mpsc::channel::<Outcome>();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut runs = 0;
    let mut failed = Vec::new();
    let mut digest: u64 = 0;
    thread::scope(|scope| {
        for _ in 0..threads {
            let (next, done) = (&next, done.clone());
            scope.spawn(move || {
                simulation::plant(args.bug);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= args.seeds.end || done.send(simulation::run(seed, false)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        for outcome in outcomes {
            runs += 1;
            digest ^= outcome.hash;
            if args.verbose || (outcome.violation.is_some() && args.bug.is_none()) {
                println!("{outcome}");
            }
            if outcome.violation.is_some() {
                failed.push(outcome.seed);
            }
        }
    });
    failed.sort_unstable();
    println!(
        "{runs} seeds in {:.1} s, {} with a violation, digest of all traces {digest:016x}",
        begun.elapsed().as_secs_f64(),
        failed.len()
    );
    match (args.bug, failed.first()) {
        (None, None) => ExitCode::SUCCESS,
        (None, Some(seed)) => {
            println!(
                "replay with: cargo run --release -p ottla-tests --bin simulate -- --trace {seed}"
            );
            ExitCode::FAILURE
        }
        (Some(bug), Some(seed)) => {
            println!("{bug:?} is found in {} of {runs} seeds, first in {seed}", failed.len());
            ExitCode::SUCCESS
        }
        (Some(bug), None) => {
            println!("{bug:?} is not found");
            ExitCode::FAILURE
        }
    }
}
