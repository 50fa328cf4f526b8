//! One partition that this broker leads: its shard, the batches being collected, and what waits
//! for batches on their way.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::effects::{Token, Write};
use super::shard::CoordinatorShard;
use crate::error::ErrorCode;
use crate::types::{LeaderEpoch, Millis};
use crate::wire::records::{BatchBuilder, EndTransactionMarker};

/// A batch that has grown to this is sent; one write more fits below Kafka's 1 MiB, unless that
/// alone is too large.
const FULL: usize = 256 << 10;
/// Coordinators write in transactions without a sequence, as Kafka's do.
const NO_SEQUENCE: i32 = -1;

pub(super) enum Hosted<S: CoordinatorShard> {
    Loading(LeaderEpoch),
    /// Could not be loaded; a newer leader epoch tries again.
    Failed(LeaderEpoch),
    Active(Box<Active<S>>),
}

impl<S: CoordinatorShard> Hosted<S> {
    pub fn epoch(&self) -> LeaderEpoch {
        match self {
            Self::Loading(epoch) | Self::Failed(epoch) => *epoch,
            Self::Active(active) => active.epoch,
        }
    }
}

/// What goes on when a write is committed.
pub(super) enum Waiting<S: CoordinatorShard> {
    Answer(Token, S::Answer),
    Shard(S::Key, S::Continuation),
    /// Whoever had a marker appended.
    Marker(oneshot::Sender<Result<(), ErrorCode>>),
}

/// The end of a producer's transaction, as WriteTxnMarkers tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionEnd {
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// Of the transaction coordinator.
    pub coordinator_epoch: i32,
    pub committed: bool,
}

/// Writes that go into the log together.
struct Batch {
    first: Write,
    last: Write,
    content: Content,
}

enum Content {
    /// With the producer in whose transaction they are written.
    Records(Option<(i64, i16)>, BatchBuilder),
    Marker(TransactionEnd, Millis),
}

pub(super) struct Active<S: CoordinatorShard> {
    pub epoch: LeaderEpoch,
    pub shard: S,
    batches: VecDeque<Batch>,
    waiting: VecDeque<(Write, Waiting<S>)>,
}

impl<S: CoordinatorShard> Active<S> {
    pub fn new(epoch: LeaderEpoch, shard: S) -> Self {
        Self { epoch, shard, batches: VecDeque::new(), waiting: VecDeque::new() }
    }

    /// Adds the records of the shard's newest write.
    pub fn collect(&mut self, records: &[S::Record], transaction: Option<(i64, i16)>, now: Millis) {
        let write = self.shard.written();
        let fits = |batch: &Batch| match &batch.content {
            Content::Records(of, builder) => *of == transaction && builder.size() < FULL,
            Content::Marker(..) => false,
        };
        if !self.batches.back().is_some_and(fits) {
            let builder = match transaction {
                Some((id, epoch)) => {
                    BatchBuilder::new().producer(id, epoch, NO_SEQUENCE).transactional()
                }
                None => BatchBuilder::new(),
            };
            let content = Content::Records(transaction, builder);
            self.batches.push_back(Batch { first: write, last: write, content });
        }
        let Some(batch) = self.batches.back_mut() else { return };
        batch.last = write;
        if let Content::Records(_, builder) = &mut batch.content {
            for (key, value) in records.iter().filter_map(S::encode) {
                builder.push(now, Some(&key), value.as_deref());
            }
        }
    }

    /// Adds the marker that is the shard's newest write.
    pub fn collect_marker(&mut self, end: TransactionEnd, now: Millis) {
        let write = self.shard.written();
        let content = Content::Marker(end, now);
        self.batches.push_back(Batch { first: write, last: write, content });
    }

    pub fn is_batch_full(&self) -> bool {
        self.batches
            .iter()
            .any(|batch| matches!(&batch.content, Content::Records(_, it) if it.size() >= FULL))
    }

    /// The oldest batch, with the numbers of its first and last write.
    pub fn take_batch(&mut self) -> Option<(Write, Write, Bytes)> {
        let Batch { first, last, content } = self.batches.pop_front()?;
        let bytes = match content {
            Content::Records(_, builder) => builder.leader_epoch(self.epoch).build(),
            Content::Marker(end, now) => {
                let marker = EndTransactionMarker {
                    committed: end.committed,
                    coordinator_epoch: end.coordinator_epoch,
                };
                BatchBuilder::end_transaction(end.producer_id, end.producer_epoch, marker, now)
            }
        };
        Some((first, last, bytes))
    }

    /// Nothing of what was collected is appended.
    pub fn drop_batches(&mut self) {
        self.batches.clear();
    }

    /// `waiting` goes on once all that was written so far is committed; it is given back if that
    /// is the case now.
    pub fn wait(&mut self, waiting: Waiting<S>) -> Option<Waiting<S>> {
        let write = self.shard.written();
        if self.shard.is_committed(write) {
            return Some(waiting);
        }
        self.waiting.push_back((write, waiting));
        None
    }

    /// Takes what waits for writes up to `write`.
    pub fn take_waiting_to(&mut self, write: Write) -> Vec<Waiting<S>> {
        let count = self.waiting.partition_point(|(at, _)| *at <= write);
        self.waiting.drain(..count).map(|(_, waiting)| waiting).collect()
    }

    /// Takes what waits for `write` and all after it.
    pub fn take_waiting_from(&mut self, write: Write) -> Vec<Waiting<S>> {
        let keep = self.waiting.partition_point(|(at, _)| *at < write);
        self.waiting.drain(keep..).map(|(_, waiting)| waiting).collect()
    }
}
