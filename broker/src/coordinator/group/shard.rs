//! The coordinator of all groups of one `__consumer_offsets` partition.
//!
//! Pure: calls, timers and news of the log go in, [`Effects`] come out. Writes are numbered; a
//! write that could not be appended is taken back with all after it.
//!
//! Invariants:
//! - an answer that rests on a write is given only after that write is committed;
//! - a group is shown to readers only once the record that made it is committed, and until the one
//!   that deleted it is;
//! - offsets of a group without members make it known as a simple group.

use std::collections::BTreeMap;

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, HeartbeatResponse, LeaveGroupRequest, OffsetCommitRequest,
    OffsetDeleteRequest, SyncGroupRequest,
};
use uuid::Uuid;

use super::call::{Asked, Call};
use super::classic::{ClassicGroup, Continuation, JoinCall, Step, Timer, append_error};
use super::effects::{Answer, Effects, Token};
use super::offsets::{self, Offsets, Place, View, Write};
use super::records::{OffsetCommitKey, OffsetCommitValue, Record};
use super::settings::GroupSettings;
use crate::error::ErrorCode;
use crate::types::Millis;

/// How many deletions one write may carry, so that it fits into a batch.
pub use crate::coordinator::runtime::MAX_SWEPT as MAX_TOMBSTONES;

#[derive(Debug)]
pub(super) struct Known {
    pub group: ClassicGroup,
    /// The write that made it; 0 when it was loaded.
    born: Write,
}

#[derive(Debug, Default)]
pub struct Shard {
    pub(super) groups: BTreeMap<String, Known>,
    /// Deleted by a write that is not committed yet.
    pub(super) leaving: BTreeMap<String, (Write, Known)>,
    pub(super) offsets: Offsets,
    written: Write,
    committed: Write,
}

impl Shard {
    /// The number of the last write.
    pub fn written(&self) -> Write {
        self.written
    }

    pub fn is_committed(&self, write: Write) -> bool {
        write <= self.committed
    }

    pub fn groups(&self) -> impl Iterator<Item = &ClassicGroup> {
        self.groups.values().map(|known| &known.group)
    }

    /// Carries out a call. An error is for all of it; [`Asked::refuse`] gives it its form.
    pub fn handle(
        &mut self,
        token: Token,
        call: Call,
        asked: &Asked,
        settings: &GroupSettings,
        now: Millis,
    ) -> Effects {
        let mut effects = Effects::default();
        let step = &mut Step { settings, now, effects: &mut effects };
        let result = match call {
            Call::Join(call) => {
                self.join(*call, step);
                Ok(None)
            }
            Call::Sync(request) => {
                self.sync(token, &request, step);
                Ok(None)
            }
            Call::Heartbeat(request) => self.heartbeat(&request, step).map(Some),
            Call::Leave(request) => self.leave(&request, step).map(Some),
            Call::OffsetCommit(request) => self.commit(&request, step).map(Some),
            Call::OffsetFetch { group, require_stable: true } => {
                Ok(Some(self.fetch(&group, View::Newest)))
            }
            Call::OffsetFetch { group, require_stable: false } => {
                let answer = self.fetch(&group, View::Committed);
                step.effects.answer(token, answer);
                Ok(None)
            }
            Call::OffsetDelete(request) => self.delete_offsets(&request, step).map(Some),
            Call::List { states, types } => {
                let answer = Answer::List(Ok(self.list(&states, &types)));
                step.effects.answer(token, answer);
                Ok(None)
            }
            Call::Describe { groups, version } => {
                let answer = Answer::Describe(self.describe(&groups, version));
                step.effects.answer(token, answer);
                Ok(None)
            }
            Call::Delete { groups } => Ok(Some(self.delete(&groups, step))),
        };
        match result {
            Ok(Some(answer)) => effects.after_commit = Some((token, answer)),
            Ok(None) => {}
            Err(code) => effects.answer(token, asked.refuse(code)),
        }
        self.number(&mut effects);
        effects
    }

    /// A timer of a group ran out.
    pub fn expire(
        &mut self,
        group: &str,
        timer: Timer,
        settings: &GroupSettings,
        now: Millis,
    ) -> Effects {
        self.with_group(group, settings, now, |group, step| group.expire(timer, step))
    }

