//! One look at a streams group: what is decided about it, as records and timers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::assignor::{Candidate, Work, assign};
use super::heartbeat::{Heartbeat, check_epoch, check_tasks, described, owned};
use super::member::{Member, MemberState, pairs};
use super::reconcile::Reconcile;
use super::tasks::{TaskSet, Tasks, plain, to_ids};
use super::topology::{
    ASSIGNMENT_DELAYED, Configured, InternalTopic, SHUTDOWN_APPLICATION, STALE_TOPOLOGY,
    SharedTopology, Topology,
};
use super::{LEAVE, Memory, StreamsGroup};
use crate::controller::Image;
use crate::coordinator::group::effects::TimerChange;
use crate::coordinator::group::modern::{Refresh, may_assign, metadata_hash};
use crate::coordinator::group::records::{StreamsEpochValue, StreamsRecord, TopologyValue};
use crate::coordinator::group::settings::{GroupSettings, NUM_STANDBY_REPLICAS};
use crate::coordinator::group::timers::{Slot, Timer};
use crate::error::{ErrorCode, Refusal};
use crate::types::Millis;
use crate::wire::streams::{Status, StreamsGroupHeartbeatRequest, StreamsGroupHeartbeatResponse};

/// By name: topics that the coordinator is to make.
pub type ToCreate = BTreeMap<String, InternalTopic>;

/// Looks at `group` as it is and collects what shall change.
pub struct Turn<'a> {
    pub group: &'a StreamsGroup,
    pub settings: &'a GroupSettings,
    pub image: &'a Image,
    pub now: Millis,
    /// The group is made by this turn.
    pub is_new: bool,
    pub records: Vec<StreamsRecord>,
    pub timers: Vec<TimerChange>,
    /// What the group knows afterwards.
    pub memory: Memory,
}

/// The group after a member changed, as far as its assignment rests on it.
struct Changed<'a> {
    epoch: i32,
    member: Option<&'a Member>,
    configured: &'a Configured,
    configs: &'a BTreeMap<String, String>,
}

impl<'a> Turn<'a> {
    pub fn new(
        group: &'a StreamsGroup,
        settings: &'a GroupSettings,
        image: &'a Image,
        now: Millis,
    ) -> Self {
        Self {
            group,
            settings,
            image,
            now,
            is_new: false,
            records: Vec::new(),
            timers: Vec::new(),
            memory: group.memory.clone(),
        }
    }

    /// A member joins, or shows that it is alive. With the topics that are to be made.
    pub fn heartbeat(
        &mut self,
        call: &Heartbeat,
    ) -> Result<(StreamsGroupHeartbeatResponse, ToCreate), Refusal> {
        let (group, request) = (self.group, &call.request);
        let before = self.known(request)?;
        let mut after = described(&before, call);
        let mut raise = after != before;
        if raise {
            let record = StreamsRecord::Member(group.member_key(&after.id), Some(after.to_value()));
            self.records.push(record);
        }
        let topology = self.topology(request)?;
        let mut status = self.stale(&after);
        let (hash, configured) = self.configure(&topology)?;
        raise |= hash != group.metadata_hash;
        let owned = owned(request);
        let mut validated = -1;
        if let (true, Some(subtopologies)) = (configured.is_ready(), &configured.subtopologies) {
            validated = topology.epoch;
            owned.as_ref().map_or(Ok(()), |owned| check_tasks(subtopologies, owned))?;
        }
        raise |= validated != group.validated_topology_epoch;
        let configs = self.settings.streams_assignment_configs(self.image, &group.id);
        raise |= configs != *group.assignment_configs;
        let epoch = group.epoch + i32::from(raise);
        if raise {
            self.push_epoch(epoch, hash, validated, &configs);
            self.memory.refresh = Refresh::done(self.now, epoch);
        }
        self.delay_if_new();
        let changed =
            Changed { epoch, member: Some(&after), configured: &configured, configs: &configs };
        let (target_epoch, target) = self.target(&changed, &mut status);
        after = self.reconcile(after, target_epoch, &target, owned.as_ref())?;
        self.begin_session(&after.id);
        if request.shutdown_application {
            self.memory.shutdown_by.get_or_insert_with(|| after.id.to_string());
        }
        Ok(self.answer(request, &before, &after, &configured, status))
    }

