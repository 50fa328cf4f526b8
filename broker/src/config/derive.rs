//! The settings that are more than one value read: what is filled in, and what fits together.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use super::definition::{self, Definition, Support, split_list};
use super::listeners::{Listeners, wrong};
use super::properties::Properties;
use super::settings::{CreateTopic, Quorum, Roles, Values, Voter};
use crate::error::Fault;
use crate::types::NodeId;

/// Refuses wrong values, warns of what has no effect, and drops what is unknown.
pub(super) fn check_each(given: &mut Properties, warnings: &mut Vec<String>) -> Result<(), Fault> {
    let table = definition::broker();
    let mut unknown = Vec::new();
    for (name, value) in &*given {
        let Some(definition) = table.get(name.as_str()) else {
            if name.starts_with("listener.name.") {
                return Err(wrong(format!(
                    "{name} is not supported yet: settings of one listener are about its security"
                )));
            }
            warnings.push(format!("{name} is not a broker setting; it is ignored"));
            unknown.push(name.clone());
            continue;
        };
        definition.check(value).map_err(|invalid| wrong(invalid.to_string()))?;
        let changed = definition.default.unwrap_or_default() != value.trim();
        match definition.support {
            Support::Refused if changed => {
                return Err(wrong(format!(
                    "{name} is not supported yet, and starting without it would silently break \
                     what it promises; remove it to start"
                )));
            }
            Support::NotYet if changed => {
                warnings.push(format!("{name} is not supported yet; it has no effect"));
            }
            Support::NoEffect if changed => warnings.push(no_effect(definition)),
            _ => {}
        }
    }
    for name in unknown {
        given.remove(&name);
    }
    Ok(())
}

fn no_effect(definition: &Definition) -> String {
    format!("{} has no effect: Ottla has nothing to tune there", definition.name)
}

pub(super) fn node_id(given: &Properties) -> Result<NodeId, Fault> {
    let id = |name: &str| given.get(name).and_then(|text| text.trim().parse::<NodeId>().ok());
    match (id("node.id"), id("broker.id").filter(|id| *id != -1)) {
        (Some(node), Some(broker)) if node != broker => {
            Err(wrong(format!("node.id is {node} but broker.id is {broker}: give one of them")))
        }
        (Some(id), _) | (None, Some(id)) if id >= 0 => Ok(id),
        (None, None) => Err(wrong("node.id is missing: give each node its own number, from 0 on")),
        (_, id) => Err(wrong(format!("broker.id must not be negative: {}", id.unwrap_or(-1)))),
    }
}

pub(super) fn quorum(given: &Properties) -> Result<Quorum, Fault> {
    let list = |name: &str| split_list(given.get(name).map_or("", String::as_str));
    let address = |name: &str, text: &str| {
        let parsed = text.rsplit_once(':').and_then(|(host, port)| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            (!host.is_empty()).then_some((host.to_owned(), port.parse::<u16>().ok()?))
        });
        parsed.ok_or_else(|| wrong(format!("{name}: {text:?} is not HOST:PORT")))
    };
    let mut quorum = Quorum::default();
    for text in list("controller.quorum.bootstrap.servers") {
        quorum.bootstrap.push(address("controller.quorum.bootstrap.servers", text)?);
    }
    for text in list("controller.quorum.voters") {
        let name = "controller.quorum.voters";
        let parsed = text.split_once('@').and_then(|(id, at)| Some((id.parse().ok()?, at)));
        let Some((id, at)) = parsed else {
            return Err(wrong(format!("{name}: {text:?} is not ID@HOST:PORT")));
        };
        let (host, port) = address(name, at)?;
        if quorum.voters.iter().any(|voter: &Voter| voter.id == id) {
            return Err(wrong(format!("{name} names node {id} twice")));
        }
        quorum.voters.push(Voter { id, host, port });
    }
    Ok(quorum)
}

/// Fills in the roles, and the controller's listener, when they are not given.
pub(super) fn roles(given: &mut Properties, quorum: &Quorum, node: NodeId) -> Result<Roles, Fault> {
    if let Some(text) = given.get("process.roles").filter(|text| !text.trim().is_empty()) {
        let has = |role| split_list(text).contains(&role);
        let roles = Roles { broker: has("broker"), controller: has("controller") };
        let voter = quorum.voters.iter().any(|voter| voter.id == node);
        if roles.controller && !voter && !quorum.voters.is_empty() {
            return Err(wrong(format!(
                "process.roles has controller, but controller.quorum.voters does not name node \
                 {node}: name it there, or use controller.quorum.bootstrap.servers on all nodes"
            )));
        }
        if voter && !roles.controller {
            return Err(wrong(format!(
                "controller.quorum.voters names node {node}, but its process.roles has no controller"
            )));
        }
        if !given.contains_key("controller.listener.names") {
            given.insert("controller.listener.names".to_owned(), "CONTROLLER".to_owned());
        }
        return Ok(roles);
    }
    let alone = quorum.voters.is_empty() && quorum.bootstrap.is_empty();
    let controller = alone || quorum.voters.iter().any(|voter| voter.id == node);
    let roles = if controller { "broker,controller" } else { "broker" };
    given.insert("process.roles".to_owned(), roles.to_owned());
    let names = given
        .entry("controller.listener.names".to_owned())
        .or_insert_with(|| "CONTROLLER".to_owned())
        .clone();
    let listeners = given.get("listeners").map_or("PLAINTEXT://:9092", String::as_str);
    let has = split_list(listeners).iter().any(|item| {
        let name = item.split_once("://").map_or("", |(name, _)| name);
        split_list(&names).iter().any(|other| other.eq_ignore_ascii_case(name))
    });
    if controller && !has {
        let name = split_list(&names).first().copied().unwrap_or("CONTROLLER").to_owned();
        let voter = quorum.voters.iter().find(|voter| voter.id == node).map(|voter| voter.port);
        let port = voter.unwrap_or(if listeners.contains(":9093") { 19093 } else { 9093 });
        let host = if alone { "127.0.0.1" } else { "" };
        let listeners = format!("{listeners},{name}://{host}:{port}");
        given.insert("listeners".to_owned(), listeners);
        if let Some(map) = given.get_mut("listener.security.protocol.map")
            && !split_list(map).iter().any(|item| item.starts_with(&format!("{name}:")))
        {
            // Writing to a text cannot fail.
            let _ = write!(map, ",{name}:PLAINTEXT");
        }
    }
    Ok(Roles { broker: true, controller })
}

