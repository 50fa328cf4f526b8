//! Records change the image here, and nowhere else.
//!
//! Followers, restarts and the controller itself share this: the same records give the same image.
//! [`Image::records`] is the inverse, used for snapshots. A record that does not fit the image (an
//! unknown topic, a partition twice) is an error: the log is then not the one we think it is.

use std::sync::Arc;

use uuid::Uuid;

pub use super::delta::Delta;
use super::image::{
    BrokerImage, ControllerImage, Endpoint, Image, PartitionImage, ResourceType, SupportedFeature,
    TopicImage,
};
use crate::env::planted;
use crate::types::{NodeId, TopicPartition};
use crate::wire::metadata::{
    BrokerRegistrationChangeRecord, ConfigRecord, EndPoint, FeatureLevelRecord, FeatureRange,
    PartitionChangeRecord, PartitionRecord, ProducerIdsRecord, Record, RegisterBrokerRecord,
    RegisterControllerRecord, TopicRecord,
};

/// A record that contradicts the image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{record}: {what}")]
pub struct ReplayError {
    pub record: &'static str,
    pub what: String,
}

type Replayed = Result<(), String>;

impl Image {
    /// Applies one record. Transaction markers are the caller's to judge; here they change nothing.
    pub fn replay(&mut self, record: &Record, delta: &mut Delta) -> Result<(), ReplayError> {
        self.apply(record, delta).map_err(|what| ReplayError { record: record.name(), what })
    }

    fn apply(&mut self, record: &Record, delta: &mut Delta) -> Replayed {
        match record {
            Record::RegisterBroker(record) => {
                delta.brokers.insert(record.broker_id);
                self.brokers.insert(record.broker_id, Arc::new(registered(record)));
                Ok(())
            }
            Record::UnregisterBroker(record) => {
                delta.brokers.insert(record.broker_id);
                self.brokers.remove(&record.broker_id).map(drop).ok_or("unknown broker".into())
            }
            Record::FenceBroker(record) => {
                self.change_broker(record.id, record.epoch, delta, |broker| broker.fenced = true)
            }
            Record::UnfenceBroker(record) => {
                self.change_broker(record.id, record.epoch, delta, |broker| broker.fenced = false)
            }
            Record::BrokerRegistrationChange(record) => self.registration_change(record, delta),
            Record::RegisterController(record) => {
                let controller = ControllerImage {
                    id: record.controller_id,
                    incarnation: record.incarnation_id,
                    endpoints: record.end_points.iter().map(Endpoint::from).collect(),
                    features: features(&record.features),
                };
                self.controllers.insert(controller.id, Arc::new(controller));
                Ok(())
            }
            Record::Topic(record) => self.create_topic(record, delta),
            Record::RemoveTopic(record) => self.remove_topic(record.topic_id, delta),
            Record::Partition(record) => self.set_partition(record, delta),
            Record::PartitionChange(record) => self.change_partition(record, delta),
            Record::ClearElr(record) => self.clear_elr(&record.topic_name, delta),
            Record::Config(record) => self.set_config(record, delta),
            Record::FeatureLevel(record) => {
                delta.features = true;
                let name: Arc<str> = record.name.as_str().into();
                match record.feature_level {
                    0 => self.features.remove(&name),
                    level => self.features.insert(name, level),
                };
                Ok(())
            }
            Record::ProducerIds(record) => {
                self.next_producer_id = record.next_producer_id;
                Ok(())
            }
            Record::NoOp(_)
            | Record::BeginTransaction(_)
            | Record::EndTransaction(_)
            | Record::AbortTransaction(_) => Ok(()),
            other => {
                self.keep(other);
                Ok(())
            }
        }
    }

    fn change_broker(
        &mut self,
        id: NodeId,
        epoch: i64,
        delta: &mut Delta,
        change: impl FnOnce(&mut BrokerImage),
    ) -> Replayed {
        let broker = self.brokers.get_mut(&id).ok_or_else(|| format!("unknown broker {id}"))?;
        if broker.epoch != epoch {
            return Err(format!("broker {id} has epoch {}, not {epoch}", broker.epoch));
        }
        change(Arc::make_mut(broker));
        delta.brokers.insert(id);
        Ok(())
    }