    fn answer(
        &mut self,
        request: &StreamsGroupHeartbeatRequest,
        before: &Member,
        after: &Member,
        configured: &Configured,
        mut status: Vec<Status>,
    ) -> (StreamsGroupHeartbeatResponse, ToCreate) {
        let mut response = StreamsGroupHeartbeatResponse {
            member: after.id.to_string(),
            member_epoch: after.epoch,
            heartbeat_interval_ms: self.settings.streams_heartbeat_ms(self.image, &self.group.id),
            ..StreamsGroupHeartbeatResponse::default()
        };
        if request.member_epoch == 0 || before.held != after.held {
            response.active = Some(to_ids(&plain(&after.held.active)));
            response.standby = Some(to_ids(&after.held.standby));
            response.warmup = Some(to_ids(&after.held.warmup));
            self.memory.endpoint_epoch += i32::from(after.user_endpoint.is_some());
        }
        if self.memory.endpoint_epoch != request.endpoint_epoch {
            let endpoints = self.group.endpoints(after, configured, self.image);
            response.partitions_by_endpoint = Some(endpoints);
        }
        // What a group knows when it is made is forgotten, as in Kafka.
        if !self.is_new {
            response.endpoint_epoch = self.memory.endpoint_epoch;
        }
        status.extend(configured.problem.clone());
        if let Some(member) = &self.memory.shutdown_by {
            let detail = format!(
                "Streams group member {member} encountered a fatal error and requested a shutdown \
                 for the entire application."
            );
            status.push(Status { code: SHUTDOWN_APPLICATION, detail });
        }
        response.status = Some(status);
        (response, configured.missing.clone())
    }

    /// The member as it was; a new one when it joins.
    fn known(&self, request: &StreamsGroupHeartbeatRequest) -> Result<Member, Refusal> {
        let group = self.group;
        let known = group.member(&request.member).cloned();
        if request.member_epoch != 0 {
            let member = known.ok_or_else(|| unknown(group, &request.member))?;
            check_epoch(&member, request)?;
            return Ok(member);
        }
        let max = self.settings.streams.max_size;
        // Kafka refuses members who come again, too.
        if group.len() >= max {
            let message =
                format!("The streams group has reached its maximum capacity of {max} members.");
            return Err(Refusal::new(ErrorCode::GroupMaxSizeReached, message));
        }
        Ok(known.unwrap_or_else(|| Member::new(&request.member)))
    }

    /// The topology that counts: that of the first member.
    fn topology(
        &mut self,
        request: &StreamsGroupHeartbeatRequest,
    ) -> Result<SharedTopology, Refusal> {
        let known = self.group.topology.as_ref();
        let Some(said) = &request.topology.0 else {
            return known.cloned().ok_or_else(|| ErrorCode::UnknownServerError.into());
        };
        let topology = Topology::said(said)?;
        let Some(known) = known else {
            let (epoch, subtopologies) = (said.epoch, said.subtopologies.clone());
            let value = TopologyValue { epoch, subtopologies };
            self.records.push(self.group.topology_record(value));
            return Ok(Arc::new(topology));
        };
        if known.epoch <= topology.epoch && **known != topology {
            return Err(Refusal::new(
                ErrorCode::InvalidRequest,
                "Topology updates are not supported yet.",
            ));
        }
        Ok(known.clone())
    }

    fn stale(&self, member: &Member) -> Vec<Status> {
        let newer = self.group.topology.as_ref().map(|it| it.epoch);
        let newer = newer.filter(|epoch| member.topology_epoch < *epoch);
        let status = newer.map(|epoch| Status {
            code: STALE_TOPOLOGY,
            detail: format!(
                "The member's topology epoch {} is behind the group's topology epoch {epoch}.",
                member.topology_epoch
            ),
        });
        status.into_iter().collect()
    }

