//! AlterConfigs, on the controller; brokers pass it on in an Envelope.
//!
//! A refusal is per resource: all changes of one are made, or none.

use std::sync::Arc;

use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse, ApiKey};

use super::controller::{Refusable, answer};
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::configs;
use crate::controller::driver::Core;
use crate::error::Refusal;

pub const API: Api =
    Api::new(ApiKey::AlterConfigs, 0..=2).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: AlterConfigsRequest,
) -> Reply<AlterConfigsResponse> {
    let alter =
        |core: &mut Core, request: &AlterConfigsRequest| Ok(configs::replace(core.view(), request));
    Reply::Now(answer(broker, client, request, alter).await)
}

impl Refusable for AlterConfigsRequest {
    fn refuse(&self, _: i16, refusal: &Refusal) -> AlterConfigsResponse {
        let refuse = |resource: &AlterConfigsResource| {
            AlterConfigsResourceResponse::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
                .with_error_code(refusal.code.code())
                .with_error_message(Some(refusal.message.clone().into()))
        };
        AlterConfigsResponse::default().with_responses(self.resources.iter().map(refuse).collect())
    }
}
