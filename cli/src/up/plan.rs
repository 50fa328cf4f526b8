//! Manifests → what is to run: pure, so that an edit can be checked before anything moves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ottla_operator::cluster::build::properties::{Place, of_node, text};
use ottla_operator::cluster::layout::FIRST_CONTROLLER;
use ottla_operator::cluster::{Layout, Pool, ValidCluster};

use super::books::Books;
use super::process::Folder;

/// How far a port of the brokers' own lies above the port of their first listener.
const REPLICATION: i32 = 500;
pub const CONTROLLER: u16 = 1000;
/// How far the ports of one listener lie from those of the next.
const NEXT_LISTENER: i32 = 100;
pub const LOCALHOST: &str = "127.0.0.1";

/// A topic as the operator's validation leaves it.
pub type TopicPlan = ottla_operator::topic::ValidTopic;

/// One cluster as local processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPlan {
    pub name: String,
    pub brokers: Vec<NodePlan>,
    /// Nodes that are no brokers.
    pub dedicated: Vec<NodePlan>,
    pub topics: Vec<TopicPlan>,
    pub books: Books,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    pub id: i32,
    /// Of the first listener for clients; of a dedicated controller its only one.
    pub port: u16,
    /// Everything it listens on.
    pub ports: Vec<u16>,
    /// What is asked, when it is started, for the permission to found the cluster: one node only.
    pub founder: Option<Books>,
    pub folder: PathBuf,
    /// The content of its server.properties.
    pub settings: String,
}

impl ClusterPlan {
    /// The nodes of `cluster`, whose quorum is as `books` say, from port `base` on, each in a
    /// folder of its own below `data`.
    pub fn new(
        cluster: &ValidCluster,
        topics: Vec<TopicPlan>,
        id: &str,
        base: u16,
        data: &Path,
        books: Books,
    ) -> Self {
        let cluster = ValidCluster { layout: books.layout, ..cluster.clone() };
        let nodes =
            cluster.all_ids().map(|node| self::node(&cluster, node, id, base, data, &books));
        let (brokers, dedicated) = nodes.partition(|node| Pool::of(node.id) == Pool::Brokers);
        Self { name: cluster.name.clone(), brokers, dedicated, topics, books }
    }

    /// In the order in which they are started: brokers find controllers that are there at once.
    pub fn nodes(&self) -> impl Iterator<Item = &NodePlan> {
        self.dedicated.iter().chain(&self.brokers)
    }

    /// Where the nodes that should vote are asked.
    pub fn controllers(&self) -> String {
        let voters = self.books.layout.voters();
        let all: Vec<_> =
            voters.map(|id| format!("{LOCALHOST}:{}", self.controller_port(id))).collect();
        all.join(",")
    }

    pub fn controller_port(&self, id: i32) -> i32 {
        controller_port(&self.books, id)
    }

    pub fn is_static(&self) -> bool {
        self.books.layout == Layout::Static
    }

    pub fn bootstrap(&self) -> String {
        let addresses: Vec<_> =
            self.brokers.iter().map(|broker| format!("{LOCALHOST}:{}", broker.port)).collect();
        addresses.join(",")
    }

    /// All ports that its brokers listen on.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.nodes().flat_map(|node| node.ports.clone())
    }
}

/// Of a dedicated controller by its place among them.
fn controller_port(books: &Books, id: i32) -> i32 {
    i32::from(books.port) + if id >= FIRST_CONTROLLER { id - FIRST_CONTROLLER } else { id }
}

impl NodePlan {
    /// How it is called: by what it does, and its id.
    pub fn title(&self) -> String {
        format!("{} {}", Pool::of(self.id).name(), self.id)
    }

    pub fn files(&self) -> Folder {
        Folder(self.folder.clone())
    }
}

