//! Calls to the other nodes of the quorum: votes and notices side by side, one fetch at a time.
//!
//! Every call is a task of its own and ends with something [`Heard`], a failure too. Fetches have a
//! connection of their own, because answers come in order and a fetch may wait. A fetch whose
//! connection closes looks at once whether anybody still listens there: a refused connection is a
//! dead process, and the first sign of it. Deliberately absent: retrying, which the roles decide.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::{FetchResponse, FetchSnapshotRequest, FetchSnapshotResponse};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::log::MetadataLog;
use super::messages::{Error, Event, FetchId, Known, ReplicaKey, Request};
use super::rpc::{self, Address, Fetching};
use super::snapshot::transfer::{self, Asker, Fetched};
use super::snapshot::{PartFile, SnapshotId};
use super::voters::Endpoint;
use crate::env::{self, Env};
use crate::error::{ErrorCode, Fault};
use crate::net::peer::{Peer, PeerError};

/// How long a node may take to accept a connection that shows that it lives.
const PROBE: Duration = Duration::from_millis(500);
const PROBES: usize = 5;
/// How long a fetch waits for news.
pub const MAX_WAIT: Duration = Duration::from_millis(500);
const FETCH_SNAPSHOT_VERSION: i16 = 1;
const QUEUE: usize = 256;

/// What came of a call.
pub struct Heard {
    pub event: Event,
    /// Where nodes can be found, as the other side said.
    pub nodes: Vec<Address>,
    /// The other side belongs to another cluster.
    pub stranger: bool,
    /// With [`Event::Loaded`]: the snapshot, or why this disk does not take it.
    pub snapshot: Option<Result<PartFile, Fault>>,
}

impl From<Event> for Heard {
    fn from(event: Event) -> Self {
        Self { event, nodes: Vec::new(), stranger: false, snapshot: None }
    }
}

/// A node to call: `None` where its address is not known.
pub type At = Option<(String, u16)>;

pub struct Peers {
    shared: Arc<Shared>,
    fetch: Option<JoinHandle<()>>,
}

struct Shared {
    env: Env,
    cluster: String,
    client_id: String,
    me: ReplicaKey,
    endpoints: Vec<Endpoint>,
    max_bytes: i32,
    snapshot_max_bytes: i32,
    timeout: Duration,
    heard: mpsc::Sender<Heard>,
    /// For votes and notices, by address.
    calls: Mutex<BTreeMap<(String, u16), Peer>>,
    /// For fetches: the last one used.
    fetches: Mutex<Option<((String, u16), Peer)>>,
}

/// What calls are made with.
pub struct Calls<'a> {
    pub env: &'a Env,
    pub cluster: &'a str,
    pub me: ReplicaKey,
    pub endpoints: &'a [Endpoint],
    pub max_bytes: i32,
    /// In one FetchSnapshot.
    pub snapshot_max_bytes: i32,
    pub timeout: Duration,
}

impl Peers {
    pub fn new(calls: &Calls<'_>) -> (Self, mpsc::Receiver<Heard>) {
        let (heard, hear) = mpsc::channel(QUEUE);
        let shared = Shared {
            env: calls.env.clone(),
            cluster: calls.cluster.to_owned(),
            client_id: format!("raft-client-{}", calls.me.id),
            me: calls.me,
            endpoints: calls.endpoints.to_vec(),
            max_bytes: calls.max_bytes,
            snapshot_max_bytes: calls.snapshot_max_bytes,
            timeout: calls.timeout,
            heard,
            calls: Mutex::default(),
            fetches: Mutex::default(),
        };
        (Self { shared: Arc::new(shared), fetch: None }, hear)
    }

    /// Sends a vote or a notice to `to`, who is at `at`.
    pub fn send(&self, to: ReplicaKey, at: At, request: Request, keys: Vec<ReplicaKey>) {
        let shared = self.shared.clone();
        env::spawn(async move {
            let heard = shared.call(to, at, request, keys).await;
            // The driver is gone when nobody hears.
            let _ = shared.heard.send(heard).await;
        });
    }

