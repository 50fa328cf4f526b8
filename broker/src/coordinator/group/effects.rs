//! What the pure parts ask of the runtime: answers, timers, records.

use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::share_group_describe_response::DescribedGroup as DescribedShareGroup;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatResponse, HeartbeatResponse, JoinGroupResponse, LeaveGroupResponse,
    OffsetCommitResponse, OffsetDeleteResponse, ShareGroupHeartbeatResponse, SyncGroupResponse,
    TxnOffsetCommitResponse,
};

use super::shard::Shard;
use super::share::{Initialize, StatePartitions};
use super::streams::ToCreate;
use super::timers::{Slot, Timer};
use crate::coordinator::runtime;
pub use crate::coordinator::runtime::Token;
use crate::error::{ErrorCode, Refusal};
use crate::wire::streams::{
    DescribedGroup as DescribedStreamsGroup, StreamsGroupHeartbeatResponse,
};

/// What is kept for a share group, for those that change it from outside.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShareStates {
    pub epoch: i32,
    pub is_empty: bool,
    pub states: StatePartitions,
}

/// An answer to any of the group APIs.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
    Heartbeat(HeartbeatResponse),
    Leave(LeaveGroupResponse),
    ConsumerHeartbeat(ConsumerGroupHeartbeatResponse),
    OffsetCommit(OffsetCommitResponse),
    TxnOffsetCommit(TxnOffsetCommitResponse),
    OffsetFetch(OffsetFetchResponseGroup),
    OffsetDelete(OffsetDeleteResponse),
    List(Result<Vec<ListedGroup>, ErrorCode>),
    Describe(Vec<DescribedGroup>),
    ConsumerDescribe(Vec<DescribedConsumerGroup>),
    Delete(Vec<DeletableGroupResult>),
    /// With the states that are to be initialized now.
    ShareHeartbeat(Result<(ShareGroupHeartbeatResponse, Option<Initialize>), Refusal>),
    ShareStates(Result<ShareStates, Refusal>),
    ShareDescribe(Vec<DescribedShareGroup>),
    /// With the topics that are to be made now.
    StreamsHeartbeat(Result<(StreamsGroupHeartbeatResponse, ToCreate), Refusal>),
    StreamsDescribe(Vec<DescribedStreamsGroup>),
}

/// A timer of a group is set, or stopped.
pub type TimerChange = runtime::TimerChange<Slot, Timer>;

/// What one step asks for; timers and what follows are by group.
pub type Effects = runtime::Effects<Shard>;

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
