//! A connection to another node: pipelined calls, answered in order.
//!
//! The address is resolved at each [`Peer::connect`], because a peer that moved has a new one.
//! Invariants: answers are matched by order and correlation id; after any error, a time-out among
//! them, the connection is closed and every call on it fails, now and later — the caller connects
//! anew. Deliberately absent: reconnecting, retrying and choosing whom to ask.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, RequestHeader};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};

use super::frame::FrameReader;
use super::write;
use crate::env::{self, Env};
use crate::wire::header;

/// Calls that may wait to be written; a further one waits for room.
const OUTGOING: usize = 64;
/// The largest answer that is read.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("cannot connect to {0}: {1}")]
    Connect(String, io::Error),
    #[error("the connection to {0} is closed")]
    Closed(Arc<str>),
    #[error("{0} did not answer within {1:?}")]
    TimedOut(Arc<str>, Duration),
    #[error("{0} serves no version of {1:?} that we know")]
    Unsupported(Arc<str>, i16),
    #[error("{0} sent what cannot be read: {1}")]
    Unreadable(Arc<str>, String),
}

/// An open connection. Dropping the last clone closes it.
#[derive(Clone)]
pub struct Peer {
    shared: Arc<Shared>,
}

struct Shared {
    name: Arc<str>,
    client_id: StrBytes,
    outgoing: mpsc::Sender<Outgoing>,
    closed: watch::Receiver<bool>,
    close: Arc<watch::Sender<bool>>,
    /// By API key: the versions that the other side serves.
    versions: Mutex<Vec<(i16, i16, i16)>>,
    next_correlation: Mutex<i32>,
}

struct Outgoing {
    frame: Vec<Bytes>,
    correlation: i32,
    answer: oneshot::Sender<Bytes>,
}

