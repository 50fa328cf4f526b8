//! The `simple` assignor: every partition has as many members as it needs for every member to have
//! one, and members of one subscription have as many partitions as each other, within one.
//!
//! What members have they keep, as far as that allows. Names decide where Kafka follows the order of
//! a hash map.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::super::modern::Partitions;

type Place = (Uuid, i32);

/// A member, what it subscribes to, and what it has.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    pub id: &'a str,
    /// Of subscribed topics, all that can be assigned.
    pub wants: Partitions,
    pub has: Partitions,
}

/// The target of each member, in the order of `members`.
pub fn assign(members: &[Candidate<'_>]) -> Vec<Partitions> {
    let same = members.windows(2).all(|pair| pair[0].wants == pair[1].wants);
    let mut targets = vec![Partitions::new(); members.len()];
    if same {
        let all: Vec<usize> = (0..members.len()).collect();
        let places = members.first().map(|it| places(&it.wants)).unwrap_or_default();
        share(members, &all, &places, &mut targets);
        return targets;
    }
    // Subscriptions differ: topic by topic.
    let mut topics: BTreeMap<Uuid, (Vec<usize>, Vec<Place>)> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        for (topic, its) in &member.wants {
            let (who, places) = topics.entry(*topic).or_default();
            who.push(index);
            *places = its.iter().map(|it| (*topic, *it)).collect();
        }
    }
    for (who, places) in topics.values() {
        share(members, who, places, &mut targets);
    }
    targets
}

fn places(partitions: &Partitions) -> Vec<Place> {
    partitions.iter().flat_map(|(topic, its)| its.iter().map(|it| (*topic, *it))).collect()
}

fn share(members: &[Candidate<'_>], who: &[usize], places: &[Place], targets: &mut [Partitions]) {
    if who.is_empty() || places.is_empty() {
        return;
    }
    let sharers = who.len().div_ceil(places.len());
    let seats = sharers * places.len();
    let desired =
        |at: usize| (seats * (at + 1)).div_ceil(who.len()) - (seats * at).div_ceil(who.len());
    let mut count = vec![0; who.len()];
    let mut of_place: BTreeMap<Place, usize> = places.iter().map(|it| (*it, 0)).collect();
    for (at, index) in who.iter().enumerate() {
        for place in self::places(&members[*index].has) {
            let Some(sharing) = of_place.get_mut(&place) else { continue };
            if *sharing < sharers && count[at] < desired(at) {
                *sharing += 1;
                count[at] += 1;
                targets[*index].entry(place.0).or_default().insert(place.1);
            }
        }
    }
    let mut next = 0;
    for (place, sharing) in of_place {
        for _ in sharing..sharers {
            let fits = |at: usize| {
                let its = targets[who[at]].get(&place.0);
                count[at] < desired(at) && !its.is_some_and(|its| its.contains(&place.1))
            };
            let Some(at) =
                (0..who.len()).map(|step| (next + step) % who.len()).find(|at| fits(*at))
            else {
                break;
            };
            count[at] += 1;
            targets[who[at]].entry(place.0).or_default().insert(place.1);
            next = at + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn partitions(topic: u128, count: i32) -> Partitions {
        BTreeMap::from([(Uuid::from_u128(topic), (0..count).collect())])
    }

    fn counts(members: usize, places: i32) -> Vec<usize> {
        let names: Vec<String> = (0..members).map(|it| it.to_string()).collect();
        let of = |id: &'static str| Candidate {
            id,
            wants: partitions(1, places),
            has: Partitions::new(),
        };
        let members: Vec<_> = names.iter().map(|_| of("m")).collect();
        assign(&members)
            .iter()
            .map(|it| it.values().map(std::collections::BTreeSet::len).sum())
            .collect()
    }

    #[test]
    fn every_member_has_a_partition_and_every_partition_a_member() {
        assert_eq!(counts(1, 3), [3]);
        assert_eq!(counts(2, 3), [2, 1]);
        assert_eq!(counts(3, 1), [1, 1, 1]);
        assert_eq!(counts(4, 3), [2, 1, 2, 1]);
    }

    proptest! {
        #[test]
        fn members_of_one_subscription_have_as_many_as_each_other(
            members in 1..12usize, places in 1..12i32,
        ) {
            let counts = counts(members, places);
            let sharers = members.div_ceil(places as usize);
            prop_assert!(counts.iter().sum::<usize>() <= sharers * places as usize);
            prop_assert!(counts.iter().all(|it| *it >= 1));
        }
    }
}
