//! Groups as the runtime hosts them.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::call::{Asked, Call};
use super::classic::{Continuation, append_error};
use super::effects::{Answer, Effects, Token};
use super::offsets::Write;
use super::records::Record;
use super::settings::GroupSettings;
use super::shard::Shard;
use super::timers::{Slot, Timer};
use crate::coordinator::runtime::{Context, CoordinatorShard, GROUP_METADATA_TOPIC, TopicsChanged};
use crate::error::ErrorCode;
use crate::types::{LeaderEpoch, Offset};
use crate::wire::message::Malformed;

impl CoordinatorShard for Shard {
    const TOPIC: &'static str = GROUP_METADATA_TOPIC;
    const WHAT: &'static str = "groups";

    type Settings = GroupSettings;
    type Call = Call;
    type Asked = Asked;
    type Answer = Answer;
    type Record = Record;
    type Key = String;
    type Slot = Slot;
    type Timer = Timer;
    type Continuation = Continuation;
    type Notice = Infallible;

    fn new(_: i32, _: LeaderEpoch) -> Self {
        Self::default()
    }

    fn asked(call: &Call) -> Asked {
        call.asked()
    }

    fn refuse(asked: &Asked, code: ErrorCode) -> Answer {
        asked.refuse(code)
    }

    fn append_error(code: ErrorCode) -> ErrorCode {
        append_error(code)
    }

    fn commit_timeout(settings: &GroupSettings) -> Duration {
        settings.offsets_commit_timeout
    }

    fn sweep_interval(settings: &GroupSettings) -> Duration {
        settings.offsets_retention_check_interval
    }

    fn encode(record: &Record) -> Option<(Bytes, Option<Bytes>)> {
        record.encode()
    }

    fn written(&self) -> Write {
        self.written()
    }

    fn is_committed(&self, write: Write) -> bool {
        self.is_committed(write)
    }

    fn handle(
        &mut self,
        token: Token,
        call: Call,
        asked: &Asked,
        context: &Context<'_, Self>,
    ) -> Effects {
        self.handle(token, call.with_token(token), asked, context)
    }

    fn handle_all(
        call: &Call,
        shards: &mut dyn Iterator<Item = &Self>,
        _: &Context<'_, Self>,
    ) -> Answer {
        let Call::List { states, types } = call else {
            return call.asked().refuse(ErrorCode::InvalidRequest);
        };
        Answer::List(Ok(shards.flat_map(|shard| shard.list(states, types)).collect()))
    }

    fn expire(&mut self, group: &String, timer: Timer, context: &Context<'_, Self>) -> Effects {
        self.expire(group, timer, context)
    }

    fn stored(
        &mut self,
        group: &String,
        then: Continuation,
        result: Result<(), ErrorCode>,
        context: &Context<'_, Self>,
    ) -> Effects {
        self.stored(group, then, result, context)
    }

    fn commit_up_to(&mut self, write: Write) {
        self.commit_up_to(write);
    }

    fn take_back(&mut self, write: Write, code: ErrorCode, context: &Context<'_, Self>) -> Effects {
        self.take_back(write, code, context)
    }

    fn load(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        producer: Option<i64>,
        _: Offset,
    ) -> Result<(), Malformed> {
        match (Record::decode(key, value)?, producer) {
            (record, None) => self.load(record),
            (Record::Offset(key, Some(value)), Some(producer)) => {
                self.load_in_transaction(producer, key, value);
            }
            // Kafka writes nothing else in transactions.
            (_, Some(_)) => {}
        }
        Ok(())
    }

    fn load_end(&mut self, producer: i64, committed: bool) {
        self.load_end(producer, committed);
    }

    fn loaded(&mut self, context: &Context<'_, Self>) -> Effects {
        self.loaded(context)
    }

    fn unload(&mut self, context: &Context<'_, Self>) -> Effects {
        self.unload(context)
    }

    fn sweep(&mut self, context: &Context<'_, Self>) -> Effects {
        self.expire_offsets(context)
    }

    fn topics_changed(&mut self, topics: &TopicsChanged, context: &Context<'_, Self>) {
        let names = topics.names.iter().map(|name| &**name);
        self.topics_changed(names, topics.created.then_some(context.image.offset));
    }

    fn topics_deleted(&mut self, topics: &[(String, Uuid)], _: &Context<'_, Self>) -> Effects {
        self.topics_deleted(topics)
    }

    fn end_transaction(&mut self, producer: i64, committed: bool) {
        self.end_transaction(producer, committed);
    }
}