impl Peer {
    /// Resolves `host`, connects, and asks which versions the other side serves.
    pub async fn connect(
        env: &Env,
        host: &str,
        port: u16,
        client_id: &str,
        timeout: Duration,
    ) -> Result<Self, PeerError> {
        let name: Arc<str> = format!("{host}:{port}").into();
        let connecting = tokio::time::timeout(timeout, env.net.connect(host, port));
        let stream = match connecting.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(PeerError::Connect(name.to_string(), error)),
            Err(_) => return Err(PeerError::TimedOut(name, timeout)),
        };
        let (reader, writer) = tokio::io::split(stream);
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let (close, closed) = watch::channel(false);
        let close = Arc::new(close);
        env::spawn(run(reader, writer, queue, closed.clone(), close.clone()));
        let shared = Shared {
            name,
            client_id: StrBytes::from_string(client_id.to_owned()),
            outgoing,
            closed,
            close,
            versions: Mutex::new(Vec::new()),
            next_correlation: Mutex::new(0),
        };
        let peer = Self { shared: Arc::new(shared) };
        peer.learn_versions(timeout).await?;
        Ok(peer)
    }

    async fn learn_versions(&self, timeout: Duration) -> Result<(), PeerError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("ottla"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let answer = self.call_at(3, request, timeout).await?;
        if answer.error_code != 0 {
            return Err(self.unreadable(format!("ApiVersions: error {}", answer.error_code)));
        }
        *self.shared.versions.lock() = answer
            .api_keys
            .iter()
            .map(|key| (key.api_key, key.min_version, key.max_version))
            .collect();
        Ok(())
    }

    /// The newest version of `R` that both sides know.
    pub fn version_of<R: Request>(&self) -> Result<i16, PeerError> {
        let served = self.shared.versions.lock();
        let common = served.iter().find(|(key, ..)| *key == R::KEY).and_then(|(_, min, max)| {
            let newest = R::VERSIONS.max.min(*max);
            (newest >= R::VERSIONS.min.max(*min)).then_some(newest)
        });
        common.ok_or_else(|| PeerError::Unsupported(self.shared.name.clone(), R::KEY))
    }

    /// The newest version of an API that the other side serves and that is among `known`: for
    /// messages with a schema of our own.
    pub fn version_within(
        &self,
        api_key: i16,
        known: std::ops::RangeInclusive<i16>,
    ) -> Result<i16, PeerError> {
        let served = self.shared.versions.lock();
        let common = served.iter().find(|(key, ..)| *key == api_key).and_then(|(_, min, max)| {
            let newest = *known.end().min(max);
            (newest >= *known.start().max(min)).then_some(newest)
        });
        common.ok_or_else(|| PeerError::Unsupported(self.shared.name.clone(), api_key))
    }

    /// Sends `request` in the newest common version and waits for its answer.
    pub async fn call<R: Request>(
        &self,
        request: R,
        timeout: Duration,
    ) -> Result<R::Response, PeerError> {
        self.call_at(self.version_of::<R>()?, request, timeout).await
    }

    /// As [`Self::call`], in a given version.
    pub async fn call_at<R: Request>(
        &self,
        version: i16,
        request: R,
        timeout: Duration,
    ) -> Result<R::Response, PeerError> {
        let mut body = BytesMut::new();
        request.encode(&mut body, version).map_err(|error| self.unreadable(error.to_string()))?;
        let mut answer = self.call_raw(R::KEY, version, vec![body.freeze()], timeout).await?;
        let decoded = R::Response::decode(&mut answer, version);
        decoded.map_err(|error| self.unreadable(error.to_string()))
    }

    /// Sends an encoded request body; returns the body of the answer, its header taken off.
    pub async fn call_raw(
        &self,
        api_key: i16,
        version: i16,
        body: Vec<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, PeerError> {
        let key = ApiKey::try_from(api_key)
            .map_err(|()| PeerError::Unsupported(self.shared.name.clone(), api_key))?;
        let correlation = self.next_correlation();
        let frame = self.frame(key, version, correlation, body)?;
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            let closed = || PeerError::Closed(self.shared.name.clone());
            let outgoing = Outgoing { frame, correlation, answer };
            self.shared.outgoing.send(outgoing).await.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())
        };
        let Ok(answer) = tokio::time::timeout(timeout, exchange).await else {
            self.close();
            return Err(PeerError::TimedOut(self.shared.name.clone(), timeout));
        };
        let mut answer = answer?;
        header::skip_response(&mut answer, key.response_header_version(version))
            .map_err(|error| self.unreadable(error.to_string()))?;
        Ok(answer)
    }

    fn frame(
        &self,
        key: ApiKey,
        version: i16,
        correlation: i32,
        body: Vec<Bytes>,
    ) -> Result<Vec<Bytes>, PeerError> {
        let mut header = BytesMut::new();
        RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_correlation_id(correlation)
            .with_client_id(Some(self.shared.client_id.clone()))
            .encode(&mut header, key.request_header_version(version))
            .map_err(|error| self.unreadable(error.to_string()))?;
        let mut frame = vec![header.freeze()];
        frame.extend(body);
        write::prefix(&mut frame).map_err(|error| self.unreadable(error.to_string()))?;
        Ok(frame)
    }

    fn next_correlation(&self) -> i32 {
        let mut next = self.shared.next_correlation.lock();
        *next = next.wrapping_add(1) & i32::MAX;
        *next
    }

    fn unreadable(&self, what: String) -> PeerError {
        PeerError::Unreadable(self.shared.name.clone(), what)
    }

    /// `host:port` as it was connected to.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Ends the connection; calls in flight fail.
    pub fn close(&self) {
        self.shared.close.send_replace(true);
    }

    pub fn is_closed(&self) -> bool {
        *self.shared.closed.borrow()
    }

    /// Returns once the connection is closed, by either side.
    pub async fn closed(&self) {
        let mut closed = self.shared.closed.clone();
        // An error means that the task that would tell is gone: closed as well.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

/// Writes calls and reads their answers until either side is done.
async fn run<R, W>(
    reader: R,
    writer: W,
    queue: mpsc::Receiver<Outgoing>,
    mut closed: watch::Receiver<bool>,
    close: Arc<watch::Sender<bool>>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let waiting = Mutex::new(VecDeque::new());
    tokio::select! {
        biased;
        _ = closed.wait_for(|closed| *closed) => {}
        () = write_calls(writer, queue, &waiting) => {}
        () = read_answers(reader, &waiting) => {}
    }
    close.send_replace(true);
}

type Waiting = Mutex<VecDeque<(i32, oneshot::Sender<Bytes>)>>;

async fn write_calls<W>(mut writer: W, mut queue: mpsc::Receiver<Outgoing>, waiting: &Waiting)
where
    W: AsyncWrite + Unpin,
{
    while let Some(call) = queue.recv().await {
        waiting.lock().push_back((call.correlation, call.answer));
        if write::write_all(&mut writer, call.frame).await.is_err() {
            return;
        }
    }
}

async fn read_answers<R: AsyncRead + Unpin>(reader: R, waiting: &Waiting) {
    let mut frames = FrameReader::new(reader, MAX_ANSWER);
    while let Ok(Some(frame)) = frames.next().await {
        let Some((correlation, answer)) = waiting.lock().pop_front() else {
            return;
        };
        if frame.first_chunk() != Some(&correlation.to_be_bytes()) {
            return;
        }
        // Nobody waits any more when the call was dropped: its answer is dropped, too.
        let _ = answer.send(frame);
    }
}
