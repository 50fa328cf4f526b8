//! Asks whether it would be elected, before it disturbs anybody by a new epoch (KIP-996).
//!
//! It keeps its epoch, its vote, and the leader that it followed: if the others still hear from
//! that one, it goes back to it.

use super::candidate::Votes;
use crate::types::{Millis, NodeId};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prospective {
    pub votes: Votes,
    pub leader: Option<NodeId>,
    pub deadline: Millis,
}
