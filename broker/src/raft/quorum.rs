//! Carries out what a replica's roles want, in order: the shell around [`Raft`].
//!
//! Not a task by itself: the controller's driver owns it, so that what is decided and what is
//! committed stay in step. Invariants: an effect is finished, on disk where it has to be, before
//! the next one begins; nothing is sent or answered before the vote and the epoch it rests on are
//! durable; what is fetched by others is durable here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::batch::{self, Place};
use super::log::{LogOptions, MetadataLog};
use super::messages::{Answer, At, Effect, Event, FetchId, ReplicaKey, Request};
use super::node::{Identity, Raft, Timeouts};
use super::opening::{KRAFT_VERSIONS, controls, endpoints, history, note_contents, sound};
use super::peers::{Calls, Heard, Peers};
use super::rpc::Address;
use super::serve::{Handle, HandleParts, Inbound};
use super::snapshot::{PartFile, SnapshotId};
use super::state::QuorumState;
use super::voters::{History, Voter};
use crate::config::Settings;
use crate::env::{Env, planted};
use crate::error::Fault;
use crate::types::{LeaderEpoch, Millis, NodeId, Offset};
use crate::wire::metadata::control::Control;

const INBOX: usize = 1024;

/// What is known of the quorum, for those who wait for a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    pub epoch: LeaderEpoch,
    pub leader: Option<NodeId>,
    /// Where the leader's controller listens.
    pub address: Option<(String, u16)>,
    /// This node leads.
    pub leads: bool,
    /// All below is durable here.
    pub end: Offset,
    pub high_watermark: Offset,
    /// What those who fetch are told of it: see [`Raft::high_watermark_to_tell`].
    pub told: Option<Offset>,
}

pub struct Quorum {
    env: Env,
    raft: Raft,
    log: Arc<MetadataLog>,
    peers: Peers,
    began: Instant,
    settings_voters: Vec<Address>,
    bootstrap: Vec<(String, u16)>,
    /// Which of `bootstrap` to ask next.
    next: usize,
    /// Where nodes said that they are, newer than what the log says.
    book: BTreeMap<NodeId, (String, u16)>,
    listener: String,
    cluster: String,
    status: watch::Sender<Status>,
    pub(super) waiting: Vec<super::serve::Waiting>,
    /// When this voter may tell the leader its endpoints next.
    update_at: Millis,
    /// For snapshots, which say who votes.
    shared_history: Arc<Mutex<History>>,
}

/// What a quorum is opened with.
pub struct Opening<'a> {
    pub env: &'a Env,
    pub settings: &'a Settings,
    pub cluster: &'a str,
    pub me: ReplicaKey,
}

impl Quorum {
    /// Reads log and vote; returns what arrives from other nodes, too. Blocks.
    pub fn open(
        opening: &Opening<'_>,
    ) -> Result<(Self, Handle, mpsc::Receiver<Inbound>, mpsc::Receiver<Heard>), Fault> {
        let Opening { env, settings, cluster, me } = *opening;
        let options = LogOptions::of(settings);
        let log = Arc::new(MetadataLog::open_with(env, &settings.metadata_log_dir, options)?);
        let election = QuorumState::read(&*env.disk, log.folder())?.unwrap_or_default().election();
        let history = history(env, settings, &log)?;
        let endpoints = endpoints(settings);
        let identity = Identity {
            key: me,
            may_vote: settings.roles.controller,
            endpoints: endpoints.clone(),
            versions: KRAFT_VERSIONS,
            timeouts: Timeouts {
                election: settings.quorum_election_timeout.as_millis() as Millis,
                fetch: settings.quorum_fetch_timeout.as_millis() as Millis,
                backoff_max: settings.quorum_election_backoff_max.as_millis() as Millis,
            },
        };
        let (peers, heard) = Peers::new(&Calls {
            env,
            cluster,
            me,
            endpoints: &endpoints,
            max_bytes: settings.quorum_fetch_max_bytes,
            snapshot_max_bytes: settings.quorum_fetch_snapshot_max_bytes,
            timeout: settings.quorum_request_timeout,
        });
        let began = env.clock.now();
        let at = At { now: 0, random: env.random.next_u64() };
        let shared_history = Arc::new(Mutex::new(history.clone()));
        let mut raft = Raft::start(identity, election, history.clone(), &*log, at);
        if let Some(newest) = log.snapshots().newest_image() {
            raft.note_snapshot(newest.id.end_offset, history);
        }
        let (inbox, inbound) = mpsc::channel(INBOX);
        let status = watch::Sender::new(Status::default());
        let listener = settings.listeners.controller.first().cloned().unwrap_or_default();
        let handle = Handle::new(HandleParts {
            env,
            cluster,
            listener: &listener,
            inbox,
            status: status.subscribe(),
            log: log.clone(),
            history: shared_history.clone(),
        });
        let voters = settings.quorum.voters.iter();
        let quorum = Self {
            env: env.clone(),
            raft,
            log,
            peers,
            began,
            settings_voters: voters.map(|it| (it.id, it.host.clone(), it.port)).collect(),
            bootstrap: settings.quorum.addresses(),
            next: env.random.below(64) as usize,
            book: BTreeMap::new(),
            listener,
            cluster: cluster.to_owned(),
            status,
            waiting: Vec::new(),
            update_at: 0,
            shared_history,
        };
        Ok((quorum, handle, inbound, heard))
    }

    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    pub(super) fn raft_mut(&mut self) -> &mut Raft {
        &mut self.raft
    }

