//! kafka-topics.sh: create, list, describe, alter, delete.

use std::collections::{BTreeMap, BTreeSet};

use ottla_client::text::{id_text, parse_id};
use ottla_client::{
    Admin, ConfigEntry, ConfigSource, Error, ErrorCode, NewTopic, PartitionInfo, Reassignment,
};
use ottla_client::{Resource, Topic, TopicPartition};

use super::connect::{self, BOOTSTRAP, COMMAND_CONFIG};
use super::filter::NameFilter;
use super::options::{Options, flag, value};
use super::{Stop, Tool, say};

pub(crate) const TOOL: Tool = Tool {
    name: "kafka-topics",
    about: "This tool helps to create, delete, describe, or change a topic.",
    examples: "
  kafka-topics.sh --bootstrap-server localhost:9092 --create --topic orders --partitions 6 --replication-factor 3
  kafka-topics.sh --bootstrap-server localhost:9092 --describe --topic orders
  kafka-topics.sh --bootstrap-server localhost:9092 --alter --topic orders --partitions 12
  kafka-topics.sh --bootstrap-server localhost:9092 --describe --under-replicated-partitions",
    options: &[
        BOOTSTRAP,
        COMMAND_CONFIG,
        flag("list", "List all available topics."),
        flag("create", "Create a new topic."),
        flag("delete", "Delete a topic."),
        flag("alter", "Alter the number of partitions and replica assignment. (To alter topic configurations, the kafka-configs tool can be used.)"),
        flag("describe", "List details for the given topics."),
        value("topic", "topic", "The topic to create, alter, describe or delete. It also accepts a regular expression, except for --create option. Put topic name in double quotes and use the '\\' prefix to escape regular expression symbols; e.g. \"test\\.topic\"."),
        value("topic-id", "topic-id", "The topic-id to describe."),
        value("config", "name=value", "A topic configuration override for the topic being created. May be repeated."),
        value("partitions", "# of partitions", "The number of partitions for the topic being created or altered. If not supplied with --create, the topic uses the cluster default."),
        value("replication-factor", "replication factor", "The replication factor for each partition in the topic being created. If not supplied, the topic uses the cluster default."),
        value("replica-assignment", "broker_id_for_part1_replica1:broker_id_for_part1_replica2,...", "A list of manual partition-to-broker assignments for the topic being created or altered."),
        flag("under-replicated-partitions", "If set when describing topics, only show under-replicated partitions."),
        flag("unavailable-partitions", "If set when describing topics, only show partitions whose leader is not available."),
        flag("under-min-isr-partitions", "If set when describing topics, only show partitions whose isr count is less than the configured minimum."),
        flag("at-min-isr-partitions", "If set when describing topics, only show partitions whose isr count is equal to the configured minimum."),
        flag("topics-with-overrides", "If set when describing topics, only show topics that have overridden configs."),
        flag("if-exists", "If set when altering or deleting or describing topics, the action will only execute if the topic exists."),
        flag("if-not-exists", "If set when creating topics, the action will only execute if the topic does not already exist."),
        flag("exclude-internal", "Exclude internal topics when listing or describing topics. By default, internal topics are included."),
        value("partition-size-limit-per-response", "maximum number of partitions per response", "The maximum partition size to be included in one DescribeTopicPartitions response."),
    ],
    run: |options| Box::pin(run(options)),
};

const ACTIONS: [&str; 5] = ["create", "list", "alter", "describe", "delete"];
const REPORTS: [&str; 4] = [
    "under-replicated-partitions",
    "unavailable-partitions",
    "under-min-isr-partitions",
    "at-min-isr-partitions",
];

async fn run(options: Options) -> Result<(), Stop> {
    check(&options)?;
    let outcome = match connect::admin(&options).await {
        Ok(admin) => act(&admin, &options).await,
        Err(stop) => Err(stop),
    };
    match outcome {
        Err(Stop::Failed(message)) => {
            say(format_args!("Error while executing topic command : {message}"));
            Err(Stop::Exit(1))
        }
        other => other,
    }
}

async fn act(admin: &Admin, options: &Options) -> Result<(), Stop> {
    if options.has("create") {
        create(admin, options).await
    } else if options.has("alter") {
        alter(admin, options).await
    } else if options.has("list") {
        let names: Vec<String> =
            matching(admin, options).await?.into_iter().map(|topic| topic.name).collect();
        say(names.join("\n"));
        Ok(())
    } else if options.has("describe") {
        describe(admin, options).await
    } else {
        let topics = matching(admin, options).await?;
        ensure_exists(&topics, options)?;
        for topic in topics {
            admin.delete_topic(&topic.name).await?;
        }
        Ok(())
    }
}

