//! `KafkaCluster`: brokers, their volumes, their addresses and their settings.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, LocalObjectReference, Toleration};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Conditions, Config};

/// The port at which clients find a cluster whose manifest names no listener.
pub const CLIENT_PORT: i32 = 9092;
/// Between brokers.
pub const REPLICATION_PORT: i32 = 9091;
/// To the controller.
pub const CONTROLLER_PORT: i32 = 9093;
/// Probes and metrics, by HTTP.
pub const HEALTH_PORT: i32 = 8080;

/// A cluster of Kafka brokers, in the namespace of this resource. Clients find it at the service
/// `NAME-bootstrap`.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "ottla.dev",
    version = "v1alpha1",
    kind = "KafkaCluster",
    doc = "A cluster of Kafka brokers. Clients find it at the service NAME-bootstrap.",
    namespaced,
    derive = "PartialEq",
    status = "KafkaClusterStatus",
    shortname = "kc",
    category = "ottla",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Brokers", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Serving", type_ = "integer", json_path = ".status.readyReplicas"),
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
    printcolumn(name = "Controller", type_ = "integer", json_path = ".status.quorum.leader", priority = 1),
    printcolumn(name = "Bootstrap", type_ = "string", json_path = ".status.bootstrap"),
    printcolumn(name = "Cluster ID", type_ = "string", json_path = ".status.clusterId", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 40")
        .message("metadata.name must begin with a letter, hold only a-z, 0-9 and '-', and be at most 40 characters long: names of services and pods are made of it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.config) || !has(self.config.default__dot__replication__dot__factor) || int(self.config.default__dot__replication__dot__factor) <= self.replicas")
        .message("config default.replication.factor is higher than replicas, the number of brokers")
        .field_path(".config"),
    validation = Rule::new("!has(self.config) || !has(self.config.offsets__dot__topic__dot__replication__dot__factor) || int(self.config.offsets__dot__topic__dot__replication__dot__factor) <= self.replicas")
        .message("config offsets.topic.replication.factor is higher than replicas, the number of brokers")
        .field_path(".config"),
    validation = Rule::new("!has(self.config) || !has(self.config.min__dot__insync__dot__replicas) || int(self.config.min__dot__insync__dot__replicas) <= self.replicas")
        .message("config min.insync.replicas is higher than replicas, the number of brokers: nothing could be written with acks=all")
        .field_path(".config"),
    validation = Rule::new("!has(self.controllers) || !has(self.controllers.replicas) || (has(self.controllers.mode) && self.controllers.mode == 'dedicated') || self.controllers.replicas <= self.replicas")
        .message("controllers.replicas is higher than replicas, the number of brokers: only brokers vote unless controllers are dedicated")
        .field_path(".controllers")
)]
pub struct KafkaClusterSpec {
    /// How many brokers. Three keep the records through the loss of any one of them; one is enough
    /// to try things out. Cannot be changed yet.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 100))]
    pub replicas: i32,

    /// The volume of each broker.
    pub storage: Storage,

    /// Settings of the brokers, by the names of Kafka's server.properties. What makes a broker part
    /// of this cluster (node.id, listeners, log.dirs and the like) is set by the operator and
    /// refused here.
    #[serde(default, skip_serializing_if = "Config::is_empty")]
    #[schemars(schema_with = "super::config::of_a_cluster")]
    pub config: Config,

    /// Where clients connect. The service NAME-bootstrap has a port for each.
    #[serde(default = "default_listeners")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.all(one, self.exists_one(other, other.port == one.port))")
            .message("listeners share a port: each needs its own")
    )]
    pub listeners: Vec<Listener>,

    /// Which nodes vote on the cluster's metadata: the first three brokers unless set, or one of
    /// fewer. Cannot be changed yet.
    #[serde(default, skip_serializing_if = "Controllers::is_default")]
    pub controllers: Controllers,

    /// CPU and memory of each broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// The image of the brokers. The operator's own image unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^\S+$"))]
    pub image: Option<String>,

    /// Spreads the replicas of each partition over zones, and lets consumers read from the nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<Rack>,

    /// What is added to each broker's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

fn three() -> i32 {
    3
}

pub(crate) fn default_listeners() -> Vec<Listener> {
    vec![Listener { name: "plain".to_owned(), port: CLIENT_PORT, type_: ListenerType::Internal }]
}

/// The volume of each broker.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// The size of each broker's volume, for example `100Gi`. Cannot be changed yet.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
            .message("size must be a positive quantity such as 10Gi")
    )]
    pub size: String,

    /// The StorageClass of the volumes. The default class of the Kubernetes cluster unless set.
    /// Cannot be changed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class: Option<String>,

    /// Whether the volumes, with all records, are deleted when this resource is deleted. They are
    /// kept unless this is true; a cluster created again under the same name uses them again.
    #[serde(default)]
    pub delete_claim: bool,
}

/// Who votes on the cluster's metadata.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.mode) && self.mode == 'dedicated') || (!has(self.storage) && !has(self.resources))")
        .message("storage and resources are of dedicated controllers: with mode combined the brokers' own are used")
)]
pub struct Controllers {
    /// `combined`: the first brokers vote. `dedicated`: pods of their own, NAME-controller-N, vote.
    #[serde(default)]
    pub mode: ControllersMode,

    /// How many nodes vote: 1, 3 or 5. Three survive the loss of any one of them, five of two.
    /// Unless set, three; with mode combined and fewer than three brokers, one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("self in [1, 3, 5]")
            .message("replicas must be 1, 3 or 5: an even number of voters survives no more losses than one less")
    )]
    pub replicas: Option<i32>,

    /// The volume of each dedicated controller: 1Gi of the brokers' class unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<ControllerStorage>,

    /// CPU and memory of each dedicated controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

