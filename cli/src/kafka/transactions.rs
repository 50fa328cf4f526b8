//! kafka-transactions.sh: list and describe transactions, find those that nobody ends, end them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use ottla_client::{
    ActiveProducer, Admin, Error, OpenTransaction, Topic, TopicPartition, TransactionDescription,
    TransactionFilter,
};

use super::connect::{self, BOOTSTRAP, COMMAND_CONFIG};
use super::options::{Options, value};
use super::{Stop, Tool, print_table};

pub(crate) const TOOL: Tool = Tool {
    name: "kafka-transactions",
    about: "This tool is used to analyze the transactional state of producers in the cluster. It can be used to detect and recover from hanging transactions.",
    examples: "
  kafka-transactions.sh --bootstrap-server localhost:9092 list --duration-filter 60000
  kafka-transactions.sh --bootstrap-server localhost:9092 describe --transactional-id orders-1
  kafka-transactions.sh --bootstrap-server localhost:9092 describe-producers --topic orders --partition 0
  kafka-transactions.sh --bootstrap-server localhost:9092 find-hanging --topic orders
  kafka-transactions.sh --bootstrap-server localhost:9092 abort --topic orders --partition 0 --start-offset 4711
  kafka-transactions.sh --bootstrap-server localhost:9092 forceTerminateTransaction --transactionalId orders-1",
    options: &[
        BOOTSTRAP,
        COMMAND_CONFIG,
        value("duration-filter", "ms", "list: only transactions that have been open for longer; less than 0: all."),
        value("transactional-id-pattern", "regex", "list: only transactional ids that match."),
        value("transactional-id", "id", "describe: the transactional id."),
        value("transactionalId", "id", "forceTerminateTransaction: the transactional id."),
        value("topic", "topic", "describe-producers, abort: the topic. find-hanging: where to look; required if --partition is given."),
        value("partition", "partition", "describe-producers, abort, find-hanging: the partition's number."),
        value("broker-id", "id", "describe-producers: the replica to ask, in place of the leader. find-hanging: look at its replicas."),
        value("max-transaction-timeout", "minutes", "find-hanging: transactions that have been open for longer. (default: 15)"),
        value("start-offset", "offset", "abort: where the transaction starts."),
        value("producer-id", "id", "abort, for brokers before 3.0: the producer, in place of --start-offset."),
        value("producer-epoch", "epoch", "abort, with --producer-id."),
        value("coordinator-epoch", "epoch", "abort, with --producer-id."),
    ],
    run: |options| Box::pin(run(options)),
};

const COMMANDS: [&str; 6] = [
    "list",
    "describe",
    "describe-producers",
    "abort",
    "find-hanging",
    "forceTerminateTransaction",
];
/// Partitions in one request, so that no broker is overwhelmed.
const AT_ONCE: usize = 500;
const MINUTE_MS: i64 = 60_000;

async fn run(options: Options) -> Result<(), Stop> {
    let command = match options.rest.as_slice() {
        [one] if COMMANDS.contains(&one.as_str()) => one.as_str(),
        _ => {
            let words = format!("one command is required: {}", COMMANDS.join(", "));
            return Err(Stop::Usage(words));
        }
    };
    check(command, &options)?;
    let admin = connect::admin(&options).await?;
    match command {
        "list" => list(&admin, &options).await,
        "describe" => describe(&admin, options.require("transactional-id")?).await,
        "describe-producers" => describe_producers(&admin, &options).await,
        "abort" => abort(&admin, &options).await,
        "find-hanging" => find_hanging(&admin, &options).await,
        _ => {
            let id = options.require("transactionalId")?;
            let failed = failed(format!("Failed to force terminate transactionalId `{id}`"));
            admin.force_terminate_transaction(id).await.map_err(failed)
        }
    }
}

/// What can be said before anybody is asked.
fn check(command: &str, options: &Options) -> Result<(), Stop> {
    let required: &[&str] = match command {
        "describe" => &["transactional-id"],
        "forceTerminateTransaction" => &["transactionalId"],
        "describe-producers" | "abort" => &["topic", "partition"],
        _ => &[],
    };
    for name in required {
        options.require(name)?;
    }
    let stop = |words: &str| Err(Stop::Failed(words.into()));
    if command == "find-hanging" {
        if !options.has("topic") && !options.has("broker-id") {
            return stop(
                "The `find-hanging` command requires either --topic or --broker-id to limit the scope of the search",
            );
        }
        if options.has("partition") && !options.has("topic") {
            return stop("The --partition argument requires --topic to be provided");
        }
    }
    if command == "abort" && !options.has("start-offset") {
        if !options.has("producer-id") {
            return stop(
                "The transaction to abort must be identified either with --start-offset (for brokers on 3.0 or above) or with --producer-id, --producer-epoch, and --coordinator-epoch (for older brokers)",
            );
        }
        for name in ["producer-epoch", "coordinator-epoch"] {
            if !options.has(name) {
                return stop(&format!("Missing required argument --{name}"));
            }
        }
    }
    Ok(())
}

