//! UnregisterBroker, on the controller; brokers pass it on in an Envelope. Version 0.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, UnregisterBrokerRequest, UnregisterBrokerResponse};

use super::controller::{Refusable, answer};
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::Decision;
use crate::controller::driver::Core;
use crate::error::Refusal;

pub const API: Api =
    Api::new(ApiKey::UnregisterBroker, 0..=0).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: UnregisterBrokerRequest,
) -> Reply<UnregisterBrokerResponse> {
    let unregister = |core: &mut Core, request: &UnregisterBrokerRequest| {
        let decision = core.unregister_broker(request.broker_id.0)?;
        Ok(Decision::new(decision.records, UnregisterBrokerResponse::default()))
    };
    Reply::Now(answer(broker, client, request, unregister).await)
}

impl Refusable for UnregisterBrokerRequest {
    fn refuse(&self, _: i16, refusal: &Refusal) -> UnregisterBrokerResponse {
        UnregisterBrokerResponse::default()
            .with_error_code(refusal.code.code())
            .with_error_message(Some(refusal.message.clone().into()))
    }
}
