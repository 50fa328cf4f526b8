//! What no member of a streams group may send, whatever the group.

use super::member::{LEAVE, LEAVE_STATIC};
use super::topology::INVALID_TOPOLOGY;
use crate::error::{ErrorCode, Refusal};
use crate::wire::streams::{StreamsGroupHeartbeatRequest, TaskIds, Topology};

pub fn check_request(request: &StreamsGroupHeartbeatRequest) -> Result<(), Refusal> {
    refuse_unsupported(request)?;
    let blank = |text: Option<&str>| text.is_some_and(|text| text.trim().is_empty());
    refuse_if(blank(Some(&request.member)), "MemberId can't be empty.")?;
    refuse_if(blank(Some(&request.group)), "GroupId can't be empty.")?;
    refuse_if(blank(request.rack_id.as_deref()), "RackId can't be empty.")?;
    match request.member_epoch {
        0 => refuse_joining(request)?,
        // There are no static members yet: refused above with the id, so that it is absent here.
        LEAVE_STATIC => refuse_if(true, "InstanceId can't be null.")?,
        LEAVE.. => {}
        epoch => {
            let message =
                format!("MemberEpoch is {epoch}, but must be greater than or equal to -2.");
            return Err(Refusal::new(ErrorCode::InvalidRequest, message));
        }
    }
    let owned = [&request.active, &request.standby, &request.warmup];
    refuse_if(
        owned.iter().any(|it| it.is_some()) && owned.iter().any(|it| it.is_none()),
        "If one task-type is non-null, all must be non-null.",
    )?;
    refuse_if(
        request.member_epoch != 0 && request.topology.0.is_some(),
        "Topology can only be provided when (re-)joining.",
    )
}

/// What the protocol has and Kafka 4.3.1 does not do.
fn refuse_unsupported(request: &StreamsGroupHeartbeatRequest) -> Result<(), Refusal> {
    refuse_if(request.instance_id.is_some(), "Static membership is not yet supported.")?;
    refuse_if(request.task_offsets.is_some(), "TaskOffsets are not supported yet.")?;
    refuse_if(request.task_end_offsets.is_some(), "TaskEndOffsets are not supported yet.")?;
    let warms_up = request.warmup.as_ref().is_some_and(|it| !it.is_empty());
    refuse_if(warms_up, "WarmupTasks are not supported yet.")?;
    let subtopologies = request.topology.0.iter().flat_map(|it| &it.subtopologies);
    refuse_if(
        subtopologies.into_iter().any(|it| !it.source_topic_regex.is_empty()),
        "Regular expressions for source topics are not supported yet.",
    )
}

fn refuse_joining(request: &StreamsGroupHeartbeatRequest) -> Result<(), Refusal> {
    let is_given = |owned: &Option<Vec<TaskIds>>| owned.as_ref().is_none_or(|it| !it.is_empty());
    refuse_if(
        request.rebalance_timeout_ms == -1,
        "RebalanceTimeoutMs must be provided in first request.",
    )?;
    refuse_if(is_given(&request.active), "ActiveTasks must be empty when (re-)joining.")?;
    refuse_if(is_given(&request.standby), "StandbyTasks must be empty when (re-)joining.")?;
    refuse_if(is_given(&request.warmup), "WarmupTasks must be empty when (re-)joining.")?;
    match &request.topology.0 {
        None => refuse_if(true, "Topology must be non-null when (re-)joining."),
        Some(topology) => refuse_fixed_changelogs(topology),
    }
}

fn refuse_fixed_changelogs(topology: &Topology) -> Result<(), Refusal> {
    let mut changelogs = topology.subtopologies.iter().flat_map(|it| &it.changelogs);
    let Some(fixed) = changelogs.find(|it| it.partitions != 0) else { return Ok(()) };
    let message = format!(
        "Changelog topic {} must have an undefined partition count, but it is set to {}.",
        fixed.name, fixed.partitions
    );
    Err(Refusal::new(INVALID_TOPOLOGY, message))
}

fn refuse_if(wrong: bool, message: &str) -> Result<(), Refusal> {
    if wrong { Err(Refusal::new(ErrorCode::InvalidRequest, message)) } else { Ok(()) }
}
