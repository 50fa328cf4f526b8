//! The log of one partition: its parts, what it publishes, and its plain accessors.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use super::checkpoint;
use super::config::{FlushPolicy, LogConfig};
use super::epochs::Epochs;
use super::producer_state::{Guard, Producer, ProducerState};
use super::segment::{Home, Segment};
use super::shared::Shared;
use super::tail_cache::Tail;
use crate::error::{Fault, Refusal};
use crate::types::{LeaderEpoch, Millis, Offset, TopicPartition};

pub(super) type Segments = BTreeMap<Offset, Arc<Segment>>;

/// Is told when records of a log became durable. Called from the flusher: do little, wait for
/// nothing.
pub trait SyncListener: Send + Sync {
    /// All records below `offset` are on the disk. With [`FlushPolicy::PageCache`] this comes only
    /// with a roll; the synced offset then follows each append at once and needs no notice.
    fn synced(&self, offset: Offset);
}

/// The log of one partition. All methods can be called from any thread; those whose description
/// says "blocking" wait for the disk and belong into [`crate::env::Env::blocking`].
pub struct Log {
    pub(super) me: Weak<Log>,
    pub(super) partition: TopicPartition,
    pub(super) topic_id: Mutex<Option<Uuid>>,
    pub(super) shared: Arc<Shared>,
    pub(super) home: Arc<Home>,
    pub(super) config: ArcSwap<LogConfig>,
    pub(super) writer: Mutex<Writer>,
    pub(super) segments: ArcSwap<Segments>,
    pub(super) epochs: Mutex<Epochs>,
    pub(super) tail: Tail,
    pub(super) start: AtomicI64,
    pub(super) end: AtomicI64,
    /// All below is on the disk: the recovery point.
    pub(super) flushed: AtomicI64,
    /// The first offset of a transaction that is ongoing or not known to be decided everywhere;
    /// `Offset::MAX`: there is none.
    pub(super) unstable: AtomicI64,
    /// Some of these wait for the high watermark to pass their marker.
    pub(super) unreplicated: AtomicBool,
    /// Some segment has, or had, an index of aborted transactions.
    pub(super) any_aborted: AtomicBool,
    /// Is in the flusher's queue.
    pub(super) dirty: AtomicBool,
    /// Grows when offsets come to mean other records.
    pub(super) truncations: AtomicI64,
    /// Taken, before the writer lock, by what must not run while files are synced.
    pub(super) flushing: Mutex<()>,
    pub(super) deleted: AtomicBool,
    /// By a clean shutdown: nothing is appended any more.
    pub(super) closed: AtomicBool,
    pub(super) listener: RwLock<Option<Arc<dyn SyncListener>>>,
    /// A producer snapshot that belongs to the recovery point and not to a segment.
    pub(super) extra_snapshot: Mutex<Option<Offset>>,
    /// Nothing from here on is told to be durable: see [`Log::take_over`].
    pub(super) held: AtomicI64,
}

/// What only the holder of the writer lock changes.
pub(super) struct Writer {
    pub(super) active: Arc<Segment>,
    pub(super) producers: ProducerState,
    /// Sealed, not yet synced.
    pub(super) unsynced: Vec<Arc<Segment>>,
    /// Producer snapshots that were taken and are not yet in their files.
    pub(super) snapshots: Vec<(Offset, Vec<u8>)>,
    /// Files were created whose names are not yet durable.
    pub(super) names: bool,
}