    /// The hash of the topology's topics and what it is in this cluster; looked at only when
    /// something may be new.
    fn configure(&mut self, topology: &Topology) -> Result<(i64, Arc<Configured>), Refusal> {
        let group = self.group;
        let known = self.memory.configured.clone().filter(|_| group.topology.is_some());
        if let Some(known) = &known
            && !group.memory.refresh.is_due(self.now, group.epoch)
        {
            return Ok((group.metadata_hash, known.clone()));
        }
        let required = topology.required_topics();
        let hash = metadata_hash(required.iter().map(String::as_str), self.image);
        let configured = match known {
            Some(known) if hash == group.metadata_hash => known,
            _ => Arc::new(topology.configure(self.image)?),
        };
        self.memory.refresh = Refresh::done(self.now, group.epoch);
        self.memory.configured = Some(configured.clone());
        Ok((hash, configured))
    }

    fn push_epoch(
        &mut self,
        epoch: i32,
        metadata_hash: i64,
        validated_topology_epoch: i32,
        configs: &BTreeMap<String, String>,
    ) {
        self.records.push(self.group.epoch_record(StreamsEpochValue {
            epoch,
            metadata_hash,
            validated_topology_epoch,
            last_assignment_configs: Some(pairs(configs)),
        }));
    }

    /// The first members of a group wait for each other.
    fn delay_if_new(&mut self) {
        if !self.group.is_empty() || self.memory.is_delayed {
            return;
        }
        let after_ms = self.settings.streams_initial_delay_ms(self.image, &self.group.id);
        if after_ms > 0 {
            self.memory.is_delayed = true;
            let (slot, timer) = (Slot::Delay, Timer::Delay);
            self.timers.push(TimerChange::SetIfAbsent { slot, after_ms, timer });
        }
    }

    /// The group has waited for members: they are assigned their tasks when they are next heard of.
    pub fn delay_is_over(&mut self) {
        let group = self.group;
        if !std::mem::take(&mut self.memory.is_delayed) || group.is_empty() {
            return;
        }
        // Without a topology in memory the next heartbeat computes it.
        let Some(configured) = &group.memory.configured else { return };
        let configs = &group.assignment_configs;
        let changed = Changed { epoch: group.epoch, member: None, configured, configs };
        self.target(&changed, &mut Vec::new());
    }

    /// The target assignment's epoch, and what it has for the member; computed if it is due.
    fn target(&mut self, of: &Changed<'_>, status: &mut Vec<Status>) -> (i32, Arc<TaskSet>) {
        let group = self.group;
        let mut delayed = |why: &str| {
            let detail = format!("Assignment delayed due to the configured {why}.");
            status.push(Status { code: ASSIGNMENT_DELAYED, detail });
        };
        if self.memory.is_delayed {
            delayed("initial rebalance delay");
            return (group.target.epoch, Arc::default());
        }
        let last = of.member.and_then(|member| group.target.of(&member.id)).cloned();
        let last = (group.target.epoch, last.unwrap_or_default());
        if group.target.epoch >= of.epoch {
            return last;
        }
        let interval = self.settings.streams_assignment_interval_ms(self.image, &group.id);
        if !may_assign(group.target.computed_at, interval, self.now) {
            delayed("assignment interval");
            return last;
        }
        let mut members: BTreeMap<&str, &Member> =
            group.members().map(|member| (&*member.id, member)).collect();
        members.extend(of.member.map(|member| (&*member.id, member)));
        let next = self.assign(&members, of);
        for (id, tasks) in group.target.changes(&next) {
            self.records.push(group.target_member_record(id, tasks));
        }
        self.records.push(group.target_record(of.epoch, self.now));
        let own = of.member.and_then(|member| next.get(&*member.id)).cloned();
        (of.epoch, own.unwrap_or_default())
    }