impl Controllers {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where the voters are.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum ControllersMode {
    #[default]
    Combined,
    Dedicated,
}

/// The volume of each dedicated controller. It goes or stays with the brokers' volumes.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ControllerStorage {
    /// The size of each volume, for example `1Gi`.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
            .message("size must be a positive quantity such as 1Gi")
    )]
    pub size: String,

    /// The StorageClass of the volumes: that of the brokers unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class: Option<String>,
}

/// A port for clients.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// The name of the listener and of its port in the services; in Kafka in upper case.
    #[schemars(length(min = 1, max = 15), regex(pattern = r"^[a-z]([a-z0-9]*[a-z0-9])?$"))]
    #[x_kube(
        validation = Rule::new("!(self in ['controller', 'replication', 'health'])")
            .message("name is taken by a listener of the brokers' own: controller, replication and health cannot be used")
    )]
    pub name: String,

    /// The port that brokers and the bootstrap service listen on.
    #[serde(default = "client_port")]
    #[schemars(range(min = 1024, max = 65_535))]
    #[x_kube(
        validation = Rule::new("!(self in [8080, 9091, 9093])")
            .message("port is taken by the brokers' own listeners: 8080 (health), 9091 (replication) and 9093 (controller) cannot be used")
    )]
    pub port: i32,

    /// How clients reach the listener: `internal`, by the services of the Kubernetes cluster.
    #[serde(default, rename = "type")]
    pub type_: ListenerType,
}

fn client_port() -> i32 {
    CLIENT_PORT
}

/// How clients reach a listener.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum ListenerType {
    #[default]
    Internal,
}

/// CPU and memory, as in a container of a pod.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What each broker is sure to get, for example `cpu: 500m` and `memory: 1Gi`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    #[x_kube(
        validation = Rule::new("self.all(name, isQuantity(string(self[name])))").message("requests holds something that is not a quantity, such as 500m or 1Gi")
    )]
    pub requests: BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,

    /// What each broker may not exceed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    #[x_kube(
        validation = Rule::new("self.all(name, isQuantity(string(self[name])))").message("limits holds something that is not a quantity, such as 500m or 1Gi")
    )]
    pub limits: BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
}

fn quantities(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
        },
    })
}

/// Where a broker's zone is written.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Rack {
    /// The label of the Kubernetes nodes that names their zone; its value becomes `broker.rack`.
    #[serde(default = "zone")]
    #[schemars(
        length(min = 1, max = 317),
        regex(
            pattern = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
        )
    )]
    pub topology_key: String,
}

fn zone() -> String {
    "topology.kubernetes.io/zone".to_owned()
}

/// What is added to each broker's pod. What the operator sets itself stays as it is.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels to add.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(
        validation = Rule::new("self.all(name, !name.startsWith('app.kubernetes.io/') && !name.startsWith('ottla.dev/'))")
            .message("labels of app.kubernetes.io/ and ottla.dev/ are set by the operator and cannot be set here")
    )]
    pub labels: BTreeMap<String, String>,

    /// Annotations to add.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(
        validation = Rule::new("self.all(name, !name.startsWith('ottla.dev/'))")
            .message("annotations of ottla.dev/ are set by the operator and cannot be set here")
    )]
    pub annotations: BTreeMap<String, String>,

    /// Labels that a node must have to run a broker.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints of nodes that brokers accept, as in a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,

    /// Rules about nodes and neighbours, as in a pod. Brokers are spread over nodes and zones in
    /// any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// The PriorityClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,

    /// Secrets with the credentials of the image's registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// How long a broker may take to hand over its partitions and stop, before it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub termination_grace_period_seconds: Option<i64>,
}

/// What the operator found and did, last time it looked.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KafkaClusterStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The id of the Kafka cluster. Given once, and found again on the volumes when the resource
    /// is created anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// `host:port` for clients inside the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<String>,
    /// Pods that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Brokers that serve: registered and not fenced.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Label selector of the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Who leads and who votes, as the controllers themselves say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumStatus>,
    /// One line per broker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub brokers: Vec<BrokerStatus>,
    /// `Ready`: all brokers serve, with all copies, and all controllers vote. `Progressing`: the
    /// operator or Kubernetes is at work towards that. `Degraded`: something is wrong that a person
    /// should know. `QuorumHealthy`: a controller leads, and all that should vote can.
    #[serde(default)]
    pub conditions: Conditions,
}

/// The quorum of controllers.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct QuorumStatus {
    /// Whether the permission to found this cluster is spent. It is given once, to one node, and
    /// never again: an empty disk then joins what is there.
    #[serde(default)]
    pub founded: bool,
    /// node.id of the active controller; none while nobody leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<i32>,
    /// How often a controller was elected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i32>,
    /// The nodes that have a vote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub voters: Vec<VoterStatus>,
}

/// A node with a vote.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VoterStatus {
    /// node.id
    pub id: i32,
    /// Of the disk that votes: a node with a new disk is a new voter.
    pub directory_id: String,
    /// `Leader`, `Follower`, `Behind` (has a vote, and does not keep up or is away) or `Unknown`
    /// (as last heard, before the quorum was lost).
    pub state: String,
}

/// One broker.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BrokerStatus {
    /// node.id
    pub id: i32,
    pub pod: String,
    /// The Kubernetes node that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// broker.rack, as the broker registered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// `Serving`, `Fenced` (registered, not serving), `Starting` (pod runs, not registered),
    /// `Waiting` (pod does not run yet), `Missing` (no pod) or `Outdated` (serving with an older
    /// template than the manifest asks for).
    pub state: String,
    /// Why it does not serve, as far as Kubernetes knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
