//! kafka-console-consumer.sh: records to standard output.

use std::io::Write;
use std::time::{Duration, Instant};

use ottla_client::{
    Assignor, Client, Consumer, ConsumerOptions, ConsumerRecord, Isolation, OffsetReset,
    OffsetSpec, StartAt, Subscription, TopicPartition,
};

use super::connect::{self, BOOTSTRAP, Properties, take_millis, take_number};
use super::filter::NameFilter;
use super::formatter::Formatter;
use super::options::{Options, flag, value};
use super::{Stop, Tool, complain};

pub(crate) const TOOL: Tool = Tool {
    name: "kafka-console-consumer",
    about: "This tool helps to read data from Kafka topics and outputs it to standard output.",
    examples: "
  kafka-console-consumer.sh --bootstrap-server localhost:9092 --topic orders --from-beginning
  kafka-console-consumer.sh --bootstrap-server localhost:9092 --topic orders --group billing \\
      --formatter-property print.key=true --formatter-property print.offset=true
  kafka-console-consumer.sh --bootstrap-server localhost:9092 --topic orders --partition 0 --offset 42 --max-messages 1",
    options: &[
        value("topic", "topic", "The topic to consume on."),
        value("include", "regex", "Regular expression specifying list of topics to include for consumption."),
        value("partition", "partition", "The partition to consume from. Consumption starts from the end of the partition unless '--offset' is specified."),
        value("offset", "consume offset", "The offset to consume from (a non-negative number), or 'earliest' which means from beginning, or 'latest' which means from end (default: latest)"),
        value("consumer-property", "consumer_prop", "The old name of --command-property."),
        value("command-property", "consumer_prop", "A property of the consumer, key=value. May be repeated."),
        value("consumer.config", "config file", "The old name of --command-config."),
        value("command-config", "config file", "Consumer config properties file. --command-property takes precedence."),
        value("formatter", "class", "Only the default, org.apache.kafka.tools.consumer.DefaultMessageFormatter, is supported."),
        value("property", "prop", "The old name of --formatter-property."),
        value("formatter-property", "prop", "What is printed: print.timestamp, print.key, print.offset, print.epoch, print.partition, print.headers, print.value =true|false; key.separator, line.separator, headers.separator, null.literal =<text>. May be repeated."),
        value("formatter-config", "config file", "Config properties file of the formatter. --formatter-property takes precedence."),
        flag("from-beginning", "If the consumer does not already have an established offset to consume from, start with the earliest message present in the log rather than the latest message."),
        value("max-messages", "num_messages", "The maximum number of messages to consume before exiting. If not set, consumption is continual."),
        value("timeout-ms", "timeout_ms", "If specified, exit if no message is available for consumption for the specified interval."),
        flag("skip-message-on-error", "If there is an error when processing a message, skip it instead of halt."),
        BOOTSTRAP,
        value("key-deserializer", "deserializer for key", "As key.deserializer of --formatter-property."),
        value("value-deserializer", "deserializer for values", "As value.deserializer of --formatter-property."),
        flag("enable-systest-events", "Log lifecycle events of the consumer in addition to logging consumed messages."),
        value("isolation-level", "level", "Set to read_committed in order to filter out transactional messages which are not committed. Set to read_uncommitted to read all messages. (default: read_uncommitted)"),
        value("group", "consumer group id", "The consumer group id of the consumer."),
    ],
    run: |options| Box::pin(run(options)),
};

