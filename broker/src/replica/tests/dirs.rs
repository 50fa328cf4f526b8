//! One broker's replicas on several log directories: where they lie, what is set aside, what goes
//! offline, and what waits for the disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use uuid::Uuid;

use super::cluster::{NoController, TOPIC, TOPIC_ID, batch};
use super::trick::Trick;
use crate::config::Settings;
use crate::controller::lifecycle::Membership;
use crate::controller::{Delta, Image};
use crate::env::Disk;
use crate::error::{ErrorCode, Fault};
use crate::log::{LogConfig, LogDirOptions, LogDirs, Origin, TailCache};
use crate::replica::context::Context;
use crate::replica::partition::ANY_EPOCH;
use crate::replica::{Partition, Partitions};
use crate::types::TopicPartition;
use crate::wire::metadata::{PartitionRecord, Record, RegisterBrokerRecord, TopicRecord};

/// Broker 1 with log directories `names` below `folder`.
pub(super) async fn start(
    trick: &Trick,
    folder: &Path,
    names: &[&str],
    more: &str,
) -> Arc<Partitions> {
    let env = trick.env();
    let paths: Vec<_> = names.iter().map(|name| folder.join(name)).collect();
    let options = LogDirOptions {
        path: PathBuf::new(),
        cluster_id: "cluster".into(),
        node_id: 1,
        tail_cache: TailCache::new(1 << 20),
        checkpoint_every: 60_000,
        expire_every: 600_000,
        reserve_bytes: 1 << 20,
    };
    let dirs = LogDirs::open(&env, &paths, &paths[0], &options).unwrap();
    dirs.start().await.unwrap();
    let settings = Settings::for_test(&format!("node.id=1\n{more}"));
    let image = Arc::new(ArcSwap::from_pointee(Image::empty("cluster")));
    let membership = Membership { epoch: watch::channel(101).1, heard: watch::channel(None).1 };
    let context = Context::new(env, settings, image, membership);
    Partitions::new(context, dirs, Arc::new(NoController))
}

/// Broker 1 leads partitions of one topic, which the image has in these directories.
pub(super) fn image(directories: &[Uuid]) -> Image {
    let broker = RegisterBrokerRecord {
        broker_id: 1,
        broker_epoch: 101,
        fenced: false,
        ..Default::default()
    };
    let mut records: Vec<Record> =
        vec![broker.into(), TopicRecord { name: TOPIC.into(), topic_id: TOPIC_ID }.into()];
    for (partition_id, directory) in (0..).zip(directories) {
        let partition = PartitionRecord {
            partition_id,
            topic_id: TOPIC_ID,
            replicas: vec![1],
            isr: vec![1],
            leader: 1,
            directories: vec![*directory],
            ..Default::default()
        };
        records.push(partition.into());
    }
    let mut image = Image::empty("cluster");
    for record in &records {
        image.replay(record, &mut Delta::default()).unwrap();
    }
    image
}

pub(super) async fn apply(partitions: &Arc<Partitions>, image: &Image) {
    let before = partitions.context.image.swap(Arc::new(image.clone()));
    let delta = Delta::between(&before, image);
    partitions.apply_image(Arc::new(image.clone()), delta).await;
}

/// Ends the process that has them: nothing of it is at work any more.
pub(super) async fn stop(partitions: Arc<Partitions>) {
    partitions.dirs.shut_down_cleanly(101).await.unwrap();
}

pub(super) fn append(
    partition: &Arc<Partition>,
) -> Result<crate::replica::ticket::Ticket, ErrorCode> {
    let appended = partition.append(batch(&["a"]), true, ANY_EPOCH, Origin::Client);
    appended.map_err(|refusal| refusal.code)
}

