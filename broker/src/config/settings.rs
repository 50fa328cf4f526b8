//! The settings of one node, typed and checked.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::definition::{self, Definition, Support, split_list};
use super::environment::{CLUSTER_ID, CREATE_TOPICS};
use super::listeners::{self, Endpoint, Listeners, wrong};
use super::properties::Properties;
use crate::error::Fault;
use crate::types::NodeId;

/// Declares the typed fields that are one setting each, and reads them.
macro_rules! numbers {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = $name:literal,)*) => {
        /// The settings of one node. See `broker.table` for what each is for.
        #[derive(Debug, Clone)]
        pub struct Settings {
            pub node_id: NodeId,
            /// As given; checked against the log directories when they are opened.
            pub cluster_id: Option<String>,
            pub roles: Roles,
            pub listeners: Listeners,
            pub quorum: Quorum,
            pub rack: Option<String>,
            pub log_dirs: Vec<PathBuf>,
            pub metadata_log_dir: PathBuf,
            /// Topics to be created once the broker serves.
            pub create_topics: Vec<CreateTopic>,
            /// `max.connections.per.ip.overrides`.
            pub max_connections_by_address: Vec<(IpAddr, usize)>,
            /// Settings as they were given, defaults left out.
            pub given: Properties,
            $($(#[$doc])* pub $field: $kind,)*
        }

        impl Settings {
            fn numbers(values: &Values<'_>, head: Head) -> Result<Self, Fault> {
                let Head {
                    node_id, cluster_id, roles, listeners, quorum, rack, log_dirs,
                    metadata_log_dir, create_topics, max_connections_by_address, given,
                } = head;
                Ok(Self {
                    node_id, cluster_id, roles, listeners, quorum, rack, log_dirs,
                    metadata_log_dir, create_topics, max_connections_by_address, given,
                    $($field: values.typed($name)?,)*
                })
            }
        }
    };
}

numbers! {
    auto_create_topics: bool = "auto.create.topics.enable",
    auto_leader_rebalance: bool = "auto.leader.rebalance.enable",
    leader_imbalance_check_interval_secs: u64 = "leader.imbalance.check.interval.seconds",
    delete_topics: bool = "delete.topic.enable",
    num_partitions: i32 = "num.partitions",
    default_replication_factor: i16 = "default.replication.factor",
    broker_heartbeat_interval: Duration = "broker.heartbeat.interval.ms",
    broker_session_timeout: Duration = "broker.session.timeout.ms",
    initial_broker_registration_timeout: Duration = "initial.broker.registration.timeout.ms",
    controlled_shutdown: bool = "controlled.shutdown.enable",
    request_timeout: Duration = "request.timeout.ms",

    max_connections: i32 = "max.connections",
    max_connections_per_ip: i32 = "max.connections.per.ip",
    connections_max_idle: Option<Duration> = "connections.max.idle.ms",
    socket_request_max_bytes: i32 = "socket.request.max.bytes",
    socket_connection_setup_timeout: Duration = "socket.connection.setup.timeout.ms",
    /// Bytes of requests in hand over all connections; -1 is no bound.
    queued_max_request_bytes: i64 = "queued.max.request.bytes",
    max_request_partition_size_limit: i32 = "max.request.partition.size.limit",
    fetch_max_bytes: i32 = "fetch.max.bytes",
    max_incremental_fetch_session_cache_slots: i32 = "max.incremental.fetch.session.cache.slots",

    log_retention_check_interval: Duration = "log.retention.check.interval.ms",
    log_initial_task_delay: Duration = "log.initial.task.delay.ms",
    log_flush_offset_checkpoint_interval: Duration = "log.flush.offset.checkpoint.interval.ms",
    log_flush_start_offset_checkpoint_interval: Duration =
        "log.flush.start.offset.checkpoint.interval.ms",
    producer_id_expiration_ms: i32 = "producer.id.expiration.ms",
    producer_id_expiration_check_interval: Duration = "producer.id.expiration.check.interval.ms",

    replica_lag_time_max: Duration = "replica.lag.time.max.ms",
    replica_fetch_max_bytes: i32 = "replica.fetch.max.bytes",
    replica_fetch_min_bytes: i32 = "replica.fetch.min.bytes",
    replica_fetch_wait_max: Duration = "replica.fetch.wait.max.ms",
    replica_fetch_response_max_bytes: i32 = "replica.fetch.response.max.bytes",
    replica_fetch_backoff: Duration = "replica.fetch.backoff.ms",
    replica_socket_timeout: Duration = "replica.socket.timeout.ms",
    replica_high_watermark_checkpoint_interval: Duration =
        "replica.high.watermark.checkpoint.interval.ms",

    quorum_election_timeout: Duration = "controller.quorum.election.timeout.ms",
    quorum_fetch_timeout: Duration = "controller.quorum.fetch.timeout.ms",
    quorum_fetch_max_bytes: i32 = "controller.quorum.fetch.max.bytes",
    quorum_append_linger: Duration = "controller.quorum.append.linger.ms",
    quorum_request_timeout: Duration = "controller.quorum.request.timeout.ms",
    quorum_retry_backoff: Duration = "controller.quorum.retry.backoff.ms",
    metadata_log_segment_bytes: i32 = "metadata.log.segment.bytes",
    metadata_log_max_record_bytes_between_snapshots: i64 =
        "metadata.log.max.record.bytes.between.snapshots",
    metadata_log_max_snapshot_interval: Duration = "metadata.log.max.snapshot.interval.ms",
    metadata_max_idle_interval: Duration = "metadata.max.idle.interval.ms",
    metadata_max_retention_bytes: i64 = "metadata.max.retention.bytes",
    metadata_max_retention_ms: i64 = "metadata.max.retention.ms",

    group_initial_rebalance_delay: Duration = "group.initial.rebalance.delay.ms",
    group_min_session_timeout_ms: i32 = "group.min.session.timeout.ms",
    group_max_session_timeout_ms: i32 = "group.max.session.timeout.ms",
    group_max_size: i32 = "group.max.size",
    group_append_linger_ms: i32 = "group.coordinator.append.linger.ms",
    offset_metadata_max_bytes: i32 = "offset.metadata.max.bytes",
    offsets_commit_timeout: Duration = "offsets.commit.timeout.ms",
    offsets_retention_minutes: i32 = "offsets.retention.minutes",
    offsets_retention_check_interval: Duration = "offsets.retention.check.interval.ms",
    offsets_topic_num_partitions: i32 = "offsets.topic.num.partitions",
    offsets_topic_replication_factor: i16 = "offsets.topic.replication.factor",
    offsets_topic_segment_bytes: i32 = "offsets.topic.segment.bytes",
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub broker: bool,
    pub controller: bool,
}

/// How to find the controllers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quorum {
    /// `controller.quorum.bootstrap.servers`: host and port.
    pub bootstrap: Vec<(String, u16)>,
    /// `controller.quorum.voters`: at most one so far.
    pub voters: Vec<Voter>,
}