async fn run(options: Options) -> Result<(), Stop> {
    check(&options)?;
    let mut properties = Properties::new();
    for name in ["consumer.config", "command-config"] {
        if let Some(path) = options.value(name)? {
            properties.extend(connect::property_file(path)?);
        }
    }
    for name in ["consumer-property", "command-property"] {
        properties.extend(options.pairs(name));
    }
    let from_file = properties.remove("bootstrap.servers");
    let bootstrap = connect::bootstrap(&options, &["bootstrap-server"])?.or(from_file);
    let bootstrap = bootstrap
        .ok_or_else(|| Stop::Usage("Missing required argument \"[bootstrap-server]\"".into()))?;
    let formatter = formatter(&options)?;
    let settings = consumer_options(&options, &mut properties)?;
    let client = connect::client_options(&mut properties, "console-consumer")?;
    connect::check_left_over(&properties)?;
    let client = connect::connect(&bootstrap, client).await?;
    let consumer = start(&options, client, settings).await?;
    consume(&options, consumer, &formatter).await
}

fn check(options: &Options) -> Result<(), Stop> {
    let usage = |words: &str| Err(Stop::Usage(words.to_owned()));
    if options.has("topic") == options.has("include") {
        return usage("Exactly one of --include/--topic is required. ");
    }
    if options.has("partition") {
        if !options.has("topic") {
            return usage("The topic is required when partition is specified.");
        }
        if options.has("from-beginning") && options.has("offset") {
            return usage("Options from-beginning and offset cannot be specified together.");
        }
    } else if options.has("offset") {
        return usage("The partition is required when offset is specified.");
    }
    Ok(())
}

fn formatter(options: &Options) -> Result<Formatter, Stop> {
    match options.value("formatter")? {
        None
        | Some(
            "org.apache.kafka.tools.consumer.DefaultMessageFormatter"
            | "kafka.tools.DefaultMessageFormatter",
        ) => {}
        Some(other) => {
            return Err(Stop::Usage(format!("{other}: only the default formatter is supported")));
        }
    }
    let mut properties = match options.value("formatter-config")? {
        Some(path) => connect::property_file(path)?,
        None => Properties::new(),
    };
    for (flag, key) in
        [("key-deserializer", "key.deserializer"), ("value-deserializer", "value.deserializer")]
    {
        if let Some(class) = options.value(flag)? {
            properties.insert(key.to_owned(), class.to_owned());
        }
    }
    for name in ["property", "formatter-property"] {
        properties.extend(options.pairs(name));
    }
    Formatter::new(&properties)
}

fn consumer_options(
    options: &Options,
    properties: &mut Properties,
) -> Result<ConsumerOptions, Stop> {
    let defaults = ConsumerOptions::default();
    let group = group(options, properties)?;
    let auto_commit = match properties.remove("enable.auto.commit") {
        Some(text) => text.trim() == "true",
        // A made-up group is used once: its offsets would only fill the coordinator's memory.
        None => group.is_some(),
    };
    let from_beginning = options.has("from-beginning");
    let offset_reset = match properties.remove("auto.offset.reset").as_deref() {
        Some("earliest") => OffsetReset::Earliest,
        Some(other) if from_beginning => {
            return Err(Stop::Failed(format!(
                "Can't simultaneously specify --from-beginning and 'auto.offset.reset={other}', please remove one option"
            )));
        }
        Some("latest") => OffsetReset::Latest,
        Some("none") => OffsetReset::None,
        Some(other) => {
            return Err(Stop::Failed(format!(
                "Invalid value `{other}` for configuration auto.offset.reset"
            )));
        }
        None if from_beginning => OffsetReset::Earliest,
        None => OffsetReset::Latest,
    };
    let isolation = match options.value("isolation-level")? {
        Some(level) => level.to_owned(),
        None => properties.remove("isolation.level").unwrap_or_else(|| "read_uncommitted".into()),
    };
    let isolation = match isolation.as_str() {
        "read_uncommitted" => Isolation::ReadUncommitted,
        "read_committed" => Isolation::ReadCommitted,
        other => {
            let words = format!(
                "Invalid value {other} for configuration isolation.level: it is read_committed or read_uncommitted"
            );
            return Err(Stop::Failed(words));
        }
    };
    let assignors = assignors(properties)?.unwrap_or(defaults.assignors);
    Ok(ConsumerOptions {
        group: Some(group.unwrap_or_else(made_up_group)).filter(|_| !options.has("partition")),
        group_instance_id: properties.remove("group.instance.id"),
        offset_reset,
        isolation,
        auto_commit,
        assignors,
        auto_commit_interval: take_millis(properties, "auto.commit.interval.ms")?
            .unwrap_or(defaults.auto_commit_interval),
        session_timeout: take_millis(properties, "session.timeout.ms")?
            .unwrap_or(defaults.session_timeout),
        heartbeat_interval: take_millis(properties, "heartbeat.interval.ms")?
            .unwrap_or(defaults.heartbeat_interval),
        max_poll_interval: take_millis(properties, "max.poll.interval.ms")?
            .unwrap_or(defaults.max_poll_interval),
        metadata_max_age: take_millis(properties, "metadata.max.age.ms")?
            .unwrap_or(defaults.metadata_max_age),
        fetch_max_wait: take_millis(properties, "fetch.max.wait.ms")?
            .unwrap_or(defaults.fetch_max_wait),
        fetch_min_bytes: take_number(properties, "fetch.min.bytes")?
            .unwrap_or(defaults.fetch_min_bytes),
        fetch_max_bytes: take_number(properties, "fetch.max.bytes")?
            .unwrap_or(defaults.fetch_max_bytes),
        max_partition_fetch_bytes: take_number(properties, "max.partition.fetch.bytes")?
            .unwrap_or(defaults.max_partition_fetch_bytes),
        max_poll_records: take_number(properties, "max.poll.records")?
            .unwrap_or(defaults.max_poll_records),
        allow_auto_create_topics: properties
            .remove("allow.auto.create.topics")
            .is_none_or(|text| text.trim() != "false"),
    })
}

