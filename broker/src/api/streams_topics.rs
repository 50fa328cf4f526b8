//! The internal topics of streams groups, made because a heartbeat found that they are missing.
//!
//! Creation runs behind the answer. Invariants: of one broker, at most one creation of a topic is
//! under way; one that failed is not tried again, and told to whoever asks, for two heartbeats;
//! no more than [`MAX_NAMES`] are under way at once, what is beyond that is made when it is asked
//! for again; as many failures are remembered, those that end first are forgotten first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse, GroupId, TopicName};
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::coordinator::group::streams::{InternalTopic, ToCreate};
use crate::env;
use crate::error::ErrorCode;
use crate::types::Millis;

const MAX_NAMES: usize = 1000;

/// How many failures an answer names.
const SHOWN: usize = 3;

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct StreamsTopics(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    under_way: BTreeSet<String>,
    failed: BTreeMap<String, Failed>,
}

struct Failed {
    why: String,
    until: Millis,
}

impl Known {
    /// Takes those of `names` that are neither under way nor failed lately.
    fn take(&mut self, topics: &ToCreate, now: Millis) -> Vec<String> {
        self.failed.retain(|_, failed| failed.until > now);
        let names = topics.keys().filter(|name| !self.failed.contains_key(*name));
        let room = MAX_NAMES.saturating_sub(self.under_way.len());
        let names = names.filter(|name| !self.under_way.contains(*name)).take(room);
        let names: Vec<String> = names.cloned().collect();
        self.under_way.extend(names.iter().cloned());
        names
    }

    fn fail(&mut self, name: String, why: String, until: Millis) {
        self.failed.insert(name, Failed { why, until });
        while self.failed.len() > MAX_NAMES {
            let first = self.failed.iter().min_by_key(|(_, failed)| failed.until);
            let first = first.map(|(name, _)| name.clone()).unwrap_or_default();
            self.failed.remove(&first);
        }
    }

    /// What failed of `topics`, for people.
    fn failures(&self, topics: &ToCreate) -> Option<String> {
        let known = topics.keys().filter_map(|name| Some((name, self.failed.get(name)?)));
        let all: Vec<String> =
            known.map(|(name, failed)| format!("{name} ({})", failed.why)).collect();
        let shown = all[..all.len().min(SHOWN)].join(", ");
        match all.len() {
            0 => None,
            many if many > SHOWN => Some(format!("{shown} and {} more", many - SHOWN)),
            _ => Some(shown),
        }
    }
}

/// Starts to create `topics`, which `group` misses. Returns what failed before, if anything did.
pub(super) fn create(broker: &Arc<Broker>, group: &GroupId, topics: ToCreate) -> Option<String> {
    let now = broker.env.clock.wall_ms();
    let known = broker.streams_topics.0.clone();
    let (names, failures) = {
        let mut known = known.lock();
        (known.take(&topics, now), known.failures(&topics))
    };
    if names.is_empty() {
        return failures;
    }
    let heartbeat = broker.groups.settings.streams_heartbeat_ms(&broker.image.load(), group);
    let kept = 2 * i64::from(heartbeat);
    let broker = broker.clone();
    drop(env::spawn(async move {
        let topics = topics.iter().filter(|(name, _)| names.contains(name));
        let request = CreateTopicsRequest::default()
            .with_topics(topics.map(to_request).collect())
            .with_timeout_ms(broker.settings.request_timeout.as_millis() as i32);
        let failed = match broker.link.send(request).await {
            Ok(response) => refused(response),
            Err(error) => names.iter().map(|name| (name.clone(), error.to_string())).collect(),
        };
        let until = broker.env.clock.wall_ms() + kept;
        let mut known = known.lock();
        for name in &names {
            known.under_way.remove(name);
            if !failed.contains_key(name) {
                tracing::info!(topic = name, "created for a streams group");
            }
        }
        for (name, why) in failed {
            tracing::warn!(topic = name, why, "a streams group goes without an internal topic");
            known.fail(name, why, until);
        }
    }));
    failures
}

fn refused(response: CreateTopicsResponse) -> BTreeMap<String, String> {
    let each = response.topics.into_iter().filter_map(|topic| {
        let code = ErrorCode::try_from_code(topic.error_code)?;
        let message = topic.error_message.filter(|message| !message.is_empty());
        Some((topic.name.to_string(), message.map_or(code.to_string(), |it| it.to_string())))
    });
    each.collect()
}

fn to_request((name, topic): (&String, &InternalTopic)) -> CreatableTopic {
    let text = |text: &String| StrBytes::from_string(text.clone());
    let config = |(name, value): (&String, &String)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let replication_factor = match topic.replication_factor {
        0 => -1,
        factor => factor,
    };
    CreatableTopic::default()
        .with_name(TopicName(text(name)))
        .with_num_partitions(topic.partitions)
        .with_replication_factor(replication_factor)
        .with_configs(topic.configs.iter().map(config).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(names: &[&str]) -> ToCreate {
        let topic =
            InternalTopic { partitions: 1, replication_factor: 0, configs: BTreeMap::new() };
        names.iter().map(|name| ((*name).to_owned(), topic.clone())).collect()
    }

    #[test]
    fn a_topic_is_in_creation_once_and_left_alone_for_a_while_after_it_failed() {
        let mut known = Known::default();
        assert_eq!(known.take(&topics(&["a", "b"]), 0), ["a", "b"]);
        assert_eq!(known.take(&topics(&["b", "c"]), 0), ["c"]);
        known.under_way.clear();
        known.fail("a".into(), "no room".into(), 100);
        assert_eq!(known.take(&topics(&["a"]), 99), [""; 0]);
        assert_eq!(known.failures(&topics(&["a", "b"])).unwrap(), "a (no room)");
        assert_eq!(known.take(&topics(&["a"]), 100), ["a"]);
        assert_eq!(known.failures(&topics(&["a"])), None);
    }

    #[test]
    fn only_so_many_are_under_way() {
        let names: Vec<String> = (0..=MAX_NAMES).map(|number| format!("t{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut known = Known::default();
        assert_eq!(known.take(&topics(&names), 0).len(), MAX_NAMES);
        assert_eq!(known.take(&topics(&names), 0), [""; 0]);
    }

    #[test]
    fn an_answer_names_three_failures_and_counts_the_others() {
        let mut known = Known::default();
        for name in ["a", "b", "c", "d", "e"] {
            known.fail(name.into(), "x".into(), 1);
        }
        let told = known.failures(&topics(&["a", "b", "c", "d", "e"])).unwrap();
        assert_eq!(told, "a (x), b (x), c (x) and 2 more");
    }

    #[test]
    fn only_so_many_failures_are_remembered() {
        let mut known = Known::default();
        for number in 0..=MAX_NAMES {
            known.fail(format!("t{number}"), "x".into(), number as i64);
        }
        assert_eq!(known.failed.len(), MAX_NAMES);
        assert!(!known.failed.contains_key("t0"));
    }
}
