//! ListGroups and DescribeGroups: what readers may know of the groups of a shard.

use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::share_group_describe_response::DescribedGroup as DescribedShareGroup;
use kafka_protocol::protocol::StrBytes;

use super::classic::{ClassicGroup, Member, State};
use super::kind::Group;
use super::shard::Shard;
use crate::controller::Image;
use crate::error::ErrorCode;

impl Shard {
    /// The groups in one of `states` and of one of `types`; no filter lets all through.
    pub fn list(&self, states: &[String], types: &[String]) -> Vec<ListedGroup> {
        let is_in = |filter: &[String], name: &str| {
            filter.is_empty() || filter.iter().any(|it| it.trim().eq_ignore_ascii_case(name))
        };
        let shown = self
            .groups
            .iter_committed()
            .filter(|(_, group)| is_in(types, group.kind()) && is_in(states, group.state_filter()));
        shown.map(|(id, group)| listed(id, group)).collect()
    }

    pub(super) fn describe(&self, groups: &[GroupId], version: i16) -> Vec<DescribedGroup> {
        let describe = |id: &GroupId| match self.groups.committed(id) {
            Some(Group::Classic(group)) => described(group),
            Some(_) => unknown(id, version, "is not a classic group"),
            None => unknown(id, version, "not found"),
        };
        groups.iter().map(describe).collect()
    }

    pub(super) fn describe_consumers(
        &self,
        groups: &[GroupId],
        default_assignor: &str,
        image: &Image,
    ) -> Vec<DescribedConsumerGroup> {
        let describe = |id: &GroupId| match self.groups.committed(id) {
            Some(Group::Consumer(group)) => group.describe(default_assignor, image),
            Some(_) => unknown_consumer(id, "is not a consumer group"),
            None => unknown_consumer(id, "not found"),
        };
        groups.iter().map(describe).collect()
    }
}

impl Shard {
    pub(super) fn describe_shares(
        &self,
        groups: &[GroupId],
        image: &Image,
    ) -> Vec<DescribedShareGroup> {
        let describe = |id: &GroupId| match self.groups.committed(id) {
            Some(Group::Share(group)) => group.describe(image),
            other => {
                let why = if other.is_some() { "is not a share group" } else { "not found" };
                let message = format!("Group {} {why}.", id.as_str());
                DescribedShareGroup::default()
                    .with_group_id(id.clone())
                    .with_error_code(ErrorCode::GroupIdNotFound.code())
                    .with_error_message(Some(StrBytes::from_string(message)))
            }
        };
        groups.iter().map(describe).collect()
    }
}

fn listed(id: &str, group: &Group) -> ListedGroup {
    ListedGroup::default()
        .with_group_id(GroupId(StrBytes::from_string(id.to_owned())))
        .with_protocol_type(group.protocol_type())
        .with_group_state(StrBytes::from_static_str(group.state_name()))
        .with_group_type(StrBytes::from_static_str(group.kind()))
}

fn unknown_consumer(id: &GroupId, why: &str) -> DescribedConsumerGroup {
    let message = format!("Group {} {why}.", id.as_str());
    DescribedConsumerGroup::default()
        .with_group_id(id.clone())
        .with_error_code(ErrorCode::GroupIdNotFound.code())
        .with_error_message(Some(StrBytes::from_string(message)))
}

fn described(group: &ClassicGroup) -> DescribedGroup {
    // Before it is stable, which protocol counts is not settled.
    let protocol = group.protocol.as_ref().filter(|_| group.state == State::Stable);
    let member = |member: &Member| {
        let subscription = protocol.map(|name| member.subscription(Some(name)));
        DescribedGroupMember::default()
            .with_member_id(StrBytes::from_string(member.id.clone()))
            .with_group_instance_id(member.instance_id.clone().map(StrBytes::from_string))
            .with_client_id(StrBytes::from_string(member.client_id.clone()))
            .with_client_host(StrBytes::from_string(member.client_host.clone()))
            .with_member_metadata(subscription.unwrap_or_default())
            .with_member_assignment(member.assignment.clone())
    };
    DescribedGroup::default()
        .with_group_id(GroupId(StrBytes::from_string(group.id.clone())))
        .with_group_state(StrBytes::from_static_str(group.state.name()))
        .with_protocol_type(text(group.protocol_type.as_ref()))
        .with_protocol_data(text(protocol))
        .with_members(group.members.iter().map(member).collect())
}

/// Until version 5 an unknown group is a dead one; from 6 on it is an error (KIP-1043).
fn unknown(id: &GroupId, version: i16, why: &str) -> DescribedGroup {
    let answer = DescribedGroup::default()
        .with_group_id(id.clone())
        .with_group_state(StrBytes::from_static_str(State::Dead.name()));
    if version < 6 {
        return answer;
    }
    let message = format!("Group {} {why}.", id.as_str());
    answer
        .with_error_code(ErrorCode::GroupIdNotFound.code())
        .with_error_message(Some(StrBytes::from_string(message)))
}

fn text(value: Option<&String>) -> StrBytes {
    value.map(|value| StrBytes::from_string(value.clone())).unwrap_or_default()
}