fn node(
    cluster: &ValidCluster,
    node: i32,
    id: &str,
    base: u16,
    data: &Path,
    books: &Books,
) -> NodePlan {
    let base = i32::from(base);
    let nth = |name: &str| {
        let mut listeners = cluster.spec.listeners.iter();
        listeners.position(|listener| listener.name == name).unwrap_or_default() as i32
    };
    let folder =
        |node: i32| data.join(&cluster.name).join(format!("{}-{node}", Pool::of(node).name()));
    let place = Place {
        bind: LOCALHOST,
        host: Box::new(|_| LOCALHOST.to_owned()),
        client_port: Box::new(|node, listener| base + node + NEXT_LISTENER * nth(&listener.name)),
        replication_port: Box::new(|node| base + node + REPLICATION),
        controller_port: Box::new(|node| controller_port(books, node)),
        health: Box::new(|_| None),
        log_dir: Box::new(|node| Folder(folder(node)).data().display().to_string()),
    };
    let mut settings: BTreeMap<_, _> = of_node(cluster, id, node, &place);
    // No rack: all brokers are on this machine.
    settings.remove("broker.rack");
    let mut ports = Vec::new();
    if Pool::of(node) == Pool::Brokers {
        ports.extend(cluster.spec.listeners.iter().map(|one| (place.client_port)(node, one)));
        ports.push((place.replication_port)(node));
    }
    if cluster.layout.votes(node) {
        ports.push((place.controller_port)(node));
    }
    NodePlan {
        id: node,
        port: port(ports.first().copied().unwrap_or_default()),
        ports: ports.into_iter().map(port).collect(),
        founder: (node == cluster.layout.founder()).then(|| books.clone()),
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
        let cluster = &manifests.clusters[0];
        let folder = tempfile::tempdir().unwrap();
        let books = Books::open(folder.path(), cluster.layout, 10_092).unwrap();
        ClusterPlan::new(cluster, Vec::new(), "id", 9092, Path::new(data), books)
    }

    #[test]
    fn three_brokers_listen_on_the_ports_that_a_newcomer_expects() {
        let plan = plan("", "/data");
        assert_eq!(plan.bootstrap(), "127.0.0.1:9092,127.0.0.1:9093,127.0.0.1:9094");
        assert_eq!(plan.brokers[1].folder, Path::new("/data/demo/broker-1"));
        let settings = &plan.brokers[1].settings;
        assert!(settings.contains("\nlog.dirs=/data/demo/broker-1/data\n"), "{settings}");
        assert!(settings.contains("\nprocess.roles=broker,controller\n"), "{settings}");
        assert!(!settings.contains("founding"), "{settings}");
        assert_eq!(plan.controllers(), "127.0.0.1:10092,127.0.0.1:10093,127.0.0.1:10094");
        let founders: Vec<_> = plan.nodes().map(|node| node.founder.is_some()).collect();
        assert_eq!(founders, [true, false, false]);
    }

    #[test]
    fn no_two_brokers_and_no_two_listeners_share_a_port() {
        let plan =
            plan(", listeners: [{name: plain}, {name: other, port: 19092}], replicas: 5", "/data");
        let all: Vec<_> = plan.ports().collect();
        assert_eq!(all.len(), 5 * 3 + 3);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn dedicated_controllers_are_processes_of_their_own() {
        let plan = plan(", controllers: {mode: dedicated}", "/data");
        let titles: Vec<_> = plan.nodes().map(NodePlan::title).collect();
        assert_eq!(
            titles[..4],
            ["controller 1000", "controller 1001", "controller 1002", "broker 0"]
        );
        assert_eq!(plan.dedicated[1].ports, [10_093]);
        assert_eq!(plan.dedicated[1].folder, Path::new("/data/demo/controller-1001"));
        assert!(plan.brokers.iter().all(|broker| broker.ports.len() == 2));
        assert!(plan.dedicated[0].founder.is_some() && plan.brokers[0].founder.is_none());
    }

    #[test]
    fn the_same_manifest_gives_the_same_settings() {
        let settings = || plan("", "/data").brokers.into_iter().map(|it| it.settings);
        assert!(settings().eq(settings()));
    }
}
