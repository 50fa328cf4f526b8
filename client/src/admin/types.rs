//! What `Admin` takes and gives.

use std::collections::BTreeMap;

use kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsResult;
use uuid::Uuid;

use crate::{Error, ErrorCode, Node, TopicPartition};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub id: String,
    /// As clients see it: with KRaft any broker may be named.
    pub controller: Option<i32>,
    pub brokers: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub id: Uuid,
    pub internal: bool,
    pub error: Option<ErrorCode>,
    /// By partition number.
    pub partitions: Vec<PartitionInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    pub id: i32,
    pub error: Option<ErrorCode>,
    pub leader: Option<i32>,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
    pub offline: Vec<i32>,
    /// Eligible leader replicas (KIP-966); only from `Admin::describe_partitions`.
    pub elr: Option<Vec<i32>>,
    pub last_known_elr: Option<Vec<i32>>,
}

/// Which replicas may become leaders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum Election {
    /// The first of the replicas, where it is in sync.
    Preferred = 0,
    /// Any, where nobody leads: records may be lost.
    Unclean = 1,
}

/// A topic to create. `None` for partitions or replication takes the brokers' default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    pub partitions: Option<i32>,
    pub replication: Option<i16>,
    /// Partition → brokers, the preferred leader first. Excludes `partitions` and `replication`.
    pub assignment: Option<BTreeMap<i32, Vec<i32>>>,
    pub configs: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum ResourceType {
    Topic = 2,
    Broker = 4,
    BrokerLogger = 8,
    ClientMetrics = 16,
    Group = 32,
}

/// Something that has configuration. A broker with an empty name is the default of all brokers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    pub kind: ResourceType,
    pub name: String,
}

impl Resource {
    pub fn topic(name: impl Into<String>) -> Self {
        Self { kind: ResourceType::Topic, name: name.into() }
    }

    pub fn broker(id: i32) -> Self {
        Self { kind: ResourceType::Broker, name: id.to_string() }
    }

    pub fn default_broker() -> Self {
        Self { kind: ResourceType::Broker, name: String::new() }
    }

    pub fn group(name: impl Into<String>) -> Self {
        Self { kind: ResourceType::Group, name: name.into() }
    }
}

/// Where a value comes from; numbers are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    Unknown,
    DynamicTopic,
    DynamicBroker,
    DynamicDefaultBroker,
    StaticBroker,
    Default,
    DynamicBrokerLogger,
    ClientMetrics,
    Group,
}

impl ConfigSource {
    pub(crate) fn of(number: i8) -> Self {
        match number {
            1 => Self::DynamicTopic,
            2 => Self::DynamicBroker,
            3 => Self::DynamicDefaultBroker,
            4 => Self::StaticBroker,
            5 => Self::Default,
            6 => Self::DynamicBrokerLogger,
            7 => Self::ClientMetrics,
            8 => Self::Group,
            _ => Self::Unknown,
        }
    }

    /// Kafka's name, as its tools print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::DynamicTopic => "DYNAMIC_TOPIC_CONFIG",
            Self::DynamicBroker => "DYNAMIC_BROKER_CONFIG",
            Self::DynamicDefaultBroker => "DYNAMIC_DEFAULT_BROKER_CONFIG",
            Self::StaticBroker => "STATIC_BROKER_CONFIG",
            Self::Default => "DEFAULT_CONFIG",
            Self::DynamicBrokerLogger => "DYNAMIC_BROKER_LOGGER_CONFIG",
            Self::ClientMetrics => "DYNAMIC_CLIENT_METRICS_CONFIG",
            Self::Group => "DYNAMIC_GROUP_CONFIG",
        }
    }
}

/// The type of a setting, by Kafka's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigType(pub i8);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    pub name: String,
    /// `None` when it has none, or is sensitive.
    pub value: Option<String>,
    pub source: ConfigSource,
    pub sensitive: bool,
    pub read_only: bool,
    pub kind: ConfigType,
    /// The same value at each level that sets it, the one in force first.
    pub synonyms: Vec<ConfigSynonym>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSynonym {
    pub name: String,
    pub value: Option<String>,
    pub source: ConfigSource,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigOp {
    Set = 0,
    Delete = 1,
    Append = 2,
    Subtract = 3,
}

/// Which offset is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    Earliest,
    Latest,
    MaxTimestamp,
    EarliestLocal,
    LatestTiered,
    EarliestPendingUpload,
    /// The first record at or after this time, in milliseconds since 1970.
    Timestamp(i64),
}

impl OffsetSpec {
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Latest => -1,
            Self::Earliest => -2,
            Self::MaxTimestamp => -3,
            Self::EarliestLocal => -4,
            Self::LatestTiered => -5,
            Self::EarliestPendingUpload => -6,
            Self::Timestamp(millis) => millis,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupListing {
    pub id: String,
    pub protocol_type: String,
    /// As the broker spells it, for example `PreparingRebalance`; empty from old brokers.
    pub state: String,
    /// `classic`, `consumer`, `share` …; empty from old brokers.
    pub kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    pub id: String,
    pub state: String,
    /// `Classic` or `Consumer`.
    pub kind: &'static str,
    pub protocol_type: String,
    pub assignor: String,
    pub coordinator: Option<Node>,
    /// Group epoch and target assignment epoch; groups of kind Consumer only.
    pub epochs: Option<(i32, i32)>,
    pub members: Vec<GroupMember>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub host: String,
    /// Groups of kind Consumer only.
    pub epoch: Option<i32>,
    pub upgraded: Option<bool>,
    pub assignment: Vec<TopicPartition>,
    pub target: Vec<TopicPartition>,
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOffset {
    pub offset: i64,
    pub leader_epoch: Option<i32>,
    pub metadata: String,
}

/// API key, lowest and highest version of the broker, highest version that both sides speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupportedApis(pub Vec<(i16, i16, i16, Option<i16>)>);

/// Features of a cluster, as one of its nodes tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// Lowest and highest level, by name.
    pub supported: BTreeMap<String, (i16, i16)>,
    pub finalized: BTreeMap<String, i16>,
    /// Which state of the finalized ones this is.
    pub epoch: Option<i64>,
}

/// A reassignment that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reassignment {
    pub replicas: Vec<i32>,
    pub adding: Vec<i32>,
    pub removing: Vec<i32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LogDir {
    pub path: String,
    pub error: Option<ErrorCode>,
    /// Partition, size in bytes, lag in records, whether it is a replica being moved here.
    pub replicas: Vec<(TopicPartition, i64, i64, bool)>,
}

impl From<DescribeLogDirsResult> for LogDir {
    fn from(result: DescribeLogDirsResult) -> Self {
        let mut replicas = Vec::new();
        for topic in &result.topics {
            for partition in &topic.partitions {
                let at = TopicPartition::new(topic.name.as_str(), partition.partition_index);
                replicas.push((
                    at,
                    partition.partition_size,
                    partition.offset_lag,
                    partition.is_future_key,
                ));
            }
        }
        let error = Error::check(result.error_code, None).err().and_then(|error| error.code());
        Self { path: result.log_dir.to_string(), error, replicas }
    }
}
