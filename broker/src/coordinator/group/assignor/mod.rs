//! Server-side assignors: who shall own which partitions. Pure functions of the subscriptions, the
//! partition counts and the assignment before.
//!
//! As Kafka 4.3.1's, `uniform` (balanced and sticky) and `range` (the same range of each topic to
//! the same member). Neither looks at racks; a change of racks only makes them run again. Where
//! Kafka's result depends on the order of a hash map, members and topics count in the order of
//! their ids here.

mod heterogeneous;
mod homogeneous;
#[cfg(test)]
mod properties;
mod range;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use super::modern::Partitions;

/// The names of the assignors, the default first.
pub const UNIFORM: &str = "uniform";
pub const RANGE: &str = "range";

/// What an assignor knows of a member.
#[derive(Debug, Clone, Default)]
pub struct Member {
    pub instance_id: Option<String>,
    /// Topics that exist.
    pub topics: Arc<BTreeSet<Uuid>>,
    /// The target assignment before.
    pub assigned: Arc<Partitions>,
}

/// What an assignor knows of a group.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    pub members: BTreeMap<Arc<str>, Member>,
    /// Whether all members subscribe to the same topics.
    pub homogeneous: bool,
    /// Of each topic that a member subscribes to.
    pub partition_counts: BTreeMap<Uuid, i32>,
}

pub type Assignment = BTreeMap<Arc<str>, Arc<Partitions>>;

/// Runs the assignor that is called `name`; `None` when there is none. All members are in the
/// result.
pub fn assign(name: &str, spec: &Spec) -> Option<Assignment> {
    let mut assigned = match name {
        UNIFORM if spec.homogeneous => homogeneous::assign(spec),
        UNIFORM => heterogeneous::assign(spec),
        RANGE => range::assign(spec),
        _ => return None,
    };
    for member in spec.members.keys() {
        assigned.entry(member.clone()).or_default();
    }
    Some(assigned)
}

/// Takes one partition out, and its topic with the last.
fn remove(partitions: &mut Partitions, topic: Uuid, partition: i32) {
    if let Some(of_topic) = partitions.get_mut(&topic) {
        of_topic.remove(&partition);
        if of_topic.is_empty() {
            partitions.remove(&topic);
        }
    }
}
