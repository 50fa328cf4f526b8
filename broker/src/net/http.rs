//! The HTTP side door for probes and metrics: `/healthz` (alive), `/readyz` (serving), `/metrics`.
//!
//! Alive is not ready: a broker that recovers its logs is alive, one that is registered and
//! unfenced is ready. The probes never touch the listeners of clients.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::env::{Env, Listener, Stream};

/// What the probes ask.
pub trait Probe: Send + Sync + 'static {
    /// Is the process worth keeping? An error says why not.
    fn alive(&self) -> Result<(), String>;
    /// Does it serve clients? An error says what it is waiting for.
    fn ready(&self) -> Result<(), String>;
    /// The metrics, in the text format of OpenMetrics.
    fn metrics(&self) -> String;
}

/// Serves the probes on `listener` until the task is dropped.
pub async fn serve(env: Env, listener: Box<dyn Listener>, probe: Arc<dyn Probe>) -> io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|probe: State<Arc<dyn Probe>>| async move { answer(probe.alive()) }))
        .route("/readyz", get(|probe: State<Arc<dyn Probe>>| async move { answer(probe.ready()) }))
        .route("/metrics", get(metrics))
        .with_state(probe);
    axum::serve(Door { env, listener }, router).await
}

fn answer(state: Result<(), String>) -> (StatusCode, String) {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics(State(probe): State<Arc<dyn Probe>>) -> impl IntoResponse {
    const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, FORMAT)], probe.metrics())
}

/// Our listener as axum wants one.
struct Door {
    env: Env,
    listener: Box<dyn Listener>,
}

impl axum::serve::Listener for Door {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    // Out of file descriptors, mostly: it passes.
                    tracing::warn!(%error, "a connection to the probes could not be accepted");
                    self.env.clock.sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
