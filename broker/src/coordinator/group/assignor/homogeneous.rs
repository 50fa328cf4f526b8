//! `uniform` when all members subscribe to the same topics: everyone keeps what it had up to its
//! quota, and what is left goes to those who have room.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::{Assignment, Member, Partitions, Spec, remove};

pub(super) fn assign(spec: &Spec) -> Assignment {
    let Some(topics) = spec.members.values().next().map(|member| &member.topics) else {
        return Assignment::new();
    };
    if topics.is_empty() {
        return Assignment::new();
    }
    let mut unassigned = unassigned(spec, topics);
    let total: i32 = topics.iter().map(|topic| count(spec, topic)).sum();
    let members = spec.members.len() as i32;
    let quota = total / members;
    let mut extra = total % members;

    let mut assigned = Assignment::new();
    let mut with_room = Vec::new();
    for (index, (id, member)) in spec.members.iter().enumerate() {
        let mut room = quota + i32::from(extra > 0);
        let mut has_extra = extra > 0;
        let kept = keep(spec, member, topics, &mut room, &mut unassigned);
        // Whoever does not fill the extra place leaves it to others, as long as there are others.
        if room > 0 && has_extra && members - index as i32 > extra {
            room -= 1;
            has_extra = false;
        }
        if room > 0 {
            with_room.push((id.clone(), room));
        }
        extra -= i32::from(has_extra);
        assigned.insert(id.clone(), kept);
    }

    let mut unassigned = unassigned.into_iter();
    for (id, room) in with_room {
        let Some(partitions) = assigned.get_mut(&id).map(Arc::make_mut) else { continue };
        for (topic, partition) in unassigned.by_ref().take(room as usize) {
            partitions.entry(topic).or_default().insert(partition);
        }
    }
    assigned
}

fn count(spec: &Spec, topic: &Uuid) -> i32 {
    spec.partition_counts.get(topic).copied().unwrap_or(0)
}

/// What no member had before, in order.
fn unassigned(spec: &Spec, topics: &BTreeSet<Uuid>) -> Vec<(Uuid, i32)> {
    let mut owned = BTreeSet::new();
    for (topic, partitions) in spec.members.values().flat_map(|member| member.assigned.iter()) {
        owned.extend(partitions.iter().map(|partition| (*topic, *partition)));
    }
    let all = topics.iter().flat_map(|topic| (0..count(spec, topic)).map(|it| (*topic, it)));
    all.filter(|place| !owned.contains(place)).collect()
}

/// What a member keeps. What it must give up is added to `unassigned`.
fn keep(
    spec: &Spec,
    member: &Member,
    topics: &BTreeSet<Uuid>,
    room: &mut i32,
    unassigned: &mut Vec<(Uuid, i32)>,
) -> Arc<Partitions> {
    let mut kept = member.assigned.clone();
    for (topic, partitions) in member.assigned.iter() {
        if !topics.contains(topic) {
            Arc::make_mut(&mut kept).remove(topic);
            continue;
        }
        for partition in partitions {
            if *partition >= count(spec, topic) {
                // Of a topic that was deleted and is there again with fewer.
                remove(Arc::make_mut(&mut kept), *topic, *partition);
            } else if *room > 0 {
                *room -= 1;
            } else {
                remove(Arc::make_mut(&mut kept), *topic, *partition);
                unassigned.push((*topic, *partition));
            }
        }
    }
    kept
}
