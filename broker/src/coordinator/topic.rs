//! Makes an internal topic when somebody first looks for its coordinator, as Kafka does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{CreateTopicsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::runtime::GROUP_METADATA_TOPIC;
use super::share::SHARE_STATE_TOPIC;
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

/// An internal topic, and what it is made with.
pub trait InternalTopic: Send + Sync + 'static {
    fn to_request(&self) -> CreatableTopic;
}

fn request(
    name: &'static str,
    (partitions, replication_factor): (i32, i16),
    configs: &[(&'static str, String)],
) -> CreatableTopic {
    let config = |(name, value): &(&'static str, String)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(StrBytes::from_string(value.clone())))
    };
    CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_static_str(name)))
        .with_num_partitions(partitions)
        .with_replication_factor(replication_factor)
        .with_configs(configs.iter().map(config).collect())
}

/// `__share_group_state`. Its old records are deleted by the coordinator, not by time.
#[derive(Debug, Clone)]
pub struct ShareStateTopic {
    /// `share.coordinator.state.topic.num.partitions`
    pub partitions: i32,
    /// `share.coordinator.state.topic.replication.factor`
    pub replication_factor: i16,
    /// `share.coordinator.state.topic.min.isr`
    pub min_isr: i16,
    /// `share.coordinator.state.topic.segment.bytes`
    pub segment_bytes: i32,
}

impl ShareStateTopic {
    pub fn of(settings: &Settings) -> Self {
        Self {
            partitions: settings.share_state_topic_num_partitions,
            replication_factor: settings.share_state_topic_replication_factor,
            min_isr: settings.share_state_topic_min_isr,
            segment_bytes: settings.share_state_topic_segment_bytes,
        }
    }
}

impl InternalTopic for ShareStateTopic {
    fn to_request(&self) -> CreatableTopic {
        let configs = [
            ("cleanup.policy", "delete".to_owned()),
            ("compression.type", "producer".to_owned()),
            ("segment.bytes", self.segment_bytes.to_string()),
            ("min.insync.replicas", self.min_isr.to_string()),
            ("retention.ms", "-1".to_owned()),
        ];
        request(SHARE_STATE_TOPIC, (self.partitions, self.replication_factor), &configs)
    }
}

/// `__consumer_offsets`.
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
}

impl InternalTopic for OffsetsTopic {
    fn to_request(&self) -> CreatableTopic {
        let configs = [
            ("cleanup.policy", "compact".to_owned()),
            ("compression.type", "producer".to_owned()),
            ("segment.bytes", self.segment_bytes.to_string()),
        ];
        request(GROUP_METADATA_TOPIC, (self.partitions, self.replication_factor), &configs)
    }
}

/// Asks once at a time, however many clients look.
pub struct Maker {
    topic: Box<dyn InternalTopic>,
    creator: Arc<dyn TopicCreator>,
    busy: Arc<AtomicBool>,
}

impl Maker {
    pub fn new(topic: impl InternalTopic, creator: Arc<dyn TopicCreator>) -> Self {
        Self { topic: Box::new(topic), creator, busy: Arc::default() }
    }

    /// Returns at once. Clients try again until the topic is there; so does this, with them.
    pub fn make(&self) {
        if self.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        let (creator, busy, topic) =
            (self.creator.clone(), self.busy.clone(), self.topic.to_request());
        drop(env::spawn(async move {
            let name = topic.name.clone();
            match creator.create(topic).await {
                Ok(()) => tracing::info!("{} is created", &*name),
                Err(refusal) if refusal.code == ErrorCode::TopicAlreadyExists => {}
                Err(refusal) => {
                    tracing::warn!(%refusal, "{} could not be created yet", &*name);
                }
            }
            busy.store(false, Ordering::Release);
        }));
    }
}
