//! kafka-consumer-groups.sh: list, describe, delete, and what is shared with reset-offsets.
//!
//! As with Kafka's tool, an error about a group goes to standard output and the exit code stays 0;
//! only wrong arguments are 1.

use std::fmt::Write;

use ottla_client::{Admin, Error, ErrorCode};

use super::connect::{self, BOOTSTRAP, COMMAND_CONFIG};
use super::describe_groups::describe;
use super::options::{Options, flag, perhaps, value};
use super::reset_offsets::{partitions_of, reset};
use super::{Stop, Tool, complain, say};

pub(crate) const TOOL: Tool = Tool {
    name: "kafka-consumer-groups",
    about: "This tool helps to list all consumer groups, describe a consumer group, delete consumer group info, or reset consumer group offsets.",
    examples: "
  kafka-consumer-groups.sh --bootstrap-server localhost:9092 --list --state
  kafka-consumer-groups.sh --bootstrap-server localhost:9092 --describe --group billing
  kafka-consumer-groups.sh --bootstrap-server localhost:9092 --reset-offsets --group billing --topic orders:0,1 \\
      --to-datetime 2026-01-31T08:00:00.000 --dry-run
  kafka-consumer-groups.sh --bootstrap-server localhost:9092 --delete --group billing",
    options: &[
        BOOTSTRAP,
        COMMAND_CONFIG,
        value("group", "consumer group", "The consumer group we wish to act on. May be repeated."),
        value("topic", "topic", "The topic whose consumer group information should be deleted or reset. Partitions can be given: `topic1:0,1,2`. May be repeated."),
        flag("all-topics", "Consider all topics assigned to a group in the `reset-offsets` process."),
        flag("list", "List all consumer groups."),
        flag("describe", "Describe consumer group and list offset lag (number of messages not yet processed) related to given group."),
        flag("all-groups", "Apply to all consumer groups."),
        flag("delete", "Pass in groups to delete topic partition offsets and ownership information over the entire consumer group."),
        flag("reset-offsets", "Reset offsets of consumer group; its members must be inactive. --dry-run shows the plan, --execute carries it out, --export prints it as CSV. Choose one of --to-datetime, --by-duration, --to-earliest, --to-latest, --shift-by, --from-file, --to-current, --to-offset, and a scope: --all-topics or --topic."),
        flag("delete-offsets", "Delete offsets of consumer group. Supports one consumer group at the time, and multiple topics."),
        value("timeout", "timeout (ms)", "How long a call may take. (default: 30000)"),
        flag("dry-run", "Only show results without executing changes on Consumer Groups."),
        flag("execute", "Execute operation."),
        flag("export", "Export operation execution to a CSV file."),
        value("to-offset", "offset", "Reset offsets to a specific offset."),
        value("from-file", "path to CSV file", "Reset offsets to values defined in CSV file."),
        value("to-datetime", "datetime", "Reset offsets to offset from datetime. Format: 'YYYY-MM-DDThh:mm:ss.sss', with a zone or in UTC"),
        value("by-duration", "duration", "Reset offsets to offset by duration from current timestamp. Format: 'PnDTnHnMnS'"),
        flag("to-earliest", "Reset offsets to earliest offset."),
        flag("to-latest", "Reset offsets to latest offset."),
        value("shift-by", "number-of-offsets", "Reset offsets shifting current offset by 'n', where 'n' can be positive or negative."),
        flag("to-current", "Reset offsets to current offset."),
        flag("members", "Describe members of the group."),
        flag("offsets", "Describe the group and list all topic partitions in the group along with their offset lag. This is the default sub-action of --describe."),
        perhaps("state", "state", "With --describe, the state of the group. With --list, the states of all groups, or groups with specific states: --list --state stable,empty"),
        perhaps("type", "type", "With --list, the types of all the groups, or groups with specific types: --list --type classic,consumer"),
        flag("verbose", "Provide additional information, if any, when describing the group."),
    ],
    run: |options| Box::pin(run(options)),
};

const ACTIONS: [&str; 5] = ["list", "describe", "delete", "reset-offsets", "delete-offsets"];
pub(super) const SCENARIOS: [&str; 8] = [
    "to-datetime",
    "by-duration",
    "to-latest",
    "to-current",
    "to-earliest",
    "to-offset",
    "shift-by",
    "from-file",
];
const STATES: [&str; 7] = [
    "Dead",
    "PreparingRebalance",
    "Stable",
    "Reconciling",
    "CompletingRebalance",
    "Assigning",
    "Empty",
];
pub(super) const TYPES: [&str; 4] = ["Consumer", "Classic", "Share", "Streams"];

async fn run(options: Options) -> Result<(), Stop> {
    check(&options)?;
    let outcome = match connect::admin(&options).await {
        Ok(admin) => act(&admin, &options).await,
        Err(stop) => Err(stop),
    };
    match outcome {
        Err(Stop::Failed(message)) => {
            say(format_args!("\nError: Executing consumer group command failed due to {message}"));
            Ok(())
        }
        other => other,
    }
}

