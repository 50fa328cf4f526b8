//! Transactional ids as the runtime hosts them.

use std::time::Duration;

use bytes::Bytes;

use super::TRANSACTION_STATE_TOPIC;
use super::call::{Answer, Call};
use super::records::Record;
use super::settings::TransactionSettings;
use super::shard::{Effects, Notice, Shard, Transition};
use crate::coordinator::runtime::{Context, CoordinatorShard, Token, Write};
use crate::error::ErrorCode;
use crate::types::{LeaderEpoch, Offset};
use crate::wire::message::Malformed;

impl CoordinatorShard for Shard {
    const TOPIC: &'static str = TRANSACTION_STATE_TOPIC;
    const WHAT: &'static str = "transactions";

    type Settings = TransactionSettings;
    type Call = Call;
    type Asked = ();
    type Answer = Answer;
    type Record = Record;
    /// Empty for transitions: each names its transactional id.
    type Key = String;
    type Slot = ();
    type Timer = ();
    type Continuation = Vec<Transition>;
    type Notice = Notice;

    fn new(_: i32, epoch: LeaderEpoch) -> Self {
        Self::new(epoch)
    }

    fn asked(_: &Call) {}

    fn refuse((): &(), code: ErrorCode) -> Answer {
        Answer::Refused(code)
    }

    fn append_error(code: ErrorCode) -> ErrorCode {
        match code {
            ErrorCode::UnknownTopicOrPartition
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::NotEnoughReplicasAfterAppend
            | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
            ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => {
                ErrorCode::NotCoordinator
            }
            ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => {
                ErrorCode::UnknownServerError
            }
            other => other,
        }
    }

    fn commit_timeout(settings: &TransactionSettings) -> Duration {
        settings.commit_timeout
    }

    fn sweep_interval(settings: &TransactionSettings) -> Duration {
        settings.abort_interval
    }

    fn encode(record: &Record) -> Option<(Bytes, Option<Bytes>)> {
        Some(record.encode())
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
        (): &(),
        context: &Context<'_, Self>,
    ) -> Effects {
        self.handle(token, call, context)
    }

    fn handle_all(
        call: &Call,
        shards: &mut dyn Iterator<Item = &Self>,
        context: &Context<'_, Self>,
    ) -> Answer {
        let Call::List(filter) = call else { return Answer::Refused(ErrorCode::InvalidRequest) };
        let mut listed = Vec::new();
        for shard in shards {
            listed.extend(shard.list(filter, context.now));
        }
        Answer::Listed(listed)
    }

    fn expire(&mut self, id: &String, (): (), context: &Context<'_, Self>) -> Effects {
        self.retry(id, context)
    }

    fn stored(
        &mut self,
        _: &String,
        then: Vec<Transition>,
        result: Result<(), ErrorCode>,
        context: &Context<'_, Self>,
    ) -> Effects {
        self.stored(then, result, context)
    }

    fn commit_up_to(&mut self, write: Write) {
        self.commit_up_to(write);
    }

    fn take_back(&mut self, write: Write, _: ErrorCode, _: &Context<'_, Self>) -> Effects {
        self.take_back(write);
        Effects::default()
    }

    fn load(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        _: Option<i64>,
        _: Offset,
    ) -> Result<(), Malformed> {
        if let Some(record) = Record::decode(key, value)? {
            self.load(record);
        }
        Ok(())
    }

    fn loaded(&mut self, context: &Context<'_, Self>) -> Effects {
        self.loaded(context)
    }

    fn unload(&mut self, _: &Context<'_, Self>) -> Effects {
        Effects { notices: vec![Notice::Unloaded], ..Effects::default() }
    }

    fn sweep(&mut self, context: &Context<'_, Self>) -> Effects {
        self.sweep(context)
    }

    /// Nobody writes to this topic in transactions; a marker that comes all the same is a write.
    fn end_transaction(&mut self, _: i64, _: bool) {
        self.skip_write();
    }
}