    fn registration_change(
        &mut self,
        record: &BrokerRegistrationChangeRecord,
        delta: &mut Delta,
    ) -> Replayed {
        self.change_broker(record.broker_id, record.broker_epoch, delta, |broker| {
            if record.fenced != 0 {
                broker.fenced = record.fenced > 0;
            }
            if record.in_controlled_shutdown != 0 {
                broker.in_controlled_shutdown = true;
            }
            if !record.log_dirs.is_empty() {
                broker.directories.clone_from(&record.log_dirs);
            }
            if let Some(cordoned) = &record.cordoned_log_dirs {
                broker.cordoned_directories = Some(cordoned.clone());
            }
        })
    }

    fn create_topic(&mut self, record: &TopicRecord, delta: &mut Delta) -> Replayed {
        let name: Arc<str> = record.name.as_str().into();
        if self.topics.contains_key(&name) || self.topic_names.contains_key(&record.topic_id) {
            return Err(format!("topic {name} ({}) exists already", record.topic_id));
        }
        let topic =
            TopicImage { name: name.clone(), id: record.topic_id, partitions: imbl::OrdMap::new() };
        delta.topics.insert(name.clone());
        self.topic_names.insert(topic.id, name.clone());
        self.topics.insert(name, Arc::new(topic));
        Ok(())
    }

    fn remove_topic(&mut self, id: Uuid, delta: &mut Delta) -> Replayed {
        let name = self.topic_names.remove(&id).ok_or_else(|| format!("unknown topic {id}"))?;
        let Some(topic) = self.topics.remove(&name) else {
            return Err(format!("topic {name} has an id, but no entry"));
        };
        let config = (ResourceType::Topic, name.clone());
        if self.configs.remove(&config).is_some() {
            delta.configs.insert(config);
        }
        delta.topics.remove(&name);
        for partition in topic.partitions.keys() {
            delta.partitions.remove(&TopicPartition::new(name.clone(), *partition));
        }
        delta.deleted.insert((name, id));
        Ok(())
    }

    fn topic_mut(&mut self, id: Uuid) -> Result<&mut TopicImage, String> {
        let name = self.topic_names.get(&id).ok_or_else(|| format!("unknown topic {id}"))?;
        let topic =
            self.topics.get_mut(name).ok_or_else(|| format!("{name} has an id, but no entry"))?;
        Ok(Arc::make_mut(topic))
    }

    fn set_partition(&mut self, record: &PartitionRecord, delta: &mut Delta) -> Replayed {
        let topic = self.topic_mut(record.topic_id)?;
        delta.topics.insert(topic.name.clone());
        delta.partitions.insert(TopicPartition::new(topic.name.clone(), record.partition_id));
        topic.partitions.insert(record.partition_id, Arc::new(PartitionImage::from(record)));
        Ok(())
    }

    fn change_partition(&mut self, record: &PartitionChangeRecord, delta: &mut Delta) -> Replayed {
        let topic = self.topic_mut(record.topic_id)?;
        let name = topic.name.clone();
        let partition = topic
            .partitions
            .get_mut(&record.partition_id)
            .ok_or_else(|| format!("unknown partition {name}-{}", record.partition_id))?;
        Arc::make_mut(partition).merge(record);
        delta.topics.insert(name.clone());
        delta.partitions.insert(TopicPartition::new(name, record.partition_id));
        Ok(())
    }

    fn clear_elr(&mut self, topic: &str, delta: &mut Delta) -> Replayed {
        let names: Vec<_> = match topic {
            "" => self.topics.keys().cloned().collect(),
            one => vec![Arc::from(one)],
        };
        for name in names {
            let topic =
                self.topics.get_mut(&name).ok_or_else(|| format!("unknown topic {name}"))?;
            let topic = Arc::make_mut(topic);
            for (index, partition) in topic.partitions.clone() {
                if partition.elr.is_empty() && partition.last_known_elr.is_empty() {
                    continue;
                }
                let mut partition = PartitionImage::clone(&partition);
                partition.elr.clear();
                partition.last_known_elr.clear();
                partition.partition_epoch += 1;
                topic.partitions.insert(index, Arc::new(partition));
                delta.topics.insert(name.clone());
                delta.partitions.insert(TopicPartition::new(name.clone(), index));
            }
        }
        Ok(())
    }

