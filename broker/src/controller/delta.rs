//! What changed between two images, for those who act on changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::image::{Image, ResourceType, TopicImage};
use crate::types::{NodeId, TopicPartition};

/// What replay touched since the last time somebody asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Created, or with changed partitions. In the new image unless deleted since.
    pub topics: BTreeSet<Arc<str>>,
    pub partitions: BTreeSet<TopicPartition>,
    pub deleted: BTreeSet<(Arc<str>, Uuid)>,
    pub brokers: BTreeSet<NodeId>,
    pub configs: BTreeSet<(ResourceType, Arc<str>)>,
    pub features: bool,
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What leads from `old` to `new`, when there are no records that tell: the new one came as a
    /// snapshot. A topic that was deleted and created again is both.
    pub fn between(old: &Image, new: &Image) -> Self {
        let mut delta = Self { features: old.features != new.features, ..Self::default() };
        for topic in new.topics() {
            let before = old.topic(&topic.name).filter(|before| before.id == topic.id);
            delta.add_topic(before, topic);
        }
        for topic in old.topics() {
            if new.topic_by_id(topic.id).is_none() {
                delta.deleted.insert((topic.name.clone(), topic.id));
            }
        }
        let ids = old.brokers.keys().chain(new.brokers.keys());
        delta.brokers.extend(ids.filter(|id| old.broker(**id) != new.broker(**id)));
        let keys = old.configs.keys().chain(new.configs.keys());
        let changed = keys.filter(|key| old.configs.get(*key) != new.configs.get(*key));
        delta.configs.extend(changed.cloned());
        delta
    }

    fn add_topic(&mut self, before: Option<&TopicImage>, topic: &TopicImage) {
        if before == Some(topic) {
            return;
        }
        self.topics.insert(topic.name.clone());
        for (index, partition) in &topic.partitions {
            if before.and_then(|before| before.partitions.get(index)) != Some(partition) {
                self.partitions.insert(TopicPartition::new(topic.name.clone(), *index));
            }
        }
    }

    /// One change out of two that followed each other and led to `image`.
    #[must_use]
    pub fn then(mut self, later: Self, image: &Image) -> Self {
        self.topics.extend(later.topics);
        self.partitions.extend(later.partitions);
        self.deleted.extend(later.deleted);
        self.brokers.extend(later.brokers);
        self.configs.extend(later.configs);
        self.features |= later.features;
        self.topics.retain(|name| image.topic(name).is_some());
        self.partitions.retain(|it| image.partition(&it.topic, it.partition).is_some());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::replay::image_of;
    use crate::wire::metadata::{
        ConfigRecord, PartitionRecord, Record, RegisterBrokerRecord, TopicRecord,
    };

    fn topic(name: &str, id: u128) -> Record {
        TopicRecord { name: name.into(), topic_id: Uuid::from_u128(id) }.into()
    }

    fn partition(id: u128, partition_id: i32, leader: NodeId) -> Record {
        let topic_id = Uuid::from_u128(id);
        PartitionRecord {
            partition_id,
            topic_id,
            replicas: vec![leader],
            leader,
            ..Default::default()
        }
        .into()
    }

    fn broker(broker_id: NodeId, broker_epoch: i64) -> Record {
        RegisterBrokerRecord { broker_id, broker_epoch, ..Default::default() }.into()
    }

    fn config(topic: &str, value: &str) -> Record {
        let (name, value) = ("retention.ms".into(), Some(value.into()));
        ConfigRecord { resource_type: 2, resource_name: topic.into(), name, value }.into()
    }

    #[test]
    fn a_snapshot_tells_what_was_deleted_moved_and_created_again_and_nothing_else() {
        let (old, _) = image_of(&[
            broker(1, 1),
            broker(2, 2),
            broker(3, 3),
            topic("same", 1),
            partition(1, 0, 1),
            config("same", "1"),
            topic("moved", 2),
            partition(2, 0, 1),
            partition(2, 1, 1),
            config("moved", "1"),
            topic("gone", 3),
            partition(3, 0, 1),
            config("gone", "1"),
            topic("again", 4),
            partition(4, 0, 1),
        ]);
        let (new, _) = image_of(&[
            broker(1, 1),
            broker(2, 9),
            broker(4, 4),
            topic("same", 1),
            partition(1, 0, 1),
            config("same", "1"),
            topic("moved", 2),
            partition(2, 0, 1),
            partition(2, 1, 2),
            config("moved", "2"),
            topic("again", 5),
            partition(5, 0, 1),
            topic("new", 6),
            partition(6, 0, 1),
        ]);
        let delta = Delta::between(&old, &new);
        let id = |topic: &str, partition| TopicPartition::new(topic, partition);
        assert_eq!(
            delta,
            Delta {
                topics: ["again", "moved", "new"].map(Arc::from).into(),
                partitions: [id("again", 0), id("moved", 1), id("new", 0)].into(),
                deleted: [("again", 4), ("gone", 3)]
                    .map(|(name, id)| (Arc::from(name), Uuid::from_u128(id)))
                    .into(),
                brokers: [2, 3, 4].into(),
                configs: ["gone", "moved"]
                    .map(|name| (ResourceType::Topic, Arc::from(name)))
                    .into(),
                features: false,
            }
        );
        assert!(Delta::between(&new, &new).is_empty());
    }
}
