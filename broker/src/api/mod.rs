//! One file per API key, and the one table that lists them.
//!
//! An API says on top which versions it serves and which function answers it:
//!
//! ```ignore
//! pub const API: Api = Api::new(ApiKey::ListOffsets, 1..=10).handled_by(handler!(handle));
//!
//! async fn handle(broker: &Arc<Broker>, client: &Client, request: ListOffsetsRequest)
//!     -> Reply<ListOffsetsResponse> { … }
//! ```
//!
//! and gets one line in `table.rs`, from which dispatch, ApiVersions and metrics follow. Invariant:
//! a handler sees only bodies whose lengths were proven (`wire::bounds`) and whose version it
//! serves. Deliberately absent, until there is an authorizer: what a request needs permission for.

pub mod add_offsets_to_txn;
pub mod add_partitions_to_txn;
pub mod add_raft_voter;
pub mod allocate_producer_ids;
pub mod alter_configs;
pub mod alter_partition;
pub mod alter_partition_reassignments;
pub mod alter_replica_log_dirs;
pub mod api_versions;
pub mod assign_replicas_to_dirs;
pub mod auto_create;
pub mod begin_quorum_epoch;
pub mod broker_heartbeat;
pub mod broker_registration;
pub mod consumer_group_describe;
pub mod consumer_group_heartbeat;
mod controller;
pub mod controller_registration;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_quorum;
pub mod describe_topic_partitions;
pub mod describe_transactions;
pub mod elect_leaders;
pub mod end_quorum_epoch;
pub mod end_txn;
pub mod envelope;
pub mod fetch;
pub mod fetch_metadata;
mod fetch_snapshot;
pub mod find_coordinator;
pub mod forwarded;
pub mod heartbeat;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_config_resources;
pub mod list_groups;
pub mod list_offsets;
pub mod list_partition_reassignments;
pub mod list_transactions;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod remove_raft_voter;
pub mod share_acknowledge;
pub mod share_fetch;
pub mod share_group_describe;
pub mod share_group_heartbeat;
pub mod share_group_lag;
pub mod share_group_offsets;
pub mod share_group_state;
pub mod streams_group_describe;
pub mod streams_group_heartbeat;
pub mod streams_topics;
pub mod sync_group;
pub mod table;
#[cfg(test)]
mod testing;
pub mod txn_offset_commit;
pub mod unregister_broker;
pub mod update_features;
pub mod update_raft_voter;
pub mod vote;
pub mod write_txn_markers;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Encodable, Request, StrBytes};
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::wire::bounds::{self, Malformed};
use crate::wire::header::Header;
use crate::wire::key::Key;

/// Which listeners an API is served on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those for clients and other brokers.
    Broker,
    /// Those of the controller.
    Controller,
}

/// One API on one kind of listener.
#[derive(Clone, Copy)]
pub struct Api {
    pub key: Key,
    min: i16,
    max: i16,
    advertised_min: i16,
    broker: bool,
    controller: bool,
    handler: Handler,
}

/// Decodes a body, answers it, and knows how to encode what comes out.
pub type Handler =
    for<'a> fn(&'a Arc<Broker>, &'a Client, Bytes) -> BoxFuture<'a, Result<Answer, Unreadable>>;

impl Api {
    /// Serves `versions` on the listeners for clients.
    pub const fn new(key: ApiKey, versions: RangeInclusive<i16>) -> Self {
        Self::own(Key::of(key), versions)
    }

    /// As [`Self::new`], for an API whose messages are our own.
    pub const fn own(key: Key, versions: RangeInclusive<i16>) -> Self {
        let (min, max) = (*versions.start(), *versions.end());
        let handler = unhandled;
        Self { key, min, max, advertised_min: min, broker: true, controller: false, handler }
    }

    #[must_use]
    pub const fn handled_by(self, handler: Handler) -> Self {
        Self { handler, ..self }
    }

    /// Served on the controller's listeners only.
    #[must_use]
    pub const fn on_controller(self) -> Self {
        Self { broker: false, controller: true, ..self }
    }

    /// Served on all listeners.
    #[must_use]
    pub const fn on_all(self) -> Self {
        Self { broker: true, controller: true, ..self }
    }

