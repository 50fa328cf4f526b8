//! `kafka-consumer-groups.sh --describe`: the lag table, the members, the state.

use std::collections::{BTreeMap, BTreeSet};

use ottla_client::{Admin, GroupDescription, GroupMember, GroupOffset, OffsetSpec, TopicPartition};

use super::consumer_groups::{chosen_groups, java_words};
use super::options::Options;
use super::{Stop, complain, say};

pub(super) async fn describe(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let verbose = options.has("verbose");
    for group in chosen_groups(admin, options).await? {
        let description = match admin.describe_group(&group).await {
            Ok(description) => description,
            Err(error) => return Err(Stop::Failed(java_words(&error))),
        };
        if options.has("state") {
            note_state(&description);
            print_state(&description, verbose);
        } else if options.has("members") {
            note_state(&description);
            print_members(&description, verbose);
        } else {
            let offsets = admin.group_offsets(&group, None).await?;
            let ends = ends(admin, &description, &offsets).await?;
            note_state(&description);
            print_offsets(&description, &offsets, &ends, verbose);
        }
    }
    Ok(())
}

/// What a reader should know before the table; on stderr, so that scripts see tables only.
fn note_state(group: &GroupDescription) {
    match group.state.as_str() {
        "Empty" => complain(format_args!("\nConsumer group '{}' has no active members.", group.id)),
        "PreparingRebalance" | "CompletingRebalance" | "Assigning" | "Reconciling" => {
            complain(format_args!("\nWarning: Consumer group '{}' is rebalancing.", group.id));
        }
        _ => {}
    }
}

/// The log end of every partition that the group reads or has committed.
async fn ends(
    admin: &Admin,
    group: &GroupDescription,
    offsets: &BTreeMap<TopicPartition, GroupOffset>,
) -> Result<BTreeMap<TopicPartition, i64>, Stop> {
    let assigned = group.members.iter().flat_map(|member| &member.assignment);
    let all = assigned.chain(offsets.keys()).map(|at| (at.clone(), OffsetSpec::Latest)).collect();
    let found = admin.list_offsets(&all).await?;
    // A topic that is gone has no end, and is shown without.
    Ok(found.into_iter().filter_map(|(at, end)| Some((at, end.ok()?.0))).collect())
}

