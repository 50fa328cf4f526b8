//! Topics that are joined must have as many partitions as each other.

use std::collections::{BTreeMap, BTreeSet};

use super::topology::{Counts, INCORRECTLY_PARTITIONED_TOPICS, Topology, Trouble};

/// The partitions that the repartition topics of `group` shall have; refuses topics of other
/// widths, whether they are there already or were fixed by the application.
pub(super) fn enforce(
    topology: &Topology,
    group: &BTreeSet<String>,
    count: impl Fn(&str) -> Option<i32>,
) -> Result<Counts, Trouble> {
    let fixed: BTreeSet<&str> = names(topology, |partitions| partitions != 0);
    let flexible: BTreeSet<&str> = names(topology, |partitions| partitions == 0);
    let (mut repartition, mut external) = (Counts::new(), Counts::new());
    for topic in group {
        let of = count(topic).ok_or_else(Trouble::unknown)?;
        let is_internal = fixed.contains(topic.as_str()) || flexible.contains(topic.as_str());
        let to = if is_internal { &mut repartition } else { &mut external };
        to.insert(topic.clone(), of);
    }
    let decided = match (external.values().next(), fixed.first()) {
        _ if group.is_empty() => return Ok(Counts::new()),
        (Some(first), _) => same(*first, external.values().copied(), &external)?,
        (None, Some(first)) => {
            let first = count(first).ok_or_else(Trouble::unknown)?;
            let all = fixed.iter().map(|it| count(it).ok_or_else(Trouble::unknown));
            let all = all.collect::<Result<Vec<_>, _>>()?;
            same(first, all.into_iter(), &repartition)?
        }
        (None, None) => match repartition.values().max() {
            Some(max) if *max > 0 => *max,
            _ => {
                let names: Vec<&str> = repartition.keys().map(String::as_str).collect();
                return Err(Trouble::invalid(format!(
                    "All topics in the copartition group had undefined partition number: [{}]",
                    names.join(", ")
                )));
            }
        },
    };
    for (topic, of) in repartition.iter().filter(|(topic, _)| fixed.contains(topic.as_str())) {
        if *of != decided {
            return Err(Trouble::status(
                INCORRECTLY_PARTITIONED_TOPICS,
                format!(
                    "Number of partitions [{of}] of repartition topic [{topic}] doesn't match \
                     number of partitions [{decided}] of the source topic."
                ),
            ));
        }
    }
    Ok(repartition.into_keys().map(|topic| (topic, decided)).collect())
}

fn names(topology: &Topology, wanted: impl Fn(i32) -> bool) -> BTreeSet<&str> {
    let topics = topology.repartition_sources().filter(|it| wanted(it.partitions));
    topics.map(|it| it.name.as_str()).collect()
}

fn same(
    first: i32,
    mut all: impl Iterator<Item = i32>,
    shown: &BTreeMap<String, i32>,
) -> Result<i32, Trouble> {
    if all.all(|it| it == first) {
        return Ok(first);
    }
    let shown: Vec<_> = shown.iter().map(|(topic, of)| format!("{topic}={of}")).collect();
    Err(Trouble::status(
        INCORRECTLY_PARTITIONED_TOPICS,
        format!(
            "Following topics do not have the same number of partitions: [{{{}}}]",
            shown.join(", ")
        ),
    ))
}
