//! `kafka-consumer-groups.sh --reset-offsets`: which offset each partition gets, then the commit.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use ottla_client::{Admin, Error, ErrorCode, OffsetSpec, TopicPartition};

use super::consumer_groups::{chosen_groups, java_words};
use super::options::Options;
use super::time::{parse_datetime, parse_duration};
use super::{Stop, complain, say};

type Plan = BTreeMap<TopicPartition, i64>;

pub(super) async fn reset(admin: &Admin, options: &Options) -> Result<(), Stop> {
    let groups = chosen_groups(admin, options).await?;
    let mut plans: BTreeMap<String, Plan> = BTreeMap::new();
    for group in &groups {
        let state = match admin.describe_group(group).await {
            Ok(description) => description.state,
            Err(Error::Kafka { code: ErrorCode::GroupIdNotFound, .. }) => "Dead".into(),
            Err(error) => return Err(Stop::Failed(java_words(&error))),
        };
        if !matches!(state.as_str(), "Empty" | "Dead") {
            say(format_args!(
                "\nError: Assignments can only be reset if the group '{group}' is inactive, but the current state is {state}."
            ));
            plans.insert(group.clone(), Plan::new());
            continue;
        }
        let plan = plan(admin, options, group, groups.len() > 1).await?;
        if options.has("execute") {
            for (at, result) in admin.alter_group_offsets(group, &plan).await? {
                result.map_err(|error| Stop::Failed(format!("{at}: {error}")))?;
            }
        }
        plans.insert(group.clone(), plan);
    }
    if options.has("export") {
        export(&plans);
    } else {
        print(&plans);
    }
    Ok(())
}

fn print(plans: &BTreeMap<String, Plan>) {
    let rows: Vec<(&String, &TopicPartition, &i64)> = plans
        .iter()
        .flat_map(|(group, plan)| plan.iter().map(move |(at, offset)| (group, at, offset)))
        .collect();
    let group_width = rows.iter().map(|(group, ..)| group.len()).max().unwrap_or(0).max(15);
    let topic_width = rows.iter().map(|(_, at, _)| at.topic.len()).max().unwrap_or(0).max(15);
    say(format_args!(
        "\n{:<group_width$} {:<topic_width$} {:<10} NEW-OFFSET",
        "GROUP", "TOPIC", "PARTITION"
    ));
    for (group, at, offset) in rows {
        say(format_args!(
            "{group:<group_width$} {:<topic_width$} {:<10} {offset}",
            at.topic, at.partition
        ));
    }
}

fn export(plans: &BTreeMap<String, Plan>) {
    for (group, plan) in plans {
        let group = if plans.len() > 1 { format!("{group},") } else { String::new() };
        for (at, offset) in plan {
            say(format_args!("{group}{},{},{offset}", at.topic, at.partition));
        }
    }
    say("");
}

async fn plan(admin: &Admin, options: &Options, group: &str, several: bool) -> Result<Plan, Stop> {
    if let Some(path) = options.value("from-file")? {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Stop::Failed(format!("cannot read {path}: {error}")))?;
        let mut plan = parse_csv(&text, group, several)?;
        clamp(admin, &mut plan).await?;
        return Ok(plan);
    }
    let committed = admin.group_offsets(group, None).await?;
    let partitions: Vec<TopicPartition> = if options.has("all-topics") {
        committed.keys().cloned().collect()
    } else if options.has("topic") {
        let mut all = Vec::new();
        for topic in options.values("topic") {
            all.extend(partitions_of(admin, topic).await?);
        }
        all
    } else {
        return Err(Stop::Usage(
            "One of the reset scopes should be defined: --all-topics, --topic.".into(),
        ));
    };
    let to = |spec: OffsetSpec| look_up(admin, &partitions, spec);
    if options.has("to-earliest") {
        return to(OffsetSpec::Earliest).await;
    }
    if options.has("to-latest") {
        return to(OffsetSpec::Latest).await;
    }
    if let Some(text) = options.value("to-datetime")? {
        return to(OffsetSpec::Timestamp(parse_datetime(text).map_err(Stop::Usage)?)).await;
    }
    if let Some(text) = options.value("by-duration")? {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as i64);
        return to(OffsetSpec::Timestamp(now - parse_duration(text).map_err(Stop::Usage)?)).await;
    }
    let mut plan = Plan::new();
    if let Some(offset) = options.number::<i64>("to-offset")? {
        plan.extend(partitions.iter().map(|at| (at.clone(), offset)));
    } else if let Some(shift) = options.number::<i64>("shift-by")? {
        for at in &partitions {
            let current = committed.get(at).ok_or_else(|| {
                Stop::Usage(format!(
                    "Cannot shift offset for partition {at} since there is no current committed offset"
                ))
            })?;
            plan.insert(at.clone(), current.offset + shift);
        }
    } else {
        // To current: what is committed, and the end where nothing is.
        let missing: Vec<TopicPartition> =
            partitions.iter().filter(|at| !committed.contains_key(at)).cloned().collect();
        plan = look_up(admin, &missing, OffsetSpec::Latest).await?;
        let current =
            partitions.iter().filter_map(|at| Some((at.clone(), committed.get(at)?.offset)));
        plan.extend(current);
        return Ok(plan);
    }
    clamp(admin, &mut plan).await?;
    Ok(plan)
}

