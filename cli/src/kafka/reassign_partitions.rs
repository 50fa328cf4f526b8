//! kafka-reassign-partitions.sh: moving replicas from broker to broker.
//!
//! Moves between the log directories of a broker are in [`super::log_dir_moves`]. Deliberately
//! absent, refused by name: throttles (`--throttle`). So `--verify` and `--cancel` have none to
//! clear, and say nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ottla_client::{Admin, Error, ErrorCode, Node, TopicPartition};
use serde::{Deserialize, Serialize};

use super::connect::{self, Asked, BOOTSTRAP, BOOTSTRAP_CONTROLLER, COMMAND_CONFIG};
use super::log_dir_moves::{self, Replica, Targets};
use super::options::{Options, flag, value};
use super::placing::{by_racks, place};
use super::{Stop, Tool, complain, say};

pub(crate) const TOOL: Tool = Tool {
    name: "kafka-reassign-partitions",
    about: "This tool helps to move topic partitions between replicas.",
    examples: "
  kafka-reassign-partitions.sh --bootstrap-server localhost:9092 --generate --topics-to-move-json-file topics.json --broker-list 0,1,2
  kafka-reassign-partitions.sh --bootstrap-server localhost:9092 --execute --reassignment-json-file plan.json
  kafka-reassign-partitions.sh --bootstrap-server localhost:9092 --verify --reassignment-json-file plan.json
  kafka-reassign-partitions.sh --bootstrap-server localhost:9092 --list",
    options: &[
        BOOTSTRAP,
        BOOTSTRAP_CONTROLLER,
        COMMAND_CONFIG,
        flag("verify", "Verify if the reassignment completed as specified by the --reassignment-json-file option."),
        flag("generate", "Generate a candidate partition reassignment configuration. Note that this only generates a candidate assignment, it does not execute it."),
        flag("execute", "Kick off the reassignment as specified by the --reassignment-json-file option."),
        flag("cancel", "Cancel an active reassignment."),
        flag("list", "List all active partition reassignments."),
        value("reassignment-json-file", "manual assignment json file path", "The JSON file with the partition reassignment configuration: {\"partitions\": [{\"topic\": \"foo\", \"partition\": 1, \"replicas\": [1,2,3]}], \"version\": 1}"),
        value("topics-to-move-json-file", "topics to reassign json file path", "Generate a reassignment of these topics to the brokers of --broker-list: {\"topics\": [{\"topic\": \"foo\"}], \"version\": 1}"),
        value("broker-list", "brokerlist", "The brokers to which the partitions are to be reassigned, in the form \"0,1,2\"."),
        flag("disable-rack-aware", "Disable rack aware replica assignment"),
        value("timeout", "timeout", "The maximum time in ms to wait for log directory replica assignment to begin. (default: 10000)"),
        flag("additional", "Execute this reassignment in addition to any other ongoing ones."),
        flag("preserve-throttles", "Without effect: there are no throttles."),
        flag("disallow-replication-factor-change", "Denies the ability to change a partition's replication factor as part of this reassignment."),
        value("throttle", "throttle", "Not supported: the movement of partitions is not throttled."),
        value("replica-alter-log-dirs-throttle", "throttle", "Not supported."),
    ],
    run: |options| Box::pin(run(options)),
};

const ACTIONS: [&str; 5] = ["generate", "execute", "verify", "cancel", "list"];
const EXISTING: &str = "Cannot execute because there is an existing partition assignment.  Use --additional to override this and create a new partition assignment in addition to the existing one. The --additional flag can also be used to change the throttle by resubmitting the current reassignment.";

pub(super) type Assignment = BTreeMap<TopicPartition, Vec<i32>>;

