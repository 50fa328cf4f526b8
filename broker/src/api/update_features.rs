//! UpdateFeatures (KIP-584), on the controller; brokers pass it on in an Envelope.
//!
//! Versions 0 to 2; from 1 the request says which way a level may go, from 2 the answer has no
//! results for single features. All levels change, or none.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, UpdateFeaturesRequest, UpdateFeaturesResponse};

use super::controller::{Refusable, answer};
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::driver::Core;
use crate::controller::features;
use crate::error::Refusal;

pub const API: Api =
    Api::new(ApiKey::UpdateFeatures, 0..=2).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: UpdateFeaturesRequest,
) -> Reply<UpdateFeaturesResponse> {
    let (me, version) = (broker.settings.node_id, client.version);
    let update = move |core: &mut Core, request: &UpdateFeaturesRequest| {
        Ok(features::update(core.view(), me, request, version))
    };
    Reply::Now(answer(broker, client, request, update).await)
}

impl Refusable for UpdateFeaturesRequest {
    fn refuse(&self, _: i16, refusal: &Refusal) -> UpdateFeaturesResponse {
        UpdateFeaturesResponse::default()
            .with_error_code(refusal.code.code())
            .with_error_message(Some(refusal.message.clone().into()))
    }
}
