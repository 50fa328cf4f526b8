//! The cluster as the metadata log describes it up to one offset.
//!
//! Immutable once published and cheap to clone: the maps are persistent, so that replaying a
//! record copies a path and not the image. [`replay`](super::replay) is the only place that
//! changes one. Deliberately absent: what is only known in memory of the controller (sessions).

use std::sync::Arc;

use imbl::OrdMap;
use uuid::Uuid;

use crate::types::{BrokerEpoch, LeaderEpoch, Millis, NO_EPOCH, NO_LEADER, NodeId, Offset};
use crate::wire::metadata::Record;

/// The cluster up to `offset`.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    pub cluster_id: Arc<str>,
    /// The last record that is part of this image; -1 when it is empty.
    pub offset: Offset,
    /// The epoch of that record.
    pub epoch: LeaderEpoch,
    /// When that record was written; -1 when the image is empty.
    pub timestamp: Millis,
    /// The active controller, or -1.
    pub controller_id: NodeId,
    pub(super) topics: OrdMap<Arc<str>, Arc<TopicImage>>,
    pub(super) topic_names: OrdMap<Uuid, Arc<str>>,
    pub(super) brokers: OrdMap<NodeId, Arc<BrokerImage>>,
    pub(super) controllers: OrdMap<NodeId, Arc<ControllerImage>>,
    pub(super) configs: OrdMap<(ResourceType, Arc<str>), Config>,
    pub(super) features: OrdMap<Arc<str>, i16>,
    /// The first producer id that no block contains.
    pub next_producer_id: i64,
    /// Records of features that this software does not have yet (quotas, credentials, ACLs,
    /// tokens), kept so that a snapshot loses none of them.
    pub(super) kept: OrdMap<String, Record>,
    no_config: Config,
}

/// The configuration of one resource: only what was set, not the defaults.
pub type Config = OrdMap<String, String>;

/// What a configuration belongs to; the numbers are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    Topic,
    Broker,
    BrokerLogger,
    ClientMetrics,
    Group,
}

impl ResourceType {
    pub fn from_code(code: i8) -> Option<Self> {
        Some(match code {
            2 => Self::Topic,
            4 => Self::Broker,
            8 => Self::BrokerLogger,
            16 => Self::ClientMetrics,
            32 => Self::Group,
            _ => return None,
        })
    }

    pub fn code(self) -> i8 {
        match self {
            Self::Topic => 2,
            Self::Broker => 4,
            Self::BrokerLogger => 8,
            Self::ClientMetrics => 16,
            Self::Group => 32,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicImage {
    pub name: Arc<str>,
    pub id: Uuid,
    pub partitions: OrdMap<i32, Arc<PartitionImage>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PartitionImage {
    /// In preferred order.
    pub replicas: Vec<NodeId>,
    /// Of each replica, in the order of `replicas`.
    pub directories: Vec<Uuid>,
    pub isr: Vec<NodeId>,
    pub adding: Vec<NodeId>,
    pub removing: Vec<NodeId>,
    pub elr: Vec<NodeId>,
    pub last_known_elr: Vec<NodeId>,
    /// -1 when there is none.
    pub leader: NodeId,
    /// The leader was elected uncleanly and has not finished to recover.
    pub recovering: bool,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: i32,
}

impl PartitionImage {
    pub fn has_leader(&self) -> bool {
        self.leader != NO_LEADER
    }

    /// The first of the replicas.
    pub fn preferred_leader(&self) -> NodeId {
        self.replicas.first().copied().unwrap_or(NO_LEADER)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerImage {
    pub id: NodeId,
    pub epoch: BrokerEpoch,
    pub incarnation: Uuid,
    pub endpoints: Vec<Endpoint>,
    pub features: Vec<SupportedFeature>,
    pub rack: Option<Arc<str>>,
    pub fenced: bool,
    pub in_controlled_shutdown: bool,
    pub directories: Vec<Uuid>,
    /// `None` until the broker has said so.
    pub cordoned_directories: Option<Vec<Uuid>>,
}

impl BrokerImage {
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| &*endpoint.listener == listener)
    }

    /// May lead, and be in an ISR.
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.in_controlled_shutdown
    }
}

/// Where a node listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub listener: Arc<str>,
    pub host: Arc<str>,
    pub port: u16,
    /// 0 PLAINTEXT, 1 SSL, 2 SASL_PLAINTEXT, 3 SASL_SSL.
    pub protocol: i16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupportedFeature {
    pub name: Arc<str>,
    pub min: i16,
    pub max: i16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerImage {
    pub id: NodeId,
    pub incarnation: Uuid,
    pub endpoints: Vec<Endpoint>,
    pub features: Vec<SupportedFeature>,
}

impl Image {
    pub fn empty(cluster_id: &str) -> Self {
        Self {
            cluster_id: cluster_id.into(),
            offset: -1,
            epoch: NO_EPOCH,
            timestamp: -1,
            controller_id: NO_LEADER,
            topics: OrdMap::new(),
            topic_names: OrdMap::new(),
            brokers: OrdMap::new(),
            controllers: OrdMap::new(),
            configs: OrdMap::new(),
            features: OrdMap::new(),
            next_producer_id: 0,
            kept: OrdMap::new(),
            no_config: Config::new(),
        }
    }

    pub fn topic(&self, name: &str) -> Option<&TopicImage> {
        self.topics.get(name).map(|topic| &**topic)
    }

    pub fn topic_by_id(&self, id: Uuid) -> Option<&TopicImage> {
        self.topic(self.topic_names.get(&id)?)
    }

    /// In order of their names.
    pub fn topics(&self) -> impl Iterator<Item = &TopicImage> {
        self.topics.values().map(|topic| &**topic)
    }

    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    pub fn partition(&self, topic: &str, partition: i32) -> Option<&PartitionImage> {
        self.topic(topic)?.partitions.get(&partition).map(|partition| &**partition)
    }

    pub fn broker(&self, id: NodeId) -> Option<&BrokerImage> {
        self.brokers.get(&id).map(|broker| &**broker)
    }

    /// In order of their ids, fenced ones included.
    pub fn brokers(&self) -> impl Iterator<Item = &BrokerImage> {
        self.brokers.values().map(|broker| &**broker)
    }

    pub fn is_active(&self, id: NodeId) -> bool {
        self.broker(id).is_some_and(BrokerImage::is_active)
    }

    pub fn controller(&self, id: NodeId) -> Option<&ControllerImage> {
        self.controllers.get(&id).map(|controller| &**controller)
    }

    pub fn controllers(&self) -> impl Iterator<Item = &ControllerImage> {
        self.controllers.values().map(|controller| &**controller)
    }

    /// What was set on a resource; the broker default is (`Broker`, "").
    pub fn config(&self, of: ResourceType, name: &str) -> &Config {
        self.configs.get(&(of, Arc::from(name))).unwrap_or(&self.no_config)
    }

    /// Every resource on which something is set.
    pub fn configs(&self) -> impl Iterator<Item = (ResourceType, &str, &Config)> {
        self.configs.iter().map(|((of, name), config)| (*of, &**name, config))
    }

    /// The finalized feature levels; a feature at level 0 is not listed.
    pub fn features(&self) -> impl Iterator<Item = (&str, i16)> {
        self.features.iter().map(|(name, level)| (&**name, *level))
    }

    pub fn feature(&self, name: &str) -> i16 {
        self.features.get(name).copied().unwrap_or(0)
    }
}