    /// ApiVersions lists the API from `min` on, although lower versions are refused.
    #[must_use]
    pub const fn advertised_from(self, min: i16) -> Self {
        Self { advertised_min: min, ..self }
    }

    pub fn serves(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    pub fn is_in(&self, scope: Scope) -> bool {
        match scope {
            Scope::Broker => self.broker,
            Scope::Controller => self.controller,
        }
    }

    /// As ApiVersions lists it.
    pub fn advertised(&self) -> RangeInclusive<i16> {
        self.advertised_min..=self.max
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}–{}", self.key, self.min, self.max)
    }
}

/// For an API whose file does not say who answers it: nobody does.
fn unhandled<'a>(
    _: &'a Arc<Broker>,
    client: &'a Client,
    _: Bytes,
) -> BoxFuture<'a, Result<Answer, Unreadable>> {
    let what = format!("{:?} has no handler", client.api);
    Box::pin(std::future::ready(Err(Unreadable(what))))
}

/// Turns `async fn(&Arc<Broker>, &Client, R) -> Reply<R::Response>` into a [`Handler`].
#[macro_export]
macro_rules! handler {
    ($handle:path) => {
        |broker, client, body| {
            Box::pin(async move {
                let request = $crate::api::decode(client, body)?;
                $crate::api::encode(client, $handle(broker, client, request).await)
            })
        }
    };
}
pub use handler;

/// What a handler answers.
pub enum Reply<R> {
    Now(R),
    /// The request has taken its place: the next one of the connection starts now, and the answers
    /// stay in order.
    Later(BoxFuture<'static, R>),
    /// An encoded body, in chunks that are written as they are.
    Encoded(Vec<Bytes>),
    LaterEncoded(BoxFuture<'static, Vec<Bytes>>),
    /// No answer, as for produce with acks=0.
    None,
    /// The connection is closed without an answer, as Kafka does where it cannot tell otherwise.
    Close,
}

impl<R> Reply<R> {
    pub fn later(answer: impl Future<Output = R> + Send + 'static) -> Self {
        Self::Later(Box::pin(answer))
    }
}

/// An answer on its way to the wire; the body only, without header.
pub enum Answer {
    Now(Vec<Bytes>),
    Later(BoxFuture<'static, Result<Vec<Bytes>, Unreadable>>),
    None,
    Close,
}

/// A request that cannot be decoded, or an answer that cannot be encoded: the connection ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

impl From<Malformed> for Unreadable {
    fn from(malformed: Malformed) -> Self {
        Self(malformed.to_string())
    }
}

/// Who asks: one request on one connection.
#[derive(Debug, Clone)]
pub struct Client {
    pub connection: Arc<Connection>,
    /// The client id of this request.
    pub id: Option<StrBytes>,
    pub api: Key,
    pub version: i16,
    pub correlation: i32,
}

/// What stays the same for all requests of a connection.
#[derive(Debug)]
pub struct Connection {
    /// Counts up from 0 for each process.
    pub number: u64,
    pub address: SocketAddr,
    /// The name of the listener, in upper case.
    pub listener: Arc<str>,
    pub scope: Scope,
    pub principal: Principal,
    /// As ApiVersions told; for metrics and support only.
    pub software: Mutex<Option<Software>>,
    /// A request was refused because this node is not the active controller.
    pub misdirected: AtomicBool,
    pub attached: Attached,
}

/// Something that is dropped when the connection closes, at the latest.
#[derive(Default)]
pub struct Attached(Mutex<Option<Box<dyn Any + Send>>>);

impl Attached {
    /// Reads what is attached; what `make` returns, unless something is attached already.
    pub fn once<T: Any + Send, R>(
        &self,
        make: impl FnOnce() -> T,
        read: impl FnOnce(&T) -> R,
    ) -> Option<R> {
        self.0.lock().get_or_insert_with(|| Box::new(make())).downcast_ref().map(read)
    }
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attached")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Software {
    pub name: StrBytes,
    pub version: StrBytes,
}

/// Whom a connection speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub kind: StrBytes,
    pub name: StrBytes,
}

impl Principal {
    /// Everyone, without authentication.
    pub const ANONYMOUS: Self = Self {
        kind: StrBytes::from_static_str("User"),
        name: StrBytes::from_static_str("ANONYMOUS"),
    };

    /// As an Envelope carries it: Kafka's default principal, version 0.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = vec![0, 0];
        for text in [&self.kind, &self.name] {
            let mut len = text.len() as u32 + 1;
            while len >= 0x80 {
                bytes.push(len as u8 | 0x80);
                len >>= 7;
            }
            bytes.push(len as u8);
            bytes.extend_from_slice(text.as_bytes());
        }
        // Not by a delegation token; no tagged fields.
        bytes.extend([0, 0]);
        bytes.into()
    }
}

/// What to do about a request that no handler saw.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// ApiVersions in a version that we do not know: told in version 0.
    UnknownApiVersions,
    Close(String),
}

