//! CreateTopics, on the controller; brokers pass it on in an Envelope.
//!
//! Versions 2 to 7. A refusal is per topic. From 5 the answer tells partitions, replication factor
//! and configuration, from 7 the topic's id.

use std::sync::Arc;

use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::{ApiKey, CreateTopicsRequest, CreateTopicsResponse};

use super::controller::decide;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::driver::Core;
use crate::controller::{Decision, topics};

pub const API: Api =
    Api::new(ApiKey::CreateTopics, 2..=7).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: CreateTopicsRequest,
) -> Reply<CreateTopicsResponse> {
    let names: Vec<_> = request.topics.iter().map(|topic| topic.name.clone()).collect();
    let create = move |core: &mut Core, _| {
        let Decision { records, response } = topics::create(core.view(), &core.random, &request);
        Ok(Decision::new(records, response))
    };
    Reply::Now(decide(broker, create).await.unwrap_or_else(|refusal| {
        let failed = |name| {
            CreatableTopicResult::default()
                .with_name(name)
                .with_error_code(refusal.code.code())
                .with_error_message(Some(refusal.message.clone().into()))
        };
        CreateTopicsResponse::default().with_topics(names.into_iter().map(failed).collect())
    }))
}