fn failed(what: String) -> impl FnOnce(Error) -> Stop {
    move |error| Stop::Failed(format!("{what}: {error}"))
}

fn row<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

fn or_none(number: Option<i64>) -> String {
    number.map_or_else(|| "None".into(), |number| number.to_string())
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

async fn list(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let filter = TransactionFilter {
        longer_than_ms: options.number("duration-filter")?,
        pattern: options.value("transactional-id-pattern")?.map(Into::into),
        ..TransactionFilter::default()
    };
    let listed = admin.list_transactions(&filter).await;
    let listed = listed.map_err(failed("Failed to list transactions".into()))?;
    let mut table = vec![row(["TransactionalId", "Coordinator", "ProducerId", "TransactionState"])];
    table.extend(listed.into_iter().map(|one| {
        vec![
            one.transactional_id,
            one.coordinator.to_string(),
            one.producer_id.to_string(),
            one.state,
        ]
    }));
    print_table(&table);
    Ok(())
}

async fn describe(admin: &Admin, id: &str) -> Result<(), Stop> {
    let what = format!("Failed to describe transaction state of transactional-id `{id}`");
    let found = admin.describe_transaction(id).await.map_err(failed(what))?;
    let partitions: Vec<String> = found.partitions.iter().map(ToString::to_string).collect();
    let header = row([
        "CoordinatorId",
        "TransactionalId",
        "ProducerId",
        "ProducerEpoch",
        "TransactionState",
        "TransactionTimeoutMs",
        "CurrentTransactionStartTimeMs",
        "TransactionDurationMs",
        "TopicPartitions",
    ]);
    let one = vec![
        found.coordinator.to_string(),
        id.to_owned(),
        found.producer_id.to_string(),
        found.producer_epoch.to_string(),
        found.state,
        found.timeout_ms.to_string(),
        or_none(found.started),
        or_none(found.started.map(|started| now_ms() - started)),
        partitions.join(","),
    ];
    print_table(&[header, one]);
    Ok(())
}

/// The partition that `--topic` and `--partition` name.
fn partition(options: &Options) -> Result<TopicPartition, Stop> {
    Ok(TopicPartition::new(
        options.require("topic")?,
        options.number("partition")?.unwrap_or_default(),
    ))
}

async fn producers_of(
    admin: &Admin,
    at: &TopicPartition,
    broker: Option<i32>,
) -> Result<Vec<ActiveProducer>, Error> {
    let mut found = admin.describe_producers(vec![at.clone()], broker).await?;
    found.remove(at).unwrap_or_else(|| Ok(Vec::new()))
}

async fn describe_producers(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let (at, broker) = (partition(options)?, options.number("broker-id")?);
    let whom = broker.map_or_else(|| "leader".into(), |id| format!("broker {id}"));
    let what = format!("Failed to describe producers for partition {at} on {whom}");
    let found = producers_of(admin, &at, broker).await.map_err(failed(what))?;
    let mut table = vec![row([
        "ProducerId",
        "ProducerEpoch",
        "LatestCoordinatorEpoch",
        "LastSequence",
        "LastTimestamp",
        "CurrentTransactionStartOffset",
    ])];
    table.extend(found.iter().map(|one| {
        vec![
            one.id.to_string(),
            one.epoch.to_string(),
            one.coordinator_epoch.unwrap_or(-1).to_string(),
            one.last_sequence.to_string(),
            one.last_timestamp.to_string(),
            or_none(one.transaction_start),
        ]
    }));
    print_table(&table);
    Ok(())
}

async fn abort(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let at = partition(options)?;
    let open = match options.number::<i64>("start-offset")? {
        Some(start) => open_at(admin, at, start).await?,
        None => OpenTransaction {
            at,
            producer_id: options.number("producer-id")?.unwrap_or_default(),
            producer_epoch: options.number("producer-epoch")?.unwrap_or_default(),
            // A producer that no coordinator has written a marker of is described with -1.
            coordinator_epoch: options.number::<i32>("coordinator-epoch")?.unwrap_or(0).max(0),
        },
    };
    let what = format!(
        "Failed to abort the transaction of producer {} epoch {} in {}",
        open.producer_id, open.producer_epoch, open.at
    );
    admin.abort_transaction(&open).await.map_err(failed(what))
}

/// The transaction that begins at offset `start`.
async fn open_at(admin: &Admin, at: TopicPartition, start: i64) -> Result<OpenTransaction, Stop> {
    let what = format!("Failed to validate producer state for partition {at}");
    let producers = producers_of(admin, &at, None).await.map_err(failed(what))?;
    let found = producers.iter().find(|one| one.transaction_start == Some(start));
    let found = found.ok_or_else(|| {
        Stop::Failed(format!(
            "Could not find any open transactions starting at offset {start} on partition {at}"
        ))
    })?;
    Ok(OpenTransaction {
        producer_id: found.id,
        producer_epoch: i16::try_from(found.epoch).unwrap_or(i16::MAX),
        coordinator_epoch: found.coordinator_epoch.unwrap_or(0),
        at,
    })
}

type Open = (TopicPartition, ActiveProducer);

async fn find_hanging(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let broker: Option<i32> = options.number("broker-id")?;
    let minutes: i64 = options.number("max-transaction-timeout")?.unwrap_or(15);
    let partitions = partitions_to_search(admin, options, broker).await?;
    let oldest = now_ms() - minutes * MINUTE_MS;
    let mut candidates: Vec<Open> = Vec::new();
    for some in partitions.chunks(AT_ONCE) {
        let what = format!("Failed to describe producers for {} partitions", some.len());
        let found = admin.describe_producers(some.to_vec(), broker).await;
        for (at, producers) in found.map_err(failed(what.clone()))? {
            let producers = producers.map_err(failed(format!("{what}: {at}")))?;
            let is_old = |one: &ActiveProducer| {
                one.transaction_start.is_some() && one.last_timestamp < oldest
            };
            candidates.extend(producers.into_iter().filter(is_old).map(|one| (at.clone(), one)));
        }
    }
    print_hanging(&hanging(admin, candidates).await?);
    Ok(())
}

async fn partitions_to_search(
    admin: &Admin,
    options: &Options,
    broker: Option<i32>,
) -> Result<Vec<TopicPartition>, Stop> {
    if options.has("partition") {
        return Ok(vec![partition(options)?]);
    }
    let topics = match options.value("topic")? {
        Some(name) => admin.describe_topics(&[name]).await?,
        None => admin.topics(None).await?,
    };
    if let Some(Topic { name, error: Some(code), .. }) =
        topics.iter().find(|topic| topic.error.is_some())
    {
        return Err(Stop::Failed(format!("Failed to describe the topic {name}: {code:?}")));
    }
    let of = |topic: &Topic| {
        let here = topic
            .partitions
            .iter()
            .filter(|partition| broker.is_none_or(|broker| partition.replicas.contains(&broker)));
        here.map(|one| TopicPartition::new(topic.name.as_str(), one.id)).collect::<Vec<_>>()
    };
    Ok(topics.iter().flat_map(of).collect())
}

/// Those of which no coordinator will write the end.
async fn hanging(admin: &Admin, mut candidates: Vec<Open>) -> Result<Vec<Open>, Stop> {
    if candidates.is_empty() {
        return Ok(candidates);
    }
    let producer_ids: BTreeSet<i64> = candidates.iter().map(|(_, one)| one.id).collect();
    let filter = TransactionFilter {
        producer_ids: producer_ids.into_iter().collect(),
        ..TransactionFilter::default()
    };
    let listed = admin.list_transactions(&filter).await;
    let listed = listed.map_err(failed("Failed to list transactions".into()))?;
    let ids: BTreeMap<i64, String> =
        listed.into_iter().map(|one| (one.producer_id, one.transactional_id)).collect();
    let known = admin.known_transactions(ids.values().map(String::as_str)).await;
    let known = known.map_err(failed(format!("Failed to describe {} transactions", ids.len())))?;
    candidates.retain(|(at, producer)| {
        let description = ids.get(&producer.id).and_then(|id| known.get(id));
        description.is_none_or(|it: &TransactionDescription| !it.partitions.contains(at))
    });
    Ok(candidates)
}

fn print_hanging(open: &[Open]) {
    let mut table = vec![row([
        "Topic",
        "Partition",
        "ProducerId",
        "ProducerEpoch",
        "CoordinatorEpoch",
        "StartOffset",
        "LastTimestamp",
        "Duration(min)",
    ])];
    let now = now_ms();
    table.extend(open.iter().map(|(at, one)| {
        vec![
            at.topic.to_string(),
            at.partition.to_string(),
            one.id.to_string(),
            one.epoch.to_string(),
            one.coordinator_epoch.unwrap_or(-1).to_string(),
            one.transaction_start.unwrap_or(-1).to_string(),
            one.last_timestamp.to_string(),
            ((now - one.last_timestamp) / MINUTE_MS).to_string(),
        ]
    }));
    print_table(&table);
}