async fn run(options: Options) -> Result<(), Stop> {
    let given: Vec<&str> = ACTIONS.into_iter().filter(|action| options.has(action)).collect();
    let [action] = given[..] else {
        return Err(Stop::Usage(format!(
            "Command must include exactly one action: {}",
            ACTIONS.map(|action| format!("--{action}")).join(", ")
        )));
    };
    for name in ["throttle", "replica-alter-log-dirs-throttle"] {
        if options.has(name) {
            return Err(Stop::Failed(format!("--{name} is not supported: nothing is throttled")));
        }
    }
    check_options(&options, action)?;
    let done = match action {
        "generate" => generate(&admin(&options).await?, &options).await,
        "execute" => execute(&admin(&options).await?, &options).await,
        "verify" => verify(&admin(&options).await?, &options).await,
        "cancel" => cancel(&admin(&options).await?, &options).await,
        _ => list(&admin(&options).await?).await,
    };
    // What goes wrong is told on standard output, as Kafka's tool does it.
    done.map_err(|stop| match stop {
        Stop::Failed(message) => {
            say(message);
            Stop::Exit(1)
        }
        stop => stop,
    })
}

fn check_options(options: &Options, action: &str) -> Result<(), Stop> {
    let required: &[&str] = match action {
        "generate" => &["topics-to-move-json-file", "broker-list"],
        "list" => &[],
        _ => &["reassignment-json-file"],
    };
    let allowed: &[&str] = match action {
        "generate" => &["disable-rack-aware"],
        "execute" => &["additional", "timeout", "disallow-replication-factor-change"],
        "verify" => &["preserve-throttles"],
        "cancel" => &["preserve-throttles", "timeout", "bootstrap-controller"],
        _ => &["bootstrap-controller"],
    };
    for name in required {
        options.require(name)?;
    }
    let always = ["bootstrap-server", "command-config", action];
    let known =
        |name: &str| always.contains(&name) || required.contains(&name) || allowed.contains(&name);
    match TOOL.options.iter().find(|one| options.has(one.name) && !known(one.name)) {
        Some(one) => Err(Stop::Usage(format!(
            "Option \"[{}]\" can't be used with action \"[{action}]\"",
            one.name
        ))),
        None => Ok(()),
    }
}

async fn admin(options: &Options) -> Result<Admin, Stop> {
    let mut properties = connect::command_config(options)?;
    properties.entry("client.id".into()).or_insert_with(|| "reassign-partitions-tool".into());
    match connect::either(options, properties).await? {
        Asked::Brokers(admin) => Ok(admin),
        Asked::Controllers(_) => Err(Stop::Failed(
            "--bootstrap-controller is not supported here: use --bootstrap-server".into(),
        )),
    }
}

/// The file of `--reassignment-json-file`, in and out.
#[derive(Serialize, Deserialize)]
struct Plan {
    #[serde(default = "one")]
    version: i32,
    #[serde(default)]
    partitions: Vec<Planned>,
}

#[derive(Serialize, Deserialize)]
struct Planned {
    topic: String,
    partition: i32,
    replicas: Vec<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log_dirs: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Topics {
    #[serde(default = "one")]
    version: i32,
    #[serde(default)]
    topics: Vec<TopicName>,
}

#[derive(Deserialize)]
struct TopicName {
    topic: String,
}

fn one() -> i32 {
    1
}

fn read<T: serde::de::DeserializeOwned>(path: &str) -> Result<T, Stop> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Stop::Failed(format!("Error: {path}: {error}")))?;
    serde_json::from_str(&text).map_err(|error| Stop::Failed(format!("Error: {path}: {error}")))
}

fn check_version(version: i32) -> Result<(), Stop> {
    match version {
        1 => Ok(()),
        other => Err(failed(format!("Not supported version field value {other}"))),
    }
}

fn failed(message: impl std::fmt::Display) -> Stop {
    Stop::Failed(format!("Error: {message}"))
}

/// The partitions of the plan in its order with their target replicas, and those of these that are
/// to be in a certain log directory.
type Wanted = (Vec<(TopicPartition, Vec<i32>)>, Targets);

