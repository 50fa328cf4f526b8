//! The runtime over a log in memory whose commits the test decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{GroupId, OffsetCommitRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Appended, Committed, GROUP_METADATA_TOPIC, Groups, Sink, Start, StateLog, TransactionEnd,
};
use crate::controller::image::Image;
use crate::controller::replay::Delta;
use crate::coordinator::group::call::Call;
use crate::coordinator::group::effects::{Answer, answer_in_kind};
use crate::coordinator::group::records::{OffsetCommitValue, Record as GroupRecord};
use crate::coordinator::group::settings::GroupSettings;
use crate::coordinator::topic::{InternalTopic, Maker, TopicCreator};
use crate::env::real;
use crate::error::{ErrorCode, Refusal};
use crate::log::Appending;
use crate::types::LeaderEpoch;
use crate::wire::metadata::{PartitionRecord, Record, TopicRecord};
use crate::wire::records::{BatchBuilder, Batches, EndTransactionMarker};

/// Partitions as lists of batches. `committed` is how many batches, over all partitions, are.
struct Memory {
    batches: Mutex<BTreeMap<i32, Vec<Bytes>>>,
    committed: watch::Sender<usize>,
    loading: watch::Sender<bool>,
    refuse: Mutex<Option<ErrorCode>>,
}

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            batches: Mutex::default(),
            committed: watch::Sender::new(usize::MAX),
            loading: watch::Sender::new(false),
            refuse: Mutex::new(None),
        })
    }

    fn count(&self) -> usize {
        self.batches.lock().values().map(Vec::len).sum()
    }
}

#[async_trait]
impl StateLog for Memory {
    async fn load(
        &self,
        _: &str,
        partition: i32,
        _: LeaderEpoch,
        sink: Sink<'_>,
    ) -> Result<(), Refusal> {
        let _ = self.loading.subscribe().wait_for(|loading| !loading).await;
        let batches = self.batches.lock().get(&partition).cloned().unwrap_or_default();
        batches.into_iter().for_each(sink);
        Ok(())
    }

    fn append(
        &self,
        _: &str,
        partition: i32,
        _: LeaderEpoch,
        batch: Bytes,
        _: Appending,
    ) -> Result<Appended, Refusal> {
        if let Some(code) = *self.refuse.lock() {
            return Err(code.into());
        }
        for batch in Batches::new(&batch) {
            batch.unwrap().check().unwrap();
        }
        self.batches.lock().entry(partition).or_default().push(batch);
        let number = self.count();
        let mut committed = self.committed.subscribe();
        let committed: Committed = Box::pin(async move {
            let seen = committed.wait_for(|committed| *committed >= number).await;
            seen.map(drop).map_err(|_| ErrorCode::NotLeaderOrFollower.into())
        });
        Ok(Appended { base: 0, committed })
    }
}

struct NoTopics;

#[async_trait]
impl TopicCreator for NoTopics {
    async fn create(&self, _: CreatableTopic) -> Result<(), Refusal> {
        Err(ErrorCode::UnknownServerError.into())
    }
}

/// `__consumer_offsets` with one partition.
fn image() -> Arc<ArcSwap<Image>> {
    let topic_id = uuid::Uuid::from_u128(1);
    let name = GROUP_METADATA_TOPIC.to_owned();
    let partition = PartitionRecord {
        topic_id,
        partition_id: 0,
        replicas: vec![1],
        isr: vec![1],
        leader: 1,
        leader_epoch: 0,
        partition_epoch: 0,
        directories: vec![uuid::Uuid::from_u128(2)],
        ..PartitionRecord::default()
    };
    let mut image = Image::empty("cluster");
    for record in [Record::Topic(TopicRecord { name, topic_id }), Record::Partition(partition)] {
        image.replay(&record, &mut Delta::default()).unwrap();
    }
    Arc::new(ArcSwap::from_pointee(image))
}

fn start(log: &Arc<Memory>) -> Arc<Groups> {
    start_with(log, GroupSettings::default())
}

fn start_with(log: &Arc<Memory>, settings: GroupSettings) -> Arc<Groups> {
    let topic = InternalTopic {
        name: GROUP_METADATA_TOPIC,
        partitions: 1,
        replication_factor: 1,
        configs: Vec::new(),
    };
    let maker = Maker::new(topic, Arc::new(NoTopics));
    Groups::start(Start {
        env: real::env(),
        settings,
        log: log.clone(),
        image: image(),
        topic: maker,
        notify: Box::new(|_, _, notice| match notice {}),
    })
}

