//! A request to the coordinator of one group, or of several in one partition.

use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::share_group_describe_response::DescribedGroup as DescribedShareGroup;
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatResponse, GroupId, HeartbeatRequest, HeartbeatResponse,
    LeaveGroupRequest, LeaveGroupResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetDeleteRequest, OffsetDeleteResponse, SyncGroupRequest, TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
};
use uuid::Uuid;

use super::classic::{self, JoinCall};
use super::consumer::HeartbeatCall;
use super::effects::{Answer, Token};
use super::share;
use super::streams;
use crate::error::{ErrorCode, Refusal};
use crate::log::Guard;
use crate::wire::streams::DescribedGroup as DescribedStreamsGroup;

#[derive(Debug, Clone)]
pub enum Call {
    Join(Box<JoinCall>),
    Sync(SyncGroupRequest),
    Heartbeat(HeartbeatRequest),
    Leave(LeaveGroupRequest),
    ConsumerHeartbeat(Box<HeartbeatCall>),
    OffsetCommit {
        request: OffsetCommitRequest,
        version: i16,
    },
    TxnOffsetCommit(Box<TxnOffsetCommit>),
    OffsetFetch {
        group: OffsetFetchRequestGroup,
        require_stable: bool,
    },
    OffsetDelete(OffsetDeleteRequest),
    List {
        states: Vec<String>,
        types: Vec<String>,
    },
    Describe {
        groups: Vec<GroupId>,
        version: i16,
    },
    ConsumerDescribe {
        groups: Vec<GroupId>,
    },
    Delete {
        groups: Vec<GroupId>,
    },
    ShareHeartbeat(Box<share::Heartbeat>),
    /// The share coordinator keeps these states now.
    ShareInitialized {
        group: GroupId,
        topics: share::Named,
    },
    /// Which states are kept for a group, and whether it may be changed from outside.
    ShareStates {
        group: GroupId,
    },
    /// States are about to be set from outside; makes the group if it is not there.
    ShareAlter {
        group: GroupId,
        topics: share::Named,
    },
    /// States are gone.
    ShareForget {
        group: GroupId,
        topics: Vec<Uuid>,
    },
    ShareDescribe {
        groups: Vec<GroupId>,
    },
    StreamsHeartbeat(Box<streams::Heartbeat>),
    StreamsDescribe {
        groups: Vec<String>,
    },
}

/// Offsets that count once a transaction is committed.
#[derive(Debug, Clone)]
pub struct TxnOffsetCommit {
    pub request: TxnOffsetCommitRequest,
    /// What the verification of the transaction left.
    pub guard: Option<Guard>,
}

/// Which kind of answer a token waits for, with what its error form repeats of the request.
#[derive(Debug, Clone)]
pub enum Asked {
    Join,
    Sync,
    Heartbeat,
    Leave { request: LeaveGroupRequest },
    OffsetCommit { request: OffsetCommitRequest },
    TxnOffsetCommit { request: TxnOffsetCommitRequest },
    OffsetFetch { group: GroupId },
    OffsetDelete,
    ConsumerHeartbeat,
    List,
    Describe { groups: Vec<GroupId> },
    ConsumerDescribe { groups: Vec<GroupId> },
    Delete { groups: Vec<GroupId> },
    ShareHeartbeat,
    ShareStates,
    ShareDescribe { groups: Vec<GroupId> },
    StreamsHeartbeat,
    StreamsDescribe { groups: Vec<String> },
}

impl Call {
    pub fn asked(&self) -> Asked {
        match self {
            Self::Join(_) => Asked::Join,
            Self::Sync(_) => Asked::Sync,
            Self::Heartbeat(_) => Asked::Heartbeat,
            Self::Leave(request) => Asked::Leave { request: request.clone() },
            Self::ConsumerHeartbeat(_) => Asked::ConsumerHeartbeat,
            Self::OffsetCommit { request, .. } => Asked::OffsetCommit { request: request.clone() },
            Self::TxnOffsetCommit(call) => Asked::TxnOffsetCommit { request: call.request.clone() },
            Self::OffsetFetch { group, .. } => Asked::OffsetFetch { group: group.group_id.clone() },
            Self::OffsetDelete(_) => Asked::OffsetDelete,
            Self::List { .. } => Asked::List,
            Self::Describe { groups, .. } => Asked::Describe { groups: groups.clone() },
            Self::ConsumerDescribe { groups } => Asked::ConsumerDescribe { groups: groups.clone() },
            Self::Delete { groups } => Asked::Delete { groups: groups.clone() },
            Self::ShareHeartbeat(_) => Asked::ShareHeartbeat,
            Self::ShareInitialized { .. }
            | Self::ShareStates { .. }
            | Self::ShareAlter { .. }
            | Self::ShareForget { .. } => Asked::ShareStates,
            Self::ShareDescribe { groups } => Asked::ShareDescribe { groups: groups.clone() },
            Self::StreamsHeartbeat(_) => Asked::StreamsHeartbeat,
            Self::StreamsDescribe { groups } => Asked::StreamsDescribe { groups: groups.clone() },
        }
    }