impl Log {
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }
    pub fn topic_id(&self) -> Option<Uuid> {
        *self.topic_id.lock()
    }
    /// The partition's folder.
    pub fn dir(&self) -> PathBuf {
        self.home.dir.read().clone()
    }

    /// Blocking. Gives a log without a topic id its id; another id is refused.
    pub fn assign_topic_id(&self, id: Uuid) -> Result<(), Fault> {
        let mut current = self.topic_id.lock();
        let path = self.home.file(checkpoint::PARTITION_METADATA);
        match *current {
            Some(known) if known == id => Ok(()),
            Some(known) => {
                Err(Fault::Corrupt { path, what: format!("is of topic id {known}, not {id}") })
            }
            None => {
                checkpoint::write_topic_id(&*self.home.disk, &path, id)?;
                *current = Some(id);
                Ok(())
            }
        }
    }

    /// The first offset that can be read.
    pub fn start_offset(&self) -> Offset {
        self.start.load(Ordering::Acquire)
    }
    /// The offset of the next record.
    pub fn end_offset(&self) -> Offset {
        self.end.load(Ordering::Acquire)
    }
    /// All below may be acknowledged as far as this disk is concerned.
    pub fn synced_offset(&self) -> Offset {
        let held = self.held.load(Ordering::Acquire);
        if held != Offset::MAX {
            return held;
        }
        match self.config.load().flush {
            FlushPolicy::Sync => self.flushed.load(Ordering::Acquire),
            FlushPolicy::PageCache => self.end_offset(),
        }
    }
    /// All below is on the disk, whatever the flush policy.
    pub fn recovery_point(&self) -> Offset {
        self.flushed.load(Ordering::Acquire)
    }
    /// Bytes of all segments' records.
    pub fn size(&self) -> u64 {
        self.segments.load().values().map(|segment| segment.size()).sum()
    }
    pub fn segment_count(&self) -> usize {
        self.segments.load().len()
    }
    pub fn config(&self) -> Arc<LogConfig> {
        self.config.load_full()
    }
    pub fn set_config(&self, config: LogConfig) {
        self.config.store(Arc::new(config));
        // A policy that became stricter must catch up.
        self.mark_dirty();
    }
    pub fn set_sync_listener(&self, listener: Option<Arc<dyn SyncListener>>) {
        *self.listener.write() = listener;
    }
    /// Whether the log's directory is offline, and why.
    pub fn why_offline(&self) -> Option<Arc<str>> {
        self.shared.why_offline()
    }

    /// The cluster's own records: offsets and transactions.
    pub(super) fn is_internal(&self) -> bool {
        self.partition.topic.starts_with("__")
    }
    /// Whether more records are taken, as far as the disk has room.
    pub fn has_room(&self) -> bool {
        self.shared.room.is_enough(self.is_internal())
    }

    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.epochs.lock().latest()
    }
    /// The largest epoch not above `epoch` and the offset at which it ended, as Kafka's
    /// LeaderEpochFileCache answers; `None` where that says "undefined".
    pub fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.epochs.lock().end_offset_for(epoch, self.end_offset())
    }
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.epochs.lock().at(offset)
    }
    /// All epochs with their first offsets.
    pub fn epochs(&self) -> Vec<(LeaderEpoch, Offset)> {
        self.epochs.lock().entries()
    }
    /// A leader begins its epoch at `offset`, its log end.
    pub fn start_epoch(&self, epoch: LeaderEpoch, offset: Offset) {
        let changed = {
            let mut epochs = self.epochs.lock();
            epochs.assign(epoch, offset);
            epochs.dirty
        };
        if changed {
            self.mark_dirty();
        }
    }

    /// What is known of the producers that write here, for DescribeProducers.
    pub fn producers(&self) -> BTreeMap<i64, Producer> {
        self.writer.lock().producers.producers().clone()
    }
    pub fn expire_producers(&self, now: Millis) {
        let after = self.config.load().producer_id_expiration_ms;
        self.writer.lock().producers.expire(now, after);
    }
    /// The first offset of an undecided transaction.
    pub fn first_undecided_offset(&self) -> Option<Offset> {
        self.writer.lock().producers.first_undecided()
    }
    /// Up to where a read-committed consumer reads. `high_watermark` was asked for before: what
    /// lies below it is part of no transaction that this does not know.
    pub fn last_stable_offset(&self, high_watermark: Offset) -> Offset {
        let unstable = self.unstable.load(Ordering::Acquire);
        unstable.max(self.start_offset()).min(high_watermark)
    }
    /// All below `offset` is committed: transactions that ended there are decided everywhere.
    pub fn on_high_watermark(&self, offset: Offset) {
        if self.unreplicated.load(Ordering::Acquire) {
            let mut writer = self.writer.lock();
            writer.producers.on_high_watermark(offset);
            self.publish_unstable(&writer);
        }
    }
    pub(super) fn publish_unstable(&self, writer: &Writer) {
        let first = writer.producers.first_unstable().unwrap_or(Offset::MAX);
        self.unreplicated.store(writer.producers.has_unreplicated(), Ordering::Release);
        self.unstable.store(first, Ordering::Release);
    }

    /// Begins to verify that the producer may write to a transaction here: the guard is to be shown
    /// with the append. `None`: its transaction is ongoing.
    pub fn start_verification(
        &self,
        producer: (i64, i16),
        sequence: i32,
        supports_epoch_bump: bool,
        now: Millis,
    ) -> Result<Option<Guard>, Refusal> {
        if !self.config.load().verify_transactions {
            return Ok(None);
        }
        let producers = &mut self.writer.lock().producers;
        producers.start_verification(producer, sequence, supports_epoch_bump, now)
    }

    /// Makes `offset` the first that can be read, never moving back, never past the end. The
    /// segments below are removed by [`Log::retain`]. Returns the start offset.
    pub fn advance_start(&self, offset: Offset) -> Offset {
        let offset = offset.min(self.end_offset());
        let before = self.start.fetch_max(offset, Ordering::AcqRel);
        if offset > before {
            self.epochs.lock().truncate_from_start(offset);
            self.mark_dirty();
        }
        before.max(offset)
    }

    /// Puts the log into the flusher's queue, once.
    pub(super) fn mark_dirty(&self) {
        if self.dirty.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(me) = self.me.upgrade() {
            self.shared.dirty.lock().push(me);
            self.shared.wake.notify_one();
        }
    }

    pub(super) fn publish_segments(&self, change: impl FnOnce(&mut Segments)) {
        let mut segments = Segments::clone(&self.segments.load());
        change(&mut segments);
        self.segments.store(Arc::new(segments));
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Log({}, {}..{})", self.partition, self.start_offset(), self.end_offset())
    }
}
