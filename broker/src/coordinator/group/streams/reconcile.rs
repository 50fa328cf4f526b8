//! One step of a member towards its target assignment.
//!
//! Pure. First a member gives up what it shall not have, in its old epoch; once it has, it goes to
//! the epoch of the target and is given what is free. An active task is free when no process holds
//! it and the member's own process has it in no role; a standby or warm-up task is free when the
//! member's own process has it in no role.

use super::holders::Holders;
use super::member::{Member, MemberState};
use super::tasks::{Held, TaskSet, Tasks, TasksSince};
use crate::error::{ErrorCode, Refusal};

pub struct Reconcile<'a> {
    pub target_epoch: i32,
    pub target: &'a TaskSet,
    pub holders: &'a Holders,
    /// What the member says that it holds, if it says so.
    pub owned: Option<&'a TaskSet>,
}

/// What is kept, given up and to be had of one role.
struct Difference<T> {
    kept: T,
    revoked: T,
    gained: T,
    /// Some of what it shall have is not free.
    waits: bool,
}

impl Reconcile<'_> {
    pub fn step(&self, member: &Member) -> Result<Member, Refusal> {
        match member.state {
            MemberState::Stable if member.epoch == self.target_epoch => Ok(member.clone()),
            MemberState::Stable | MemberState::UnreleasedTasks => {
                Ok(self.next(member, member.epoch))
            }
            MemberState::UnrevokedTasks => match self.owned {
                Some(owned) if !owned.meets(&member.revoking) => {
                    Ok(self.next(member, member.epoch + 1))
                }
                _ => Ok(member.clone()),
            },
            // It begins anew, and with nothing.
            MemberState::Unknown(_) => match self.owned {
                Some(owned) if *owned == TaskSet::default() => {
                    Ok(self.next(member, self.target_epoch))
                }
                _ => Err(Refusal::new(
                    ErrorCode::FencedMemberEpoch,
                    "The streams group member is in a unknown state. The member must abandon all \
                     its tasks and rejoin.",
                )),
            },
        }
    }

    /// `epoch` counts while there is something to give up.
    fn next(&self, member: &Member, epoch: i32) -> Member {
        let (process, holders) = (member.process_id.as_str(), self.holders);
        let in_process = |id: &str, it: i32| holders.is_spare_in(process, id, it);
        let active = self.active(&member.held.active, &|id, it| {
            holders.is_active_anywhere(id, it) || in_process(id, it)
        });
        let taken = |id: &str, it: i32| holders.is_active_in(process, id, it) || in_process(id, it);
        let standby = difference(&member.held.standby, &self.target.standby, &taken);
        let warmup = difference(&member.held.warmup, &self.target.warmup, &taken);
        let waits = active.waits || standby.waits || warmup.waits;
        let kept = Held { active: active.kept, standby: standby.kept, warmup: warmup.kept };
        let gained = Held { active: active.gained, standby: standby.gained, warmup: warmup.gained };
        let revoked =
            Held { active: active.revoked, standby: standby.revoked, warmup: warmup.revoked };

        let mut next = member.clone();
        next.previous_epoch = member.epoch;
        let must_revoke =
            !revoked.is_empty() && self.owned.is_none_or(|owned| owned.meets(&revoked));
        if must_revoke {
            next.state = MemberState::UnrevokedTasks;
            (next.epoch, next.held, next.revoking) = (epoch, kept, revoked);
        } else {
            next.state = if waits { MemberState::UnreleasedTasks } else { MemberState::Stable };
            next.epoch = self.target_epoch;
            (next.held, next.revoking) = (kept.merged(gained), Held::default());
        }
        next
    }

    fn active(
        &self,
        held: &TasksSince,
        taken: &dyn Fn(&str, i32) -> bool,
    ) -> Difference<TasksSince> {
        let plain = difference(&super::tasks::plain(held), &self.target.active, taken);
        let since = |tasks: Tasks| {
            let each = tasks.into_iter().map(|(id, its)| {
                let its = its.into_iter().map(|it| {
                    let since = held.get(&id).and_then(|its| its.get(&it)).copied();
                    (it, since.unwrap_or(self.target_epoch))
                });
                let its = its.collect();
                (id, its)
            });
            each.collect()
        };
        Difference {
            kept: since(plain.kept),
            revoked: since(plain.revoked),
            gained: since(plain.gained),
            waits: plain.waits,
        }
    }
}

fn difference(
    held: &Tasks,
    target: &Tasks,
    taken: &dyn Fn(&str, i32) -> bool,
) -> Difference<Tasks> {
    let mut it = Difference {
        kept: Tasks::new(),
        revoked: Tasks::new(),
        gained: Tasks::new(),
        waits: false,
    };
    let has = |tasks: &Tasks, id: &str, partition: i32| {
        tasks.get(id).is_some_and(|its| its.contains(&partition))
    };
    for (id, its) in held {
        for partition in its.iter().copied() {
            let to = if has(target, id, partition) { &mut it.kept } else { &mut it.revoked };
            to.entry(id.clone()).or_default().insert(partition);
        }
    }
    for (id, its) in target {
        for partition in its.iter().copied().filter(|partition| !has(held, id, *partition)) {
            if taken(id, partition) {
                it.waits = true;
            } else {
                it.gained.entry(id.clone()).or_default().insert(partition);
            }
        }
    }
    it
}
