//! Makes `__consumer_offsets` when the first client looks for a coordinator, as Kafka does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{CreateTopicsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::runtime::GROUP_METADATA_TOPIC;
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

/// What the topic is made with.
#[derive(Debug, Clone)]
pub struct OffsetsTopic {
    /// `offsets.topic.num.partitions`
    pub partitions: i32,
    /// `offsets.topic.replication.factor`
    pub replication_factor: i16,
    /// `offsets.topic.segment.bytes`
    pub segment_bytes: i32,
}

impl OffsetsTopic {
    pub fn of(settings: &Settings) -> Self {
        Self {
            partitions: settings.offsets_topic_num_partitions,
            replication_factor: settings.offsets_topic_replication_factor,
            segment_bytes: settings.offsets_topic_segment_bytes,
        }
    }

    pub fn to_request(&self) -> CreatableTopic {
        let segment_bytes = self.segment_bytes.to_string();
        let configs = [
            ("cleanup.policy", "compact"),
            ("compression.type", "producer"),
            ("segment.bytes", segment_bytes.as_str()),
        ];
        let config = |(name, value): (&'static str, &str)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(Some(StrBytes::from_string(value.to_owned())))
        };
        CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_static_str(GROUP_METADATA_TOPIC)))
            .with_num_partitions(self.partitions)
            .with_replication_factor(self.replication_factor)
            .with_configs(configs.into_iter().map(config).collect())
    }
}

/// Asks once at a time, however many clients look.
pub struct Maker {
    topic: OffsetsTopic,
    creator: Arc<dyn TopicCreator>,
    busy: Arc<AtomicBool>,
}

impl Maker {
    pub fn new(topic: OffsetsTopic, creator: Arc<dyn TopicCreator>) -> Self {
        Self { topic, creator, busy: Arc::default() }
    }

    /// Returns at once. Clients try again until the topic is there; so does this, with them.
    pub fn make(&self) {
        if self.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        let (creator, busy, topic) =
            (self.creator.clone(), self.busy.clone(), self.topic.to_request());
        drop(env::spawn(async move {
            match creator.create(topic).await {
                Ok(()) => tracing::info!("{GROUP_METADATA_TOPIC} is created"),
                Err(refusal) if refusal.code == ErrorCode::TopicAlreadyExists => {}
                Err(refusal) => {
                    tracing::warn!(%refusal, "{GROUP_METADATA_TOPIC} could not be created yet");
                }
            }
            busy.store(false, Ordering::Release);
        }));
    }
}
