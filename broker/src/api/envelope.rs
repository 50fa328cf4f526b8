//! Envelope (KIP-590): a broker passes on a client's request, in the client's name.
//!
//! Version 0. The request inside is admitted like one that came by itself, so that its lengths are
//! proven and its version is one that the controller serves; what a broker may pass on is listed in
//! [`is_forwardable`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, EnvelopeRequest, EnvelopeResponse};
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;

use super::{
    Answer, Api, Attached, Client, Connection, Principal, Reply, Scope, admit, handler,
    response_header, start,
};
use crate::broker::Broker;
use crate::controller::link::is_forwardable;
use crate::error::{ErrorCode, Refusal};
use crate::wire::message::{Malformed, Message};

pub const API: Api = Api::new(ApiKey::Envelope, 0..=0).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: EnvelopeRequest,
) -> Reply<EnvelopeResponse> {
    Reply::Now(match answer(broker, client, request).await {
        Ok(data) => EnvelopeResponse::default().with_response_data(Some(data)),
        Err(refusal) => {
            tracing::debug!(%refusal, "an envelope is refused");
            EnvelopeResponse::default()
                .with_response_data(None)
                .with_error_code(refusal.code.code())
        }
    })
}

async fn answer(
    broker: &Arc<Broker>,
    outer: &Client,
    request: EnvelopeRequest,
) -> Result<Bytes, Refusal> {
    if !broker.controller.as_ref().is_some_and(|controller| controller.leads()) {
        return Err(ErrorCode::NotController.into());
    }
    let invalid = |what: String| Refusal::new(ErrorCode::InvalidRequest, what);
    let connection = Arc::new(Connection {
        number: outer.connection.number,
        address: address(&request.client_host_address)
            .ok_or_else(|| invalid("not an address of 4 or 16 bytes".into()))?,
        listener: outer.connection.listener.clone(),
        scope: Scope::Controller,
        principal: principal(request.request_principal.as_deref().unwrap_or(&[])).map_err(
            |error| Refusal::new(ErrorCode::PrincipalDeserializationFailure, error.to_string()),
        )?,
        software: Mutex::new(None),
        misdirected: AtomicBool::new(false),
        attached: Attached::default(),
    });
    let (api, inner, body) = admit(&connection, request.request_data)
        .map_err(|refused| invalid(format!("{refused:?}")))?;
    if !is_forwardable(api.key) {
        return Err(invalid(format!("{:?} may not be passed on", api.key)));
    }
    let unreadable = |error: super::Unreadable| invalid(error.to_string());
    let chunks = match start(broker, api, &inner, body).await.map_err(unreadable)? {
        Answer::Now(chunks) => chunks,
        Answer::Later(answer) => answer.await.map_err(unreadable)?,
        Answer::None | Answer::Close => {
            return Err(invalid(format!("{:?} has no answer", api.key)));
        }
    };
    if connection.misdirected.load(Ordering::Relaxed) {
        return Err(ErrorCode::NotController.into());
    }
    let mut data = BytesMut::from(&*response_header(inner.api, inner.version, inner.correlation));
    for chunk in chunks {
        data.extend_from_slice(&chunk);
    }
    Ok(data.freeze())
}

fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, 0))
}

crate::message! {
    /// Kafka's default form of a principal, after its version.
    pub struct PrincipalData (0, 0, flexible 0) {
        kind: String [from 0],
        name: String [from 0],
        token_authenticated: bool [from 0],
    }
}

fn principal(mut bytes: &[u8]) -> Result<Principal, Malformed> {
    let input = &mut bytes;
    let version = crate::wire::message::Field::take(input, 0, false)?;
    let data = PrincipalData::decode(input, version)?;
    Ok(Principal { kind: StrBytes::from_string(data.kind), name: StrBytes::from_string(data.name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_reads_back_as_it_is_sent() {
        let bytes = Principal::ANONYMOUS.to_bytes();
        assert_eq!(principal(&bytes), Ok(Principal::ANONYMOUS));
        assert!(principal(&bytes[..5]).is_err());
    }
}
