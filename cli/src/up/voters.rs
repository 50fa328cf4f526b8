//! The care of a cluster's voters while `ottla up` runs: the operator's decisions, for processes.
//!
//! The permission to found is written down as spent before a second node gets a vote, and a step
//! is decided anew after each look, so `ottla up` may be killed between any two.

use std::time::Duration;

use ottla_operator::kafka::{Brokers, Kafka};
use ottla_operator::quorum::{self, Change, Decision};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::plan::ClusterPlan;
use super::say;
use super::topics::Patience;

/// How often the quorum is looked at, as long as something is missing and afterwards.
const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_secs(1);

/// A running care; it ends with its handle.
pub struct Care {
    task: JoinHandle<()>,
    /// Whether all that should vote do.
    settled: watch::Receiver<bool>,
}

impl Care {
    pub fn start(plan: &ClusterPlan) -> Self {
        let (settled, told) = watch::channel(false);
        Self { task: tokio::spawn(care(plan.clone(), settled)), settled: told }
    }

    /// Waits until all that should vote do.
    pub async fn settled(&mut self) {
        // The sender is gone only when the care has ended: nobody is left to wait for.
        let _ = self.settled.wait_for(|settled| *settled).await;
    }
}

impl Drop for Care {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn care(plan: ClusterPlan, settled: watch::Sender<bool>) {
    let mut patience = Patience::new();
    loop {
        let pause = match step(&plan).await {
            Ok(Step::Settled) => {
                settled.send_replace(true);
                patience = Patience::new();
                SELDOM
            }
            Ok(Step::Moved) => OFTEN,
            Ok(Step::Waits(why)) | Err(why) => {
                patience.say(&plan.name, &why);
                if *settled.borrow() { SELDOM } else { OFTEN }
            }
        };
        sleep(pause).await;
    }
}

enum Step {
    Settled,
    Moved,
    Waits(String),
}

async fn step(plan: &ClusterPlan) -> Result<Step, String> {
    let controllers = plan.controllers();
    let quorum = Brokers.quorum(&controllers).await.map_err(|error| error.to_string())?;
    if plan.books.may_found() {
        let failed = |error| format!("cannot write down that the cluster is founded: {error}");
        plan.books.spend().map_err(failed)?;
        return Ok(Step::Moved);
    }
    if plan.is_static() {
        return Ok(Step::Settled);
    }
    let change = match quorum::decide(plan.books.layout.voters(), &quorum) {
        Decision::Settled => return Ok(Step::Settled),
        Decision::Waits(why) => return Ok(Step::Waits(why)),
        Decision::Change(change) => change,
    };
    let (Change::Add { id, .. } | Change::Remove { id, .. }) = &change;
    let endpoint = quorum::endpoint(super::plan::LOCALHOST.to_owned(), plan.controller_port(*id));
    match Brokers.change_voter(&controllers, &change, endpoint).await {
        Ok(()) => {
            say!("{}: {change}", plan.name);
            Ok(Step::Moved)
        }
        Err(error) => Err(format!("the vote of node {id} was not changed: {error}")),
    }
}
