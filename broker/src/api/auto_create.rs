//! Topics that come into being because a client named them (`auto.create.topics.enable`).
//!
//! Creation runs behind the answer: the client hears UNKNOWN_TOPIC_OR_PARTITION and asks again, as
//! with Kafka. Invariant: of one broker, at most one creation of a topic is under way, and at most
//! [`MAX_UNDER_WAY`] in all; what is beyond that is created when the client asks again.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::{CreateTopicsRequest, TopicName};
use parking_lot::Mutex;
use tracing::{debug, info};

use super::metadata::is_internal;
use crate::broker::Broker;
use crate::coordinator::runtime::GROUP_METADATA_TOPIC;
use crate::coordinator::transaction::TRANSACTION_STATE_TOPIC;
use crate::env;
use crate::error::ErrorCode;

/// Names in creation at once.
const MAX_UNDER_WAY: usize = 1000;

/// The names in creation. Cheap to clone.
#[derive(Clone, Default)]
pub struct AutoCreate {
    under_way: Arc<Mutex<BTreeSet<TopicName>>>,
}

impl AutoCreate {
    /// Takes those of `names` that are not in creation yet.
    fn take(&self, names: Vec<TopicName>) -> Vec<TopicName> {
        let mut under_way = self.under_way.lock();
        let mut taken = Vec::new();
        for name in names {
            if under_way.len() < MAX_UNDER_WAY && under_way.insert(name.clone()) {
                taken.push(name);
            }
        }
        taken
    }

    fn done(&self, names: &[TopicName]) {
        let mut under_way = self.under_way.lock();
        for name in names {
            under_way.remove(name);
        }
    }
}

/// Starts to create the topics `names`, with this broker's defaults. Internal ones are made by
/// their coordinators, who know what they must look like.
pub(super) fn create(broker: &Arc<Broker>, mut names: Vec<TopicName>) {
    if names.iter().any(|name| &***name == GROUP_METADATA_TOPIC) {
        broker.groups.topic.make();
    }
    if names.iter().any(|name| &***name == TRANSACTION_STATE_TOPIC) {
        broker.transactions.topic.make();
    }
    names.retain(|name| !is_internal(name));
    let names = broker.auto_create.take(names);
    if names.is_empty() {
        return;
    }
    let broker = broker.clone();
    env::spawn(async move {
        let topic = |name: &TopicName| {
            CreatableTopic::default()
                .with_name(name.clone())
                .with_num_partitions(broker.settings.num_partitions)
                .with_replication_factor(broker.settings.default_replication_factor)
        };
        let request = CreateTopicsRequest::default()
            .with_topics(names.iter().map(topic).collect())
            .with_timeout_ms(broker.settings.request_timeout.as_millis() as i32);
        match broker.link.send(request).await {
            Ok(response) => {
                for topic in response.topics {
                    let name: &str = &topic.name;
                    match ErrorCode::try_from_code(topic.error_code) {
                        None => info!(topic = name, "created because a client asked for it"),
                        Some(code) => {
                            let message = topic.error_message.as_deref().unwrap_or_default();
                            debug!(topic = name, ?code, message, "not created");
                        }
                    }
                }
            }
            Err(error) => debug!(%error, "no topic created"),
        }
        broker.auto_create.done(&names);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::metadata::text;

    fn names(names: &[&str]) -> Vec<TopicName> {
        names.iter().map(|name| TopicName(text(name))).collect()
    }

    #[test]
    fn a_topic_is_in_creation_once_however_often_it_is_asked_for() {
        let creating = AutoCreate::default();
        assert_eq!(creating.take(names(&["a", "b"])), names(&["a", "b"]));
        assert_eq!(creating.take(names(&["b", "c"])), names(&["c"]));
        creating.done(&names(&["a", "b"]));
        assert_eq!(creating.take(names(&["a"])), names(&["a"]));
    }
}