fn check(options: &Options) -> Result<(), Stop> {
    if ACTIONS.iter().filter(|action| options.has(action)).count() != 1 {
        let words = "Command must include exactly one action: --list, --describe, --create, --alter or --delete";
        return Err(Stop::Usage(words.into()));
    }
    if connect::bootstrap(options, &["bootstrap-server"])?.is_none()
        && !options.has("command-config")
    {
        return Err(Stop::Failed("--bootstrap-server must be specified".into()));
    }
    if options.has("describe")
        && options.has("if-exists")
        && !options.has("topic")
        && !options.has("topic-id")
    {
        return Err(Stop::Usage("--topic or --topic-id is required to describe a topic".into()));
    }
    if !options.has("list") && !options.has("describe") {
        options.require("topic")?;
    }
    if options.has("alter") {
        if options.has("config") {
            return Err(Stop::Usage(
                "Option combination \"[[bootstrap-server], [config]]\" can't be used with option \"[alter]\" \
                 (To alter topic configurations, the kafka-configs tool can be used.)"
                    .into(),
            ));
        }
        options.require("partitions")?;
    }
    let only = |name: &str, actions: &[&str]| {
        let others: Vec<&str> =
            ACTIONS.iter().copied().filter(|action| !actions.contains(action)).collect();
        options.excludes(name, &others)
    };
    only("config", &["create"])?;
    only("partitions", &["create", "alter"])?;
    only("replication-factor", &["create"])?;
    only("replica-assignment", &["create", "alter"])?;
    if options.has("create") {
        options.excludes("replica-assignment", &["partitions", "replication-factor"])?;
    }
    for report in REPORTS {
        only(report, &["describe"])?;
        let others: Vec<&str> = REPORTS.iter().copied().filter(|other| *other != report).collect();
        options.excludes(report, &others)?;
        options.excludes(report, &["topics-with-overrides"])?;
    }
    only("topics-with-overrides", &["describe"])?;
    only("if-exists", &["alter", "delete", "describe"])?;
    only("if-not-exists", &["create"])?;
    only("exclude-internal", &["list", "describe"])
}

/// All topics whose name fits `--topic`, in order of name.
async fn matching(admin: &Admin, options: &Options) -> Result<Vec<Topic>, Stop> {
    let filter = options.value("topic")?.map(NameFilter::new).transpose()?;
    let exclude_internal = options.has("exclude-internal");
    let mut topics = admin.topics(None).await?;
    topics.retain(|topic| {
        filter.as_ref().is_none_or(|filter| filter.allows(&topic.name))
            && !(exclude_internal && topic.internal)
    });
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(topics)
}

fn ensure_exists(found: &[Topic], options: &Options) -> Result<(), Stop> {
    match options.value("topic")? {
        Some(asked) if !asked.is_empty() && !options.has("if-exists") && found.is_empty() => {
            Err(Stop::Failed(format!("Topic '{asked}' does not exist as expected")))
        }
        _ => Ok(()),
    }
}