impl Quorum {
    /// Where to ask for the active controller, in the order in which to try.
    pub fn addresses(&self) -> Vec<(String, u16)> {
        let voters = self.voters.iter().map(|voter| (voter.host.clone(), voter.port));
        let mut all: Vec<_> = voters.chain(self.bootstrap.iter().cloned()).collect();
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|address| seen.insert(address.clone()));
        all
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    pub id: NodeId,
    pub host: String,
    pub port: u16,
}

/// One topic of `KAFKA_CREATE_TOPICS`: `name:partitions:replicas[:cleanup.policy]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTopic {
    pub name: String,
    pub partitions: i32,
    pub replicas: i16,
    pub cleanup_policy: Option<String>,
}

/// Settings, and what the one who gave them should hear about them.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub settings: Settings,
    pub warnings: Vec<String>,
}

struct Head {
    node_id: NodeId,
    cluster_id: Option<String>,
    roles: Roles,
    listeners: Listeners,
    quorum: Quorum,
    rack: Option<String>,
    log_dirs: Vec<PathBuf>,
    metadata_log_dir: PathBuf,
    create_topics: Vec<CreateTopic>,
    max_connections_by_address: Vec<(IpAddr, usize)>,
    given: Properties,
}

impl Settings {
    /// Checks and types `properties`. What is missing is filled in for a node that is a cluster by
    /// itself: it is broker and controller when nothing says where a controller is.
    pub fn load(properties: Properties) -> Result<Loaded, Fault> {
        let mut warnings = Vec::new();
        let mut given = properties;
        let cluster_id = given.remove(CLUSTER_ID).filter(|id| !id.trim().is_empty());
        let create_topics = create_topics(given.remove(CREATE_TOPICS).as_deref().unwrap_or(""))?;
        check_each(&mut given, &mut warnings)?;
        let node_id = node_id(&given)?;
        let quorum = quorum(&given)?;
        let roles = roles(&mut given, &quorum, node_id)?;
        let values = Values { given: &given };
        let listeners = listeners::listeners(&listeners::Input {
            listeners: values.text("listeners").unwrap_or_default(),
            advertised: values.given("advertised.listeners"),
            protocols: values.given("listener.security.protocol.map"),
            inter_broker_name: values.given("inter.broker.listener.name"),
            inter_broker_protocol: values.given("security.inter.broker.protocol"),
            controller_names: values.text("controller.listener.names").unwrap_or_default(),
            controller_role: roles.controller,
        })?;
        let quorum = complete(quorum, roles, node_id, &listeners)?;
        let log_dirs = log_dirs(&values)?;
        let metadata_log_dir =
            values.given("metadata.log.dir").map_or_else(|| log_dirs[0].clone(), PathBuf::from);
        let head = Head {
            node_id,
            cluster_id,
            roles,
            listeners,
            quorum,
            rack: values.given("broker.rack").map(str::to_owned),
            log_dirs,
            metadata_log_dir,
            create_topics,
            max_connections_by_address: by_address(&values)?,
            given: given.clone(),
        };
        let settings = Self::numbers(&values, head)?;
        settings.check_together()?;
        Ok(Loaded { settings, warnings })
    }

