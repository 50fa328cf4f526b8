//! What the roles hear and what they want done: events in, effects out.
//!
//! Kafka's requests without their wrapping; [`super::rpc`] turns them into bytes and back. Times
//! are milliseconds of a clock that only has to run forward.

use bytes::Bytes;
use uuid::Uuid;

use crate::error::ErrorCode;
use crate::types::{LeaderEpoch, Millis, NodeId, Offset};
use crate::wire::metadata::control::Control;

/// A replica of the metadata log: a node, and the disk it has. A nil directory is an unknown one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReplicaKey {
    pub id: NodeId,
    pub directory: Uuid,
}

impl ReplicaKey {
    pub fn new(id: NodeId, directory: Uuid) -> Self {
        Self { id, directory }
    }
}

/// What must be on disk before anything that follows leaves this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Election {
    pub epoch: LeaderEpoch,
    pub leader: Option<NodeId>,
    pub voted: Option<ReplicaKey>,
}

/// The end of a log: compared first by epoch, then by offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogEnd {
    pub epoch: LeaderEpoch,
    pub offset: Offset,
}

/// What the roles need to know of the log. An empty log ends in epoch 0.
pub trait LogView {
    fn end(&self) -> LogEnd;
    /// The end of `epoch`, or of the largest one below it: (0, start of the log) before all.
    fn end_of_epoch(&self, epoch: LeaderEpoch) -> LogEnd;
    /// Where the log begins; later than 0 once a snapshot stands for its beginning.
    fn start_offset(&self) -> Offset;
    /// The latest snapshot: what a follower that is behind the start has to load.
    fn snapshot(&self) -> Option<LogEnd>;
    /// The epoch of the oldest snapshot, which is where the log starts once it was trimmed.
    fn oldest_epoch(&self) -> LeaderEpoch;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VoteRequest {
    pub epoch: LeaderEpoch,
    pub candidate: ReplicaKey,
    /// Whom the candidate believes that it asks; `None` in versions that do not say.
    pub voter: Option<ReplicaKey>,
    pub end: LogEnd,
    pub pre_vote: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BeginRequest {
    pub epoch: LeaderEpoch,
    pub leader: NodeId,
    pub voter: Option<ReplicaKey>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndRequest {
    pub epoch: LeaderEpoch,
    pub leader: NodeId,
    /// The voters, the most caught-up first.
    pub preferred: Vec<NodeId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchRequest {
    pub epoch: LeaderEpoch,
    /// Id -1: somebody who only reads.
    pub replica: ReplicaKey,
    /// Where the fetcher's log ends, and in which epoch.
    pub end: LogEnd,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    Vote(VoteRequest),
    Begin(BeginRequest),
    End(EndRequest),
}

/// What the asked node knows, as every answer tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Known {
    pub error: Option<Error>,
    pub leader: Option<NodeId>,
    pub epoch: LeaderEpoch,
}

/// The refusals of these requests; the names are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Error {
    FencedLeaderEpoch,
    UnknownLeaderEpoch,
    NotLeaderOrFollower,
    InvalidRequest,
    InvalidVoterKey,
    Other(i16),
}

impl Error {
    pub fn code(self) -> i16 {
        match self {
            Self::FencedLeaderEpoch => ErrorCode::FencedLeaderEpoch.code(),
            Self::UnknownLeaderEpoch => ErrorCode::UnknownLeaderEpoch.code(),
            Self::NotLeaderOrFollower => ErrorCode::NotLeaderOrFollower.code(),
            Self::InvalidRequest => ErrorCode::InvalidRequest.code(),
            Self::InvalidVoterKey => ErrorCode::InvalidVoterKey.code(),
            Self::Other(code) => code,
        }
    }

    pub fn of(code: i16) -> Option<Self> {
        let known = [
            Self::FencedLeaderEpoch,
            Self::UnknownLeaderEpoch,
            Self::NotLeaderOrFollower,
            Self::InvalidRequest,
            Self::InvalidVoterKey,
        ];
        match code {
            0 => None,
            code => {
                Some(known.into_iter().find(|it| it.code() == code).unwrap_or(Self::Other(code)))
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    Vote {
        known: Known,
        granted: bool,
    },
    /// To BeginQuorumEpoch and EndQuorumEpoch.
    Known(Known),
    Fetch(Fetched),
}

/// What a leader lets a fetcher have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fetched {
    Refused(Known),
    /// The logs part here: the fetcher forgets what it has beyond.
    Diverging(LogEnd),
    /// The log starts later: the fetcher loads this snapshot first.
    Snapshot(LogEnd),
    /// Batches from the fetch offset on.
    Read,
}

/// The part of a Fetch answer that concerns the metadata log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchAnswer {
    pub known: Known,
    /// Unknown to a leader that has just been elected.
    pub high_watermark: Option<Offset>,
    pub diverging: Option<LogEnd>,
    pub snapshot: Option<LogEnd>,
    pub records: Bytes,
}

/// Which fetch is under way. An answer to any other is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchId {
    /// `None`: any of the known addresses, to find the leader.
    pub to: Option<NodeId>,
    pub epoch: LeaderEpoch,
    pub end: LogEnd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Tick,
    Vote(VoteRequest),
    Begin(BeginRequest),
    End(EndRequest),
    Fetch(FetchRequest),
    /// A voter has answered our Vote.
    Voted {
        from: ReplicaKey,
        request: VoteRequest,
        known: Known,
        granted: bool,
    },
    /// A voter has answered our BeginQuorumEpoch or EndQuorumEpoch.
    Told {
        from: ReplicaKey,
        known: Known,
    },
    Fetched(FetchId, FetchAnswer),
    /// Another part of the snapshot that answered this fetch has come.
    Loading(FetchId),
    /// The log starts at the snapshot that answered this fetch.
    Loaded(FetchId),
    /// A replica asks this leader, in its epoch, for a part of a snapshot.
    SnapshotAsked(ReplicaKey, LeaderEpoch),
    /// The fetch failed, without a sign that the process is dead.
    FetchFailed(FetchId),
    /// Nothing listens any more where that leader was: its process is dead.
    LeaderDied(FetchId),
    /// All that was appended is durable.
    Synced,
    /// This node will stop: another one should lead.
    Resign,
}

/// What the driver has to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Write the quorum state down; nothing after this may happen before it is durable.
    Persist(Election),
    Send(ReplicaKey, Request),
    /// Fetch from the leader, or from anybody who may know it. Replaces the fetch under way.
    Fetch(FetchId),
    /// Append these in our own epoch, one batch, sync, and report [`Event::Synced`].
    Append(Vec<Control>),
    /// Append what the leader sent, sync, and report [`Event::Synced`].
    Replicate(Bytes),
    /// Forget everything from here on.
    Truncate(Offset),
    /// Gather the leader's snapshot, which takes the place of this fetch, and report
    /// [`Event::Loading`] for each part. When it is whole and the fetch is still the one under way
    /// ([`Raft::is_fetching`](super::node::Raft::is_fetching)), start the log there and report
    /// [`Event::Loaded`].
    LoadSnapshot(FetchId, LogEnd),
    /// All below is committed.
    Commit(Offset),
    Answer(Answer),
    /// The leader's log is not the one that we have followed: nothing may be forgotten because of
    /// that, and this node cannot go on.
    LeaderLostMetadata(NodeId),
}

/// When something happens, and a random number to go with it.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub now: Millis,
    pub random: u64,
}

impl At {
    /// `from` plus up to `spread` milliseconds from now.
    pub fn within(self, from: Millis, spread: Millis) -> Millis {
        self.now + from + (self.random % spread.max(1) as u64) as Millis
    }
}
