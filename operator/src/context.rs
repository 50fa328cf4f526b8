//! What both reconcilers share: the API server, the brokers, events, and how often to look again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder};

use crate::kafka::Kafka;
use crate::metrics::Metrics;

pub struct Context {
    pub client: Client,
    pub kafka: Arc<dyn Kafka>,
    pub recorder: Recorder,
    pub metrics: Arc<Metrics>,
    /// The image of brokers whose manifest names none.
    pub image: String,
    /// How long until a resource that is as it should be is looked at again.
    pub resync: Duration,
    /// Failures in a row, by resource, for the pause before the next attempt.
    pub failures: Mutex<BTreeMap<String, u32>>,
}

/// How a reconcile ends when it cannot go on; it is tried again after a pause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the API server: {}", in_words(.0))]
    Api(#[from] kube::Error),
    #[error("{object}: {}", in_words(.source))]
    Apply { object: String, source: kube::Error },
    #[error("{0}")]
    Kafka(#[from] ottla_client::Error),
    #[error("finalizer: {0}")]
    Finalizer(String),
    /// Nothing failed; the resource says what is waited for.
    #[error("{0}")]
    Waits(String),
}

/// The API server's own words, without the structures around them.
pub fn in_words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl Context {
    /// Tells the user what was done. An event that cannot be written (a namespace that is being
    /// deleted takes none) is only logged: it must never stop the work.
    pub async fn tell(&self, about: &ObjectReference, reason: &str, note: String) {
        tracing::info!(resource = %shown(about), reason, "{note}");
        self.publish(about, EventType::Normal, reason, note).await;
    }

    /// Tells the user what is wrong.
    pub async fn warn(&self, about: &ObjectReference, reason: &str, note: String) {
        tracing::warn!(resource = %shown(about), reason, "{note}");
        self.publish(about, EventType::Warning, reason, note).await;
    }

    async fn publish(&self, about: &ObjectReference, type_: EventType, reason: &str, note: String) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            // Events of one reason and action are counted as one, with the first note: what was
            // done to different objects must differ. The API server takes 128 and 1024 bytes.
            action: note.chars().filter(char::is_ascii).take(128).collect(),
            note: Some(note.chars().take(250).collect()),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::debug!(resource = %shown(about), "no event: {}", in_words(&error));
        }
    }

    /// The pause before the next attempt at `resource`: longer after each failure in a row.
    pub fn pause_after_failure(&self, resource: String) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = failures.entry(resource).or_default();
        *count = count.saturating_add(1);
        Duration::from_secs((1_u64 << (*count).min(6)).min(60))
    }

    pub fn succeeded(&self, resource: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        failures.remove(resource);
    }
}

fn shown(about: &ObjectReference) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}/{}", part(&about.kind), part(&about.namespace), part(&about.name))
}
