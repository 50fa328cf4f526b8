//! Runs simulations: the shipped broker under seeds.
//!
//! Each seed has a process of its own: tokio numbers its tasks across a process and ends them in an
//! order that depends on the number, so that a run would otherwise depend on those before it.

use std::ops::Range;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use clap::Parser;
use ottla_tests::simulation::{self, Bug};

#[derive(Parser)]
#[command(after_help = "Examples:
  simulate --seeds 0..100
  simulate --seeds 0..20 --twice
  simulate --trace 17
  simulate --seeds 0..100 --bug acknowledge-before-append")]
struct Args {
    /// Which seeds: FIRST..END, END excluded
    #[arg(long, value_parser = seeds, default_value = "0..100")]
    seeds: Range<u64>,
    /// Run this one seed and print its whole trace
    #[arg(long, value_name = "SEED", conflicts_with = "seeds")]
    trace: Option<u64>,
    /// Run this one seed and print its outcome
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "trace"])]
    one: Option<u64>,
    /// Plant a bug: then no violation at all is the failure
    #[arg(long, value_parser = bug)]
    bug: Option<Bug>,
    /// Run every seed twice: traces that differ are a violation
    #[arg(long)]
    twice: bool,
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
    match args.trace.or(args.one) {
        Some(seed) => run_here(seed, &args),
        None => run_all(&args),
    }
}

fn run_here(seed: u64, args: &Args) -> ExitCode {
    simulation::catch_panics();
    simulation::plant(args.bug);
    let outcome = simulation::run(seed, args.trace.is_some());
    for line in &outcome.lines {
        println!("{line}");
    }
    println!("{outcome}");
    if outcome.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a process of one seed said.
struct Ran {
    seed: u64,
    line: String,
    ok: bool,
}

fn run_apart(seed: u64, args: &Args) -> Ran {
    let run = || {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--one", &seed.to_string()]);
        if let Some(bug) = args.bug {
            let name =
                Bug::ALL.iter().find(|(_, known)| *known == bug).map_or("", |(name, _)| name);
            command.args(["--bug", name]);
        }
        command.output()
    };
    let said = |output: std::io::Result<std::process::Output>| match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let line = if text.is_empty() {
                format!("seed {seed} ended with {}", output.status)
            } else {
                text
            };
            Ran { seed, line, ok: output.status.success() }
        }
        Err(error) => Ran { seed, line: format!("seed {seed}: {error}"), ok: false },
    };
    let first = said(run());
    if args.twice && first.ok {
        let second = said(run());
        if second.line != first.line {
            let line = format!("two runs of one seed differ:\n  {}\n  {}", first.line, second.line);
            return Ran { seed, line, ok: false };
        }
    }
    first
}

fn run_all(args: &Args) -> ExitCode {
    let begun = Instant::now();
    let next = AtomicU64::new(args.seeds.start);
    let (done, outcomes) = mpsc::channel();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut runs = 0;
    let mut failed = Vec::new();
    let mut digest: u64 = 0;
    thread::scope(|scope| {
        for _ in 0..threads {
            let (next, done) = (&next, done.clone());
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= args.seeds.end || done.send(run_apart(seed, args)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        for ran in outcomes {
            runs += 1;
            digest ^= trace_hash(&ran.line);
            if args.verbose || (!ran.ok && args.bug.is_none()) {
                println!("{}", ran.line);
            }
            if !ran.ok {
                failed.push(ran.seed);
            }
        }
    });
    failed.sort_unstable();
    println!(
        "{runs} seeds in {:.1} s, {} with a violation, digest of all traces {digest:016x}",
        begun.elapsed().as_secs_f64(),
        failed.len()
    );
    conclude(args, runs, &failed)
}

/// The hash in an outcome's line: `seed N trace HASH …`.
fn trace_hash(line: &str) -> u64 {
    let word = line.split_whitespace().nth(3).unwrap_or_default();
    u64::from_str_radix(word, 16).unwrap_or_default()
}

fn conclude(args: &Args, runs: u64, failed: &[u64]) -> ExitCode {
    const REPLAY: &str = "cargo run --release -p ottla-tests --bin simulate -- --trace";
    match (args.bug, failed.first()) {
        (None, None) => ExitCode::SUCCESS,
        (None, Some(seed)) => {
            println!("replay with: {REPLAY} {seed}");
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
