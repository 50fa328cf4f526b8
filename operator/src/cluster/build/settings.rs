//! The ConfigMaps of a cluster: one file of settings per broker, and the racks of the nodes.
//!
//! Each pod reads the file of its own name, so that nothing has to be filled in inside the pod, and
//! `kubectl get configmap` shows what each broker runs with.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::NodeZone;
use super::properties::{self, Place};
use crate::cluster::{ValidCluster, names};
use crate::resources::{CONTROLLER_PORT, HEALTH_PORT, REPLICATION_PORT};

/// Where the log directory of a broker is in its pod. A folder below the mount, because a fresh
/// volume may hold `lost+found`.
pub const LOG_DIR: &str = "/data/kafka";

/// The settings of each broker, in a file named after its pod.
pub fn settings(cluster: &ValidCluster, id: &str) -> ConfigMap {
    let files = cluster.node_ids().map(|node_id| {
        let name = format!("{}.properties", names::pod(&cluster.name, node_id));
        (name, text(cluster, id, node_id))
    });
    ConfigMap {
        metadata: names::owned(cluster, names::settings(&cluster.name)),
        data: Some(files.collect()),
        ..Default::default()
    }
}

/// The rack of each node of the Kubernetes cluster, in a file named after the node.
pub fn racks(cluster: &ValidCluster, zones: &[NodeZone]) -> ConfigMap {
    ConfigMap {
        metadata: names::owned(cluster, names::racks(&cluster.name)),
        data: Some(zones.iter().cloned().collect::<BTreeMap<_, _>>()),
        ..Default::default()
    }
}

/// Tells apart the settings that brokers were started with.
pub fn fingerprint(cluster: &ValidCluster, id: &str) -> String {
    let all: String = cluster.node_ids().map(|node_id| text(cluster, id, node_id)).collect();
    format!("{:016x}", fnv1a(all.as_bytes()))
}

fn text(cluster: &ValidCluster, id: &str, node_id: i32) -> String {
    properties::text(&properties::of_broker(cluster, id, node_id, &place(cluster)))
}

fn place(cluster: &ValidCluster) -> Place<'_> {
    Place {
        bind: "",
        host: Box::new(|node_id| names::host(cluster, node_id)),
        client_port: Box::new(|_, listener| listener.port),
        replication_port: Box::new(|_| REPLICATION_PORT),
        controller_port: CONTROLLER_PORT,
        health: Box::new(|_| Some(format!("0.0.0.0:{HEALTH_PORT}"))),
        log_dir: Box::new(|_| LOG_DIR.to_owned()),
    }
}

/// FNV-1a: the standard library's hasher may change between releases, which would look like changed
/// settings.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::demo;

    #[test]
    fn each_broker_has_a_file_and_only_the_first_is_controller() {
        let files = settings(&demo(), "some-id").data.unwrap();
        assert_eq!(
            files.keys().collect::<Vec<_>>(),
            ["demo-broker-0.properties", "demo-broker-1.properties", "demo-broker-2.properties"]
        );
        let expected = "\
advertised.listeners=PLAIN://demo-broker-0.demo-brokers.shop.svc:9092,REPLICATION://demo-broker-0.demo-brokers.shop.svc:9091
cluster.id=some-id
controller.listener.names=CONTROLLER
controller.quorum.voters=0@demo-broker-0.demo-brokers.shop.svc:9093
default.replication.factor=3
inter.broker.listener.name=REPLICATION
listener.security.protocol.map=PLAIN:PLAINTEXT,REPLICATION:PLAINTEXT,CONTROLLER:PLAINTEXT
listeners=PLAIN://:9092,REPLICATION://:9091,CONTROLLER://:9093
log.dirs=/data/kafka
min.insync.replicas=2
node.id=0
offsets.topic.replication.factor=3
ottla.health.listener=0.0.0.0:8080
process.roles=broker,controller
";
        assert_eq!(files["demo-broker-0.properties"], expected);
        let second = &files["demo-broker-1.properties"];
        assert!(second.contains("\nprocess.roles=broker\n") && second.contains("\nnode.id=1\n"));
        assert!(!second.contains("CONTROLLER://"), "{second}");
    }

    #[test]
    fn the_manifests_settings_win_over_our_defaults() {
        let mut cluster = demo();
        cluster.config.insert("min.insync.replicas".to_owned(), "1".to_owned());
        let files = settings(&cluster, "id").data.unwrap();
        assert!(files["demo-broker-0.properties"].contains("\nmin.insync.replicas=1\n"));
    }

    #[test]
    fn changed_settings_have_another_fingerprint() {
        let mut changed = demo();
        changed.config.insert("num.io.threads".to_owned(), "3".to_owned());
        assert_ne!(fingerprint(&demo(), "id"), fingerprint(&changed, "id"));
        assert_eq!(fingerprint(&demo(), "id"), fingerprint(&demo(), "id"));
    }
}
