//! FetchSnapshot, on the controller: a part of a snapshot of the metadata log.
//!
//! Versions 0 and 1; from 1 the answer names where the leader listens, and the replica its
//! directory. For replicas whose log ends before the leader's begins.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, FetchSnapshotRequest, FetchSnapshotResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::error::ErrorCode;

pub const API: Api =
    Api::new(ApiKey::FetchSnapshot, 0..=1).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _client: &Client,
    request: FetchSnapshotRequest,
) -> Reply<FetchSnapshotResponse> {
    match broker.controller.clone() {
        Some(controller) => Reply::later(async move { controller.fetch_snapshot(request).await }),
        None => Reply::Now(
            FetchSnapshotResponse::default().with_error_code(ErrorCode::NotLeaderOrFollower.code()),
        ),
    }
}
