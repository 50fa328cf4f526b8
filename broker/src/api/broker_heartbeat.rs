//! A broker lives, has caught up, or wants to leave: BrokerHeartbeat.
//!
//! Decided by the active controller, on its own listeners only.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, BrokerHeartbeatRequest, BrokerHeartbeatResponse};

use super::controller::decide;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::fetch::Contact;

pub const API: Api =
    Api::new(ApiKey::BrokerHeartbeat, 0..=1).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: BrokerHeartbeatRequest,
) -> Reply<BrokerHeartbeatResponse> {
    let id = request.broker_id.0;
    let decided = decide(broker, move |core, now| core.heartbeat(&request, now)).await;
    if let (Ok(_), Some(controller)) = (&decided, &broker.controller) {
        // The end of this connection is the first sign that the broker is gone.
        client.connection.attached.once(|| Contact::new(controller, id));
    }
    Reply::Now(decided.unwrap_or_else(|refusal| {
        BrokerHeartbeatResponse::default().with_error_code(refusal.code.code()).with_is_fenced(true)
    }))
}
