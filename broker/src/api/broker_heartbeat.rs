//! A broker lives, has caught up, or wants to leave: BrokerHeartbeat.
//!
//! Versions 0 to 2. Version 2 is version 1 and one tagged field, the cordoned log directories; it is
//! read as version 1, which keeps tagged fields that it does not know. Decided by the active
//! controller, on its own listeners only.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, BrokerHeartbeatRequest, BrokerHeartbeatResponse};

use super::controller::{contact, decide};
use super::{Api, Client, Reply, decode, encode};
use crate::broker::Broker;

pub const API: Api =
    Api::new(ApiKey::BrokerHeartbeat, 0..=2).on_controller().handled_by(|broker, client, body| {
        Box::pin(async move {
            let client = &Client { version: client.version.min(1), ..client.clone() };
            let request = decode(client, body)?;
            encode(client, handle(broker, client, request).await)
        })
    });

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
