//! kafka-leader-election.sh: preferred and unclean elections, on demand.

use std::collections::BTreeSet;

use ottla_client::{Election, ErrorCode, TopicPartition};
use serde_json::Value;

use super::connect::{self, BOOTSTRAP, COMMAND_CONFIG};
use super::consumer_groups::java_words;
use super::options::{Options, flag, value};
use super::{Stop, Tool, say};

pub(crate) const TOOL: Tool = Tool {
    name: "kafka-leader-election",
    about: "This tool attempts to elect a new leader for a set of topic partitions. The type of elections supported are preferred replicas and unclean replicas.",
    examples: "
  kafka-leader-election.sh --bootstrap-server localhost:9092 --election-type preferred --all-topic-partitions
  kafka-leader-election.sh --bootstrap-server localhost:9092 --election-type unclean --topic orders --partition 2",
    options: &[
        BOOTSTRAP,
        COMMAND_CONFIG,
        value("admin.config", "config file", "(DEPRECATED) Use --command-config instead."),
        value(
            "election-type",
            "election type",
            "REQUIRED: preferred (the first replica leads again, where it does not) or unclean (a replica that is not in sync may lead, where nobody does).",
        ),
        value("topic", "topic name", "Name of topic for which to perform an election."),
        value("partition", "partition id", "Partition id; REQUIRED if --topic is specified."),
        flag("all-topic-partitions", "Perform election on all of the eligible topic partitions."),
        value(
            "path-to-json-file",
            "Path to JSON file",
            "The JSON file with the list of partitions: {\"partitions\": [{\"topic\": \"foo\", \"partition\": 1}]}",
        ),
    ],
    run: |options| Box::pin(run(options)),
};

async fn run(options: Options) -> Result<(), Stop> {
    let asked = asked(&options)?;
    let mut properties = match options.value("admin.config")? {
        Some(path) => {
            say(
                "Option --admin.config has been deprecated and will be removed in a future version. Use --command-config instead.",
            );
            connect::property_file(path)?
        }
        None => connect::command_config(&options)?,
    };
    let bootstrap = connect::bootstrap(&options, &["bootstrap-server"])?.unwrap_or_default();
    let client = connect::client_options(&mut properties, "adminclient")?;
    connect::check_left_over(&properties)?;
    let admin = ottla_client::Admin::of(connect::connect(&bootstrap, client).await?);
    let results = admin.elect_leaders(asked.election, asked.partitions.as_ref()).await?;

    let name = if asked.election == Election::Preferred { "PREFERRED" } else { "UNCLEAN" };
    let is = |code: ErrorCode| move |error: &ottla_client::Error| error.code() == Some(code);
    let list = |all: Vec<&TopicPartition>| {
        all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let (mut done, mut needless, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for (at, result) in &results {
        match result {
            Ok(()) => done.push(at),
            Err(error) if is(ErrorCode::ElectionNotNeeded)(error) => needless.push(at),
            Err(error) => failed.push((at, error)),
        }
    }
    if !done.is_empty() {
        say(format_args!(
            "Successfully completed leader election ({name}) for partitions {}",
            list(done)
        ));
    }
    if !needless.is_empty() {
        say(format_args!("Valid replica already elected for partitions {}", list(needless)));
    }
    for (at, error) in &failed {
        say(format_args!(
            "Error completing leader election ({name}) for partition: {at}: {}",
            java_words(error)
        ));
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Stop::Failed(format!("{} replica(s) could not be elected", failed.len())))
}

struct Asked {
    election: Election,
    /// None: all.
    partitions: Option<BTreeSet<TopicPartition>>,
}

fn asked(options: &Options) -> Result<Asked, Stop> {
    let election = match options.value("election-type")?.map(str::to_lowercase).as_deref() {
        Some("preferred") => Election::Preferred,
        Some("unclean") => Election::Unclean,
        Some(other) => {
            return Err(Stop::Failed(format!(
                "Cannot parse argument '{other}' of option election-type"
            )));
        }
        None => {
            return Err(Stop::Failed("Missing required option(s): election-type".into()));
        }
    };
    let which = ["topic", "all-topic-partitions", "path-to-json-file"];
    if which.iter().filter(|name| options.has(name)).count() != 1 {
        return Err(Stop::Failed(format!(
            "One and only one of the following options is required: {}",
            which.join(", ")
        )));
    }
    let partition: Option<i32> = options.number("partition")?;
    let partitions = match (options.value("topic")?, partition) {
        (Some(topic), Some(partition)) => Some([TopicPartition::new(topic, partition)].into()),
        (Some(_), None) => {
            return Err(Stop::Failed("Missing required option(s): partition".into()));
        }
        (None, Some(_)) => {
            return Err(Stop::Failed("Option partition is only allowed if topic is used".into()));
        }
        (None, None) => options.value("path-to-json-file")?.map(from_file).transpose()?,
    };
    Ok(Asked { election, partitions })
}

fn from_file(path: &str) -> Result<BTreeSet<TopicPartition>, Stop> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Stop::Failed(format!("cannot read {path}: {error}")))?;
    let json: Value = serde_json::from_str(&text)
        .map_err(|_| Stop::Failed("Replica election data is empty".into()))?;
    let Some(all) = json.get("partitions").and_then(Value::as_array) else {
        return Err(Stop::Failed("Replica election data is missing \"partitions\" field".into()));
    };
    let mut partitions = BTreeSet::new();
    for one in all {
        let topic = one.get("topic").and_then(Value::as_str);
        let number = one.get("partition").and_then(Value::as_i64);
        let (Some(topic), Some(Ok(number))) = (topic, number.map(i32::try_from)) else {
            return Err(Stop::Failed(format!("{one} is no topic and partition")));
        };
        let at = TopicPartition::new(topic, number);
        if !partitions.insert(at.clone()) {
            return Err(Stop::Failed(format!(
                "Replica election data contains duplicate partitions: {at}"
            )));
        }
    }
    Ok(partitions)
}
