//! The server.properties of one node of a cluster, in Kubernetes or on one machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::cluster::{Layout, Pool, ValidCluster};
use crate::resources::Listener;

/// Where the nodes of a cluster live. Everything that differs between pods and local processes.
pub struct Place<'a> {
    /// The address that listeners bind; empty for all.
    pub bind: &'a str,
    /// The host by which others reach a node, by node id.
    pub host: Box<dyn Fn(i32) -> String + 'a>,
    /// The port of a client listener of a broker.
    pub client_port: ClientPort<'a>,
    /// The port between brokers.
    pub replication_port: Box<dyn Fn(i32) -> i32 + 'a>,
    /// The port of a node that votes.
    pub controller_port: Box<dyn Fn(i32) -> i32 + 'a>,
    /// Where probes and metrics are served.
    pub health: Box<dyn Fn(i32) -> Option<String> + 'a>,
    pub log_dir: Box<dyn Fn(i32) -> String + 'a>,
}

/// From a node id and a listener to the port.
pub type ClientPort<'a> = Box<dyn Fn(i32, &Listener) -> i32 + 'a>;

/// The listener by which controllers are reached.
pub const CONTROLLER_LISTENER: &str = "CONTROLLER";
/// The permission to found a cluster, for a node whose disk is empty. Never among the settings
/// that [`of_node`] makes: it is given once, by whoever keeps the books about it.
pub const FOUNDING: (&str, &str) = ("ottla.quorum.founding", "true");

/// All settings of the node `node_id` of `cluster`, whose Kafka id is `id`.
pub fn of_node(
    cluster: &ValidCluster,
    id: &str,
    node_id: i32,
    place: &Place<'_>,
) -> BTreeMap<String, String> {
    let is_broker = Pool::of(node_id) == Pool::Brokers;
    let votes = cluster.layout.votes(node_id);
    let mut settings = defaults(cluster.spec.replicas);
    settings.extend(cluster.config.clone());
    settings.extend(quorum(cluster, place));
    let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);

    set("node.id", node_id.to_string());
    set("cluster.id", id.to_owned());
    let roles = match (is_broker, votes) {
        (true, true) => "broker,controller",
        (true, false) => "broker",
        (false, _) => "controller",
    };
    set("process.roles", roles.to_owned());
    set("log.dirs", (place.log_dir)(node_id));

    let mut ports: Vec<(String, i32)> = Vec::new();
    if is_broker {
        for listener in &cluster.spec.listeners {
            let name = listener.name.to_uppercase();
            ports.push((name, (place.client_port)(node_id, listener)));
        }
        ports.push(("REPLICATION".to_owned(), (place.replication_port)(node_id)));
        set("inter.broker.listener.name", "REPLICATION".to_owned());
    }
    let mut advertised = ports.clone();
    if votes {
        ports.push((CONTROLLER_LISTENER.to_owned(), (place.controller_port)(node_id)));
    }
    // Who votes tells the other voters its name, not whatever its machine is called.
    if cluster.layout != Layout::Static {
        advertised.clone_from(&ports);
    }
    set("advertised.listeners", addresses(&advertised, &(place.host)(node_id)));
    set("listeners", addresses(&ports, place.bind));
    let mut protocols: Vec<String> =
        ports.iter().map(|(name, _)| format!("{name}:PLAINTEXT")).collect();
    if !votes {
        protocols.push(format!("{CONTROLLER_LISTENER}:PLAINTEXT"));
    }
    set("listener.security.protocol.map", protocols.join(","));
    if let Some(health) = (place.health)(node_id) {
        set("ottla.health.listener", health);
    }
    settings
}

/// How every node finds the controllers.
fn quorum(cluster: &ValidCluster, place: &Place<'_>) -> [(String, String); 2] {
    let address = |id: i32| format!("{}:{}", (place.host)(id), (place.controller_port)(id));
    let voters = cluster.layout.voters();
    let found = match cluster.layout {
        Layout::Static => {
            let named = voters.map(|id| format!("{id}@{}", address(id)));
            ("controller.quorum.voters", named.collect::<Vec<_>>())
        }
        Layout::Combined { .. } | Layout::Dedicated { .. } => {
            ("controller.quorum.bootstrap.servers", voters.map(address).collect())
        }
    };
    let names = ("controller.listener.names", vec![CONTROLLER_LISTENER.to_owned()]);
    [found, names].map(|(name, values)| (name.to_owned(), values.join(",")))
}

/// What a cluster gets unless its manifest says otherwise: copies on three brokers, of which one
/// may be away. Kafka's own defaults keep a single copy.
fn defaults(brokers: i32) -> BTreeMap<String, String> {
    let copies = brokers.min(3);
    let needed = if copies == 3 { 2 } else { 1 };
    [
        ("default.replication.factor", copies),
        ("offsets.topic.replication.factor", copies),
        ("min.insync.replicas", needed),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_string()))
    .collect()
}

