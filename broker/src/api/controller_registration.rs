//! A controller makes itself known: ControllerRegistration.
//!
//! Version 0, decided by the active controller, on its own listeners only.

use std::sync::Arc;

use kafka_protocol::messages::{
    ApiKey, ControllerRegistrationRequest, ControllerRegistrationResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::controller::decide;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::registration::register;

pub const API: Api =
    Api::new(ApiKey::ControllerRegistration, 0..=0).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: ControllerRegistrationRequest,
) -> Reply<ControllerRegistrationResponse> {
    let decided = decide(broker, move |core, _| register(core.view(), &request)).await;
    let response = ControllerRegistrationResponse::default().with_error_message(None);
    Reply::Now(match decided {
        Ok(()) => response,
        Err(refusal) => response
            .with_error_code(refusal.code.code())
            .with_error_message(Some(StrBytes::from_string(refusal.message))),
    })
}
