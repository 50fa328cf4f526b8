//! BeginQuorumEpoch: the leader of a new epoch makes itself known.
//!
//! Versions 0 and 1; from 1 with directories, and with the leader's endpoints.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, BeginQuorumEpochRequest, BeginQuorumEpochResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::error::ErrorCode;

pub const API: Api =
    Api::new(ApiKey::BeginQuorumEpoch, 0..=1).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: BeginQuorumEpochRequest,
) -> Reply<BeginQuorumEpochResponse> {
    Reply::Now(match &broker.controller {
        Some(controller) => controller.quorum().begin(&request).await,
        None => BeginQuorumEpochResponse::default()
            .with_error_code(ErrorCode::BrokerNotAvailable.code()),
    })
}