async fn act(admin: &Admin, options: &Options) -> Result<(), Stop> {
    if options.has("list") {
        list(admin, options).await
    } else if options.has("describe") {
        describe(admin, options).await
    } else if options.has("delete") {
        delete(admin, options).await
    } else if options.has("reset-offsets") {
        reset(admin, options).await
    } else {
        delete_offsets(admin, options).await
    }
}

fn check(options: &Options) -> Result<(), Stop> {
    let usage = |words: String| Err(Stop::Usage(words));
    if ACTIONS.iter().filter(|action| options.has(action)).count() != 1 {
        return usage(
            "Command must include exactly one action: --list, --describe, --delete, --reset-offsets, --delete-offsets"
                .into(),
        );
    }
    let groups = options.has("group") || options.has("all-groups");
    if options.has("describe") {
        if !groups {
            return usage(
                "Option [describe] takes one of these options: [all-groups], [group]".into(),
            );
        }
        if ["members", "offsets", "state"].iter().filter(|part| options.has(part)).count() > 1 {
            return usage("Option [describe] takes at most one of these options: [members], [offsets], [state]".into());
        }
        if !options.values("state").is_empty() {
            return usage("Option [describe] does not take a value for [state]".into());
        }
    }
    if options.has("delete") {
        if !groups {
            return usage(
                "Option [delete] takes one of these options: [all-groups], [group]".into(),
            );
        }
        if options.has("topic") {
            return usage(
                "The consumer does not support topic-specific offset deletion from a consumer group.".into(),
            );
        }
    }
    if options.has("list") {
        list_filters(options)?;
    }
    if options.has("delete-offsets") && !(options.has("group") && options.has("topic")) {
        return usage(
            "Option [delete-offsets] takes the following options: [topic], [group]".into(),
        );
    }
    if options.has("reset-offsets") {
        check_reset(options)?;
    }
    options.excludes("group", &["all-groups"])?;
    options.excludes("topic", &["all-topics"])?;
    options.excludes("members", &["reset-offsets", "delete", "list", "delete-offsets"])?;
    options.excludes("offsets", &["reset-offsets", "delete", "list", "delete-offsets"])
}

fn check_reset(options: &Options) -> Result<(), Stop> {
    if options.has("dry-run") && options.has("execute") {
        return Err(Stop::Usage(
            "Option [reset-offsets] only accepts one of [execute], [dry-run]".into(),
        ));
    }
    if !options.has("dry-run") && !options.has("execute") {
        complain(
            "WARN: No action will be performed as the --execute option is missing. \
             Add --dry-run when that is what you want.",
        );
    }
    if !options.has("group") && !options.has("all-groups") {
        return Err(Stop::Usage(
            "Option [reset-offsets] takes one of these options: [all-groups], [group]".into(),
        ));
    }
    let chosen = SCENARIOS.iter().filter(|scenario| options.has(scenario)).count();
    if chosen != 1 {
        let names: Vec<String> = SCENARIOS.iter().map(|name| format!("[{name}]")).collect();
        let words = format!(
            "Option '[reset-offsets]' requires one of the following scenarios: [{}]",
            names.join(", ")
        );
        return Err(Stop::Usage(words));
    }
    Ok(())
}

/// The groups that `--group` names, or all.
pub(super) async fn chosen_groups(admin: &Admin, options: &Options) -> Result<Vec<String>, Stop> {
    if !options.has("all-groups") {
        return Ok(options.values("group").to_vec());
    }
    Ok(consumer_groups(admin, &[], &[]).await?.into_iter().map(|group| group.id).collect())
}

async fn consumer_groups(
    admin: &Admin,
    states: &[String],
    types: &[String],
) -> Result<Vec<ottla_client::GroupListing>, Stop> {
    let mut groups = admin.list_groups(states, types).await?;
    // Groups of Kafka Connect and the like have another protocol type; simple consumers have none.
    groups.retain(|group| matches!(group.protocol_type.as_str(), "consumer" | ""));
    Ok(groups)
}

async fn list(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let (with_type, with_state) = (options.has("type"), options.has("state"));
    let (states, types) = list_filters(options)?;
    let groups = consumer_groups(admin, &states, &types).await?;
    if !with_type && !with_state {
        for group in &groups {
            say(&group.id);
        }
        return Ok(());
    }
    let width = groups.iter().map(|group| group.id.len()).max().unwrap_or(0).max(15) + 10;
    let row = |id: &str, kind: &str, state: &str| {
        let mut line = format!("{id:<width$}");
        if with_type {
            let _ = write!(line, " {kind:<20}");
        }
        if with_state {
            let _ = write!(line, " {state:<20}");
        }
        say(line);
    };
    row("GROUP", "TYPE", "STATE");
    for group in &groups {
        let kind = TYPES
            .iter()
            .find(|kind| kind.eq_ignore_ascii_case(&group.kind))
            .copied()
            .unwrap_or("Unknown");
        row(&group.id, kind, &group.state);
    }
    Ok(())
}