    fn assign<'m>(
        &self,
        members: &BTreeMap<&'m str, &'m Member>,
        of: &Changed<'_>,
    ) -> BTreeMap<&'m str, Arc<TaskSet>> {
        let none = Tasks::new();
        let candidates: Vec<Candidate<'_>> = members
            .values()
            .map(|member| {
                let before = self.group.target.of(&member.id);
                Candidate {
                    process: &member.process_id,
                    active: before.map_or(&none, |it| &it.active),
                    standby: before.map_or(&none, |it| &it.standby),
                }
            })
            .collect();
        let subtopologies = of.configured.subtopologies.iter().flatten();
        let work = subtopologies.map(|(id, it)| {
            (id.as_str(), Work { tasks: it.tasks, stateful: !it.changelogs.is_empty() })
        });
        // Nobody works while topics are missing.
        let work = if of.configured.is_ready() { work.collect() } else { BTreeMap::new() };
        let standbys = of.configs.get(NUM_STANDBY_REPLICAS).and_then(|it| it.parse().ok());
        let assigned = assign(&candidates, &work, standbys.unwrap_or(0));
        members.keys().copied().zip(assigned.into_iter().map(Arc::new)).collect()
    }

    /// Lets a member take its next step, and writes it down if there is one.
    fn reconcile(
        &mut self,
        member: Member,
        target_epoch: i32,
        target: &TaskSet,
        owned: Option<&TaskSet>,
    ) -> Result<Member, Refusal> {
        if member.is_reconciled_to(target_epoch) {
            return Ok(member);
        }
        let holders = &self.group.holders;
        let next = Reconcile { target_epoch, target, holders, owned }.step(&member)?;
        if next == member {
            return Ok(member);
        }
        let id = next.id.to_string();
        let current = StreamsRecord::Current(self.group.member_key(&id), Some(next.to_current()));
        self.records.push(current);
        if next.state == MemberState::UnrevokedTasks {
            let timer = Timer::Rebalance { member: id.clone(), epoch: next.epoch };
            let after_ms = i64::from(next.rebalance_timeout_ms);
            self.timers.push(TimerChange::Set { slot: Slot::Rebalance(id), after_ms, timer });
        } else {
            self.timers.push(TimerChange::Cancel(Slot::Rebalance(id)));
        }
        Ok(next)
    }

    fn begin_session(&mut self, member: &str) {
        let after_ms = i64::from(self.settings.streams_session_ms(self.image, &self.group.id));
        let (slot, timer) =
            (Slot::Session(member.to_owned()), Timer::Session { member: member.to_owned() });
        self.timers.push(TimerChange::Set { slot, after_ms, timer });
    }

    /// A member says good-bye, and perhaps that all others shall stop, too.
    pub fn leave(
        &mut self,
        request: &StreamsGroupHeartbeatRequest,
    ) -> Result<StreamsGroupHeartbeatResponse, Refusal> {
        let member = self.group.member(&request.member);
        let member = member.ok_or_else(|| unknown(self.group, &request.member))?;
        if request.shutdown_application {
            self.memory.shutdown_by.get_or_insert_with(|| member.id.to_string());
        }
        self.remove(member);
        Ok(StreamsGroupHeartbeatResponse {
            member: request.member.clone(),
            member_epoch: LEAVE,
            ..StreamsGroupHeartbeatResponse::default()
        })
    }

    /// A member goes, and the group epoch rises.
    pub fn remove(&mut self, member: &Member) {
        let group = self.group;
        tracing::info!(group = %group.id, member = %member.id, "a member leaves");
        let key = || group.member_key(&member.id);
        self.records.push(StreamsRecord::Current(key(), None));
        self.records.push(StreamsRecord::TargetMember(key(), None));
        self.records.push(StreamsRecord::Member(key(), None));
        let configs = group.assignment_configs.clone();
        self.push_epoch(
            group.epoch + 1,
            group.metadata_hash,
            group.validated_topology_epoch,
            &configs,
        );
        for slot in [Slot::Session, Slot::Rebalance] {
            self.timers.push(TimerChange::Cancel(slot(member.id.to_string())));
        }
    }
}

fn unknown(group: &StreamsGroup, id: &str) -> Refusal {
    let message = format!("Member {id} is not a member of group {}.", group.id);
    Refusal::new(ErrorCode::UnknownMemberId, message)
}
