//! Transactions over three replicas: what readers see, who is asked, and what a new leader knows.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse};
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

use super::cluster::*;
use crate::api::write_txn_markers;
use crate::error::ErrorCode;
use crate::log::{Appending, Origin};
use crate::replica::partition::ANY_EPOCH;
use crate::replica::verification::{Coordinators, Silence, Supports, Verified, Writer};
use crate::types::{NodeId, TopicPartition};
use crate::wire::metadata::{PartitionRecord, TopicRecord};
use crate::wire::records::BatchBuilder;
use crate::wire::txn_markers::{Marker, MarkerTopic, WriteMarkers};

const TRUSTING: &str = "transaction.partition.verification.enable=false";

fn data(id: i64, sequence: i32, value: &str) -> Bytes {
    let mut builder = BatchBuilder::new().producer(id, 0, sequence).transactional();
    builder.push(1_700_000_000_000, Some(b"k"), Some(value.as_bytes()));
    builder.build()
}

async fn write(cluster: &Cluster, leader: NodeId, batch: Bytes) {
    let partition = cluster.partition(leader);
    let ticket = partition.append(batch, true, ANY_EPOCH, Origin::Client).unwrap();
    ticket.committed().await.unwrap();
}

fn marker(id: i64, committed: bool, partitions: Vec<i32>) -> Marker {
    Marker {
        producer_id: id,
        producer_epoch: 1,
        committed,
        topics: vec![MarkerTopic { name: TOPIC.into(), partitions }],
        coordinator_epoch: 3,
        transaction_version: 2,
    }
}

/// The error codes, by producer and partition.
async fn end(cluster: &Cluster, leader: NodeId, markers: Vec<Marker>) -> Vec<(i64, i32, i16)> {
    let partitions = &cluster.node(leader).partitions;
    let deadline = Instant::now() + Duration::from_secs(10);
    let request = WriteMarkers { markers };
    let written = write_txn_markers::write(partitions, None, request, deadline).await.await;
    let mut codes = Vec::new();
    for result in written.markers {
        for partition in result.topics.iter().flat_map(|topic| &topic.partitions) {
            codes.push((result.producer_id, partition.index, partition.error_code));
        }
    }
    codes
}

async fn committed_only(cluster: &Cluster, id: NodeId, from: i64, wait: i32) -> PartitionData {
    let request = consume(from, wait, 1).with_isolation_level(1);
    fetch(&cluster.node(id).partitions, request).await
}

