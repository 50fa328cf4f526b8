//! What must hold at every moment, looked at from inside of the brokers that run.
//!
//! - A partition's epoch has one leader, an epoch of the quorum one controller.
//! - What was committed of the metadata log is in the log of every later leader, for ever.
//! - What was below the high watermark of a leader is the same everywhere, as far as a replica's
//!   own high watermark reaches, for ever.
//! - It is what the disk has, undamaged.
//! - Who leads in the newest epoch has all of it.
//! - The end of a transaction was decided before it was told.
//! - The cluster's image at an offset is the same on all nodes.
//!
//! It looks every [`EVERY`], at published state, which the broker changes in steps that this cannot
//! see the middle of.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ottla_broker::broker::Broker;
use ottla_broker::controller::Image;
use ottla_broker::raft::Handle;
use ottla_broker::replica::Partition;
use ottla_broker::wire::records::{BatchView, Batches, crc32c};
use uuid::Uuid;

use super::decisions::Decisions;
use super::node::Node;
use super::scenario::{TRANSACTIONS, is_compacted};

/// In virtual time.
pub const EVERY: Duration = Duration::from_millis(20);

type Key = (Uuid, i32);

/// The last offset, epoch and checksum of a batch.
type Batch = (i64, i32, u32);

#[derive(Default)]
struct Committed {
    /// By first offset, as some leader had them below its high watermark.
    batches: BTreeMap<i64, Batch>,
    /// Of a compacted log, in which batches lose records: the checksum of each record.
    records: BTreeMap<i64, u32>,
    /// The highest high watermark of any leader.
    high: i64,
    newest_epoch: i32,
}

impl Committed {
    /// What is left of a batch that the cleaner may have rewritten is what all have there.
    fn compare_records(&mut self, batch: &BatchView<'_>) -> Result<(), String> {
        let records = batch.records(1 << 24).map_err(|error| format!("cannot be read: {error}"))?;
        for record in &records {
            let record = record.map_err(|error| format!("cannot be read: {error}"))?;
            let key = record.key.unwrap_or_default();
            let all: Vec<u8> =
                [key, &[u8::from(record.value.is_some())], record.value.unwrap_or_default()]
                    .concat();
            let here = crc32c(&all);
            let there = *self.records.entry(record.offset).or_insert(here);
            if here != there {
                return Err(format!("has another record at {} than elsewhere", record.offset));
            }
        }
        Ok(())
    }
}

/// What one process of a node was seen to have.
#[derive(Default)]
struct Seen {
    life: u64,
    /// Up to where the partition's batches were compared.
    compared: BTreeMap<Key, i64>,
    image: i64,
    /// The same for the metadata log.
    metadata: i64,
}

#[derive(Default)]
pub struct Checks {
    /// The metadata log's.
    metadata: Committed,
    committed: BTreeMap<Key, Committed>,
    decisions: Decisions,
    leaders: BTreeMap<(Key, i32), usize>,
    images: BTreeMap<i64, Arc<Image>>,
    controllers: BTreeMap<i32, i32>,
    seen: BTreeMap<usize, Seen>,
    looked_at: Duration,
}

impl Checks {
    /// Looks, if it is time to. An error is what must not be.
    pub fn look(&mut self, nodes: &[Rc<Node>], now: Duration) -> Result<(), String> {
        if now < self.looked_at + EVERY {
            return Ok(());
        }
        self.looked_at = now;
        for node in nodes {
            let Some(broker) = node.broker() else { continue };
            self.enter(node);
            self.image(node, &broker)?;
            if let Some(controller) = &broker.controller {
                let _quiet = node.machine.disk.observe();
                self.quorum(node, controller.quorum())?;
            }
            for partition in broker.partitions.all() {
                self.leader(node, &partition)?;
            }
        }
        for node in nodes {
            let Some(broker) = node.broker() else { continue };
            let _quiet = node.machine.disk.observe();
            for partition in broker.partitions.all() {
                self.replica(node, &partition)?;
            }
        }
        self.decisions.judge(now)
    }

    /// The newest metadata that any node acted on: all nodes must come to have it.
    pub fn newest_image(&self) -> i64 {
        self.images.last_key_value().map_or(-1, |(offset, _)| *offset)
    }

    fn enter(&mut self, node: &Node) {
        let seen = self.seen.entry(node.number).or_default();
        if seen.life != node.life.get() {
            *seen = Seen { life: node.life.get(), image: -1, ..Seen::default() };
        }
    }

    fn image(&mut self, node: &Node, broker: &Broker) -> Result<(), String> {
        let image = broker.image.load_full();
        let seen = self.seen.entry(node.number).or_default();
        if image.offset == seen.image || image.offset < 0 {
            return Ok(());
        }
        let number = node.number;
        if image.offset < seen.image {
            return Err(format!(
                "metadata: node {number} went back from offset {} to {}",
                seen.image, image.offset
            ));
        }
        seen.image = image.offset;
        if let Some(other) = self.images.get(&image.offset)
            && **other != *image
        {
            return Err(format!(
                "metadata: at offset {} node {number} has another image than others had",
                image.offset
            ));
        }
        let leader = *self.controllers.entry(image.epoch).or_insert(image.controller_id);
        if leader != image.controller_id {
            return Err(format!(
                "leaders: epoch {} of the metadata has two: {leader} and {}",
                image.epoch, image.controller_id
            ));
        }
        self.images.insert(image.offset, image);
        Ok(())
    }

