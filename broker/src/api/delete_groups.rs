//! DeleteGroups: forgets groups without members, and all that they committed.
//!
//! Versions 0 to 2.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{ApiKey, DeleteGroupsRequest, DeleteGroupsResponse, GroupId};

use super::{Api, Client, Reply, handler, share_group_offsets};
use crate::broker::Broker;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::answer_in_kind;

pub const API: Api = Api::new(ApiKey::DeleteGroups, 0..=2).handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    _: &Client,
    request: DeleteGroupsRequest,
) -> Reply<DeleteGroupsResponse> {
    let mut by_partition: BTreeMap<Option<i32>, Vec<GroupId>> = BTreeMap::new();
    let mut refused = Vec::new();
    for group in request.groups_names {
        if let Err(refusal) = share_group_offsets::forget_group(broker, &group).await {
            let result = DeletableGroupResult::default().with_group_id(group);
            refused.push(result.with_error_code(refusal.code.code()));
            continue;
        }
        let groups = by_partition.entry(broker.groups.partition_of(&group)).or_default();
        // The answer has one entry per group, however often it is asked for.
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let mut answers = Vec::with_capacity(by_partition.len());
    for groups in by_partition.into_values() {
        let first = groups.first().cloned().unwrap_or_default();
        answers.push(broker.groups.call(&first, Call::Delete { groups }).await);
    }
    Reply::later(async move {
        let answers = join_all(answers).await.into_iter();
        let deleted = answers.flat_map(|answer| answer_in_kind!(answer, Delete));
        let results = refused.into_iter().chain(deleted);
        DeleteGroupsResponse::default().with_results(results.collect())
    })
}
