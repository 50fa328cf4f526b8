//! JoinGroup: a client becomes a member of a group, and waits for the others.
//!
//! Versions 0 to 9. From 4 a client without an id is given one and must come back with it
//! (KIP-394), from 5 a member may be static (KIP-345), from 8 it says why it joins (KIP-800), from
//! 9 the leader may be told to skip the assignment (KIP-814). The answer comes when the rebalance
//! completes.

use std::net::IpAddr;
use std::sync::Arc;

use kafka_protocol::messages::{ApiKey, JoinGroupRequest, JoinGroupResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::classic::{JoinCall, refuse_join};
use crate::coordinator::group::effects::answer_in_kind;
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::JoinGroup, 0..=9).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: JoinGroupRequest,
) -> Reply<JoinGroupResponse> {
    let groups = &broker.groups;
    let (version, member) = (client.version, request.member_id.clone());
    let (min, max) =
        (groups.settings.min_session_timeout_ms, groups.settings.max_session_timeout_ms);
    if request.group_id.is_empty() {
        return Reply::Now(in_version(version, refuse_join(&member, ErrorCode::InvalidGroupId)));
    }
    if !(min..=max).contains(&request.session_timeout_ms) {
        let refusal = refuse_join(&member, ErrorCode::InvalidSessionTimeout);
        return Reply::Now(in_version(version, refusal));
    }
    let group = request.group_id.clone();
    let call = JoinCall {
        token: 0,
        version,
        client_id: client.id.as_deref().unwrap_or_default().to_owned(),
        client_host: java_address(client.connection.address.ip()),
        new_id: broker.env.random.uuid(),
        request,
    };
    let answer = groups.call(&group, Call::Join(Box::new(call))).await;
    Reply::later(async move { in_version(version, answer_in_kind!(answer.await, Join)) })
}

/// A group without a protocol has none from version 7 on, and an empty one before.
fn in_version(version: i16, answer: JoinGroupResponse) -> JoinGroupResponse {
    let name = answer.protocol_name.clone();
    answer.with_protocol_name(if version < 7 { Some(name.unwrap_or_default()) } else { name })
}

/// As Java prints an address without a name: tools show it, and logs are searched for it.
pub(super) fn java_address(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => format!("/{address}"),
        IpAddr::V6(address) => {
            let groups = address.segments().map(|group| format!("{group:x}"));
            format!("/{}", groups.join(":"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_java_prints_them() {
        let print = |text: &str| java_address(text.parse().unwrap());
        assert_eq!(print("10.1.2.3"), "/10.1.2.3");
        assert_eq!(print("::ffff:10.1.2.3"), "/10.1.2.3");
        assert_eq!(print("fe80::1"), "/fe80:0:0:0:0:0:0:1");
    }
}
