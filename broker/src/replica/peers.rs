//! Connections to other brokers, on the listener between brokers, where the image says they are.
//!
//! At most one is kept open to each; one that broke is made anew when it is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::context::Context;
use crate::net::peer::Peer;
use crate::types::NodeId;

pub struct Peers {
    context: Arc<Context>,
    client_id: String,
    open: Mutex<BTreeMap<NodeId, Peer>>,
}

impl Peers {
    /// `client_id` is what the others see in their logs.
    pub fn new(context: Arc<Context>, client_id: String) -> Self {
        Self { context, client_id, open: Mutex::default() }
    }

    /// The connection that is kept, or a new one.
    pub async fn get(&self, node: NodeId) -> Result<Peer, String> {
        let open = self.open.lock().get(&node).filter(|peer| !peer.is_closed()).cloned();
        if let Some(peer) = open {
            return Ok(peer);
        }
        let peer = self.connect(node).await?;
        self.open.lock().insert(node, peer.clone());
        Ok(peer)
    }

    /// After a call that failed: the connection may be of no use.
    pub fn forget(&self, node: NodeId) {
        self.open.lock().remove(&node);
    }

    /// A connection that is the caller's own.
    pub async fn connect(&self, node: NodeId) -> Result<Peer, String> {
        let Context { env, settings, image, .. } = &*self.context;
        let image = image.load_full();
        let listener = &settings.listeners.inter_broker;
        let endpoint = image
            .broker(node)
            .and_then(|broker| broker.endpoint(listener))
            .ok_or_else(|| format!("broker {node} has no listener {listener}"))?;
        let timeout = settings.socket_connection_setup_timeout;
        let peer = Peer::connect(env, &endpoint.host, endpoint.port, &self.client_id, timeout);
        peer.await.map_err(|error| error.to_string())
    }
}
