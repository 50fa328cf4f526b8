//! ListGroups and DescribeGroups: what readers may know of the groups of a shard.

use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::protocol::StrBytes;

use super::classic::{ClassicGroup, Member, State};
use super::shard::Shard;
use crate::error::ErrorCode;

/// The only type of group that this coordinator has. Kafka's spelling.
const CLASSIC: &str = "classic";

impl Shard {
    /// The groups in one of `states` and of one of `types`; no filter lets all through.
    pub fn list(&self, states: &[String], types: &[String]) -> Vec<ListedGroup> {
        let is_in = |filter: &[String], name: &str| {
            filter.is_empty() || filter.iter().any(|it| it.trim().eq_ignore_ascii_case(name))
        };
        if !is_in(types, CLASSIC) {
            return Vec::new();
        }
        let ids = self.groups.keys().chain(self.leaving.keys());
        let mut shown: Vec<_> = ids.filter_map(|id| self.shown(id)).collect();
        shown.sort_by(|a, b| a.id.cmp(&b.id));
        shown.dedup_by(|a, b| a.id == b.id);
        let shown = shown.into_iter().filter(|group| is_in(states, group.state.name()));
        shown.map(listed).collect()
    }

    pub(super) fn describe(&self, groups: &[GroupId], version: i16) -> Vec<DescribedGroup> {
        let describe = |id: &GroupId| match self.shown(id) {
            Some(group) => described(group),
            None => unknown(id, version),
        };
        groups.iter().map(describe).collect()
    }
}

fn listed(group: &ClassicGroup) -> ListedGroup {
    ListedGroup::default()
        .with_group_id(GroupId(StrBytes::from_string(group.id.clone())))
        .with_protocol_type(text(group.protocol_type.as_ref()))
        .with_group_state(StrBytes::from_static_str(group.state.name()))
        .with_group_type(StrBytes::from_static_str(CLASSIC))
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
fn unknown(id: &GroupId, version: i16) -> DescribedGroup {
    let answer = DescribedGroup::default()
        .with_group_id(id.clone())
        .with_group_state(StrBytes::from_static_str(State::Dead.name()));
    if version < 6 {
        return answer;
    }
    let message = format!("Group {} not found.", id.as_str());
    answer
        .with_error_code(ErrorCode::GroupIdNotFound.code())
        .with_error_message(Some(StrBytes::from_string(message)))
}

fn text(value: Option<&String>) -> StrBytes {
    value.map(|value| StrBytes::from_string(value.clone())).unwrap_or_default()
}
