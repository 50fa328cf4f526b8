//! What other nodes and tools ask this replica, from the connection's task to the driver and back.
//!
//! A [`Handle`] checks that the asker belongs to this cluster, hands the question to the driver
//! and waits. A fetch that finds nothing new waits for the log, the high watermark or the leader to
//! change. A change of voters is answered once it is committed, or once this node leads no more.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::fetch_response::{
    EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
    SnapshotId,
};
use kafka_protocol::messages::{
    BeginQuorumEpochRequest, BeginQuorumEpochResponse, BrokerId, EndQuorumEpochRequest,
    EndQuorumEpochResponse, FetchRequest, FetchResponse, FetchSnapshotRequest,
    FetchSnapshotResponse, TopicName, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::log::MetadataLog;
use super::messages::{Answer, Event, FetchRequest as Fetch, Fetched, Known, LogEnd, ReplicaKey};
use super::quorum::{Quorum, Status};
use super::roles::Progress;
use super::rpc::{self, Address};
use super::snapshot::KRaftState;
use super::snapshot::transfer::{self, Answerer};
use super::voters::{Endpoint, History, Voter};
use crate::env::Env;
use crate::error::{ErrorCode, Fault, Refusal};
use crate::types::{LeaderEpoch, NodeId, Offset};
use crate::wire::metadata::control::Control;

/// No fetch waits longer than this.
const MAX_WAIT: Duration = Duration::from_secs(10);
const MAX_BYTES: usize = 8 << 20;

/// A question to the driver.
pub enum Inbound {
    /// From another replica; with the addresses that came along.
    Event(Event, Vec<Address>, oneshot::Sender<Replied>),
    /// From another replica, and nothing to answer.
    Hint(Event),
    /// Whether a voter could be added now.
    MayAdd(ReplicaKey, oneshot::Sender<Result<(), Refusal>>),
    Change(Change, oneshot::Sender<Result<(), Refusal>>),
    Describe(oneshot::Sender<Description>),
    /// This node will stop.
    Resign(oneshot::Sender<()>),
}

/// A change of the voters.
pub enum Change {
    /// Acknowledged when it is in the log, or when it is committed.
    Add {
        voter: Voter,
        when_committed: bool,
    },
    Remove(ReplicaKey),
    Update {
        voter: Voter,
        epoch: LeaderEpoch,
    },
}

/// An answer, and where the leader is.
pub struct Replied {
    pub answer: Answer,
    pub nodes: Vec<Address>,
}

/// A change that is not committed yet.
pub(super) struct Waiting {
    offset: Offset,
    epoch: LeaderEpoch,
    answer: oneshot::Sender<Result<(), Refusal>>,
}

/// The quorum as this node sees it.
#[derive(Debug, Clone)]
pub struct Description {
    pub status: Status,
    pub me: ReplicaKey,
    pub kraft_version: i16,
    pub voters: Vec<Voter>,
    /// As the leader knows them; its own end is in the status.
    pub replicas: Vec<(ReplicaKey, Progress)>,
    /// Milliseconds of the replicas' clock.
    pub now: i64,
}

/// How the rest of this node talks to its replica of the metadata log.
#[derive(Clone)]
pub struct Handle {
    env: Env,
    cluster: Arc<str>,
    listener: Arc<str>,
    inbox: mpsc::Sender<Inbound>,
    status: watch::Receiver<Status>,
    log: Arc<MetadataLog>,
    history: Arc<Mutex<History>>,
}

pub(super) struct HandleParts<'a> {
    pub env: &'a Env,
    pub cluster: &'a str,
    pub listener: &'a str,
    pub inbox: mpsc::Sender<Inbound>,
    pub status: watch::Receiver<Status>,
    pub log: Arc<MetadataLog>,
    pub history: Arc<Mutex<History>>,
}

impl Handle {
    pub(super) fn new(parts: HandleParts<'_>) -> Self {
        let HandleParts { env, cluster, listener, inbox, status, log, history } = parts;
        let (cluster, listener) = (cluster.into(), listener.into());
        Self { env: env.clone(), cluster, listener, inbox, status, log, history }
    }

    /// Who votes at an end offset of the log, for a snapshot; none with kraft.version 0.
    pub fn kraft_at(&self, end: Offset) -> Option<KRaftState> {
        let history = self.history.lock();
        let (voters, kraft_version) = history.at(end);
        let Control::Voters(voters) = voters.to_record() else { return None };
        (kraft_version > 0).then_some(KRaftState { kraft_version, voters: Some(voters) })
    }

    /// The kraft.version of the quorum, as far as this node knows its log.
    pub fn kraft_version(&self) -> i16 {
        self.history.lock().kraft_version()
    }

