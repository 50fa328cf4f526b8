//! Batches of the metadata log become images.
//!
//! Shared by the controller, which replays what it appends, and by every broker, which replays what
//! is committed. A metadata transaction becomes visible as a whole, at its end.

use super::image::Image;
use super::replay::{Delta, ReplayError};
use crate::raft::batch::{Decoded, Entry, Unreadable};
use crate::types::Offset;
use crate::wire::metadata::Record;
use crate::wire::metadata::control::Control;

/// Replays batches in order. Cheap to clone, as the image is.
#[derive(Clone)]
pub struct Loader {
    image: Image,
    delta: Delta,
    /// The image before the transaction that is under way.
    before: Option<(Image, Delta)>,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("offset {0}: {1}")]
    Replay(Offset, ReplayError),
}

impl Loader {
    pub fn new(image: Image) -> Self {
        Self { image, delta: Delta::default(), before: None }
    }

    /// The image with all that was replayed, an unfinished transaction included.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// A metadata transaction has begun and not ended.
    pub fn in_transaction(&self) -> bool {
        self.before.is_some()
    }

    /// The offset after the last one that was replayed.
    pub fn next_offset(&self) -> Offset {
        self.image.offset + 1
    }

    pub fn replay(&mut self, batch: &Decoded) -> Result<(), LoadError> {
        for (offset, entry) in &batch.entries {
            match entry {
                Entry::Control(Control::LeaderChange(change)) => {
                    self.image.controller_id = change.leader_id;
                }
                Entry::Control(_) => {}
                Entry::Record(Record::BeginTransaction(_)) => {
                    self.before = Some((self.image.clone(), self.delta.clone()));
                }
                Entry::Record(Record::EndTransaction(_)) => self.before = None,
                Entry::Record(Record::AbortTransaction(_)) => {
                    if let Some((image, delta)) = self.before.take() {
                        (self.image, self.delta) = (image, delta);
                    }
                }
                Entry::Record(record) => self
                    .image
                    .replay(record, &mut self.delta)
                    .map_err(|error| LoadError::Replay(*offset, error))?,
            }
        }
        self.image.offset = batch.last_offset;
        self.image.epoch = batch.epoch;
        Ok(())
    }

    /// The image to publish, and what changed since the last call; none within a transaction.
    pub fn publish(&mut self) -> Option<(Image, Delta)> {
        if self.before.is_some() {
            return None;
        }
        Some((self.image.clone(), std::mem::take(&mut self.delta)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::image::ResourceType;
    use crate::raft::batch::decode;

    #[test]
    fn a_metadata_log_of_kafka_4_3_1_replays_to_the_cluster_it_describes() {
        let log = include_bytes!("../../testdata/kafka-4.3.1-metadata/00000000000000000000.log");
        let mut loader = Loader::new(Image::empty("MkU3OEVBNTcwNTJENDM2Qg"));
        for batch in decode(log).unwrap() {
            loader.replay(&batch).unwrap();
        }
        let (image, delta) = loader.publish().unwrap();
        assert_eq!((image.offset, image.epoch, image.controller_id), (105, 1, 1));
        assert_eq!(image.feature("metadata.version"), 30);
        assert!(image.topic("gone").is_none());
        let orders = image.topic("orders").unwrap();
        assert_eq!(orders.partitions.len(), 3);
        // Its only broker stopped: with eligible leader replicas, the ISR is empty.
        let partition = &orders.partitions[&2];
        assert_eq!(
            (partition.leader, &partition.isr[..], &partition.elr[..]),
            (-1, &[][..], &[1][..])
        );
        let config = image.config(ResourceType::Topic, "orders");
        assert_eq!((&*config["cleanup.policy"], &*config["retention.ms"]), ("compact", "60000"));
        let broker = image.broker(1).unwrap();
        assert!(broker.fenced && broker.in_controlled_shutdown);
        assert_eq!((broker.rack.as_deref(), broker.epoch), (Some("r1"), 11));
        assert_eq!(broker.endpoint("PLAINTEXT").map(|it| it.port), Some(29092));
        assert_eq!(delta.deleted.len(), 1);
    }

    #[test]
    fn the_records_of_kafka_4_3_1_are_written_back_byte_for_byte() {
        let log = include_bytes!("../../testdata/kafka-4.3.1-metadata/00000000000000000000.log");
        let mut compared = 0;
        for batch in crate::wire::records::Batches::new(log) {
            let batch = batch.unwrap();
            for record in &batch.records(0).unwrap() {
                let value = record.unwrap().value.unwrap().to_vec();
                if !batch.is_control() {
                    assert_eq!(&Record::from_frame(&value).unwrap().to_frame()[..], value);
                    compared += 1;
                }
            }
        }
        assert_eq!(compared, 105);
    }

    #[test]
    fn an_aborted_transaction_leaves_nothing_behind() {
        use crate::wire::metadata::{AbortTransactionRecord, BeginTransactionRecord, TopicRecord};
        let mut loader = Loader::new(Image::empty("test"));
        let topic = TopicRecord { name: "t".into(), topic_id: uuid::Uuid::from_u128(5) };
        let records: [Record; 3] = [
            BeginTransactionRecord::default().into(),
            topic.into(),
            AbortTransactionRecord::default().into(),
        ];
        for (offset, record) in records.into_iter().enumerate() {
            let last_offset = offset as i64;
            let entries = vec![(last_offset, Entry::Record(record))];
            loader.replay(&Decoded { epoch: 1, last_offset, entries }).unwrap();
            assert_eq!(loader.publish().is_some(), offset == 2);
        }
        assert_eq!(loader.image().topic_count(), 0);
        assert_eq!(loader.next_offset(), 3);
    }
}
