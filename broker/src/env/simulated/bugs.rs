//! Bugs that can be planted, to see that the simulation finds them. Only in simulation builds.

use std::cell::Cell;

/// One planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The leader answers a produce request before the records are in its log.
    AcknowledgeBeforeAppend,
}

impl Bug {
    pub const ALL: [(&'static str, Self); 1] =
        [("acknowledge-before-append", Self::AcknowledgeBeforeAppend)];
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants `bug` in all brokers that run on this thread, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Is `bug` planted here?
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