    pub fn log(&self) -> &Arc<MetadataLog> {
        &self.log
    }

    /// This node leads.
    pub fn leads(&self) -> bool {
        self.raft.role().leader().is_some()
    }

    /// The offset of the first record of the epoch that this node leads.
    pub fn epoch_start(&self) -> Option<Offset> {
        self.raft.role().leader().map(|leader| leader.epoch_start)
    }

    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    pub fn current(&self) -> Status {
        self.status.borrow().clone()
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Milliseconds since this replica was opened.
    pub(super) fn now(&self) -> Millis {
        self.env.clock.now().saturating_duration_since(self.began).as_millis() as Millis
    }

    pub(super) fn at(&self) -> At {
        At { now: self.now(), random: self.env.random.next_u64() }
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        let deadline = u64::try_from(self.raft.deadline()).ok().filter(|at| *at < u64::MAX / 4);
        deadline.map(|at| self.began + Duration::from_millis(at))
    }

    /// One step of the roles, with all that follows from it. Returns the answer, if the event was
    /// a question.
    pub async fn step(&mut self, event: Event) -> Result<Option<Answer>, Fault> {
        let effects = self.raft.step(event, &*self.log, self.at());
        let answer = self.carry_out(effects).await?;
        self.publish();
        Ok(answer)
    }

    /// What came of a call to another node.
    pub async fn hear(&mut self, heard: Heard) -> Result<(), Fault> {
        if heard.stranger {
            return Err(Fault::Start(format!(
                "the controller belongs to another cluster than {}, which this node's data is of: \
                 check controller.quorum.bootstrap.servers (or controller.quorum.voters) and the \
                 log directory",
                self.cluster
            )));
        }
        self.note_addresses(heard.nodes);
        let event = match heard.event {
            Event::Loaded(id) => self.install(id, heard.snapshot).await?,
            event => event,
        };
        self.step(event).await.map(drop)
    }

    pub(super) fn note_addresses(&mut self, nodes: Vec<Address>) {
        for (id, host, port) in nodes {
            if id != self.raft.key().id && !host.is_empty() && port != 0 {
                self.book.insert(id, (host, port));
            }
        }
    }

    pub(super) async fn carry_out(
        &mut self,
        effects: Vec<Effect>,
    ) -> Result<Option<Answer>, Fault> {
        let mut effects = VecDeque::from(effects);
        let mut answer = None;
        while let Some(effect) = effects.pop_front() {
            let mut written = false;
            match effect {
                Effect::Persist(_) if planted!(VoteNotPersisted) => {}
                Effect::Persist(election) => {
                    let state = QuorumState::of(election);
                    let (env, log) = (self.env.clone(), self.log.clone());
                    self.env.blocking(move || state.write(&*env.disk, log.folder())).await?;
                }
                Effect::Send(to, request) => self.send(to, request),
                Effect::Fetch(id) => self.fetch(id),
                Effect::Append(controls) => {
                    self.append_controls(&controls)?;
                    written = true;
                }
                Effect::Replicate(bytes) => {
                    self.replicate(bytes).await?;
                    written = true;
                }
                Effect::Truncate(offset) => {
                    tracing::info!(offset, "the end of the metadata log was never committed; cut");
                    let log = self.log.clone();
                    self.env.blocking(move || log.truncate_to(offset)).await?;
                    written = true;
                }
                Effect::LoadSnapshot(id, end) => {
                    let snapshot = SnapshotId::new(end.offset, end.epoch);
                    tracing::info!(%snapshot, leader = id.to, "fetching a snapshot of the metadata");
                    let at = id.to.and_then(|leader| self.address(leader));
                    self.peers.load(id, at, snapshot, &self.log);
                }
                // Whoever needs it reads it off the status.
                Effect::Commit(_) => {}
                Effect::Answer(given) => answer = Some(given),
                Effect::LeaderLostMetadata(leader) => return Err(lost(leader)),
            }
            if written {
                self.sync().await?;
                effects.extend(self.raft.step(Event::Synced, &*self.log, self.at()));
            }
        }
        Ok(answer)
    }

    /// Makes a snapshot that has arrived the log's beginning, if it is still wanted. Returns what
    /// the roles should hear.
    async fn install(
        &mut self,
        id: FetchId,
        part: Option<Result<PartFile, Fault>>,
    ) -> Result<Event, Fault> {
        let part = part.transpose()?.filter(|_| self.raft.is_fetching(id));
        let Some(part) = part else { return Ok(Event::FetchFailed(id)) };
        let (snapshot, log) = (part.id, self.log.clone());
        match self.env.blocking(move || log.install(part)).await {
            Ok(contents) => {
                let mut history = self.raft.voters().before_the_log();
                note_contents(&mut history, &contents);
                self.raft.note_snapshot(snapshot.end_offset, history);
                self.sync().await?;
                Ok(Event::Loaded(id))
            }
            Err(fault @ Fault::Corrupt { .. }) => {
                tracing::warn!(%snapshot, %fault, "the snapshot is not whole; trying again");
                Ok(Event::FetchFailed(id))
            }
            Err(fault) => Err(fault),
        }
    }

    async fn sync(&self) -> Result<(), Fault> {
        if planted!(MetadataNotSynced) {
            return Ok(());
        }
        let log = self.log.clone();
        self.env.blocking(move || log.sync()).await.map(drop)
    }

    /// Appends a batch of the leader's own; durable, and counted, after [`Self::synced`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.log.append(bytes)
    }