    /// News of the record that a group waits for.
    pub fn stored(
        &mut self,
        group: &str,
        then: Continuation,
        result: Result<(), ErrorCode>,
        settings: &GroupSettings,
        now: Millis,
    ) -> Effects {
        if let (Continuation::Created { join }, Err(code), false) =
            (&then, &result, self.groups.contains_key(group))
        {
            // The group went with its record; its first member must still hear of it.
            let mut effects = Effects::default();
            effects.answer(*join, Asked::Join.refuse(append_error(*code)));
            return effects;
        }
        self.with_group(group, settings, now, |group, step| group.stored(then, result, step))
    }

    /// Writes up to `write` are committed.
    pub fn commit_up_to(&mut self, write: Write) {
        self.committed = self.committed.max(write);
        self.offsets.committed(write);
        self.leaving.retain(|_, (deleted, _)| *deleted > write);
    }

    /// Write `write` and all after it could not be appended, because of `code`. Groups that they made are gone, and
    /// whoever waits in them is answered.
    pub fn take_back(
        &mut self,
        write: Write,
        code: ErrorCode,
        settings: &GroupSettings,
        now: Millis,
    ) -> Effects {
        let mut effects = Effects::default();
        self.written = self.written.min(write - 1);
        self.offsets.take_back(write);
        let unborn = |known: &Known| known.born >= write;
        let gone: Vec<_> =
            self.groups.iter().filter(|(_, it)| unborn(it)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            if let Some(mut known) = self.groups.remove(&id) {
                known.group.cancel_timers(&mut effects);
                let step = &mut Step { settings, now, effects: &mut effects };
                known.group.unload(append_error(code), step);
            }
        }
        let back: Vec<_> =
            self.leaving.iter().filter(|(_, it)| it.0 >= write).map(|(id, _)| id.clone()).collect();
        for id in back {
            if let Some((_, known)) = self.leaving.remove(&id)
                && !unborn(&known)
            {
                self.groups.entry(id).or_insert(known);
            }
        }
        effects
    }

    /// Takes in a record that was read from the log.
    pub fn load(&mut self, record: Record) {
        match record {
            Record::Offset(key, value) => {
                if value.is_some() {
                    self.simple_group(&key.group, 0, 0);
                }
                let value = value.map(Into::into);
                self.offsets.load(&key.group, &key.topic, key.partition, value);
            }
            Record::Group(key, Some(value)) => {
                let group = ClassicGroup::from_record(&key.group, value);
                self.groups.insert(key.group, Known { group, born: 0 });
            }
            Record::Group(key, None) => {
                self.groups.remove(&key.group);
            }
            Record::Other(_) => {}
        }
    }

    /// Takes in an offset that was read from the log as part of a transaction.
    pub fn load_in_transaction(
        &mut self,
        producer: i64,
        key: OffsetCommitKey,
        value: OffsetCommitValue,
    ) {
        self.simple_group(&key.group, 0, 0);
        self.offsets.load_in_transaction(producer, key.into(), value.into());
    }

    /// Takes in the end of a transaction that was read from the log.
    pub fn load_end(&mut self, producer: i64, committed: bool) {
        self.offsets.load_end(producer, committed);
    }

    /// The next write is the marker that ends a producer's transaction.
    pub fn end_transaction(&mut self, producer: i64, committed: bool) {
        self.written += 1;
        self.offsets.end_transaction(self.written, producer, committed);
    }

    /// All records are in: sessions begin.
    pub fn loaded(&mut self, settings: &GroupSettings, now: Millis) -> Effects {
        let mut effects = Effects::default();
        for known in self.groups.values_mut() {
            known.group.loaded(&mut Step { settings, now, effects: &mut effects });
        }
        self.number(&mut effects);
        effects
    }

    /// The partition goes to another broker: all that wait in a group are told.
    pub fn unload(&mut self, settings: &GroupSettings, now: Millis) -> Effects {
        let mut effects = Effects::default();
        for known in self.groups.values_mut() {
            let step = &mut Step { settings, now, effects: &mut effects };
            known.group.unload(ErrorCode::NotCoordinator, step);
        }
        effects
    }

