//! InitProducerId: an id for an idempotent producer, or id and epoch for the one producer that owns
//! a transactional id.
//!
//! Versions 0 to 5; from 3 a producer may say whom it believes to be (KIP-360), from 4
//! PRODUCER_FENCED has a word of its own. Ids come in blocks from the controller and are never
//! given twice. A new producer of a transactional id fences the one before, and aborts what that
//! left unfinished; until that is done it is told CONCURRENT_TRANSACTIONS. Deliberately absent:
//! version 6 and its commits of two phases (KIP-939).

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::transaction::call::{Answer, Call};
use crate::coordinator::transaction::{NO_EPOCH, NO_PRODUCER_ID, Producer};
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::InitProducerId, 0..=5).handled_by(handler!(handle));

/// From this version on a fenced producer is told so.
const WITH_FENCED: i16 = 4;

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: InitProducerIdRequest,
) -> Reply<InitProducerIdResponse> {
    let expected = match (request.producer_id.0, request.producer_epoch) {
        (NO_PRODUCER_ID, NO_EPOCH) => None,
        (NO_PRODUCER_ID, _) | (_, NO_EPOCH) => {
            return Reply::Now(refusal(ErrorCode::InvalidRequest));
        }
        (id, epoch) => Some(Producer { id, epoch }),
    };
    let (broker, version) = (broker.clone(), client.version);
    Reply::later(async move {
        let initialised = match request.transactional_id {
            None => {
                let id = broker.partitions.producer_ids.next().await;
                id.map(|id| Producer { id, epoch: 0 })
            }
            Some(id) if id.is_empty() => Err(ErrorCode::InvalidRequest),
            Some(id) => {
                let timeout_ms = request.transaction_timeout_ms;
                let transactional_id = id.to_string();
                let call = |fresh| Call::Init {
                    transactional_id: transactional_id.clone(),
                    timeout_ms,
                    expected,
                    fresh,
                };
                ask(&broker, &id, call).await
            }
        };
        match initialised {
            Ok(producer) => InitProducerIdResponse::default()
                .with_producer_id(ProducerId(producer.id))
                .with_producer_epoch(producer.epoch),
            Err(code) => refusal(fenced_as(code, version >= WITH_FENCED)),
        }
    })
}

/// Calls the coordinator, a second time with a fresh producer id if it asks for one.
pub async fn ask(
    broker: &Broker,
    transactional_id: &str,
    call: impl Fn(Option<i64>) -> Call,
) -> Result<Producer, ErrorCode> {
    let mut fresh = None;
    loop {
        match broker.transactions.call(transactional_id, call(fresh)).await.await {
            Answer::Producer(producer) => return Ok(producer),
            Answer::NeedsProducerId if fresh.is_none() => {
                fresh = Some(broker.partitions.producer_ids.next().await?);
            }
            Answer::Refused(code) => return Err(code),
            _ => return Err(ErrorCode::UnknownServerError),
        }
    }
}

/// PRODUCER_FENCED came late: older clients know INVALID_PRODUCER_EPOCH.
pub fn fenced_as(code: ErrorCode, is_known: bool) -> ErrorCode {
    match code {
        ErrorCode::ProducerFenced if !is_known => ErrorCode::InvalidProducerEpoch,
        other => other,
    }
}

fn refusal(code: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse::default()
        .with_error_code(code.code())
        .with_producer_id(ProducerId(NO_PRODUCER_ID))
        .with_producer_epoch(NO_EPOCH)
}
