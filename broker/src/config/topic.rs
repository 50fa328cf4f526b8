//! What holds for a topic: its own settings over the broker's, over the defaults.
//!
//! A value is looked for, in this order: the topic's own; then, for each broker setting that it
//! falls back to, this broker's dynamic one, the cluster-wide dynamic one, and the one given at
//! start; then the default. Invariant: a value that [`validate`] accepted resolves without error,
//! and a value that somehow is wrong resolves to the next one below it, never to a panic.

use std::collections::BTreeMap;

use super::definition::{self, Definition, split_list};
use super::settings::Settings;
use crate::error::{ErrorCode, Refusal};

/// Names and values, whatever map holds them.
pub trait ConfigMap {
    fn value(&self, name: &str) -> Option<&str>;
    fn names(&self) -> Vec<&str>;
}

impl ConfigMap for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }

    fn names(&self) -> Vec<&str> {
        self.keys().map(String::as_str).collect()
    }
}

impl ConfigMap for imbl::OrdMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }

    fn names(&self) -> Vec<&str> {
        self.keys().map(String::as_str).collect()
    }
}

/// No settings.
impl ConfigMap for () {
    fn value(&self, _: &str) -> Option<&str> {
        None
    }

    fn names(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// Where a value comes from, with Kafka's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Topic = 1,
    DynamicBroker = 2,
    DynamicCluster = 3,
    Static = 4,
    Default = 5,
    Group = 8,
}

/// A value, and the setting and place that it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sourced<'a> {
    pub name: &'a str,
    pub value: &'a str,
    pub source: Source,
}

/// All that decides a topic's settings, the strongest first.
#[derive(Clone, Copy)]
pub struct Layers<'a> {
    pub topic: &'a dyn ConfigMap,
    /// Dynamic settings of this broker.
    pub broker: &'a dyn ConfigMap,
    /// Dynamic settings of all brokers.
    pub cluster: &'a dyn ConfigMap,
    pub settings: &'a Settings,
}

