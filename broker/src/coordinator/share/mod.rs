//! The share coordinator: what share groups have taken of each partition, kept in
//! `__share_group_state`.
//!
//! Leaders of partitions read and write it over the network, or directly where both are one
//! broker; the group coordinator founds and deletes it. One shard per partition of the topic.

pub mod combine;
pub mod hosted;
pub mod records;
pub mod settings;
pub mod shard;
#[cfg(test)]
mod tests;

use uuid::Uuid;

use super::runtime::partition_of;
use records::ShareKey;

/// The internal topic of share groups.
pub const SHARE_STATE_TOPIC: &str = "__share_group_state";

impl ShareKey {
    /// As FindCoordinator names it: group, topic id and partition.
    pub fn coordinator_key(&self) -> String {
        let id = crate::log::uuid_to_text(self.topic_id);
        format!("{}:{id}:{}", self.group, self.partition)
    }

    /// Reads what [`ShareKey::coordinator_key`] wrote. A group's name may hold colons.
    pub fn from_coordinator_key(key: &str) -> Option<Self> {
        let mut parts = key.rsplitn(3, ':');
        let partition = parts.next()?.parse().ok()?;
        let topic_id: Uuid = crate::log::uuid_from_text(parts.next()?)?;
        let group = parts.next().filter(|group| !group.is_empty())?.to_owned();
        Some(Self { group, topic_id, partition })
    }

    /// Which of the topic's partitions keeps its state.
    pub fn kept_in(&self, partitions: i32) -> i32 {
        partition_of(&self.coordinator_key(), partitions)
    }
}
