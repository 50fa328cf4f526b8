//! A leader proposes a new ISR: AlterPartition.
//!
//! Decided by the active controller, on its own listeners only.

use std::sync::Arc;

use kafka_protocol::messages::{AlterPartitionRequest, AlterPartitionResponse, ApiKey};

use super::controller::decide;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::driver::Core;
use crate::controller::isr;

pub const API: Api =
    Api::new(ApiKey::AlterPartition, 2..=3).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: AlterPartitionRequest,
) -> Reply<AlterPartitionResponse> {
    let decide_isr = move |core: &mut Core, _| isr::alter_partition(core.view(), &request);
    Reply::Now(decide(broker, decide_isr).await.unwrap_or_else(|refusal| {
        AlterPartitionResponse::default().with_error_code(refusal.code.code())
    }))
}