    /// Gathers the snapshot that the leader, at `at`, answered a fetch with; in place of a fetch.
    pub fn load(&mut self, id: FetchId, at: At, snapshot: SnapshotId, log: &Arc<MetadataLog>) {
        if let Some(before) = self.fetch.take() {
            before.abort();
        }
        let (shared, log) = (self.shared.clone(), log.clone());
        self.fetch = Some(env::spawn(async move {
            let heard = shared.load(id, at, snapshot, &log).await;
            let _ = shared.heard.send(heard).await;
        }));
    }

    /// Fetches from whoever is at `at`. A fetch under way is given up.
    pub fn fetch(&mut self, id: FetchId, at: At, high_watermark: i64) {
        if let Some(before) = self.fetch.take() {
            before.abort();
        }
        let shared = self.shared.clone();
        self.fetch = Some(env::spawn(async move {
            let heard = shared.fetch(id, at, high_watermark).await;
            let _ = shared.heard.send(heard).await;
        }));
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        if let Some(fetch) = self.fetch.take() {
            fetch.abort();
        }
    }
}

impl Shared {
    async fn call(&self, to: ReplicaKey, at: At, request: Request, keys: Vec<ReplicaKey>) -> Heard {
        let epoch = match &request {
            Request::Vote(it) => it.epoch,
            Request::Begin(it) => it.epoch,
            Request::End(it) => it.epoch,
        };
        let unheard = Known { error: Some(Error::Other(-1)), leader: None, epoch };
        let peer = match at {
            Some(at) => self.connected(&at).await.ok(),
            None => None,
        };
        match request {
            Request::Vote(vote) => {
                let answer = match peer {
                    Some(peer) => {
                        let request = rpc::vote_request(&self.cluster, &vote);
                        peer.call_at(2, request, self.timeout).await.ok()
                    }
                    None => None,
                };
                let (known, granted, nodes) =
                    answer.map_or((unheard, false, Vec::new()), |it| rpc::read_vote_response(&it));
                let event = Event::Voted { from: to, request: vote, known, granted };
                Heard { event, nodes, stranger: false, snapshot: None }
            }
            Request::Begin(begin) => {
                let known = match peer {
                    Some(peer) => {
                        let request = rpc::begin_request(&self.cluster, &begin, &self.endpoints);
                        let answer = peer.call_at(1, request, self.timeout).await;
                        answer.map_or(unheard, |it| rpc::read_begin_response(&it))
                    }
                    None => unheard,
                };
                Event::Told { from: to, known }.into()
            }
            Request::End(end) => {
                let known = match peer {
                    Some(peer) => {
                        let request = rpc::end_request(&self.cluster, &end, &keys, &self.endpoints);
                        let answer = peer.call_at(1, request, self.timeout).await;
                        answer.map_or(unheard, |it| rpc::read_end_response(&it))
                    }
                    None => unheard,
                };
                Event::Told { from: to, known }.into()
            }
        }
    }

    async fn connected(&self, at: &(String, u16)) -> Result<Peer, PeerError> {
        let open = self.calls.lock().get(at).cloned().filter(|peer| !peer.is_closed());
        if let Some(peer) = open {
            return Ok(peer);
        }
        let peer = self.connect(at, self.timeout).await?;
        self.calls.lock().insert(at.clone(), peer.clone());
        Ok(peer)
    }

    async fn connect(&self, at: &(String, u16), timeout: Duration) -> Result<Peer, PeerError> {
        Peer::connect(&self.env, &at.0, at.1, &self.client_id, timeout).await
    }

    async fn fetch(&self, id: FetchId, at: At, high_watermark: i64) -> Heard {
        let Some(at) = at else { return Event::FetchFailed(id).into() };
        let response = match self.try_fetch(id, &at, high_watermark).await {
            Ok(response) => response,
            Err(error) => return self.after_failure(id, &at, &error).await.into(),
        };
        let stranger = response.error_code == ErrorCode::InconsistentClusterId.code();
        let (answer, nodes) = rpc::read_fetch_response(response);
        Heard { event: Event::Fetched(id, answer), nodes, stranger, snapshot: None }
    }

