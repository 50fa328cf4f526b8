//! What requests about streams groups mean, and how their records come true.

use super::classic::Step;
use super::effects::Effects;
use super::kind::Group;
use super::offsets::Write;
use super::records::{Record, StreamsRecord};
use super::shard::{Context, Shard};
use super::streams::{Heartbeat, LEAVE, LEAVE_STATIC, Memory, StreamsGroup, ToCreate, Turn};
use super::timers::Timer;
use crate::error::{ErrorCode, Refusal};
use crate::wire::streams::{DescribedGroup, StreamsGroupHeartbeatResponse};

fn no_group(message: String) -> Refusal {
    Refusal::new(ErrorCode::GroupIdNotFound, message)
}

impl Shard {
    fn streams_group(&self, id: &str) -> Result<&StreamsGroup, Refusal> {
        match self.groups.get(id) {
            Some(Group::Streams(group)) => Ok(group),
            Some(_) => Err(no_group(format!("Group {id} is not a streams group."))),
            None => Err(no_group(format!("Group {id} not found."))),
        }
    }

    pub(super) fn streams_heartbeat(
        &mut self,
        call: &Heartbeat,
        context: &Context<'_>,
        step: &mut Step<'_>,
    ) -> Result<(StreamsGroupHeartbeatResponse, ToCreate), Refusal> {
        let request = &call.request;
        let id = request.group.as_str();
        if matches!(request.member_epoch, LEAVE | LEAVE_STATIC) {
            let group = self.streams_group(id)?;
            let mut turn = Turn::new(group, context.settings, context.image, context.now);
            let answer = turn.leave(request)?;
            let done = Done::of(turn);
            self.apply_streams(id, done, step.effects);
            return Ok((answer, ToCreate::new()));
        }
        let joins = request.member_epoch == 0;
        let fresh = StreamsGroup::new(id);
        let mut instead = None;
        let group: &StreamsGroup = match self.groups.get(id) {
            Some(Group::Streams(group)) => group,
            Some(Group::Classic(group)) if joins && group.validate_delete().is_ok() => {
                tracing::info!(group = id, "an empty classic group becomes a streams group");
                instead = Some(Record::group(id, None));
                &fresh
            }
            None if joins => &fresh,
            None => return Err(no_group(format!("Streams group {id} not found."))),
            Some(_) => return Err(no_group(format!("Group {id} is not a streams group."))),
        };
        let mut turn = Turn::new(group, context.settings, context.image, context.now);
        turn.is_new = self.groups.get(id).is_none();
        let (answer, missing) = turn.heartbeat(call)?;
        let mut done = Done::of(turn);
        if !matches!(self.groups.get(id), Some(Group::Streams(_))) {
            // As in Kafka, what a group that is made now knows beyond its records is forgotten.
            let is_delayed = done.memory.is_delayed;
            done.memory = Memory { is_delayed, ..Memory::default() };
        }
        if let (Some(Group::Classic(classic)), true) = (self.groups.get(id), instead.is_some()) {
            classic.cancel_timers(step.effects);
        }
        step.effects.records.extend(instead);
        self.apply_streams(id, done, step.effects);
        Ok((answer, missing))
    }

    /// A timer of a streams group ran out.
    pub(super) fn expire_streams(
        &mut self,
        id: &str,
        timer: &Timer,
        context: &Context<'_>,
        effects: &mut Effects,
    ) {
        let Ok(group) = self.streams_group(id) else { return };
        let mut turn = Turn::new(group, context.settings, context.image, context.now);
        match timer {
            Timer::Delay => turn.delay_is_over(),
            Timer::Session { member } => {
                if let Some(member) = group.member(member) {
                    turn.remove(member);
                }
            }
            Timer::Rebalance { member, epoch } => {
                if let Some(member) = group.member(member).filter(|it| it.epoch == *epoch) {
                    turn.remove(member);
                }
            }
            _ => {}
        }
        let done = Done::of(turn);
        self.apply_streams(id, done, effects);
    }

    fn apply_streams(&mut self, id: &str, done: Done, effects: &mut Effects) {
        let timers = done.timers.into_iter().map(|change| (id.to_owned(), change));
        effects.timers.extend(timers);
        effects.records.extend(done.records.into_iter().map(Record::Streams));
        effects.replay = true;
        self.remembered = Some((id.to_owned(), done.memory));
    }

    pub(super) fn describe_streams(&self, groups: &[String]) -> Vec<DescribedGroup> {
        let describe = |id: &String| match self.groups.committed(id) {
            Some(Group::Streams(group)) => group.describe(),
            other => {
                let why = if other.is_some() { "is not a streams group" } else { "not found" };
                DescribedGroup {
                    group: id.clone(),
                    error_code: ErrorCode::GroupIdNotFound.code(),
                    error_message: Some(format!("Group {id} {why}.")),
                    ..DescribedGroup::default()
                }
            }
        };
        groups.iter().map(describe).collect()
    }

    /// Takes in a record that is in the log (`None`), or on its way there by a write.
    pub(super) fn take_streams(&mut self, write: Option<Write>, record: StreamsRecord) {
        let id = record.group().to_owned();
        let put = |shard: &mut Self, group: Option<Group>| match write {
            Some(write) => shard.groups.put(write, &id, group),
            None => shard.groups.load(&id, group),
        };
        match self.groups.get(&id) {
            Some(Group::Streams(_)) if matches!(record, StreamsRecord::Epoch(_, None)) => {
                return put(self, None);
            }
            Some(Group::Streams(_)) => {
                if let Some(write) = write {
                    self.groups.keep(write, &id);
                }
            }
            Some(Group::Classic(group)) if !group.is_simple() => return,
            Some(Group::Consumer(_) | Group::Share(_)) => return,
            _ if record.is_tombstone() => return,
            _ => put(self, Some(Group::Streams(Box::new(StreamsGroup::new(&id))))),
        }
        if let Some(group) = self.groups.get_mut(&id).and_then(Group::as_streams_mut) {
            group.replay(record);
        }
    }
}

/// What was decided about a streams group, without the group.
struct Done {
    records: Vec<StreamsRecord>,
    timers: Vec<super::effects::TimerChange>,
    memory: Memory,
}

impl Done {
    fn of(turn: Turn<'_>) -> Self {
        let Turn { records, timers, memory, .. } = turn;
        Self { records, timers, memory }
    }
}
