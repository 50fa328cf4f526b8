//! What a decision is: records to append, and the answer to give once they are committed.
//!
//! Decisions read a [`View`] and change nothing; replaying their records does. The records of one
//! decision are one batch, so that they become true together or not at all.

use super::image::{Config, Image, ResourceType, TopicImage};
use crate::env::planted;
use crate::error::{ErrorCode, Refusal};
use crate::types::{BrokerEpoch, NodeId};
use crate::wire::metadata::Record;

/// The feature under which eligible leader replicas are kept (KIP-966).
pub const ELR_FEATURE: &str = "eligible.leader.replicas.version";

/// What the controller knows when it decides.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub image: &'a Image,
    pub rules: &'a dyn ConfigRules,
}

/// Records, then an answer.
#[derive(Debug)]
pub struct Decision<R> {
    pub records: Vec<Record>,
    pub response: R,
}

impl<R> Decision<R> {
    pub fn new(records: Vec<Record>, response: R) -> Self {
        Self { records, response }
    }

    /// An answer that changes nothing.
    pub fn nothing(response: R) -> Self {
        Self { records: Vec::new(), response }
    }
}

/// What configuration keys exist and what they may be: the table of `config`, as the controller
/// needs it.
pub trait ConfigRules: Send + Sync {
    /// Is `value` legal for `name`? The message is for the client, with INVALID_CONFIG.
    fn check(&self, of: ResourceType, name: &str, value: &str) -> Result<(), String>;

    /// Do the settings of a resource go together?
    fn check_together(&self, of: ResourceType, overrides: &Config) -> Result<(), String>;

    /// Is the value a list, which APPEND and SUBTRACT work on?
    fn is_list(&self, of: ResourceType, name: &str) -> bool;

    /// What holds when neither the topic nor the cluster says anything: this controller's static
    /// setting, or the default. For a topic's key.
    fn topic_default(&self, name: &str) -> Option<String>;

    /// All configuration that a topic with `overrides` has, for the answer of CreateTopics.
    fn effective(&self, cluster: &Config, overrides: &Config) -> Vec<EffectiveConfig>;

    fn default_partitions(&self) -> i32;
    fn default_replication_factor(&self) -> i16;
}

/// One line of a topic's effective configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveConfig {
    pub name: String,
    pub value: Option<String>,
    pub read_only: bool,
    /// Kafka's number: 1 topic, 3 cluster-wide dynamic, 4 static, 5 default.
    pub source: i8,
    pub sensitive: bool,
}

impl View<'_> {
    /// The value of a topic's key: the topic's own, the cluster's, or the default.
    pub fn topic_config(&self, topic: &str, name: &str) -> Option<String> {
        let own = self.image.config(ResourceType::Topic, topic).get(name);
        let cluster = || self.image.config(ResourceType::Broker, "").get(name);
        own.or_else(cluster).cloned().or_else(|| self.rules.topic_default(name))
    }

    pub fn unclean_election_allowed(&self, topic: &str) -> bool {
        planted!(UncleanElectionAlways)
            || self.topic_config(topic, "unclean.leader.election.enable").as_deref() == Some("true")
    }

    /// Are eligible leader replicas kept (KIP-966)?
    pub fn elr_enabled(&self) -> bool {
        self.image.feature(ELR_FEATURE) >= 1
    }

    /// How small the ISR of a topic's partition may be for the high watermark to move.
    pub fn min_isr(&self, topic: &TopicImage) -> usize {
        let set = self.topic_config(&topic.name, "min.insync.replicas");
        let replicas = topic.partitions.values().next().map_or(1, |it| it.replicas.len());
        set.and_then(|value| value.parse().ok()).unwrap_or(1).min(replicas)
    }

    /// Refuses a broker that is not registered, or that speaks for an earlier incarnation.
    pub fn check_broker_epoch(&self, id: NodeId, epoch: BrokerEpoch) -> Result<(), Refusal> {
        let Some(broker) = self.image.broker(id) else {
            return Err(Refusal::new(
                ErrorCode::StaleBrokerEpoch,
                format!("No broker registration found for broker id {id}"),
            ));
        };
        if broker.epoch != epoch {
            let expected = broker.epoch;
            return Err(Refusal::new(
                ErrorCode::StaleBrokerEpoch,
                format!("Expected broker epoch {expected}, but got broker epoch {epoch}"),
            ));
        }
        Ok(())
    }
}
