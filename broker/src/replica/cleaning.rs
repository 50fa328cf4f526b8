//! The one task that compacts this broker's partitions, the dirtiest first.
//!
//! A round over a log is done in steps on the pool for blocking work; between two steps the task
//! waits as long as `log.cleaner.io.max.bytes.per.second` asks for, and ends when the broker does.
//! A log that cannot be cleaned is left alone from then on, and said; its directory goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::partition::Partition;
use super::partitions::Partitions;
use crate::log::{Candidate, CleanerSettings, Cleaning, Progress, Trouble};
use crate::types::TopicPartition;

/// Runs until `stop` is cancelled.
pub async fn run(partitions: Arc<Partitions>, stop: CancellationToken) {
    let settings = &partitions.context.settings;
    if !settings.cleaner_enable || settings.cleaner_threads == 0 {
        return;
    }
    let backoff = settings.cleaner_backoff;
    let mut cleaner = Cleaner { partitions, stop, uncleanable: BTreeSet::new() };
    loop {
        while !cleaner.stop.is_cancelled() && cleaner.clean_dirtiest().await {}
        let clock = &cleaner.partitions.context.env.clock;
        tokio::select! {
            biased;
            () = cleaner.stop.cancelled() => return,
            () = clock.sleep(backoff) => {}
        }
    }
}

struct Cleaner {
    partitions: Arc<Partitions>,
    stop: CancellationToken,
    /// Bounded by the partitions that were here.
    uncleanable: BTreeSet<TopicPartition>,
}

impl Cleaner {
    /// Returns whether there was something to do that came to an end.
    async fn clean_dirtiest(&mut self) -> bool {
        let (partitions, skip) = (self.partitions.clone(), self.uncleanable.clone());
        let env = self.partitions.context.env.clone();
        let found = env.blocking(move || dirtiest(&partitions, &skip)).await;
        let Some((partition, candidate)) = found else { return false };
        let id = partition.id.clone();
        match self.clean(partition, candidate).await {
            Ok(done) => done,
            Err(Trouble::Changed) => false,
            Err(Trouble::Fault(fault)) => {
                tracing::warn!(partition = %id, %fault, "could not be cleaned now");
                false
            }
            Err(Trouble::Uncleanable(why)) => {
                tracing::error!(partition = %id, why, "cannot be cleaned, and is left alone");
                self.uncleanable.insert(id);
                true
            }
        }
    }

    async fn clean(
        &self,
        partition: Arc<Partition>,
        candidate: Candidate,
    ) -> Result<bool, Trouble> {
        let env = &self.partitions.context.env;
        let settings = &self.partitions.context.settings;
        let limits = CleanerSettings {
            dedupe_buffer_size: settings.cleaner_dedupe_buffer_size.max(0) as u64,
            load_factor: settings.cleaner_load_factor,
        };
        let (log, now) = (partition.log(), env.clock.wall_ms());
        let begin = move || Cleaning::begin(log, candidate, limits, now);
        let mut cleaning = env.blocking(begin).await?;
        loop {
            let step = move || {
                let progress = cleaning.step();
                if let Ok(Progress::Done(end)) = progress {
                    let remembered = cleaning.remember(end);
                    return (remembered.map(|()| Progress::Done(end)), cleaning);
                }
                (progress, cleaning)
            };
            let (progress, after) = env.blocking(step).await;
            cleaning = after;
            match progress? {
                Progress::Done(end) => {
                    let (read, written) = cleaning.bytes();
                    tracing::info!(partition = %partition.id, end, read, written, "cleaned");
                    return Ok(true);
                }
                Progress::More(bytes) => {
                    let pause = pause(bytes, settings.cleaner_max_bytes_per_second);
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return Ok(false),
                        () = env.clock.sleep(pause) => {}
                    }
                }
            }
        }
    }
}

/// How long `bytes` take at that rate.
fn pause(bytes: u64, per_second: f64) -> Duration {
    let seconds = bytes as f64 / per_second.max(1.0);
    if seconds < 0.001 { Duration::ZERO } else { Duration::from_secs_f64(seconds.min(60.0)) }
}

/// Blocking.
fn dirtiest(
    partitions: &Partitions,
    skip: &BTreeSet<TopicPartition>,
) -> Option<(Arc<Partition>, Candidate)> {
    let now = partitions.context.env.clock.wall_ms();
    let candidate = |partition: Arc<Partition>| {
        if skip.contains(&partition.id) || partition.log().why_offline().is_some() {
            return None;
        }
        let stable = partition.last_stable_offset();
        match partition.log().cleanable(stable, now) {
            Ok(found) => found.map(|candidate| (partition, candidate)),
            Err(error) => {
                tracing::warn!(partition = %partition.id, %error, "cannot be looked at");
                None
            }
        }
    };
    let found = partitions.all().into_iter().filter_map(candidate);
    let (partition, candidate) =
        found.max_by(|(_, a), (_, b)| a.dirty_ratio().total_cmp(&b.dirty_ratio()))?;
    // A recovery must not have to look at what is about to be rewritten.
    let dir = partitions.dirs.online().find(|dir| dir.holds(&partition.id))?;
    match dir.checkpoint() {
        Ok(()) => Some((partition, candidate)),
        Err(fault) => {
            tracing::warn!(%fault, "the recovery points could not be written");
            None
        }
    }
}
