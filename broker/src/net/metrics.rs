//! What is counted about connections and requests.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::wire::key::Key;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfListener {
    listener: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfApi {
    api: String,
}

#[derive(Default)]
pub struct Metrics {
    requests: Family<OfApi, Counter>,
    refused: Family<OfListener, Counter>,
    received: Family<OfListener, Counter>,
    sent: Family<OfListener, Counter>,
    connections: Family<OfListener, Gauge>,
    turned_away: Family<OfListener, Counter>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let metrics = Self::default();
        let network = registry.sub_registry_with_prefix("ottla_network");
        network.register("requests", "Requests started, by API", metrics.requests.clone());
        network.register(
            "refused_frames",
            "Frames that were malformed or not served here, and ended their connection",
            metrics.refused.clone(),
        );
        network.register("received_bytes", "Bytes read from clients", metrics.received.clone());
        network.register("sent_bytes", "Bytes written to clients", metrics.sent.clone());
        network.register("connections", "Open connections", metrics.connections.clone());
        network.register(
            "turned_away_connections",
            "Connections closed at once by max.connections.per.ip",
            metrics.turned_away.clone(),
        );
        Arc::new(metrics)
    }

    pub(super) fn request(&self, api: Key) {
        self.requests.get_or_create(&OfApi { api: format!("{api:?}") }).inc();
    }

    pub(super) fn refused(&self, listener: &str) {
        self.refused.get_or_create(&of(listener)).inc();
    }

    pub(super) fn received(&self, listener: &str, bytes: u64) {
        self.received.get_or_create(&of(listener)).inc_by(bytes);
    }

    pub(super) fn sent(&self, listener: &str, bytes: u64) {
        self.sent.get_or_create(&of(listener)).inc_by(bytes);
    }

    pub(super) fn opened(&self, listener: &str) {
        self.connections.get_or_create(&of(listener)).inc();
    }

    pub(super) fn closed(&self, listener: &str) {
        self.connections.get_or_create(&of(listener)).dec();
    }

    pub(super) fn turned_away(&self, listener: &str) {
        self.turned_away.get_or_create(&of(listener)).inc();
    }
}

fn of(listener: &str) -> OfListener {
    OfListener { listener: listener.to_owned() }
}
