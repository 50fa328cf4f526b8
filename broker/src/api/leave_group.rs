//! LeaveGroup: members go, and the rest rebalances.
//!
//! Versions 0 to 5. Until 2 one member leaves and its error is that of the whole answer; from 3
//! several may, each with an answer of its own (KIP-345); from 5 they say why (KIP-800).

use std::sync::Arc;

use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::{ApiKey, LeaveGroupRequest, LeaveGroupResponse};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::answer_in_kind;
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::LeaveGroup, 0..=5).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    mut request: LeaveGroupRequest,
) -> Reply<LeaveGroupResponse> {
    if request.group_id.is_empty() {
        let code = ErrorCode::InvalidGroupId.code();
        return Reply::Now(LeaveGroupResponse::default().with_error_code(code));
    }
    let version = client.version;
    if version < 3 {
        let member = std::mem::take(&mut request.member_id);
        request.members = vec![MemberIdentity::default().with_member_id(member)];
    }
    let group = request.group_id.clone();
    let answer = broker.groups.call(&group, Call::Leave(request)).await;
    Reply::later(async move { in_version(version, answer_in_kind!(answer.await, Leave)) })
}

fn in_version(version: i16, mut answer: LeaveGroupResponse) -> LeaveGroupResponse {
    if version < 3 {
        let members = std::mem::take(&mut answer.members);
        if answer.error_code == 0 {
            answer.error_code = members.first().map_or(0, |member| member.error_code);
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::leave_group_response::MemberResponse;
    use kafka_protocol::protocol::Encodable;

    use super::*;

    #[test]
    fn the_error_of_the_one_member_is_that_of_the_answer_before_version_3() {
        for version in 0..=5 {
            let member = MemberResponse::default().with_member_id("m".into()).with_error_code(25);
            let answer = LeaveGroupResponse::default().with_members(vec![member]);
            let answer = in_version(version, answer);
            assert_eq!(answer.error_code, if version < 3 { 25 } else { 0 });
            answer.encode(&mut BytesMut::new(), version).unwrap();
        }
    }
}
