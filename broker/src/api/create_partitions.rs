//! CreatePartitions, on the controller; brokers pass it on in an Envelope.
//!
//! Versions 0 to 3. A refusal is per topic.

use std::sync::Arc;

use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{ApiKey, CreatePartitionsRequest, CreatePartitionsResponse};

use super::controller::decide;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::driver::Core;
use crate::controller::partitions;

pub const API: Api =
    Api::new(ApiKey::CreatePartitions, 0..=3).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: CreatePartitionsRequest,
) -> Reply<CreatePartitionsResponse> {
    let names: Vec<_> = request.topics.iter().map(|topic| topic.name.clone()).collect();
    let create = move |core: &mut Core, _| {
        Ok(partitions::create_partitions(core.view(), &core.random, &request))
    };
    Reply::Now(decide(broker, create).await.unwrap_or_else(|refusal| {
        let failed = |name| {
            CreatePartitionsTopicResult::default()
                .with_name(name)
                .with_error_code(refusal.code.code())
                .with_error_message(Some(refusal.message.clone().into()))
        };
        CreatePartitionsResponse::default().with_results(names.into_iter().map(failed).collect())
    }))
}
