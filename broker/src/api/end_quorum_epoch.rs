//! EndQuorumEpoch: the leader resigns, and says who should come next.
//!
//! Versions 0 and 1; from 1 the successors have directories.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, EndQuorumEpochRequest, EndQuorumEpochResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::error::ErrorCode;

pub const API: Api =
    Api::new(ApiKey::EndQuorumEpoch, 0..=1).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: EndQuorumEpochRequest,
) -> Reply<EndQuorumEpochResponse> {
    Reply::Now(match &broker.controller {
        Some(controller) => controller.quorum().end(&request).await,
        None => {
            EndQuorumEpochResponse::default().with_error_code(ErrorCode::BrokerNotAvailable.code())
        }
    })
}