    /// For tests: `text` in properties format, with the defaults of a node 1 that is a cluster by itself.
    pub fn for_test(text: &str) -> Self {
        let mut given = super::properties::parse(text).unwrap_or_default();
        given.entry("node.id".to_owned()).or_insert_with(|| "1".to_owned());
        match Self::load(given) {
            Ok(loaded) => loaded.settings,
            Err(fault) => panic!("settings for a test: {fault}"),
        }
    }

    /// The value of any broker setting, given or default; `None` when it has neither.
    pub fn value(&self, name: &str) -> Option<&str> {
        Values { given: &self.given }.text(name)
    }

    /// The endpoint that this process listens on under `name`.
    pub fn listener(&self, name: &str) -> Option<&Endpoint> {
        self.listeners.all.iter().find(|endpoint| endpoint.listener == name)
    }

    fn check_together(&self) -> Result<(), Fault> {
        if self.broker_heartbeat_interval * 2 > self.broker_session_timeout {
            return Err(wrong(format!(
                "broker.heartbeat.interval.ms ({}) must be at most half of \
                 broker.session.timeout.ms ({})",
                self.broker_heartbeat_interval.as_millis(),
                self.broker_session_timeout.as_millis()
            )));
        }
        if self.group_min_session_timeout_ms > self.group_max_session_timeout_ms {
            return Err(wrong(
                "group.min.session.timeout.ms is greater than group.max.session.timeout.ms",
            ));
        }
        if self.replica_fetch_wait_max > self.replica_lag_time_max {
            return Err(wrong("replica.fetch.wait.max.ms is greater than replica.lag.time.max.ms"));
        }
        Ok(())
    }
}

