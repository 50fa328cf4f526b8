//! The settings of the group coordinator, by Kafka's names.

use std::time::Duration;

use crate::config::Settings;

/// Resolved from the broker's settings; the defaults are Kafka 4.3.1's.
#[derive(Debug, Clone)]
pub struct GroupSettings {
    /// `group.min.session.timeout.ms`
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`
    pub max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`
    pub max_size: usize,
    /// How long a new member may wait in its first JoinGroup. Kafka has no setting for it either.
    pub new_member_join_timeout_ms: i32,
    /// `offset.metadata.max.bytes`; in UTF-16 units, as Kafka counts.
    pub offset_metadata_max: usize,
    /// `offsets.retention.minutes`
    pub offsets_retention: Duration,
    /// `offsets.retention.check.interval.ms`
    pub offsets_retention_check_interval: Duration,
    /// `offsets.commit.timeout.ms`
    pub offsets_commit_timeout: Duration,
}

impl GroupSettings {
    pub fn of(settings: &Settings) -> Self {
        Self {
            min_session_timeout_ms: settings.group_min_session_timeout_ms,
            max_session_timeout_ms: settings.group_max_session_timeout_ms,
            initial_rebalance_delay_ms: settings.group_initial_rebalance_delay.as_millis() as i32,
            max_size: settings.group_max_size.max(0) as usize,
            offset_metadata_max: settings.offset_metadata_max_bytes.max(0) as usize,
            offsets_retention: Duration::from_secs(
                settings.offsets_retention_minutes.max(0) as u64 * 60,
            ),
            offsets_retention_check_interval: settings.offsets_retention_check_interval,
            offsets_commit_timeout: settings.offsets_commit_timeout,
            ..Self::default()
        }
    }
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_size: i32::MAX as usize,
            new_member_join_timeout_ms: 5 * 60 * 1_000,
            offset_metadata_max: 4_096,
            offsets_retention: Duration::from_hours(7 * 24),
            offsets_retention_check_interval: Duration::from_mins(10),
            offsets_commit_timeout: Duration::from_secs(5),
        }
    }
}
