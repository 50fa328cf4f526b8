//! What members of groups were told, and whether it can be true: a partition has one owner at a
//! time, who is no owner any more may not commit, and offsets do not go back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug, Default)]
struct Member {
    owned: BTreeSet<i32>,
    /// Of what it owns by its own belief, what somebody else was given since.
    superseded: BTreeSet<i32>,
    generation: i32,
    /// It was heard at this time or later.
    alive_at: Duration,
    /// For so long after that nobody may take its partitions away.
    patience: Duration,
}

#[derive(Debug, Default)]
struct Offsets {
    asked: BTreeSet<i64>,
    acknowledged: Option<i64>,
}

#[derive(Debug, Default)]
pub struct Groups {
    /// By group, and the name of a client in one life.
    members: BTreeMap<String, BTreeMap<String, Member>>,
    offsets: BTreeMap<(String, i32), Offsets>,
}

impl Groups {
    fn member(&mut self, group: &str, who: &str) -> &mut Member {
        self.members.entry(group.to_owned()).or_default().entry(who.to_owned()).or_default()
    }

    /// A request that was sent at `sent` was answered well.
    pub fn alive(&mut self, group: &str, who: &str, sent: Duration, patience: Duration) {
        let all = self.members.entry(group.to_owned()).or_default();
        if all.values().all(|it| it.alive_at + it.patience <= sent) {
            // A group without members may have been forgotten, and counts from one again.
            for member in all.values_mut() {
                member.generation = -1;
            }
        }
        let member = self.member(group, who);
        (member.alive_at, member.patience) = (sent, patience);
    }

    /// A member hears that it owns `owned`, in a generation (of a classic group; else -1).
    pub fn assigned(
        &mut self,
        group: &str,
        who: &str,
        generation: i32,
        owned: &BTreeSet<i32>,
        now: Duration,
    ) -> Result<(), String> {
        let new: BTreeSet<i32> =
            owned.difference(&self.member(group, who).owned).copied().collect();
        for (name, other) in self.members.get_mut(group).into_iter().flatten() {
            if name == who {
                continue;
            }
            let both: BTreeSet<i32> = other.owned.intersection(&new).copied().collect();
            let same = generation >= 0 && generation == other.generation;
            if !both.is_empty() && (same || now < other.alive_at + other.patience) {
                let (at, generations) = (other.alive_at, (generation, other.generation));
                return Err(format!(
                    "owners: {who} of {group} was given {both:?}, which {name} has, who was heard \
                     at {at:?} (generations {generations:?})"
                ));
            }
            other.superseded.extend(both);
        }
        let member = self.member(group, who);
        member.superseded.retain(|it| owned.contains(it) && !new.contains(it));
        (member.owned, member.generation) = (owned.clone(), generation);
        Ok(())
    }

    /// A member hears that it owns `owned`, so long after it has asked that it may be out of the
    /// group meanwhile: its answer had to wait until what it tells was committed. Whose the
    /// partitions are, if another has them, nobody can say.
    pub fn assigned_late(&mut self, group: &str, who: &str, owned: &BTreeSet<i32>) {
        let member = self.member(group, who);
        member.superseded.retain(|it| owned.contains(it));
        (member.owned, member.generation) = (owned.clone(), -1);
    }

    /// A member gives up all but `kept`, before it says so.
    pub fn released(&mut self, group: &str, who: &str, kept: &BTreeSet<i32>) {
        let member = self.member(group, who);
        member.owned.retain(|it| kept.contains(it));
        member.superseded.retain(|it| kept.contains(it));
    }

    /// Whether somebody else owns a partition that a member believes to own.
    pub fn is_superseded(&self, group: &str, who: &str, partition: i32) -> bool {
        let member = self.members.get(group).and_then(|members| members.get(who));
        member.is_some_and(|member| member.superseded.contains(&partition))
    }

    pub fn commit_asked(&mut self, group: &str, partition: i32, offset: i64) {
        self.offsets.entry((group.to_owned(), partition)).or_default().asked.insert(offset);
    }

