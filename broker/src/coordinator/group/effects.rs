//! What the pure parts ask of the runtime: answers, timers, records.

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::{
    HeartbeatResponse, JoinGroupResponse, LeaveGroupResponse, OffsetCommitResponse,
    OffsetDeleteResponse, SyncGroupResponse,
};

use super::classic::{Continuation, Slot, Timer};
use super::records::Record;
use crate::error::ErrorCode;

/// Names a request that waits for its answer.
pub type Token = u64;

/// An answer to any of the group APIs.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
    Heartbeat(HeartbeatResponse),
    Leave(LeaveGroupResponse),
    OffsetCommit(OffsetCommitResponse),
    OffsetFetch(OffsetFetchResponseGroup),
    OffsetDelete(OffsetDeleteResponse),
    List(Result<Vec<ListedGroup>, ErrorCode>),
    Describe(Vec<DescribedGroup>),
    Delete(Vec<DeletableGroupResult>),
}

/// A timer of a group is set, or stopped. Setting a slot again replaces what it held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimerChange {
    Set { slot: Slot, after_ms: i64, timer: Timer },
    Cancel(Slot),
}

/// What one step asks for. The runtime carries it out in the order of the fields.
#[derive(Debug, Default)]
pub struct Effects {
    /// By group.
    pub timers: Vec<(String, TimerChange)>,
    /// Answers that do not wait for anything.
    pub answers: Vec<(Token, Answer)>,
    /// To be appended together.
    pub records: Vec<Record>,
    /// Whether `records` change the state when they are in the log (offsets, tombstones), or only
    /// describe a change that the group made, or will make by `then`.
    pub replay: bool,
    /// Told to the group once `records` are committed, or could not be.
    pub then: Option<(String, Continuation)>,
    /// An answer that waits until all that the coordinator wrote so far is committed.
    pub after_commit: Option<(Token, Answer)>,
}

impl Effects {
    pub fn answer(&mut self, token: Token, answer: Answer) {
        self.answers.push((token, answer));
    }
}

/// Takes the kind of answer that a call of that kind is given.
macro_rules! answer_in_kind {
    ($answer:expr, $kind:ident) => {
        match $answer {
            $crate::coordinator::group::effects::Answer::$kind(answer) => answer,
            other => {
                unreachable!("a {} call is answered in kind, not by {other:?}", stringify!($kind))
            }
        }
    };
}
pub(crate) use answer_in_kind;
