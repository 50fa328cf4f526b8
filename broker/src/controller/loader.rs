//! Batches of the metadata log become images.
//!
//! Shared by the controller, which replays what it appends, and by every broker, which replays what
//! is committed. A metadata transaction becomes visible as a whole, at its end; what was replayed
//! before it began may be published meanwhile. Invariant: what is published ends where a batch
//! ends, so that it can be a snapshot.

use super::image::Image;
use super::replay::{Delta, ReplayError};
use crate::raft::batch::{Decoded, Entry, Unreadable};
use crate::types::{NodeId, Offset};
use crate::wire::metadata::Record;
use crate::wire::metadata::control::Control;

/// Replays batches in order. Cheap to clone, as the image is.
#[derive(Clone)]
pub struct Loader {
    image: Image,
    delta: Delta,
    transaction: Option<Transaction>,
}

/// What an unfinished transaction goes back to when it is aborted.
#[derive(Clone)]
struct Transaction {
    image: Image,
    delta: Delta,
    /// It began with a batch, so that the image before it is one that may be published.
    aligned: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("offset {0}: {1}")]
    Replay(Offset, ReplayError),
    #[error("offset {0}: {1}")]
    Transaction(Offset, &'static str),
}

impl Loader {
    pub fn new(image: Image) -> Self {
        Self { image, delta: Delta::default(), transaction: None }
    }

    /// The image with all that was replayed, an unfinished transaction included.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The offset after the last one that was replayed.
    pub fn next_offset(&self) -> Offset {
        self.image.offset + 1
    }

    /// The log ends within a transaction: a new leader has to abort it.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Goes on from the image of a snapshot, whatever was replayed so far. Who leads does not stand
    /// in a snapshot.
    pub fn start_over(&mut self, mut image: Image) {
        image.controller_id = self.image.controller_id;
        let before = match self.transaction.take() {
            Some(transaction) => {
                self.delta = transaction.delta;
                transaction.image
            }
            None => self.image.clone(),
        };
        let between = Delta::between(&before, &image);
        self.delta = std::mem::take(&mut self.delta).then(between, &image);
        self.image = image;
    }

    /// Who leads the quorum, as far as the log does not tell: it begins with a snapshot.
    pub fn set_controller(&mut self, id: NodeId) {
        self.image.controller_id = id;
    }

    pub fn replay(&mut self, batch: &Decoded) -> Result<(), LoadError> {
        for (index, (offset, entry)) in batch.entries.iter().enumerate() {
            match entry {
                Entry::Control(Control::LeaderChange(change)) => {
                    self.image.controller_id = change.leader_id;
                }
                Entry::Control(_) => {}
                Entry::Record(record) => self.apply(*offset, record, index == 0)?,
            }
        }
        self.image.offset = batch.last_offset;
        self.image.epoch = batch.epoch;
        self.image.timestamp = batch.timestamp;
        Ok(())
    }

    fn apply(&mut self, offset: Offset, record: &Record, first: bool) -> Result<(), LoadError> {
        let wrong = |what| Err(LoadError::Transaction(offset, what));
        match record {
            Record::BeginTransaction(_) if self.transaction.is_some() => {
                wrong("a transaction begins within another one")
            }
            Record::BeginTransaction(_) => {
                let image = self.image.clone();
                let delta = std::mem::take(&mut self.delta);
                self.transaction = Some(Transaction { image, delta, aligned: first });
                Ok(())
            }
            Record::EndTransaction(_) => match self.transaction.take() {
                Some(before) => {
                    let later = std::mem::take(&mut self.delta);
                    self.delta = before.delta.then(later, &self.image);
                    Ok(())
                }
                None => wrong("a transaction ends that never began"),
            },
            Record::AbortTransaction(_) => match self.transaction.take() {
                Some(before) => {
                    // Whoever aborts it has just become the leader.
                    let controller_id = self.image.controller_id;
                    (self.image, self.delta) = (before.image, before.delta);
                    self.image.controller_id = controller_id;
                    Ok(())
                }
                None => wrong("a transaction is aborted that never began"),
            },
            record => self
                .image
                .replay(record, &mut self.delta)
                .map_err(|error| LoadError::Replay(offset, error)),
        }
    }

