//! The ConfigMaps of a cluster: one file of settings per node, and the racks of the nodes.
//!
//! Each pod reads the file of its own name, so that nothing has to be filled in inside the pod, and
//! `kubectl get configmap` shows what each broker runs with.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::NodeZone;
use super::properties::{self, Place};
use crate::cluster::{Pool, ValidCluster, names};
use crate::resources::{CONTROLLER_PORT, HEALTH_PORT, REPLICATION_PORT};

/// Where the log directory of a broker is in its pod. A folder below the mount, because a fresh
/// volume may hold `lost+found`.
pub const LOG_DIR: &str = "/data/kafka";

/// The settings of each node of a pool, in a file named after its pod. `founding` gives the node
/// that founds the cluster the permission to do so.
pub fn settings(cluster: &ValidCluster, pool: Pool, id: &str, founding: bool) -> ConfigMap {
    let files = nodes(cluster, pool).map(|node_id| {
        let name = format!("{}.properties", names::pod(&cluster.name, node_id));
        let mut settings = properties::of_node(cluster, id, node_id, &place(cluster));
        if founding && node_id == cluster.layout.founder() {
            let (name, value) = properties::FOUNDING;
            settings.insert(name.to_owned(), value.to_owned());
        }
        (name, properties::text(&settings))
    });
    ConfigMap {
        metadata: names::owned(cluster, pool, names::pool(&cluster.name, pool)),
        data: Some(files.collect()),
        ..Default::default()
    }
}

fn nodes(cluster: &ValidCluster, pool: Pool) -> impl Iterator<Item = i32> + use<> {
    cluster.all_ids().filter(move |node_id| Pool::of(*node_id) == pool)
}

/// The rack of each node of the Kubernetes cluster, in a file named after the node.
pub fn racks(cluster: &ValidCluster, zones: &[NodeZone]) -> ConfigMap {
    ConfigMap {
        metadata: names::owned(cluster, Pool::Brokers, names::racks(&cluster.name)),
        data: Some(zones.iter().cloned().collect::<BTreeMap<_, _>>()),
        ..Default::default()
    }
}

/// Tells apart the settings that nodes were started with. The permission to found is not among
/// them: that it is spent is no reason to start anything again.
pub fn fingerprint(cluster: &ValidCluster, pool: Pool, id: &str) -> String {
    let text = |node_id: i32| {
        properties::text(&properties::of_node(cluster, id, node_id, &place(cluster)))
    };
    let all: String = nodes(cluster, pool).map(text).collect();
    format!("{:016x}", fnv1a(all.as_bytes()))
}

fn place(cluster: &ValidCluster) -> Place<'_> {
    Place {
        bind: "",
        host: Box::new(|node_id| names::host(cluster, node_id)),
        client_port: Box::new(|_, listener| listener.port),
        replication_port: Box::new(|_| REPLICATION_PORT),
        controller_port: Box::new(|_| CONTROLLER_PORT),
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
    use crate::cluster::Layout;
    use crate::cluster::tests::demo;

    #[test]
    fn each_broker_has_a_file_and_the_first_three_vote() {
        let mut cluster = demo();
        cluster.spec.replicas = 4;
        let files = settings(&cluster, Pool::Brokers, "some-id", false).data.unwrap();
        assert_eq!(files.keys().last().unwrap(), "demo-broker-3.properties");
        let expected = "\
advertised.listeners=PLAIN://demo-broker-0.demo-brokers.shop.svc:9092,REPLICATION://demo-broker-0.demo-brokers.shop.svc:9091,CONTROLLER://demo-broker-0.demo-brokers.shop.svc:9093
cluster.id=some-id
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=demo-broker-0.demo-brokers.shop.svc:9093,demo-broker-1.demo-brokers.shop.svc:9093,demo-broker-2.demo-brokers.shop.svc:9093
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
        let last = &files["demo-broker-3.properties"];
        assert!(last.contains("\nprocess.roles=broker\n") && last.contains("\nnode.id=3\n"));
        assert!(!last.contains("CONTROLLER://"), "{last}");
    }

    #[test]
    fn the_permission_to_found_is_for_one_node_and_changes_no_fingerprint() {
        let dedicated = Layout::Dedicated { voters: 3 };
        for (layout, pool, founder) in [
            (demo().layout, Pool::Brokers, "demo-broker-0.properties"),
            (dedicated, Pool::Controllers, "demo-controller-0.properties"),
        ] {
            let cluster = ValidCluster { layout, ..demo() };
            let with = settings(&cluster, pool, "id", true).data.unwrap();
            let without = settings(&cluster, pool, "id", false).data.unwrap();
            assert_eq!(with.len(), 3);
            for (name, text) in &with {
                assert_eq!(text.contains("\nottla.quorum.founding=true\n"), name == founder);
                assert!(!without[name].contains("founding"));
            }
            assert_eq!(with.keys().next().unwrap(), founder);
        }
        let brokers = ValidCluster { layout: dedicated, ..demo() };
        let brokers = settings(&brokers, Pool::Brokers, "id", true).data.unwrap();
        assert!(brokers.values().all(|text| !text.contains("founding")));
    }

    #[test]
    fn the_manifests_settings_win_over_our_defaults() {
        let mut cluster = demo();
        cluster.config.insert("min.insync.replicas".to_owned(), "1".to_owned());
        let files = settings(&cluster, Pool::Brokers, "id", false).data.unwrap();
        assert!(files["demo-broker-0.properties"].contains("\nmin.insync.replicas=1\n"));
    }

    #[test]
    fn changed_settings_have_another_fingerprint() {
        let mut changed = demo();
        changed.config.insert("num.io.threads".to_owned(), "3".to_owned());
        assert_ne!(
            fingerprint(&demo(), Pool::Brokers, "id"),
            fingerprint(&changed, Pool::Brokers, "id")
        );
        assert_eq!(
            fingerprint(&demo(), Pool::Brokers, "id"),
            fingerprint(&demo(), Pool::Brokers, "id")
        );
    }
}