    /// An epoch of the quorum has one leader, which has all that was ever committed; and that is the
    /// same on all controllers.
    fn quorum(&mut self, node: &Node, quorum: &Handle) -> Result<(), String> {
        let (number, log) = (node.number, quorum.log());
        let status = quorum.status().borrow().clone();
        let metadata = &mut self.metadata;
        let mut up_to = status.high_watermark.min(log.end_offset());
        if status.leads {
            let first = *self.controllers.entry(status.epoch).or_insert(number as i32);
            if first != number as i32 {
                return Err(format!(
                    "leaders: epoch {} of the quorum has two: {first} and {number}",
                    status.epoch
                ));
            }
            if status.epoch > metadata.newest_epoch {
                metadata.newest_epoch = status.epoch;
                if log.end_offset() < metadata.high {
                    return Err(format!(
                        "lost: node {number} leads the quorum in epoch {}, and its log ends at {}; \
                         committed is all below {}",
                        status.epoch,
                        log.end_offset(),
                        metadata.high
                    ));
                }
                // It has to have what was committed, whether it knows that it is or not.
                up_to = up_to.max(metadata.high);
            }
        }
        metadata.high = metadata.high.max(up_to);
        let seen = self.seen.entry(number).or_default();
        let Ok(bytes) = log.read(seen.metadata, up_to, 1 << 24) else { return Ok(()) };
        for batch in Batches::new(&bytes).map_while(Result::ok) {
            let here = (batch.last_offset(), batch.leader_epoch(), batch.crc());
            let base = batch.base_offset();
            let there = *metadata.batches.entry(base).or_insert(here);
            if here != there {
                return Err(format!(
                    "diverged: the metadata log of node {number} has at {base} (last offset, epoch, \
                     checksum) {here:?}, elsewhere it is {there:?}"
                ));
            }
            seen.metadata = batch.last_offset() + 1;
        }
        Ok(())
    }

    fn leader(&mut self, node: &Node, partition: &Partition) -> Result<(), String> {
        if !partition.is_leader() {
            return Ok(());
        }
        let key = (partition.topic_id, partition.id.partition);
        let (epoch, end) = (partition.epoch(), partition.log().end_offset());
        let (id, number) = (&partition.id, node.number);
        let first = *self.leaders.entry((key, epoch)).or_insert(number);
        if first != number {
            return Err(format!("leaders: {id} epoch {epoch} has two: {first} and {number}"));
        }
        let committed = self.committed.entry(key).or_default();
        committed.newest_epoch = committed.newest_epoch.max(epoch);
        if epoch == committed.newest_epoch && end < committed.high {
            return Err(format!(
                "lost: {id} is led in epoch {epoch} by node {number}, whose log ends at {end}; \
                 committed is all below {}",
                committed.high
            ));
        }
        committed.high = committed.high.max(partition.high_watermark());
        Ok(())
    }

    /// Compares what became committed since the last look with what others had there.
    fn replica(&mut self, node: &Node, partition: &Partition) -> Result<(), String> {
        let key = (partition.topic_id, partition.id.partition);
        let (log, high) = (partition.log(), partition.high_watermark());
        let (id, number) = (&partition.id, node.number);
        let end = log.end_offset();
        if high > end {
            return Err(format!(
                "watermark: {id} on node {number} has the high watermark {high}, its log ends at {end}"
            ));
        }
        let seen = self.seen.entry(number).or_default();
        let compared = seen.compared.entry(key).or_insert(0);
        *compared = (*compared).min(end).max(log.start_offset());
        let committed = self.committed.entry(key).or_default();
        while *compared < high {
            // A disk that fails, or a log that is just being replaced, is somebody else's affair.
            let Ok(bytes) = log.read_cold(*compared, 1 << 20, high, true) else { return Ok(()) };
            if log.why_offline().is_some() {
                return Ok(());
            }
            let before = *compared;
            for batch in Batches::new(&bytes).map_while(Result::ok) {
                let (base, last) = (batch.base_offset(), batch.last_offset());
                if !batch.crc_is_right() {
                    return Err(format!(
                        "corrupt: {id} on node {number} has a damaged batch at {base}, below its \
                         high watermark {high}"
                    ));
                }
                if &*id.topic == TRANSACTIONS {
                    self.decisions.decided(&batch);
                } else {
                    self.decisions.told(&id.to_string(), &batch, self.looked_at);
                }
                if is_compacted(&id.topic) {
                    let same = committed.compare_records(&batch);
                    same.map_err(|what| format!("diverged: {id} on node {number} {what}"))?;
                    *compared = last + 1;
                    continue;
                }
                let here = (last, batch.leader_epoch(), batch.crc());
                let there = *committed.batches.entry(base).or_insert(here);
                if here != there {
                    return Err(format!(
                        "diverged: {id} on node {number} has at {base} (last offset, epoch, \
                         checksum) {here:?}, elsewhere it is {there:?}"
                    ));
                }
                *compared = last + 1;
            }
            if *compared == before && is_compacted(&id.topic) {
                return Ok(());
            }
            if *compared == before {
                return Err(format!(
                    "corrupt: {id} on node {number} cannot read {before}, its high watermark is \
                     {high} and its log ends at {end}"
                ));
            }
        }
        Ok(())
    }
}
