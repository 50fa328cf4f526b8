//! What requests about share groups mean, and how their records come true.

use std::collections::BTreeSet;

use kafka_protocol::messages::{GroupId, ShareGroupHeartbeatResponse};
use uuid::Uuid;

use super::classic::Step;
use super::effects::{Effects, ShareStates, TimerChange};
use super::kind::Group;
use super::modern::metadata_hash;
use super::offsets::Write;
use super::records::{GroupKey, Record, ShareEpochValue, ShareRecord};
use super::shard::{Context, Shard};
use super::share::{Heartbeat, Initialize, LEAVE, Named, ShareGroup, Turn};
use super::timers::{Slot, Timer};
use crate::error::{ErrorCode, Refusal};

fn no_group(message: String) -> Refusal {
    Refusal::new(ErrorCode::GroupIdNotFound, message)
}

impl Shard {
    fn share_group(&self, id: &str) -> Result<&ShareGroup, Refusal> {
        match self.groups.get(id) {
            Some(Group::Share(group)) => Ok(group),
            Some(_) => Err(no_group(format!("Group {id} is not a share group."))),
            None => Err(no_group(format!("Group {id} not found."))),
        }
    }

    pub(super) fn share_heartbeat(
        &mut self,
        call: &Heartbeat,
        context: &Context<'_>,
        step: &mut Step<'_>,
    ) -> Result<(ShareGroupHeartbeatResponse, Option<Initialize>), Refusal> {
        let request = &call.request;
        let (id, member) = (request.group_id.as_str(), request.member_id.as_str());
        let slot = Slot::Session(member.to_owned());
        if request.member_epoch == LEAVE {
            let group = self.share_group(id)?;
            let mut turn = Turn::new(group, context.settings, context.image, context.now);
            let answer = turn.leave(member)?;
            let records = turn.records;
            step.effects.timers.push((id.to_owned(), TimerChange::Cancel(slot)));
            apply_share(records, step.effects);
            return Ok((answer, None));
        }
        let fresh = ShareGroup::new(id);
        let mut instead = None;
        let group = match self.groups.get(id) {
            Some(Group::Share(group)) => group,
            Some(Group::Classic(group)) if request.member_epoch == 0 && group.is_simple() => {
                // Offsets alone made it known; Kafka lets the newer kind have the name.
                instead = Some(Record::group(id, None));
                &fresh
            }
            None if request.member_epoch == 0 => &fresh,
            None => return Err(no_group(format!("Share group {id} not found."))),
            Some(_) => return Err(no_group(format!("Group {id} is not a share group."))),
        };
        let mut turn = Turn::new(group, context.settings, context.image, context.now);
        let (answer, initialize) = turn.heartbeat(call)?;
        let (records, refresh) = (turn.records, turn.refresh);
        step.effects.records.extend(instead);
        let after_ms = i64::from(context.settings.share_session_ms(context.image, id));
        let timer = Timer::Session { member: member.to_owned() };
        let change = TimerChange::Set { slot, after_ms, timer };
        step.effects.timers.push((id.to_owned(), change));
        apply_share(records, step.effects);
        self.refreshed = refresh.map(|refresh| (id.to_owned(), refresh));
        self.initializing = initialize.as_ref().map(|_| (id.to_owned(), context.now));
        Ok((answer, initialize))
    }

    /// A member was silent for too long.
    pub(super) fn expire_share(
        &mut self,
        id: &str,
        timer: &Timer,
        context: &Context<'_>,
        effects: &mut Effects,
    ) {
        let Timer::Session { member } = timer else { return };
        let Ok(group) = self.share_group(id) else { return };
        let mut turn = Turn::new(group, context.settings, context.image, context.now);
        if turn.leave(member).is_ok() {
            let records = turn.records;
            apply_share(records, effects);
        }
    }

    pub(super) fn share_states(&self, id: &GroupId) -> Result<ShareStates, Refusal> {
        let group = self.share_group(id)?;
        let (epoch, is_empty) = (group.epoch, group.is_empty());
        Ok(ShareStates { epoch, is_empty, states: (*group.states).clone() })
    }

    pub(super) fn share_initialized(
        &mut self,
        id: &GroupId,
        topics: &Named,
        step: &mut Step<'_>,
    ) -> Result<ShareStates, Refusal> {
        let group = self.share_group(id)?;
        let states = group.states.with_initialized(topics);
        let record = group.states_record(&states);
        let answer = ShareStates { epoch: group.epoch, is_empty: group.is_empty(), states };
        apply_share(vec![record], step.effects);
        Ok(answer)
    }

    /// States are to be set from outside, which only a group without members allows.
    pub(super) fn share_alter(
        &mut self,
        id: &GroupId,
        topics: &Named,
        context: &Context<'_>,
        step: &mut Step<'_>,
    ) -> Result<ShareStates, Refusal> {
        let fresh = ShareGroup::new(id);
        let group = match self.groups.get(id) {
            None => &fresh,
            Some(_) => self.share_group(id)?,
        };
        if !group.is_empty() {
            let message = format!("Share group {} is not empty.", id.as_str());
            return Err(Refusal::new(ErrorCode::NonEmptyGroup, message));
        }
        let epoch = group.epoch + 1;
        let metadata_hash = metadata_hash(group.topics.names(), context.image);
        let key = GroupKey { group: id.to_string() };
        let raised = ShareRecord::Epoch(key, Some(ShareEpochValue { epoch, metadata_hash }));
        let mut states = (*group.states).clone();
        for (topic, (name, its)) in topics {
            let fresh = || (name.clone(), BTreeSet::new());
            states.initializing.entry(*topic).or_insert_with(fresh).1.extend(its);
        }
        let noted = group.states_record(&states);
        apply_share(vec![raised, noted], step.effects);
        Ok(ShareStates { epoch, is_empty: true, states })
    }

    pub(super) fn share_forget(
        &mut self,
        id: &GroupId,
        topics: &[Uuid],
        step: &mut Step<'_>,
    ) -> Result<ShareStates, Refusal> {
        let group = self.share_group(id)?;
        let states = group.states.without(topics);
        let record = group.states_record(&states);
        let answer = ShareStates { epoch: group.epoch, is_empty: group.is_empty(), states };
        apply_share(vec![record], step.effects);
        Ok(answer)
    }

    /// Takes in a record that is in the log (`None`), or on its way there by a write.
    pub(super) fn take_share(&mut self, write: Option<Write>, record: ShareRecord) {
        let id = record.group().to_owned();
        let put = |shard: &mut Self, group: Option<Group>| match write {
            Some(write) => shard.groups.put(write, &id, group),
            None => shard.groups.load(&id, group),
        };
        match self.groups.get(&id) {
            Some(Group::Share(_)) if matches!(record, ShareRecord::Epoch(_, None)) => {
                return put(self, None);
            }
            Some(Group::Share(_)) => {
                if let Some(write) = write {
                    self.groups.keep(write, &id);
                }
            }
            Some(Group::Classic(group)) if !group.is_simple() => return,
            Some(Group::Consumer(_)) => return,
            _ if record.is_tombstone() => return,
            _ => put(self, Some(Group::Share(Box::new(ShareGroup::new(&id))))),
        }
        if let Some(group) = self.groups.get_mut(&id).and_then(Group::as_share_mut) {
            group.replay(record);
        }
    }
}

fn apply_share(records: Vec<ShareRecord>, effects: &mut Effects) {
    effects.records.extend(records.into_iter().map(Record::Share));
    effects.replay = true;
}
