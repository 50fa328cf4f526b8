//! What holds for a topic's logs: its settings in the image over this broker's.

use crate::config::topic::{self, FlushPolicy as Flush, TimestampType as TimestampKind};
use crate::config::{Layers, Settings, TopicSettings};
use crate::controller::image::{Image, ResourceType};
use crate::log::{FlushPolicy, LogConfig};
use crate::wire::records::{Compression, TimestampType};

const VERIFY: &str = "transaction.partition.verification.enable";

pub fn resolve(image: &Image, settings: &Settings, name: &str) -> TopicSettings {
    topic::resolve(&layers(image, settings, name))
}

fn layers<'a>(image: &'a Image, settings: &'a Settings, name: &str) -> Layers<'a> {
    Layers {
        topic: image.config(ResourceType::Topic, name),
        broker: image.config(ResourceType::Broker, &settings.node_id.to_string()),
        cluster: image.config(ResourceType::Broker, ""),
        settings,
    }
}

/// A setting of brokers that is no topic's, as it holds now.
fn of_broker(image: &Image, settings: &Settings, name: &'static str) -> Option<String> {
    let layers = layers(image, settings, "");
    layers.broker_values(name).first().map(|found| found.value.trim().to_owned())
}

pub fn of_topic(image: &Image, settings: &Settings, name: &str) -> LogConfig {
    let resolved = resolve(image, settings, name);
    LogConfig {
        segment_bytes: resolved.segment_bytes.max(0) as u64,
        segment_ms: resolved.segment_ms,
        segment_index_bytes: resolved.segment_index_bytes.max(0) as u64,
        index_interval_bytes: resolved.index_interval_bytes.max(0) as u64,
        retention_bytes: resolved.retention_bytes,
        retention_ms: resolved.retention_ms,
        max_message_bytes: resolved.max_message_bytes.max(0) as usize,
        timestamp_type: match resolved.timestamp_type {
            TimestampKind::CreateTime => TimestampType::CreateTime,
            TimestampKind::LogAppendTime => TimestampType::LogAppendTime,
        },
        timestamp_before_max_ms: resolved.timestamp_before_max_ms,
        timestamp_after_max_ms: resolved.timestamp_after_max_ms,
        compression: Compression::from_name(&resolved.compression_type),
        delete: resolved.delete,
        compact: resolved.compact,
        min_cleanable_dirty_ratio: resolved.min_cleanable_dirty_ratio,
        delete_retention_ms: resolved.delete_retention_ms,
        min_compaction_lag_ms: resolved.min_compaction_lag_ms,
        max_compaction_lag_ms: resolved.max_compaction_lag_ms,
        file_delete_delay_ms: resolved.file_delete_delay_ms,
        flush: match resolved.flush {
            Flush::Sync => FlushPolicy::Sync,
            Flush::PageCache => FlushPolicy::PageCache,
        },
        producer_id_expiration_ms: settings.producer_id_expiration_ms.into(),
        verify_transactions: of_broker(image, settings, VERIFY)
            .is_none_or(|value| !value.eq_ignore_ascii_case("false")),
    }
}