    async fn try_fetch(
        &self,
        id: FetchId,
        at: &(String, u16),
        high_watermark: i64,
    ) -> Result<FetchResponse, PeerError> {
        // Taken out: when this fetch is given up, its connection closes, and the next fetch does
        // not wait behind it.
        let kept = self.fetches.lock().take();
        let kept = kept.filter(|(to, peer)| to == at && !peer.is_closed()).map(|(_, peer)| peer);
        let peer = match kept {
            Some(peer) => peer,
            None => self.connect(at, self.timeout).await?,
        };
        let version = peer.version_of::<kafka_protocol::messages::FetchRequest>()?;
        let fetching = Fetching {
            cluster: &self.cluster,
            replica: self.me,
            id,
            high_watermark,
            max_wait_ms: MAX_WAIT.as_millis() as i32,
            max_bytes: self.max_bytes,
        };
        let request = rpc::fetch_request(&fetching, version);
        let response = peer.call_at(version, request, MAX_WAIT + self.timeout).await?;
        *self.fetches.lock() = Some((at.clone(), peer));
        Ok(response)
    }

    /// What came of a download. One that came to nothing is a failed fetch: the next one may be
    /// answered with another snapshot.
    async fn load(
        &self,
        id: FetchId,
        at: At,
        snapshot: SnapshotId,
        log: &Arc<MetadataLog>,
    ) -> Heard {
        let asker = Asker {
            cluster_id: self.cluster.clone(),
            node_id: self.me.id,
            directory_id: self.me.directory,
            epoch: id.epoch,
            max_bytes: self.snapshot_max_bytes,
        };
        let Some(at) = at else { return Event::FetchFailed(id).into() };
        let ask = |request| self.ask_snapshot(id, &at, request);
        let part = match transfer::fetch(&self.env, log, &asker, snapshot, ask).await {
            Ok(Fetched::Whole(part)) => Ok(part),
            Ok(Fetched::StartOver(why)) => {
                tracing::warn!(%snapshot, why, "the snapshot was not fetched; trying again");
                return Event::FetchFailed(id).into();
            }
            Err(fault) => Err(fault),
        };
        Heard { snapshot: Some(part), ..Event::Loaded(id).into() }
    }

    async fn ask_snapshot(
        &self,
        id: FetchId,
        at: &(String, u16),
        request: FetchSnapshotRequest,
    ) -> Result<FetchSnapshotResponse, String> {
        let say = |error: PeerError| error.to_string();
        let peer = self.connected(at).await.map_err(say)?;
        let answer = peer.call_at(FETCH_SNAPSHOT_VERSION, request, self.timeout).await;
        let answer = answer.map_err(say)?;
        // The driver is gone when nobody hears.
        let _ = self.heard.send(Event::Loading(id).into()).await;
        Ok(answer)
    }

    /// Whether the other side is dead, or only hard to reach.
    async fn after_failure(&self, id: FetchId, at: &(String, u16), error: &PeerError) -> Event {
        tracing::debug!(%error, "a fetch of the metadata log failed");
        if is_refused(error) {
            return Event::LeaderDied(id);
        }
        if !matches!(error, PeerError::Closed(_)) {
            return Event::FetchFailed(id);
        }
        // A process that is being killed may still accept while its sockets are closed one by one.
        for _ in 0..PROBES {
            match self.connect(at, PROBE).await {
                Ok(peer) => {
                    *self.fetches.lock() = Some((at.clone(), peer));
                    return Event::FetchFailed(id);
                }
                Err(error) if is_refused(&error) => return Event::LeaderDied(id),
                Err(PeerError::Closed(_)) => self.env.clock.sleep(PROBE / 50).await,
                Err(_) => break,
            }
        }
        Event::FetchFailed(id)
    }
}

fn is_refused(error: &PeerError) -> bool {
    matches!(error, PeerError::Connect(_, error)
        if error.kind() == io::ErrorKind::ConnectionRefused)
}
