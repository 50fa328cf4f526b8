//! Has led this epoch and does so no more: it answers, tells the voters, and waits.

use crate::types::Millis;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resigned {
    pub deadline: Millis,
}
