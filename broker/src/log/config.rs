//! The settings of one log, resolved to numbers: a topic's own, else the broker's.

use crate::types::Millis;
use crate::wire::records::{Compression, TimestampType};

/// What an append is worth when it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlushPolicy {
    /// The synced offset follows fsync.
    #[default]
    Sync,
    /// `log.flush=page-cache`: the synced offset follows the end offset, as in Kafka.
    PageCache,
}

/// Defaults are Kafka 4.3's, with sync as the flush policy.
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    pub segment_bytes: u64,
    pub segment_ms: Millis,
    pub segment_index_bytes: u64,
    pub index_interval_bytes: u64,
    /// -1: no bound.
    pub retention_bytes: i64,
    /// -1: no bound.
    pub retention_ms: Millis,
    pub max_message_bytes: usize,
    pub timestamp_type: TimestampType,
    pub timestamp_before_max_ms: Millis,
    pub timestamp_after_max_ms: Millis,
    /// `None` is `producer`: as it comes.
    pub compression: Option<Compression>,
    /// `cleanup.policy` holds `delete`.
    pub delete: bool,
    /// `cleanup.policy` holds `compact`.
    pub compact: bool,
    pub min_cleanable_dirty_ratio: f64,
    /// How long the cleaner keeps tombstones, and markers of transactions that it has emptied.
    pub delete_retention_ms: Millis,
    pub min_compaction_lag_ms: Millis,
    pub max_compaction_lag_ms: Millis,
    pub file_delete_delay_ms: Millis,
    pub flush: FlushPolicy,
    pub producer_id_expiration_ms: Millis,
    /// `transaction.partition.verification.enable`
    pub verify_transactions: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3600 * 1000,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_bytes: -1,
            retention_ms: 7 * 24 * 3600 * 1000,
            max_message_bytes: 1_048_588,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: Millis::MAX,
            timestamp_after_max_ms: 3600 * 1000,
            compression: None,
            delete: true,
            compact: false,
            min_cleanable_dirty_ratio: 0.5,
            delete_retention_ms: 24 * 3600 * 1000,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: Millis::MAX,
            file_delete_delay_ms: 60_000,
            flush: FlushPolicy::Sync,
            producer_id_expiration_ms: 24 * 3600 * 1000,
            verify_transactions: true,
        }
    }
}
