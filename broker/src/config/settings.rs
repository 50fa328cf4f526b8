//! The settings of one node, typed and checked.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::definition;
use super::derive::{
    by_address, check_each, complete, create_topics, health, log_dirs, node_id, quorum, roles,
};
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
            /// `ottla.health.listener`: host and port.
            pub health: Option<(String, u16)>,
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
                    metadata_log_dir, create_topics, health, max_connections_by_address, given,
                } = head;
                Ok(Self {
                    node_id, cluster_id, roles, listeners, quorum, rack, log_dirs,
                    metadata_log_dir, create_topics, health, max_connections_by_address, given,
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
    unclean_leader_election_interval: Duration = "unclean.leader.election.interval.ms",
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

    cleaner_enable: bool = "log.cleaner.enable",
    /// 0: none. More than one are one.
    cleaner_threads: i32 = "log.cleaner.threads",
    cleaner_backoff: Duration = "log.cleaner.backoff.ms",
    cleaner_dedupe_buffer_size: i64 = "log.cleaner.dedupe.buffer.size",
    cleaner_load_factor: f64 = "log.cleaner.io.buffer.load.factor",
    cleaner_max_bytes_per_second: f64 = "log.cleaner.io.max.bytes.per.second",
    log_retention_check_interval: Duration = "log.retention.check.interval.ms",
    log_initial_task_delay: Duration = "log.initial.task.delay.ms",
    log_flush_offset_checkpoint_interval: Duration = "log.flush.offset.checkpoint.interval.ms",
    log_flush_start_offset_checkpoint_interval: Duration =
        "log.flush.start.offset.checkpoint.interval.ms",
    /// Per log directory; -1 is a part of its volume.
    log_reserve_bytes: i64 = "ottla.log.reserve.bytes",
    producer_id_expiration_ms: i32 = "producer.id.expiration.ms",
    producer_id_expiration_check_interval: Duration = "producer.id.expiration.check.interval.ms",

    add_partitions_retry_backoff: Duration = "add.partitions.to.txn.retry.backoff.ms",
    add_partitions_retry_backoff_max: Duration = "add.partitions.to.txn.retry.backoff.max.ms",

    replica_lag_time_max: Duration = "replica.lag.time.max.ms",
    replica_fetch_max_bytes: i32 = "replica.fetch.max.bytes",
    replica_fetch_min_bytes: i32 = "replica.fetch.min.bytes",
    replica_fetch_wait_max: Duration = "replica.fetch.wait.max.ms",
    replica_fetch_response_max_bytes: i32 = "replica.fetch.response.max.bytes",
    replica_fetch_backoff: Duration = "replica.fetch.backoff.ms",
    replica_socket_timeout: Duration = "replica.socket.timeout.ms",
    replica_high_watermark_checkpoint_interval: Duration =
        "replica.high.watermark.checkpoint.interval.ms",

    /// The permission to found a cluster when the metadata directory is empty.
    quorum_founding: bool = "ottla.quorum.founding",
    quorum_election_timeout: Duration = "controller.quorum.election.timeout.ms",
    quorum_election_backoff_max: Duration = "controller.quorum.election.backoff.max.ms",
    quorum_fetch_timeout: Duration = "controller.quorum.fetch.timeout.ms",
    quorum_fetch_max_bytes: i32 = "controller.quorum.fetch.max.bytes",
    quorum_fetch_snapshot_max_bytes: i32 = "controller.quorum.fetch.snapshot.max.bytes",
    quorum_append_linger: Duration = "controller.quorum.append.linger.ms",
    quorum_request_timeout: Duration = "controller.quorum.request.timeout.ms",
    quorum_retry_backoff: Duration = "controller.quorum.retry.backoff.ms",
    metadata_log_segment_bytes: i32 = "metadata.log.segment.bytes",
    metadata_log_segment_ms: i64 = "metadata.log.segment.ms",
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
    group_rebalance_protocols: Vec<String> = "group.coordinator.rebalance.protocols",
    group_consumer_session_timeout_ms: i32 = "group.consumer.session.timeout.ms",
    group_consumer_min_session_timeout_ms: i32 = "group.consumer.min.session.timeout.ms",
    group_consumer_max_session_timeout_ms: i32 = "group.consumer.max.session.timeout.ms",
    group_consumer_heartbeat_interval_ms: i32 = "group.consumer.heartbeat.interval.ms",
    group_consumer_min_heartbeat_interval_ms: i32 = "group.consumer.min.heartbeat.interval.ms",
    group_consumer_max_heartbeat_interval_ms: i32 = "group.consumer.max.heartbeat.interval.ms",
    group_consumer_assignment_interval_ms: i32 = "group.consumer.assignment.interval.ms",
    group_consumer_min_assignment_interval_ms: i32 = "group.consumer.min.assignment.interval.ms",
    group_consumer_max_assignment_interval_ms: i32 = "group.consumer.max.assignment.interval.ms",
    group_consumer_max_size: i32 = "group.consumer.max.size",
    group_consumer_assignors: Vec<String> = "group.consumer.assignors",
    group_consumer_migration_policy: String = "group.consumer.migration.policy",
    group_consumer_regex_refresh_interval_ms: i32 = "group.consumer.regex.refresh.interval.ms",
    group_append_linger_ms: i32 = "group.coordinator.append.linger.ms",
    offset_metadata_max_bytes: i32 = "offset.metadata.max.bytes",
    offsets_commit_timeout: Duration = "offsets.commit.timeout.ms",
    offsets_retention_minutes: i32 = "offsets.retention.minutes",
    offsets_retention_check_interval: Duration = "offsets.retention.check.interval.ms",
    offsets_topic_num_partitions: i32 = "offsets.topic.num.partitions",
    offsets_topic_replication_factor: i16 = "offsets.topic.replication.factor",
    offsets_topic_segment_bytes: i32 = "offsets.topic.segment.bytes",

    transaction_max_timeout_ms: i32 = "transaction.max.timeout.ms",
    transactional_id_expiration_ms: i32 = "transactional.id.expiration.ms",
    transaction_abort_interval: Duration =
        "transaction.abort.timed.out.transaction.cleanup.interval.ms",
    transaction_expiration_interval: Duration =
        "transaction.remove.expired.transaction.cleanup.interval.ms",
    transaction_topic_num_partitions: i32 = "transaction.state.log.num.partitions",
    transaction_topic_replication_factor: i16 = "transaction.state.log.replication.factor",
    transaction_topic_min_isr: i32 = "transaction.state.log.min.isr",
    transaction_topic_segment_bytes: i32 = "transaction.state.log.segment.bytes",
    streams_session_timeout_ms: i32 = "group.streams.session.timeout.ms",
    streams_min_session_timeout_ms: i32 = "group.streams.min.session.timeout.ms",
    streams_max_session_timeout_ms: i32 = "group.streams.max.session.timeout.ms",
    streams_heartbeat_interval_ms: i32 = "group.streams.heartbeat.interval.ms",
    streams_min_heartbeat_interval_ms: i32 = "group.streams.min.heartbeat.interval.ms",
    streams_max_heartbeat_interval_ms: i32 = "group.streams.max.heartbeat.interval.ms",
    streams_assignment_interval_ms: i32 = "group.streams.assignment.interval.ms",
    streams_min_assignment_interval_ms: i32 = "group.streams.min.assignment.interval.ms",
    streams_max_assignment_interval_ms: i32 = "group.streams.max.assignment.interval.ms",
    streams_initial_rebalance_delay_ms: i32 = "group.streams.initial.rebalance.delay.ms",
    streams_num_standby_replicas: i32 = "group.streams.num.standby.replicas",
    streams_max_standby_replicas: i32 = "group.streams.max.standby.replicas",
    streams_max_size: i32 = "group.streams.max.size",
    share_session_timeout_ms: i32 = "group.share.session.timeout.ms",
    share_min_session_timeout_ms: i32 = "group.share.min.session.timeout.ms",
    share_max_session_timeout_ms: i32 = "group.share.max.session.timeout.ms",
    share_heartbeat_interval_ms: i32 = "group.share.heartbeat.interval.ms",
    share_min_heartbeat_interval_ms: i32 = "group.share.min.heartbeat.interval.ms",
    share_max_heartbeat_interval_ms: i32 = "group.share.max.heartbeat.interval.ms",
    share_assignment_interval_ms: i32 = "group.share.assignment.interval.ms",
    share_min_assignment_interval_ms: i32 = "group.share.min.assignment.interval.ms",
    share_max_assignment_interval_ms: i32 = "group.share.max.assignment.interval.ms",
    share_max_size: i32 = "group.share.max.size",
    share_initialize_retry_interval_ms: i32 = "group.share.initialize.retry.interval.ms",
    share_max_sessions: i32 = "group.share.max.share.sessions",
    share_delivery_count_limit: i32 = "group.share.delivery.count.limit",
    share_partition_max_record_locks: i32 = "group.share.partition.max.record.locks",
    share_record_lock_duration_ms: i32 = "group.share.record.lock.duration.ms",
    share_updates_per_snapshot: i32 = "share.coordinator.snapshot.update.records.per.snapshot",
    share_cold_snapshot_interval: Duration =
        "share.coordinator.cold.partition.snapshot.interval.ms",
    share_prune_interval: Duration = "share.coordinator.state.topic.prune.interval.ms",
    share_write_timeout: Duration = "share.coordinator.write.timeout.ms",
    share_state_topic_num_partitions: i32 = "share.coordinator.state.topic.num.partitions",
    share_state_topic_replication_factor: i16 =
        "share.coordinator.state.topic.replication.factor",
    share_state_topic_min_isr: i16 = "share.coordinator.state.topic.min.isr",
    share_state_topic_segment_bytes: i32 = "share.coordinator.state.topic.segment.bytes",
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
    /// `controller.quorum.voters`: voters that never change (kraft.version 0).
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
    health: Option<(String, u16)>,
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
            broker_role: roles.broker,
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
            health: health(&values)?,
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
        let known = |name: &String| matches!(name.as_str(), "uniform" | "range");
        if let Some(unknown) = self.group_consumer_assignors.iter().find(|name| !known(name)) {
            return Err(wrong(format!(
                "group.consumer.assignors has {unknown}: there are uniform and range"
            )));
        }
        if self.replica_fetch_wait_max > self.replica_lag_time_max {
            return Err(wrong("replica.fetch.wait.max.ms is greater than replica.lag.time.max.ms"));
        }
        Ok(())
    }
}

/// Settings as given, over their defaults.
pub(super) struct Values<'a> {
    pub given: &'a Properties,
}

impl<'a> Values<'a> {
    pub fn given(&self, name: &str) -> Option<&'a str> {
        self.given.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    pub fn text(&self, name: &str) -> Option<&'a str> {
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
parsed!(i16, i32, i64, u64, f64);

impl FromValue for Vec<String> {
    fn from_value(text: &str) -> Option<Self> {
        let each = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Some(each.map(str::to_owned).collect())
    }
}

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
            ("controller.quorum.voters=1@a:1,1@b:1", "names node 1 twice"),
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
