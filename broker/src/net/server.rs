//! Listeners: accept, count, and serve each connection in a task of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, debug_span, info, warn};

use super::budget::Budget;
use super::connection::{self, Shared};
use super::limits::Limits;
use super::metrics::Metrics;
use crate::api::{Connection, Principal, Scope};
use crate::broker::Broker;
use crate::config::Endpoint;
use crate::env::{self, Env, Listener, Stream};
use crate::error::Fault;

/// How long to wait after a failed accept: it fails again at once while file handles are short.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// How long a stopping node lets answers in flight go out.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// A listener that has its port and accepts nothing yet.
pub struct Bound {
    pub endpoint: Endpoint,
    listener: Box<dyn Listener>,
    /// The port in use: another than the endpoint's when that is 0.
    pub port: u16,
}

impl Bound {
    pub async fn bind(env: &Env, endpoint: &Endpoint) -> Result<Self, Fault> {
        let failed = |error: std::io::Error| {
            let Endpoint { listener, host, port, .. } = endpoint;
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "; another process listens there: stop it, or \
                                                  choose another port in listeners"
                }
                std::io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
                _ => "",
            };
            Fault::Start(format!("cannot listen on {listener}://{host}:{port}: {error}{hint}"))
        };
        let listener = env.net.listen(&endpoint.host, endpoint.port).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        Ok(Self { endpoint: endpoint.clone(), listener, port })
    }
}

/// All listeners of a node and their connections.
pub struct Server {
    shared: Arc<Shared<Arc<Broker>>>,
    limits: Arc<Limits>,
    tasks: TaskTracker,
    next_number: Arc<AtomicU64>,
    listening: Mutex<Vec<CancellationToken>>,
}

impl Server {
    pub fn new(broker: Arc<Broker>, metrics: Arc<Metrics>) -> Self {
        let budget = Budget::new(broker.settings.queued_max_request_bytes);
        let limits = Limits::new(&broker.settings);
        let stop = CancellationToken::new();
        Self {
            shared: Arc::new(Shared {
                max_frame: usize::try_from(broker.settings.socket_request_max_bytes).unwrap_or(0),
                max_idle: broker.settings.connections_max_idle,
                service: broker,
                budget,
                metrics,
                stop,
            }),
            limits,
            tasks: TaskTracker::new(),
            next_number: Arc::default(),
            listening: Mutex::default(),
        }
    }

    /// Starts to accept connections.
    pub fn serve(&self, bound: Bound) {
        let settings = &self.shared.service.settings;
        let name = bound.endpoint.listener.clone();
        let of_controller = settings.listeners.is_controller(&name);
        let scope = if of_controller { Scope::Controller } else { Scope::Broker };
        let between_nodes = scope == Scope::Controller || name == settings.listeners.inter_broker;
        let limited =
            settings.listeners.of_broker().count() == 1 && scope == Scope::Broker || !between_nodes;
        let acceptor = Acceptor {
            shared: self.shared.clone(),
            limits: self.limits.clone(),
            tasks: self.tasks.clone(),
            next_number: self.next_number.clone(),
            name: name.into(),
            scope,
            limited,
        };
        info!(listener = %acceptor.name, port = bound.port, "listening");
        let stop = self.shared.stop.child_token();
        self.listening.lock().push(stop.clone());
        let accepting = self.tasks.track_future(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = acceptor.accept(bound.listener) => {}
            }
        });
        if of_controller {
            self.shared.service.env.spawn_control(accepting);
        } else {
            env::spawn(accepting);
        }
    }

    /// Stops accepting new connections; those that are open go on.
    pub fn stop_accepting(&self) {
        for listening in &*self.listening.lock() {
            listening.cancel();
        }
    }

    /// Stops reading, lets answers in flight go out, and closes all connections.
    pub async fn shut_down(&self) {
        self.shared.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN_GRACE, self.tasks.wait()).await.is_err() {
            debug!(left = self.tasks.len(), "connections that did not end in time");
        }
    }
}

/// Accepts the connections of one listener.
struct Acceptor {
    shared: Arc<Shared<Arc<Broker>>>,
    limits: Arc<Limits>,
    tasks: TaskTracker,
    next_number: Arc<AtomicU64>,
    name: Arc<str>,
    scope: Scope,
    /// Whether `max.connections` holds it up.
    limited: bool,
}

impl Acceptor {
    async fn accept(&self, mut listener: Box<dyn Listener>) {
        loop {
            if self.limited {
                self.limits.has_room().await;
            }
            match listener.accept().await {
                Ok((stream, address)) => self.open(stream, address),
                Err(error) => {
                    warn!(listener = %self.name, %error, "cannot accept a connection");
                    self.shared.service.env.clock.sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    fn open(&self, stream: Stream, address: SocketAddr) {
        let Some(admitted) = self.limits.admit(address.ip()) else {
            self.shared.metrics.turned_away(&self.name);
            debug!(listener = %self.name, %address, "too many connections from this address");
            return;
        };
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection {
            number,
            address,
            listener: self.name.clone(),
            scope: self.scope,
            principal: Principal::ANONYMOUS,
            software: Mutex::new(None),
            misdirected: AtomicBool::new(false),
            attached: crate::api::Attached::default(),
        });
        let node = self.shared.service.settings.node_id;
        let span = debug_span!("connection", node, number, listener = %self.name, %address);
        let shared = self.shared.clone();
        let serving = async move {
            let _admitted = admitted;
            shared.metrics.opened(&connection.listener);
            connection::serve(&shared, &connection, stream).await;
            shared.metrics.closed(&connection.listener);
        };
        env::spawn(self.tasks.track_future(serving.instrument(span)));
    }
}
