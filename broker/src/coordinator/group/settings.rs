//! The settings of the group coordinator, by Kafka's names.

use std::collections::BTreeMap;
use std::time::Duration;

use super::assignor::{RANGE, UNIFORM};
use super::consumer::MigrationPolicy;
use crate::config::Settings;
use crate::controller::{Image, ResourceType};

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
    pub consumer: ConsumerSettings,
    pub share: ShareGroupSettings,
    pub streams: StreamsSettings,
}

/// Of share groups.
#[derive(Debug, Clone)]
pub struct ShareGroupSettings {
    session_timeout: Range,
    heartbeat_interval: Range,
    assignment_interval: Range,
    /// `group.share.max.size`
    pub max_size: usize,
    /// `group.share.initialize.retry.interval.ms`
    pub initialize_retry_ms: i64,
}

impl ShareGroupSettings {
    fn of(settings: &Settings) -> Self {
        let range = |default, min, max| Range { default, min, max };
        Self {
            session_timeout: range(
                settings.share_session_timeout_ms,
                settings.share_min_session_timeout_ms,
                settings.share_max_session_timeout_ms,
            ),
            heartbeat_interval: range(
                settings.share_heartbeat_interval_ms,
                settings.share_min_heartbeat_interval_ms,
                settings.share_max_heartbeat_interval_ms,
            ),
            assignment_interval: range(
                settings.share_assignment_interval_ms,
                settings.share_min_assignment_interval_ms,
                settings.share_max_assignment_interval_ms,
            ),
            max_size: settings.share_max_size.max(0) as usize,
            initialize_retry_ms: i64::from(settings.share_initialize_retry_interval_ms),
        }
    }
}

impl Default for ShareGroupSettings {
    fn default() -> Self {
        Self {
            session_timeout: Range { default: 45_000, min: 45_000, max: 60_000 },
            heartbeat_interval: Range { default: 5_000, min: 5_000, max: 15_000 },
            assignment_interval: Range { default: 1_000, min: 0, max: 15_000 },
            max_size: 200,
            initialize_retry_ms: 30_000,
        }
    }
}

/// How many standbys each stateful task of a streams group has, as assignors and records name it.
pub const NUM_STANDBY_REPLICAS: &str = "num.standby.replicas";

/// `group.streams.*`: what holds for groups that set nothing themselves, and what they may set.
#[derive(Debug, Clone)]
pub struct StreamsSettings {
    /// Whether the streams protocol is among `group.coordinator.rebalance.protocols`.
    pub enabled: bool,
    pub session_timeout: Range,
    pub heartbeat_interval: Range,
    pub assignment_interval: Range,
    pub initial_rebalance_delay: Range,
    pub standby_replicas: Range,
    pub max_size: usize,
}

impl StreamsSettings {
    fn of(settings: &Settings) -> Self {
        let range = |default, min, max| Range { default, min, max };
        let enabled = |name: &String| name.eq_ignore_ascii_case("streams");
        Self {
            enabled: settings.group_rebalance_protocols.iter().any(enabled),
            session_timeout: range(
                settings.streams_session_timeout_ms,
                settings.streams_min_session_timeout_ms,
                settings.streams_max_session_timeout_ms,
            ),
            heartbeat_interval: range(
                settings.streams_heartbeat_interval_ms,
                settings.streams_min_heartbeat_interval_ms,
                settings.streams_max_heartbeat_interval_ms,
            ),
            assignment_interval: range(
                settings.streams_assignment_interval_ms,
                settings.streams_min_assignment_interval_ms,
                settings.streams_max_assignment_interval_ms,
            ),
            initial_rebalance_delay: range(
                settings.streams_initial_rebalance_delay_ms,
                0,
                i32::MAX,
            ),
            standby_replicas: range(
                settings.streams_num_standby_replicas,
                0,
                settings.streams_max_standby_replicas,
            ),
            max_size: settings.streams_max_size.max(0) as usize,
        }
    }
}

impl Default for StreamsSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            session_timeout: Range { default: 45_000, min: 45_000, max: 60_000 },
            heartbeat_interval: Range { default: 5_000, min: 5_000, max: 15_000 },
            assignment_interval: Range { default: 1_000, min: 0, max: 15_000 },
            initial_rebalance_delay: Range { default: 3_000, min: 0, max: i32::MAX },
            standby_replicas: Range { default: 0, min: 0, max: 2 },
            max_size: i32::MAX as usize,
        }
    }
}

/// `group.consumer.*`: what holds for groups that set nothing themselves, and what they may set.
#[derive(Debug, Clone)]
pub struct ConsumerSettings {
    /// Whether the consumer protocol is among `group.coordinator.rebalance.protocols`.
    pub enabled: bool,
    pub session_timeout: Range,
    pub heartbeat_interval: Range,
    pub assignment_interval: Range,
    pub max_size: usize,
    /// The default first.
    pub assignors: Vec<String>,
    pub migration_policy: MigrationPolicy,
    pub regex_refresh_interval_ms: i32,
}

/// A time in milliseconds, and between which a group may choose its own.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub default: i32,
    pub min: i32,
    pub max: i32,
}

impl Range {
    /// What was set, forced between the ends: these may have changed since.
    fn of(self, set: Option<&String>) -> i32 {
        let set = set.and_then(|value| value.trim().parse::<i32>().ok());
        set.map_or(self.default, |value| value.min(self.max).max(self.min))
    }
}

