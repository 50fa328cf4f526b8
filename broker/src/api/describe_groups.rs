//! DescribeGroups: state and members of classic groups.
//!
//! Versions 0 to 6. A group that is not there is "Dead" until version 5, and from 6 on the error
//! GROUP_ID_NOT_FOUND (KIP-1043).

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::{ApiKey, DescribeGroupsRequest, DescribeGroupsResponse, GroupId};

use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::answer_in_kind;

pub const API: Api = Api::new(ApiKey::DescribeGroups, 0..=6).handled_by(handler!(handle));

/// What everyone may do with a group while there is no authorizer: READ, DELETE, DESCRIBE,
/// DESCRIBE_CONFIGS and ALTER_CONFIGS, as bits.
pub(super) const ALL_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: DescribeGroupsRequest,
) -> Reply<DescribeGroupsResponse> {
    let version = client.version;
    let operations = version >= 3 && request.include_authorized_operations;
    let mut by_partition: BTreeMap<Option<i32>, Vec<GroupId>> = BTreeMap::new();
    for group in request.groups {
        by_partition.entry(broker.groups.partition_of(&group)).or_default().push(group);
    }
    let mut answers = Vec::with_capacity(by_partition.len());
    for groups in by_partition.into_values() {
        let first = groups.first().cloned().unwrap_or_default();
        answers.push(broker.groups.call(&first, Call::Describe { groups, version }).await);
    }
    Reply::later(async move {
        let answers = join_all(answers).await.into_iter();
        let mut groups: Vec<DescribedGroup> =
            answers.flat_map(|answer| answer_in_kind!(answer, Describe)).collect();
        if operations {
            for group in groups.iter_mut().filter(|group| group.error_code == 0) {
                group.authorized_operations = ALL_OPERATIONS;
            }
        }
        DescribeGroupsResponse::default().with_groups(groups)
    })
}
