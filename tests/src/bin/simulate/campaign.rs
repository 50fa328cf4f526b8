//! Many seeds, each in a process of its own, as many at a time as there are processors.

use std::ops::Range;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use ottla_tests::simulation::{Bug, Less};

/// What a process of one seed said.
pub struct Ran {
    pub seed: u64,
    pub line: String,
    pub ok: bool,
}

impl Ran {
    /// The hash in an outcome's line: `seed N trace HASH …`.
    pub fn hash(&self) -> u64 {
        let word = self.line.split_whitespace().nth(3).unwrap_or_default();
        u64::from_str_radix(word, 16).unwrap_or_default()
    }

    /// The first word of the violation, which says what kind it is.
    pub fn kind(&self) -> &str {
        let violation = self.line.split_once("): ").map_or("ended", |(_, violation)| violation);
        violation.split(':').next().unwrap_or_default()
    }
}

/// The options that say `less` and `bug`.
pub fn options(less: &Less, bug: Option<Bug>) -> Vec<String> {
    let mut options = Vec::new();
    if let Some(faults) = &less.faults {
        let numbers: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let list = if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") };
        options.extend(["--faults".to_owned(), list]);
    }
    if let Some(load) = less.load_ms {
        options.extend(["--load".to_owned(), load.to_string()]);
    }
    if less.plain {
        options.push("--plain".to_owned());
    }
    if let Some(bug) = bug {
        options.extend(["--bug".to_owned(), bug.name().to_owned()]);
    }
    options
}

fn process(how: &str, seed: u64, less: &Less, bug: Option<Bug>) -> std::io::Result<Output> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([how, &seed.to_string()]).args(options(less, bug)).output()
}

/// Runs one seed in a process of its own; twice if so wanted, and then compares the whole traces.
pub fn one(seed: u64, less: &Less, bug: Option<Bug>, twice: bool) -> Ran {
    let how = if twice { "--trace" } else { "--one" };
    let first = match process(how, seed, less, bug) {
        Ok(output) => output,
        Err(error) => return Ran { seed, line: format!("seed {seed}: {error}"), ok: false },
    };
    let text = String::from_utf8_lossy(&first.stdout);
    let last = text.trim().lines().last().unwrap_or_default().to_owned();
    let line =
        if last.is_empty() { format!("seed {seed} ended with {}", first.status) } else { last };
    if twice && first.status.success() {
        let same = |second: &Output| second.stdout == first.stdout;
        if !process(how, seed, less, bug).is_ok_and(|second| same(&second)) {
            return Ran { seed, line: format!("two runs of one seed differ: {line}"), ok: false };
        }
    }
    Ran { seed, line, ok: first.status.success() }
}

/// Runs `work` for all `seeds`, and gives `take` what came of each, in the order in which it comes,
/// until `take` has enough.
pub fn run(seeds: Range<u64>, work: impl Fn(u64) -> Ran + Sync, mut take: impl FnMut(Ran) -> bool) {
    let (next, enough) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let (done, outcomes) = mpsc::channel();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (next, enough, work, done) = (&next, &enough, &work, done.clone());
            scope.spawn(move || {
                while !enough.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || done.send(work(seed)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        for ran in outcomes {
            if !take(ran) {
                enough.store(true, Ordering::Relaxed);
            }
        }
    });
}