async fn create(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let name = options.require("topic")?;
    let new = NewTopic {
        name: name.to_owned(),
        partitions: options.number("partitions")?,
        replication: match options.number::<i32>("replication-factor")? {
            None => None,
            Some(factor) => {
                Some(i16::try_from(factor).ok().filter(|factor| *factor >= 1).ok_or_else(|| {
                    Stop::Failed(
                        "The replication factor must be between 1 and 32767 inclusive".into(),
                    )
                })?)
            }
        },
        assignment: assignment(options)?,
        configs: configs(options)?,
    };
    if name.contains(['.', '_']) {
        say(
            "WARNING: Due to limitations in metric names, topics with a period ('.') or underscore ('_') could \
             collide. To avoid issues it is best to use either, but not both.",
        );
    }
    if new.partitions.is_some_and(|count| count < 1) {
        return Err(Stop::Failed("The partitions must be greater than 0".into()));
    }
    match admin.create_topic(new, false).await {
        Ok(()) => {
            say(format_args!("Created topic {name}."));
            Ok(())
        }
        Err(Error::Kafka { code: ErrorCode::TopicAlreadyExists, .. })
            if options.has("if-not-exists") =>
        {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn configs(options: &Options) -> Result<BTreeMap<String, String>, Stop> {
    let pair = |text: &String| {
        match text.split('=').map(str::trim).collect::<Vec<_>>()[..] {
        [key, value] if !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Stop::Failed(
            "requirement failed: Invalid topic config: all configs to be added must be in the format \"key=val\"."
                .into(),
        )),
    }
    };
    options.values("config").iter().map(pair).collect()
}

fn assignment(options: &Options) -> Result<Option<BTreeMap<i32, Vec<i32>>>, Stop> {
    let Some(text) = options.value("replica-assignment")?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let mut all: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (partition, brokers) in (0..).zip(text.split(',')) {
        let brokers: Result<Vec<i32>, _> =
            brokers.split(':').map(|id| id.trim().parse::<i32>()).collect();
        let brokers = brokers.map_err(|_| Stop::Failed(format!("For input string: \"{text}\"")))?;
        if brokers.iter().collect::<BTreeSet<_>>().len() != brokers.len() {
            let words = format!(
                "Partition replica lists may not contain duplicate entries: {}",
                join(&brokers)
            );
            return Err(Stop::Failed(words));
        }
        if all.get(&0).is_some_and(|first| first.len() != brokers.len()) {
            return Err(Stop::Failed(format!(
                "Partition {partition} has different replication factor: {brokers:?}"
            )));
        }
        all.insert(partition, brokers);
    }
    Ok(Some(all))
}

async fn alter(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let topics = matching(admin, options).await?;
    ensure_exists(&topics, options)?;
    let total: i32 = options.number("partitions")?.unwrap_or_default();
    let assignment = assignment(options)?;
    for topic in topics {
        let existing = topic.partitions.len();
        let new = assignment.as_ref().map(|all| all.values().skip(existing).cloned().collect());
        admin.create_partitions_on(&topic.name, total, new).await?;
    }
    Ok(())
}

async fn describe(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let topics = match options.value("topic-id")?.map(|text| (text, parse_id(text))) {
        Some((text, None)) => {
            let words =
                format!("Input string `{text}` decoded as a topic id is not 16 bytes of base64");
            return Err(Stop::Failed(words));
        }
        Some((text, Some(id))) if !id.is_nil() => {
            let all = admin.topics(None).await?;
            let found: Vec<Topic> = all.into_iter().filter(|topic| topic.id == id).collect();
            if found.is_empty() && !options.has("if-exists") {
                return Err(Stop::Failed(format!("TopicId '{text}' does not exist as expected")));
            }
            found
        }
        _ => {
            let found = matching(admin, options).await?;
            ensure_exists(&found, options)?;
            found
        }
    };
    if topics.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
    let topics = admin.describe_topics(&names).await?;
    let live = admin.client().brokers().iter().map(|node| node.id).collect();
    // A broker that cannot tell has none.
    let reassignments = admin.reassignments().await.unwrap_or_default();
    for topic in topics {
        let configs = admin.describe_configs(&Resource::topic(&topic.name)).await?;
        describe_one(
            options,
            &Described { topic, configs, reassignments: &reassignments, live: &live },
        );
    }
    Ok(())
}

struct Described<'a> {
    topic: Topic,
    configs: Vec<ConfigEntry>,
    reassignments: &'a BTreeMap<TopicPartition, Reassignment>,
    live: &'a BTreeSet<i32>,
}

impl Described<'_> {
    fn reassignment(&self, partition: &PartitionInfo) -> Option<&Reassignment> {
        self.reassignments.get(&TopicPartition::new(self.topic.name.as_str(), partition.id))
    }

    fn replication(&self, partition: &PartitionInfo) -> usize {
        match self.reassignment(partition) {
            Some(moving) => moving.replicas.len() - moving.adding.len(),
            None => partition.replicas.len(),
        }
    }

    /// Whether the report that was asked for shows `partition`.
    fn shows(&self, options: &Options, partition: &PartitionInfo) -> bool {
        let min_isr = self.configs.iter().find(|config| config.name == "min.insync.replicas");
        let min_isr: usize =
            min_isr.and_then(|config| config.value.as_deref()?.parse().ok()).unwrap_or(1);
        let isr = partition.isr.len();
        let unavailable = partition.leader.is_none_or(|leader| !self.live.contains(&leader));
        (options.has("under-replicated-partitions") && self.replication(partition) > isr)
            || (options.has("unavailable-partitions") && unavailable)
            || (options.has("under-min-isr-partitions")
                && (partition.leader.is_none() || isr < min_isr))
            || (options.has("at-min-isr-partitions") && isr == min_isr)
    }
}

fn describe_one(options: &Options, described: &Described<'_>) {
    let topic = &described.topic;
    let overrides: Vec<String> = described
        .configs
        .iter()
        .filter(|config| config.source != ConfigSource::Default)
        .map(|config| format!("{}={}", config.name, config.value.as_deref().unwrap_or("null")))
        .collect();
    let report = REPORTS.iter().any(|report| options.has(report));
    if !report && (!options.has("topics-with-overrides") || !overrides.is_empty()) {
        let id = if topic.id.is_nil() {
            String::new()
        } else {
            format!("\tTopicId: {}", id_text(topic.id))
        };
        say(format_args!(
            "Topic: {}{id}\tPartitionCount: {}\tReplicationFactor: {}\tConfigs: {}",
            topic.name,
            topic.partitions.len(),
            topic.partitions.first().map_or(0, |first| described.replication(first)),
            overrides.join(",")
        ));
    }
    if options.has("topics-with-overrides") {
        return;
    }
    for partition in topic.partitions.iter().filter(|one| !report || described.shows(options, one))
    {
        let moving = described.reassignment(partition).map_or_else(String::new, |moving| {
            format!(
                "\tAdding Replicas: {}\tRemoving Replicas: {}",
                join(&moving.adding),
                join(&moving.removing)
            )
        });
        let known = |ids: &Option<Vec<i32>>| ids.as_deref().map_or_else(|| "N/A".to_owned(), join);
        say(format_args!(
            "\tTopic: {}\tPartition: {}\tLeader: {}\tReplicas: {}\tIsr: {}{moving}\tElr: {}\tLastKnownElr: {}",
            topic.name,
            partition.id,
            partition.leader.map_or_else(|| "none".to_owned(), |id| id.to_string()),
            join(&partition.replicas),
            join(&partition.isr),
            known(&partition.elr),
            known(&partition.last_known_elr),
        ));
    }
}

fn join(ids: &[i32]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
