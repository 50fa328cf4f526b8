//! ListPartitionReassignments, on the controller; brokers pass it on in an Envelope. Version 0.
//!
//! Answered in the controller's queue, so that it shows what was decided before it was asked.

use std::sync::Arc;

use kafka_protocol::messages::{
    ApiKey, ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};

use super::controller::{Refusable, answer};
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::Decision;
use crate::controller::driver::Core;
use crate::controller::reassignments;
use crate::error::Refusal;

pub const API: Api = Api::new(ApiKey::ListPartitionReassignments, 0..=0)
    .on_controller()
    .handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: ListPartitionReassignmentsRequest,
) -> Reply<ListPartitionReassignmentsResponse> {
    let list = |core: &mut Core, request: &ListPartitionReassignmentsRequest| {
        Ok(Decision::nothing(reassignments::list(core.view().image, request)))
    };
    Reply::Now(answer(broker, client, request, list).await)
}

impl Refusable for ListPartitionReassignmentsRequest {
    fn refuse(&self, _: i16, refusal: &Refusal) -> ListPartitionReassignmentsResponse {
        ListPartitionReassignmentsResponse::default()
            .with_error_code(refusal.code.code())
            .with_error_message(Some(refusal.message.clone().into()))
    }
}
