//! The target assignment: what each member shall own once all have followed.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use super::Partitions;
use crate::types::Millis;

/// An assignment with the group epoch that it was computed for: partitions, or what else a kind of
/// group assigns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<T = Partitions> {
    /// -1 before there is one.
    pub epoch: i32,
    /// When it was computed; 0 when that is not known.
    pub computed_at: Millis,
    members: OrdMap<Arc<str>, Arc<T>>,
}

impl<T> Default for Target<T> {
    fn default() -> Self {
        Self { epoch: -1, computed_at: 0, members: OrdMap::new() }
    }
}

impl<T: PartialEq> Target<T> {
    /// Of a group that counts its assignments from `epoch`.
    pub fn before_first(epoch: i32) -> Self {
        Self { epoch, ..Self::default() }
    }

    /// What `member` shall own; `None` when it is not part of the assignment yet.
    pub fn of(&self, member: &str) -> Option<&Arc<T>> {
        self.members.get(member)
    }

    pub fn set(&mut self, member: &str, assigned: T) {
        self.members.insert(member.into(), Arc::new(assigned));
    }

    pub fn remove(&mut self, member: &str) {
        self.members.remove(member);
    }

    pub fn members(&self) -> impl Iterator<Item = (&str, &Arc<T>)> {
        self.members.iter().map(|(member, assigned)| (&**member, assigned))
    }

    /// Those of `next` who shall own something else than now, or who are new.
    pub fn changes<'a, K: AsRef<str>>(
        &'a self,
        next: &'a BTreeMap<K, Arc<T>>,
    ) -> impl Iterator<Item = (&'a str, &'a Arc<T>)> {
        let next = next.iter().map(|(member, assigned)| (member.as_ref(), assigned));
        next.filter(|(member, assigned)| self.of(member) != Some(assigned))
    }
}

/// Whether the next assignment may be computed, `interval_ms` after the last one (KIP-1263).
pub fn may_assign(computed_at: Millis, interval_ms: i64, now: Millis) -> bool {
    // A clock may be set back, or be behind that of the last coordinator: then nobody knows how long
    // ago the last one was, and a group must not stand still until that time comes again.
    computed_at == 0 || now < computed_at || now >= computed_at + interval_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_waits_for_its_interval_but_not_for_a_clock_that_was_set_back() {
        let cases =
            [(0, 5, true), (100, 100, false), (100, 104, false), (100, 105, true), (100, 99, true)];
        for (computed_at, now, may) in cases {
            assert_eq!(may_assign(computed_at, 5, now), may, "{computed_at} at {now}");
        }
    }
}