    /// Makes all appended batches durable and counts them.
    pub async fn synced(&mut self) -> Result<(), Fault> {
        self.sync().await?;
        self.step(Event::Synced).await.map(drop)
    }

    fn append_controls(&self, controls: &[Control]) -> Result<(), Fault> {
        let place = Place {
            offset: self.log.end_offset(),
            epoch: self.raft.epoch(),
            now: self.env.clock.wall_ms(),
        };
        self.log.append(&batch::of_controls(controls, place))
    }

    /// Appends what the leader sent, if it is sound; what is not will be fetched again.
    async fn replicate(&mut self, bytes: Bytes) -> Result<(), Fault> {
        let expected = self.log.end_offset();
        let whole = match sound(&bytes, expected, self.log.last_epoch(), self.raft.epoch()) {
            Ok(whole) => whole,
            Err(what) => {
                tracing::warn!(what, "the leader sent batches that cannot be appended");
                return Ok(());
            }
        };
        let bytes = bytes.slice(..whole);
        let controls = controls(&bytes);
        let log = self.log.clone();
        self.env.blocking(move || log.append(&bytes)).await?;
        for (offset, control) in controls {
            self.raft.note_control(offset, &control);
        }
        Ok(())
    }

    fn send(&self, to: ReplicaKey, request: Request) {
        let at = self.address(to.id);
        let keys = match &request {
            Request::End(end) => {
                let voters = self.raft.voters().current();
                end.preferred.iter().filter_map(|id| voters.get(*id)).map(|it| it.key).collect()
            }
            _ => Vec::new(),
        };
        tracing::debug!(to = to.id, ?request, "sent");
        self.peers.send(to, at, request, keys);
    }

    fn fetch(&mut self, id: FetchId) {
        let at = match id.to {
            Some(leader) => self.address(leader),
            None => self.anybody(),
        };
        self.peers.fetch(id, at, self.raft.high_watermark());
    }

