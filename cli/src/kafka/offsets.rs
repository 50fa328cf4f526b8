//! kafka-get-offsets.sh and kafka-delete-records.sh.

use std::collections::BTreeMap;

use ottla_client::{OffsetSpec, TopicPartition};
use serde::Deserialize;

use super::connect::{self, BOOTSTRAP, COMMAND_CONFIG};
use super::consumer_groups::java_words;
use super::filter::NameFilter;
use super::options::{Options, flag, value};
use super::{Stop, Tool, complain, say};

pub(crate) const GET_OFFSETS: Tool = Tool {
    name: "kafka-get-offsets",
    about: "An interactive shell for getting topic-partition offsets.",
    examples: "
  kafka-get-offsets.sh --bootstrap-server localhost:9092 --topic orders --time earliest
  kafka-get-offsets.sh --bootstrap-server localhost:9092 --topic-partitions 'orders:0-3,bills:1'",
    options: &[
        BOOTSTRAP,
        COMMAND_CONFIG,
        value("broker-list", "HOST1:PORT1", "The old name of --bootstrap-server."),
        value(
            "topic-partitions",
            "topic1:1,topic2:0-3,topic3,topic4:5-,topic5:-3",
            "Comma separated list of topic-partition patterns to get the offsets for.",
        ),
        value(
            "topic",
            "topic",
            "The topic to get the offsets for. It also accepts a regular expression.",
        ),
        value(
            "partitions",
            "partition ids",
            "Comma separated list of partition ids to get the offsets for.",
        ),
        value(
            "time",
            "<timestamp> / -1 or latest / -2 or earliest / -3 or max-timestamp / -4 or earliest-local / -5 or latest-tiered",
            "timestamp of the offsets before that. (default: latest)",
        ),
        flag(
            "exclude-internal-topics",
            "By default, internal topics are included. If specified, internal topics are excluded.",
        ),
    ],
    run: |options| Box::pin(get_offsets(options)),
};

pub(crate) const DELETE_RECORDS: Tool = Tool {
    name: "kafka-delete-records",
    about: "This tool helps to delete records of the given partitions down to the specified offset.",
    examples: "
  echo '{\"partitions\": [{\"topic\": \"orders\", \"partition\": 0, \"offset\": 100}], \"version\": 1}' > delete.json
  kafka-delete-records.sh --bootstrap-server localhost:9092 --offset-json-file delete.json",
    options: &[
        BOOTSTRAP,
        COMMAND_CONFIG,
        value("offset-json-file", "Offset json file path", "REQUIRED: The JSON file with offset per partition. An offset of -1 is the high watermark."),
    ],
    run: |options| Box::pin(delete_records(options)),
};

/// One pattern of `--topic-partitions`: a name, and which partitions of it.
struct Pattern {
    topic: Option<NameFilter>,
    ranges: Vec<(i32, i32)>,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, Stop> {
        let (topic, range) = text.split_once(':').unwrap_or((text, ""));
        let wrong = || Stop::Failed(format!("Invalid rule: {text}"));
        let number = |text: &str, default| {
            if text.is_empty() { Ok(default) } else { text.parse().map_err(|_| wrong()) }
        };
        let range = match range.split_once('-') {
            Some((from, to)) => {
                (number(from, 0)?, number(to, i32::MAX)? - i32::from(!to.is_empty()))
            }
            None if range.is_empty() => (0, i32::MAX),
            None => (number(range, 0)?, number(range, 0)?),
        };
        let topic = if topic.is_empty() { None } else { Some(NameFilter::new(topic)?) };
        Ok(Self { topic, ranges: vec![range] })
    }

    fn allows(&self, topic: &str, partition: i32) -> bool {
        self.topic.as_ref().is_none_or(|filter| filter.allows(topic))
            && (self.ranges.is_empty()
                || self.ranges.iter().any(|(from, to)| (*from..=*to).contains(&partition)))
    }
}

fn patterns(options: &Options) -> Result<Vec<Pattern>, Stop> {
    if let Some(text) = options.value("topic-partitions")? {
        if options.has("topic") || options.has("partitions") {
            return Err(Stop::Failed(
                "--topic-partitions cannot be used with --topic or --partitions".into(),
            ));
        }
        return text.split(',').map(Pattern::parse).collect();
    }
    let topic = options.value("topic")?.map(NameFilter::new).transpose()?;
    let ranges = match options.value("partitions")? {
        None => Vec::new(),
        Some(text) => {
            let one = |text: &str| match text.trim().parse::<i32>() {
                Ok(id) => Ok((id, id)),
                Err(_) => Err(Stop::Failed(
                    "--partitions expects a comma separated list of numeric partition ids".into(),
                )),
            };
            text.split(',').map(one).collect::<Result<_, _>>()?
        }
    };
    Ok(vec![Pattern { topic, ranges }])
}

