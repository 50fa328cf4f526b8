//! Calls from a node to the active controller.
//!
//! A link keeps one connection to the node that leads the quorum, as this node's replica of the
//! metadata log knows it; while nobody is known to lead it asks those that the settings name. It
//! tries again until its deadline: an election, or a controller that restarts, is waited for. When
//! another node leads, calls under way are sent to it at once. A call whose connection breaks may
//! have been carried out and is sent again, as Kafka does: the controller's answers are made for
//! that. Calls of one link are answered in order; whoever must not wait behind others
//! (heartbeats, the metadata fetch) has a link of its own. A node that is itself the controller
//! calls itself in the same way.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{self, ApiKey, EnvelopeRequest, RequestHeader};
use kafka_protocol::protocol::{Encodable, Request};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::api::Client;
use crate::config::Settings;
use crate::env::Env;
use crate::error::{ErrorCode, Refusal};
use crate::net::peer::{Peer, PeerError};
use crate::wire::header;
use crate::wire::key::Key;

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

/// Where the active controller is, and whom to ask while that is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Controllers {
    pub leader: Option<(String, u16)>,
    pub bootstrap: Vec<(String, u16)>,
}

impl Controllers {
    pub fn of(settings: &Settings) -> Self {
        Self { leader: None, bootstrap: settings.quorum.addresses() }
    }

    /// In the order in which to try.
    fn addresses(&self) -> impl Iterator<Item = &(String, u16)> {
        self.leader.iter().chain(&self.bootstrap)
    }
}

/// An answer that may come from a node that is not the active controller.
pub trait Decided {
    fn code(&self) -> i16;

    fn is_misdirected(&self) -> bool {
        let code = self.code();
        code == ErrorCode::NotController.code() || code == ErrorCode::NotLeaderOrFollower.code()
    }
}

macro_rules! decided {
    ($($answer:ty),* $(,)?) => {
        $(impl Decided for $answer {
            fn code(&self) -> i16 {
                self.error_code
            }
        })*
    };
}
decided!(
    messages::AllocateProducerIdsResponse,
    messages::AlterPartitionResponse,
    messages::AssignReplicasToDirsResponse,
    messages::BrokerHeartbeatResponse,
    messages::BrokerRegistrationResponse,
    messages::ControllerRegistrationResponse,
    messages::DescribeClusterResponse,
    messages::EnvelopeResponse,
);

/// Refused as a whole: then every topic says so.
impl Decided for messages::CreateTopicsResponse {
    fn code(&self) -> i16 {
        self.topics.first().map_or(0, |topic| topic.error_code)
    }
}

/// A connection to the active controller, made anew when needed.
pub struct ControllerLink {
    env: Env,
    client_id: String,
    controllers: watch::Receiver<Controllers>,
    connect_timeout: Duration,
    backoff: Duration,
    timeout: Duration,
    peer: Mutex<Option<Peer>>,
    /// Serialises connecting, so that many waiting calls make one connection.
    connecting: tokio::sync::Mutex<Search>,
}

/// Which of the addresses to try next.
#[derive(Default)]
struct Search {
    among: Controllers,
    next: usize,
}

impl ControllerLink {
    /// `purpose` is part of the client id that the controller sees.
    pub fn new(env: &Env, settings: &Settings, purpose: &str) -> Arc<Self> {
        Self::to(env, settings, purpose, watch::channel(Controllers::of(settings)).1)
    }

    /// To a controller that may become known only later, and may change.
    pub fn to(
        env: &Env,
        settings: &Settings,
        purpose: &str,
        controllers: watch::Receiver<Controllers>,
    ) -> Arc<Self> {
        Arc::new(Self {
            env: env.clone(),
            client_id: format!("broker-{}-{purpose}", settings.node_id),
            controllers,
            connect_timeout: settings.socket_connection_setup_timeout.min(Duration::from_secs(3)),
            backoff: settings.quorum_retry_backoff.max(Duration::from_millis(20)),
            timeout: settings.request_timeout,
            peer: Mutex::new(None),
            connecting: tokio::sync::Mutex::default(),
        })
    }

