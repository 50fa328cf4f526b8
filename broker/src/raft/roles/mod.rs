//! The roles of a replica of the metadata log, one a file.

mod candidate;
mod follower;
mod leader;
mod prospective;
mod resigned;
mod unattached;

pub use candidate::{Candidate, Votes};
pub use follower::Follower;
pub use leader::{Leader, Progress};
pub use prospective::Prospective;
pub use resigned::Resigned;
pub use unattached::Unattached;

use crate::types::{Millis, NodeId};

/// What a replica is at the moment. An observer is unattached or a follower, and stays that.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Role {
    Unattached(Unattached),
    Follower(Follower),
    Prospective(Prospective),
    Candidate(Candidate),
    Leader(Leader),
    Resigned(Resigned),
}

impl Role {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unattached(_) => "unattached",
            Self::Follower(_) => "follower",
            Self::Prospective(_) => "prospective",
            Self::Candidate(_) => "candidate",
            Self::Leader(_) => "leader",
            Self::Resigned(_) => "resigned",
        }
    }

    /// The leader of the current epoch when it is not this node.
    pub fn follows(&self) -> Option<NodeId> {
        match self {
            Self::Follower(it) => Some(it.leader),
            Self::Prospective(it) => it.leader,
            _ => None,
        }
    }

    pub fn leader(&self) -> Option<&Leader> {
        match self {
            Self::Leader(leader) => Some(leader),
            _ => None,
        }
    }

    /// When the role has to act by itself.
    pub fn deadline(&self) -> Millis {
        match self {
            Self::Unattached(it) => it.deadline,
            Self::Follower(it) => it.deadline,
            Self::Prospective(it) => it.deadline,
            Self::Candidate(it) => it.deadline,
            Self::Leader(it) => it.deadline(),
            Self::Resigned(it) => it.deadline,
        }
    }
}
