//! One socket to one broker: frames, correlation ids, negotiated versions, pipelining.
//!
//! Any number of requests may be in flight; they leave in the order of `send` and Kafka answers in
//! that order. A connection never heals: when the socket fails, every request in flight fails with
//! the reason, `is_closed` turns true, and the owner makes a new one.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader};
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Request, StrBytes, VersionRange,
};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::{Error, Features, Result};

/// The largest answer that is read; a longer frame is a peer that does not speak Kafka.
const MAX_FRAME: usize = 128 << 20;
/// Requests written but not yet taken by the socket; a full queue makes `send` wait.
const OUTGOING_QUEUE: usize = 64;

/// Highest versions that this client speaks, where that is less than the message library knows:
/// from Produce 13 and Fetch 13 topics are named by id only.
const HIGHEST: &[(i16, i16)] = &[(ApiKey::Produce as i16, 12), (ApiKey::Fetch as i16, 12)];

pub struct Connection {
    address: String,
    client_id: StrBytes,
    request_timeout: Duration,
    versions: BTreeMap<i16, VersionRange>,
    features: Features,
    correlation: AtomicI32,
    outgoing: mpsc::Sender<Bytes>,
    waiting: Arc<Waiting>,
    reader: AbortHandle,
}

/// Requests without an answer yet, by correlation id; `closed` holds why there will be none.
#[derive(Default)]
struct Waiting(Mutex<WaitingState>);

#[derive(Default)]
struct WaitingState {
    requests: BTreeMap<i32, oneshot::Sender<Bytes>>,
    closed: Option<String>,
}

impl Waiting {
    fn close(&self, reason: impl Into<String>) {
        let mut state = self.0.lock();
        state.closed.get_or_insert(reason.into());
        state.requests.clear();
    }
}

/// An answer that is on its way. Waiting for it does not keep later requests from being sent.
pub struct Pending<R: Request> {
    answer: oneshot::Receiver<Bytes>,
    version: i16,
    address: String,
    timeout: Duration,
    waiting: Arc<Waiting>,
    request: PhantomData<fn() -> R>,
}

impl<R: Request> Pending<R> {
    pub async fn answer(self) -> Result<R::Response> {
        let mut frame = match tokio::time::timeout(self.timeout, self.answer).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(_)) => {
                let reason = self.waiting.0.lock().closed.clone();
                return Err(Error::Connection {
                    address: self.address,
                    reason: reason.unwrap_or_else(|| "the connection was closed".into()),
                });
            }
            Err(_) => {
                // Whatever comes after this answer would wait behind it: give the connection up.
                self.waiting.close("a request timed out");
                let what = format!("no answer to {} from {}", api_name(R::KEY), self.address);
                return Err(Error::Timeout { what, after: self.timeout });
            }
        };
        decode::<R>(&mut frame, self.version, &self.address)
    }
}

fn decode<R: Request>(frame: &mut Bytes, version: i16, address: &str) -> Result<R::Response> {
    // Only the correlation id and, in flexible versions, an empty list of tags stand before the body.
    let header = R::Response::header_version(version);
    let skip = if header >= 1 { 5 } else { 4 };
    if frame.len() < skip {
        return Err(Error::Protocol(format!(
            "{address} sent a truncated answer to {}",
            api_name(R::KEY)
        )));
    }
    frame.advance(skip);
    R::Response::decode(frame, version).map_err(|error| {
        Error::Protocol(format!(
            "{address} sent an unreadable answer to {} v{version}: {error}",
            api_name(R::KEY)
        ))
    })
}

fn features(answer: &ApiVersionsResponse) -> Features {
    let supported = answer.supported_features.iter();
    let finalized = answer.finalized_features.iter();
    Features {
        supported: supported
            .map(|it| (it.name.to_string(), (it.min_version, it.max_version)))
            .collect(),
        finalized: finalized.map(|it| (it.name.to_string(), it.max_version_level)).collect(),
        epoch: Some(answer.finalized_features_epoch).filter(|epoch| *epoch >= 0),
    }
}

pub(crate) fn api_name(key: i16) -> String {
    ApiKey::try_from(key).map_or_else(|()| format!("API {key}"), |key| format!("{key:?}"))
}

