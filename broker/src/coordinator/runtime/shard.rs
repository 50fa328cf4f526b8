//! What a coordinator is made of: the pure part that the runtime hosts, one for each partition of
//! an internal topic.
//!
//! A shard decides, and the runtime does: it gives the shard calls, timers that ran out and news of
//! the log, and carries out the [`Effects`] that come back. A shard knows no clock, no log and no
//! network.
//!
//! Invariants that an implementation keeps:
//! - writes are numbered upwards from 1: every step whose effects hold records, and every end of a
//!   transaction, takes the next number ([`CoordinatorShard::written`]);
//! - a write that is taken back leaves no trace, and neither do those after it;
//! - a call is answered once, in `answers`, or in `after_commit`, or by a later step.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::effects::{Effects, Token, Write};
use crate::controller::Image;
use crate::error::ErrorCode;
use crate::types::{LeaderEpoch, Millis, Offset};
use crate::wire::message::Malformed;

/// How many records one step of a sweep may write, so that they fit into a batch. A sweep that
/// wrote as many is asked for more at once.
pub const MAX_SWEPT: usize = 2_000;

/// Topics that changed since the last time, in ways that assignments rest on.
#[derive(Debug, Clone, Default)]
pub struct TopicsChanged {
    pub names: BTreeSet<Arc<str>>,
    /// Some of them are new.
    pub created: bool,
}

/// What every step may look at.
pub struct Context<'a, S: CoordinatorShard> {
    pub settings: &'a S::Settings,
    /// Wall-clock time.
    pub now: Millis,
    /// The cluster as this broker knows it.
    pub image: &'a Image,
}

/// The coordinator of all that one partition of [`Self::TOPIC`] keeps.
pub trait CoordinatorShard: Debug + Send + Sized + 'static {
    /// The internal topic whose records the state is made of.
    const TOPIC: &'static str;
    /// What it coordinates, for the log.
    const WHAT: &'static str;

    type Settings: Clone + Send + Sync + 'static;
    type Call: Send + 'static;
    /// The kind of a call, with what its error form repeats of the request.
    type Asked: Send + 'static;
    type Answer: Send + 'static;
    /// A record to be written.
    type Record: Debug + Send + 'static;
    /// Whose a timer or a continuation is: a group, a transactional id.
    type Key: Debug + Clone + Ord + Send + 'static;
    /// Names a timer of a key, which has at most one for each.
    type Slot: Debug + Clone + Ord + Send + 'static;
    type Timer: Debug + Send + 'static;
    /// What goes on once records are committed, or could not be.
    type Continuation: Debug + Send + 'static;
    /// What a step asks of the world outside of the runtime.
    type Notice: Debug + Send + 'static;

    /// An empty shard of a partition that this broker leads since `epoch`.
    fn new(partition: i32, epoch: LeaderEpoch) -> Self;

    fn asked(call: &Self::Call) -> Self::Asked;

    /// The answer that refuses all that was asked.
    fn refuse(asked: &Self::Asked, code: ErrorCode) -> Self::Answer;

    /// What a client is told when the log refuses, or does not commit in time.
    fn append_error(code: ErrorCode) -> ErrorCode;

    /// After which time a write that is not committed is answered as failed.
    fn commit_timeout(settings: &Self::Settings) -> Duration;

    /// How often [`Self::sweep`] is due.
    fn sweep_interval(settings: &Self::Settings) -> Duration;

    /// Key and value as they stand in the log; `None` for what is never written.
    fn encode(record: &Self::Record) -> Option<(Bytes, Option<Bytes>)>;

    /// The number of the last write.
    fn written(&self) -> Write;

    fn is_committed(&self, write: Write) -> bool;

    fn handle(
        &mut self,
        token: Token,
        call: Self::Call,
        asked: &Self::Asked,
        context: &Context<'_, Self>,
    ) -> Effects<Self>;

    /// A call about all shards of this broker, none of which is being loaded.
    fn handle_all(
        call: &Self::Call,
        shards: &mut dyn Iterator<Item = &Self>,
        context: &Context<'_, Self>,
    ) -> Self::Answer;

    /// A timer ran out.
    fn expire(
        &mut self,
        key: &Self::Key,
        timer: Self::Timer,
        context: &Context<'_, Self>,
    ) -> Effects<Self>;

    /// News of the records that a step gave with [`Effects::then`].
    fn stored(
        &mut self,
        key: &Self::Key,
        then: Self::Continuation,
        result: Result<(), ErrorCode>,
        context: &Context<'_, Self>,
    ) -> Effects<Self>;

    /// Writes up to `write` are committed.
    fn commit_up_to(&mut self, write: Write);

    /// `write` and all after it could not be appended, because of `code`.
    fn take_back(
        &mut self,
        write: Write,
        code: ErrorCode,
        context: &Context<'_, Self>,
    ) -> Effects<Self>;

    /// Takes in a record that was read from the log, at `offset`; with the producer in whose
    /// transaction it was written, if it was, which may still be open.
    fn load(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        producer: Option<i64>,
        offset: Offset,
    ) -> Result<(), Malformed>;

    /// The records of the writes `first` to `last` lie in the log from `base` on.
    fn appended(&mut self, _first: Write, _last: Write, _base: Offset) {}

    /// The log told the end of a producer's transaction.
    fn load_end(&mut self, _producer: i64, _committed: bool) {}

    /// All records are in.
    fn loaded(&mut self, context: &Context<'_, Self>) -> Effects<Self>;

    /// The partition goes to another broker: all that wait within the shard are told.
    fn unload(&mut self, context: &Context<'_, Self>) -> Effects<Self>;

    /// From time to time: what has expired.
    fn sweep(&mut self, context: &Context<'_, Self>) -> Effects<Self>;

    /// Topics were created, deleted, or have other partitions or replicas than before.
    fn topics_changed(&mut self, _topics: &TopicsChanged, _context: &Context<'_, Self>) {}

    /// Topics were deleted.
    fn topics_deleted(
        &mut self,
        _topics: &[(String, Uuid)],
        _context: &Context<'_, Self>,
    ) -> Effects<Self> {
        Effects::default()
    }

    /// The marker that ends a producer's transaction is about to be appended, as the next write:
    /// takes that number.
    fn end_transaction(&mut self, producer: i64, committed: bool);
}