    fn set_config(&mut self, record: &ConfigRecord, delta: &mut Delta) -> Replayed {
        let of = ResourceType::from_code(record.resource_type)
            .ok_or_else(|| format!("unknown resource type {}", record.resource_type))?;
        let key = (of, Arc::<str>::from(record.resource_name.as_str()));
        let mut config = self.configs.get(&key).cloned().unwrap_or_default();
        match &record.value {
            Some(value) => config.insert(record.name.clone(), value.clone()),
            None => config.remove(&record.name),
        };
        if config.is_empty() {
            self.configs.remove(&key);
        } else {
            self.configs.insert(key.clone(), config);
        }
        delta.configs.insert(key);
        Ok(())
    }

    /// Holds on to a record that we do not act on, or lets go of one that it removes.
    fn keep(&mut self, record: &Record) {
        let key = match record {
            Record::ClientQuota(quota) => format!("quota {:?} {}", quota.entity, quota.key),
            Record::UserScramCredential(it) => format!("scram {} {}", it.mechanism, it.name),
            Record::RemoveUserScramCredential(it) => format!("scram {} {}", it.mechanism, it.name),
            Record::AccessControlEntry(it) => format!("acl {}", it.id),
            Record::RemoveAccessControlEntry(it) => format!("acl {}", it.id),
            Record::DelegationToken(it) => format!("token {}", it.token_id),
            Record::RemoveDelegationToken(it) => format!("token {}", it.token_id),
            _ => return,
        };
        let removes = match record {
            Record::ClientQuota(quota) => quota.remove,
            Record::RemoveUserScramCredential(_)
            | Record::RemoveAccessControlEntry(_)
            | Record::RemoveDelegationToken(_) => true,
            _ => false,
        };
        if removes {
            self.kept.remove(&key);
        } else {
            self.kept.insert(key, record.clone());
        }
    }

    /// Records that make this image out of an empty one, in Kafka's order.
    pub fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (name, level) in self.features() {
            let record = FeatureLevelRecord { name: name.into(), feature_level: level };
            // Whoever reads must know the metadata.version before anything else.
            let first = name == "metadata.version";
            records.insert(if first { 0 } else { records.len() }, record.into());
        }
        records.extend(self.brokers().map(|broker| RegisterBrokerRecord::from(broker).into()));
        for controller in self.controllers() {
            records.push(
                RegisterControllerRecord {
                    controller_id: controller.id,
                    incarnation_id: controller.incarnation,
                    zk_migration_ready: false,
                    end_points: controller.endpoints.iter().map(EndPoint::from).collect(),
                    features: controller.features.iter().map(FeatureRange::from).collect(),
                }
                .into(),
            );
        }
        for topic in self.topics() {
            records.push(TopicRecord { name: topic.name.to_string(), topic_id: topic.id }.into());
            for (index, partition) in &topic.partitions {
                records.push(partition.to_record(topic.id, *index).into());
            }
        }
        for (of, resource, config) in self.configs() {
            for (name, value) in config {
                records.push(
                    ConfigRecord {
                        resource_type: of.code(),
                        resource_name: resource.into(),
                        name: name.clone(),
                        value: Some(value.clone()),
                    }
                    .into(),
                );
            }
        }
        let kept = |quota: bool| {
            let is = move |record: &&Record| matches!(record, Record::ClientQuota(_)) == quota;
            self.kept.values().filter(is).cloned()
        };
        records.extend(kept(true));
        if self.next_producer_id > 0 {
            let next_producer_id = self.next_producer_id;
            records.push(
                ProducerIdsRecord { broker_id: -1, broker_epoch: -1, next_producer_id }.into(),
            );
        }
        records.extend(kept(false));
        records
    }
}

/// By name: Kafka writes them in the order of a hash map, and in another one in its snapshots.
fn features(ranges: &[FeatureRange]) -> Vec<SupportedFeature> {
    let mut features: Vec<_> = ranges.iter().map(SupportedFeature::from).collect();
    features.sort_by(|one, other| one.name.cmp(&other.name));
    features
}

