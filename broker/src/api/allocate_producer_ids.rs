//! A broker needs a block of producer ids: AllocateProducerIds.
//!
//! Decided by the active controller, on its own listeners only.

use std::sync::Arc;

use kafka_protocol::messages::{AllocateProducerIdsRequest, AllocateProducerIdsResponse, ApiKey};

use super::controller::decide;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::driver::Core;
use crate::controller::producer_ids;

pub const API: Api =
    Api::new(ApiKey::AllocateProducerIds, 0..=0).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: AllocateProducerIdsRequest,
) -> Reply<AllocateProducerIdsResponse> {
    let allocate = move |core: &mut Core, _| producer_ids::allocate(core.view(), &request);
    Reply::Now(decide(broker, allocate).await.unwrap_or_else(|refusal| {
        AllocateProducerIdsResponse::default().with_error_code(refusal.code.code())
    }))
}