fn offset_spec(text: &str) -> Result<OffsetSpec, Stop> {
    match text {
        "-1" | "latest" => Ok(OffsetSpec::Latest),
        "-2" | "earliest" => Ok(OffsetSpec::Earliest),
        "-3" | "max-timestamp" => Ok(OffsetSpec::MaxTimestamp),
        "-4" | "earliest-local" => Ok(OffsetSpec::EarliestLocal),
        "-5" | "latest-tiered" => Ok(OffsetSpec::LatestTiered),
        "-6" | "earliest-pending-upload" => Ok(OffsetSpec::EarliestPendingUpload),
        other => other.parse().map(OffsetSpec::Timestamp).map_err(|_| {
            Stop::Failed(format!(
                "Malformed time argument {other}. Please use -1 or latest / -2 or earliest / -3 or max-timestamp / \
                 -4 or earliest-local / -5 or latest-tiered / -6 or earliest-pending-upload, or a specified long format timestamp"
            ))
        }),
    }
}

async fn get_offsets(options: Options) -> Result<(), Stop> {
    match try_get_offsets(&options).await {
        Err(Stop::Failed(message)) => Err(Stop::Failed(format!("Error occurred: {message}"))),
        other => other,
    }
}

async fn try_get_offsets(options: &Options) -> Result<(), Stop> {
    let patterns = patterns(options)?;
    let spec = offset_spec(options.value("time")?.unwrap_or("latest"))?;
    let admin = connect::admin(options).await?;
    let mut topics = admin.topics(None).await?;
    topics.retain(|topic| !(topic.internal && options.has("exclude-internal-topics")));
    let mut asked = BTreeMap::new();
    for topic in &topics {
        for partition in &topic.partitions {
            if patterns.iter().any(|pattern| pattern.allows(&topic.name, partition.id)) {
                asked.insert(TopicPartition::new(topic.name.as_str(), partition.id), spec);
            }
        }
    }
    if asked.is_empty() {
        return Err(Stop::Failed(
            "Could not match any topic-partitions with the specified filters".into(),
        ));
    }
    let mut lines = BTreeMap::new();
    for (at, found) in admin.list_offsets(&asked).await? {
        match found {
            Ok((-1, _)) => {}
            Ok((offset, _)) => drop(
                lines.insert(at.to_string(), format!("{}:{}:{offset}", at.topic, at.partition)),
            ),
            Err(error) => complain(format_args!(
                "Skip getting offsets for topic-partition {at} due to error: {}",
                java_words(&error)
            )),
        }
    }
    lines.values().for_each(say);
    Ok(())
}

#[derive(Deserialize)]
struct DeletePlan {
    #[serde(default)]
    version: Option<i32>,
    partitions: Vec<DeleteOne>,
}

#[derive(Deserialize)]
struct DeleteOne {
    topic: String,
    partition: i32,
    offset: i64,
}

async fn delete_records(options: Options) -> Result<(), Stop> {
    let path = options.require("offset-json-file")?;
    let text = std::fs::read_to_string(path)
        .map_err(|error| Stop::Failed(format!("cannot read {path}: {error}")))?;
    let plan: DeletePlan = serde_json::from_str(&text)
        .map_err(|error| Stop::Failed(format!("{path} is not a plan: {error}")))?;
    if let Some(version) = plan.version.filter(|version| *version != 1) {
        return Err(Stop::Failed(format!("Not supported version field value {version}")));
    }
    let mut before = BTreeMap::new();
    for one in plan.partitions {
        let at = TopicPartition::new(one.topic, one.partition);
        if before.insert(at.clone(), one.offset).is_some() {
            return Err(Stop::Failed(format!(
                "Offset json file contains duplicate topic partitions: {at}"
            )));
        }
    }
    let admin = connect::admin(&options).await?;
    say("Executing records delete operation");
    let results = admin.delete_records(&before).await?;
    say("Records delete operation completed:");
    for (at, result) in results {
        match result {
            Ok(low) => say(format_args!("partition: {at}\tlow_watermark: {low}")),
            Err(error) => say(format_args!("partition: {at}\terror: {}", java_words(&error))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_partition_patterns_name_ranges() {
        let table = [
            ("a", "a", 7, true),
            ("a:1", "a", 1, true),
            ("a:1", "a", 2, false),
            ("a:1-3", "a", 2, true),
            ("a:1-3", "a", 3, false),
            ("a:2-", "a", 9, true),
            ("a:-2", "a", 1, true),
            (":0", "b", 0, true),
            ("a:0", "b", 0, false),
        ];
        for (pattern, topic, partition, allowed) in table {
            let parsed = Pattern::parse(pattern).expect("valid");
            assert_eq!(
                parsed.allows(topic, partition),
                allowed,
                "{pattern} on {topic}-{partition}"
            );
        }
        assert!(Pattern::parse("a:x").is_err());
    }
}
