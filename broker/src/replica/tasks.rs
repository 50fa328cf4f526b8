//! The tasks of replication: fetchers, ISR changes, and what is due now and then. None of them is
//! per partition.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::partitions::Partitions;
use super::remote::{Leaders, ToController};
use super::{cleaning, directories, fetcher, isr, moves};
use crate::env;

/// How often replicas are made that found no room.
const RETRY_AFTER_FULL: Duration = Duration::from_secs(5);

/// Starts all tasks; they end when `stop` is cancelled.
pub fn start(
    partitions: &Arc<Partitions>,
    controller: Arc<dyn ToController>,
    leaders: Arc<dyn Leaders>,
    stop: &CancellationToken,
) -> Vec<JoinHandle<()>> {
    vec![
        env::spawn(isr::run(partitions.clone(), controller.clone(), stop.clone())),
        env::spawn(directories::run(partitions.clone(), controller, stop.clone())),
        env::spawn(fetcher::supervise(partitions.clone(), leaders, stop.clone())),
        env::spawn(moves::run(partitions.clone(), stop.clone())),
        env::spawn(check_isrs(partitions.clone(), stop.clone())),
        env::spawn(checkpoint(partitions.clone(), stop.clone())),
        env::spawn(retain(partitions.clone(), stop.clone())),
        env::spawn(cleaning::run(partitions.clone(), stop.clone())),
        env::spawn(retry_after_full(partitions.clone(), stop.clone())),
        env::spawn(apply_once_registered(partitions.clone(), stop.clone())),
    ]
}

/// Waits; `false` when it is time to stop.
async fn pause(partitions: &Partitions, time: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = partitions.context.env.clock.sleep(time) => true,
    }
}

async fn apply_once_registered(partitions: Arc<Partitions>, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = partitions.apply_once_registered() => {}
    }
}

async fn check_isrs(partitions: Arc<Partitions>, stop: CancellationToken) {
    let every = partitions.context.settings.replica_lag_time_max / 2;
    while pause(&partitions, every, &stop).await {
        partitions.all().iter().for_each(|partition| partition.tick());
    }
}

async fn checkpoint(partitions: Arc<Partitions>, stop: CancellationToken) {
    let every = partitions.context.settings.replica_high_watermark_checkpoint_interval;
    loop {
        let goes_on = pause(&partitions, every, &stop).await;
        let all = partitions.clone();
        let written = move || all.checkpoint_high_watermarks();
        if let Err(fault) = partitions.context.env.blocking(written).await {
            tracing::error!(%fault, "the high watermarks could not be written");
        }
        if !goes_on {
            return;
        }
    }
}

async fn retain(partitions: Arc<Partitions>, stop: CancellationToken) {
    let settings = &partitions.context.settings;
    let (first, every) = (settings.log_initial_task_delay, settings.log_retention_check_interval);
    let mut wait = first;
    while pause(&partitions, wait, &stop).await {
        wait = every;
        let all = partitions.clone();
        let env = &partitions.context.env;
        let now = env.clock.wall_ms();
        env.blocking(move || all.retain(now)).await;
    }
}

async fn retry_after_full(partitions: Arc<Partitions>, stop: CancellationToken) {
    while pause(&partitions, RETRY_AFTER_FULL, &stop).await {
        let all = partitions.clone();
        partitions.context.env.blocking(move || all.retry_after_full()).await;
    }
}