    pub fn commit_acknowledged(&mut self, group: &str, partition: i32, offset: i64) {
        let offsets = self.offsets.entry((group.to_owned(), partition)).or_default();
        offsets.acknowledged = offsets.acknowledged.max(Some(offset));
    }

    /// What is surely committed, or -1.
    pub fn floor(&self, group: &str, partition: i32) -> i64 {
        let offsets = self.offsets.get(&(group.to_owned(), partition));
        offsets.and_then(|it| it.acknowledged).unwrap_or(-1)
    }

    /// Judges an offset that was found; `floor` was sure before it was asked for.
    pub fn found(
        &self,
        group: &str,
        partition: i32,
        offset: i64,
        floor: i64,
    ) -> Result<(), String> {
        let offsets = self.offsets.get(&(group.to_owned(), partition));
        if offset < floor {
            return Err(format!(
                "lost: {group} has committed {floor} for partition {partition}, and finds {offset}"
            ));
        }
        if offset >= 0 && !offsets.is_some_and(|it| it.asked.contains(&offset)) {
            return Err(format!(
                "corrupt: {group} finds {offset} for partition {partition}, which nobody committed"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn two(patience: Duration) -> Groups {
        let mut groups = Groups::default();
        groups.alive("g", "a", SECOND, patience);
        groups.assigned("g", "a", -1, &[0, 1].into(), SECOND).unwrap();
        groups
    }

    #[test]
    fn a_partition_is_given_away_only_when_its_owner_is_gone() {
        let give = |groups: &mut Groups, now| groups.assigned("g", "b", -1, &[1].into(), now);
        let mut groups = two(SECOND * 3);
        assert!(give(&mut groups, SECOND * 3).unwrap_err().starts_with("owners"));
        let mut groups = two(SECOND * 3);
        assert_eq!(give(&mut groups, SECOND * 4), Ok(()));
        assert!(groups.is_superseded("g", "a", 1) && !groups.is_superseded("g", "a", 0));
        groups.assigned("g", "a", -1, &[0].into(), SECOND * 5).unwrap();
        assert!(!groups.is_superseded("g", "a", 1));
        let mut groups = two(SECOND * 3);
        groups.released("g", "a", &[0].into());
        assert_eq!(give(&mut groups, SECOND * 2), Ok(()));
    }

    #[test]
    fn one_generation_has_one_owner_for_each_partition() {
        let mut groups = two(Duration::ZERO);
        groups.assigned("g", "b", 5, &[2].into(), SECOND).unwrap();
        assert!(groups.assigned("g", "c", 5, &[2].into(), SECOND * 9).is_err());
        assert_eq!(groups.assigned("g", "c", 6, &[2].into(), SECOND * 9), Ok(()));
        // Nobody was heard of since: the group was forgotten.
        let mut groups = two(SECOND);
        groups.assigned("g", "b", 5, &[2].into(), SECOND).unwrap();
        groups.alive("g", "c", SECOND * 9, SECOND);
        assert_eq!(groups.assigned("g", "c", 5, &[2].into(), SECOND * 9), Ok(()));
    }

    #[test]
    fn who_hears_late_of_what_it_owns_takes_nothing_from_others() {
        let mut groups = two(SECOND * 3);
        groups.assigned_late("g", "b", &[1, 2].into());
        assert!(!groups.is_superseded("g", "b", 1) && !groups.is_superseded("g", "a", 1));
        groups.assigned("g", "c", -1, &[2].into(), SECOND * 2).unwrap();
        assert!(groups.is_superseded("g", "b", 2));
    }

    #[test]
    fn offsets_do_not_go_back() {
        let mut groups = Groups::default();
        groups.commit_asked("g", 0, 5);
        assert_eq!(groups.found("g", 0, 5, groups.floor("g", 0)), Ok(()));
        assert_eq!(groups.found("g", 0, -1, groups.floor("g", 0)), Ok(()));
        groups.commit_acknowledged("g", 0, 5);
        assert!(groups.found("g", 0, -1, groups.floor("g", 0)).is_err());
        assert!(groups.found("g", 0, 6, groups.floor("g", 0)).is_err());
    }
}