impl Connection {
    /// Connects to `address` (`host:port`, resolved now) and learns which versions it speaks.
    pub async fn open(
        address: &str,
        client_id: &str,
        connect_timeout: Duration,
        request_timeout: Duration,
    ) -> Result<Self> {
        let failed = |reason: String| Error::Connection { address: address.to_owned(), reason };
        let stream = match tokio::time::timeout(connect_timeout, TcpStream::connect(address)).await
        {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => {
                return Err(failed(format!(
                    "no connection within {} ms",
                    connect_timeout.as_millis()
                )));
            }
        };
        stream.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
        let (reader, writer) = stream.into_split();
        let (outgoing, queue) = mpsc::channel(OUTGOING_QUEUE);
        let waiting = Arc::new(Waiting::default());
        tokio::spawn(write_frames(writer, queue, waiting.clone()));
        let reader = tokio::spawn(read_frames(reader, waiting.clone())).abort_handle();
        let mut connection = Self {
            address: address.to_owned(),
            client_id: StrBytes::from_string(client_id.to_owned()),
            request_timeout,
            versions: BTreeMap::new(),
            features: Features::default(),
            correlation: AtomicI32::new(0),
            outgoing,
            waiting,
            reader,
        };
        (connection.versions, connection.features) = connection.negotiate().await?;
        Ok(connection)
    }

    async fn negotiate(&self) -> Result<(BTreeMap<i16, VersionRange>, Features)> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("ottla"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let mut answer = self.ask_versions(&request, 4).await?;
        if answer.error_code != 0 {
            // An old broker answers in version 0, whatever was asked; every broker since 0.10 knows that.
            answer = self.ask_versions(&ApiVersionsRequest::default(), 0).await?;
        }
        Error::check(answer.error_code, None)?;
        let versions = answer
            .api_keys
            .iter()
            .map(|api| (api.api_key, VersionRange { min: api.min_version, max: api.max_version }));
        Ok((versions.collect(), features(&answer)))
    }

