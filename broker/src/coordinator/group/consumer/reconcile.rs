//! How a member moves towards its target: what it must give up, what it may have, in which epoch.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::member::{Member, MemberState, Owned};
use crate::coordinator::group::modern::Partitions;
use crate::env::planted;
use crate::error::{ErrorCode, Refusal};

/// What a step of a member rests on.
pub struct Reconcile<'a> {
    pub target_epoch: i32,
    pub target: &'a Partitions,
    /// Topics that it subscribes to, and that exist.
    pub subscribed: &'a BTreeSet<Uuid>,
    pub subscription_changed: bool,
    /// The epoch of the member that holds a partition, or -1.
    pub holder_epoch: &'a dyn Fn(Uuid, i32) -> i32,
    /// What the member says that it owns; `None` when it says nothing.
    pub owned: Option<&'a Partitions>,
}

impl Reconcile<'_> {
    /// The member after its next step; as it was, when there is none to take.
    pub fn step(&self, member: &Member) -> Result<Member, Refusal> {
        Ok(match member.state {
            MemberState::Stable if member.epoch != self.target_epoch => {
                self.next(member, member.epoch)
            }
            MemberState::Stable => self.shrink(member),
            // It says that it still has something of that, or says nothing.
            MemberState::UnrevokedPartitions if self.still_owns(&member.revoking) => {
                self.shrink(member)
            }
            MemberState::UnrevokedPartitions | MemberState::UnreleasedPartitions => {
                self.next(member, member.epoch)
            }
            MemberState::Unknown => {
                if self.owned.is_none_or(|owned| !owned.is_empty()) {
                    let message = "The consumer group member is in an unknown state. It must \
                                   abandon all its partitions and rejoin.";
                    return Err(Refusal::new(ErrorCode::FencedMemberEpoch, message));
                }
                self.next(member, self.target_epoch)
            }
        })
    }

    fn still_owns(&self, revoked: &Owned) -> bool {
        let Some(owned) = self.owned else { return true };
        owned.iter().any(|(topic, partitions)| {
            let revoked = revoked.get(topic);
            revoked.is_some_and(|revoked| partitions.iter().any(|it| revoked.contains_key(it)))
        })
    }

    /// Topics that it no longer subscribes to are taken away at once, whatever the target.
    fn shrink(&self, member: &Member) -> Member {
        let gone: Vec<_> =
            member.assigned.keys().filter(|topic| !self.subscribed.contains(*topic)).collect();
        let mut next = member.clone();
        if !self.subscription_changed || gone.is_empty() {
            return next;
        }
        for topic in gone {
            let partitions = next.assigned.remove(topic).unwrap_or_default();
            next.revoking.entry(*topic).or_default().extend(partitions);
        }
        next.enter(member.epoch);
        if self.still_owns(&next.revoking) {
            next.state = MemberState::UnrevokedPartitions;
        } else {
            // It has given them up already; only the assignment gets smaller.
            next.revoking = member.revoking.clone();
        }
        next
    }

    /// Towards the target as far as others let it. `epoch` is the member's while it has to revoke.
    fn next(&self, member: &Member, epoch: i32) -> Member {
        let empty = BTreeSet::new();
        let (mut kept, mut revoking) = (Owned::new(), Owned::new());
        let mut free = BTreeMap::new();
        let mut unreleased = false;
        let topics: BTreeSet<_> = self.target.keys().chain(member.assigned.keys()).collect();
        for topic in topics {
            let target = self.target.get(topic).filter(|_| self.subscribed.contains(topic));
            let target = target.unwrap_or(&empty);
            let owned = member.assigned.get(topic);
            let (keep, revoke): (BTreeMap<_, _>, BTreeMap<_, _>) =
                owned.into_iter().flatten().partition(|(partition, _)| target.contains(partition));
            let mut more = BTreeSet::new();
            for partition in target.iter().filter(|it| !keep.contains_key(it)) {
                let own = member.revoking.get(topic).is_some_and(|it| it.contains_key(partition));
                // What it holds itself, and is about to give up, is not held by another.
                let held = (self.holder_epoch)(*topic, *partition) != -1;
                if own || !held || planted!(RevocationNotAwaited) {
                    more.insert(*partition);
                } else {
                    unreleased = true;
                }
            }
            put(&mut kept, *topic, keep);
            put(&mut revoking, *topic, revoke);
            if !more.is_empty() {
                free.insert(*topic, more);
            }
        }
        let mut next = member.clone();
        if !revoking.is_empty() && self.still_owns(&revoking) {
            next.state = MemberState::UnrevokedPartitions;
            next.enter(epoch);
            (next.assigned, next.revoking) = (kept, revoking);
            return next;
        }
        for (topic, partitions) in free {
            let assigned = partitions.into_iter().map(|partition| (partition, self.target_epoch));
            kept.entry(topic).or_default().extend(assigned);
        }
        next.state =
            if unreleased { MemberState::UnreleasedPartitions } else { MemberState::Stable };
        next.enter(self.target_epoch);
        (next.assigned, next.revoking) = (kept, Owned::new());
        next
    }
}