    /// Offsets that nobody wants any more, and groups that are empty without them: at most
    /// [`MAX_TOMBSTONES`] or a few more, then the caller asks again.
    pub fn expire_offsets(&mut self, settings: &GroupSettings, now: Millis) -> Effects {
        let mut effects = Effects { replay: true, ..Effects::default() };
        let retention = settings.offsets_retention.as_millis() as i64;
        for (id, Known { group, .. }) in &self.groups {
            if effects.records.len() >= MAX_TOMBSTONES {
                break;
            }
            let mut all_gone = self.offsets.unstable_of_group(id).next().is_none();
            for (topic, partition, value) in self.offsets.of_group(id, View::Newest) {
                let unused = group.unused_since(value.commit_timestamp);
                let expired = unused.is_some_and(|since| value.is_expired(since, now, retention))
                    && !group.is_subscribed_to(topic)
                    && !self.offsets.is_unstable(id, topic, partition);
                if expired {
                    effects.records.push(Record::offset(id, topic, partition, None));
                }
                all_gone &= expired;
            }
            if all_gone && group.validate_delete().is_ok() {
                group.cancel_timers(&mut effects);
                effects.records.push(Record::group(id, None));
            }
        }
        self.number(&mut effects);
        effects
    }

    /// Topics were deleted, and with them what was committed for them: at most
    /// [`MAX_TOMBSTONES`] at once.
    pub fn topics_deleted(&mut self, topics: &[(String, Uuid)]) -> Effects {
        let mut effects = Effects { replay: true, ..Effects::default() };
        for (topic, id) in topics {
            for (group, partition, value) in self.offsets.of_topic(topic) {
                if effects.records.len() >= MAX_TOMBSTONES {
                    break;
                }
                if value.topic_id.is_nil() || value.topic_id == *id {
                    effects.records.push(Record::offset(group, topic, partition, None));
                }
            }
            for (place, value) in self.offsets.unstable_of_topic(topic) {
                if effects.records.len() >= MAX_TOMBSTONES {
                    break;
                }
                if value.topic_id.is_nil() || value.topic_id == *id {
                    effects.records.push(Record::offset(
                        &place.group,
                        topic,
                        place.partition,
                        None,
                    ));
                }
            }
        }
        self.number(&mut effects);
        effects
    }