/// Leads the one partition, and waits until it is loaded.
async fn lead(groups: &Groups, epoch: LeaderEpoch) {
    groups.on_leadership(vec![(0, epoch)], Vec::new());
    while matches!(
        fetch(groups).await,
        Err(ErrorCode::CoordinatorLoadInProgress | ErrorCode::NotCoordinator)
    ) {
        tokio::task::yield_now().await;
    }
}

fn commit(offset: i64) -> Call {
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(StrBytes::from_static_str("t")))
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str("g")))
        .with_generation_id_or_member_epoch(-1)
        .with_retention_time_ms(-1)
        .with_topics(vec![topic]);
    Call::OffsetCommit { request, version: 9 }
}

fn committed(answer: Answer) -> Option<ErrorCode> {
    let answer = answer_in_kind!(answer, OffsetCommit);
    ErrorCode::try_from_code(answer.topics[0].partitions[0].error_code)
}

async fn fetch(groups: &Groups) -> Result<Option<i64>, ErrorCode> {
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(StrBytes::from_static_str("g")))
        .with_topics(None);
    let call = Call::OffsetFetch { group, require_stable: false };
    let answer = answer_in_kind!(groups.call("g", call).await.await, OffsetFetch);
    match ErrorCode::try_from_code(answer.error_code) {
        Some(code) => Err(code),
        None => Ok(answer.topics.first().map(|topic| topic.partitions[0].committed_offset)),
    }
}

#[tokio::test]
async fn a_commit_is_answered_and_seen_once_the_log_has_committed_it() {
    let log = Memory::new();
    let groups = start(&log);
    lead(&groups, 1).await;
    log.committed.send_replace(0);
    let answer = groups.call("g", commit(5)).await;
    assert_eq!(fetch(&groups).await, Ok(None));
    log.committed.send_replace(1);
    assert_eq!(committed(answer.await), None);
    assert_eq!(fetch(&groups).await, Ok(Some(5)));
    groups.shut_down().await;
}

#[tokio::test]
async fn calls_of_one_turn_share_a_batch() {
    let log = Memory::new();
    let groups = start(&log);
    lead(&groups, 1).await;
    let mut answers = Vec::new();
    for offset in 0..100 {
        answers.push(groups.call("g", commit(offset)).await);
    }
    for answer in answers {
        assert_eq!(committed(answer.await), None);
    }
    assert_eq!(fetch(&groups).await, Ok(Some(99)));
    assert!(log.count() < 100, "{} batches", log.count());
}

