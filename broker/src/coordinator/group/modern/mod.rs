//! What groups of the newer protocols (KIP-848 and those after it) have in common: a group epoch
//! that grows with each change of what the assignment rests on, a target assignment with an epoch
//! of its own, and members that move towards it one by one.
//!
//! Everything here is a value with persistent maps: cheap to clone, so that the state before each
//! write can be kept ([`Timeline`](super::timeline::Timeline)), and changed by replaying records
//! only.
//!
//! - [`Target`]: the target assignment, and what changes from one to the next.
//! - [`Topics`]: how many members subscribe to each topic.
//! - [`metadata_hash`]: what of the cluster an assignment rests on (KIP-1101).
//! - [`Refresh`]: when to look at that again.

mod hash;
mod target;
mod topics;

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

pub use hash::{metadata_hash, topic_hash};
pub use target::{Target, may_assign};
pub use topics::{Subscribers, Topics};

use crate::types::Millis;

/// Partitions by topic.
pub type Partitions = BTreeMap<Uuid, BTreeSet<i32>>;

/// Until when what a group knows of the cluster is taken as true. In memory only: after a load the
/// first heartbeat looks again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refresh {
    deadline: Millis,
    /// The group epoch that was true then; when the group is at a lower one, the write that made
    /// it was taken back.
    epoch: i32,
}

/// Kafka's: changes of topics are told, so that looking by time alone is for the very patient.
const INTERVAL: Millis = i32::MAX as Millis;

impl Refresh {
    pub fn done(now: Millis, epoch: i32) -> Self {
        Self { deadline: now + INTERVAL, epoch }
    }

    pub fn is_due(&self, now: Millis, epoch: i32) -> bool {
        now >= self.deadline || epoch < self.epoch
    }
}
