//! Every answer, with all that it may hold, can be written in every version of its API.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DescribeGroupsResponse, JoinGroupResponse, ListGroupsResponse, SyncGroupResponse,
};
use kafka_protocol::protocol::Encodable;

use crate::error::ErrorCode;

fn all<R: Encodable>(versions: std::ops::RangeInclusive<i16>, answer: R) {
    for version in versions {
        let mut out = BytesMut::new();
        let what = std::any::type_name::<R>();
        answer
            .encode(&mut out, version)
            .unwrap_or_else(|error| panic!("{what} {version}: {error}"));
    }
}

#[test]
fn answers_fit_into_all_versions() {
    all(
        0..=9,
        JoinGroupResponse::default()
            .with_protocol_type(Some("consumer".into()))
            .with_protocol_name(Some("range".into()))
            .with_members(vec![
                JoinGroupResponseMember::default()
                    .with_group_instance_id(Some("i".into()))
                    .with_metadata(Bytes::from_static(b"x")),
            ]),
    );
    all(7..=9, super::classic::refuse_join("m", ErrorCode::UnknownMemberId));
    all(9..=9, JoinGroupResponse::default().with_skip_assignment(true));
    all(
        0..=5,
        SyncGroupResponse::default()
            .with_protocol_type(Some("consumer".into()))
            .with_protocol_name(Some("range".into())),
    );
    all(
        0..=6,
        DescribeGroupsResponse::default().with_groups(vec![
            DescribedGroup::default().with_members(vec![
                DescribedGroupMember::default().with_group_instance_id(Some("i".into())),
            ]),
        ]),
    );
    all(
        6..=6,
        DescribeGroupsResponse::default()
            .with_groups(vec![DescribedGroup::default().with_error_message(Some("why".into()))]),
    );
    all(
        0..=5,
        ListGroupsResponse::default().with_groups(vec![
            ListedGroup::default()
                .with_group_state("Stable".into())
                .with_group_type("classic".into()),
        ]),
    );
}
