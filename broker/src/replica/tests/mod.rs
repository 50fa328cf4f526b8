//! Three brokers' partitions together.

pub(crate) mod cluster;
mod dirs;
mod fetching;
mod moves;
mod nodes;
mod transactions;
mod trick;

use std::time::Duration;

use cluster::*;

use super::partition::ANY_EPOCH;
use crate::controller::{Delta, Image};
use crate::error::ErrorCode;
use crate::log::Origin;
use crate::wire::records::BatchBuilder;

#[tokio::test(flavor = "multi_thread")]
async fn acks_all_waits_for_every_replica_and_then_consumers_see_the_records() {
    let cluster = Cluster::start(&[1, 2, 3], "").await;
    let leader = cluster.partition(1);
    let ticket = leader.append(batch(&["a", "b"]), true, ANY_EPOCH, Origin::Client).unwrap();
    assert_eq!(ticket.appended.first_offset, 0);
    ticket.committed().await.unwrap();
    for id in [2, 3] {
        assert!(cluster.partition(id).log().synced_offset() >= 2, "broker {id}");
    }
    let data = fetch(&cluster.node(1).partitions, consume(0, 1000, 1)).await;
    assert_eq!(values(&data.records.unwrap()), ["a", "b"]);
    assert_eq!(data.high_watermark, 2);
    cluster
        .until("followers learn the high watermark", || cluster.partition(2).high_watermark() == 2)
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_cut_off_leaves_the_isr_and_comes_back() {
    let cluster = Cluster::start(&[1, 2, 3], "").await;
    cluster.cut_off(3);
    let leader = cluster.partition(1);
    let ticket = leader.append(batch(&["a"]), true, ANY_EPOCH, Origin::Client).unwrap();
    ticket.committed().await.unwrap();
    assert_eq!(cluster.isr(), [1, 2]);
    cluster.reconnect(3);
    cluster.until("broker 3 is back", || cluster.isr() == [1, 2, 3]).await;
    assert_eq!(cluster.partition(3).log().end_offset(), 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_leader_that_comes_back_truncates_what_was_never_committed() {
    let cluster = Cluster::start(&[1, 2, 3], "").await;
    let old = cluster.partition(1);
    let both = old.append(batch(&["a"]), true, ANY_EPOCH, Origin::Client).unwrap();
    both.committed().await.unwrap();
    cluster.cut_off(1);
    let lost = old.append(batch(&["lost", "lost"]), true, ANY_EPOCH, Origin::Client).unwrap();
    cluster.elect(2, &[2, 3]);
    let new = cluster.partition(2);
    let kept = new.append(batch(&["kept"]), true, ANY_EPOCH, Origin::Client).unwrap();
    kept.committed().await.unwrap();
    cluster.reconnect(1);
    assert_eq!(lost.committed().await, Err(ErrorCode::NotLeaderOrFollower));
    cluster.until("broker 1 is in sync", || cluster.isr().contains(&1)).await;
    let records = old.log().read_cold(0, 1 << 20, 2, true).unwrap();
    assert_eq!(values(&records), ["a", "kept"]);
    assert_eq!(old.log().epochs(), new.log().epochs());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_replicas_are_refused_before_the_append_and_told_after_it() {
    let cluster = Cluster::start(&[1, 2, 3], "min.insync.replicas=3").await;
    let leader = cluster.partition(1);
    cluster.cut_off(3);
    let append = |all| leader.append(batch(&["a"]), all, ANY_EPOCH, Origin::Client);
    let ticket = append(true).unwrap();
    cluster
        .until("broker 3 leaves the ISR", || {
            leader.log().end_offset() == 1 && cluster.isr().len() == 2
        })
        .await;
    cluster.until("the leader knows", || append(true).is_err()).await;
    assert_eq!(append(true).err().unwrap().code, ErrorCode::NotEnoughReplicas);
    append(false).unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(50), ticket.committed());
    assert!(waiting.await.is_err(), "the high watermark stands still");
    cluster.reconnect(3);
    ticket.committed().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_may_be_deposed_does_not_judge_a_gap_in_a_producers_sequence() {
    let cluster = Cluster::start(&[1], "").await;
    let leader = cluster.partition(1);
    let produce = |sequence: i32| {
        let mut batch = BatchBuilder::new().producer(7, 0, sequence);
        batch.push(1_700_000_000_000, None, Some(b"x"));
        let appended = leader.append(batch.build(), false, ANY_EPOCH, Origin::Client);
        appended.map(drop).map_err(|refusal| refusal.code)
    };
    assert_eq!(produce(0), Ok(()));
    assert_eq!(produce(3), Err(ErrorCode::OutOfOrderSequenceNumber));
    let now = tokio::time::Instant::now();
    cluster.node(1).heard.send_replace(Some(now));
    assert_eq!(produce(3), Err(ErrorCode::OutOfOrderSequenceNumber));
    cluster.node(1).heard.send_replace(now.checked_sub(Duration::from_secs(2)));
    assert_eq!(produce(3), Err(ErrorCode::NotLeaderOrFollower));
    assert_eq!(produce(1), Ok(()), "what follows is taken; the ISR decides whether it counts");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_is_woken_by_the_high_watermark_and_not_before() {
    let cluster = Cluster::start(&[1, 2, 3], "").await;
    let partitions = cluster.node(1).partitions.clone();
    let poll = tokio::spawn(async move { fetch(&partitions, consume(0, 60_000, 1)).await });
    let leader = cluster.partition(1);
    let ticket = leader.append(batch(&["a"]), true, ANY_EPOCH, Origin::Client).unwrap();
    let data = tokio::time::timeout(Duration::from_secs(10), poll).await.unwrap().unwrap();
    assert_eq!(values(&data.records.unwrap()), ["a"]);
    ticket.committed().await.unwrap();
    cluster.stop().await;
}

type Change = fn(&mut kafka_protocol::messages::FetchRequest);

#[tokio::test(flavor = "multi_thread")]
async fn fetches_are_refused_with_kafkas_codes() {
    let cluster = Cluster::start(&[1, 2, 3], "").await;
    let leader = cluster.partition(1);
    let ticket = leader.append(batch(&["a"]), true, ANY_EPOCH, Origin::Client).unwrap();
    ticket.committed().await.unwrap();
    let on = |id: i32, change: Change| {
        let partitions = cluster.node(id).partitions.clone();
        let mut request = consume(0, 0, 1);
        change(&mut request);
        async move { fetch(&partitions, request).await.error_code }
    };
    let cases: [(i32, Change, ErrorCode); 4] = [
        (1, |it| it.topics[0].partitions[0].fetch_offset = 9, ErrorCode::OffsetOutOfRange),
        (
            1,
            |it| it.topics[0].partitions[0].current_leader_epoch = 9,
            ErrorCode::UnknownLeaderEpoch,
        ),
        (1, |it| it.topics[0].topic_id = uuid::Uuid::from_u128(1), ErrorCode::UnknownTopicId),
        (1, |it| it.topics[0].partitions[0].partition = 9, ErrorCode::UnknownTopicOrPartition),
    ];
    for (id, change, expected) in cases {
        assert_eq!(on(id, change).await, expected.code(), "{expected:?}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_records_are_gone_from_every_replica() {
    let cluster = Cluster::start(&[1, 2, 3], "").await;
    let leader = cluster.partition(1);
    let ticket = leader.append(batch(&["a", "b", "c"]), true, ANY_EPOCH, Origin::Client).unwrap();
    ticket.committed().await.unwrap();
    assert_eq!(leader.delete_records(4), Err(ErrorCode::OffsetOutOfRange));
    assert_eq!(leader.delete_records(-1), Ok(3));
    cluster.until("all replicas have deleted", || leader.low_watermark() == Ok(3)).await;
    assert_eq!(cluster.partition(2).log().start_offset(), 3);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_can_begin_where_records_were_deleted_from_the_middle_of_a_batch() {
    let cluster = Cluster::start(&[1, 2, 3], "").await;
    cluster.cut_off(3);
    let leader = cluster.partition(1);
    let ticket = leader.append(batch(&["a", "b", "c"]), true, ANY_EPOCH, Origin::Client).unwrap();
    ticket.committed().await.unwrap();
    assert_eq!(leader.delete_records(2), Ok(2));
    cluster.reconnect(3);
    cluster.until("broker 3 is in sync", || cluster.isr().contains(&3)).await;
    let log = cluster.partition(3).log();
    assert_eq!((log.start_offset(), log.end_offset()), (2, 3));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_and_followers_compact_on_their_own() {
    let compacted = "log.cleanup.policy=compact\nlog.cleaner.backoff.ms=20\n\
                     log.cleaner.min.cleanable.ratio=0.01\nlog.roll.ms=1000";
    let cluster = Cluster::start(&[1, 2, 3], compacted).await;
    let leader = cluster.partition(1);
    for (n, value) in ["old", "older than the last", "active"].iter().enumerate() {
        let mut builder = crate::wire::records::BatchBuilder::new();
        builder.push(1_700_000_000_000 + n as i64 * 5000, Some(b"k"), Some(value.as_bytes()));
        let ticket = leader.append(builder.build(), true, ANY_EPOCH, Origin::Client).unwrap();
        ticket.committed().await.unwrap();
    }
    for id in [1, 2] {
        let read = |from| {
            let log = cluster.partition(id).log();
            values(&log.read_cold(from, 1 << 20, 3, true).unwrap())
        };
        cluster.until("the first record is gone", || read(0) == ["older than the last"]).await;
        assert_eq!(read(2), ["active"]);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_is_gone_and_who_waits_for_it_is_told() {
    let cluster = Cluster::start(&[1, 2, 3], "").await;
    cluster.cut_off(3);
    let leader = cluster.partition(1);
    let ticket = leader.append(batch(&["a"]), true, ANY_EPOCH, Origin::Client).unwrap();
    cluster.commit(&[crate::wire::metadata::RemoveTopicRecord { topic_id: TOPIC_ID }.into()]);
    assert_eq!(ticket.committed().await, Err(ErrorCode::NotLeaderOrFollower));
    let partitions = &cluster.node(1).partitions;
    assert_eq!(partitions.find(TOPIC, 0).err(), Some(ErrorCode::UnknownTopicOrPartition));
    assert!(partitions.dirs.all()[0].logs().is_empty());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_replayed_at_a_start_deletes_nothing() {
    let cluster = Cluster::start(&[1, 2, 3], "").await;
    let node = node(1, "").await;
    let id = crate::types::TopicPartition::new(TOPIC, 0);
    let config = crate::log::LogConfig::default();
    let log = node.partitions.dirs.all()[0].create(&id, Some(TOPIC_ID), config).unwrap();
    log.append_as_leader(batch(&["a"]), 0, Origin::Coordinator, 0).unwrap();
    let partitions = super::Partitions::new(
        node.partitions.context.clone(),
        node.partitions.dirs.clone(),
        std::sync::Arc::new(NoController),
    );
    // This run's registration is later than anything in these images.
    node.epoch.send_replace(500);
    let apply = |image: &Image| {
        let empty = Image::empty("cluster");
        partitions.apply(image, &Delta::between(&empty, image));
    };
    apply(&Image::empty("cluster"));
    apply(&cluster.truth());
    assert!(partitions.all().is_empty());
    assert_eq!(partitions.dirs.all()[0].logs().len(), 1);
    node.epoch.send_replace(101);
    apply(&cluster.truth());
    assert_eq!(partitions.get(TOPIC, 0).unwrap().log().end_offset(), 1);
    cluster.stop().await;
}
