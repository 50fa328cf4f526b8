//! The logs of internal topics, as coordinators need them.

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use crate::error::Refusal;
use crate::log::Appending;
use crate::types::{LeaderEpoch, Offset};

/// Resolves when the batch is committed: on all in-sync replicas, and durable as the topic asks.
/// NOT_ENOUGH_REPLICAS_AFTER_APPEND counts as committed, too. Any other error means that this
/// broker no longer leads the partition, or cannot know.
pub type Committed = BoxFuture<'static, Result<(), Refusal>>;

/// A batch that lies in the log.
pub struct Appended {
    /// The offset of its first record.
    pub base: Offset,
    pub committed: Committed,
}

/// Takes batches as they lie in the log, one or several at a time, in order.
pub type Sink<'a> = &'a mut (dyn FnMut(Bytes) + Send);

/// Implemented by the partitions of this broker; by a plain vector in tests.
#[async_trait]
pub trait StateLog: Send + Sync + 'static {
    /// Reads the partition from its log start offset to the log end offset that it had at the
    /// call, and returns once all of that is committed. Refuses when this broker does not lead it
    /// in `epoch`.
    async fn load(
        &self,
        topic: &str,
        partition: i32,
        epoch: LeaderEpoch,
        sink: Sink<'_>,
    ) -> Result<(), Refusal>;

    /// Puts one batch at the end of the partition's log, or refuses it and changes nothing:
    /// NOT_LEADER_OR_FOLLOWER when this broker does not lead it in `epoch`, NOT_ENOUGH_REPLICAS
    /// below `min.insync.replicas`, MESSAGE_TOO_LARGE, KAFKA_STORAGE_ERROR, and what a producer's
    /// state forbids. Does not wait.
    fn append(
        &self,
        topic: &str,
        partition: i32,
        epoch: LeaderEpoch,
        batch: Bytes,
        appending: Appending,
    ) -> Result<Appended, Refusal>;
}