fn plan(options: &Options) -> Result<Wanted, Stop> {
    let plan: Plan = read(options.require("reassignment-json-file")?)?;
    check_version(plan.version)?;
    let (mut all, mut targets) = (Vec::new(), Targets::new());
    for one in plan.partitions {
        let at = TopicPartition::new(one.topic, one.partition);
        let dirs = one.log_dirs.unwrap_or_default();
        if !dirs.is_empty() && dirs.len() != one.replicas.len() {
            return Err(failed(format!(
                "Size of replicas list {:?} is different from size of log dirs list {dirs:?} for partition {at}",
                one.replicas
            )));
        }
        for (id, dir) in one.replicas.iter().zip(dirs).filter(|(_, dir)| dir != "any") {
            targets.insert(Replica::new(at.clone(), *id), dir);
        }
        all.push((at, one.replicas));
    }
    Ok((all, targets))
}

/// For how long replicas are waited for that are to be moved to a log directory.
fn timeout(options: &Options) -> Result<Duration, Stop> {
    let Some(text) = options.value("timeout")? else { return Ok(Duration::from_secs(10)) };
    let millis = text.parse().map_err(|_| failed(format!("--timeout {text} is no number")))?;
    Ok(Duration::from_millis(millis))
}

async fn execute(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let (partitions, targets) = plan(options)?;
    let (proposed, patience) = (checked(partitions)?, timeout(options)?);
    if !options.has("additional") && !admin.reassignments().await?.is_empty() {
        return Err(Stop::Failed(EXISTING.into()));
    }
    let known: BTreeSet<i32> = brokers(admin).await?.iter().map(|node| node.id).collect();
    if let Some(id) = proposed.values().flatten().find(|id| !known.contains(id)) {
        return Err(failed(format!("Unknown broker id {id}")));
    }
    let mut current = assignment(admin, proposed.keys().map(|at| &*at.topic)).await?;
    current.retain(|at, _| proposed.contains_key(at));
    let missing: Vec<_> = proposed.keys().filter(|at| !current.contains_key(at)).collect();
    if !missing.is_empty() {
        return Err(failed(format!("Unable to find partition: {}", join(&missing, ", "))));
    }
    say(format_args!(
        "Current partition replica assignment\n\n{}\n\nSave this to use as the --reassignment-json-file option during rollback",
        json(&current, &directories(admin, &current).await)
    ));
    let change = proposed.iter().map(|(at, replicas)| (at.clone(), Some(replicas.clone())));
    let may_resize = !options.has("disallow-replication-factor-change");
    let results = admin.alter_reassignments(&change.collect(), may_resize).await?;
    tell_errors(&results, "Error reassigning partition(s):")?;
    say(format_args!(
        "Successfully started partition reassignment{} for {}",
        plural(proposed.len()),
        join(&proposed.keys().collect::<Vec<_>>(), ",")
    ));
    log_dir_moves::execute(admin, targets, patience).await
}

