//! The names that everything shares: node ids, offsets, epochs, partitions.

use std::fmt;
use std::sync::Arc;

pub type NodeId = i32;
/// The position of a record in a partition's log.
pub type Offset = i64;
/// Grows by one with each new leader of a partition.
pub type LeaderEpoch = i32;
/// Grows with each registration of a broker: the metadata offset of its registration.
pub type BrokerEpoch = i64;
/// Milliseconds since the Unix epoch.
pub type Millis = i64;

pub const NO_LEADER: NodeId = -1;
pub const NO_EPOCH: LeaderEpoch = -1;

/// A partition by topic name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}
