//! `KafkaTopic`: a topic of a cluster, kept as its manifest says.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Conditions, Config};

/// The topic that this resource describes. The operator creates it, brings its partitions and
/// settings to what is written here, brings back what drifted, and deletes it, with its records,
/// when this resource is deleted.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "ottla.dev",
    version = "v1alpha1",
    kind = "KafkaTopic",
    doc = "A topic of a KafkaCluster: its partitions, replicas and settings.",
    namespaced,
    derive = "PartialEq",
    status = "KafkaTopicStatus",
    shortname = "kt",
    category = "ottla",
    selectable = ".spec.cluster",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Topic", type_ = "string", json_path = ".status.topicName"),
    printcolumn(name = "Partitions", type_ = "integer", json_path = ".status.partitions"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Why",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("has(self.spec.topicName) || size(self.metadata.name) <= 249")
        .message("metadata.name is longer than the 249 characters of a topic's name: set spec.topicName")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.topicName) == has(oldSelf.topicName) && (!has(self.topicName) || self.topicName == oldSelf.topicName)")
        .message("a topic cannot be renamed: topicName is immutable")
        .field_path(".topicName")
)]
pub struct KafkaTopicSpec {
    /// The KafkaCluster, in the same namespace, that holds the topic. Cannot be changed.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("a topic cannot move to another cluster: cluster is immutable")
    )]
    pub cluster: String,

    /// The topic's name in Kafka, when it cannot be the name of this resource (upper case,
    /// underscores). The name of this resource unless set. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    #[x_kube(
        validation = Rule::new("self != '.' && self != '..'").message("topicName cannot be '.' or '..'"),
        validation = Rule::new("!self.startsWith('__')").message("topicName begins with '__', which Kafka keeps for its internal topics")
    )]
    pub topic_name: Option<String>,

    /// How many partitions the topic has. It can grow, never shrink; growing changes which
    /// partition a key goes to.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100_000))]
    pub partitions: i32,

    /// How many brokers hold a copy of each partition, at most the brokers of the cluster. The
    /// cluster's `default.replication.factor` unless set. Cannot be changed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32_767))]
    pub replicas: Option<i32>,

    /// The topic's settings by Kafka's names, for example `retention.ms: 86400000`. A setting that
    /// is not in this map is at the cluster's default, whoever may have set it.
    #[serde(default, skip_serializing_if = "Config::is_empty")]
    #[schemars(schema_with = "super::config::of_a_topic")]
    pub config: Config,
}

fn one() -> i32 {
    1
}

/// What the operator found and did, last time it looked.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KafkaTopicStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The topic's name in Kafka.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,
    /// The id that Kafka gave the topic when it was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Partitions that the topic has now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// Replicas that each partition has now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// `Ready`: the topic is in Kafka as the spec says.
    #[serde(default)]
    pub conditions: Conditions,
}

impl KafkaTopic {
    /// The topic's name in Kafka.
    pub fn topic_name(&self) -> String {
        let own = || self.metadata.name.clone().unwrap_or_default();
        self.spec.topic_name.clone().unwrap_or_else(own)
    }
}
