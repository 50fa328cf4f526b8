//! `range`: each topic is cut into as many ranges as it has subscribers.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::{Assignment, Partitions, Spec};

/// How far a topic is given out.
struct Cut {
    partitions: i32,
    quota: i32,
    /// So many members get one more.
    extra: i32,
    next: i32,
}

impl Cut {
    fn new(partitions: i32, members: i32) -> Self {
        Self { partitions, quota: partitions / members, extra: partitions % members, next: 0 }
    }

    fn take(&mut self) -> std::ops::Range<i32> {
        let more = i32::from(self.extra > 0);
        self.extra -= more;
        let start = self.next;
        self.next = (start + self.quota + more).min(self.partitions);
        start..self.next
    }
}

pub(super) fn assign(spec: &Spec) -> Assignment {
    let mut subscribers: BTreeMap<Uuid, i32> = BTreeMap::new();
    for topic in spec.members.values().flat_map(|member| member.topics.iter()) {
        *subscribers.entry(*topic).or_default() += 1;
    }
    let count = |topic| spec.partition_counts.get(topic).copied().unwrap_or(0);
    let cuts =
        subscribers.iter().map(|(topic, members)| (*topic, Cut::new(count(topic), *members)));
    let mut cuts: BTreeMap<_, _> = cuts.collect();

    // Static members first, so that their ranges stay where they are while others come and go.
    let mut members: Vec<_> = spec.members.iter().collect();
    members.sort_by_key(|(id, member)| (member.instance_id.is_none(), &member.instance_id, *id));
    let assigned = members.into_iter().map(|(id, member)| {
        let mut partitions = Partitions::new();
        for topic in member.topics.iter() {
            let range = cuts.get_mut(topic).map(Cut::take).unwrap_or_default();
            if !range.is_empty() {
                partitions.insert(*topic, range.collect());
            }
        }
        (id.clone(), Arc::new(partitions))
    });
    assigned.collect()
}
