//! Vote: a replica of the metadata log would lead, and asks for this one's vote.
//!
//! Versions 0 to 2; from 1 with directories, from 2 with pre-votes (KIP-996).

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, VoteRequest, VoteResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::Vote, 0..=2).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: VoteRequest,
) -> Reply<VoteResponse> {
    Reply::Now(match &broker.controller {
        Some(controller) => controller.quorum().vote(&request).await,
        None => VoteResponse::default().with_error_code(ErrorCode::BrokerNotAvailable.code()),
    })
}
