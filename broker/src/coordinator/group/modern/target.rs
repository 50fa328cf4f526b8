//! The target assignment: what each member shall own once all have followed.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use super::Partitions;
use crate::types::Millis;

/// An assignment with the group epoch that it was computed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// -1 before there is one.
    pub epoch: i32,
    /// When it was computed; 0 when that is not known.
    pub computed_at: Millis,
    members: OrdMap<Arc<str>, Arc<Partitions>>,
}

impl Default for Target {
    fn default() -> Self {
        Self { epoch: -1, computed_at: 0, members: OrdMap::new() }
    }
}

impl Target {
    /// Of a group that counts its assignments from `epoch`.
    pub fn before_first(epoch: i32) -> Self {
        Self { epoch, ..Self::default() }
    }

    /// What `member` shall own; `None` when it is not part of the assignment yet.
    pub fn of(&self, member: &str) -> Option<&Arc<Partitions>> {
        self.members.get(member)
    }

    pub fn set(&mut self, member: &str, partitions: Partitions) {
        self.members.insert(member.into(), Arc::new(partitions));
    }

    pub fn remove(&mut self, member: &str) {
        self.members.remove(member);
    }

    pub fn members(&self) -> impl Iterator<Item = (&str, &Arc<Partitions>)> {
        self.members.iter().map(|(member, partitions)| (&**member, partitions))
    }

    /// Those of `next` whose partitions are others than now, or who are new.
    pub fn changes<'a, K: AsRef<str>>(
        &'a self,
        next: &'a BTreeMap<K, Arc<Partitions>>,
    ) -> impl Iterator<Item = (&'a str, &'a Arc<Partitions>)> {
        let next = next.iter().map(|(member, partitions)| (member.as_ref(), partitions));
        next.filter(|(member, partitions)| self.of(member) != Some(partitions))
    }
}

/// Whether the next assignment may be computed, `interval_ms` after the last one (KIP-1263).
pub fn may_assign(computed_at: Millis, interval_ms: i64, now: Millis) -> bool {
    // With no interval at all the clock does not matter, even when it is set back.
    computed_at == 0 || interval_ms == 0 || now >= computed_at + interval_ms
}