impl ConsumerSettings {
    pub fn default_assignor(&self) -> &str {
        self.assignors.first().map_or(UNIFORM, String::as_str)
    }

    fn of(settings: &Settings) -> Self {
        let range = |default, min, max| Range { default, min, max };
        let enabled = |name: &String| name.eq_ignore_ascii_case("consumer");
        Self {
            enabled: settings.group_rebalance_protocols.iter().any(enabled),
            session_timeout: range(
                settings.group_consumer_session_timeout_ms,
                settings.group_consumer_min_session_timeout_ms,
                settings.group_consumer_max_session_timeout_ms,
            ),
            heartbeat_interval: range(
                settings.group_consumer_heartbeat_interval_ms,
                settings.group_consumer_min_heartbeat_interval_ms,
                settings.group_consumer_max_heartbeat_interval_ms,
            ),
            assignment_interval: range(
                settings.group_consumer_assignment_interval_ms,
                settings.group_consumer_min_assignment_interval_ms,
                settings.group_consumer_max_assignment_interval_ms,
            ),
            max_size: settings.group_consumer_max_size.max(0) as usize,
            assignors: settings.group_consumer_assignors.clone(),
            migration_policy: MigrationPolicy::of(&settings.group_consumer_migration_policy),
            regex_refresh_interval_ms: settings.group_consumer_regex_refresh_interval_ms,
        }
    }
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            session_timeout: Range { default: 45_000, min: 45_000, max: 60_000 },
            heartbeat_interval: Range { default: 5_000, min: 5_000, max: 15_000 },
            assignment_interval: Range { default: 1_000, min: 0, max: 15_000 },
            max_size: i32::MAX as usize,
            assignors: vec![UNIFORM.to_owned(), RANGE.to_owned()],
            migration_policy: MigrationPolicy::Bidirectional,
            regex_refresh_interval_ms: 600_000,
        }
    }
}

impl GroupSettings {
    /// How long a member of a consumer group may be silent.
    pub fn session_timeout_ms(&self, image: &Image, group: &str) -> i32 {
        let set = image.config(ResourceType::Group, group).get("consumer.session.timeout.ms");
        self.consumer.session_timeout.of(set)
    }

    /// How often such a member shall be heard of.
    pub fn heartbeat_interval_ms(&self, image: &Image, group: &str) -> i32 {
        let set = image.config(ResourceType::Group, group).get("consumer.heartbeat.interval.ms");
        self.consumer.heartbeat_interval.of(set)
    }

    /// How long a target assignment of a consumer group stands at least.
    pub fn assignment_interval_ms(&self, image: &Image, group: &str) -> i64 {
        let set = image.config(ResourceType::Group, group).get("consumer.assignment.interval.ms");
        i64::from(self.consumer.assignment_interval.of(set))
    }

    /// How long a member of a share group may be silent.
    pub fn share_session_ms(&self, image: &Image, group: &str) -> i32 {
        let set = image.config(ResourceType::Group, group).get("share.session.timeout.ms");
        self.share.session_timeout.of(set)
    }

    /// How often such a member shall be heard of.
    pub fn share_heartbeat_ms(&self, image: &Image, group: &str) -> i32 {
        let set = image.config(ResourceType::Group, group).get("share.heartbeat.interval.ms");
        self.share.heartbeat_interval.of(set)
    }

    /// How long a target assignment of a share group stands at least.
    pub fn share_assignment_interval_ms(&self, image: &Image, group: &str) -> i64 {
        let set = image.config(ResourceType::Group, group).get("share.assignment.interval.ms");
        i64::from(self.share.assignment_interval.of(set))
    }

    /// How long a member of a streams group may be silent.
    pub fn streams_session_ms(&self, image: &Image, group: &str) -> i32 {
        let set = image.config(ResourceType::Group, group).get("streams.session.timeout.ms");
        self.streams.session_timeout.of(set)
    }

    /// How often such a member shall be heard of.
    pub fn streams_heartbeat_ms(&self, image: &Image, group: &str) -> i32 {
        let set = image.config(ResourceType::Group, group).get("streams.heartbeat.interval.ms");
        self.streams.heartbeat_interval.of(set)
    }

    /// How long a target assignment of a streams group stands at least.
    pub fn streams_assignment_interval_ms(&self, image: &Image, group: &str) -> i64 {
        let set = image.config(ResourceType::Group, group).get("streams.assignment.interval.ms");
        i64::from(self.streams.assignment_interval.of(set))
    }

    /// How long a new streams group waits for more members.
    pub fn streams_initial_delay_ms(&self, image: &Image, group: &str) -> i64 {
        let set =
            image.config(ResourceType::Group, group).get("streams.initial.rebalance.delay.ms");
        i64::from(self.streams.initial_rebalance_delay.of(set))
    }

    /// What the assignor of a streams group is told beside members and tasks.
    pub fn streams_assignment_configs(
        &self,
        image: &Image,
        group: &str,
    ) -> BTreeMap<String, String> {
        let set = image.config(ResourceType::Group, group).get("streams.num.standby.replicas");
        let standbys = self.streams.standby_replicas.of(set);
        [(NUM_STANDBY_REPLICAS.to_owned(), standbys.to_string())].into()
    }

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
            consumer: ConsumerSettings::of(settings),
            share: ShareGroupSettings::of(settings),
            streams: StreamsSettings::of(settings),
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
            consumer: ConsumerSettings::default(),
            share: ShareGroupSettings::default(),
            streams: StreamsSettings::default(),
        }
    }
}