    /// Answers a FetchSnapshot.
    pub async fn fetch_snapshot(&self, request: FetchSnapshotRequest) -> FetchSnapshotResponse {
        let asked = request.topics.first().and_then(|topic| topic.partitions.first());
        if let Some(asked) = asked.filter(|_| self.is_this_cluster(request.cluster_id.as_deref())) {
            let replica = ReplicaKey::new(request.replica_id.0, asked.replica_directory_id);
            let event = Event::SnapshotAsked(replica, asked.current_leader_epoch);
            // The driver is gone when nobody hears.
            let _ = self.inbox.send(Inbound::Hint(event)).await;
        }
        let status = self.status.borrow().clone();
        let (log, cluster) = (self.log.clone(), self.cluster.clone());
        let work = move || {
            let me = Answerer {
                cluster_id: &cluster,
                leader: status.leader.unwrap_or(-1),
                epoch: status.epoch,
                leads: status.leads,
                endpoint: status.address,
            };
            transfer::serve(&log, &me, &request)
        };
        self.env.blocking(work).await
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    pub fn log(&self) -> &Arc<MetadataLog> {
        &self.log
    }

    /// Whether a request may name this cluster: one without an id is believed.
    pub fn is_this_cluster(&self, id: Option<&str>) -> bool {
        id.is_none_or(|id| id == &*self.cluster)
    }

    /// The listener that controllers use among themselves.
    pub fn listener(&self) -> &str {
        &self.listener
    }

    async fn ask(&self, event: Event, nodes: Vec<Address>) -> Option<Replied> {
        let (answer, answered) = oneshot::channel();
        self.inbox.send(Inbound::Event(event, nodes, answer)).await.ok()?;
        answered.await.ok()
    }

    pub async fn vote(&self, request: &VoteRequest) -> VoteResponse {
        let refuse = |code: ErrorCode| VoteResponse::default().with_error_code(code.code());
        if !self.is_this_cluster(request.cluster_id.as_deref()) {
            return refuse(ErrorCode::InconsistentClusterId);
        }
        let Some(vote) = rpc::read_vote(request) else {
            return refuse(ErrorCode::InvalidRequest);
        };
        match self.ask(Event::Vote(vote), Vec::new()).await {
            Some(Replied { answer: Answer::Vote { known, granted }, nodes }) => {
                rpc::vote_response(known, granted, &nodes)
            }
            _ => refuse(ErrorCode::BrokerNotAvailable),
        }
    }

    pub async fn begin(&self, request: &BeginQuorumEpochRequest) -> BeginQuorumEpochResponse {
        let refuse =
            |code: ErrorCode| BeginQuorumEpochResponse::default().with_error_code(code.code());
        if !self.is_this_cluster(request.cluster_id.as_deref()) {
            return refuse(ErrorCode::InconsistentClusterId);
        }
        let Some((begin, address)) = rpc::read_begin(request, &self.listener) else {
            return refuse(ErrorCode::InvalidRequest);
        };
        match self.ask(Event::Begin(begin), address.into_iter().collect()).await {
            Some(Replied { answer: Answer::Known(known), .. }) => rpc::begin_response(known),
            _ => refuse(ErrorCode::BrokerNotAvailable),
        }
    }

    pub async fn end(&self, request: &EndQuorumEpochRequest) -> EndQuorumEpochResponse {
        let refuse =
            |code: ErrorCode| EndQuorumEpochResponse::default().with_error_code(code.code());
        if !self.is_this_cluster(request.cluster_id.as_deref()) {
            return refuse(ErrorCode::InconsistentClusterId);
        }
        let Some(end) = rpc::read_end(request) else { return refuse(ErrorCode::InvalidRequest) };
        match self.ask(Event::End(end), Vec::new()).await {
            Some(Replied { answer: Answer::Known(known), .. }) => rpc::end_response(known),
            _ => refuse(ErrorCode::BrokerNotAvailable),
        }
    }

    /// Answers a Fetch of the metadata log; waits for news when there are none.
    pub async fn fetch(&self, request: &FetchRequest) -> FetchResponse {
        let refuse = |code: ErrorCode| FetchResponse::default().with_error_code(code.code());
        if !self.is_this_cluster(request.cluster_id.as_deref()) {
            return refuse(ErrorCode::InconsistentClusterId);
        }
        let [topic] = &request.topics[..] else { return refuse(ErrorCode::InvalidRequest) };
        let [asked] = &topic.partitions[..] else { return refuse(ErrorCode::InvalidRequest) };
        let known = topic.topic_id == rpc::TOPIC_ID || &**topic.topic == rpc::TOPIC;
        if !known || asked.partition != 0 {
            return refuse(ErrorCode::InvalidRequest);
        }
        // From version 15 on the replica id has a place of its own, and the old one reads -1.
        let id = request.replica_id.0.max(request.replica_state.replica_id.0);
        let end = LogEnd { epoch: asked.last_fetched_epoch, offset: asked.fetch_offset };
        let replica = ReplicaKey::new(id, asked.replica_directory_id);
        let fetch = Fetch { epoch: asked.current_leader_epoch, replica, end };
        let Some(replied) = self.ask(Event::Fetch(fetch), Vec::new()).await else {
            return refuse(ErrorCode::BrokerNotAvailable);
        };
        let Answer::Fetch(fetched) = replied.answer else {
            return refuse(ErrorCode::UnknownServerError);
        };
        // Version 17 does not say what the fetcher believes; then it hears by waiting less.
        let told = asked.high_watermark;
        let wait = Duration::from_millis(request.max_wait_ms.max(0) as u64).min(MAX_WAIT);
        let max = (asked.partition_max_bytes.max(1) as usize).min(MAX_BYTES);
        let partition = match fetched {
            Fetched::Read => self.read(end.offset, told, wait, max).await,
            Fetched::Refused(known) => self.refused(known),
            Fetched::Diverging(at) => {
                let parted =
                    EpochEndOffset::default().with_epoch(at.epoch).with_end_offset(at.offset);
                self.partition().with_diverging_epoch(parted)
            }
            Fetched::Snapshot(at) => {
                let id = SnapshotId::default().with_epoch(at.epoch).with_end_offset(at.offset);
                self.partition().with_snapshot_id(id)
            }
        };
        with_nodes(response(partition), &self.nodes(replied.nodes))
    }

    /// The leader may have changed while the fetch waited.
    fn nodes(&self, before: Vec<Address>) -> Vec<Address> {
        let status = self.status.borrow();
        match (status.leader, &status.address) {
            (Some(leader), Some((host, port))) => vec![(leader, host.clone(), *port)],
            _ => before,
        }
    }

    async fn read(&self, from: Offset, told: Offset, wait: Duration, max: usize) -> PartitionData {
        let mut status = self.status.clone();
        let epoch = status.borrow().epoch;
        // The high watermark that the fetcher has by now, if it does not say.
        let told = told.min(from).min(status.borrow().told.unwrap_or(-1));
        let news = status.wait_for(|it| {
            !it.leads
                || it.epoch != epoch
                || it.end > from
                || it.told.is_some_and(|mark| mark.min(from) > told)
        });
        // Time-outs and changes are told apart by what is there.
        let _ = tokio::time::timeout(wait, news).await.map(|changed| changed.map(drop));
        let status = status.borrow().clone();
        if !status.leads || status.epoch != epoch {
            let error = super::messages::Error::of(if status.epoch == epoch {
                ErrorCode::NotLeaderOrFollower.code()
            } else {
                ErrorCode::FencedLeaderEpoch.code()
            });
            return self.refused(Known { error, leader: status.leader, epoch: status.epoch });
        }
        let (log, end) = (self.log.clone(), status.end);
        match self.env.blocking(move || log.read(from, end, max)).await {
            Ok(records) => self.partition().with_records(Some(records)),
            // Trimmed just now: the next fetch is told of the snapshot.
            Err(_) if from < self.log.start_offset() => self.partition(),
            Err(fault) => {
                tracing::error!(%fault, "cannot read the metadata log");
                self.partition().with_error_code(ErrorCode::KafkaStorageError.code())
            }
        }
    }

    fn partition(&self) -> PartitionData {
        let status = self.status.borrow();
        let mark = status.told.unwrap_or(-1);
        let leader = LeaderIdAndEpoch::default()
            .with_leader_id(BrokerId(status.leader.unwrap_or(-1)))
            .with_leader_epoch(status.epoch);
        PartitionData::default()
            .with_high_watermark(mark)
            .with_last_stable_offset(mark)
            .with_log_start_offset(self.log.start_offset())
            .with_current_leader(leader)
            .with_records(Some(bytes::Bytes::new()))
    }

    fn refused(&self, known: Known) -> PartitionData {
        let leader = LeaderIdAndEpoch::default()
            .with_leader_id(BrokerId(known.leader.unwrap_or(-1)))
            .with_leader_epoch(known.epoch);
        self.partition()
            .with_error_code(known.error.map_or(0, super::messages::Error::code))
            .with_high_watermark(-1)
            .with_last_stable_offset(-1)
            .with_log_start_offset(-1)
            .with_current_leader(leader)
    }

    pub async fn describe(&self) -> Option<Description> {
        let (answer, answered) = oneshot::channel();
        self.inbox.send(Inbound::Describe(answer)).await.ok()?;
        answered.await.ok()
    }

    pub async fn may_add(&self, key: ReplicaKey) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        self.inbox.send(Inbound::MayAdd(key, answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    /// Changes the voters, and waits until that is committed.
    pub async fn change(&self, change: Change) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        self.inbox.send(Inbound::Change(change, answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    /// Hands the leadership over, if this node has it: it will stop. Returns once that is done.
    pub async fn resign(&self) {
        let (done, is_done) = oneshot::channel();
        if self.inbox.send(Inbound::Resign(done)).await.is_ok() {
            let _ = is_done.await;
        }
    }
}

fn stopping() -> Refusal {
    Refusal::new(ErrorCode::NotLeaderOrFollower, "This node is shutting down.")
}

fn response(partition: PartitionData) -> FetchResponse {
    let topic = FetchableTopicResponse::default()
        .with_topic(TopicName(rpc::text(rpc::TOPIC)))
        .with_topic_id(rpc::TOPIC_ID)
        .with_partitions(vec![partition]);
    FetchResponse::default().with_responses(vec![topic])
}

fn with_nodes(response: FetchResponse, nodes: &[Address]) -> FetchResponse {
    let node = |(id, host, port): &Address| {
        NodeEndpoint::default()
            .with_node_id(BrokerId(*id))
            .with_host(rpc::text(host))
            .with_port(i32::from(*port))
    };
    response.with_node_endpoints(nodes.iter().map(node).collect())
}

/// Endpoints as requests name them.
pub fn endpoint(listener: &str, host: &str, port: u16) -> Endpoint {
    Endpoint { listener: listener.to_owned(), host: host.to_owned(), port }
}

/// A voter as AddRaftVoter and UpdateRaftVoter describe one.
pub fn voter(id: NodeId, directory: Uuid, endpoints: Vec<Endpoint>, versions: (i16, i16)) -> Voter {
    Voter { key: ReplicaKey::new(id, directory), endpoints, versions }
}

impl Quorum {
    /// Answers a question.
    pub async fn serve(&mut self, inbound: Inbound) -> Result<(), Fault> {
        match inbound {
            Inbound::Event(event, nodes, reply) => {
                self.note_addresses(nodes);
                let Some(answer) = self.step(event).await? else { return Ok(()) };
                // Whoever asked may have gone.
                let _ = reply.send(Replied { answer, nodes: self.leader_address() });
            }
            Inbound::Hint(event) => self.step(event).await.map(drop)?,
            Inbound::MayAdd(key, reply) => {
                let _ = reply.send(self.raft().may_add(key));
            }
            Inbound::Change(change, reply) => self.change(change, reply).await?,
            Inbound::Describe(reply) => {
                let _ = reply.send(self.describe());
            }
            Inbound::Resign(done) => {
                self.step(Event::Resign).await?;
                let _ = done.send(());
            }
        }
        Ok(())
    }

    async fn change(
        &mut self,
        change: Change,
        answer: oneshot::Sender<Result<(), Refusal>>,
    ) -> Result<(), Fault> {
        let (log, at) = (self.log().clone(), self.at());
        let raft = self.raft_mut();
        let mut at_once = false;
        let decided = match change {
            Change::Add { voter, when_committed } => {
                at_once = !when_committed;
                raft.add_voter(voter, &*log, at).map(Some)
            }
            Change::Remove(key) => raft.remove_voter(key, &*log).map(Some),
            Change::Update { voter, epoch } => raft.update_voter(voter, epoch, &*log),
        };
        let (effects, offset) = match decided {
            Ok(Some(change)) => change,
            Ok(None) => {
                let _ = answer.send(Ok(()));
                return Ok(());
            }
            Err(refusal) => {
                let _ = answer.send(Err(refusal));
                return Ok(());
            }
        };
        let epoch = self.raft().epoch();
        tracing::info!(offset, "the voters change");
        if at_once {
            let _ = answer.send(Ok(()));
        } else {
            self.waiting.push(Waiting { offset, epoch, answer });
        }
        self.carry_out(effects).await?;
        self.step(Event::Tick).await.map(drop)
    }

    /// Answers those whose change is committed, or will not be by this leader.
    pub(super) fn settle_changes(&mut self) {
        let status = self.status().borrow().clone();
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.offset < status.high_watermark && waiting.epoch == status.epoch {
                let _ = waiting.answer.send(Ok(()));
            } else if status.epoch != waiting.epoch || !status.leads {
                let _ = waiting.answer.send(Err(ErrorCode::NotLeaderOrFollower.into()));
            } else {
                self.waiting.push(waiting);
            }
        }
    }

    fn describe(&self) -> Description {
        let raft = self.raft();
        let replicas = raft.role().leader().map(|it| &it.replicas);
        Description {
            status: self.status().borrow().clone(),
            me: raft.key(),
            kraft_version: raft.voters().kraft_version(),
            voters: raft.voters().current().iter().cloned().collect(),
            replicas: replicas
                .into_iter()
                .flatten()
                .map(|(key, progress)| (*key, *progress))
                .collect(),
            now: self.now(),
        }
    }
}
