//! Calls from a node to the active controller.
//!
//! A link keeps one connection, finds the controller among the addresses of the settings, and tries
//! again until its deadline: a controller that restarts is waited for. A call whose connection
//! breaks may have been carried out and is sent again, as Kafka does: the controller's answers are
//! made for that. Calls of one link are answered in order; whoever must not wait behind others
//! (heartbeats, the metadata fetch) has a link of its own. A node that is itself the controller
//! calls itself in the same way. Deliberately absent: several voters.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, EnvelopeRequest, RequestHeader};
use kafka_protocol::protocol::{Encodable, Request};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::api::Client;
use crate::config::Settings;
use crate::env::Env;
use crate::error::{ErrorCode, Refusal};
use crate::net::peer::{Peer, PeerError};
use crate::wire::header;

#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    #[error("no controller answered within {0:?}: {1}")]
    TimedOut(Duration, String),
    #[error("the controller refused: {0:?}")]
    Refused(ErrorCode),
    #[error("{0}")]
    Unreadable(String),
}

impl From<LinkError> for Refusal {
    fn from(error: LinkError) -> Self {
        let code = match error {
            LinkError::TimedOut(..) => ErrorCode::RequestTimedOut,
            LinkError::Refused(code) => code,
            LinkError::Unreadable(_) => ErrorCode::UnknownServerError,
        };
        Self::new(code, error.to_string())
    }
}

/// A connection to the active controller, made anew when needed.
pub struct ControllerLink {
    env: Env,
    client_id: String,
    addresses: watch::Receiver<Vec<(String, u16)>>,
    connect_timeout: Duration,
    backoff: Duration,
    timeout: Duration,
    peer: Mutex<Option<Peer>>,
    /// Serialises connecting, so that many waiting calls make one connection.
    connecting: tokio::sync::Mutex<usize>,
}

impl ControllerLink {
    /// `purpose` is part of the client id that the controller sees.
    pub fn new(env: &Env, settings: &Settings, purpose: &str) -> Arc<Self> {
        let addresses = watch::channel(settings.quorum.addresses()).1;
        Self::to(env, settings, purpose, addresses)
    }

    /// To addresses that may become known only later.
    pub fn to(
        env: &Env,
        settings: &Settings,
        purpose: &str,
        addresses: watch::Receiver<Vec<(String, u16)>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            env: env.clone(),
            client_id: format!("broker-{}-{purpose}", settings.node_id),
            addresses,
            connect_timeout: settings.socket_connection_setup_timeout.min(Duration::from_secs(3)),
            backoff: settings.quorum_retry_backoff.max(Duration::from_millis(20)),
            timeout: settings.request_timeout,
            peer: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(0),
        })
    }

    /// Sends a request in the newest common version, and tries again until `request.timeout.ms`.
    pub async fn send<R: Request + Clone>(&self, request: R) -> Result<R::Response, LinkError> {
        self.send_within(request, self.timeout).await
    }

    pub async fn send_within<R: Request + Clone>(
        &self,
        request: R,
        timeout: Duration,
    ) -> Result<R::Response, LinkError> {
        self.retry(timeout, |peer, left| {
            let request = request.clone();
            async move { peer.call(request, left).await }
        })
        .await
    }

    /// One attempt, in a given version.
    pub(super) async fn send_once<R: Request>(
        &self,
        version: i16,
        request: R,
        timeout: Duration,
    ) -> Result<R::Response, PeerError> {
        let peer = self.connected().await?;
        peer.call_at(version, request, timeout).await
    }

    async fn retry<T, F, Fut>(&self, timeout: Duration, mut call: F) -> Result<T, LinkError>
    where
        F: FnMut(Peer, Duration) -> Fut,
        Fut: Future<Output = Result<T, PeerError>>,
    {
        let deadline = self.env.clock.now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(self.env.clock.now());
            let attempt = async { call(self.connected().await?, left).await };
            let error = match tokio::time::timeout_at(deadline, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error @ (PeerError::Unreadable(..) | PeerError::Unsupported(..)))) => {
                    return Err(LinkError::Unreadable(error.to_string()));
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "still waiting for a connection or an answer".to_owned(),
            };
            if self.env.clock.now() + self.backoff >= deadline {
                return Err(LinkError::TimedOut(timeout, error));
            }
            tracing::debug!(%error, "will ask the controller again");
            self.env.clock.sleep(self.backoff).await;
        }
    }

    /// The connection, made if there is none.
    async fn connected(&self) -> Result<Peer, PeerError> {
        if let Some(peer) = self.open_peer() {
            return Ok(peer);
        }
        let mut next = self.connecting.lock().await;
        if let Some(peer) = self.open_peer() {
            return Ok(peer);
        }
        let addresses = self.addresses.borrow().clone();
        if addresses.is_empty() {
            let error = std::io::Error::other("no address of a controller is known");
            return Err(PeerError::Connect("controller".into(), error));
        }
        let (host, port) = &addresses[*next % addresses.len()];
        let connecting =
            Peer::connect(&self.env, host, *port, &self.client_id, self.connect_timeout);
        match connecting.await {
            Ok(peer) => {
                *self.peer.lock() = Some(peer.clone());
                Ok(peer)
            }
            Err(error) => {
                *next += 1;
                Err(error)
            }
        }
    }

    fn open_peer(&self) -> Option<Peer> {
        self.peer.lock().clone().filter(|peer| !peer.is_closed())
    }

    /// Returns once there is no open connection.
    pub async fn closed(&self) {
        if let Some(peer) = self.open_peer() {
            peer.closed().await;
        }
    }

    /// Closes the connection; the next call makes a new one.
    pub fn close(&self) {
        if let Some(peer) = self.peer.lock().take() {
            peer.close();
        }
    }

    /// Has a client's request answered by the controller, in the name of that client.
    ///
    /// `body` is the request without its header; the answer is without its header, too.
    pub async fn forward(&self, client: &Client, body: Bytes) -> Result<Bytes, LinkError> {
        let unreadable = |error: String| LinkError::Unreadable(error);
        let mut data = BytesMut::new();
        RequestHeader::default()
            .with_request_api_key(client.api as i16)
            .with_request_api_version(client.version)
            .with_correlation_id(client.correlation)
            .with_client_id(client.id.clone())
            .encode(&mut data, client.api.request_header_version(client.version))
            .map_err(|error| unreadable(error.to_string()))?;
        data.extend_from_slice(&body);
        let address = match client.connection.address.ip() {
            IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
            IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
        };
        let envelope = EnvelopeRequest::default()
            .with_request_data(data.freeze())
            .with_request_principal(Some(client.connection.principal.to_bytes()))
            .with_client_host_address(address);
        let answer = self.send(envelope).await?;
        if let Some(code) = ErrorCode::try_from_code(answer.error_code) {
            return Err(LinkError::Refused(code));
        }
        let mut data = answer.response_data.unwrap_or_default();
        let version = client.api.response_header_version(client.version);
        header::skip_response(&mut data, version).map_err(|error| unreadable(error.to_string()))?;
        Ok(data)
    }
}

/// The APIs that a broker may pass on to the controller for its clients.
pub fn is_forwardable(api: ApiKey) -> bool {
    matches!(
        api,
        ApiKey::CreateTopics
            | ApiKey::DeleteTopics
            | ApiKey::CreatePartitions
            | ApiKey::AlterConfigs
            | ApiKey::IncrementalAlterConfigs
            | ApiKey::ElectLeaders
            | ApiKey::DescribeQuorum
    )
}
