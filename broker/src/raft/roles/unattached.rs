//! Knows no leader: waits for one to make itself known, asks around, and votes.

use crate::types::Millis;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Unattached {
    /// A voter then asks the others whether they would vote for it.
    pub deadline: Millis,
}
