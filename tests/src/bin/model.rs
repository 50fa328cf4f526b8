//! The model of a partition's leader and followers, gone through exhaustively: a minute and more.
//!
//! It ends with a panic, and the events that lead there, when a property does not hold.

use clap::Parser;
use ottla_broker::replica::model;

/// Check every order of events in the model of a partition
#[derive(Parser)]
#[command(after_help = "Examples:
  model                 the shipped roles: no order of events loses anything
  model --planted-bugs  with bugs planted in the roles, some order does")]
struct Args {
    /// Plant bugs in the roles, and look for the order of events that shows each
    #[arg(long)]
    planted_bugs: bool,
}

fn main() {
    let said =
        if Args::parse().planted_bugs { model::check_planted_bugs() } else { model::check_roles() };
    for line in said {
        println!("{line}");
    }
}
