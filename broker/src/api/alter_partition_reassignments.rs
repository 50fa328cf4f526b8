//! AlterPartitionReassignments, on the controller; brokers pass it on in an Envelope.
//!
//! Versions 0 and 1; from 1 the request may forbid a change of the replication factor (KIP-860).
//! A refusal is per partition.

use std::sync::Arc;

use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ApiKey,
};

use super::controller::{Refusable, answer};
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::Decision;
use crate::controller::driver::Core;
use crate::controller::reassignments;
use crate::error::Refusal;

pub const API: Api = Api::new(ApiKey::AlterPartitionReassignments, 0..=1)
    .on_controller()
    .handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: AlterPartitionReassignmentsRequest,
) -> Reply<AlterPartitionReassignmentsResponse> {
    let alter = |core: &mut Core, request: &AlterPartitionReassignmentsRequest| {
        Ok(if request.topics.is_empty() {
            Decision::nothing(AlterPartitionReassignmentsResponse::default())
        } else {
            reassignments::alter(core.view(), request)
        })
    };
    Reply::Now(answer(broker, client, request, alter).await)
}

impl Refusable for AlterPartitionReassignmentsRequest {
    fn refuse(&self, _: i16, refusal: &Refusal) -> AlterPartitionReassignmentsResponse {
        AlterPartitionReassignmentsResponse::default()
            .with_error_code(refusal.code.code())
            .with_error_message(Some(refusal.message.clone().into()))
    }
}
