//! IncrementalAlterConfigs, on the controller; brokers pass it on in an Envelope.
//!
//! A refusal is per resource: all changes of one are made, or none.

use std::sync::Arc;

use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{
    ApiKey, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};

use super::controller::{Refusable, answer};
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::configs;
use crate::controller::driver::Core;
use crate::error::Refusal;

pub const API: Api =
    Api::new(ApiKey::IncrementalAlterConfigs, 0..=1).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: IncrementalAlterConfigsRequest,
) -> Reply<IncrementalAlterConfigsResponse> {
    let alter = |core: &mut Core, request: &IncrementalAlterConfigsRequest| {
        Ok(configs::incremental(core.view(), request))
    };
    Reply::Now(answer(broker, client, request, alter).await)
}

impl Refusable for IncrementalAlterConfigsRequest {
    fn refuse(&self, _: i16, refusal: &Refusal) -> IncrementalAlterConfigsResponse {
        let refuse = |resource: &AlterConfigsResource| {
            AlterConfigsResourceResponse::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
                .with_error_code(refusal.code.code())
                .with_error_message(Some(refusal.message.clone().into()))
        };
        IncrementalAlterConfigsResponse::default()
            .with_responses(self.resources.iter().map(refuse).collect())
    }
}
