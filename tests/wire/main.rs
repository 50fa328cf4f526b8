//! Differential checks of the wire protocol: the same requests go to two clusters of one broker,
//! and what comes back must be the same, field by field and version by version.
//!
//! The one side is Apache Kafka, the other Ottla (or Kafka again, which shows that the checks
//! themselves are sound). What has to differ is masked: identities, addresses, the words of error
//! messages, throttle times (see [`conversation`]). Deliberately absent: what time brings about
//! (rebalances, expiry); the client tests have that.
//!
//! `wire --one ADDRESS --other ADDRESS [CASE…]` prints `ok NAME` or `FAIL NAME` with the lines that
//! differ.

mod consumer_groups;
mod controller;
mod conversation;
mod dirs;
mod groups;
mod hostile;
mod records;
mod share_groups;
mod streams_groups;
mod topics;
mod transactions;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;

use crate::conversation::Talk;

/// One named conversation.
pub struct Case {
    pub name: &'static str,
    pub hold: fn(&mut Talk),
}

#[derive(Parser)]
struct Args {
    /// The broker that is right by definition.
    #[arg(long)]
    one: SocketAddr,
    /// The broker that is compared with it.
    #[arg(long)]
    other: SocketAddr,
    /// The controllers of the two; without them nothing is asked of controllers.
    #[arg(long, requires = "other_controller")]
    one_controller: Option<SocketAddr>,
    #[arg(long, requires = "one_controller")]
    other_controller: Option<SocketAddr>,
    /// Also print all that the first one said.
    #[arg(long)]
    show: bool,
    /// Only the cases whose name contains one of these.
    cases: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    let mut failed = false;
    // Those of the controller last: brokers that do not exist would get partitions of other topics.
    let controller = if args.one_controller.is_some() { controller::CASES } else { &[] };
    let cases = [
        topics::CASES,
        records::CASES,
        dirs::CASES,
        groups::CASES,
        consumer_groups::CASES,
        share_groups::CASES,
        streams_groups::CASES,
        transactions::CASES,
        hostile::CASES,
        controller,
    ];
    for case in cases.concat() {
        if !args.cases.is_empty() && !args.cases.iter().any(|part| case.name.contains(part)) {
            continue;
        }
        let started = Instant::now();
        let sides = [(args.one, args.one_controller), (args.other, args.other_controller)];
        let mut heard = sides.map(|(address, controller)| {
            let mut talk = Talk::with(address, controller, now - 60_000);
            (case.hold)(&mut talk);
            talk.into_lines()
        });
        if args.show {
            heard[0].iter().for_each(|(asked, said)| println!("    {asked}: {said}"));
        }
        let differences = compare(&heard[0], &heard[1]);
        let lines = std::mem::take(&mut heard[0]).len();
        if lines == 0 {
            println!("FAIL wire: {}: it says nothing", case.name);
        } else if differences.is_empty() {
            println!(
                "ok wire: {} ({lines} answers, {} ms)",
                case.name,
                started.elapsed().as_millis()
            );
            continue;
        } else {
            println!("FAIL wire: {}: {} of {lines} answers differ", case.name, differences.len());
            for difference in differences.iter().take(100) {
                println!("{difference}");
            }
        }
        failed = true;
    }
    ExitCode::from(u8::from(failed))
}

impl Clone for Case {
    fn clone(&self) -> Self {
        Self { name: self.name, hold: self.hold }
    }
}

/// The pairs of answers that differ, cut to where they differ.
fn compare(one: &[(String, String)], other: &[(String, String)]) -> Vec<String> {
    let mut differences = Vec::new();
    let mut part = String::new();
    for index in 0..one.len().max(other.len()) {
        let (asked, left) = one.get(index).map_or(("", "(nothing)"), |(asked, line)| (asked, line));
        let (also, right) =
            other.get(index).map_or(("", "(nothing)"), |(asked, line)| (asked, line));
        if asked == "next" {
            part = format!(" ({left})");
        }
        if left != right {
            let common = left.bytes().zip(right.bytes()).take_while(|(a, b)| a == b).count();
            let asked = if asked.is_empty() { also } else { asked };
            differences.push(format!(
                "    {asked}{part}\n      one:   {}\n      other: {}",
                excerpt(left, common),
                excerpt(right, common)
            ));
        }
    }
    differences
}

fn excerpt(line: &str, at: usize) -> String {
    let from = at.saturating_sub(70);
    line.chars().skip(from).take(150).collect()
}