fn registered(record: &RegisterBrokerRecord) -> BrokerImage {
    BrokerImage {
        id: record.broker_id,
        epoch: record.broker_epoch,
        incarnation: record.incarnation_id,
        endpoints: record.end_points.iter().map(Endpoint::from).collect(),
        features: features(&record.features),
        rack: record.rack.as_deref().map(Arc::from),
        fenced: record.fenced,
        in_controlled_shutdown: record.in_controlled_shutdown,
        directories: record.log_dirs.clone(),
        cordoned_directories: record.cordoned_log_dirs.clone(),
    }
}

impl From<&BrokerImage> for RegisterBrokerRecord {
    fn from(broker: &BrokerImage) -> Self {
        Self {
            broker_id: broker.id,
            is_migrating_zk_broker: false,
            incarnation_id: broker.incarnation,
            broker_epoch: broker.epoch,
            end_points: broker.endpoints.iter().map(EndPoint::from).collect(),
            features: broker.features.iter().map(FeatureRange::from).collect(),
            rack: broker.rack.as_deref().map(str::to_owned),
            fenced: broker.fenced,
            in_controlled_shutdown: broker.in_controlled_shutdown,
            log_dirs: broker.directories.clone(),
            cordoned_log_dirs: broker.cordoned_directories.clone(),
        }
    }
}

impl From<&EndPoint> for Endpoint {
    fn from(it: &EndPoint) -> Self {
        Self {
            listener: it.name.as_str().into(),
            host: it.host.as_str().into(),
            port: it.port,
            protocol: it.security_protocol,
        }
    }
}

impl From<&Endpoint> for EndPoint {
    fn from(it: &Endpoint) -> Self {
        Self {
            name: it.listener.to_string(),
            host: it.host.to_string(),
            port: it.port,
            security_protocol: it.protocol,
        }
    }
}

impl From<&FeatureRange> for SupportedFeature {
    fn from(it: &FeatureRange) -> Self {
        Self {
            name: it.name.as_str().into(),
            min: it.min_supported_version,
            max: it.max_supported_version,
        }
    }
}

impl From<&SupportedFeature> for FeatureRange {
    fn from(it: &SupportedFeature) -> Self {
        Self {
            name: it.name.to_string(),
            min_supported_version: it.min,
            max_supported_version: it.max,
        }
    }
}

impl From<&PartitionRecord> for PartitionImage {
    fn from(record: &PartitionRecord) -> Self {
        Self {
            replicas: record.replicas.clone(),
            directories: record.directories.clone(),
            isr: record.isr.clone(),
            adding: record.adding_replicas.clone(),
            removing: record.removing_replicas.clone(),
            elr: record.eligible_leader_replicas.clone().unwrap_or_default(),
            last_known_elr: record.last_known_elr.clone().unwrap_or_default(),
            leader: record.leader,
            recovering: record.leader_recovery_state == 1,
            leader_epoch: record.leader_epoch,
            partition_epoch: record.partition_epoch,
        }
    }
}

impl PartitionImage {
    pub fn to_record(&self, topic_id: Uuid, partition_id: i32) -> PartitionRecord {
        PartitionRecord {
            partition_id,
            topic_id,
            replicas: self.replicas.clone(),
            isr: self.isr.clone(),
            removing_replicas: self.removing.clone(),
            adding_replicas: self.adding.clone(),
            leader: self.leader,
            leader_recovery_state: i8::from(self.recovering),
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            directories: self.directories.clone(),
            eligible_leader_replicas: (!self.elr.is_empty()).then(|| self.elr.clone()),
            last_known_elr: (!self.last_known_elr.is_empty()).then(|| self.last_known_elr.clone()),
        }
    }

    /// Applies a change: the partition epoch always grows, the leader epoch with each new leader.
    pub fn merge(&mut self, record: &PartitionChangeRecord) {
        let set = |place: &mut Vec<NodeId>, value: &Option<Vec<NodeId>>| {
            if let Some(value) = value {
                place.clone_from(value);
            }
        };
        set(&mut self.isr, &record.isr);
        set(&mut self.replicas, &record.replicas);
        set(&mut self.removing, &record.removing_replicas);
        set(&mut self.adding, &record.adding_replicas);
        set(&mut self.elr, &record.eligible_leader_replicas);
        set(&mut self.last_known_elr, &record.last_known_elr);
        if let Some(directories) = &record.directories {
            self.directories.clone_from(directories);
        }
        if record.leader_recovery_state >= 0 {
            self.recovering = record.leader_recovery_state == 1;
        }
        if record.leader != LEADER_UNCHANGED {
            self.leader = record.leader;
            if !planted!(ReusedLeaderEpoch) {
                self.leader_epoch += 1;
            }
        }
        self.partition_epoch += 1;
    }
}