/// The states and types that `--list` shows; empty: all.
fn list_filters(options: &Options) -> Result<(Vec<String>, Vec<String>), Stop> {
    let states = chosen_names(options, "state", &STATES, "Invalid state list", "Valid states")?;
    let types = chosen_names(options, "type", &TYPES, "Invalid types list", "Valid types")?;
    let types: Vec<String> = types.iter().map(|kind| kind.to_lowercase()).collect();
    Ok((states, types))
}

/// The comma-separated names in the value of `option`, spelt as Kafka spells them.
fn chosen_names(
    options: &Options,
    option: &str,
    all: &[&str],
    wrong: &str,
    valid: &str,
) -> Result<Vec<String>, Stop> {
    let Some(text) = options.value(option)? else { return Ok(Vec::new()) };
    let known = |name: &str| {
        all.iter().find(|known| known.eq_ignore_ascii_case(name.trim())).map(ToString::to_string)
    };
    let names: Option<Vec<String>> = text.split(',').map(known).collect();
    names.ok_or_else(|| Stop::Usage(format!("{wrong} '{text}'. {valid} are: {}", all.join(", "))))
}

async fn delete(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let (mut deleted, mut failed) = (Vec::new(), Vec::new());
    for group in chosen_groups(admin, options).await? {
        match admin.delete_group(&group).await {
            Ok(()) => deleted.push(format!("'{group}'")),
            Err(error) => {
                failed.push(format!(
                    "* Group '{group}' could not be deleted due to: {}",
                    java_words(&error)
                ));
            }
        }
    }
    if failed.is_empty() {
        say(format_args!(
            "Deletion of requested consumer groups ({}) was successful.",
            deleted.join(", ")
        ));
        return Ok(());
    }
    say("\nError: Deletion of some consumer groups failed:");
    failed.iter().for_each(say);
    if !deleted.is_empty() {
        say(format_args!(
            "\nThese consumer groups were deleted successfully: {}",
            deleted.join(", ")
        ));
    }
    Ok(())
}

async fn delete_offsets(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let group = options.require("group")?;
    let mut rows: Vec<(String, String, String)> = Vec::new();
    let mut partitions = Vec::new();
    for topic in options.values("topic") {
        match partitions_of(admin, topic).await {
            Ok(found) => partitions.extend(found),
            Err(error) => {
                rows.push((topic.clone(), "-".into(), format!("Error: {}", java_words(&error))));
            }
        }
    }
    let mut partial = false;
    let outcome = if partitions.is_empty() {
        Ok(())
    } else {
        match admin.delete_group_offsets(group, &partitions).await {
            Ok(results) => {
                for (at, result) in results {
                    let status = match result {
                        Ok(()) => "Successful".to_owned(),
                        Err(error) => {
                            partial = true;
                            format!("Error: {}", java_words(&error))
                        }
                    };
                    rows.push((at.topic.to_string(), at.partition.to_string(), status));
                }
                Ok(())
            }
            Err(error) => {
                let status = |at: &ottla_client::TopicPartition| {
                    (
                        at.topic.to_string(),
                        at.partition.to_string(),
                        format!("Error: {}", java_words(&error)),
                    )
                };
                rows.extend(partitions.iter().map(status));
                Err(error)
            }
        }
    };
    match outcome.as_ref().map_err(Error::code) {
        Ok(()) if partial => {
            say("\nError: Encountered some partition-level error, see the follow-up details.");
        }
        Ok(()) => say(format_args!("Request succeeded for deleting offsets from group {group}.")),
        Err(Some(
            ErrorCode::GroupIdNotFound
            | ErrorCode::InvalidGroupId
            | ErrorCode::NonEmptyGroup
            | ErrorCode::GroupAuthorizationFailed,
        )) => say(format_args!(
            "\nError: {}",
            outcome.as_ref().err().map(ToString::to_string).unwrap_or_default()
        )),
        Err(_) => say("\nError: Encountered some unknown error."),
    }
    let width = rows.iter().map(|(topic, ..)| topic.len()).max().unwrap_or(0).max(15);
    say(format_args!("\n{:<width$} {:<10} {:<15}", "TOPIC", "PARTITION", "STATUS"));
    for (topic, partition, status) in &rows {
        say(format_args!("{topic:<width$} {partition:<10} {status:<15}"));
    }
    Ok(())
}

/// An error as Java prints it: class and message.
pub(super) fn java_words(error: &Error) -> String {
    let Some(code) = error.code() else { return error.to_string() };
    let class = match code {
        ErrorCode::NonEmptyGroup => "GroupNotEmpty".to_owned(),
        ErrorCode::TopicAlreadyExists => "TopicExists".to_owned(),
        ErrorCode::RequestTimedOut => "Timeout".to_owned(),
        ErrorCode::InvalidConfig => "InvalidConfiguration".to_owned(),
        other => format!("{other:?}").trim_end_matches("Exception").to_owned(),
    };
    format!("org.apache.kafka.common.errors.{class}Exception: {error}")
}
