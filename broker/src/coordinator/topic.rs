//! Makes an internal topic when somebody first looks for its coordinator, as Kafka does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{CreateTopicsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::runtime::GROUP_METADATA_TOPIC;
use super::share::SHARE_STATE_TOPIC;
use super::transaction::TRANSACTION_STATE_TOPIC;
use crate::config::Settings;
use crate::controller::ControllerLink;
use crate::env;
use crate::error::{ErrorCode, Refusal};

const TIMEOUT_MS: i32 = 30_000;

/// How the controller is asked.
#[async_trait]
pub trait TopicCreator: Send + Sync + 'static {
    async fn create(&self, topic: CreatableTopic) -> Result<(), Refusal>;
}

#[async_trait]
impl TopicCreator for ControllerLink {
    async fn create(&self, topic: CreatableTopic) -> Result<(), Refusal> {
        let request = CreateTopicsRequest::default().with_topics(vec![topic]);
        let response = self.send(request.with_timeout_ms(TIMEOUT_MS)).await?;
        let answer = response.topics.first();
        match answer.and_then(|topic| ErrorCode::try_from_code(topic.error_code)) {
            None => Ok(()),
            Some(code) => {
                let message = answer.and_then(|topic| topic.error_message.as_deref());
                Err(Refusal::new(code, message.unwrap_or_default()))
            }
        }
    }
}

/// What an internal topic is made with.
#[derive(Debug, Clone)]
pub struct InternalTopic {
    pub name: &'static str,
    pub partitions: i32,
    pub replication_factor: i16,
    pub configs: Vec<(&'static str, String)>,
}

impl InternalTopic {
    /// `__consumer_offsets`, by the settings `offsets.topic.*`.
    pub fn offsets(settings: &Settings) -> Self {
        Self {
            name: GROUP_METADATA_TOPIC,
            partitions: settings.offsets_topic_num_partitions,
            replication_factor: settings.offsets_topic_replication_factor,
            configs: vec![
                ("cleanup.policy", "compact".to_owned()),
                ("compression.type", "producer".to_owned()),
                ("segment.bytes", settings.offsets_topic_segment_bytes.to_string()),
            ],
        }
    }

    /// `__share_group_state`, by the settings `share.coordinator.state.topic.*`. Its old records are
    /// deleted by the coordinator, not by time.
    pub fn share_state(settings: &Settings) -> Self {
        Self {
            name: SHARE_STATE_TOPIC,
            partitions: settings.share_state_topic_num_partitions,
            replication_factor: settings.share_state_topic_replication_factor,
            configs: vec![
                ("cleanup.policy", "delete".to_owned()),
                ("compression.type", "producer".to_owned()),
                ("segment.bytes", settings.share_state_topic_segment_bytes.to_string()),
                ("min.insync.replicas", settings.share_state_topic_min_isr.to_string()),
                ("retention.ms", "-1".to_owned()),
            ],
        }
    }

    /// `__transaction_state`, by the settings `transaction.state.log.*`.
    pub fn transactions(settings: &Settings) -> Self {
        Self {
            name: TRANSACTION_STATE_TOPIC,
            partitions: settings.transaction_topic_num_partitions,
            replication_factor: settings.transaction_topic_replication_factor,
            configs: vec![
                ("cleanup.policy", "compact".to_owned()),
                ("compression.type", "uncompressed".to_owned()),
                ("min.insync.replicas", settings.transaction_topic_min_isr.to_string()),
                ("segment.bytes", settings.transaction_topic_segment_bytes.to_string()),
                ("unclean.leader.election.enable", "false".to_owned()),
            ],
        }
    }

    pub fn to_request(&self) -> CreatableTopic {
        let config = |(name, value): &(&'static str, String)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(Some(StrBytes::from_string(value.clone())))
        };
        CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_static_str(self.name)))
            .with_num_partitions(self.partitions)
            .with_replication_factor(self.replication_factor)
            .with_configs(self.configs.iter().map(config).collect())
    }
}

/// Asks once at a time, however many clients look.
pub struct Maker {
    topic: InternalTopic,
    creator: Arc<dyn TopicCreator>,
    busy: Arc<AtomicBool>,
}

impl Maker {
    pub fn new(topic: InternalTopic, creator: Arc<dyn TopicCreator>) -> Self {
        Self { topic, creator, busy: Arc::default() }
    }

    /// Returns at once. Clients try again until the topic is there; so does this, with them.
    pub fn make(&self) {
        if self.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        let (creator, busy, topic, name) =
            (self.creator.clone(), self.busy.clone(), self.topic.to_request(), self.topic.name);
        drop(env::spawn(async move {
            match creator.create(topic).await {
                Ok(()) => tracing::info!("{name} is created"),
                Err(refusal) if refusal.code == ErrorCode::TopicAlreadyExists => {}
                Err(refusal) => {
                    tracing::warn!(%refusal, "{name} could not be created yet");
                }
            }
            busy.store(false, Ordering::Release);
        }));
    }
}
