//! DeleteTopics, on the controller; brokers pass it on in an Envelope.
//!
//! Versions 1 to 6; from 6 a topic may be named by its id. A refusal is per topic.

use std::sync::Arc;

use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{ApiKey, DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use uuid::Uuid;

use super::controller::{Refusable, answer};
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
    if !broker.settings.delete_topics {
        let code = match client.version {
            ..3 => ErrorCode::InvalidRequest,
            _ => ErrorCode::TopicDeletionDisabled,
        };
        let refusal = Refusal::new(code, "Topic deletion is disabled.");
        return Reply::Now(request.refuse(client.version, &refusal));
    }
    let delete =
        |core: &mut Core, request: &DeleteTopicsRequest| Ok(topics::delete(core.view(), request));
    Reply::Now(answer(broker, client, request, delete).await)
}

impl Refusable for DeleteTopicsRequest {
    fn refuse(&self, _: i16, refusal: &Refusal) -> DeleteTopicsResponse {
        let refuse = |name: Option<TopicName>, id: Uuid| {
            DeletableTopicResult::default()
                .with_name(name)
                .with_topic_id(id)
                .with_error_code(refusal.code.code())
                .with_error_message(Some(refusal.message.clone().into()))
        };
        let topics = self.topics.iter().map(|topic| refuse(topic.name.clone(), topic.topic_id));
        let named = self.topic_names.iter().map(|name| refuse(Some(name.clone()), Uuid::nil()));
        DeleteTopicsResponse::default().with_responses(topics.chain(named).collect())
    }
}