fn put(owned: &mut Owned, topic: Uuid, partitions: BTreeMap<&i32, &i32>) {
    if !partitions.is_empty() {
        owned.insert(topic, partitions.into_iter().map(|(a, b)| (*a, *b)).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn partitions(of: &[i32]) -> Partitions {
        let of: BTreeSet<_> = of.iter().copied().collect();
        if of.is_empty() { Partitions::new() } else { [(TOPIC, of)].into() }
    }

    fn owned(of: &[i32], epoch: i32) -> Owned {
        let of: BTreeMap<_, _> = of.iter().map(|it| (*it, epoch)).collect();
        if of.is_empty() { Owned::new() } else { [(TOPIC, of)].into() }
    }

    /// A member in epoch 5 steps towards `target` in epoch 6; others hold `held`.
    fn step(
        state: MemberState,
        assigned: &[i32],
        revoking: &[i32],
        says: Option<&[i32]>,
        target: &[i32],
        held: &[i32],
    ) -> (MemberState, i32, Owned, Owned) {
        let mut member = Member::new("m");
        (member.epoch, member.previous_epoch, member.state) = (5, 4, state);
        (member.assigned, member.revoking) = (owned(assigned, 3), owned(revoking, 3));
        let holder = |_, partition| {
            let own = assigned.contains(&partition) || revoking.contains(&partition);
            if own || held.contains(&partition) { 5 } else { -1 }
        };
        let says = says.map(partitions);
        let reconcile = Reconcile {
            target_epoch: 6,
            target: &partitions(target),
            subscribed: &[TOPIC].into(),
            subscription_changed: false,
            holder_epoch: &holder,
            owned: says.as_ref(),
        };
        let next = reconcile.step(&member).unwrap();
        (next.state, next.epoch, next.assigned, next.revoking)
    }

    use MemberState::{Stable, UnreleasedPartitions, UnrevokedPartitions};

    #[test]
    fn a_member_that_shall_own_what_it_owns_goes_to_the_epoch_of_the_target() {
        let next = step(Stable, &[0, 1], &[], None, &[0, 1], &[]);
        assert_eq!(next, (Stable, 6, owned(&[0, 1], 3), owned(&[], 0)));
    }

    #[test]
    fn what_is_free_is_assigned_in_the_new_epoch() {
        let (state, epoch, assigned, _) = step(Stable, &[0], &[], None, &[0, 1], &[]);
        let both: Owned = [(TOPIC, [(0, 3), (1, 6)].into())].into();
        assert_eq!((state, epoch, assigned), (Stable, 6, both));
    }

    #[test]
    fn a_member_stays_in_its_epoch_until_it_says_that_it_has_given_up() {
        let next = step(Stable, &[0, 1], &[], None, &[0, 2], &[]);
        assert_eq!(next, (UnrevokedPartitions, 5, owned(&[0], 3), owned(&[1], 3)));
        for says in [None, Some([0, 1].as_slice())] {
            let next = step(UnrevokedPartitions, &[0], &[1], says, &[0, 2], &[]);
            assert_eq!(next, (UnrevokedPartitions, 5, owned(&[0], 3), owned(&[1], 3)));
        }
        let (state, epoch, assigned, revoking) =
            step(UnrevokedPartitions, &[0], &[1], Some(&[0]), &[0, 2], &[]);
        let both: Owned = [(TOPIC, [(0, 3), (2, 6)].into())].into();
        assert_eq!((state, epoch, assigned, revoking), (Stable, 6, both, owned(&[], 0)));
    }

    #[test]
    fn what_others_hold_is_waited_for_in_the_new_epoch() {
        let next = step(Stable, &[0], &[], None, &[0, 1], &[1]);
        assert_eq!(next, (UnreleasedPartitions, 6, owned(&[0], 3), owned(&[], 0)));
        let (state, _, assigned, _) = step(UnreleasedPartitions, &[0], &[], None, &[0, 1], &[]);
        let both: Owned = [(TOPIC, [(0, 3), (1, 6)].into())].into();
        assert_eq!((state, assigned), (Stable, both));
    }

    #[test]
    fn a_partition_comes_back_to_the_member_that_was_about_to_give_it_up() {
        let (state, epoch, assigned, _) =
            step(UnrevokedPartitions, &[0], &[1], Some(&[0]), &[0, 1], &[]);
        let both: Owned = [(TOPIC, [(0, 3), (1, 6)].into())].into();
        assert_eq!((state, epoch, assigned), (Stable, 6, both));
    }

    #[test]
    fn topics_that_it_no_longer_reads_are_taken_away_in_the_same_epoch() {
        let mut member = Member::new("m");
        (member.epoch, member.assigned) = (6, owned(&[0], 3));
        let none = Partitions::new();
        for (says, state) in [(None, UnrevokedPartitions), (Some(&none), Stable)] {
            let reconcile = Reconcile {
                target_epoch: 6,
                target: &partitions(&[0]),
                subscribed: &[OTHER].into(),
                subscription_changed: true,
                holder_epoch: &|_, _| 6,
                owned: says,
            };
            let next = reconcile.step(&member).unwrap();
            assert_eq!((next.state, next.epoch, next.assigned), (state, 6, Owned::new()));
        }
    }
}
