//! kafka-broker-api-versions.sh and kafka-log-dirs.sh: what each broker speaks, and what it holds.

use std::collections::BTreeSet;

use ottla_client::LogDir;
use serde_json::{Value, json};

use super::connect::{self, BOOTSTRAP, COMMAND_CONFIG};
use super::consumer_groups::java_words;
use super::options::{Options, flag, value};
use super::{Stop, Tool, say};

pub(crate) const API_VERSIONS: Tool = Tool {
    name: "kafka-broker-api-versions",
    about: "This tool helps to retrieve broker version information.",
    examples: "
  kafka-broker-api-versions.sh --bootstrap-server localhost:9092",
    options: &[BOOTSTRAP, COMMAND_CONFIG],
    run: |options| Box::pin(api_versions(options)),
};

pub(crate) const LOG_DIRS: Tool = Tool {
    name: "kafka-log-dirs",
    about: "This tool helps to query log directory usage on the specified brokers.",
    examples: "
  kafka-log-dirs.sh --bootstrap-server localhost:9092 --describe --topic-list orders,bills",
    options: &[
        BOOTSTRAP,
        COMMAND_CONFIG,
        flag("describe", "Describe the specified log directories on the specified brokers."),
        value(
            "topic-list",
            "Topic list",
            "The list of topics to be queried in the form \"topic1,topic2,topic3\". All topics will be queried if no topic list is specified",
        ),
        value(
            "broker-list",
            "Broker list",
            "The list of brokers to be queried in the form \"0,1,2\". All brokers in the cluster will be queried if no broker list is specified",
        ),
    ],
    run: |options| Box::pin(log_dirs(options)),
};

async fn api_versions(options: Options) -> Result<(), Stop> {
    let admin = connect::admin(&options).await?;
    for (node, apis) in admin.api_versions().await? {
        let rack = node.rack.as_deref().unwrap_or("null");
        let head = format!(
            "{}:{} (id: {} rack: {rack} isFenced: {}) -> ",
            node.host, node.port, node.id, node.fenced
        );
        match apis {
            Err(error) => say(format_args!("{head}ERROR: {}", java_words(&error))),
            Ok(apis) => {
                say(format_args!("{head}("));
                let range = |min: i16, max: i16| {
                    if min == max { min.to_string() } else { format!("{min} to {max}") }
                };
                let line = |(key, min, max, usable): &(i16, i16, i16, Option<i16>)| {
                    let usable = usable.map_or_else(
                        || "[unusable: node too new]".into(),
                        |best| format!("[usable: {best}]"),
                    );
                    format!("\t{}({key}): {} {usable}", api_name(*key), range(*min, *max))
                };
                say(apis.0.iter().map(line).collect::<Vec<_>>().join(",\n"));
                say(")");
            }
        }
    }
    Ok(())
}

/// Kafka's name of an API; those that came after our message library are named by number.
fn api_name(key: i16) -> String {
    ottla_client::text::api_name(key).unwrap_or_else(|| "UNKNOWN".into())
}

async fn log_dirs(options: Options) -> Result<(), Stop> {
    if !options.has("describe") {
        return Err(Stop::Usage("Missing required argument \"[describe]\"".into()));
    }
    let admin = connect::admin(&options).await?;
    let live: BTreeSet<i32> =
        admin.describe_cluster().await?.brokers.iter().map(|node| node.id).collect();
    let asked: BTreeSet<i32> = match options.value("broker-list")?.filter(|text| !text.is_empty()) {
        None => live.clone(),
        Some(text) => {
            let ids: Result<_, _> = text.split(',').map(|id| id.trim().parse()).collect();
            ids.map_err(|_| {
                Stop::Failed(format!("{text:?} is not broker ids with commas between them"))
            })?
        }
    };
    let numbers = |ids: &mut dyn Iterator<Item = &i32>| {
        ids.map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    let unknown = numbers(&mut asked.difference(&live));
    if !unknown.is_empty() {
        return Err(Stop::Failed(format!(
            "ERROR: The given brokers do not exist from --broker-list: {unknown}. Current existent brokers: {}",
            numbers(&mut live.iter())
        )));
    }
    let topics: BTreeSet<&str> = options
        .value("topic-list")?
        .map(|text| text.split(',').filter(|name| !name.is_empty()).collect())
        .unwrap_or_default();
    say("Querying brokers for log directories information");
    let mut brokers = Vec::new();
    for id in &asked {
        let dirs = admin.log_dirs(*id, None).await?;
        let dirs: Vec<Value> = dirs.iter().map(|dir| describe(dir, &topics)).collect();
        brokers.push(json!({ "broker": id, "logDirs": dirs }));
    }
    say(format_args!(
        "Received log directory information from brokers {}",
        numbers(&mut asked.iter())
    ));
    say(json!({ "version": 1, "brokers": brokers }));
    Ok(())
}

fn describe(dir: &LogDir, topics: &BTreeSet<&str>) -> Value {
    let replicas =
        dir.replicas.iter().filter(|(at, ..)| topics.is_empty() || topics.contains(&*at.topic));
    let partitions: Vec<Value> = replicas
        .map(|(at, size, lag, future)| {
            json!({ "partition": at.to_string(), "size": size, "offsetLag": lag, "isFuture": future })
        })
        .collect();
    let error = dir.error.map(|code| format!("org.apache.kafka.common.errors.{code:?}Exception"));
    json!({ "partitions": partitions, "error": error, "logDir": dir.path })
}
