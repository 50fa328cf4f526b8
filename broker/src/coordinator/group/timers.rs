//! The timers of groups of all kinds.

/// A group has at most one timer per slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Of a member, or a pending member.
    Session(String),
    /// A classic group waits for members to join.
    Join,
    /// A classic group waits for members to fetch their assignment.
    Sync,
    /// A member of a consumer group has to give partitions up.
    Rebalance(String),
    /// A member of a consumer group that speaks the classic protocol has to join again.
    Rejoin(String),
    /// Such a member has to fetch its assignment.
    Resync(String),
    /// The patterns of a consumer group are to be resolved.
    Patterns,
    /// A new streams group waits for more members.
    Delay,
}

/// What ran out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Timer {
    /// A member, or pending member, was silent for its session timeout.
    Session {
        member: String,
    },
    /// The first rebalance of an empty group waits for more members, at most `remaining_ms` longer.
    InitialJoin {
        delay_ms: i64,
        remaining_ms: i64,
    },
    /// The members had their rebalance timeout to join.
    Join,
    /// The members had their rebalance timeout to fetch their assignment.
    Sync {
        generation: i32,
    },
    /// A member had its rebalance timeout to give up partitions and leave `epoch`.
    Rebalance {
        member: String,
        epoch: i32,
    },
    Rejoin {
        member: String,
    },
    Resync {
        member: String,
    },
    Patterns,
    Delay,
}