/// The leader in a change that keeps it.
pub const LEADER_UNCHANGED: NodeId = -2;

/// For tests: the image of records that all fit.
#[cfg(test)]
pub(super) fn image_of(records: &[Record]) -> (Image, Delta) {
    let mut image = Image::empty("test");
    let mut delta = Delta::default();
    for record in records {
        image.replay(record, &mut delta).unwrap();
    }
    (image, delta)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::metadata::{AccessControlEntryRecord, RemoveTopicRecord, UnfenceBrokerRecord};

    fn sample() -> Vec<Record> {
        let topic_id = Uuid::from_u128(5);
        vec![
            FeatureLevelRecord { name: "metadata.version".into(), feature_level: 30 }.into(),
            RegisterBrokerRecord { broker_id: 1, broker_epoch: 9, ..Default::default() }.into(),
            UnfenceBrokerRecord { id: 1, epoch: 9 }.into(),
            TopicRecord { name: "orders".into(), topic_id }.into(),
            ConfigRecord {
                resource_type: 2,
                resource_name: "orders".into(),
                name: "retention.ms".into(),
                value: Some("5".into()),
            }
            .into(),
            PartitionRecord {
                partition_id: 0,
                topic_id,
                replicas: vec![1, 2],
                isr: vec![1, 2],
                leader: 1,
                leader_epoch: 0,
                partition_epoch: 0,
                ..Default::default()
            }
            .into(),
            PartitionChangeRecord {
                partition_id: 0,
                topic_id,
                isr: Some(vec![2]),
                leader: 2,
                ..Default::default()
            }
            .into(),
            ProducerIdsRecord { broker_id: 1, broker_epoch: 9, next_producer_id: 1000 }.into(),
            AccessControlEntryRecord { id: Uuid::from_u128(1), ..Default::default() }.into(),
        ]
    }

    #[test]
    fn the_records_of_an_image_make_the_same_image() {
        let (image, _) = image_of(&sample());
        let (again, _) = image_of(&image.records());
        assert_eq!(image, again);
        assert_eq!(image.config(ResourceType::Topic, "orders")["retention.ms"], "5");
    }

    #[test]
    fn a_new_leader_raises_both_epochs_and_an_isr_change_one() {
        let (mut image, mut delta) = image_of(&sample());
        let partition = image.partition("orders", 0).unwrap();
        assert_eq!(
            (partition.leader, partition.leader_epoch, partition.partition_epoch),
            (2, 1, 1)
        );
        let change = PartitionChangeRecord {
            partition_id: 0,
            topic_id: Uuid::from_u128(5),
            isr: Some(vec![2, 1]),
            ..Default::default()
        };
        image.replay(&change.into(), &mut delta).unwrap();
        let partition = image.partition("orders", 0).unwrap();
        assert_eq!(
            (partition.leader, partition.leader_epoch, partition.partition_epoch),
            (2, 1, 2)
        );
    }

    #[test]
    fn removing_a_topic_removes_its_configuration() {
        let (mut image, _) = image_of(&sample());
        let mut delta = Delta::default();
        let id = Uuid::from_u128(5);
        image.replay(&RemoveTopicRecord { topic_id: id }.into(), &mut delta).unwrap();
        assert!(image.topic("orders").is_none() && image.configs().next().is_none());
        assert!(delta.deleted.contains(&("orders".into(), id)) && delta.topics.is_empty());
    }

    #[test]
    fn a_record_that_contradicts_the_image_is_an_error() {
        let (mut image, mut delta) = image_of(&sample());
        for record in [
            TopicRecord { name: "orders".into(), topic_id: Uuid::from_u128(6) }.into(),
            RemoveTopicRecord { topic_id: Uuid::from_u128(6) }.into(),
            UnfenceBrokerRecord { id: 1, epoch: 8 }.into(),
            PartitionChangeRecord { partition_id: 7, ..Default::default() }.into(),
        ] {
            let record: Record = record;
            assert!(image.replay(&record, &mut delta).is_err(), "{record:?}");
        }
    }
}
