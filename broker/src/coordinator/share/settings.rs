//! The settings of the share coordinator, by Kafka's names.

use std::time::Duration;

use crate::config::Settings;

#[derive(Debug, Clone)]
pub struct ShareSettings {
    /// `share.coordinator.snapshot.update.records.per.snapshot`
    pub updates_per_snapshot: i32,
    /// `share.coordinator.cold.partition.snapshot.interval.ms`
    pub cold_after: Duration,
    /// `share.coordinator.state.topic.prune.interval.ms`
    pub prune_interval: Duration,
    /// `share.coordinator.write.timeout.ms`
    pub write_timeout: Duration,
}

impl ShareSettings {
    pub fn of(settings: &Settings) -> Self {
        Self {
            updates_per_snapshot: settings.share_updates_per_snapshot,
            cold_after: settings.share_cold_snapshot_interval,
            prune_interval: settings.share_prune_interval,
            write_timeout: settings.share_write_timeout,
        }
    }
}
