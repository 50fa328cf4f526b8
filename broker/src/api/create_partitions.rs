//! CreatePartitions, on the controller; brokers pass it on in an Envelope.
//!
//! Versions 0 to 3. A refusal is per topic.

use std::sync::Arc;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{ApiKey, CreatePartitionsRequest, CreatePartitionsResponse};

use super::controller::{Refusable, answer};
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::driver::Core;
use crate::controller::partitions;
use crate::error::Refusal;

pub const API: Api =
    Api::new(ApiKey::CreatePartitions, 0..=3).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: CreatePartitionsRequest,
) -> Reply<CreatePartitionsResponse> {
    let create = |core: &mut Core, request: &CreatePartitionsRequest| {
        Ok(partitions::create_partitions(core.view(), &core.random, request))
    };
    Reply::Now(answer(broker, client, request, create).await)
}

impl Refusable for CreatePartitionsRequest {
    fn refuse(&self, _: i16, refusal: &Refusal) -> CreatePartitionsResponse {
        let refuse = |topic: &CreatePartitionsTopic| {
            CreatePartitionsTopicResult::default()
                .with_name(topic.name.clone())
                .with_error_code(refusal.code.code())
                .with_error_message(Some(refusal.message.clone().into()))
        };
        CreatePartitionsResponse::default().with_results(self.topics.iter().map(refuse).collect())
    }
}
