//! The table of planted bugs: in how many seeds each one is found.
//!
//! A bug is looked for in [`CHUNK`] seeds after the other, and the chunk that finds it is the last:
//! so the table is the same on every machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use ottla_tests::simulation::{Bug, Less};

use super::campaign::{self, Ran};

/// Seeds that are run together.
const CHUNK: u64 = 25;
/// A bug is looked for in so many seeds at most.
const MOST: u64 = 2000;

const BEGIN: &str = "<!-- table: simulate --table -->";
const END: &str = "<!-- end of table -->";

struct Found {
    bug: Bug,
    seeds: u64,
    caught: Vec<u64>,
    kinds: BTreeMap<String, u64>,
}

impl Found {
    fn take(&mut self, ran: &Ran) {
        self.seeds += 1;
        if !ran.ok {
            self.caught.push(ran.seed);
            *self.kinds.entry(ran.kind().to_owned()).or_default() += 1;
        }
    }

    fn line(&self) -> String {
        let kinds: Vec<String> =
            self.kinds.iter().map(|(kind, times)| format!("{kind} {times}")).collect();
        let first = self.caught.iter().min().map_or("none".to_owned(), u64::to_string);
        format!(
            "| `{}` | {} | {} of {} | {first} | {} |",
            self.bug.name(),
            self.bug.about(),
            self.caught.len(),
            self.seeds,
            kinds.join(", ")
        )
    }
}

fn find(bug: Bug, first: u64) -> Found {
    let mut found = Found { bug, seeds: 0, caught: Vec::new(), kinds: BTreeMap::new() };
    let work = |seed| campaign::one(seed, &Less::default(), Some(bug), false);
    while found.caught.is_empty() && found.seeds < MOST {
        let from = first + found.seeds;
        campaign::run(from..from + CHUNK, work, |ran| {
            found.take(&ran);
            true
        });
    }
    found
}

/// Plants all bugs and replaces the table in `file`.
pub fn write(file: &Path, first: u64) -> ExitCode {
    let mut table = String::from(
        "\n| bug | what goes wrong | found in | first seed | as |\n|---|---|---|---|---|\n",
    );
    let mut missed = 0;
    for bug in Bug::ALL {
        let found = find(*bug, first);
        missed += u32::from(found.caught.is_empty());
        println!("{}", found.line());
        // Writing to a String cannot fail.
        let _ = writeln!(table, "{}", found.line());
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        println!("{} has no place for the table: {BEGIN} … {END}", file.display());
        return ExitCode::FAILURE;
    };
    let text = format!("{}{BEGIN}\n{table}\n{}", &text[..begin], &text[end..]);
    if let Err(error) = fs::write(file, text) {
        println!("{}: {error}", file.display());
        return ExitCode::FAILURE;
    }
    println!("{} bugs planted, {missed} not found", Bug::ALL.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