/// The group that the user named, by flag or by property; not twice differently.
fn group(options: &Options, properties: &mut Properties) -> Result<Option<String>, Stop> {
    let from_property = properties.remove("group.id");
    let from_flag = options.value("group")?.map(str::to_owned);
    if let (Some(one), Some(other)) = (&from_flag, &from_property)
        && one != other
    {
        return Err(Stop::Usage(format!(
            "The group ids provided in different places (directly using '--group', via '--command-property', \
             or via '--command-config') do not match. Detected group ids: '{one}', '{other}'"
        )));
    }
    let group = from_flag.or(from_property);
    if group.is_some() && options.has("partition") {
        return Err(Stop::Usage(
            "Options group and partition cannot be specified together.".into(),
        ));
    }
    Ok(group)
}

fn made_up_group() -> String {
    format!("console-consumer-{}", uuid::Uuid::new_v4().as_u128() % 100_000)
}

fn assignors(properties: &mut Properties) -> Result<Option<Vec<Assignor>>, Stop> {
    let Some(text) = properties.remove("partition.assignment.strategy") else { return Ok(None) };
    let one = |class: &str| match class.trim().rsplit('.').next().unwrap_or_default() {
        "RangeAssignor" => Ok(Assignor::Range),
        "RoundRobinAssignor" => Ok(Assignor::RoundRobin),
        other => Err(Stop::Failed(format!(
            "{other} is not supported: use RangeAssignor or RoundRobinAssignor"
        ))),
    };
    text.split(',').map(one).collect::<Result<_, _>>().map(Some)
}