    async fn ask_versions(
        &self,
        request: &ApiVersionsRequest,
        version: i16,
    ) -> Result<ApiVersionsResponse> {
        let pending = self.send_versioned(request, version, self.request_timeout).await?;
        let mut frame = pending.answer.await.map_err(|_| {
            self.closed(
                "it hung up before it said which versions it speaks: is this a Kafka listener?",
            )
        })?;
        if frame.len() < 6 {
            return Err(Error::Protocol(format!(
                "{} does not answer as a Kafka broker does",
                self.address
            )));
        }
        let refused =
            i16::from_be_bytes([frame[4], frame[5]]) == crate::ErrorCode::UnsupportedVersion.code();
        decode::<ApiVersionsRequest>(&mut frame, if refused { 0 } else { version }, &self.address)
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn is_closed(&self) -> bool {
        self.waiting.0.lock().closed.is_some()
    }

    /// Every API that the broker announced, with its versions.
    pub fn versions(&self) -> &BTreeMap<i16, VersionRange> {
        &self.versions
    }

    /// The features that the broker announced.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The highest version of `R` that both sides speak.
    pub fn version_of<R: Request>(&self) -> Result<i16> {
        let name = api_name(R::KEY);
        let Some(theirs) = self.versions.get(&R::KEY) else {
            let brokers = self.versions.contains_key(&(ApiKey::Metadata as i16));
            let whose =
                if brokers { "" } else { ": it is a listener of controllers; name one of brokers" };
            return Err(Error::Protocol(format!(
                "{} does not support {name}{whose}",
                self.address
            )));
        };
        let mut ours =
            R::VERSIONS.intersect(&<R::Response as kafka_protocol::protocol::Message>::VERSIONS);
        if let Some((_, highest)) = HIGHEST.iter().find(|(key, _)| *key == R::KEY) {
            ours.max = ours.max.min(*highest);
        }
        let both = ours.intersect(theirs);
        if both.is_empty() {
            return Err(Error::Protocol(format!(
                "{} speaks {name} {theirs}, this client {ours}: no version in common",
                self.address
            )));
        }
        Ok(both.max)
    }

    /// Sends `request` and waits for its answer.
    pub async fn call<R: Request>(&self, request: &R) -> Result<R::Response> {
        self.send(request).await?.answer().await
    }

    /// Sends `request`, in order with all others, and returns without waiting for the answer.
    pub async fn send<R: Request>(&self, request: &R) -> Result<Pending<R>> {
        self.send_for(request, self.request_timeout).await
    }

    /// As [`send`](Self::send), for requests that the broker may hold for a time of its own.
    pub async fn send_for<R: Request>(&self, request: &R, timeout: Duration) -> Result<Pending<R>> {
        let version = self.version_of::<R>()?;
        self.send_versioned(request, version, timeout).await
    }

    async fn send_versioned<R: Request>(
        &self,
        request: &R,
        version: i16,
        timeout: Duration,
    ) -> Result<Pending<R>> {
        let (sender, answer) = oneshot::channel();
        let correlation = self.correlation.fetch_add(1, Ordering::Relaxed);
        let frame = self.frame(request, version, correlation)?;
        {
            let mut state = self.waiting.0.lock();
            if let Some(reason) = &state.closed {
                return Err(Error::Connection {
                    address: self.address.clone(),
                    reason: reason.clone(),
                });
            }
            state.requests.insert(correlation, sender);
        }
        self.outgoing.send(frame).await.map_err(|_| self.closed("the connection was closed"))?;
        Ok(Pending {
            answer,
            version,
            address: self.address.clone(),
            timeout,
            waiting: self.waiting.clone(),
            request: PhantomData,
        })
    }

    /// Sends a request that has no answer: Produce with acks=0.
    pub async fn send_and_forget<R: Request>(&self, request: &R) -> Result<()> {
        let version = self.version_of::<R>()?;
        let frame =
            self.frame(request, version, self.correlation.fetch_add(1, Ordering::Relaxed))?;
        self.outgoing.send(frame).await.map_err(|_| self.closed("the connection was closed"))
    }

    fn closed(&self, otherwise: &str) -> Error {
        let reason = self.waiting.0.lock().closed.clone();
        Error::Connection {
            address: self.address.clone(),
            reason: reason.unwrap_or_else(|| otherwise.to_owned()),
        }
    }

    fn frame<R: Request>(&self, request: &R, version: i16, correlation: i32) -> Result<Bytes> {
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(correlation)
            .with_client_id(Some(self.client_id.clone()));
        let unwritable = |error| {
            Error::Invalid(format!(
                "{} v{version} cannot carry this request: {error}",
                api_name(R::KEY)
            ))
        };
        let mut frame = BytesMut::zeroed(4);
        header.encode(&mut frame, R::header_version(version)).map_err(unwritable)?;
        request.encode(&mut frame, version).map_err(unwritable)?;
        let length = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        Ok(frame.freeze())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The writer ends by itself once its queue is empty, so that a last acks=0 request still leaves.
        self.reader.abort();
        self.waiting.close("the connection was closed");
    }
}

async fn write_frames(
    mut socket: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Bytes>,
    waiting: Arc<Waiting>,
) {
    while let Some(frame) = queue.recv().await {
        if let Err(error) = socket.write_all(&frame).await {
            waiting.close(error.to_string());
            return;
        }
    }
}

async fn read_frames(mut socket: OwnedReadHalf, waiting: Arc<Waiting>) {
    let reason = loop {
        let mut length = [0u8; 4];
        if let Err(error) = socket.read_exact(&mut length).await {
            break match error.kind() {
                std::io::ErrorKind::UnexpectedEof => "the broker closed the connection".to_owned(),
                _ => error.to_string(),
            };
        }
        let length = u32::from_be_bytes(length) as usize;
        if !(4..=MAX_FRAME).contains(&length) {
            break format!(
                "the answer has an impossible length ({length}): is this a Kafka listener?"
            );
        }
        let mut frame = vec![0u8; length];
        if let Err(error) = socket.read_exact(&mut frame).await {
            break error.to_string();
        }
        let correlation = i32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        let Some(sender) = waiting.0.lock().requests.remove(&correlation) else {
            break format!("an answer to request {correlation}, which was not asked");
        };
        // The one who asked may have stopped waiting; the connection goes on.
        let _ = sender.send(Bytes::from(frame));
    };
    waiting.close(reason);
}