/// Finds the API of a frame's header, and checks version and body before anything is decoded.
pub fn admit(
    connection: &Arc<Connection>,
    mut frame: Bytes,
) -> Result<(&'static Api, Client, Bytes), Refused> {
    let close = |malformed: Malformed| Refused::Close(malformed.to_string());
    let start = Header::start(&frame).map_err(close)?;
    let Some(api) = table::find(connection.scope, start.api_key) else {
        let listener = &connection.listener;
        return Err(Refused::Close(format!("API key {} on {listener}", start.api_key)));
    };
    if !api.serves(start.version) && api.key == ApiKey::ApiVersions {
        return Err(Refused::UnknownApiVersions);
    }
    if !api.serves(start.version) && !api.advertised().contains(&start.version) {
        return Err(Refused::Close(format!("{:?} version {}", api.key, start.version)));
    }
    let flexible = bounds::has_flexible_header(start.api_key, start.version);
    let header = Header::take(&mut frame, flexible).map_err(close)?;
    if api.serves(header.version) {
        bounds::check(header.api_key, header.version, &frame).map_err(|malformed| {
            Refused::Close(format!("{:?} version {}: {malformed}", api.key, header.version))
        })?;
    } else {
        return Err(Refused::Close(format!("{:?} version {}", api.key, header.version)));
    }
    let client = Client {
        connection: connection.clone(),
        id: header.client_id,
        api: api.key,
        version: header.version,
        correlation: header.correlation,
    };
    Ok((api, client, frame))
}

/// Starts to answer a request that was admitted.
pub async fn start(
    broker: &Arc<Broker>,
    api: &Api,
    client: &Client,
    body: Bytes,
) -> Result<Answer, Unreadable> {
    (api.handler)(broker, client, body).await
}

/// Decodes a body that was proven to be within bounds.
pub fn decode<R: Request>(client: &Client, mut body: Bytes) -> Result<R, Unreadable> {
    R::decode(&mut body, client.version).map_err(|error| {
        Unreadable(format!("{:?} version {}: {error}", client.api, client.version))
    })
}

/// Encodes what a handler answered.
pub fn encode<R>(client: &Client, reply: Reply<R>) -> Result<Answer, Unreadable>
where
    R: Encodable + Send + 'static,
{
    let (api, version) = (client.api, client.version);
    Ok(match reply {
        Reply::Now(response) => Answer::Now(encode_body(api, version, &response)?),
        Reply::Later(response) => {
            Answer::Later(Box::pin(async move { encode_body(api, version, &response.await) }))
        }
        Reply::Encoded(chunks) => Answer::Now(chunks),
        Reply::LaterEncoded(chunks) => Answer::Later(Box::pin(async move { Ok(chunks.await) })),
        Reply::None => Answer::None,
        Reply::Close => Answer::Close,
    })
}

fn encode_body<R: Encodable>(
    api: Key,
    version: i16,
    response: &R,
) -> Result<Vec<Bytes>, Unreadable> {
    let mut body = BytesMut::new();
    response
        .encode(&mut body, version)
        .map_err(|error| Unreadable(format!("the answer to {api:?} version {version}: {error}")))?;
    Ok(vec![body.freeze()])
}

/// The header of an answer.
pub fn response_header(api: Key, version: i16, correlation: i32) -> Bytes {
    let mut header = correlation.to_be_bytes().to_vec();
    if api.response_header_version(version) >= 1 {
        header.push(0); // no tagged fields
    }
    header.into()
}
