//! One partition that this broker leads: its shard, the batch being collected, and what waits for
//! batches on their way.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::coordinator::group::classic::Continuation;
use crate::coordinator::group::effects::{Answer, Token};
use crate::coordinator::group::offsets::Write;
use crate::coordinator::group::records::Record;
use crate::coordinator::group::shard::Shard;
use crate::types::{LeaderEpoch, Millis};
use crate::wire::records::BatchBuilder;

/// A batch that has grown to this is sent; one write more fits below Kafka's 1 MiB, unless that
/// alone is too large.
const FULL: usize = 256 << 10;

pub(super) enum Hosted {
    Loading(LeaderEpoch),
    /// Could not be loaded; a newer leader epoch tries again.
    Failed(LeaderEpoch),
    Active(Box<Active>),
}

impl Hosted {
    pub fn epoch(&self) -> LeaderEpoch {
        match self {
            Self::Loading(epoch) | Self::Failed(epoch) => *epoch,
            Self::Active(active) => active.epoch,
        }
    }
}

/// What goes on when a write is committed.
pub(super) enum Waiting {
    Answer(Token, Answer),
    Group(String, Continuation),
}

pub(super) struct Active {
    pub epoch: LeaderEpoch,
    pub shard: Shard,
    /// With the number of its first write.
    batch: Option<(Write, BatchBuilder)>,
    waiting: VecDeque<(Write, Waiting)>,
}

impl Active {
    pub fn new(epoch: LeaderEpoch, shard: Shard) -> Self {
        Self { epoch, shard, batch: None, waiting: VecDeque::new() }
    }

    /// Adds the records of the shard's newest write.
    pub fn collect(&mut self, records: &[Record], now: Millis) {
        let write = self.shard.written();
        let (_, batch) = self.batch.get_or_insert_with(|| (write, BatchBuilder::new()));
        for (key, value) in records.iter().filter_map(Record::encode) {
            batch.push(now, Some(&key), value.as_deref());
        }
    }

    pub fn is_batch_full(&self) -> bool {
        self.batch.as_ref().is_some_and(|(_, batch)| batch.size() >= FULL)
    }

    /// The batch, with the numbers of its first and last write.
    pub fn take_batch(&mut self) -> Option<(Write, Write, Bytes)> {
        let (first, batch) = self.batch.take()?;
        Some((first, self.shard.written(), batch.leader_epoch(self.epoch).build()))
    }

    /// `waiting` goes on once all that was written so far is committed; it is given back if that
    /// is the case now.
    pub fn wait(&mut self, waiting: Waiting) -> Option<Waiting> {
        let write = self.shard.written();
        if self.shard.is_committed(write) {
            return Some(waiting);
        }
        self.waiting.push_back((write, waiting));
        None
    }

    /// Takes what waits for writes up to `write`.
    pub fn take_waiting_to(&mut self, write: Write) -> Vec<Waiting> {
        let count = self.waiting.partition_point(|(at, _)| *at <= write);
        self.waiting.drain(..count).map(|(_, waiting)| waiting).collect()
    }

    /// Takes what waits for `write` and all after it.
    pub fn take_waiting_from(&mut self, write: Write) -> Vec<Waiting> {
        let keep = self.waiting.partition_point(|(at, _)| *at < write);
        self.waiting.drain(keep..).map(|(_, waiting)| waiting).collect()
    }
}