async fn start(
    options: &Options,
    client: Client,
    settings: ConsumerOptions,
) -> Result<Consumer, Stop> {
    let mut consumer = Consumer::new(client, settings);
    if let Some(pattern) = options.value("include")? {
        let filter = NameFilter::new(pattern)?;
        consumer.subscribe(Subscription::Matching(Box::new(move |name| filter.allows(name))))?;
        return Ok(consumer);
    }
    let topic = options.require("topic")?.to_owned();
    let Some(partition) = options.number::<i32>("partition")? else {
        consumer.subscribe(Subscription::Topics(vec![topic]))?;
        return Ok(consumer);
    };
    let start = match options.value("offset")?.map(str::to_lowercase).as_deref() {
        Some("earliest") => StartAt::Spec(OffsetSpec::Earliest),
        Some("latest") => StartAt::Spec(OffsetSpec::Latest),
        Some(text) => StartAt::Offset(text.parse().ok().filter(|offset| *offset >= 0).ok_or_else(|| {
            Stop::Usage(format!(
                "The provided offset value '{text}' is incorrect. Valid values are 'earliest', 'latest', or a non-negative long."
            ))
        })?),
        None if options.has("from-beginning") => StartAt::Spec(OffsetSpec::Earliest),
        None => StartAt::Spec(OffsetSpec::Latest),
    };
    consumer.assign(vec![(TopicPartition::new(topic, partition), Some(start))]).await?;
    Ok(consumer)
}

/// How a consumer's run ended.
enum End {
    Enough,
    Interrupted,
    Failed(String),
}

async fn consume(
    options: &Options,
    mut consumer: Consumer,
    formatter: &Formatter,
) -> Result<(), Stop> {
    let max = options
        .number::<i64>("max-messages")?
        .filter(|max| *max != -1)
        .map(|max| max.max(0) as u64);
    let timeout =
        options.number::<i64>("timeout-ms")?.and_then(|millis| u64::try_from(millis).ok());
    let mut count = 0;
    let end = tokio::select! {
        biased;
        () = interrupted() => End::Interrupted,
        end = print_all(&mut consumer, formatter, max, timeout.map(Duration::from_millis), &mut count) => end,
    };
    let _ = std::io::stdout().flush();
    if let Err(error) = consumer.close().await {
        complain(format_args!("WARN {error}"));
    }
    if let End::Failed(message) = &end {
        complain(format_args!(
            "ERROR Error processing message, terminating consumer process: {message}"
        ));
    }
    complain(format_args!("Processed a total of {count} messages"));
    if options.has("enable-systest-events") {
        super::say("shutdown_complete");
    }
    match end {
        // As a shell counts a process that ended by Ctrl-C.
        End::Interrupted => Err(Stop::Exit(130)),
        End::Enough | End::Failed(_) => Ok(()),
    }
}

async fn interrupted() {
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    match terminate {
        Ok(mut terminate) => tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

async fn print_all(
    consumer: &mut Consumer,
    formatter: &Formatter,
    max: Option<u64>,
    timeout: Option<Duration>,
    count: &mut u64,
) -> End {
    let mut last = Instant::now();
    let mut committed = std::collections::BTreeMap::new();
    while max.is_none_or(|max| *count < max) {
        let wait = timeout
            .map_or(Duration::from_secs(1), |timeout| timeout.saturating_sub(last.elapsed()));
        let records = match consumer.poll(wait.min(Duration::from_secs(1))).await {
            Ok(records) => records,
            Err(error) => return End::Failed(error.to_string()),
        };
        if records.is_empty() {
            match timeout {
                Some(timeout) if last.elapsed() > timeout => {
                    return End::Failed("no message came in time".into());
                }
                _ => continue,
            }
        }
        last = Instant::now();
        let take = max.map_or(records.len(), |max| records.len().min((max - *count) as usize));
        if let Err(error) = print(formatter, &records[..take]) {
            complain(format_args!("Unable to write to standard out, closing consumer. ({error})"));
            return End::Enough;
        }
        *count += take as u64;
        // What was read and not printed must be read again by whoever comes next.
        for record in records[take..].iter().rev() {
            committed
                .insert(TopicPartition::new(record.topic.clone(), record.partition), record.offset);
        }
    }
    consumer.rewind(&committed);
    End::Enough
}

fn print(formatter: &Formatter, records: &[ConsumerRecord]) -> std::io::Result<()> {
    let mut text = Vec::new();
    for record in records {
        formatter.write(record, &mut text);
    }
    let mut out = std::io::stdout().lock();
    out.write_all(&text)?;
    out.flush()
}
