//! The settings of the transaction coordinator, by Kafka's names.

use std::time::Duration;

use crate::config::Settings;

/// Resolved from the broker's settings; the defaults are Kafka 4.3.1's.
#[derive(Debug, Clone)]
pub struct TransactionSettings {
    /// `transaction.max.timeout.ms`
    pub max_timeout_ms: i32,
    /// `transactional.id.expiration.ms`
    pub id_expiration_ms: i64,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`
    pub abort_interval: Duration,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`
    pub expiration_interval: Duration,
    /// `request.timeout.ms`: how long a write may take until its client is told to try again.
    pub commit_timeout: Duration,
}

impl TransactionSettings {
    pub fn of(settings: &Settings) -> Self {
        Self {
            max_timeout_ms: settings.transaction_max_timeout_ms,
            id_expiration_ms: i64::from(settings.transactional_id_expiration_ms),
            abort_interval: settings.transaction_abort_interval,
            expiration_interval: settings.transaction_expiration_interval,
            commit_timeout: settings.request_timeout,
        }
    }
}

impl Default for TransactionSettings {
    fn default() -> Self {
        Self {
            max_timeout_ms: 900_000,
            id_expiration_ms: 604_800_000,
            abort_interval: Duration::from_secs(10),
            expiration_interval: Duration::from_hours(1),
            commit_timeout: Duration::from_secs(30),
        }
    }
}