/// Refuses wrong values, warns of what has no effect, and drops what is unknown.
fn check_each(given: &mut Properties, warnings: &mut Vec<String>) -> Result<(), Fault> {
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

fn node_id(given: &Properties) -> Result<NodeId, Fault> {
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

fn quorum(given: &Properties) -> Result<Quorum, Fault> {
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
        quorum.voters.push(Voter { id, host, port });
    }
    if quorum.voters.len() > 1 {
        return Err(wrong(format!(
            "controller.quorum.voters names {} voters; more than one is not supported yet",
            quorum.voters.len()
        )));
    }
    Ok(quorum)
}

/// Fills in the roles, and the controller's listener, when they are not given.
fn roles(given: &mut Properties, quorum: &Quorum, node: NodeId) -> Result<Roles, Fault> {
    if let Some(text) = given.get("process.roles").filter(|text| !text.trim().is_empty()) {
        let has = |role| split_list(text).contains(&role);
        let roles = Roles { broker: has("broker"), controller: has("controller") };
        if !roles.broker {
            return Err(wrong(
                "process.roles without broker is not supported yet: use broker,controller",
            ));
        }
        let voter = quorum.voters.iter().any(|voter| voter.id == node);
        if roles.controller && !voter && !quorum.voters.is_empty() {
            return Err(wrong(format!(
                "process.roles has controller, but controller.quorum.voters does not name node \
                 {node}; more than one controller is not supported yet"
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
        let voter = quorum.voters.first().map(|voter| voter.port);
        let port = voter.unwrap_or(if listeners.contains(":9093") { 19093 } else { 9093 });
        let host = if alone { "127.0.0.1" } else { "" };
        let listeners = format!("{listeners},{name}://{host}:{port}");
        given.insert("listeners".to_owned(), listeners);
        if let Some(map) = given.get_mut("listener.security.protocol.map") {
            if !split_list(map).iter().any(|item| item.starts_with(&format!("{name}:"))) {
                map.push_str(&format!(",{name}:PLAINTEXT"));
            }
        }
    }
    Ok(Roles { broker: true, controller })
}

/// A controller that no setting names is its own quorum; a broker needs to hear of one.
fn complete(
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

fn log_dirs(values: &Values<'_>) -> Result<Vec<PathBuf>, Fault> {
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

/// `address:count,…`; an IPv6 address stands in brackets.
fn by_address(values: &Values<'_>) -> Result<Vec<(IpAddr, usize)>, Fault> {
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

fn create_topics(text: &str) -> Result<Vec<CreateTopic>, Fault> {
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

/// Settings as given, over their defaults.
struct Values<'a> {
    given: &'a Properties,
}

impl<'a> Values<'a> {
    fn given(&self, name: &str) -> Option<&'a str> {
        self.given.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        let default = || definition::broker().get(name).and_then(|definition| definition.default);
        self.given(name).or_else(default)
    }

    fn typed<T: FromValue>(&self, name: &'static str) -> Result<T, Fault> {
        let text = self.text(name).unwrap_or_default();
        T::from_value(text)
            .ok_or_else(|| wrong(format!("Invalid value {text} for configuration {name}")))
    }
}

trait FromValue: Sized {
    fn from_value(text: &str) -> Option<Self>;
}

macro_rules! parsed {
    ($($kind:ty),*) => {
        $(impl FromValue for $kind {
            fn from_value(text: &str) -> Option<Self> {
                <$kind>::from_str(text).ok()
            }
        })*
    };
}
parsed!(i16, i32, i64, u64);

impl FromValue for bool {
    fn from_value(text: &str) -> Option<Self> {
        text.to_ascii_lowercase().parse().ok()
    }
}

impl FromValue for String {
    fn from_value(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

/// Milliseconds.
impl FromValue for Duration {
    fn from_value(text: &str) -> Option<Self> {
        Some(Self::from_millis(u64::try_from(text.parse::<i64>().ok()?).ok()?))
    }
}

/// Milliseconds; a negative number is none.
impl FromValue for Option<Duration> {
    fn from_value(text: &str) -> Option<Self> {
        Some(u64::try_from(text.parse::<i64>().ok()?).ok().map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Protocol, properties};

    fn load(text: &str) -> Result<Loaded, String> {
        Settings::load(properties::parse(text)?).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_node_that_hears_of_no_controller_is_a_cluster_by_itself() {
        let settings = load("node.id=7").unwrap().settings;
        assert_eq!(settings.roles, Roles { broker: true, controller: true });
        let listeners: Vec<_> = settings.listeners.all.iter().map(|e| &e.listener[..]).collect();
        assert_eq!(listeners, ["PLAINTEXT", "CONTROLLER"]);
        assert_eq!(settings.quorum.addresses(), [("127.0.0.1".to_owned(), 9093)]);
        assert_eq!(settings.log_dirs, [PathBuf::from("/tmp/kafka-logs")]);
    }

    #[test]
    fn several_listeners_with_names_of_their_own_are_kept_apart() {
        let settings = load(
            "node.id=0\nprocess.roles=broker,controller\n\
             listeners=INSIDE://:9092,OUTSIDE://0.0.0.0:9094,CONTROLLER://:9093\n\
             advertised.listeners=INSIDE://kafka:9092,OUTSIDE://localhost:19094\n\
             listener.security.protocol.map=INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             inter.broker.listener.name=INSIDE\ncontroller.listener.names=CONTROLLER\n\
             controller.quorum.voters=0@kafka:9093",
        )
        .unwrap()
        .settings;
        assert_eq!(settings.listeners.inter_broker, "INSIDE");
        assert_eq!(
            settings.listeners.advertised[1],
            Endpoint {
                listener: "OUTSIDE".to_owned(),
                protocol: Protocol::Plaintext,
                host: "localhost".to_owned(),
                port: 19094
            }
        );
        assert_eq!(settings.listeners.of_broker().count(), 2);
        assert_eq!(settings.listeners.of_controller().count(), 1);
    }

    #[test]
    fn a_broker_only_node_needs_to_hear_of_a_controller() {
        let text = "node.id=1\nprocess.roles=broker";
        assert!(load(text).unwrap_err().contains("controller.quorum.bootstrap.servers"));
        let text = format!("{text}\ncontroller.quorum.bootstrap.servers=c:9093");
        assert_eq!(load(&text).unwrap().settings.quorum.addresses(), [("c".to_owned(), 9093)]);
    }

    #[test]
    fn unknown_and_unsupported_settings_give_one_warning_each() {
        let warnings = load("node.id=1\nnum.io.threads=16\nbogus=1\nssl.protocol=TLSv1.2").unwrap();
        assert_eq!(
            warnings.warnings,
            [
                "bogus is not a broker setting; it is ignored",
                "num.io.threads has no effect: Ottla has nothing to tune there",
                "ssl.protocol is not supported yet; it has no effect",
            ]
        );
    }

    #[test]
    fn what_would_silently_break_a_promise_stops_the_start() {
        for (line, part) in [
            ("authorizer.class.name=A", "authorizer.class.name is not supported yet"),
            ("remote.log.storage.system.enable=true", "remote.log.storage.system.enable"),
            (
                "listeners=SASL_SSL://:9092\nsecurity.inter.broker.protocol=SASL_SSL",
                "asks for SASL_SSL",
            ),
            ("controller.quorum.voters=1@a:1,2@b:1", "names 2 voters"),
            ("listener.name.x.ssl.keystore.location=/x", "listener.name.x"),
            ("config.providers=file", "config.providers"),
        ] {
            let refused = load(&format!("node.id=1\n{line}")).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn impossible_values_stop_the_start_with_a_precise_message() {
        for (text, message) in [
            ("", "node.id is missing: give each node its own number, from 0 on"),
            ("node.id=x", "Invalid value x for configuration node.id: Not a number of type INT"),
            ("node.id=-1", "Invalid value -1 for configuration node.id: Value must be at least 0"),
            ("node.id=1\nbroker.id=2", "node.id is 1 but broker.id is 2: give one of them"),
            (
                "node.id=1\nnum.partitions=0",
                "Invalid value 0 for configuration num.partitions: Value must be at least 1",
            ),
            (
                "node.id=1\nlisteners=PLAINTEXT://:x",
                "listeners: \"PLAINTEXT://:x\" is not NAME://HOST:PORT",
            ),
            (
                "node.id=1\nlisteners=PLAINTEXT://:1,PLAINTEXT://:2",
                "listeners has the name PLAINTEXT twice",
            ),
            (
                "node.id=1\nadvertised.listeners=PLAINTEXT://0.0.0.0:9092",
                "advertised.listeners cannot use the address 0.0.0.0, to which nobody can connect; give a host name, or listen on a certain one",
            ),
            (
                "node.id=1\nadvertised.listeners=OTHER://h:9092",
                "No security protocol defined for listener OTHER: add OTHER:PLAINTEXT to listener.security.protocol.map",
            ),
            ("node.id=1\nlog.dirs=/a,/a", "log.dirs names /a twice"),
            (
                "node.id=1\ncreate.topics=a:x:1",
                "KAFKA_CREATE_TOPICS: \"a:x:1\" is not NAME:PARTITIONS:REPLICAS[:CLEANUP.POLICY]",
            ),
        ] {
            assert_eq!(load(text).unwrap_err(), message);
        }
    }

    #[test]
    fn topics_to_create_are_read_with_their_cleanup_policy() {
        let settings = load("node.id=1\ncreate.topics=a:1:2, b:3:1:compact,").unwrap().settings;
        assert_eq!(settings.create_topics.len(), 2);
        assert_eq!(settings.create_topics[1].cleanup_policy.as_deref(), Some("compact"));
    }

    #[test]
    fn an_unset_cluster_id_and_empty_values_are_as_if_not_given() {
        let settings = load("node.id=1\ncluster.id=\nbroker.rack=").unwrap().settings;
        assert_eq!((settings.cluster_id, settings.rack), (None, None));
    }
}
