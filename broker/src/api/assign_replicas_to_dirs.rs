//! A broker says in which log directories its replicas lie: AssignReplicasToDirs (KIP-858).
//!
//! Version 0. Decided by the active controller, on its own listeners only.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, AssignReplicasToDirsRequest, AssignReplicasToDirsResponse};

use super::controller::decide;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::directories;
use crate::controller::driver::Core;

pub const API: Api =
    Api::new(ApiKey::AssignReplicasToDirs, 0..=0).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: AssignReplicasToDirsRequest,
) -> Reply<AssignReplicasToDirsResponse> {
    let assign = move |core: &mut Core, _| directories::assign(core.view(), &request);
    Reply::Now(decide(broker, assign).await.unwrap_or_else(|refusal| {
        AssignReplicasToDirsResponse::default().with_error_code(refusal.code.code())
    }))
}
