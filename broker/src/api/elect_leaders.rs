//! Somebody asks for elections: ElectLeaders, on the controller.
//!
//! Decided by the active controller, on its own listeners only.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, ElectLeadersRequest, ElectLeadersResponse};

use super::controller::decide;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::driver::Core;
use crate::controller::isr;

pub const API: Api =
    Api::new(ApiKey::ElectLeaders, 0..=2).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: ElectLeadersRequest,
) -> Reply<ElectLeadersResponse> {
    let elect = move |core: &mut Core, _| isr::elect_leaders(core.view(), &request);
    Reply::Now(decide(broker, elect).await.unwrap_or_else(|refusal| {
        ElectLeadersResponse::default().with_error_code(refusal.code.code())
    }))
}