    fn with_group(
        &mut self,
        id: &str,
        settings: &GroupSettings,
        now: Millis,
        go: impl FnOnce(&mut ClassicGroup, &mut Step<'_>),
    ) -> Effects {
        let mut effects = Effects::default();
        if let Some(known) = self.groups.get_mut(id) {
            go(&mut known.group, &mut Step { settings, now, effects: &mut effects });
        }
        self.number(&mut effects);
        effects
    }

    /// Gives the records of a step their number, and makes them true if they are to be replayed.
    fn number(&mut self, effects: &mut Effects) {
        if effects.records.is_empty() {
            return;
        }
        self.written += 1;
        if effects.replay {
            let producer = effects.transaction.map(|(id, _)| id);
            for record in effects.records.clone() {
                self.replay(record, producer);
            }
        }
    }

    /// With the producer in whose transaction the record is written.
    fn replay(&mut self, record: Record, producer: Option<i64>) {
        let write = self.written;
        match record {
            Record::Offset(key, Some(value)) if let Some(producer) = producer => {
                self.simple_group(&key.group, write, value.commit_timestamp);
                self.offsets.put_in_transaction(write, producer, key.into(), value.into());
            }
            Record::Offset(key, value) => {
                if let Some(value) = &value {
                    self.simple_group(&key.group, write, value.commit_timestamp);
                }
                let value = value.map(Into::into);
                self.offsets.put(write, &key.group, &key.topic, key.partition, value);
            }
            Record::Group(key, None) => {
                if let Some(known) = self.groups.remove(&key.group) {
                    self.leaving.insert(key.group, (write, known));
                }
            }
            // A group changes itself; its record follows.
            Record::Group(_, Some(_)) | Record::Other(_) => {}
        }
    }

    fn simple_group(&mut self, id: &str, born: Write, now: Millis) {
        if !self.groups.contains_key(id) {
            let group = ClassicGroup::new(id, now);
            self.groups.insert(id.to_owned(), Known { group, born });
        }
    }

    /// What readers may know of.
    pub(super) fn shown(&self, id: &str) -> Option<&ClassicGroup> {
        let known = self.groups.get(id).filter(|known| known.born <= self.committed);
        let leaving = || self.leaving.get(id).map(|(_, known)| known);
        let known = known.or_else(leaving).filter(|known| known.born <= self.committed);
        known.map(|known| &known.group)
    }

    fn join(&mut self, call: JoinCall, step: &mut Step<'_>) {
        let id = call.request.group_id.to_string();
        let is_new = !self.groups.contains_key(&id);
        if is_new && !call.request.member_id.is_empty() {
            // A member of a group that is not: it must begin anew.
            let refusal =
                super::classic::refuse_join(&call.request.member_id, ErrorCode::UnknownMemberId);
            step.effects.answer(call.token, Answer::Join(refusal));
            return;
        }
        let born = if is_new { self.written + 1 } else { 0 };
        let fresh = || Known { group: ClassicGroup::new(&id, step.now), born };
        let known = self.groups.entry(id.clone()).or_insert_with(fresh);
        known.group.join(call, is_new, step);
    }

    fn sync(&mut self, token: Token, request: &SyncGroupRequest, step: &mut Step<'_>) {
        if let Some(known) = self.groups.get_mut(request.group_id.as_str()) {
            known.group.sync(token, request, step);
        } else {
            let refusal = super::classic::refuse_sync(ErrorCode::UnknownMemberId);
            step.effects.answer(token, Answer::Sync(refusal));
        }
    }

    fn heartbeat(
        &mut self,
        request: &HeartbeatRequest,
        step: &mut Step<'_>,
    ) -> Result<Answer, ErrorCode> {
        let known = self.groups.get_mut(request.group_id.as_str());
        let known = known.ok_or(ErrorCode::UnknownMemberId)?;
        let instance = request.group_instance_id.as_deref();
        known.group.heartbeat(&request.member_id, instance, request.generation_id, step)?;
        Ok(Answer::Heartbeat(HeartbeatResponse::default()))
    }

    fn leave(
        &mut self,
        request: &LeaveGroupRequest,
        step: &mut Step<'_>,
    ) -> Result<Answer, ErrorCode> {
        let known = self.groups.get_mut(request.group_id.as_str());
        let known = known.ok_or(ErrorCode::UnknownMemberId)?;
        Ok(Answer::Leave(known.group.leave(request, step)))
    }

    fn commit(
        &mut self,
        request: &OffsetCommitRequest,
        step: &mut Step<'_>,
    ) -> Result<Answer, ErrorCode> {
        let generation = request.generation_id_or_member_epoch;
        match self.groups.get(request.group_id.as_str()) {
            Some(Known { group, .. }) => {
                let instance = request.group_instance_id.as_deref();
                group.validate_commit(&request.member_id, instance, generation)?;
                group.committed(&request.member_id, step);
            }
            // Anyone may commit who does without a group.
            None if generation < 0 => {}
            None => return Err(ErrorCode::GroupIdNotFound),
        }
        let max = step.settings.offset_metadata_max;
        let (answer, records) = offsets::commit(request, max, step.now);
        step.effects.records = records;
        step.effects.replay = true;
        Ok(Answer::OffsetCommit(answer))
    }

    fn fetch(&self, request: &OffsetFetchRequestGroup, view: View) -> Answer {
        let id = request.group_id.as_str();
        let exists = match view {
            View::Newest => self.groups.contains_key(id),
            View::Committed => self.shown(id).is_some(),
        };
        Answer::OffsetFetch(offsets::fetch(&self.offsets, request, exists, view))
    }

    fn delete_offsets(
        &mut self,
        request: &OffsetDeleteRequest,
        step: &mut Step<'_>,
    ) -> Result<Answer, ErrorCode> {
        let known = self.groups.get(request.group_id.as_str());
        let group = &known.ok_or(ErrorCode::GroupIdNotFound)?.group;
        group.validate_offset_delete()?;
        let (answer, records) = offsets::delete(&self.offsets, group, request);
        step.effects.records = records;
        step.effects.replay = true;
        Ok(Answer::OffsetDelete(answer))
    }

    fn delete(&mut self, groups: &[GroupId], step: &mut Step<'_>) -> Answer {
        step.effects.replay = true;
        let results = groups.iter().map(|id| {
            let known = self.groups.get(id.as_str()).ok_or(ErrorCode::GroupIdNotFound);
            let result = known.and_then(|known| known.group.validate_delete().map(|()| known));
            if let Ok(known) = result {
                for (topic, partition, _) in self.offsets.of_group(id, View::Newest) {
                    step.effects.records.push(Record::offset(id, topic, partition, None));
                }
                for Place { topic, partition, .. } in self.offsets.unstable_of_group(id) {
                    if self.offsets.get(id, topic, *partition, View::Newest).is_none() {
                        step.effects.records.push(Record::offset(id, topic, *partition, None));
                    }
                }
                step.effects.records.push(Record::group(id, None));
                known.group.cancel_timers(step.effects);
            }
            DeletableGroupResult::default()
                .with_group_id(id.clone())
                .with_error_code(result.err().map_or(0, |code| code.code()))
        });
        Answer::Delete(results.collect())
    }
}
