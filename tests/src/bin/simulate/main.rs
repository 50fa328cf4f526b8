//! Runs simulations: the shipped broker under seeds.
//!
//! Each seed has a process of its own: tokio numbers its tasks across a process and ends them in an
//! order that depends on the number, so that a run would otherwise depend on those before it.

mod campaign;
mod shrink;
mod table;

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use ottla_tests::simulation::{self, Bug, Less};

use campaign::Ran;

#[derive(Parser)]
#[command(after_help = "Examples:
  simulate --seeds 0..100
  simulate --seeds 0..20 --twice
  simulate --trace 17
  simulate --trace 17 --faults 0,2 --load 4000 --plain
  simulate --seeds 0..100 --bug acknowledge-before-append
  simulate --table docs/simulation.md")]
pub struct Args {
    /// Which seeds: FIRST..END, END excluded
    #[arg(long, value_parser = seeds, default_value = "0..100")]
    seeds: Range<u64>,
    /// Run this one seed and print its whole trace
    #[arg(long, value_name = "SEED", conflicts_with = "seeds")]
    trace: Option<u64>,
    /// Run this one seed and print its outcome
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "trace"])]
    one: Option<u64>,
    /// Of the seed's faults only these, by number, or `none`
    #[arg(long, value_name = "NUMBERS", value_parser = faults)]
    faults: Option<Faults>,
    /// A shorter load than the seed's
    #[arg(long, value_name = "MS")]
    load: Option<u64>,
    /// Producers and readers only
    #[arg(long)]
    plain: bool,
    /// Plant a bug: then no violation at all is the failure
    #[arg(long, value_parser = bug)]
    bug: Option<Bug>,
    /// End with the first seed that has a violation
    #[arg(long)]
    until_found: bool,
    /// Run every seed twice: traces that differ in a byte are a violation
    #[arg(long)]
    twice: bool,
    /// Print every seed's outcome, not only the failures
    #[arg(long)]
    verbose: bool,
    /// Plant every bug, one after the other, look for it from the first of the seeds on, and write
    /// the table of what was found into this file
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
}

/// A list of its own type, so that clap does not take it for an argument given several times.
#[derive(Clone)]
struct Faults(Vec<usize>);

impl Args {
    fn less(&self) -> Less {
        let faults = self.faults.clone().map(|faults| faults.0);
        Less { faults, load_ms: self.load, plain: self.plain }
    }
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("expected FIRST..END, as in 0..100")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let range = number(first)?..number(end)?;
    if range.is_empty() { Err(format!("{text} holds no seed")) } else { Ok(range) }
}

fn faults(text: &str) -> Result<Faults, String> {
    if text == "none" {
        return Ok(Faults(Vec::new()));
    }
    let number = |text: &str| text.parse().map_err(|error| format!("{text:?}: {error}"));
    Ok(Faults(text.split(',').map(number).collect::<Result<_, _>>()?))
}

fn bug(text: &str) -> Result<Bug, String> {
    let known = || Bug::ALL.iter().map(|bug| bug.name()).collect::<Vec<_>>().join(", ");
    let found = Bug::ALL.iter().find(|bug| bug.name() == text);
    found.copied().ok_or_else(|| format!("there is no such bug; known: {}", known()))
}

fn main() -> ExitCode {
    let args = Args::parse();
    match (args.trace.or(args.one), &args.table) {
        (Some(seed), _) => run_here(seed, &args),
        (None, Some(file)) => table::write(file, args.seeds.start),
        (None, None) => run_all(&args),
    }
}

fn run_here(seed: u64, args: &Args) -> ExitCode {
    simulation::catch_panics(seed);
    simulation::plant(args.bug);
    let outcome = simulation::run(seed, &args.less(), args.trace.is_some());
    for line in &outcome.lines {
        println!("{line}");
    }
    println!("{outcome}");
    if outcome.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_all(args: &Args) -> ExitCode {
    let begun = Instant::now();
    let (mut runs, mut digest) = (0_u64, 0_u64);
    let mut failed: Vec<Ran> = Vec::new();
    campaign::run(
        args.seeds.clone(),
        |seed| campaign::one(seed, &args.less(), args.bug, args.twice),
        |ran| {
            runs += 1;
            digest ^= ran.hash();
            if args.verbose || (!ran.ok && args.bug.is_none()) {
                println!("{}", ran.line);
            }
            if !ran.ok {
                failed.push(ran);
            }
            failed.is_empty() || !args.until_found
        },
    );
    failed.sort_by_key(|ran| ran.seed);
    println!(
        "{runs} seeds in {:.1} s, {} with a violation, digest of all traces {digest:016x}",
        begun.elapsed().as_secs_f64(),
        failed.len()
    );
    match (args.bug, failed.first()) {
        (None, None) => ExitCode::SUCCESS,
        (None, Some(ran)) => {
            shrink::explain(ran, &args.less(), None);
            ExitCode::FAILURE
        }
        (Some(bug), Some(ran)) => {
            let (name, found) = (bug.name(), failed.len());
            println!("{name} is found in {found} of {runs} seeds, first in {}", ran.seed);
            if args.verbose {
                shrink::explain(ran, &args.less(), Some(bug));
            }
            ExitCode::SUCCESS
        }
        (Some(bug), None) => {
            println!("{} is not found", bug.name());
            ExitCode::FAILURE
        }
    }
}
