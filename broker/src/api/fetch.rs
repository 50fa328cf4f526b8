//! Fetch: records for consumers and followers.
//!
//! Versions 4 to 18: sessions from 7 (KIP-227), reads from followers from 11 (KIP-392), diverging
//! epochs from 12 (KIP-595), topic ids from 13, the new leader's address in refusals from 16. The
//! work is in `replica::read`; here the answer becomes chunks, so that records are not copied.
//! Deliberately absent: a preferred read replica, as `replica.selector.class` is not built.

use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, FetchRequest, FetchResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::replica::read;
use crate::wire::fetch_response;

pub const API: Api = Api::new(ApiKey::Fetch, 4..=18).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: FetchRequest,
) -> Reply<FetchResponse> {
    let version = client.version;
    let listener = client.connection.listener.clone();
    let serving = read::serve(broker.partitions.clone(), request, version, listener);
    Reply::LaterEncoded(Box::pin(async move { fetch_response::encode(serving.await, version) }))
}