/// The partitions that `topic` or `topic:0,1` names; they must exist.
pub(super) async fn partitions_of(admin: &Admin, text: &str) -> Result<Vec<TopicPartition>, Error> {
    let (name, asked) = match text.rsplit_once(':') {
        Some((name, numbers)) => {
            let numbers: Result<Vec<i32>, _> = numbers.split(',').map(str::parse).collect();
            let numbers = numbers.map_err(|_| {
                Error::Invalid(format!(
                    "Partition list of {text:?} is not numbers with commas between them"
                ))
            })?;
            (name, Some(numbers))
        }
        None => (text, None),
    };
    let found = admin.topics(Some(&[name])).await?;
    let existing = match found.first() {
        Some(topic) if topic.error.is_none() => {
            topic.partitions.iter().map(|one| one.id).collect::<Vec<i32>>()
        }
        _ => {
            let words = "This server does not host this topic-partition.".to_owned();
            return Err(Error::Kafka { code: ErrorCode::UnknownTopicOrPartition, message: words });
        }
    };
    let asked = asked.unwrap_or_else(|| existing.clone());
    let missing: Vec<String> =
        asked.iter().filter(|id| !existing.contains(id)).map(|id| format!("{name}-{id}")).collect();
    if !missing.is_empty() {
        let words = format!("The partitions \"{}\" do not exist", missing.join(", "));
        return Err(Error::Kafka { code: ErrorCode::UnknownTopicOrPartition, message: words });
    }
    Ok(asked.into_iter().map(|id| TopicPartition::new(name, id)).collect())
}

/// The offset that `spec` names in each partition; the end, where no record is that young.
async fn look_up(
    admin: &Admin,
    partitions: &[TopicPartition],
    spec: OffsetSpec,
) -> Result<Plan, Stop> {
    let mut plan = Plan::new();
    let mut to_end = BTreeMap::new();
    let asked = partitions.iter().map(|at| (at.clone(), spec)).collect();
    for (at, found) in admin.list_offsets(&asked).await? {
        match found?.0 {
            -1 => drop(to_end.insert(at, OffsetSpec::Latest)),
            offset => drop(plan.insert(at, offset)),
        }
    }
    if !to_end.is_empty() {
        for (at, found) in admin.list_offsets(&to_end).await? {
            plan.insert(at, found?.0);
        }
    }
    Ok(plan)
}

/// Keeps every offset within its log, and says where that changed it.
async fn clamp(admin: &Admin, plan: &mut Plan) -> Result<(), Stop> {
    let partitions: Vec<TopicPartition> = plan.keys().cloned().collect();
    let first = look_up(admin, &partitions, OffsetSpec::Earliest).await?;
    let last = look_up(admin, &partitions, OffsetSpec::Latest).await?;
    for (at, offset) in plan.iter_mut() {
        let (Some(&first), Some(&last)) = (first.get(at), last.get(at)) else { continue };
        let (wanted, kept) = (*offset, (*offset).clamp(first, last.max(first)));
        if wanted != kept {
            let side = if wanted > kept { "higher than latest" } else { "lower than earliest" };
            complain(format_args!(
                "WARN New offset ({wanted}) is {side} offset for topic partition {at}. Value will be set to {kept}"
            ));
            *offset = kept;
        }
    }
    Ok(())
}

/// A plan as `--export` writes it: `topic,partition,offset`, with the group before it for several.
fn parse_csv(text: &str, group: &str, several: bool) -> Result<Plan, Stop> {
    let mut plan = Plan::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let wrong = || {
            Stop::Failed(format!("{line:?} is not a line of a reset plan: topic,partition,offset"))
        };
        let mut cells: Vec<&str> =
            line.split(',').map(|cell| cell.trim().trim_matches('"')).collect();
        if cells.len() == 4 && (!several || cells[0] == group) {
            cells.remove(0);
        } else if cells.len() == 4 {
            continue;
        }
        let [topic, partition, offset] = cells[..] else { return Err(wrong()) };
        let partition = partition.parse().map_err(|_| wrong())?;
        plan.insert(TopicPartition::new(topic, partition), offset.parse().map_err(|_| wrong())?);
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exported_plans_read_back() {
        let plan = parse_csv("t,0,5\nt,1,6\n\n", "g", false).expect("reads");
        assert_eq!(plan.into_values().collect::<Vec<_>>(), [5, 6]);
        let plan = parse_csv("g,t,0,5\nh,t,0,6\n", "h", true).expect("reads");
        assert_eq!(plan.into_values().collect::<Vec<_>>(), [6]);
        assert!(parse_csv("t,0", "g", false).is_err());
        assert!(parse_csv("t,x,1", "g", false).is_err());
    }
}