/// What of a plan can be executed: every partition once, with replicas, each of them once.
fn checked(plan: Vec<(TopicPartition, Vec<i32>)>) -> Result<Assignment, Stop> {
    if plan.is_empty() {
        return Err(failed("Partition reassignment list cannot be empty"));
    }
    let mut all = Assignment::new();
    for (at, replicas) in plan {
        if replicas.is_empty() {
            return Err(failed("Partition replica list cannot be empty"));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = replicas.iter().find(|id| !seen.insert(**id)) {
            return Err(failed(format!(
                "Partition replica lists may not contain duplicate entries: {at} contains multiple entries for {twice}"
            )));
        }
        if all.insert(at.clone(), replicas).is_some() {
            return Err(failed(format!(
                "Partition reassignment contains duplicate topic partitions: {at}"
            )));
        }
    }
    Ok(all)
}

async fn verify(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let (partitions, moves) = plan(options)?;
    let targets: Assignment = partitions.into_iter().collect();
    let under_way = admin.reassignments().await?;
    let mut current = Assignment::new();
    for topic in targets.keys().map(|at| &*at.topic).collect::<BTreeSet<_>>() {
        match assignment(admin, [topic].into_iter()).await {
            Ok(found) => current.extend(found),
            Err(Missing::Topic(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let numbers = |ids: &[i32]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    say("Status of partition reassignment:");
    for (at, target) in &targets {
        let now = current.get(at).map(Vec::as_slice).unwrap_or_default();
        if under_way.contains_key(at) {
            say(format_args!("Reassignment of partition {at} is still in progress."));
        } else if now == target {
            say(format_args!("Reassignment of partition {at} is completed."));
        } else {
            say(format_args!(
                "There is no active reassignment of partition {at}, but replica set is {} rather than {}.",
                numbers(now),
                numbers(target)
            ));
        }
    }
    log_dir_moves::verify(admin, &moves).await
}

async fn cancel(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let (partitions, moves) = plan(options)?;
    let named: BTreeSet<_> = partitions.into_iter().map(|(at, _)| at).collect();
    let active: Vec<_> =
        admin.reassignments().await?.into_keys().filter(|at| named.contains(at)).collect();
    if active.is_empty() {
        say("None of the specified partition reassignments are active.");
    } else {
        let change = active.iter().map(|at| (at.clone(), None)).collect();
        let results = admin.alter_reassignments(&change, true).await?;
        let title = format!("Error cancelling partition reassignment{} for:", plural(active.len()));
        tell_errors(&results, &title)?;
        say(format_args!(
            "Successfully cancelled partition reassignment{} for: {}",
            plural(active.len()),
            join(&active.iter().collect::<Vec<_>>(), ",")
        ));
    }
    log_dir_moves::cancel(admin, &moves, timeout(options)?).await
}

async fn list(admin: &Admin) -> Result<(), Stop> {
    let under_way = admin.reassignments().await?;
    if under_way.is_empty() {
        say("No partition reassignments found.");
        return Ok(());
    }
    say("Current partition reassignments:");
    let numbers = |ids: &[i32]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let part = |what: &str, ids: &[i32]| {
        if ids.is_empty() { String::new() } else { format!(" {what}: {}.", numbers(ids)) }
    };
    for (at, moving) in under_way {
        say(format_args!(
            "{at}: replicas: {}.{}{}",
            numbers(&moving.replicas),
            part("adding", &moving.adding),
            part("removing", &moving.removing)
        ));
    }
    Ok(())
}

async fn generate(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let ids: Result<Vec<i32>, _> =
        options.require("broker-list")?.split(',').map(|id| id.trim().parse()).collect();
    let ids = ids.map_err(|_| failed("--broker-list must be ids with commas between them"))?;
    let asked: Topics = read(options.require("topics-to-move-json-file")?)?;
    check_version(asked.version)?;
    let topics: Vec<String> = asked.topics.into_iter().map(|one| one.topic).collect();
    if let Some(twice) = duplicate(&ids) {
        return Err(failed(format!("Broker list contains duplicate entries: [{twice}]")));
    }
    if let Some(twice) = duplicate(&topics) {
        return Err(failed(format!(
            "List of topics to reassign contains duplicate entries: [{twice}]"
        )));
    }
    let current = assignment(admin, topics.iter().map(String::as_str)).await?;
    let mut usable: Vec<Node> =
        brokers(admin).await?.into_iter().filter(|node| ids.contains(&node.id)).collect();
    if options.has("disable-rack-aware") {
        for node in &mut usable {
            node.rack = None;
        }
    }
    let rackless = usable.iter().filter(|node| node.rack.is_none()).count();
    if rackless != 0 && rackless != usable.len() {
        return Err(failed(
            "Not all brokers have rack information. Add --disable-rack-aware in command line to make replica assignment without rack information.",
        ));
    }
    let start = std::process::id() as usize;
    let proposed = place(&current, &by_racks(&usable), start).map_err(failed)?;
    say(format_args!(
        "Current partition replica assignment\n{}\n",
        json(&current, &directories(admin, &current).await)
    ));
    say(format_args!(
        "Proposed partition reassignment configuration\n{}",
        json(&proposed, &BTreeMap::new())
    ));
    Ok(())
}

fn duplicate<T: Ord>(all: &[T]) -> Option<&T> {
    let mut seen = BTreeSet::new();
    all.iter().find(|one| !seen.insert(*one))
}

/// Why there is no assignment.
enum Missing {
    Topic(String),
    Other(Error),
}

impl From<Missing> for Stop {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Topic(name) => failed(format!("Topic {name} not found.")),
            Missing::Other(error) => failed(error),
        }
    }
}

async fn assignment(
    admin: &Admin,
    topics: impl Iterator<Item = &str>,
) -> Result<Assignment, Missing> {
    let names: BTreeSet<&str> = topics.collect();
    let names: Vec<&str> = names.into_iter().collect();
    let mut all = Assignment::new();
    for topic in admin.topics(Some(&names)).await.map_err(Missing::Other)? {
        if topic.error == Some(ErrorCode::UnknownTopicOrPartition) {
            return Err(Missing::Topic(topic.name));
        }
        for partition in topic.partitions {
            all.insert(TopicPartition::new(&*topic.name, partition.id), partition.replicas);
        }
    }
    Ok(all)
}

async fn brokers(admin: &Admin) -> Result<Vec<Node>, Stop> {
    let all = admin.describe_cluster().await?.brokers;
    Ok(all.into_iter().filter(|node| !node.fenced).collect())
}

/// Where each replica is, on the brokers that tell.
async fn directories(
    admin: &Admin,
    current: &Assignment,
) -> BTreeMap<(i32, TopicPartition), String> {
    let mut all = BTreeMap::new();
    for id in current.values().flatten().copied().collect::<BTreeSet<i32>>() {
        match admin.log_dirs(id, None).await {
            Ok(dirs) => {
                for dir in dirs {
                    let held = dir.replicas.into_iter().filter(|(.., future)| !future);
                    all.extend(held.map(|(at, ..)| ((id, at), dir.path.clone())));
                }
            }
            Err(error) => complain(format_args!("the log directories of broker {id}: {error}")),
        }
    }
    all
}

fn json(assignment: &Assignment, dirs: &BTreeMap<(i32, TopicPartition), String>) -> String {
    let any = "any".to_owned();
    let partitions = assignment.iter().map(|(at, replicas)| Planned {
        topic: at.topic.to_string(),
        partition: at.partition,
        replicas: replicas.clone(),
        log_dirs: Some(
            replicas
                .iter()
                .map(|id| dirs.get(&(*id, at.clone())).unwrap_or(&any).clone())
                .collect(),
        ),
    });
    let plan = Plan { version: 1, partitions: partitions.collect() };
    serde_json::to_string(&plan).unwrap_or_default()
}

fn tell_errors(
    results: &BTreeMap<TopicPartition, ottla_client::Result<()>>,
    title: &str,
) -> Result<(), Stop> {
    let errors: Vec<String> = results
        .iter()
        .filter_map(|(at, result)| Some(format!("{at}: {}", result.as_ref().err()?)))
        .collect();
    if errors.is_empty() {
        return Ok(());
    }
    Err(Stop::Failed(format!("{title}\n{}", errors.join("\n"))))
}

fn join(all: &[&TopicPartition], with: &str) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(with)
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    #[test]
    fn a_plan_is_written_in_kafkas_order_of_fields() {
        let dirs = BTreeMap::from([((1, at(0)), "/data".to_owned())]);
        assert_eq!(
            json(&Assignment::from([(at(0), vec![1, 2])]), &dirs),
            r#"{"version":1,"partitions":[{"topic":"t","partition":0,"replicas":[1,2],"log_dirs":["/data","any"]}]}"#
        );
    }

    #[test]
    fn a_plan_that_contradicts_itself_is_refused() {
        let told = |plan: Vec<(TopicPartition, Vec<i32>)>| match checked(plan) {
            Err(Stop::Failed(message)) => message,
            _ => "accepted".to_owned(),
        };
        assert!(told(vec![]).contains("list cannot be empty"));
        assert!(told(vec![(at(0), vec![])]).contains("replica list cannot be empty"));
        assert!(told(vec![(at(0), vec![1, 1])]).contains("multiple entries for 1"));
        let twice = told(vec![(at(0), vec![1]), (at(0), vec![2])]);
        assert!(twice.contains("duplicate topic partitions: t-0"), "{twice}");
        assert_eq!(told(vec![(at(0), vec![1, 2]), (at(1), vec![2])]), "accepted");
    }
}
