//! A broker lives, has caught up, or wants to leave: BrokerHeartbeat.
//!
//! Decided by the active controller, on its own listeners only.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, BrokerHeartbeatRequest, BrokerHeartbeatResponse};

use super::controller::{contact, decide};
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;

pub const API: Api =
    Api::new(ApiKey::BrokerHeartbeat, 0..=1).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: BrokerHeartbeatRequest,
) -> Reply<BrokerHeartbeatResponse> {
    let contact = contact(broker, client);
    let decided = decide(broker, move |core, now| core.heartbeat(&request, contact, now)).await;
    Reply::Now(decided.unwrap_or_else(|refusal| {
        BrokerHeartbeatResponse::default().with_error_code(refusal.code.code()).with_is_fenced(true)
    }))
}
