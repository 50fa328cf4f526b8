//! Manifests → what is to run: pure, so that an edit can be checked before anything moves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ottla_operator::cluster::ValidCluster;
use ottla_operator::cluster::build::properties::{Place, of_broker, text};

use super::process::Folder;

/// How far a port of the brokers' own lies above the port of their first listener.
const REPLICATION: i32 = 500;
const CONTROLLER: i32 = 1000;
/// How far the ports of one listener lie from those of the next.
const NEXT_LISTENER: i32 = 100;
const LOCALHOST: &str = "127.0.0.1";

/// A topic as the operator's validation leaves it.
pub type TopicPlan = ottla_operator::topic::ValidTopic;

/// One cluster as local processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPlan {
    pub name: String,
    pub brokers: Vec<BrokerPlan>,
    pub topics: Vec<TopicPlan>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerPlan {
    pub id: i32,
    /// Of the first listener for clients.
    pub port: u16,
    /// Everything it listens on.
    pub ports: Vec<u16>,
    pub folder: PathBuf,
    /// The content of its server.properties.
    pub settings: String,
}

impl ClusterPlan {
    /// The brokers of `cluster` from port `base` on, each in a folder of its own below `data`.
    pub fn new(
        cluster: &ValidCluster,
        topics: Vec<TopicPlan>,
        id: &str,
        base: u16,
        data: &Path,
    ) -> Self {
        let brokers =
            cluster.node_ids().map(|node| broker(cluster, node, id, base, data)).collect();
        Self { name: cluster.name.clone(), brokers, topics }
    }

    pub fn bootstrap(&self) -> String {
        let addresses: Vec<_> =
            self.brokers.iter().map(|broker| format!("{LOCALHOST}:{}", broker.port)).collect();
        addresses.join(",")
    }

    /// All ports that its brokers listen on.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.brokers.iter().flat_map(|broker| broker.ports.clone())
    }
}

impl BrokerPlan {
    pub fn files(&self) -> Folder {
        Folder(self.folder.clone())
    }
}

fn broker(cluster: &ValidCluster, node: i32, id: &str, base: u16, data: &Path) -> BrokerPlan {
    let base = i32::from(base);
    let nth = |name: &str| {
        let mut listeners = cluster.spec.listeners.iter();
        listeners.position(|listener| listener.name == name).unwrap_or_default() as i32
    };
    let folder = |node: i32| data.join(&cluster.name).join(format!("broker-{node}"));
    let place = Place {
        bind: LOCALHOST,
        host: Box::new(|_| LOCALHOST.to_owned()),
        client_port: Box::new(|node, listener| base + node + NEXT_LISTENER * nth(&listener.name)),
        replication_port: Box::new(|node| base + node + REPLICATION),
        controller_port: base + CONTROLLER,
        health: Box::new(|_| None),
        log_dir: Box::new(|node| Folder(folder(node)).data().display().to_string()),
    };
    let mut settings: BTreeMap<_, _> = of_broker(cluster, id, node, &place);
    // No rack: all brokers are on this machine.
    settings.remove("broker.rack");
    let mut ports: Vec<i32> =
        cluster.spec.listeners.iter().map(|one| (place.client_port)(node, one)).collect();
    ports.push((place.replication_port)(node));
    if node == 0 {
        ports.push(place.controller_port);
    }
    BrokerPlan {
        id: node,
        port: port(base + node),
        ports: ports.into_iter().map(port).collect(),
        folder: folder(node),
        settings: format!(
            "# Written by `ottla up` at each start: change the manifest, not this file.\n{}",
            text(&settings)
        ),
    }
}

/// The flag's range leaves room for all that lies above it.
fn port(number: i32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::manifests::Manifests;
    use super::*;

    fn plan(spec: &str, data: &str) -> ClusterPlan {
        let text = format!(
            "{{apiVersion: ottla.dev/v1alpha1, kind: KafkaCluster, metadata: {{name: demo}}, \
             spec: {{storage: {{size: 1Gi}}{spec}}}}}"
        );
        let manifests = Manifests::parse(&[("m.yaml".into(), text)]).unwrap();
        ClusterPlan::new(&manifests.clusters[0], Vec::new(), "id", 9092, Path::new(data))
    }

    #[test]
    fn three_brokers_listen_on_the_ports_that_a_newcomer_expects() {
        let plan = plan("", "/data");
        assert_eq!(plan.bootstrap(), "127.0.0.1:9092,127.0.0.1:9093,127.0.0.1:9094");
        assert_eq!(plan.brokers[1].folder, Path::new("/data/demo/broker-1"));
        let settings = &plan.brokers[1].settings;
        assert!(settings.contains("\nlog.dirs=/data/demo/broker-1/data\n"), "{settings}");
        assert!(settings.contains("\nprocess.roles=broker\n"), "{settings}");
    }

    #[test]
    fn no_two_brokers_and_no_two_listeners_share_a_port() {
        let plan =
            plan(", listeners: [{name: plain}, {name: other, port: 19092}], replicas: 5", "/data");
        let all: Vec<_> = plan.ports().collect();
        assert_eq!(all.len(), 5 * 3 + 1);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn the_same_manifest_gives_the_same_plan() {
        assert_eq!(plan("", "/data"), plan("", "/data"));
    }
}
