//! A broker joins: BrokerRegistration.
//!
//! Decided by the active controller, on its own listeners only.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, BrokerRegistrationRequest, BrokerRegistrationResponse};

use super::controller::{contact, decide};
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::error::ErrorCode;

pub const API: Api =
    Api::new(ApiKey::BrokerRegistration, 0..=4).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: BrokerRegistrationRequest,
) -> Reply<BrokerRegistrationResponse> {
    let contact = contact(broker, client);
    let decided =
        decide(broker, move |core, now| core.register_broker(&request, contact, now)).await;
    Reply::Now(match decided {
        Ok(epoch) => BrokerRegistrationResponse::default().with_broker_epoch(epoch),
        Err(refusal) => {
            // The brokers of a starting cluster ask everywhere until there is a controller.
            if refusal.code == ErrorCode::NotController {
                tracing::debug!(%refusal, "a broker's registration is refused");
            } else {
                tracing::info!(%refusal, "a broker's registration is refused");
            }
            BrokerRegistrationResponse::default().with_error_code(refusal.code.code())
        }
    })
}
