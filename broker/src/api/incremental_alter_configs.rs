//! IncrementalAlterConfigs, on the controller; brokers pass it on in an Envelope.
//!
//! A refusal is per resource: all changes of one are made, or none.

use std::sync::Arc;

use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{
    ApiKey, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};

use super::controller::decide;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::configs;
use crate::controller::driver::Core;

pub const API: Api =
    Api::new(ApiKey::IncrementalAlterConfigs, 0..=1).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: IncrementalAlterConfigsRequest,
) -> Reply<IncrementalAlterConfigsResponse> {
    let asked: Vec<_> = request.resources.iter().map(name).collect();
    let alter = move |core: &mut Core, _| Ok(configs::incremental(core.view(), &request));
    Reply::Now(decide(broker, alter).await.unwrap_or_else(|refusal| {
        let failed = |resource: AlterConfigsResourceResponse| {
            resource
                .with_error_code(refusal.code.code())
                .with_error_message(Some(refusal.message.clone().into()))
        };
        IncrementalAlterConfigsResponse::default()
            .with_responses(asked.into_iter().map(failed).collect())
    }))
}

fn name(
    resource: &kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource,
) -> AlterConfigsResourceResponse {
    AlterConfigsResourceResponse::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone())
        .with_error_message(None)
}
