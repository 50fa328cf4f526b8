//! What a heartbeat says of its member, and whether the member may say it.

use std::collections::{BTreeMap, BTreeSet};

use super::member::Member;
use super::tasks::{TaskSet, Tasks, from_ids, plain};
use super::topology::ConfiguredSubtopology;
use crate::error::{ErrorCode, Refusal};
use crate::wire::streams::{StreamsGroupHeartbeatRequest, TaskIds};

/// A heartbeat, and who sent it.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    pub request: StreamsGroupHeartbeatRequest,
    pub client_id: String,
    /// As Java prints an address: `/127.0.0.1`.
    pub client_host: String,
}

/// The member as its heartbeat describes it; what it leaves out stays as it was.
pub(super) fn described(before: &Member, call: &Heartbeat) -> Member {
    let request = &call.request;
    let mut member = before.clone();
    member.client_id.clone_from(&call.client_id);
    member.client_host.clone_from(&call.client_host);
    member.rack_id = request.rack_id.clone().or(member.rack_id);
    if request.rebalance_timeout_ms != -1 {
        member.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    if let Some(topology) = &request.topology.0 {
        member.topology_epoch = topology.epoch;
    }
    if let Some(process) = &request.process_id {
        member.process_id.clone_from(process);
    }
    if let Some(endpoint) = &request.user_endpoint.0 {
        member.user_endpoint = Some(endpoint.clone());
    }
    if let Some(tags) = &request.client_tags {
        let tags = tags.iter().map(|it| (it.key.clone(), it.value.clone()));
        member.client_tags = tags.collect();
    }
    member
}

/// What the member says that it holds, if it says so of every role.
pub(super) fn owned(request: &StreamsGroupHeartbeatRequest) -> Option<TaskSet> {
    Some(TaskSet {
        active: from_ids(request.active.as_deref()?),
        standby: from_ids(request.standby.as_deref()?),
        warmup: from_ids(request.warmup.as_deref()?),
    })
}

/// Refuses a member that is in another epoch than it should be. The one before counts when the
/// answer that told the newer one may have been lost: the member then has nothing that it may not.
pub(super) fn check_epoch(
    member: &Member,
    request: &StreamsGroupHeartbeatRequest,
) -> Result<(), Refusal> {
    let epoch = request.member_epoch;
    let has_no_more = || {
        is_within(request.active.as_deref(), &plain(&member.held.active))
            && is_within(request.standby.as_deref(), &member.held.standby)
            && is_within(request.warmup.as_deref(), &member.held.warmup)
    };
    let than = match epoch {
        0 => return Ok(()),
        epoch if epoch == member.epoch => return Ok(()),
        epoch if epoch > member.epoch => "greater",
        epoch if epoch == member.previous_epoch && has_no_more() => return Ok(()),
        _ => "smaller",
    };
    let message = format!(
        "The streams group member has a {than} member epoch ({epoch}) than the one known by the \
         group coordinator ({}). The member must abandon all its partitions and rejoin.",
        member.epoch
    );
    Err(Refusal::new(ErrorCode::FencedMemberEpoch, message))
}

/// A member that says nothing may have anything.
fn is_within(owned: Option<&[TaskIds]>, held: &Tasks) -> bool {
    let holds = |it: &TaskIds| {
        let held = held.get(&it.subtopology);
        held.is_some_and(|held| it.partitions.iter().all(|partition| held.contains(partition)))
    };
    owned.is_some_and(|owned| owned.iter().all(holds))
}

/// Refuses tasks that the topology does not have.
pub(super) fn check_tasks(
    subtopologies: &BTreeMap<String, ConfiguredSubtopology>,
    owned: &TaskSet,
) -> Result<(), Refusal> {
    let invalid = |message: String| Err(Refusal::new(ErrorCode::InvalidRequest, message));
    let all = [&owned.active, &owned.standby, &owned.warmup];
    let each = all.into_iter().flatten();
    for (id, partitions) in each {
        let partitions: &BTreeSet<i32> = partitions;
        let Some(subtopology) = subtopologies.get(id) else {
            return invalid(format!("Subtopology {id} does not exist in the topology."));
        };
        let count = subtopology.tasks;
        if let Some(task) = partitions.iter().find(|it| !(0..count).contains(*it)) {
            return invalid(format!(
                "Task {task} for subtopology {id} is invalid. Number of tasks for this \
                 subtopology: {count}"
            ));
        }
    }
    Ok(())
}
