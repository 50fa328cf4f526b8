//! CreateTopics, on the controller; brokers pass it on in an Envelope.
//!
//! Versions 2 to 7. A refusal is per topic. From 5 the answer tells partitions, replication factor
//! and configuration, from 7 the topic's id.

use std::sync::Arc;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::{ApiKey, CreateTopicsRequest, CreateTopicsResponse};

use super::controller::{Refusable, answer};
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::driver::Core;
use crate::controller::{Decision, topics};
use crate::error::Refusal;

pub const API: Api =
    Api::new(ApiKey::CreateTopics, 2..=7).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: CreateTopicsRequest,
) -> Reply<CreateTopicsResponse> {
    let create = |core: &mut Core, request: &CreateTopicsRequest| {
        let Decision { records, response } = topics::create(core.view(), &core.random, request);
        Ok(Decision::new(records, response))
    };
    Reply::Now(answer(broker, client, request, create).await)
}

impl Refusable for CreateTopicsRequest {
    fn refuse(&self, _: i16, refusal: &Refusal) -> CreateTopicsResponse {
        let refuse = |topic: &CreatableTopic| {
            CreatableTopicResult::default()
                .with_name(topic.name.clone())
                .with_error_code(refusal.code.code())
                .with_error_message(Some(refusal.message.clone().into()))
        };
        CreateTopicsResponse::default().with_topics(self.topics.iter().map(refuse).collect())
    }
}
