//! `config`: a map of Kafka settings, as a person writes them in YAML.

use std::collections::BTreeMap;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Kafka settings by name. A value is text, a number or a boolean: `min.insync.replicas: 2` and
/// `"2"` mean the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Config(pub BTreeMap<String, Value>);

impl Config {
    /// The value of `name` as Kafka reads it, or nothing when it is not set or not a scalar.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).and_then(text)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All settings as text. What is not a scalar is left out: `validate` has refused it.
    pub fn entries(&self) -> BTreeMap<String, String> {
        self.0.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
    }

    /// The names whose values are lists, maps or null.
    pub fn not_scalar(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, value)| text(value).is_none()).map(|(name, _)| name.as_str())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Config {
    fn from(entries: [(&str, &str); N]) -> Self {
        Self(entries.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect())
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Settings that decide what a broker is: the operator's to set, not the author's.
pub const SET_BY_THE_OPERATOR: [&str; 24] = [
    "advertised.host.name",
    "advertised.listeners",
    "advertised.port",
    "broker.id",
    "broker.id.generation.enable",
    "broker.rack",
    "cluster.id",
    "controller.listener.names",
    "controller.quorum.bootstrap.servers",
    "controller.quorum.voters",
    "early.start.listeners",
    "host.name",
    "inter.broker.listener.name",
    "listener.security.protocol.map",
    "listeners",
    "log.dir",
    "log.dirs",
    "metadata.log.dir",
    "node.id",
    "ottla.health.listener",
    "port",
    "process.roles",
    "security.inter.broker.protocol",
    "zookeeper.connect",
];

/// Settings of what Ottla does not do yet, each the one that switches its part on. All others that
/// begin like them are refused by `validate`.
pub const NOT_YET: [&str; 7] = [
    "authorizer.class.name",
    "remote.log.storage.system.enable",
    "sasl.enabled.mechanisms",
    "sasl.mechanism.inter.broker.protocol",
    "ssl.keystore.location",
    "ssl.keystore.type",
    "super.users",
];

/// Settings that count brokers: none can be higher than their number.
pub const BROKER_COUNTS: [&str; 3] =
    ["default.replication.factor", "min.insync.replicas", "offsets.topic.replication.factor"];

/// The settings of a cluster. A rule of its own for each refused setting, so that the API server's
/// answer names it; whatever else is there is kept as it is.
pub(super) fn of_a_cluster(_: &mut SchemaGenerator) -> Schema {
    let refused = |why: &'static str| {
        move |name: &&str| {
            let rule = json!([{ "rule": "false", "message": why }]);
            let schema = scalar(why, rule);
            ((*name).to_owned(), schema)
        }
    };
    let mut properties: Map<String, Value> = Map::new();
    properties.extend(
        SET_BY_THE_OPERATOR.iter().map(refused("is set by the operator and cannot be set here")),
    );
    properties.extend(
        NOT_YET.iter().map(refused("TLS, SASL, ACLs and tiered storage are not supported yet")),
    );
    properties.extend(BROKER_COUNTS.iter().map(|name| ((*name).to_owned(), positive())));
    settings(properties)
}

/// The settings of a topic.
pub(super) fn of_a_topic(_: &mut SchemaGenerator) -> Schema {
    let one_of = |values: &[&str], what: &str| json!({ "type": "string", "enum": values, "description": what });
    let policies = ["delete", "compact", "compact,delete", "delete,compact"];
    let codecs = ["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"];
    let clocks = ["CreateTime", "LogAppendTime"];
    let mut properties: Map<String, Value> = Map::new();
    let mut known = |name: &str, schema: Value| properties.insert(name.to_owned(), schema);
    known("cleanup.policy", one_of(&policies, "What becomes of old records."));
    known("compression.type", one_of(&codecs, "How batches are compressed on disk."));
    known("message.timestamp.type", one_of(&clocks, "Whose clock a record's timestamp is of."));
    known("min.insync.replicas", positive());
    settings(properties)
}

fn settings(properties: Map<String, Value>) -> Schema {
    json_schema!({
        "type": "object",
        "properties": properties,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

fn positive() -> Value {
    let rule = json!([{ "rule": "int(self) >= 1", "message": "must be a whole number above 0" }]);
    scalar("A number of brokers.", rule)
}

fn scalar(description: &str, rules: Value) -> Value {
    json!({
        "x-kubernetes-int-or-string": true,
        "description": description,
        "x-kubernetes-validations": rules,
    })
}
