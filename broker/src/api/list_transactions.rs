//! ListTransactions: the transactional ids that this broker coordinates.
//!
//! Versions 0 to 2; from 1 those that go on for longer than a time (KIP-994), from 2 those whose
//! ids match a pattern (KIP-1152). While one partition of `__transaction_state` is being loaded the
//! answer is COORDINATOR_LOAD_IN_PROGRESS, because a part would look like the whole.

use std::sync::Arc;

use kafka_protocol::messages::list_transactions_response::TransactionState;
use kafka_protocol::messages::{
    ApiKey, ListTransactionsRequest, ListTransactionsResponse, ProducerId, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use regex::Regex;

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::transaction::State;
use crate::coordinator::transaction::call::{Answer, Call, Filter};
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::ListTransactions, 0..=2).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    request: ListTransactionsRequest,
) -> Reply<ListTransactionsResponse> {
    let refuse = |code: ErrorCode| ListTransactionsResponse::default().with_error_code(code.code());
    let pattern = request.transactional_id_pattern.as_deref().filter(|text| !text.is_empty());
    // The whole id must match.
    let pattern = pattern.map(|text| Regex::new(&format!("^(?:{text})$"))).transpose();
    let Ok(pattern) = pattern else {
        return Reply::Now(refuse(ErrorCode::InvalidRegularExpression));
    };
    let filter = Filter {
        states: request.state_filters.iter().filter_map(|name| State::from_name(name)).collect(),
        any_state: request.state_filters.is_empty(),
        producer_ids: request.producer_id_filters.iter().map(|id| id.0).collect(),
        longer_than_ms: request.duration_filter,
        pattern,
    };
    let mut unknown: Vec<StrBytes> = request.state_filters;
    unknown.retain(|name| State::from_name(name).is_none());
    Reply::Now(match broker.transactions.call_all(Call::List(filter)).await {
        Answer::Listed(listed) => {
            let listed = listed.into_iter().map(|it| {
                TransactionState::default()
                    .with_transactional_id(TransactionalId(StrBytes::from_string(
                        it.transactional_id,
                    )))
                    .with_producer_id(ProducerId(it.producer_id))
                    .with_transaction_state(StrBytes::from_static_str(it.state.name()))
            });
            ListTransactionsResponse::default()
                .with_unknown_state_filters(unknown)
                .with_transaction_states(listed.collect())
        }
        Answer::Refused(code) => refuse(code),
        _ => refuse(ErrorCode::UnknownServerError),
    })
}
