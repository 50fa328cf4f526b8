//! DescribeQuorum, on the controller: who votes, who follows, and how far each one is.
//!
//! Versions 0 to 2; from 1 with the times of fetches, from 2 with directories and endpoints. Only
//! the leader knows: the others answer NOT_LEADER_OR_FOLLOWER.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, DescribeQuorumRequest, DescribeQuorumResponse};

use super::controller::Refusable;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::error::{ErrorCode, Refusal};

pub const API: Api =
    Api::new(ApiKey::DescribeQuorum, 0..=2).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: DescribeQuorumRequest,
) -> Reply<DescribeQuorumResponse> {
    Reply::Now(match &broker.controller {
        Some(controller) => controller.describe_quorum(&request).await,
        None => request.refuse(client.version, &ErrorCode::NotLeaderOrFollower.into()),
    })
}

impl Refusable for DescribeQuorumRequest {
    fn refuse(&self, _: i16, refusal: &Refusal) -> DescribeQuorumResponse {
        DescribeQuorumResponse::default().with_error_code(refusal.code.code())
    }
}