fn addresses(ports: &[(String, i32)], host: &str) -> String {
    let one = |(name, port): &(String, i32)| format!("{name}://{host}:{port}");
    ports.iter().map(one).collect::<Vec<_>>().join(",")
}

/// The settings as the text of a file of Java properties.
pub fn text(settings: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (name, value) in settings {
        let _ = writeln!(text, "{name}={}", escaped(value));
    }
    text
}

fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for (index, c) in value.chars().enumerate() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            ' ' if index == 0 => escaped.push_str("\\ "),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::demo;

    fn place() -> Place<'static> {
        Place {
            bind: "127.0.0.1",
            host: Box::new(|_| "127.0.0.1".to_owned()),
            client_port: Box::new(|node_id, listener| listener.port + node_id),
            replication_port: Box::new(|node_id| 9100 + node_id),
            controller_port: Box::new(|node_id| 9110 + node_id % 1000),
            health: Box::new(|_| None),
            log_dir: Box::new(|node_id| format!("/data/broker-{node_id}/data")),
        }
    }

    fn of(layout: Layout, brokers: i32, node_id: i32) -> BTreeMap<String, String> {
        let mut cluster = demo();
        cluster.spec.replicas = brokers;
        cluster.layout = layout;
        of_node(&cluster, "id", node_id, &place())
    }

    #[test]
    fn brokers_on_one_machine_differ_by_their_ports() {
        let settings = of(Layout::Combined { voters: 3 }, 3, 2);
        assert_eq!(
            settings["listeners"],
            "PLAIN://127.0.0.1:9094,REPLICATION://127.0.0.1:9102,CONTROLLER://127.0.0.1:9112"
        );
        assert_eq!(settings["advertised.listeners"], settings["listeners"]);
        assert_eq!(settings["log.dirs"], "/data/broker-2/data");
        assert!(!settings.contains_key("ottla.health.listener"));
    }

    #[test]
    fn the_first_brokers_vote_and_all_nodes_know_where() {
        let three = "127.0.0.1:9110,127.0.0.1:9111,127.0.0.1:9112";
        let table = [
            (Layout::Combined { voters: 1 }, 0, "broker,controller", "127.0.0.1:9110"),
            (Layout::Combined { voters: 1 }, 1, "broker", "127.0.0.1:9110"),
            (Layout::Combined { voters: 3 }, 2, "broker,controller", three),
            (Layout::Combined { voters: 3 }, 3, "broker", three),
            (Layout::Dedicated { voters: 3 }, 0, "broker", three),
            (Layout::Dedicated { voters: 3 }, 1002, "controller", three),
        ];
        for (layout, node_id, roles, servers) in table {
            let settings = of(layout, 4, node_id);
            assert_eq!(settings["process.roles"], roles, "{layout} {node_id}");
            assert_eq!(settings["controller.quorum.bootstrap.servers"], servers);
            assert!(!settings.contains_key("controller.quorum.voters"));
            assert!(!settings.contains_key(FOUNDING.0), "nobody has the permission by itself");
            let listens = settings["listeners"].contains("CONTROLLER://");
            assert_eq!(listens, layout.votes(node_id));
        }
    }

    #[test]
    fn a_dedicated_controller_has_no_port_for_clients_or_replicas() {
        let settings = of(Layout::Dedicated { voters: 3 }, 3, 1001);
        assert_eq!(settings["listeners"], "CONTROLLER://127.0.0.1:9111");
        assert_eq!(settings["listener.security.protocol.map"], "CONTROLLER:PLAINTEXT");
        assert!(!settings.contains_key("inter.broker.listener.name"));
    }

    #[test]
    fn a_cluster_of_an_earlier_version_keeps_its_one_named_voter() {
        for (node_id, roles) in [(0, "broker,controller"), (1, "broker")] {
            let settings = of(Layout::Static, 3, node_id);
            assert_eq!(settings["controller.quorum.voters"], "0@127.0.0.1:9110");
            assert_eq!(settings["process.roles"], roles);
            assert!(!settings.contains_key("controller.quorum.bootstrap.servers"));
            assert!(!settings["advertised.listeners"].contains("CONTROLLER"));
        }
    }

    #[test]
    fn a_small_cluster_asks_for_no_more_copies_than_it_has_brokers() {
        assert_eq!(defaults(1)["default.replication.factor"], "1");
        assert_eq!(defaults(2)["min.insync.replicas"], "1");
        assert_eq!(defaults(5)["default.replication.factor"], "3");
    }

    #[test]
    fn a_value_cannot_smuggle_in_another_setting() {
        let settings = BTreeMap::from([("a".to_owned(), " x\nnode.id=9\\".to_owned())]);
        assert_eq!(text(&settings), "a=\\ x\\nnode.id=9\\\\\n");
    }
}