impl<'a> Layers<'a> {
    /// All values of a broker setting, the one that counts first.
    pub fn broker_values(&self, name: &'a str) -> Vec<Sourced<'a>> {
        let default = definition::broker().get(name).and_then(|definition| definition.default);
        let found = [
            (Source::DynamicBroker, self.broker.value(name)),
            (Source::DynamicCluster, self.cluster.value(name)),
            (Source::Static, self.settings.given.get(name).map(String::as_str)),
            (Source::Default, default),
        ];
        found
            .into_iter()
            .filter_map(|(source, value)| Some(Sourced { name, value: value?, source }))
            .collect()
    }

    /// All values that bear on a topic setting, in the units of the settings they come from, the
    /// one that counts first. All places of the first synonym come before those of the second, but
    /// for defaults, which come last.
    pub fn topic_values(&self, definition: &'a Definition) -> Vec<Sourced<'a>> {
        let mut values = Vec::new();
        if let Some(value) = self.topic.value(definition.name) {
            values.push(Sourced { name: definition.name, value, source: Source::Topic });
        }
        let below = definition.synonyms.iter().flat_map(|synonym| self.broker_values(synonym));
        let (defaults, set): (Vec<_>, Vec<_>) =
            below.partition(|value| value.source == Source::Default);
        values.extend(set);
        values.extend(defaults);
        values
    }

    /// The value that counts, in the topic setting's own unit.
    pub fn effective(&self, definition: &'a Definition) -> Option<String> {
        let values = self.topic_values(definition);
        let converted = values.iter().filter_map(|value| in_milliseconds(value));
        let mut valid = converted.filter(|value| definition.check(value).is_ok());
        valid.next().or_else(|| definition.default.map(str::to_owned))
    }
}

/// Kafka's older broker settings count in hours and minutes.
fn in_milliseconds(value: &Sourced<'_>) -> Option<String> {
    let unit = match value.name {
        name if name.contains(".hours") => 3_600_000,
        name if name.contains(".minutes") => 60_000,
        _ => return Some(value.value.trim().to_owned()),
    };
    let number: i64 = value.value.trim().parse().ok()?;
    Some(if number < 0 { -1 } else { number.saturating_mul(unit) }.to_string())
}

/// When a record counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushPolicy {
    /// After fsync.
    Sync,
    /// Once it is in the operating system's page cache, as in Kafka.
    PageCache,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// A topic's settings as numbers. Times are milliseconds; -1 in `retention_*` is no limit.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicSettings {
    pub segment_bytes: i32,
    pub segment_ms: i64,
    pub segment_jitter_ms: i64,
    pub segment_index_bytes: i32,
    pub index_interval_bytes: i32,
    pub retention_ms: i64,
    pub retention_bytes: i64,
    pub max_message_bytes: i32,
    pub timestamp_type: TimestampType,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    pub min_insync_replicas: i32,
    pub unclean_leader_election: bool,
    /// `cleanup.policy` has delete.
    pub delete: bool,
    /// `cleanup.policy` has compact.
    pub compact: bool,
    pub delete_retention_ms: i64,
    pub min_compaction_lag_ms: i64,
    pub max_compaction_lag_ms: i64,
    pub min_cleanable_dirty_ratio: f64,
    pub file_delete_delay_ms: i64,
    pub compression_type: String,
    pub flush: FlushPolicy,
}

/// What holds for the topic whose settings are on top of `layers`.
pub fn resolve(layers: &Layers<'_>) -> TopicSettings {
    let text = |name: &str| -> String {
        let definition = &definition::topic()[name];
        layers.effective(definition).unwrap_or_default()
    };
    let long = |name: &str| -> i64 { text(name).parse().unwrap_or_default() };
    let int = |name: &str| -> i32 { text(name).parse().unwrap_or_default() };
    let policy = text("cleanup.policy");
    let policy = split_list(&policy);
    let internal_segment = text("internal.segment.bytes").parse().ok();
    TopicSettings {
        segment_bytes: internal_segment.unwrap_or_else(|| int("segment.bytes")),
        segment_ms: long("segment.ms"),
        segment_jitter_ms: long("segment.jitter.ms"),
        segment_index_bytes: int("segment.index.bytes"),
        index_interval_bytes: int("index.interval.bytes"),
        retention_ms: long("retention.ms"),
        retention_bytes: long("retention.bytes"),
        max_message_bytes: int("max.message.bytes"),
        timestamp_type: match text("message.timestamp.type").as_str() {
            "LogAppendTime" => TimestampType::LogAppendTime,
            _ => TimestampType::CreateTime,
        },
        timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
        timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
        min_insync_replicas: int("min.insync.replicas"),
        unclean_leader_election: text("unclean.leader.election.enable")
            .eq_ignore_ascii_case("true"),
        delete: policy.contains(&"delete"),
        compact: policy.contains(&"compact"),
        delete_retention_ms: long("delete.retention.ms"),
        min_compaction_lag_ms: long("min.compaction.lag.ms"),
        max_compaction_lag_ms: long("max.compaction.lag.ms"),
        min_cleanable_dirty_ratio: text("min.cleanable.dirty.ratio").parse().unwrap_or(0.5),
        file_delete_delay_ms: long("file.delete.delay.ms"),
        compression_type: text("compression.type"),
        flush: match text("log.flush").as_str() {
            "page-cache" => FlushPolicy::PageCache,
            _ => FlushPolicy::Sync,
        },
    }
}

/// Checks one setting of a topic. Refuses with INVALID_CONFIG and Kafka's words.
pub fn validate(name: &str, value: &str) -> Result<(), Refusal> {
    let Some(definition) = definition::topic().get(name) else {
        return Err(invalid(format!("Unknown topic config name: {name}")));
    };
    definition.check(value).map_err(|refused| invalid(refused.to_string()))?;
    match name {
        "remote.storage.enable" if value.trim().eq_ignore_ascii_case("true") => Err(invalid(
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured \
             with remote log storage.",
        )),
        "compression.type" if value.trim() != "producer" => Err(invalid(format!(
            "compression.type={} is not supported yet: batches are stored as producers send them",
            value.trim()
        ))),
        _ => Ok(()),
    }
}

/// Checks all settings that a topic would have together.
pub fn validate_all(overrides: &dyn ConfigMap) -> Result<(), Refusal> {
    for name in overrides.names() {
        validate(name, overrides.value(name).unwrap_or_default())?;
    }
    let number = |name: &str| -> i64 {
        let text = overrides.value(name).or_else(|| definition::topic()[name].default);
        text.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    };
    let (min, max) = (number("min.compaction.lag.ms"), number("max.compaction.lag.ms"));
    if min > max {
        return Err(invalid(format!(
            "conflict topic config setting min.compaction.lag.ms ({min}) > \
             max.compaction.lag.ms ({max})"
        )));
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidConfig, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn resolved(topic: &[(&str, &str)], cluster: &[(&str, &str)], file: &str) -> TopicSettings {
        let settings = Settings::for_test(file);
        let (topic, cluster) = (map(topic), map(cluster));
        resolve(&Layers { topic: &topic, broker: &(), cluster: &cluster, settings: &settings })
    }

    #[test]
    fn without_any_setting_a_topic_has_the_defaults_of_kafka_and_durable_writes() {
        let settings = resolved(&[], &[], "");
        assert_eq!(settings.retention_ms, 604_800_000);
        assert_eq!(settings.segment_ms, 604_800_000);
        assert_eq!(settings.segment_bytes, 1 << 30);
        assert_eq!(settings.max_message_bytes, 1_048_588);
        assert!(settings.delete && !settings.compact);
        assert_eq!(settings.flush, FlushPolicy::Sync);
    }

    #[test]
    fn the_topic_wins_over_the_cluster_over_the_file() {
        let file = "log.retention.ms=1\nmin.insync.replicas=2";
        assert_eq!(resolved(&[], &[], file).retention_ms, 1);
        assert_eq!(resolved(&[], &[("log.retention.ms", "2")], file).retention_ms, 2);
        let topic = [("retention.ms", "3")];
        assert_eq!(resolved(&topic, &[("log.retention.ms", "2")], file).retention_ms, 3);
        assert_eq!(resolved(&[], &[], file).min_insync_replicas, 2);
    }

    #[test]
    fn hours_and_minutes_count_when_the_finer_settings_are_absent() {
        assert_eq!(resolved(&[], &[], "log.retention.hours=2").retention_ms, 7_200_000);
        let both = "log.retention.hours=2\nlog.retention.minutes=1";
        assert_eq!(resolved(&[], &[], both).retention_ms, 60_000);
        assert_eq!(resolved(&[], &[], "log.retention.hours=-1").retention_ms, -1);
        assert_eq!(resolved(&[], &[], "log.roll.hours=1").segment_ms, 3_600_000);
    }

    #[test]
    fn a_wrong_value_that_got_in_somehow_gives_way_to_the_next_one_below() {
        assert_eq!(resolved(&[("retention.ms", "x")], &[], "log.retention.ms=7").retention_ms, 7);
    }

    #[test]
    fn unknown_wrong_and_unsupported_topic_settings_are_refused_by_name() {
        let refused = |name, value| validate(name, value).unwrap_err().message;
        assert_eq!(refused("bogus", "1"), "Unknown topic config name: bogus");
        assert!(refused("remote.storage.enable", "true").starts_with("Tiered Storage"));
        assert!(refused("compression.type", "gzip").contains("not supported yet"));
        let conflict = map(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")]);
        assert_eq!(
            validate_all(&conflict).unwrap_err().message,
            "conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (5)"
        );
        assert_eq!(validate_all(&map(&[("log.flush", "page-cache")])), Ok(()));
    }
}