pub(super) fn id(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

pub(super) const UNASSIGNED: Uuid = Uuid::from_u128(1);

#[tokio::test(flavor = "multi_thread")]
async fn the_high_watermark_of_a_durable_topic_moves_with_the_fsync_and_not_with_the_append() {
    for (flush, at_once) in [("sync", 0), ("page-cache", 1)] {
        let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
        let partitions = start(&trick, folder.path(), &["a"], &format!("log.flush={flush}")).await;
        apply(&partitions, &image(&[UNASSIGNED])).await;
        let leader = partitions.get(TOPIC, 0).unwrap();
        trick.hold(true);
        let ticket = append(&leader).unwrap();
        if at_once == 0 {
            // The flusher is at it, and does not come through.
            trick.0.waiting.notified().await;
        }
        let known = (leader.log().end_offset(), leader.high_watermark());
        let committed = leader.committed(1, leader.epoch());
        // Before an assertion can fail: the runtime waits for the flusher.
        trick.hold(false);
        assert_eq!(known, (1, at_once), "log.flush={flush}");
        assert_eq!(committed.is_some(), at_once == 1, "log.flush={flush}");
        ticket.committed().await.unwrap();
        assert_eq!(leader.high_watermark(), 1, "log.flush={flush}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_replicas_go_where_the_fewest_are_and_the_controller_hears_of_it() {
    let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
    let names = ["a", "b", "c"];
    let partitions = start(&trick, folder.path(), &names, "").await;
    apply(&partitions, &image(&[UNASSIGNED; 7])).await;
    let dirs = &partitions.dirs;
    let counts: Vec<_> = dirs.all().iter().map(|dir| dir.partitions()).collect();
    assert_eq!(counts, [3, 2, 2]);
    let told = partitions.context.take_assignments(100);
    for partition in 0..7 {
        let holder = dirs.holder(&id(partition), None).unwrap().directory_id();
        assert_eq!(told.get(&(TOPIC_ID, partition)), Some(&holder));
    }
    // What the image says is followed where there is nothing yet, and not said again.
    let named: Vec<_> =
        (0..7).map(|n| told[&(TOPIC_ID, n)]).chain([dirs.all()[0].directory_id()]).collect();
    apply(&partitions, &image(&named)).await;
    assert!(dirs.all()[0].holds(&id(7)));
    assert!(partitions.context.take_assignments(100).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_replicas_are_found_where_they_were_whatever_the_image_says() {
    let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
    let partitions = start(&trick, folder.path(), &["a", "b"], "").await;
    apply(&partitions, &image(&[UNASSIGNED; 4])).await;
    for partition in partitions.all() {
        append(&partition).unwrap().committed().await.unwrap();
    }
    let b = partitions.dirs.all()[1].directory_id();
    stop(partitions).await;
    let partitions = start(&trick, folder.path(), &["a", "b"], "").await;
    apply(&partitions, &image(&[b; 4])).await;
    let ends: Vec<_> = partitions.all().iter().map(|it| it.log().end_offset()).collect();
    assert_eq!(ends, [1; 4]);
    // Those that the image has in the wrong directory are told.
    let a = partitions.dirs.all()[0].directory_id();
    let told = partitions.context.take_assignments(100);
    assert_eq!(told.values().copied().collect::<Vec<_>>(), [a, a]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_fails_takes_its_replicas_offline_and_no_others() {
    let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
    let partitions = start(&trick, folder.path(), &["a", "b"], "").await;
    apply(&partitions, &image(&[UNASSIGNED; 2])).await;
    let told = partitions.context.take_assignments(100);
    let named = [told[&(TOPIC_ID, 0)], told[&(TOPIC_ID, 1)]];
    let (here, gone) = (partitions.get(TOPIC, 0).unwrap(), partitions.get(TOPIC, 1).unwrap());
    *trick.0.broken.lock() = Some(folder.path().join("b"));
    let waits = append(&gone);
    let failed = partitions.dirs.gone_offline(&[]).await;
    assert_eq!(failed.path(), folder.path().join("b"));
    partitions.on_offline(&failed);
    if let Ok(ticket) = waits {
        assert_eq!(ticket.committed().await, Err(ErrorCode::NotLeaderOrFollower));
    }
    assert_eq!(partitions.find(TOPIC, 1).err(), Some(ErrorCode::KafkaStorageError));
    assert_eq!(partitions.dirs.why_unusable(), None);
    append(&here).unwrap().committed().await.unwrap();
    // Neither a new image nor a restart makes it anew elsewhere: its records are there.
    apply(&partitions, &image(&named)).await;
    assert_eq!(partitions.find(TOPIC, 1).err(), Some(ErrorCode::KafkaStorageError));
    drop((partitions, here, gone, failed));
    let partitions = start(&trick, folder.path(), &["a", "b"], "").await;
    assert_eq!(partitions.dirs.broken().len(), 1);
    apply(&partitions, &image(&named)).await;
    assert_eq!(partitions.find(TOPIC, 1).err(), Some(ErrorCode::KafkaStorageError));
    assert_eq!(partitions.get(TOPIC, 0).unwrap().log().end_offset(), 1);
    // With the disk repaired, it is back.
    drop(partitions);
    *trick.0.broken.lock() = None;
    let partitions = start(&trick, folder.path(), &["a", "b"], "").await;
    apply(&partitions, &image(&named)).await;
    assert!(partitions.get(TOPIC, 1).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_directory_of_the_metadata_log_the_broker_cannot_go_on_and_says_so() {
    let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
    let partitions = start(&trick, folder.path(), &["a", "b"], "").await;
    let dirs = &partitions.dirs;
    let fault = || Fault::Disk { path: "x".into(), source: io::Error::from_raw_os_error(5) };
    dirs.all()[0].take_offline(&fault());
    let why = dirs.why_unusable().unwrap();
    assert!(why.contains("/a, which holds the metadata log, is offline: x: "), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_directory_is_refused() {
    let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
    drop(start(&trick, folder.path(), &["a"], "").await);
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    trick.create_dir_all(&b).unwrap();
    let meta = trick.read(&a.join("meta.properties")).unwrap();
    trick.write_atomically(&b.join("meta.properties"), &meta).unwrap();
    let options = LogDirOptions {
        path: PathBuf::new(),
        cluster_id: "cluster".into(),
        node_id: 1,
        tail_cache: TailCache::new(1 << 20),
        checkpoint_every: 60_000,
        expire_every: 600_000,
        reserve_bytes: -1,
    };
    let refused = LogDirs::open(&trick.env(), &[a.clone(), b], &a, &options);
    let why = refused.err().map(|fault| fault.to_string()).unwrap_or_default();
    assert!(why.ends_with("one is a copy of the other"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_almost_full_refuses_records_and_takes_them_again_by_itself() {
    let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
    let partitions = start(&trick, folder.path(), &["a"], "").await;
    apply(&partitions, &image(&[UNASSIGNED])).await;
    let leader = partitions.get(TOPIC, 0).unwrap();
    append(&leader).unwrap().committed().await.unwrap();
    *trick.0.available.lock() = 1 << 20;
    partitions.dirs.all()[0].space();
    let refused = leader.append(batch(&["a"]), true, ANY_EPOCH, Origin::Client).err().unwrap();
    assert_eq!(refused.code, ErrorCode::KafkaStorageError);
    assert!(refused.message.contains("almost full: 1048576 bytes are left"), "{refused}");
    assert!(!leader.log().has_room(), "a follower stops to fetch");
    // What frees space, and what internal topics need, is still written.
    let offsets = TopicPartition::new("__consumer_offsets", 0);
    let dir = &partitions.dirs.all()[0];
    let internal = dir.create(&offsets, None, LogConfig::default()).unwrap();
    internal.append_as_leader(batch(&["a"]), 0, Origin::Coordinator, 0).unwrap();
    dir.checkpoint().unwrap();
    assert!(dir.delete(&offsets).unwrap());
    assert_eq!(dir.why_offline(), None);
    *trick.0.available.lock() = 1 << 30;
    dir.space();
    append(&leader).unwrap().committed().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_image_names_or_what_is_of_another_topic_is_set_aside() {
    let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
    let partitions = start(&trick, folder.path(), &["a"], "").await;
    let other = Uuid::from_u128(9);
    for name in [("gone", 3), (TOPIC, 0)] {
        let stray = TopicPartition::new(name.0, name.1);
        let dir = &partitions.dirs.all()[0];
        let log = dir.create(&stray, Some(other), LogConfig::default()).unwrap();
        log.append_as_leader(batch(&["a"]), 0, Origin::Coordinator, 0).unwrap();
    }
    stop(partitions).await;
    let partitions = start(&trick, folder.path(), &["a"], "").await;
    apply(&partitions, &image(&[UNASSIGNED])).await;
    let folders: Vec<_> = trick.list(&folder.path().join("a")).unwrap();
    let folders: Vec<_> = folders.into_iter().filter(|it| it.is_dir).map(|it| it.name).collect();
    let stray =
        |of: &str| folders.iter().any(|name| name.starts_with(of) && name.ends_with("-stray"));
    assert!(
        folders.len() == 3 && stray("gone-3.") && stray("t-0."),
        "{folders:?} {:?}",
        partitions.dirs.why_unusable()
    );
    assert_eq!(partitions.get(TOPIC, 0).unwrap().log().end_offset(), 0);
    // They stay where they are.
    stop(partitions).await;
    let partitions = start(&trick, folder.path(), &["a"], "").await;
    apply(&partitions, &image(&[UNASSIGNED])).await;
    assert_eq!(partitions.all().len(), 1);
    let again = trick.list(&folder.path().join("a")).unwrap();
    assert_eq!(again.iter().filter(|it| it.name.ends_with("-stray")).count(), 2);
}
