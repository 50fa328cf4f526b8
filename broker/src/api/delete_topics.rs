//! DeleteTopics, on the controller; brokers pass it on in an Envelope.
//!
//! Versions 1 to 6; from 6 a topic may be named by its id. A refusal is per topic.

use std::sync::Arc;

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{ApiKey, DeleteTopicsRequest, DeleteTopicsResponse};

use super::controller::decide;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::driver::Core;
use crate::controller::topics;
use crate::error::{ErrorCode, Refusal};

pub const API: Api =
    Api::new(ApiKey::DeleteTopics, 1..=6).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: DeleteTopicsRequest,
) -> Reply<DeleteTopicsResponse> {
    let by_name = request
        .topic_names
        .iter()
        .map(|name| DeleteTopicState::default().with_name(Some(name.clone())));
    let asked: Vec<_> = request.topics.iter().cloned().chain(by_name).collect();
    let decided = if broker.settings.delete_topics {
        decide(broker, move |core: &mut Core, _| Ok(topics::delete(core.view(), &request))).await
    } else {
        let code = match client.version {
            ..3 => ErrorCode::InvalidRequest,
            _ => ErrorCode::TopicDeletionDisabled,
        };
        Err(Refusal::new(code, "Topic deletion is disabled."))
    };
    Reply::Now(decided.unwrap_or_else(|refusal| {
        let failed = |topic: DeleteTopicState| {
            DeletableTopicResult::default()
                .with_name(topic.name)
                .with_topic_id(topic.topic_id)
                .with_error_code(refusal.code.code())
                .with_error_message(Some(refusal.message.clone().into()))
        };
        DeleteTopicsResponse::default().with_responses(asked.into_iter().map(failed).collect())
    }))
}