fn aborted(data: &PartitionData) -> Vec<(i64, i64)> {
    let list = data.aborted_transactions.as_ref().unwrap();
    list.iter().map(|it| (it.producer_id.0, it.first_offset)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_committed_poll_waits_for_the_marker_and_learns_what_was_aborted() {
    let cluster = Cluster::start(&[1, 2, 3], TRUSTING).await;
    write(&cluster, 1, data(7, 0, "lost")).await;
    write(&cluster, 1, data(8, 0, "kept")).await;
    write(&cluster, 1, batch(&["plain"])).await;
    let seen = committed_only(&cluster, 1, 0, 0).await;
    assert_eq!((seen.last_stable_offset, seen.high_watermark), (0, 3));
    assert!(seen.records.unwrap().is_empty());
    assert_eq!(fetch(&cluster.node(1).partitions, consume(0, 0, 1)).await.last_stable_offset, 0);
    let poll = {
        let cluster = cluster.clone();
        tokio::spawn(async move { committed_only(&cluster, 1, 0, 60_000).await })
    };
    assert_eq!(end(&cluster, 1, vec![marker(7, false, vec![0])]).await, [(7, 0, 0)]);
    let seen = poll.await.unwrap();
    assert_eq!(seen.last_stable_offset, 1);
    assert_eq!(aborted(&seen), [(7, 0)]);
    assert_eq!(end(&cluster, 1, vec![marker(8, true, vec![0])]).await, [(8, 0, 0)]);
    let seen = committed_only(&cluster, 1, 1, 0).await;
    assert_eq!(seen.last_stable_offset, 5);
    assert_eq!(aborted(&seen), [(7, 0)], "its marker lies in what was read");
    assert_eq!(aborted(&committed_only(&cluster, 1, 4, 0).await), []);
    cluster
        .until("a follower serves the same", || cluster.partition(2).high_watermark() == 5)
        .await;
    let there = committed_only(&cluster, 2, 0, 0).await;
    assert_eq!((there.last_stable_offset, aborted(&there)), (5, vec![(7, 0)]));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_knows_which_transactions_are_open() {
    let cluster = Cluster::start(&[1, 2, 3], TRUSTING).await;
    write(&cluster, 1, data(7, 0, "a")).await;
    write(&cluster, 1, data(8, 0, "b")).await;
    assert_eq!(end(&cluster, 1, vec![marker(7, false, vec![0])]).await, [(7, 0, 0)]);
    cluster.cut_off(1);
    cluster.elect(2, &[2, 3]);
    let new = cluster.partition(2);
    assert_eq!(new.log().first_undecided_offset(), Some(1));
    write(&cluster, 2, data(8, 1, "c")).await;
    assert_eq!(new.last_stable_offset(), 1);
    assert_eq!(end(&cluster, 2, vec![marker(8, true, vec![0])]).await, [(8, 0, 0)]);
    assert_eq!(new.last_stable_offset(), 5);
    let seen = committed_only(&cluster, 2, 0, 0).await;
    assert_eq!(aborted(&seen), [(7, 0)]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn markers_are_refused_with_kafkas_codes() {
    let cluster = Cluster::start(&[1, 2, 3], TRUSTING).await;
    write(&cluster, 1, data(7, 0, "a")).await;
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    let both = vec![marker(7, true, vec![0, 5]), marker(8, true, vec![0])];
    assert_eq!(end(&cluster, 1, both).await, [(7, 0, 0), (7, 5, unknown), (8, 0, 0)]);
    let elsewhere = ErrorCode::NotLeaderOrFollower.code();
    let codes = end(&cluster, 2, vec![marker(7, true, vec![0])]).await;
    assert_eq!(codes, [(7, 0, elsewhere)]);
    let old = Marker { coordinator_epoch: 2, ..marker(7, true, vec![0]) };
    let fenced = ErrorCode::TransactionCoordinatorFenced.code();
    assert_eq!(end(&cluster, 1, vec![old]).await, [(7, 0, fenced)]);
    let zombie = Marker { producer_epoch: 0, ..marker(7, true, vec![0]) };
    let invalid = ErrorCode::InvalidProducerEpoch.code();
    assert_eq!(end(&cluster, 1, vec![zombie]).await, [(7, 0, invalid)]);
    cluster.stop().await;
}

/// Answers each question with the next of its words, and keeps the questions.
#[derive(Default)]
struct Scripted {
    words: Mutex<Vec<Result<Option<ErrorCode>, Silence>>>,
    asked: Mutex<Vec<(NodeId, AddPartitionsToTxnRequest)>>,
}

#[async_trait]
impl Coordinators for Scripted {
    async fn ask(
        &self,
        coordinator: NodeId,
        request: AddPartitionsToTxnRequest,
    ) -> Result<AddPartitionsToTxnResponse, Silence> {
        let word = self.words.lock().remove(0);
        let code = match word {
            Ok(code) => code.map_or(0, |code| code.code()),
            Err(silence) => return Err(silence),
        };
        let results = request.transactions.iter().map(|transaction| {
            let topics = transaction.topics.iter().map(|topic| {
                let one = |index: &i32| {
                    AddPartitionsToTxnPartitionResult::default()
                        .with_partition_index(*index)
                        .with_partition_error_code(code)
                };
                AddPartitionsToTxnTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_results_by_partition(topic.partitions.iter().map(one).collect())
            });
            AddPartitionsToTxnResult::default()
                .with_transactional_id(transaction.transactional_id.clone())
                .with_topic_results(topics.collect())
        });
        let response =
            AddPartitionsToTxnResponse::default().with_results_by_transaction(results.collect());
        self.asked.lock().push((coordinator, request));
        Ok(response)
    }
}

async fn verify(cluster: &Cluster, supports: Supports) -> Verified {
    let writer =
        Writer { transactional_id: StrBytes::from_static_str("tx"), id: 7, epoch: 0, supports };
    let node = cluster.node(1);
    let appends = [(cluster.partition(1), 0)];
    let mut verified = node.partitions.verifier.verify(&writer, &appends).await;
    verified.remove(&TopicPartition::new(TOPIC, 0)).unwrap()
}

fn state_topic() -> [crate::wire::metadata::Record; 2] {
    let topic_id = Uuid::from_u128(77);
    let partition = PartitionRecord {
        partition_id: 0,
        topic_id,
        replicas: vec![9],
        isr: vec![9],
        leader: 9,
        directories: vec![Uuid::nil()],
        ..Default::default()
    };
    [TopicRecord { name: "__transaction_state".into(), topic_id }.into(), partition.into()]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_coordinator_says_is_told_in_words_that_the_client_knows() {
    use ErrorCode as E;
    let cluster = Cluster::start(&[1], "").await;
    let scripted = Arc::new(Scripted::default());
    cluster.node(1).partitions.verifier.ask_instead(scripted.clone());
    let code = |verified: Verified| verified.map(|_| ()).map_err(|refusal| refusal.code);
    let away = code(verify(&cluster, Supports::OldErrors).await);
    assert_eq!(away, Err(E::NotEnoughReplicas), "there is no coordinator yet");
    cluster.commit(&state_topic());
    let (old, new, adding) = (Supports::OldErrors, Supports::Abortable, Supports::Adding);
    let cases = [
        (old, Ok(None), Ok(())),
        (old, Ok(Some(E::InvalidTxnState)), Err(E::InvalidTxnState)),
        (old, Ok(Some(E::TransactionAbortable)), Err(E::InvalidTxnState)),
        (new, Ok(Some(E::TransactionAbortable)), Err(E::TransactionAbortable)),
        (adding, Ok(Some(E::TransactionAbortable)), Err(E::TransactionAbortable)),
        (old, Ok(Some(E::ProducerFenced)), Err(E::InvalidProducerEpoch)),
        (new, Ok(Some(E::ConcurrentTransactions)), Err(E::NotEnoughReplicas)),
        (new, Ok(Some(E::NotCoordinator)), Err(E::NotEnoughReplicas)),
        (adding, Ok(Some(E::InvalidProducerIdMapping)), Err(E::InvalidProducerIdMapping)),
        (new, Err(Silence::Failed("gone".into())), Err(E::NotEnoughReplicas)),
        (new, Err(Silence::CannotTell), Ok(())),
    ];
    for (supports, word, expected) in cases {
        scripted.words.lock().push(word.clone());
        assert_eq!(code(verify(&cluster, supports).await), expected, "{supports:?} {word:?}");
    }
    {
        let asked = scripted.asked.lock();
        let (coordinator, request) = asked.last().unwrap();
        assert_eq!((*coordinator, request.transactions[0].verify_only), (9, false));
        let adds = |it: &(NodeId, AddPartitionsToTxnRequest)| !it.1.transactions[0].verify_only;
        assert!(asked.iter().any(adds));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_busy_with_the_last_transaction_is_asked_again() {
    let cluster = Cluster::start(&[1], "add.partitions.to.txn.retry.backoff.max.ms=60000").await;
    cluster.commit(&state_topic());
    let scripted = Arc::new(Scripted::default());
    cluster.node(1).partitions.verifier.ask_instead(scripted.clone());
    scripted.words.lock().extend([Ok(Some(ErrorCode::ConcurrentTransactions)), Ok(None)]);
    let guard = verify(&cluster, Supports::Adding).await.unwrap();
    assert_eq!(scripted.asked.lock().len(), 2);
    let leader = cluster.partition(1);
    let append = |guard| {
        let appending = Appending::verified(Origin::Client, guard);
        leader.append(data(7, 0, "a"), true, ANY_EPOCH, appending)
    };
    assert_eq!(append(None).err().unwrap().code, ErrorCode::InvalidTxnState);
    append(guard).unwrap().committed().await.unwrap();
    assert_eq!(
        verify(&cluster, Supports::Adding).await,
        Ok(None),
        "it is ongoing: nobody is asked"
    );
    cluster.stop().await;
}
