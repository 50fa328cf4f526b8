//! Blocks of producer ids: each broker gets a thousand at a time, and no id is ever given twice.

use kafka_protocol::messages::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, ProducerId,
};

use super::decision::{Decision, View};
use crate::env::planted;
use crate::error::{ErrorCode, Refusal};
use crate::wire::metadata::ProducerIdsRecord;

const BLOCK: i64 = 1000;

pub fn allocate(
    view: View<'_>,
    request: &AllocateProducerIdsRequest,
) -> Result<Decision<AllocateProducerIdsResponse>, Refusal> {
    view.check_broker_epoch(request.broker_id.0, request.broker_epoch)?;
    let first = view.image.next_producer_id;
    let next_producer_id = first.checked_add(BLOCK).ok_or_else(|| {
        Refusal::new(ErrorCode::UnknownServerError, "Exhausted all producer ids.")
    })?;
    let record = ProducerIdsRecord {
        broker_id: request.broker_id.0,
        broker_epoch: request.broker_epoch,
        next_producer_id,
    };
    let response = AllocateProducerIdsResponse::default()
        .with_producer_id_start(ProducerId(first))
        .with_producer_id_len(BLOCK as i32);
    if planted!(ProducerIdsGivenTwice) {
        return Ok(Decision::nothing(response));
    }
    Ok(Decision::new(vec![record.into()], response))
}
