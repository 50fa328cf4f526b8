//! What holds for every assignor, whatever the subscriptions and the assignment before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;

use super::{Assignment, Member, Partitions, RANGE, Spec, UNIFORM, assign};

fn topic(number: u8) -> Uuid {
    Uuid::from_u128(u128::from(number) + 1)
}

/// Members with any subset of four topics, or all with the same.
fn specs() -> impl Strategy<Value = Spec> {
    let subscriptions =
        proptest::collection::vec(proptest::collection::btree_set(0..4u8, 0..4), 1..9);
    let counts = proptest::collection::vec(0..12i32, 4);
    (subscriptions, counts, any::<bool>()).prop_map(|(subscriptions, counts, same)| {
        let members = subscriptions.iter().enumerate().map(|(index, topics)| {
            let topics = if same { &subscriptions[0] } else { topics };
            let topics: BTreeSet<_> = topics.iter().map(|it| topic(*it)).collect();
            let member = Member { topics: Arc::new(topics), ..Member::default() };
            (Arc::from(format!("m{index}")), member)
        });
        let members: BTreeMap<Arc<str>, Member> = members.collect();
        let first = members.values().next().unwrap().topics.clone();
        Spec {
            homogeneous: members.values().all(|member| member.topics == first),
            members,
            partition_counts: (0..4u8).map(|it| (topic(it), counts[usize::from(it)])).collect(),
        }
    })
}

fn owned(assignment: &Assignment) -> Vec<(Uuid, i32)> {
    let all = assignment.values().flat_map(|it| it.iter());
    all.flat_map(|(topic, its)| its.iter().map(|it| (*topic, *it))).collect()
}

fn size(partitions: &Partitions) -> usize {
    partitions.values().map(BTreeSet::len).sum()
}

/// Every partition that somebody subscribes to has one owner, who subscribes to it.
fn check(spec: &Spec, assignment: &Assignment) -> Result<(), TestCaseError> {
    prop_assert!(assignment.keys().eq(spec.members.keys()));
    let mut owned = owned(assignment);
    owned.sort_unstable();
    let wanted: BTreeSet<_> = spec.members.values().flat_map(|it| it.topics.iter()).collect();
    let wanted = wanted
        .into_iter()
        .flat_map(|topic| (0..spec.partition_counts[topic]).map(|partition| (*topic, partition)));
    prop_assert_eq!(owned, wanted.collect::<Vec<_>>());
    for (id, partitions) in assignment {
        prop_assert!(partitions.keys().all(|topic| spec.members[id].topics.contains(topic)));
        prop_assert!(partitions.values().all(|it| !it.is_empty()));
    }
    Ok(())
}

/// The spec of the next assignment, after `assignment`.
fn after(spec: &Spec, assignment: &Assignment) -> Spec {
    let mut next = spec.clone();
    for (id, member) in &mut next.members {
        member.assigned = assignment[id].clone();
    }
    next
}

proptest! {
    #[test]
    fn every_partition_has_one_owner_and_nothing_moves_without_a_reason(spec in specs()) {
        for name in [UNIFORM, RANGE] {
            let first = assign(name, &spec).unwrap();
            check(&spec, &first)?;
            prop_assert_eq!(&assign(name, &after(&spec, &first)).unwrap(), &first);
        }
    }

    #[test]
    fn members_with_the_same_topics_differ_by_one_partition_at_most(spec in specs()) {
        let first = assign(UNIFORM, &spec).unwrap();
        if spec.homogeneous {
            let sizes: Vec<_> = first.values().map(|it| size(it)).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }

    /// Members come, go and change what they read: the next assignment is whole, and a member that
    /// stays takes over no more than it must.
    #[test]
    fn an_assignment_after_another_is_whole_and_sticky(before in specs(), now in specs()) {
        for name in [UNIFORM, RANGE] {
            let first = assign(name, &before).unwrap();
            let mut next = now.clone();
            for (id, member) in &mut next.members {
                member.assigned = first.get(id).cloned().unwrap_or_default();
            }
            let second = assign(name, &next).unwrap();
            check(&next, &second)?;
        }
    }

    #[test]
    fn a_member_that_leaves_moves_only_what_it_had(spec in specs()) {
        prop_assume!(spec.members.len() > 1);
        let first = assign(UNIFORM, &spec).unwrap();
        let mut next = after(&spec, &first);
        next.members.pop_last();
        let second = assign(UNIFORM, &next).unwrap();
        check(&next, &second)?;
        if spec.homogeneous {
            for (id, kept) in &second {
                for (topic, partitions) in first[id].iter() {
                    prop_assert!(kept.get(topic).is_some_and(|now| partitions.is_subset(now)));
                }
            }
        }
    }
}
