//! Fetch on the controller's listeners: the metadata log only.
//!
//! Versions 12 to 18, from which epochs are compared and a replica knows its cluster. With version
//! 18 (KIP-1166) it says which high watermark it knows, and hears of a higher one at once: with
//! less, a decision may reach one of the brokers only when its fetch has waited to its end. Brokers'
//! listeners serve Fetch of all other topics.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, FetchRequest, FetchResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::serve_metadata_fetch;
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::Fetch, 12..=18).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: FetchRequest,
) -> Reply<FetchResponse> {
    match broker.controller.clone() {
        Some(controller) => {
            Reply::later(async move { serve_metadata_fetch(&controller, &request).await })
        }
        None => Reply::Now(
            FetchResponse::default().with_error_code(ErrorCode::NotLeaderOrFollower.code()),
        ),
    }
}