    /// Sends a request in the newest common version, and tries again until `request.timeout.ms`.
    pub async fn send<R>(&self, request: R) -> Result<R::Response, LinkError>
    where
        R: Request + Clone,
        R::Response: Decided,
    {
        self.send_within(request, self.timeout).await
    }

    pub async fn send_within<R>(
        &self,
        request: R,
        timeout: Duration,
    ) -> Result<R::Response, LinkError>
    where
        R: Request + Clone,
        R::Response: Decided,
    {
        self.retry(timeout, |peer, left| {
            let request = request.clone();
            async move { peer.call(request, left).await }
        })
        .await
    }

    async fn retry<T, F, Fut>(&self, timeout: Duration, mut call: F) -> Result<T, LinkError>
    where
        T: Decided,
        F: FnMut(Peer, Duration) -> Fut,
        Fut: Future<Output = Result<T, PeerError>>,
    {
        let deadline = self.env.clock.now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(self.env.clock.now());
            let attempt = async { call(self.connected().await?, left).await };
            let outcome = tokio::select! {
                biased;
                outcome = tokio::time::timeout_at(deadline, attempt) => outcome,
                // The one that was asked does not lead any more, or never answers.
                () = self.leader_changed() => continue,
            };
            let error = match outcome {
                Ok(Ok(answer)) if answer.is_misdirected() => {
                    self.misdirected().await;
                    if self.env.clock.now() + self.backoff >= deadline {
                        return Ok(answer);
                    }
                    "the node that was asked is not the active controller".to_owned()
                }
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

    /// Returns when another leader is known than at the time of the call.
    pub async fn leader_changed(&self) {
        let mut controllers = self.controllers.clone();
        let before = controllers.borrow_and_update().leader.clone();
        let other = |now: &Controllers| now.leader.is_some() && now.leader != before;
        if controllers.wait_for(other).await.is_err() {
            // Nobody will ever tell.
            std::future::pending::<()>().await;
        }
    }

    /// The node that was asked is not the active controller: the next one is.
    async fn misdirected(&self) {
        let mut search = self.connecting.lock().await;
        search.next += 1;
        self.close();
    }

    /// The connection, made if there is none.
    async fn connected(&self) -> Result<Peer, PeerError> {
        let mut search = self.connecting.lock().await;
        let controllers = self.controllers.borrow().clone();
        if search.among != controllers {
            let (host, port) = controllers.leader.clone().unwrap_or_default();
            let leads = |peer: &Peer| peer.name() == format!("{host}:{port}");
            if controllers.leader.is_some() && !self.open_peer().is_some_and(|peer| leads(&peer)) {
                self.close();
            }
            *search = Search { among: controllers, next: 0 };
        }
        if let Some(peer) = self.open_peer() {
            return Ok(peer);
        }
        let addresses: Vec<_> = search.among.addresses().cloned().collect();
        if addresses.is_empty() {
            let error = std::io::Error::other("no address of a controller is known");
            return Err(PeerError::Connect("controller".into(), error));
        }
        let (host, port) = &addresses[search.next % addresses.len()];
        let connecting =
            Peer::connect(&self.env, host, *port, &self.client_id, self.connect_timeout);
        match connecting.await {
            Ok(peer) => {
                *self.peer.lock() = Some(peer.clone());
                Ok(peer)
            }
            Err(error) => {
                search.next += 1;
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
            .with_request_api_key(client.api.number())
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
pub fn is_forwardable(api: Key) -> bool {
    matches!(
        api.known(),
        Some(
            ApiKey::CreateTopics
                | ApiKey::DeleteTopics
                | ApiKey::CreatePartitions
                | ApiKey::AlterConfigs
                | ApiKey::IncrementalAlterConfigs
                | ApiKey::ElectLeaders
                | ApiKey::AlterPartitionReassignments
                | ApiKey::ListPartitionReassignments
                | ApiKey::UnregisterBroker
                | ApiKey::UpdateFeatures
                | ApiKey::DescribeQuorum
                | ApiKey::AddRaftVoter
                | ApiKey::RemoveRaftVoter
        )
    )
}
