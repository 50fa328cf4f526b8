//! How the objects of a cluster are called and marked.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

use super::ValidCluster;
use super::layout::{FIRST_CONTROLLER, Pool};
use crate::resources::KafkaCluster;

/// Names the cluster that an object is of.
pub const CLUSTER_LABEL: &str = "ottla.dev/cluster";
/// On each volume claim: the id of the Kafka cluster whose records it holds.
pub const CLUSTER_ID_ANNOTATION: &str = "ottla.dev/cluster-id";
/// On each volume claim of a cluster that is founded: the permission to found it is spent, also for
/// a resource that is made anew over these volumes.
pub const FOUNDED_ANNOTATION: &str = "ottla.dev/quorum-founded";
/// On the StatefulSet of the brokers: which nodes vote. Without it, a set of an earlier version.
pub const LAYOUT_ANNOTATION: &str = "ottla.dev/controllers";
/// On each pod: which settings it was started with.
pub const SETTINGS_ANNOTATION: &str = "ottla.dev/settings";
/// Who we are to server-side apply.
pub const FIELD_MANAGER: &str = "ottla-operator";

/// What carries the name of a pool: its StatefulSet, its ConfigMap of settings, its budget.
pub fn pool(cluster: &str, pool: Pool) -> String {
    format!("{cluster}-{}", pool.name())
}

pub fn pod(cluster: &str, node_id: i32) -> String {
    let of = Pool::of(node_id);
    let ordinal = if of == Pool::Controllers { node_id - FIRST_CONTROLLER } else { node_id };
    format!("{}-{ordinal}", pool(cluster, of))
}

/// The volume claim of a node, as the StatefulSet calls it.
pub fn claim(cluster: &str, node_id: i32) -> String {
    format!("{VOLUME}-{}", pod(cluster, node_id))
}

/// The volume with the log directory.
pub const VOLUME: &str = "data";

/// The service that gives each node of a pool its name.
pub fn headless(cluster: &str, pool: Pool) -> String {
    format!("{cluster}-{}s", pool.name())
}

pub fn bootstrap(cluster: &str) -> String {
    format!("{cluster}-bootstrap")
}

/// The ConfigMap that tells each broker the rack of its Kubernetes node.
pub fn racks(cluster: &str) -> String {
    format!("{cluster}-racks")
}

pub fn service_account(cluster: &str) -> String {
    format!("{cluster}-broker")
}

/// Where a node is found from anywhere in the Kubernetes cluster, whatever its domain is.
pub fn host(cluster: &ValidCluster, node_id: i32) -> String {
    let (name, namespace) = (&cluster.name, &cluster.namespace);
    format!("{}.{}.{namespace}.svc", pod(name, node_id), headless(name, Pool::of(node_id)))
}

/// `host:port` for clients: the first listener of the bootstrap service.
pub fn bootstrap_address(cluster: &ValidCluster) -> String {
    let port = cluster.spec.listeners.first().map_or(crate::resources::CLIENT_PORT, |l| l.port);
    format!("{}.{}.svc:{port}", bootstrap(&cluster.name), cluster.namespace)
}

/// The labels that pods are found by; they never change.
pub fn selector(cluster: &str, pool: Pool) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "ottla"),
        ("app.kubernetes.io/component", pool.name()),
        (CLUSTER_LABEL, cluster),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

pub fn labels(cluster: &str, pool: Pool) -> BTreeMap<String, String> {
    let mut labels = selector(cluster, pool);
    labels.insert("app.kubernetes.io/instance".to_owned(), cluster.to_owned());
    labels.insert("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned());
    labels
}

/// The metadata of an object that goes when its cluster goes.
pub fn owned(cluster: &ValidCluster, pool: Pool, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(labels(&cluster.name, pool)),
        owner_references: Some(vec![OwnerReference {
            api_version: KafkaCluster::api_version(&()).into_owned(),
            kind: KafkaCluster::kind(&()).into_owned(),
            name: cluster.name.clone(),
            uid: cluster.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..Default::default()
    }
}
