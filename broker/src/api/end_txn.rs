//! EndTxn: commits or aborts the transaction of a transactional id.
//!
//! Versions 0 to 5; from 2 PRODUCER_FENCED has a word of its own, from 5 every end gives the
//! producer a new epoch, and at times a new id, that it must go on with (KIP-890). Answered once
//! the outcome stands; the markers are written after that.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, EndTxnRequest, EndTxnResponse, ProducerId};

use super::init_producer_id::{ask, fenced_as};
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::transaction::call::Call;
use crate::coordinator::transaction::{BUMPS_EPOCH, OLD_CLIENT, Producer};
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::EndTxn, 0..=5).handled_by(handler!(handle));

/// From this version on a fenced producer is told so.
const WITH_FENCED: i16 = 2;
/// From this version on the client knows transactions of version 2.
const BUMPING: i16 = 5;

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: EndTxnRequest,
) -> Reply<EndTxnResponse> {
    let (broker, api_version) = (broker.clone(), client.version);
    Reply::later(async move {
        let id = &request.transactional_id.0;
        let producer = Producer { id: request.producer_id.0, epoch: request.producer_epoch };
        let commit = request.committed;
        let version = if api_version >= BUMPING { BUMPS_EPOCH } else { OLD_CLIENT };
        let ended = if id.is_empty() {
            Err(ErrorCode::InvalidRequest)
        } else {
            let transactional_id = id.to_string();
            let call = |fresh| Call::End {
                transactional_id: transactional_id.clone(),
                producer,
                commit,
                version,
                fresh,
            };
            ask(&broker, id, call).await
        };
        let response = EndTxnResponse::default();
        match ended {
            Ok(next) if api_version >= BUMPING => {
                response.with_producer_id(ProducerId(next.id)).with_producer_epoch(next.epoch)
            }
            Ok(_) => response,
            Err(code) => {
                response.with_error_code(fenced_as(code, api_version >= WITH_FENCED).code())
            }
        }
    })
}