/// A controller that no setting names is its own quorum; a broker needs to hear of one.
pub(super) fn complete(
    mut quorum: Quorum,
    roles: Roles,
    node: NodeId,
    listeners: &Listeners,
) -> Result<Quorum, Fault> {
    if !quorum.voters.is_empty() || !quorum.bootstrap.is_empty() {
        return Ok(quorum);
    }
    match listeners.of_controller().next() {
        Some(own) if roles.controller => {
            let local = own.host.is_empty() || own.host == "0.0.0.0";
            let host = if local { "127.0.0.1".to_owned() } else { own.host.clone() };
            quorum.voters.push(Voter { id: node, host, port: own.port });
            Ok(quorum)
        }
        _ => Err(wrong(
            "a broker needs controller.quorum.bootstrap.servers (or controller.quorum.voters) \
             to find its controller",
        )),
    }
}

pub(super) fn log_dirs(values: &Values<'_>) -> Result<Vec<PathBuf>, Fault> {
    let text = values.given("log.dirs").or_else(|| values.text("log.dir")).unwrap_or_default();
    let dirs: Vec<PathBuf> =
        split_list(text).into_iter().filter(|dir| !dir.is_empty()).map(PathBuf::from).collect();
    if dirs.is_empty() {
        return Err(wrong("log.dirs is empty: name at least one folder"));
    }
    for (at, dir) in dirs.iter().enumerate() {
        if dirs[..at].contains(dir) {
            return Err(wrong(format!("log.dirs names {} twice", dir.display())));
        }
    }
    Ok(dirs)
}

/// `ottla.health.listener`: host and port.
pub(super) fn health(values: &Values<'_>) -> Result<Option<(String, u16)>, Fault> {
    let name = "ottla.health.listener";
    let Some(text) = values.given(name).map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let parsed = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parsed.ok_or_else(|| wrong(format!("{name}: {text:?} is not HOST:PORT")))?;
    Ok(Some((host.to_owned(), port)))
}

/// `address:count,…`; an IPv6 address stands in brackets.
pub(super) fn by_address(values: &Values<'_>) -> Result<Vec<(IpAddr, usize)>, Fault> {
    let name = "max.connections.per.ip.overrides";
    let one = |item: &str| {
        let (address, count) = item.rsplit_once(':')?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        Some((address.parse().ok()?, count.trim().parse().ok()?))
    };
    split_list(values.text(name).unwrap_or_default())
        .into_iter()
        .map(|item| {
            one(item).ok_or_else(|| wrong(format!("{name}: {item:?} is not IP-ADDRESS:COUNT")))
        })
        .collect()
}

pub(super) fn create_topics(text: &str) -> Result<Vec<CreateTopic>, Fault> {
    text.split([',', '\n'])
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(create_topic)
        .collect()
}

fn create_topic(item: &str) -> Result<CreateTopic, Fault> {
    let parts: Vec<_> = item.split(':').map(str::trim).collect();
    let (name, partitions, replicas, policy) = match parts[..] {
        [name, partitions, replicas] => (name, partitions, replicas, None),
        [name, partitions, replicas, policy] => (name, partitions, replicas, Some(policy)),
        _ => ("", "", "", None),
    };
    let number = |text: &str| text.parse().ok().filter(|number| *number >= 1);
    let parsed = number(partitions).zip(number(replicas).and_then(|n| i16::try_from(n).ok()));
    match parsed {
        Some((partitions, replicas)) if !name.is_empty() => Ok(CreateTopic {
            name: name.to_owned(),
            partitions,
            replicas,
            cleanup_policy: policy.filter(|policy| !policy.is_empty()).map(str::to_owned),
        }),
        _ => Err(wrong(format!(
            "KAFKA_CREATE_TOPICS: {item:?} is not NAME:PARTITIONS:REPLICAS[:CLEANUP.POLICY]"
        ))),
    }
}
