//! `uniform` when members subscribe to different topics: everyone keeps what it may, what is left
//! goes topic by topic to the subscriber with the fewest partitions, and then partitions move from
//! those with many to those with few until that does not help any more.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use super::{Assignment, Partitions, Spec, remove};

/// A topic's balance can undo that of another; so often is tried.
const MAX_ROUNDS: usize = 16;
const NOBODY: usize = usize::MAX;

pub(super) fn assign(spec: &Spec) -> Assignment {
    let mut build = Build::new(spec);
    build.keep();
    let order = build.order();
    for topic in &order {
        build.give_out(*topic);
    }
    build.balance(&order);
    let members = spec.members.keys().cloned();
    members.zip(build.assigned).collect()
}

struct Build<'a> {
    spec: &'a Spec,
    /// Members are numbered in the order of their ids.
    subscribers: BTreeMap<Uuid, Vec<usize>>,
    /// Who owns each partition of a topic.
    owners: BTreeMap<Uuid, Vec<usize>>,
    assigned: Vec<Arc<Partitions>>,
    sizes: Vec<usize>,
}

impl<'a> Build<'a> {
    fn new(spec: &'a Spec) -> Self {
        let mut subscribers: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
        for (index, member) in spec.members.values().enumerate() {
            for topic in member.topics.iter() {
                subscribers.entry(*topic).or_default().push(index);
            }
        }
        let count = |topic| spec.partition_counts.get(topic).copied().unwrap_or(0).max(0) as usize;
        let owners = subscribers.keys().map(|topic| (*topic, vec![NOBODY; count(topic)]));
        Self {
            spec,
            owners: owners.collect(),
            subscribers,
            assigned: vec![Arc::default(); spec.members.len()],
            sizes: vec![0; spec.members.len()],
        }
    }

    /// Members keep what they subscribe to and what there still is.
    fn keep(&mut self) {
        for (index, member) in self.spec.members.values().enumerate() {
            let mut kept = member.assigned.clone();
            for (topic, partitions) in member.assigned.iter() {
                let owners = self.owners.get_mut(topic).filter(|_| member.topics.contains(topic));
                let Some(owners) = owners else {
                    Arc::make_mut(&mut kept).remove(topic);
                    continue;
                };
                for partition in partitions {
                    match owners.get_mut(*partition as usize) {
                        Some(owner) if *owner == NOBODY => {
                            *owner = index;
                            self.sizes[index] += 1;
                        }
                        _ => remove(Arc::make_mut(&mut kept), *topic, *partition),
                    }
                }
            }
            self.assigned[index] = kept;
        }
    }

    /// Topics with the most partitions for each subscriber come first, because they leave the least
    /// choice; then those with the fewest subscribers.
    fn order(&self) -> Vec<Uuid> {
        let mut order: Vec<_> = self.subscribers.keys().copied().collect();
        order.sort_by(|a, b| {
            let counts = |it| (self.owners[it].len() as u64, self.subscribers[it].len() as u64);
            let ((partitions_a, members_a), (partitions_b, members_b)) = (counts(a), counts(b));
            // a/b > c/d, without division.
            let density = (partitions_b * members_a).cmp(&(partitions_a * members_b));
            density.then(members_a.cmp(&members_b)).then(a.cmp(b))
        });
        order
    }

    /// The subscribers of a topic by load, and at the same load by their number.
    fn by_load(&self, topic: Uuid) -> BTreeSet<(usize, usize)> {
        self.subscribers[&topic].iter().map(|member| (self.sizes[*member], *member)).collect()
    }

    fn give_out(&mut self, topic: Uuid) {
        let mut load = self.by_load(topic);
        for partition in 0..self.owners[&topic].len() {
            if self.owners[&topic][partition] == NOBODY
                && let Some((size, member)) = load.pop_first()
            {
                self.put(topic, partition, member);
                load.insert((size + 1, member));
            }
        }
    }

    fn balance(&mut self, order: &[Uuid]) {
        let shared: Vec<_> =
            order.iter().filter(|topic| self.subscribers[*topic].len() > 1).copied().collect();
        // Since so many topics nothing has moved.
        let mut quiet = 0;
        for topic in std::iter::repeat_n(&shared, MAX_ROUNDS).flatten() {
            quiet = if self.balance_topic(*topic) { 1 } else { quiet + 1 };
            if quiet >= shared.len() {
                return;
            }
        }
    }

    /// Whether a partition of the topic has moved.
    fn balance_topic(&mut self, topic: Uuid) -> bool {
        let mut load = self.by_load(topic);
        let differ = |least: Option<&(usize, usize)>, most: usize| {
            least.is_some_and(|(least, _)| most > least + 1)
        };
        let most = load.last().map_or(0, |(most, _)| *most);
        if !differ(load.first(), most) {
            return false;
        }
        let mut owned: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (partition, owner) in self.owners[&topic].iter().enumerate() {
            owned.entry(*owner).or_default().push(partition);
        }
        // Those who have something to give, the most loaded first.
        let givers = load.iter().filter(|(_, member)| owned.contains_key(member));
        let mut givers: BTreeSet<_> = givers.copied().map(Reverse).collect();
        let mut moved = false;
        while let Some(Reverse((size, giver))) = givers.pop_first() {
            if !differ(load.first(), size) {
                break;
            }
            let Some(partition) = owned.get_mut(&giver).and_then(Vec::pop) else { continue };
            let Some((least, taker)) = load.pop_first() else { break };
            self.put(topic, partition, taker);
            load.insert((least + 1, taker));
            if load.remove(&(size, giver)) {
                load.insert((size - 1, giver));
            }
            givers.insert(Reverse((size - 1, giver)));
            moved = true;
        }
        moved
    }

    fn put(&mut self, topic: Uuid, partition: usize, member: usize) {
        let owners =
            self.owners.get_mut(&topic).expect("a topic that is given out has subscribers");
        let before = std::mem::replace(&mut owners[partition], member);
        if before != NOBODY {
            remove(Arc::make_mut(&mut self.assigned[before]), topic, partition as i32);
            self.sizes[before] -= 1;
        }
        let partitions = Arc::make_mut(&mut self.assigned[member]);
        partitions.entry(topic).or_default().insert(partition as i32);
        self.sizes[member] += 1;
    }
}
