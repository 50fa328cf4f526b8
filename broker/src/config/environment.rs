//! `KAFKA_*` variables, as the common Kafka images take them, to properties.
//!
//! `KAFKA_LOG_DIRS` is `log.dirs`: `_` stands for a dot, `__` for `_`, `___` for `-`. Bitnami's
//! `KAFKA_CFG_` prefix is understood, and so are the addresses of the old wurstmeister image. What
//! only tunes a JVM is skipped; so is what Kubernetes puts there for a Service named `kafka`.

use super::properties::Properties;

/// What the environment says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Environment {
    pub properties: Properties,
    pub warnings: Vec<String>,
    /// Variables that mean nothing here, for a debug line.
    pub skipped: Vec<String>,
}

/// The name under which `KAFKA_CREATE_TOPICS` travels among the properties.
pub(super) const CREATE_TOPICS: &str = "create.topics";
/// The name under which `CLUSTER_ID` travels among the properties.
pub(super) const CLUSTER_ID: &str = "cluster.id";

/// Meaningful to the scripts of an image or to a JVM only.
const SKIPPED: &[&str] = &[
    "KAFKA_HEAP_OPTS",
    "KAFKA_OPTS",
    "KAFKA_DEBUG",
    "KAFKA_HOME",
    "KAFKA_VERSION",
    "KAFKA_GC_LOG_OPTS",
    "KAFKA_JVM_PERFORMANCE_OPTS",
    "KAFKA_CLASSPATH",
    "KAFKA_JAR_FILE",
    "KAFKA_MODE",
    "KAFKA_CREATE_TOPICS_SEPARATOR",
    "KAFKA_ZOOKEEPER_PROTOCOL",
];
const SKIPPED_PREFIXES: &[&str] =
    &["KAFKA_JMX_", "KAFKA_LOG4J_", "KAFKA_TOOLS_LOG4J_", "KAFKA_SERVICE_", "KAFKA_PORT_"];

/// Translates variables; the ones that do not concern Kafka are left alone.
pub fn environment(variables: impl IntoIterator<Item = (String, String)>) -> Environment {
    let mut sorted: Vec<_> = variables.into_iter().collect();
    sorted.sort();
    let mut found = Environment::default();
    let mut old = OldAddresses::default();
    for (name, value) in sorted {
        match name.as_str() {
            "CLUSTER_ID" | "KAFKA_CLUSTER_ID" | "KAFKA_KRAFT_CLUSTER_ID" => {
                found.properties.insert(CLUSTER_ID.to_owned(), value);
            }
            "KAFKA_CREATE_TOPICS" => {
                found.properties.insert(CREATE_TOPICS.to_owned(), value);
            }
            "KAFKA_ZOOKEEPER_CONNECT" | "KAFKA_CFG_ZOOKEEPER_CONNECT" => found
                .warnings
                .push(format!("{name} is not needed: Ottla keeps its metadata itself")),
            // Kubernetes' variables for a Service that is called kafka.
            _ if value.starts_with("tcp://") => found.skipped.push(name),
            "KAFKA_ADVERTISED_HOST_NAME" => old.advertised_host = Some(value),
            "KAFKA_ADVERTISED_PORT" => old.advertised_port = Some(value),
            "KAFKA_HOST_NAME" => old.host = Some(value),
            "KAFKA_PORT" => old.port = Some(value),
            _ if SKIPPED.contains(&name.as_str())
                || SKIPPED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) =>
            {
                found.skipped.push(name);
            }
            _ => {
                if let Some(rest) = name.strip_prefix("KAFKA_") {
                    let rest = rest.strip_prefix("CFG_").unwrap_or(rest);
                    found.properties.insert(property_name(rest), value);
                }
            }
        }
    }
    old.add_to(&mut found);
    found
}

/// `LOG_DIRS` → `log.dirs`; `__` → `_`, `___` → `-`.
fn property_name(rest: &str) -> String {
    let mut name = String::with_capacity(rest.len());
    let mut underscores = 0;
    for c in rest.chars().chain(['\0']) {
        if c == '_' {
            underscores += 1;
            continue;
        }
        while underscores > 0 {
            let taken = underscores.min(3);
            name.push(['.', '_', '-'][taken - 1]);
            underscores -= taken;
        }
        name.extend(c.to_lowercase());
    }
    name.pop();
    name
}

