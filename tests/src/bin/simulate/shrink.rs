//! The shortest run that still fails in the same way: fewer clients, fewer faults, less load.

use ottla_tests::simulation::{self, Bug, Less};

use super::campaign::{self, Ran};

/// So many runs are spent on it at most.
const TRIES: usize = 80;
/// Loads that are closer to each other than this are not worth a try.
const CLOSE_MS: u64 = 300;

const REPLAY: &str = "cargo run --release -p ottla-tests --bin simulate -- --trace";

struct Search {
    seed: u64,
    bug: Option<Bug>,
    kind: String,
    tries: usize,
    /// The shortest so far.
    best: Less,
    said: String,
}

impl Search {
    /// Takes `less` for the shortest so far if it fails in the same way.
    fn fails(&mut self, less: Less) -> bool {
        if self.tries == TRIES {
            return false;
        }
        self.tries += 1;
        let ran = campaign::one(self.seed, &less, self.bug, false);
        let fails = !ran.ok && ran.kind() == self.kind;
        if fails {
            self.best = less;
            self.said = ran.line;
        }
        fails
    }

    /// Leaves out ever smaller groups of faults, as long as one can be spared.
    fn fewer_faults(&mut self, all: usize) {
        let mut kept = self.best.faults.clone().unwrap_or_else(|| (0..all).collect());
        let mut size = kept.len();
        while size > 0 {
            let mut from = 0;
            while from < kept.len() {
                let to = (from + size).min(kept.len());
                let rest: Vec<usize> = [&kept[..from], &kept[to..]].concat();
                if self.fails(Less { faults: Some(rest.clone()), ..self.best.clone() }) {
                    kept = rest;
                } else {
                    from = to;
                }
            }
            size /= 2;
        }
    }

    fn less_load(&mut self, ms: u64) {
        let (mut too_short, mut fails) = (0, self.best.load_ms.unwrap_or(ms));
        while fails - too_short > CLOSE_MS {
            let middle = too_short.midpoint(fails);
            if self.fails(Less { load_ms: Some(middle), ..self.best.clone() }) {
                fails = middle;
            } else {
                too_short = middle;
            }
        }
    }
}

/// Prints how the failure of `ran` is had with the least, and how to see it.
pub fn explain(ran: &Ran, less: &Less, bug: Option<Bug>) {
    let (plan, load) = simulation::plan(ran.seed);
    let mut search = Search {
        seed: ran.seed,
        bug,
        kind: ran.kind().to_owned(),
        tries: 0,
        best: less.clone(),
        said: ran.line.clone(),
    };
    if !less.plain {
        search.fails(Less { plain: true, ..less.clone() });
    }
    search.fewer_faults(plan.len());
    search.less_load(load.as_millis() as u64);
    let kept = search.best.faults.clone().unwrap_or_else(|| (0..plan.len()).collect());
    println!(
        "the shortest run found in {} tries has {} of {} faults:",
        search.tries,
        kept.len(),
        plan.len()
    );
    for number in kept {
        println!("  {number}: {}", plan[number]);
    }
    println!("{}", search.said);
    let options = campaign::options(&search.best, bug).join(" ");
    println!("replay with: {REPLAY} {} {options}", ran.seed);
}
