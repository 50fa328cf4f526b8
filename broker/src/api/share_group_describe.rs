//! ShareGroupDescribe: epochs, members and assignments of share groups (KIP-932). Version 1.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use kafka_protocol::messages::share_group_describe_response::DescribedGroup;
use kafka_protocol::messages::{
    ApiKey, GroupId, ShareGroupDescribeRequest, ShareGroupDescribeResponse,
};

use super::describe_groups::ALL_OPERATIONS;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::answer_in_kind;
use crate::error::ErrorCode;

pub const API: Api = Api::new(ApiKey::ShareGroupDescribe, 1..=1).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    request: ShareGroupDescribeRequest,
) -> Reply<ShareGroupDescribeResponse> {
    let refuse = |id: &GroupId, code: ErrorCode| {
        DescribedGroup::default().with_group_id(id.clone()).with_error_code(code.code())
    };
    if !broker.shares.is_enabled() {
        let code = ErrorCode::UnsupportedVersion;
        let groups = request.group_ids.iter().map(|id| refuse(id, code)).collect();
        return Reply::Now(ShareGroupDescribeResponse::default().with_groups(groups));
    }
    let mut groups = Vec::new();
    let mut by_partition: BTreeMap<Option<i32>, Vec<GroupId>> = BTreeMap::new();
    for id in request.group_ids {
        if id.is_empty() {
            groups.push(refuse(&id, ErrorCode::InvalidGroupId));
        } else {
            by_partition.entry(broker.groups.partition_of(&id)).or_default().push(id);
        }
    }
    let mut answers = Vec::with_capacity(by_partition.len());
    for groups in by_partition.into_values() {
        let first = groups.first().cloned().unwrap_or_default();
        answers.push(broker.groups.call(&first, Call::ShareDescribe { groups }).await);
    }
    let operations = request.include_authorized_operations;
    Reply::later(async move {
        for answer in join_all(answers).await {
            groups.extend(answer_in_kind!(answer, ShareDescribe));
        }
        for group in groups.iter_mut().filter(|group| operations && group.error_code == 0) {
            group.authorized_operations = ALL_OPERATIONS;
        }
        ShareGroupDescribeResponse::default().with_groups(groups)
    })
}
