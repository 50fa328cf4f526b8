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

use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;

use super::call::{Asked, Call};
use super::classic::{ClassicGroup, Continuation, Step, append_error};
use super::consumer::ConsumerGroup;
use super::effects::{Answer, Effects, Token};
use super::kind::Group;
use super::modern::Refresh;
use super::offsets::{Offsets, View, Write};
use super::records::{ConsumerRecord, Record};
use super::streams;
use super::timeline::Timelines;
use crate::coordinator::runtime;
use crate::error::ErrorCode;
use crate::types::{Millis, Offset};

/// How many deletions one write may carry, so that it fits into a batch.
pub use crate::coordinator::runtime::MAX_SWEPT as MAX_TOMBSTONES;

/// What every step may look at.
pub type Context<'a> = runtime::Context<'a, Shard>;

#[derive(Debug, Default)]
pub struct Shard {
    pub(super) groups: Timelines<Group>,
    pub(super) offsets: Offsets,
    /// The metadata offset at which topics were created last, as far as this shard knows.
    pub(super) topics_created_at: Offset,
    /// What a group knows of the cluster from the next write on.
    pub(super) refreshed: Option<(String, Refresh)>,
    /// Since when states of a share group are being initialized, from the next write on.
    pub(super) initializing: Option<(String, Millis)>,
    /// What a streams group knows beyond its records, from the next write on.
    pub(super) remembered: Option<(String, streams::Memory)>,
    pub(super) written: Write,
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

    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().map(|(_, group)| group)
    }

    /// Carries out a call. An error is for all of it; [`Asked::refuse`] gives it its form.
    pub fn handle(
        &mut self,
        token: Token,
        call: Call,
        asked: &Asked,
        context: &Context<'_>,
    ) -> Effects {
        let mut effects = Effects::default();
        let step = &mut step(context, &mut effects);
        let result = match call {
            Call::Join(call) => {
                self.join(*call, context, step);
                Ok(None)
            }
            Call::Sync(request) => Ok(self.sync(token, &request, context, step).map(Answer::Sync)),
            Call::Heartbeat(request) => self.heartbeat(&request, context, step).map(Some),
            Call::Leave(request) => self.leave(&request, context, step).map(Some),
            Call::ConsumerHeartbeat(call) => {
                Ok(self.consumer_heartbeat(token, &call, context, step))
            }
            Call::OffsetCommit { request, version } => {
                self.commit(&request, version, step).map(Some)
            }
            Call::TxnOffsetCommit(call) => {
                self.commit_in_transaction(&call, context, step).map(Some)
            }
            Call::OffsetFetch { group, require_stable: true } => {
                self.fetch(&group, View::Newest).map(Some)
            }
            Call::OffsetFetch { group, require_stable: false } => {
                self.fetch(&group, View::Committed).map(|answer| {
                    step.effects.answer(token, answer);
                    None
                })
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
            Call::ConsumerDescribe { groups } => {
                let assignor = context.settings.consumer.default_assignor();
                let answer = self.describe_consumers(&groups, assignor, context.image);
                step.effects.answer(token, Answer::ConsumerDescribe(answer));
                Ok(None)
            }
            Call::Delete { groups } => Ok(Some(self.delete(&groups, step))),
            Call::ShareHeartbeat(call) => {
                Ok(Some(Answer::ShareHeartbeat(self.share_heartbeat(&call, context, step))))
            }
            Call::ShareInitialized { group, topics } => {
                Ok(Some(Answer::ShareStates(self.share_initialized(&group, &topics, step))))
            }
            Call::StreamsHeartbeat(call) => {
                Ok(Some(Answer::StreamsHeartbeat(self.streams_heartbeat(&call, context, step))))
            }
            Call::StreamsDescribe { groups } => {
                step.effects.answer(token, Answer::StreamsDescribe(self.describe_streams(&groups)));
                Ok(None)
            }
            Call::ShareStates { group } => Ok(Some(Answer::ShareStates(self.share_states(&group)))),
            Call::ShareAlter { group, topics } => {
                Ok(Some(Answer::ShareStates(self.share_alter(&group, &topics, context, step))))
            }
            Call::ShareForget { group, topics } => {
                Ok(Some(Answer::ShareStates(self.share_forget(&group, &topics, step))))
            }
            Call::ShareDescribe { groups } => {
                let answer = self.describe_shares(&groups, context.image);
                step.effects.answer(token, Answer::ShareDescribe(answer));
                Ok(None)
            }
        };
        match result {
            Ok(Some(answer)) => effects.after_commit = Some((token, answer)),
            Ok(None) => {}
            Err(code) => effects.answer(token, asked.refuse(code)),
        }
        self.number(&mut effects);
        effects
    }

    /// News of the record that a group waits for.
    pub fn stored(
        &mut self,
        group: &str,
        then: Continuation,
        result: Result<(), ErrorCode>,
        context: &Context<'_>,
    ) -> Effects {
        let mut effects = Effects::default();
        match (self.groups.get_mut(group), then, result) {
            (Some(Group::Classic(group)), then, result) => {
                group.stored(then, result, &mut step(context, &mut effects));
            }
            // The group went with its record; its first member must still hear of it.
            (_, Continuation::Created { join }, Err(code)) => {
                effects.answer(join, Asked::Join.refuse(append_error(code)));
            }
            // Whoever waited was answered when the group went.
            _ => {}
        }
        self.number(&mut effects);
        effects
    }

    /// Writes up to `write` are committed.
    pub fn commit_up_to(&mut self, write: Write) {
        self.committed = self.committed.max(write);
        self.offsets.committed(write);
        self.groups.commit(write);
    }

    /// Write `write` and all after it could not be appended, because of `code`. Groups that they
    /// made are gone, and whoever waits in them is answered; groups that they changed or deleted
    /// are as before.
    pub fn take_back(&mut self, write: Write, code: ErrorCode, context: &Context<'_>) -> Effects {
        let mut effects = Effects::default();
        self.written = self.written.min(write - 1);
        self.offsets.take_back(write);
        for (id, gone) in self.groups.take_back(write) {
            if let Some(mut gone) = gone {
                gone.cancel_timers(&mut effects);
                gone.unload(append_error(code), &mut step(context, &mut effects));
            }
            if let Some(group) = self.groups.get_mut(&id) {
                group.loaded(context.image, &mut step(context, &mut effects));
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
                self.groups.load(&key.group, Some(Group::classic(group)));
            }
            Record::Group(key, None) => {
                if self.groups.get(&key.group).is_some_and(|it| it.as_classic().is_some()) {
                    self.groups.load(&key.group, None);
                }
            }
            Record::Consumer(record) => self.load_consumer(record),
            Record::Share(record) => self.take_share(None, record),
            Record::Streams(record) => self.take_streams(None, record),
            Record::Other(_) => {}
        }
    }

    /// All records are in: sessions begin.
    pub fn loaded(&mut self, context: &Context<'_>) -> Effects {
        let mut effects = Effects::default();
        self.topics_created_at = context.image.offset;
        for (_, group) in self.groups.iter_mut() {
            group.loaded(context.image, &mut step(context, &mut effects));
        }
        self.number(&mut effects);
        effects
    }

    /// The partition goes to another broker: all that wait in a group are told.
    pub fn unload(&mut self, context: &Context<'_>) -> Effects {
        let mut effects = Effects::default();
        for (_, group) in self.groups.iter_mut() {
            group.unload(ErrorCode::NotCoordinator, &mut step(context, &mut effects));
        }
        effects
    }

    /// Topics were created, or have other partitions than before: the next heartbeat of each group
    /// that reads one looks at them.
    pub fn topics_changed<'a>(
        &mut self,
        topics: impl Iterator<Item = &'a str> + Clone,
        created_at: Option<Offset>,
    ) {
        self.topics_created_at = created_at.unwrap_or(self.topics_created_at);
        for (_, group) in self.groups.iter_mut() {
            group.topics_changed(topics.clone());
        }
    }

    /// Gives the records of a step their number, and makes them true if they are to be replayed.
    pub(super) fn number(&mut self, effects: &mut Effects) {
        if !effects.records.is_empty() {
            self.written += 1;
            if effects.replay {
                let producer = effects.transaction.map(|it| it.producer_id);
                for record in effects.records.clone() {
                    self.replay(record, producer);
                }
            }
        }
        if let Some((id, since)) = self.initializing.take()
            && let Some(group) = self.groups.get_mut(&id).and_then(Group::as_share_mut)
        {
            group.initializing_since = Some(since);
        }
        if let Some((id, memory)) = self.remembered.take()
            && let Some(group) = self.groups.get_mut(&id).and_then(Group::as_streams_mut)
        {
            group.remember(memory);
        }
        if let Some((id, refresh)) = self.refreshed.take()
            && let Some(group) = self.groups.get_mut(&id)
        {
            group.set_refresh(refresh);
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
                if self.groups.get(&key.group).is_some() {
                    self.groups.put(write, &key.group, None);
                }
            }
            Record::Consumer(record) => self.replay_consumer(write, record),
            Record::Share(record) => self.take_share(Some(write), record),
            Record::Streams(record) => self.take_streams(Some(write), record),
            // A classic group changes itself; its record follows.
            Record::Group(_, Some(_)) | Record::Other(_) => {}
        }
    }

    fn replay_consumer(&mut self, write: Write, record: ConsumerRecord) {
        let id = record.group().to_owned();
        match self.groups.get(&id) {
            Some(Group::Consumer(_)) if matches!(record, ConsumerRecord::Epoch(_, None)) => {
                return self.groups.put(write, &id, None);
            }
            Some(Group::Consumer(_)) => self.groups.keep(write, &id),
            Some(Group::Share(_) | Group::Streams(_)) => return,
            // Offsets made it known before its first record came.
            Some(Group::Classic(group)) if !group.is_simple() => return,
            _ if record.is_tombstone() => return,
            _ => {
                let group = Group::Consumer(Box::new(ConsumerGroup::new(&id)));
                self.groups.put(write, &id, Some(group));
            }
        }
        if let Some(group) = self.groups.get_mut(&id).and_then(Group::as_consumer_mut) {
            group.replay(record);
        }
    }

    fn load_consumer(&mut self, record: ConsumerRecord) {
        let id = record.group().to_owned();
        match self.groups.get(&id) {
            Some(Group::Consumer(_)) if matches!(record, ConsumerRecord::Epoch(_, None)) => {
                return self.groups.load(&id, None);
            }
            Some(Group::Consumer(_)) => {}
            Some(Group::Share(_) | Group::Streams(_)) => return,
            Some(Group::Classic(group)) if !group.is_simple() => {
                tracing::warn!(group = id, "a record of a consumer group is of a classic one");
                return;
            }
            _ if record.is_tombstone() => return,
            _ => {
                let group = Group::Consumer(Box::new(ConsumerGroup::new(&id)));
                self.groups.load(&id, Some(group));
            }
        }
        if let Some(group) = self.groups.get_mut(&id).and_then(Group::as_consumer_mut) {
            group.replay(record);
        }
    }

    pub(super) fn simple_group(&mut self, id: &str, born: Write, now: Millis) {
        if self.groups.get(id).is_none() {
            let group = Group::classic(ClassicGroup::new(id, now));
            match born {
                0 => self.groups.load(id, Some(group)),
                write => self.groups.put(write, id, Some(group)),
            }
        }
    }

    /// Whether readers may know of the offsets that `request` wants, and who asks may have them.
    pub(super) fn validate_fetch(
        &self,
        request: &OffsetFetchRequestGroup,
        view: View,
    ) -> Result<bool, ErrorCode> {
        let id = request.group_id.as_str();
        let group = match view {
            View::Newest => self.groups.get(id),
            View::Committed => self.groups.committed(id),
        };
        match group {
            None => Ok(false),
            Some(Group::Classic(_)) => Ok(true),
            Some(Group::Consumer(group)) => {
                let member = request.member_id.as_deref();
                group.validate_fetch(member, request.member_epoch).map(|()| true)
            }
            Some(Group::Streams(group)) => {
                let member = request.member_id.as_deref();
                group.validate_fetch(member, request.member_epoch).map(|()| true)
            }
            Some(Group::Share(_)) => Err(ErrorCode::GroupIdNotFound),
        }
    }
}

/// What the steps of a classic group look at.
pub(super) fn step<'a>(context: &Context<'a>, effects: &'a mut Effects) -> Step<'a> {
    Step { settings: context.settings, now: context.now, effects }
}