#[tokio::test]
async fn an_append_that_is_refused_leaves_no_trace() {
    let log = Memory::new();
    let groups = start(&log);
    lead(&groups, 1).await;
    assert_eq!(committed(groups.call("g", commit(5)).await.await), None);
    *log.refuse.lock() = Some(ErrorCode::NotEnoughReplicas);
    let answer = groups.call("g", commit(6)).await.await;
    assert_eq!(committed(answer), Some(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(fetch(&groups).await, Ok(Some(5)));
    *log.refuse.lock() = None;
    assert_eq!(committed(groups.call("g", commit(7)).await.await), None);
    assert_eq!(fetch(&groups).await, Ok(Some(7)));
}

#[tokio::test]
async fn what_was_committed_is_there_for_the_next_coordinator() {
    let log = Memory::new();
    let groups = start(&log);
    assert_eq!(fetch(&groups).await, Err(ErrorCode::NotCoordinator));
    lead(&groups, 1).await;
    assert_eq!(committed(groups.call("g", commit(5)).await.await), None);
    groups.on_leadership(Vec::new(), vec![0]);
    while fetch(&groups).await != Err(ErrorCode::NotCoordinator) {
        tokio::task::yield_now().await;
    }
    let successor = start(&log);
    log.loading.send_replace(true);
    successor.on_leadership(vec![(0, 2)], Vec::new());
    while fetch(&successor).await != Err(ErrorCode::CoordinatorLoadInProgress) {
        tokio::task::yield_now().await;
    }
    log.loading.send_replace(false);
    lead(&successor, 2).await;
    assert_eq!(fetch(&successor).await, Ok(Some(5)));
}

#[tokio::test]
async fn who_waits_for_a_commit_is_told_when_the_partition_goes() {
    let log = Memory::new();
    let groups = start(&log);
    lead(&groups, 1).await;
    log.committed.send_replace(0);
    let answer = groups.call("g", commit(5)).await;
    groups.on_leadership(Vec::new(), vec![0]);
    assert_eq!(committed(answer.await), Some(ErrorCode::NotCoordinator));
}

#[tokio::test]
async fn a_commit_that_takes_too_long_is_answered_as_failed_and_counts_when_it_comes() {
    let log = Memory::new();
    let offsets_commit_timeout = std::time::Duration::from_millis(10);
    let groups = start_with(&log, GroupSettings { offsets_commit_timeout, ..Default::default() });
    lead(&groups, 1).await;
    log.committed.send_replace(0);
    let answer = groups.call("g", commit(5)).await.await;
    assert_eq!(committed(answer), Some(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(fetch(&groups).await, Ok(None));
    log.committed.send_replace(1);
    while fetch(&groups).await != Ok(Some(5)) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn offsets_of_a_transaction_count_from_its_commit_and_unless_written_over() {
    let log = Memory::new();
    let record = |topic, offset| {
        let value = OffsetCommitValue { offset, ..OffsetCommitValue::default() };
        GroupRecord::offset("g", topic, 0, Some(value))
    };
    let put = |builder: BatchBuilder, records: &[GroupRecord]| {
        let mut builder = builder;
        for (key, value) in records.iter().filter_map(GroupRecord::encode) {
            builder.push(0, Some(&key), value.as_deref());
        }
        log.batches.lock().entry(0).or_default().push(builder.build());
    };
    let transaction = |id| BatchBuilder::new().producer(id, 0, 0).transactional();
    let end = |id, committed| {
        let marker = EndTransactionMarker { committed, coordinator_epoch: 0 };
        let batch = BatchBuilder::end_transaction(id, 0, marker, 0);
        log.batches.lock().entry(0).or_default().push(batch);
    };
    put(transaction(7), &[record("committed", 1), record("over", 1)]);
    put(transaction(8), &[record("aborted", 2)]);
    put(BatchBuilder::new(), &[record("over", 9)]);
    put(BatchBuilder::new(), &[GroupRecord::Other(3)]);
    end(7, true);
    end(8, false);
    put(transaction(9), &[record("open", 3)]);
    let groups = start(&log);
    lead(&groups, 1).await;
    let group =
        OffsetFetchRequestGroup::default().with_group_id(GroupId("g".into())).with_topics(None);
    let call = Call::OffsetFetch { group, require_stable: false };
    let answer = answer_in_kind!(groups.call("g", call).await.await, OffsetFetch);
    let found = answer.topics.iter().map(|it| (&**it.name, it.partitions[0].committed_offset));
    assert_eq!(found.collect::<Vec<_>>(), [("committed", 1), ("over", 9)]);
}

#[tokio::test]
async fn a_marker_that_is_appended_here_ends_a_transaction_that_was_open_at_the_load() {
    let log = Memory::new();
    let mut builder = BatchBuilder::new().producer(7, 0, 0).transactional();
    let value = OffsetCommitValue { offset: 5, ..OffsetCommitValue::default() };
    let (key, value) = GroupRecord::offset("g", "t", 0, Some(value)).encode().unwrap();
    builder.push(0, Some(&key), value.as_deref());
    log.batches.lock().entry(0).or_default().push(builder.build());
    let groups = start(&log);
    let end = TransactionEnd {
        producer_id: 7,
        producer_epoch: 1,
        coordinator_epoch: 3,
        committed: true,
        transaction_version: 2,
    };
    let nobody_leads = groups.end_transaction(0, end).await.await;
    assert_eq!(nobody_leads, Err(ErrorCode::NotCoordinator));
    lead(&groups, 1).await;
    assert_eq!(fetch(&groups).await, Ok(None));
    *log.refuse.lock() = Some(ErrorCode::InvalidProducerEpoch);
    assert_eq!(groups.end_transaction(0, end).await.await, Err(ErrorCode::InvalidProducerEpoch));
    *log.refuse.lock() = None;
    assert_eq!(groups.end_transaction(0, end).await.await, Ok(()));
    assert_eq!(fetch(&groups).await, Ok(Some(5)));
    let batches = log.batches.lock()[&0].clone();
    let batch = Batches::new(&batches[1]).next().unwrap().unwrap();
    assert!(batch.is_control() && batch.is_transactional());
    assert_eq!((batch.producer_id(), batch.producer_epoch()), (7, 1));
}

#[tokio::test]
async fn a_topic_that_is_deleted_takes_its_offsets_along() {
    let log = Memory::new();
    let groups = start(&log);
    lead(&groups, 1).await;
    assert_eq!(committed(groups.call("g", commit(5)).await.await), None);
    groups.on_topics_deleted(vec![("t".to_owned(), uuid::Uuid::nil())]);
    while fetch(&groups).await != Ok(None) {
        tokio::task::yield_now().await;
    }
}
