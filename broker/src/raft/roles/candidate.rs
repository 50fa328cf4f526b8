//! Asks for votes in an epoch of its own, in which it has voted for itself.

use std::collections::BTreeSet;

use crate::raft::voters::VoterSet;
use crate::types::{Millis, NodeId};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Candidate {
    pub votes: Votes,
    /// It has lost and waits before it asks again.
    pub lost: bool,
    pub deadline: Millis,
}

/// Who has answered, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Votes {
    pub granted: BTreeSet<NodeId>,
    pub refused: BTreeSet<NodeId>,
}

impl Votes {
    /// With the asker's own vote.
    pub fn of(me: NodeId) -> Self {
        Self { granted: BTreeSet::from([me]), refused: BTreeSet::new() }
    }

    pub fn count(&mut self, from: NodeId, granted: bool) {
        if granted {
            self.refused.remove(&from);
            self.granted.insert(from);
        } else if !self.granted.contains(&from) {
            self.refused.insert(from);
        }
    }

    pub fn won(&self, voters: &VoterSet) -> bool {
        let granted = voters.iter().filter(|voter| self.granted.contains(&voter.key.id));
        granted.count() >= voters.majority()
    }

    /// Too many have refused for a majority to be possible.
    pub fn lost(&self, voters: &VoterSet) -> bool {
        let refused = voters.iter().filter(|voter| self.refused.contains(&voter.key.id));
        voters.len() - refused.count() < voters.majority()
    }
}