    /// The token is the runtime's; only a JoinGroup carries it itself, because it may be parked.
    #[must_use]
    pub fn with_token(mut self, token: Token) -> Self {
        if let Self::Join(call) = &mut self {
            call.token = token;
        }
        self
    }
}

impl Asked {
    /// The answer that refuses all that was asked.
    pub fn refuse(&self, code: ErrorCode) -> Answer {
        match self {
            Self::Join => Answer::Join(classic::refuse_join("", code)),
            Self::Sync => Answer::Sync(classic::refuse_sync(code)),
            // A client that hears of no rebalance keeps its partitions while we load.
            Self::Heartbeat if code == ErrorCode::CoordinatorLoadInProgress => {
                Answer::Heartbeat(HeartbeatResponse::default())
            }
            Self::Heartbeat => {
                Answer::Heartbeat(HeartbeatResponse::default().with_error_code(code.code()))
            }
            Self::Leave { request } => Answer::Leave(refuse_leave(request, code)),
            Self::OffsetCommit { request } => Answer::OffsetCommit(refuse_commit(request, code)),
            Self::TxnOffsetCommit { request } => {
                Answer::TxnOffsetCommit(refuse_txn_commit(request, code))
            }
            Self::OffsetFetch { group } => Answer::OffsetFetch(
                OffsetFetchResponseGroup::default()
                    .with_group_id(group.clone())
                    .with_error_code(code.code()),
            ),
            Self::OffsetDelete => {
                Answer::OffsetDelete(OffsetDeleteResponse::default().with_error_code(code.code()))
            }
            Self::ConsumerHeartbeat => {
                let answer = ConsumerGroupHeartbeatResponse::default();
                Answer::ConsumerHeartbeat(answer.with_error_code(code.code()))
            }
            Self::List => Answer::List(Err(code)),
            Self::ShareHeartbeat => Answer::ShareHeartbeat(Err(code.into())),
            Self::ShareStates => Answer::ShareStates(Err(code.into())),
            Self::ShareDescribe { groups } => {
                let refuse = |id: &GroupId| {
                    let group = DescribedShareGroup::default().with_group_id(id.clone());
                    group.with_error_code(code.code())
                };
                Answer::ShareDescribe(groups.iter().map(refuse).collect())
            }
            // Kafka says no more than the code.
            Self::StreamsHeartbeat => {
                Answer::StreamsHeartbeat(Err(Refusal::new(code, String::new())))
            }
            Self::StreamsDescribe { groups } => {
                let refuse = |id: &String| DescribedStreamsGroup {
                    group: id.clone(),
                    error_code: code.code(),
                    ..DescribedStreamsGroup::default()
                };
                Answer::StreamsDescribe(groups.iter().map(refuse).collect())
            }
            Self::Describe { groups } => {
                let refuse = |id: &GroupId| {
                    DescribedGroup::default().with_group_id(id.clone()).with_error_code(code.code())
                };
                Answer::Describe(groups.iter().map(refuse).collect())
            }
            Self::ConsumerDescribe { groups } => {
                let refuse = |id: &GroupId| {
                    let group = DescribedConsumerGroup::default().with_group_id(id.clone());
                    group.with_error_code(code.code())
                };
                Answer::ConsumerDescribe(groups.iter().map(refuse).collect())
            }
            Self::Delete { groups } => {
                let refuse = |id: &GroupId| {
                    DeletableGroupResult::default()
                        .with_group_id(id.clone())
                        .with_error_code(code.code())
                };
                Answer::Delete(groups.iter().map(refuse).collect())
            }
        }
    }
}

/// An unknown group knows none of the members, and each is told so.
fn refuse_leave(request: &LeaveGroupRequest, code: ErrorCode) -> LeaveGroupResponse {
    if code != ErrorCode::UnknownMemberId {
        return LeaveGroupResponse::default().with_error_code(code.code());
    }
    let members = request.members.iter().map(|member| {
        MemberResponse::default()
            .with_member_id(member.member_id.clone())
            .with_group_instance_id(member.group_instance_id.clone())
            .with_error_code(code.code())
    });
    LeaveGroupResponse::default().with_members(members.collect())
}

fn refuse_commit(request: &OffsetCommitRequest, code: ErrorCode) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code.code())
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// Refuses every partition alike.
pub fn refuse_txn_commit(
    request: &TxnOffsetCommitRequest,
    code: ErrorCode,
) -> TxnOffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code.code())
        });
        TxnOffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}