    /// The image to publish, and what changed since the last call; within a transaction, what was
    /// before it, and none when that was published already.
    pub fn publish(&mut self) -> Option<(Image, Delta)> {
        match &mut self.transaction {
            None => Some((self.image.clone(), std::mem::take(&mut self.delta))),
            Some(before) if before.aligned && !before.delta.is_empty() => {
                Some((before.image.clone(), std::mem::take(&mut before.delta)))
            }
            Some(_) => None,
        }
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
            let batch = Decoded { epoch: 1, last_offset, timestamp: 0, entries };
            loader.replay(&batch).unwrap();
            assert_eq!(loader.publish().is_some(), offset == 2);
        }
        assert_eq!(loader.image().topic_count(), 0);
        assert_eq!(loader.next_offset(), 3);
    }

    fn topic(id: u128) -> Record {
        let name = format!("topic-{id}");
        crate::wire::metadata::TopicRecord { name, topic_id: uuid::Uuid::from_u128(id) }.into()
    }

    fn load(loader: &mut Loader, records: Vec<Record>) -> Result<(), LoadError> {
        let first = loader.next_offset();
        let last_offset = first + records.len() as i64 - 1;
        let entries = (first..).zip(records.into_iter().map(Entry::Record)).collect();
        loader.replay(&Decoded { epoch: 1, last_offset, timestamp: 0, entries })
    }

    #[test]
    fn a_transaction_is_seen_as_a_whole_and_what_was_before_it_at_once() {
        use crate::wire::metadata::{BeginTransactionRecord, EndTransactionRecord};
        let mut loader = Loader::new(Image::empty("test"));
        load(&mut loader, vec![topic(1)]).unwrap();
        load(&mut loader, vec![BeginTransactionRecord::default().into(), topic(2)]).unwrap();
        assert!(loader.in_transaction());
        let (image, delta) = loader.publish().unwrap();
        assert_eq!((image.offset, image.topic_count(), delta.topics.len()), (0, 1, 1));
        load(&mut loader, vec![topic(3)]).unwrap();
        assert!(loader.publish().is_none());
        load(&mut loader, vec![EndTransactionRecord {}.into()]).unwrap();
        let (image, delta) = loader.publish().unwrap();
        assert_eq!((image.offset, image.topic_count(), delta.topics.len()), (4, 3, 2));
        // One that begins in the middle of a batch lets nothing of that batch be seen.
        load(&mut loader, vec![topic(4), BeginTransactionRecord::default().into()]).unwrap();
        assert!(loader.publish().is_none());
        load(&mut loader, vec![EndTransactionRecord {}.into(), topic(5)]).unwrap();
        let (image, delta) = loader.publish().unwrap();
        assert_eq!((image.topic_count(), delta.topics.len()), (5, 2));
    }

    #[test]
    fn transactions_do_not_nest_and_end_only_once() {
        use crate::wire::metadata::{
            AbortTransactionRecord, BeginTransactionRecord, EndTransactionRecord,
        };
        let begin = || Record::from(BeginTransactionRecord::default());
        for wrong in [
            vec![begin(), begin()],
            vec![EndTransactionRecord {}.into()],
            vec![AbortTransactionRecord::default().into()],
            vec![begin(), EndTransactionRecord {}.into(), EndTransactionRecord {}.into()],
        ] {
            let mut loader = Loader::new(Image::empty("test"));
            let error = load(&mut loader, wrong).unwrap_err();
            assert!(matches!(error, LoadError::Transaction(..)), "{error}");
        }
    }

    #[test]
    fn starting_over_tells_what_changed_since_the_last_publish() {
        use crate::wire::metadata::{BeginTransactionRecord, RemoveTopicRecord};
        let mut loader = Loader::new(Image::empty("test"));
        load(&mut loader, vec![topic(1), topic(2), topic(3)]).unwrap();
        loader.publish().unwrap();
        let removed = RemoveTopicRecord { topic_id: uuid::Uuid::from_u128(1) };
        load(&mut loader, vec![removed.into()]).unwrap();
        load(&mut loader, vec![BeginTransactionRecord::default().into(), topic(9)]).unwrap();
        let (mut image, _) = crate::controller::replay::image_of(&[topic(3), topic(4)]);
        image.offset = 99;
        loader.set_controller(7);
        loader.start_over(image);
        assert_eq!((loader.next_offset(), loader.in_transaction()), (100, false));
        let (image, delta) = loader.publish().unwrap();
        assert_eq!((image.topic_count(), image.controller_id), (2, 7));
        let names: Vec<_> = delta.topics.iter().map(|name| &**name).collect();
        let deleted: Vec<_> = delta.deleted.iter().map(|(name, _)| &**name).collect();
        assert_eq!((names, deleted), (vec!["topic-4"], vec!["topic-1", "topic-2"]));
    }
}