    /// Where the controller of a node listens, as far as that is known.
    pub fn address(&self, id: NodeId) -> Option<(String, u16)> {
        let fixed = self.settings_voters.iter().find(|(voter, ..)| *voter == id);
        let fixed = fixed.map(|(_, host, port)| (host.clone(), *port));
        if fixed.is_some() && self.raft.voters().kraft_version() == 0 {
            return fixed;
        }
        if let Some(at) = self.book.get(&id) {
            return Some(at.clone());
        }
        if let Some(voter) = self.raft.voters().current().get(id) {
            let named = voter.endpoints.iter().find(|it| it.listener == self.listener);
            let at = named.or(voter.endpoints.first()).map(|it| (it.host.clone(), it.port));
            if at.is_some() {
                return at;
            }
        }
        fixed
    }

    /// One after the other of all that may know a leader.
    fn anybody(&mut self) -> Option<(String, u16)> {
        let me = self.raft.key().id;
        let mut all = self.bootstrap.clone();
        let voters = self.raft.voters().current().iter().map(|voter| voter.key.id);
        let known: Vec<_> = voters.filter(|id| *id != me).collect();
        for at in known.into_iter().filter_map(|id| self.address(id)) {
            if !all.contains(&at) {
                all.push(at);
            }
        }
        self.next += 1;
        (!all.is_empty()).then(|| all[self.next % all.len()].clone())
    }

    /// The nodes that an answer names, so that its reader finds the leader.
    pub(super) fn leader_address(&self) -> Vec<Address> {
        let Some(leader) = self.raft.leader() else { return Vec::new() };
        let own = leader == self.raft.key().id;
        let at = if own { self.own_address() } else { self.address(leader) };
        at.map(|(host, port)| (leader, host, port)).into_iter().collect()
    }

    fn own_address(&self) -> Option<(String, u16)> {
        let endpoints = &self.raft.identity().endpoints;
        let named = endpoints.iter().find(|it| it.listener == self.listener);
        named.or(endpoints.first()).map(|it| (it.host.clone(), it.port))
    }

    fn publish(&mut self) {
        let leader = self.raft.leader();
        let own = leader == Some(self.raft.key().id);
        let address = match leader {
            Some(_) if own => self.own_address(),
            Some(leader) => self.address(leader),
            None => None,
        };
        let status = Status {
            epoch: self.raft.epoch(),
            leader,
            address,
            leads: own,
            end: self.log.end_offset(),
            high_watermark: self.raft.high_watermark(),
            told: self.raft.high_watermark_to_tell(),
        };
        let before = self.status.borrow().clone();
        if (before.epoch, before.leader) != (status.epoch, status.leader) {
            let role = self.raft.role().name();
            tracing::info!(epoch = status.epoch, leader = ?status.leader, role, "quorum");
        }
        if before != status {
            self.status.send_replace(status);
        }
        let mut shared = self.shared_history.lock();
        if *shared != *self.raft.voters() {
            *shared = self.raft.voters().clone();
        }
        drop(shared);
        self.settle_changes();
    }

    /// The endpoints to tell the leader of, when it knows others of this voter.
    pub fn update_due(&mut self) -> Option<(LeaderEpoch, (String, u16), Voter)> {
        let now = self.now();
        let leader = self.raft.role().follows().filter(|_| self.raft.leader().is_some())?;
        let due = self.raft.voters().kraft_version() > 0 && self.raft.is_voter();
        if !due || now < self.update_at {
            return None;
        }
        let identity = self.raft.identity();
        let own = Voter {
            key: identity.key,
            endpoints: identity.endpoints.clone(),
            versions: identity.versions,
        };
        if self.raft.voters().current().get(own.key.id) == Some(&own) {
            return None;
        }
        let at = self.address(leader)?;
        let epoch = self.raft.epoch();
        self.update_at = now + self.raft.identity().timeouts.fetch;
        Some((epoch, at, own))
    }
}

fn lost(leader: NodeId) -> Fault {
    Fault::Start(format!(
        "controller {leader} no longer has metadata that this broker was sent as committed: its \
         volume was lost or replaced. This broker stops instead of forgetting its topics; give the \
         controller its old {} back, or start over with empty folders on all nodes",
        super::log::FOLDER,
    ))
}
