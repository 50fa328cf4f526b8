//! One simulated node: the shipped broker on its simulated disk.

use std::collections::BTreeMap;

use ottla_broker::broker::Broker;
use ottla_broker::config::Settings;
use ottla_broker::env::simulated::{SimulatedDisk, env};

use super::scenario::{CONTROLLER_PORT, PORT, host};

/// The life of a broker's process. Ends with an error only when the broker gives up by itself,
/// which in a simulation without disk errors it never may.
pub async fn run(disk: SimulatedDisk, node: usize, seed: u64) -> turmoil::Result {
    let settings = Settings::load(properties(node))?.settings;
    let broker = Broker::start(env(disk, seed), settings).await?;
    broker.ended().await?;
    Err("the broker ended without being asked to".into())
}

fn properties(node: usize) -> BTreeMap<String, String> {
    let (listeners, roles) = if node == 0 {
        (format!("PLAINTEXT://:{PORT},CONTROLLER://:{CONTROLLER_PORT}"), "broker,controller")
    } else {
        (format!("PLAINTEXT://:{PORT}"), "broker")
    };
    let settings = [
        ("node.id", node.to_string()),
        ("process.roles", roles.to_owned()),
        ("listeners", listeners),
        ("advertised.listeners", format!("PLAINTEXT://{}:{PORT}", host(node))),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned()),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("controller.quorum.voters", format!("0@{}:{CONTROLLER_PORT}", host(0))),
        ("log.dirs", "/data".to_owned()),
        ("cluster.id", "c2ltdWxhdGVkLWNsdXN0ZXI".to_owned()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
    ];
    settings.map(|(key, value)| (key.to_owned(), value)).into()
}
