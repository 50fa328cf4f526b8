//! The share coordinator's shard as the runtime hosts it.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::SHARE_STATE_TOPIC;
use super::records::Record;
use super::settings::ShareSettings;
use super::shard::{Answer, Asked, Call, Shard};
use crate::coordinator::runtime::{Context, CoordinatorShard, Effects, MAX_SWEPT, Token, Write};
use crate::error::ErrorCode;
use crate::replica::Partitions;
use crate::types::{LeaderEpoch, Offset};
use crate::wire::message::Malformed;

/// Records of the shard's partition below `needed_from` are of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prune {
    pub needed_from: Offset,
}

impl Prune {
    /// Lets the log of the state begin where it is still needed.
    pub fn carry_out(self, partitions: &Partitions, partition: i32, epoch: LeaderEpoch) {
        let Ok(led) = partitions.as_leader(SHARE_STATE_TOPIC, partition, epoch) else { return };
        if self.needed_from <= led.log().start_offset() {
            return;
        }
        match led.delete_records(self.needed_from) {
            Ok(offset) => tracing::info!(partition, offset, "old states of share groups go"),
            Err(code) => tracing::warn!(partition, ?code, "old states of share groups stay"),
        }
    }
}

fn replayed(records: Vec<Record>) -> Effects<Shard> {
    Effects { records, replay: true, ..Effects::default() }
}

impl CoordinatorShard for Shard {
    const TOPIC: &'static str = SHARE_STATE_TOPIC;
    const WHAT: &'static str = "states of share groups";

    type Settings = ShareSettings;
    type Call = Call;
    type Asked = Asked;
    type Answer = Answer;
    type Record = Record;
    type Key = ();
    type Slot = ();
    type Timer = Infallible;
    type Continuation = Infallible;
    type Notice = Prune;

    fn new(_: i32, _: LeaderEpoch) -> Self {
        Self::default()
    }

    fn asked(call: &Call) -> Asked {
        call.what.asked()
    }

    fn refuse(asked: &Asked, code: ErrorCode) -> Answer {
        asked.refuse(code.into())
    }

    fn append_error(code: ErrorCode) -> ErrorCode {
        crate::coordinator::group::classic::append_error(code)
    }

    fn commit_timeout(settings: &ShareSettings) -> Duration {
        settings.write_timeout
    }

    fn sweep_interval(settings: &ShareSettings) -> Duration {
        settings.prune_interval.min(settings.cold_after)
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
        _: &Asked,
        context: &Context<'_, Self>,
    ) -> Effects<Self> {
        let topic = context.image.topic_by_id(call.key.topic_id);
        let exists = topic.is_some_and(|it| it.partitions.contains_key(&call.key.partition));
        let (records, answer) = self.handle(call, exists, context.settings, context.now);
        Effects { after_commit: Some((token, answer)), ..replayed(records) }
    }

    /// Nobody asks about all share partitions at once.
    fn handle_all(
        call: &Call,
        _: &mut dyn Iterator<Item = &Self>,
        _: &Context<'_, Self>,
    ) -> Answer {
        call.what.asked().refuse(ErrorCode::InvalidRequest.into())
    }

    fn expire(&mut self, (): &(), timer: Infallible, _: &Context<'_, Self>) -> Effects<Self> {
        match timer {}
    }

    fn stored(
        &mut self,
        (): &(),
        then: Infallible,
        _: Result<(), ErrorCode>,
        _: &Context<'_, Self>,
    ) -> Effects<Self> {
        match then {}
    }

    fn commit_up_to(&mut self, write: Write) {
        self.commit_up_to(write);
    }

    fn take_back(&mut self, write: Write, _: ErrorCode, _: &Context<'_, Self>) -> Effects<Self> {
        self.take_back(write);
        Effects::default()
    }

    fn load(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        _: Option<i64>,
        offset: Offset,
    ) -> Result<(), Malformed> {
        self.take(Record::decode(key, value)?, Some(offset));
        Ok(())
    }

    fn appended(&mut self, first: Write, last: Write, base: Offset) {
        self.appended_at(first, last, base);
    }

    fn loaded(&mut self, _: &Context<'_, Self>) -> Effects<Self> {
        Effects::default()
    }

    fn unload(&mut self, _: &Context<'_, Self>) -> Effects<Self> {
        Effects::default()
    }

    fn sweep(&mut self, context: &Context<'_, Self>) -> Effects<Self> {
        let prune = self.needed_from().map(|needed_from| Prune { needed_from });
        let records = self.snapshot_cold(MAX_SWEPT, context.settings, context.now);
        Effects { notices: prune.into_iter().collect(), ..replayed(records) }
    }

    fn topics_deleted(
        &mut self,
        topics: &[(String, Uuid)],
        _: &Context<'_, Self>,
    ) -> Effects<Self> {
        replayed(self.forget_topics(topics, MAX_SWEPT))
    }

    /// Nobody writes state in transactions; a marker is a write all the same.
    fn end_transaction(&mut self, _: i64, _: bool) {
        self.number();
    }
}
