//! InitProducerId: an id for an idempotent producer.
//!
//! Versions 0 to 5. Ids come in blocks from the controller and are never given twice. Deliberately
//! absent: transactions. A transactional id is refused with UNSUPPORTED_VERSION, the one code that
//! clients neither retry nor take for a fault of their own.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::InitProducerId, 0..=5).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    request: InitProducerIdRequest,
) -> Reply<InitProducerIdResponse> {
    if let Some(id) = &request.transactional_id {
        let code =
            if id.is_empty() { ErrorCode::InvalidRequest } else { ErrorCode::UnsupportedVersion };
        return Reply::Now(refusal(code));
    }
    let partitions = broker.partitions.clone();
    Reply::later(async move {
        match partitions.producer_ids.next().await {
            Ok(id) => InitProducerIdResponse::default()
                .with_producer_id(ProducerId(id))
                .with_producer_epoch(0),
            Err(code) => refusal(code),
        }
    })
}

fn refusal(code: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse::default()
        .with_error_code(code.code())
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1)
}
