//! The server.properties of one broker of a cluster, in Kubernetes or on one machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::cluster::ValidCluster;
use crate::resources::Listener;

/// Where the brokers of a cluster live. Everything that differs between pods and local processes.
pub struct Place<'a> {
    /// The address that listeners bind; empty for all.
    pub bind: &'a str,
    /// The host by which others reach a broker, by node id.
    pub host: Box<dyn Fn(i32) -> String + 'a>,
    /// The port of a client listener of a broker.
    pub client_port: ClientPort<'a>,
    /// The port between brokers.
    pub replication_port: Box<dyn Fn(i32) -> i32 + 'a>,
    pub controller_port: i32,
    /// Where probes and metrics are served.
    pub health: Box<dyn Fn(i32) -> Option<String> + 'a>,
    pub log_dir: Box<dyn Fn(i32) -> String + 'a>,
}

/// From a node id and a listener to the port.
pub type ClientPort<'a> = Box<dyn Fn(i32, &Listener) -> i32 + 'a>;

/// The node that decides about metadata. One voter until quorums of several are built.
const CONTROLLER: i32 = 0;

/// All settings of the broker `node_id` of `cluster`, whose Kafka id is `id`.
pub fn of_broker(
    cluster: &ValidCluster,
    id: &str,
    node_id: i32,
    place: &Place<'_>,
) -> BTreeMap<String, String> {
    let mut settings = defaults(cluster.spec.replicas);
    settings.extend(cluster.config.clone());
    let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);

    let is_controller = node_id == CONTROLLER;
    set("node.id", node_id.to_string());
    set("cluster.id", id.to_owned());
    let roles = if is_controller { "broker,controller" } else { "broker" };
    set("process.roles", roles.to_owned());
    set("log.dirs", (place.log_dir)(node_id));
    let (controller, port) = ((place.host)(CONTROLLER), place.controller_port);
    set("controller.quorum.voters", format!("{CONTROLLER}@{controller}:{port}"));
    set("controller.listener.names", "CONTROLLER".to_owned());
    set("inter.broker.listener.name", "REPLICATION".to_owned());

    let mut ports: Vec<(String, i32)> = Vec::new();
    for listener in &cluster.spec.listeners {
        let name = listener.name.to_uppercase();
        ports.push((name, (place.client_port)(node_id, listener)));
    }
    ports.push(("REPLICATION".to_owned(), (place.replication_port)(node_id)));
    let host = (place.host)(node_id);
    set("advertised.listeners", addresses(&ports, &host));
    if is_controller {
        ports.push(("CONTROLLER".to_owned(), place.controller_port));
    }
    set("listeners", addresses(&ports, place.bind));
    let mut protocols: Vec<String> =
        ports.iter().map(|(name, _)| format!("{name}:PLAINTEXT")).collect();
    if !is_controller {
        protocols.push("CONTROLLER:PLAINTEXT".to_owned());
    }
    set("listener.security.protocol.map", protocols.join(","));
    if let Some(health) = (place.health)(node_id) {
        set("ottla.health.listener", health);
    }
    settings
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

    #[test]
    fn brokers_on_one_machine_differ_by_their_ports() {
        let cluster = demo();
        let place = Place {
            bind: "127.0.0.1",
            host: Box::new(|_| "127.0.0.1".to_owned()),
            client_port: Box::new(|node_id, listener| listener.port + node_id),
            replication_port: Box::new(|node_id| 9100 + node_id),
            controller_port: 9110,
            health: Box::new(|_| None),
            log_dir: Box::new(|node_id| format!("/data/broker-{node_id}/data")),
        };
        let settings = of_broker(&cluster, "id", 2, &place);
        assert_eq!(settings["listeners"], "PLAIN://127.0.0.1:9094,REPLICATION://127.0.0.1:9102");
        assert_eq!(settings["controller.quorum.voters"], "0@127.0.0.1:9110");
        assert_eq!(settings["log.dirs"], "/data/broker-2/data");
        assert!(!settings.contains_key("ottla.health.listener"));
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