/// How an address was given before listeners had names.
#[derive(Default)]
struct OldAddresses {
    host: Option<String>,
    port: Option<String>,
    advertised_host: Option<String>,
    advertised_port: Option<String>,
}

impl OldAddresses {
    /// Listeners that are given by name win over these.
    fn add_to(self, found: &mut Environment) {
        let port = self.port.clone().unwrap_or_else(|| "9092".to_owned());
        if self.host.is_some() || self.port.is_some() {
            let host = self.host.unwrap_or_default();
            let listeners = format!("PLAINTEXT://{host}:{port}");
            found.properties.entry("listeners".to_owned()).or_insert(listeners);
        }
        if self.advertised_host.is_none() && self.advertised_port.is_none() {
            return;
        }
        if found.properties.contains_key("advertised.listeners") {
            found.warnings.push(
                "KAFKA_ADVERTISED_HOST_NAME and KAFKA_ADVERTISED_PORT are not used, because \
                 KAFKA_ADVERTISED_LISTENERS is set"
                    .to_owned(),
            );
            return;
        }
        let host = self.advertised_host.unwrap_or_else(|| "localhost".to_owned());
        let port = self.advertised_port.unwrap_or(port);
        found
            .properties
            .insert("advertised.listeners".to_owned(), format!("PLAINTEXT://{host}:{port}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Environment {
        environment(variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
    }

    fn properties(variables: &[(&str, &str)]) -> Vec<(String, String)> {
        of(variables).properties.into_iter().collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn underscores_stand_for_dots_underscores_and_dashes() {
        assert_eq!(property_name("LOG_DIRS"), "log.dirs");
        assert_eq!(property_name("A__B___C_D"), "a_b-c.d");
        assert_eq!(
            properties(&[
                ("KAFKA_CFG_NUM_PARTITIONS", "3"),
                ("PATH", "/bin"),
                ("KAFKA_NODE_ID", "1")
            ]),
            pairs(&[("node.id", "1"), ("num.partitions", "3")])
        );
    }

    #[test]
    fn zookeeper_is_named_in_a_warning_and_nowhere_else() {
        let found = of(&[("KAFKA_ZOOKEEPER_CONNECT", "zk:2181")]);
        assert_eq!(found.properties, Properties::new());
        assert_eq!(
            found.warnings,
            ["KAFKA_ZOOKEEPER_CONNECT is not needed: Ottla keeps its metadata itself"]
        );
    }

    #[test]
    fn old_host_and_port_variables_become_listeners() {
        assert_eq!(
            properties(&[("KAFKA_ADVERTISED_HOST_NAME", "h"), ("KAFKA_ADVERTISED_PORT", "19092")]),
            pairs(&[("advertised.listeners", "PLAINTEXT://h:19092")])
        );
        assert_eq!(
            properties(&[("KAFKA_PORT", "9999"), ("KAFKA_ADVERTISED_HOST_NAME", "h")]),
            pairs(&[
                ("advertised.listeners", "PLAINTEXT://h:9999"),
                ("listeners", "PLAINTEXT://:9999")
            ])
        );
    }

    #[test]
    fn what_is_meant_for_a_jvm_or_comes_from_kubernetes_is_skipped() {
        let found = of(&[
            ("KAFKA_HEAP_OPTS", "-Xmx1g"),
            ("KAFKA_JMX_PORT", "9101"),
            ("KAFKA_LOG4J_LOGGERS", "x=INFO"),
            ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
            ("KAFKA_PORT_9092_TCP_ADDR", "10.0.0.1"),
            ("KAFKA_SERVICE_HOST", "10.0.0.1"),
        ]);
        assert_eq!(found.properties, Properties::new());
        assert_eq!(found.skipped.len(), 6);
    }

    #[test]
    fn the_cluster_id_comes_under_any_of_its_names() {
        for name in ["CLUSTER_ID", "KAFKA_CLUSTER_ID", "KAFKA_KRAFT_CLUSTER_ID"] {
            assert_eq!(properties(&[(name, "x")]), pairs(&[("cluster.id", "x")]));
        }
    }
}
