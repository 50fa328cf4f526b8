//! Follows the leader of its epoch by Fetch.
//!
//! A follower that hears from its leader grants no pre-vote: whoever cannot reach the leader is
//! then cut off by itself. One that has a sign of the leader's death does.

use crate::types::{Millis, NodeId};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Follower {
    pub leader: NodeId,
    /// The leader has answered a fetch, in this epoch.
    pub fetched: bool,
    /// There is a sign that the leader's process is dead, or that it has resigned.
    pub gone: bool,
    /// The leader must have answered by then.
    pub deadline: Millis,
}

impl Follower {
    pub fn new(leader: NodeId, deadline: Millis) -> Self {
        Self { leader, fetched: false, gone: false, deadline }
    }

    pub fn grants_pre_vote(&self) -> bool {
        !self.fetched || self.gone
    }
}