fn print_offsets(
    group: &GroupDescription,
    offsets: &BTreeMap<TopicPartition, GroupOffset>,
    ends: &BTreeMap<TopicPartition, i64>,
    verbose: bool,
) {
    let mut rows: Vec<(&TopicPartition, Option<&GroupMember>)> = Vec::new();
    let mut members: Vec<&GroupMember> = group.members.iter().collect();
    members.sort_by_key(|member| std::cmp::Reverse(member.assignment.len()));
    for member in members {
        let assigned: BTreeSet<&TopicPartition> = member.assignment.iter().collect();
        rows.extend(assigned.into_iter().map(|at| (at, Some(member))));
    }
    let assigned: BTreeSet<&TopicPartition> = rows.iter().map(|(at, _)| *at).collect();
    rows.extend(offsets.keys().filter(|at| !assigned.contains(at)).map(|at| (at, None)));
    if rows.is_empty() {
        return;
    }
    let text = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let mut table = vec![
        [
            "GROUP",
            "TOPIC",
            "PARTITION",
            "LEADER-EPOCH",
            "CURRENT-OFFSET",
            "LOG-END-OFFSET",
            "LAG",
            "CONSUMER-ID",
            "HOST",
            "CLIENT-ID",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for (at, member) in rows {
        let committed = offsets.get(at);
        let current = committed.map(|committed| committed.offset);
        let end = ends.get(at).copied();
        let part = |of: fn(&GroupMember) -> &str| member.map_or("-", of).to_owned();
        table.push(vec![
            group.id.clone(),
            at.topic.to_string(),
            at.partition.to_string(),
            text(committed.and_then(|committed| committed.leader_epoch).map(i64::from)),
            text(current),
            text(end),
            text(current.zip(end).map(|(current, end)| end - current)),
            part(|member| &member.id),
            part(|member| &member.host),
            part(|member| &member.client_id),
        ]);
    }
    if !verbose {
        for row in &mut table {
            row.remove(3);
        }
    }
    let at_least: &[usize] = if verbose {
        &[15, 15, 10, 15, 15, 15, 15, 15, 15, 0]
    } else {
        &[15, 15, 10, 15, 15, 15, 15, 15, 0]
    };
    say("");
    print_table(&table, at_least, "");
}

/// Rows in columns, each as wide as `at_least` says or as its widest cell; the last is not filled up
/// where that is 0.
fn print_table(table: &[Vec<String>], at_least: &[usize], end: &str) {
    let width = |column: usize| {
        let widest = table.iter().map(|row| row[column].len()).max().unwrap_or(0);
        if at_least[column] == 0 { 0 } else { widest.max(at_least[column]) }
    };
    let widths: Vec<usize> = (0..at_least.len()).map(width).collect();
    for row in table {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        say(format_args!("{}{end}", cells.collect::<Vec<_>>().join(" ")));
    }
}

fn print_members(group: &GroupDescription, verbose: bool) {
    let statics = group.members.iter().any(|member| member.instance_id.is_some());
    let mut head = vec!["GROUP", "CONSUMER-ID"];
    let mut at_least = vec![15, 15];
    if statics {
        head.push("GROUP-INSTANCE-ID");
        at_least.push(17);
    }
    head.extend(["HOST", "CLIENT-ID", "#PARTITIONS"]);
    at_least.extend([15, 15, 15]);
    if verbose {
        head.extend(["CURRENT-EPOCH", "CURRENT-ASSIGNMENT", "TARGET-EPOCH", "TARGET-ASSIGNMENT"]);
        at_least.extend([15, 20, 15, 20]);
    }
    let mut table = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for member in &group.members {
        let mut row = vec![group.id.clone(), member.id.clone()];
        if statics {
            row.push(member.instance_id.clone().unwrap_or_default());
        }
        row.extend([
            member.host.clone(),
            member.client_id.clone(),
            member.assignment.len().to_string(),
        ]);
        if verbose {
            let number = |value: Option<i32>| {
                value.map_or_else(|| "-".to_owned(), |value| value.to_string())
            };
            row.extend([number(member.epoch), assignment(&member.assignment)]);
            row.extend([
                number(group.epochs.map(|(_, target)| target)),
                assignment(&member.target),
            ]);
        }
        table.push(row);
    }
    say("");
    print_table(&table, &at_least, if verbose { "" } else { " " });
}

/// `topic:0,1;other:2`, or a dash.
fn assignment(partitions: &[TopicPartition]) -> String {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for at in partitions {
        topics.entry(&at.topic).or_default().push(at.partition);
    }
    let one = |(topic, mut partitions): (&str, Vec<i32>)| {
        partitions.sort_unstable();
        let numbers: Vec<String> = partitions.iter().map(ToString::to_string).collect();
        format!("{topic}:{}", numbers.join(","))
    };
    match topics.into_iter().map(one).collect::<Vec<_>>().join(";") {
        empty if empty.is_empty() => "-".into(),
        text => text,
    }
}

fn print_state(group: &GroupDescription, verbose: bool) {
    let coordinator = group.coordinator.as_ref().map_or_else(
        || "-".to_owned(),
        |node| format!("{}:{}  ({})", node.host, node.port, node.id),
    );
    let mut table = [
        [
            "GROUP",
            "COORDINATOR (ID)",
            "ASSIGNMENT-STRATEGY",
            "STATE",
            "GROUP-EPOCH",
            "TARGET-ASSIGNMENT-EPOCH",
            "#MEMBERS",
        ]
        .map(str::to_owned)
        .to_vec(),
        vec![
            group.id.clone(),
            coordinator,
            if group.assignor.is_empty() { "-".to_owned() } else { group.assignor.clone() },
            group.state.clone(),
            group.epochs.map_or_else(|| "-".to_owned(), |(epoch, _)| epoch.to_string()),
            group.epochs.map_or_else(|| "-".to_owned(), |(_, target)| target.to_string()),
            group.members.len().to_string(),
        ],
    ];
    if !verbose {
        for row in &mut table {
            row.drain(4..6);
        }
    }
    let at_least: &[usize] =
        if verbose { &[15, 25, 20, 20, 15, 25, 0] } else { &[15, 25, 20, 20, 0] };
    say("");
    print_table(&table, at_least, "");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_written_by_topic() {
        let at = |topic: &str, partition| TopicPartition::new(topic, partition);
        assert_eq!(assignment(&[]), "-");
        assert_eq!(assignment(&[at("b", 0), at("a", 2), at("a", 1)]), "a:1,2;b:0");
    }
}
