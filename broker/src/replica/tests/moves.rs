//! Replicas that move from one log directory to another.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::cluster::{TOPIC, TOPIC_ID, batch, values};
use super::dirs::{UNASSIGNED, append, apply, id, image, start, stop};
use super::trick::Trick;
use crate::controller::Delta;
use crate::env::Disk;
use crate::error::ErrorCode;
use crate::log::{LogConfig, Origin};
use crate::replica::Partitions;
use crate::replica::moves::Progress;
use crate::types::TopicPartition;
use crate::wire::metadata::{PartitionRecord, RemoveTopicRecord};

/// Takes steps until the move is over or waits.
async fn step(partitions: &Arc<Partitions>) -> Progress {
    loop {
        let doing = partitions.clone();
        let step = move || doing.step_move(&id(0));
        match partitions.context.env.blocking(step).await {
            Progress::More => {}
            progress => return progress,
        }
    }
}

fn ids(partitions: &Partitions) -> Vec<Uuid> {
    partitions.dirs.all().iter().map(|dir| dir.directory_id()).collect()
}

/// In which of the directories the partition lies, and its copies.
fn places(partitions: &Partitions) -> (Vec<usize>, Vec<usize>) {
    let dirs = || partitions.dirs.all().iter().enumerate();
    let held = dirs().filter(|(_, dir)| dir.holds(&id(0))).map(|(at, _)| at);
    let future =
        |dir: &crate::log::LogDir| dir.future(&id(0)).is_some() || dir.found_future(&id(0));
    (held.collect(), dirs().filter(|(_, dir)| future(dir)).map(|(at, _)| at).collect())
}

/// Folders of the partition below `dir`, by what their names end with.
fn folders(trick: &Trick, dir: &Path) -> Vec<String> {
    let entries = trick.list(dir).unwrap().into_iter().filter(|entry| entry.is_dir);
    let ours = entries.filter(|entry| entry.name.starts_with("t-0"));
    ours.map(|entry| entry.name.rsplit('-').next().unwrap_or_default().to_owned()).collect()
}

fn records(partitions: &Partitions) -> Vec<String> {
    let log = partitions.get(TOPIC, 0).unwrap().log();
    let mut all = Vec::new();
    let mut from = log.start_offset();
    while from < log.end_offset() {
        let bytes = log.read_cold(from, 1 << 20, i64::MAX, true).unwrap();
        let read = values(&bytes);
        from += read.len() as i64;
        all.extend(read);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_moves_while_it_is_written_and_is_told_before_it_is_swapped() {
    let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
    let partitions = start(&trick, folder.path(), &["a", "b"], "").await;
    let [a, b] = ids(&partitions)[..] else { panic!("two directories") };
    apply(&partitions, &image(&[a])).await;
    let leader = partitions.get(TOPIC, 0).unwrap();
    for _ in 0..100 {
        append(&leader).unwrap().committed().await.unwrap();
    }
    leader.delete_records(10).unwrap();
    partitions.alter_log_dir(&id(0), &folder.path().join("b")).unwrap();
    assert_eq!(places(&partitions), (vec![0], vec![1]));
    assert_eq!(step(&partitions).await, Progress::Waits);
    // Caught up, and waiting for the controller; what comes meanwhile is copied, too.
    assert_eq!(partitions.context.take_assignments(9), [((TOPIC_ID, 0), b)].into());
    append(&leader).unwrap().committed().await.unwrap();
    assert_eq!(step(&partitions).await, Progress::Waits);
    assert_eq!(partitions.dirs.all()[1].future(&id(0)).unwrap().end_offset(), 101);
    append(&leader).unwrap().committed().await.unwrap();
    apply(&partitions, &image(&[b])).await;
    assert_eq!(step(&partitions).await, Progress::Over);
    assert_eq!(places(&partitions), (vec![1], vec![]));
    assert_eq!(folders(&trick, &folder.path().join("b")), ["0"]);
    assert_eq!(folders(&trick, &folder.path().join("a")), ["delete"]);
    append(&leader).unwrap().committed().await.unwrap();
    let log = leader.log();
    assert_eq!((log.start_offset(), log.end_offset(), log.synced_offset()), (10, 103, 103));
    assert_eq!(leader.high_watermark(), 103);
    drop((log, leader));
    stop(partitions).await;
    let partitions = start(&trick, folder.path(), &["a", "b"], "").await;
    apply(&partitions, &image(&[b])).await;
    assert_eq!(records(&partitions).len(), 93);
    assert!(partitions.context.take_assignments(9).is_empty());
    assert_eq!(folders(&trick, &folder.path().join("a")), [""; 0]);
}

/// What one life of the process did: how many records it has acknowledged.
async fn live(trick: &Trick, folder: &Path, named: &mut Option<Uuid>, acked: &mut Vec<String>) {
    let partitions = start(trick, folder, &["a", "b"], "").await;
    let b = ids(&partitions)[1];
    let first = *named.get_or_insert(ids(&partitions)[0]);
    apply(&partitions, &image(&[first])).await;
    let mut write = async |value: &str| {
        let leader = partitions.get(TOPIC, 0)?;
        let ticket = leader.append(batch(&[value]), true, -1, Origin::Client).ok()?;
        // A dead disk acknowledges nothing.
        let patience = std::time::Duration::from_millis(200);
        tokio::time::timeout(patience, ticket.committed()).await.ok()?.ok()?;
        acked.push(value.to_owned());
        Some(())
    };
    for value in 0..3 {
        write(&format!("{value}")).await;
    }
    let _ = partitions.alter_log_dir(&id(0), &folder.join("b"));
    step(&partitions).await;
    if partitions.context.take_assignments(9).get(&(TOPIC_ID, 0)) == Some(&b) {
        *named = Some(b);
        apply(&partitions, &image(&[b])).await;
    }
    write("copied").await;
    step(&partitions).await;
    write("moved").await;
    partitions.dirs.all().iter().for_each(|dir| drop(dir.checkpoint()));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_moment_a_crash_takes_one_replica_is_left_with_all_that_was_acknowledged() {
    let mut moments = 0;
    for moment in (0..).step_by(2) {
        let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
        let (mut named, mut acked) = (None, Vec::new());
        // The directories are there; the rest is new.
        drop(start(&trick, folder.path(), &["a", "b"], "").await);
        trick.end_after(8 + moment);
        live(&trick, folder.path(), &mut named, &mut acked).await;
        let ended = trick.has_ended();
        let trick = Trick::new();
        let partitions = start(&trick, folder.path(), &["a", "b"], "").await;
        let named = named.unwrap_or(UNASSIGNED);
        apply(&partitions, &image(&[named])).await;
        let (held, _) = places(&partitions);
        assert_eq!(held.len(), 1, "moment {moment}: in one directory");
        let left = records(&partitions);
        let kept = acked.iter().all(|value| left.contains(value));
        assert!(kept, "moment {moment}: {acked:?} were acknowledged, {left:?} are left");
        // And the move goes on, or can be asked for anew.
        let b = ids(&partitions)[1];
        let _ = partitions.alter_log_dir(&id(0), &folder.path().join("b"));
        apply(&partitions, &image(&[b])).await;
        step(&partitions).await;
        assert_eq!(places(&partitions), (vec![1], vec![]), "moment {moment}");
        assert_eq!(records(&partitions), left, "moment {moment}");
        moments += 1;
        if !ended {
            break;
        }
    }
    assert!(moments > 20, "only {moments} moments");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_moved_is_refused_with_kafkas_codes() {
    let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
    let partitions = start(&trick, folder.path(), &["a", "b", "c"], "").await;
    let [a, b, c] = ids(&partitions)[..] else { panic!("three directories") };
    apply(&partitions, &image(&[a, c])).await;
    let alter =
        |id: &TopicPartition, dir: &str| partitions.alter_log_dir(id, &folder.path().join(dir));
    let long = TopicPartition::new(&*"x".repeat(240), 0);
    assert_eq!(alter(&long, "b"), Err(ErrorCode::InvalidTopicException));
    assert_eq!(alter(&id(0), "z"), Err(ErrorCode::LogDirNotFound));
    assert_eq!(alter(&id(9), "b"), Err(ErrorCode::UnknownTopicOrPartition));
    assert_eq!(alter(&id(0), "a"), Ok(()), "where it is");
    assert!(partitions.moves.is_empty());
    // A replica that is on its way to this broker is made where it was wanted.
    let mut elsewhere = image(&[a, c]);
    let other = PartitionRecord {
        partition_id: 2,
        topic_id: TOPIC_ID,
        replicas: vec![2],
        isr: vec![2],
        leader: 2,
        ..Default::default()
    };
    elsewhere.replay(&other.into(), &mut Delta::default()).unwrap();
    apply(&partitions, &elsewhere).await;
    assert_eq!(alter(&id(2), "b"), Err(ErrorCode::ReplicaNotAvailable));
    apply(&partitions, &image(&[a, c, c])).await;
    assert!(partitions.dirs.all()[1].holds(&id(2)));
    assert_eq!(partitions.context.take_assignments(9), [((TOPIC_ID, 2), b)].into());
    // With a directory offline, who knows what is in it.
    *trick.0.broken.lock() = Some(folder.path().join("c"));
    let gone = partitions.get(TOPIC, 1).unwrap();
    let _ = append(&gone);
    let failed = partitions.dirs.gone_offline(&[]).await;
    partitions.on_offline(&failed);
    for (id, dir) in [(id(0), "c"), (id(1), "b"), (id(0), "b")] {
        assert_eq!(alter(&id, dir), Err(ErrorCode::KafkaStorageError), "{id} to {dir}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_can_be_called_back_led_elsewhere_and_ends_with_its_topic() {
    let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
    let partitions = start(&trick, folder.path(), &["a", "b", "c"], "").await;
    let [a, b, c] = ids(&partitions)[..] else { panic!("three directories") };
    let alter = |dir: &str| partitions.alter_log_dir(&id(0), &folder.path().join(dir)).unwrap();
    apply(&partitions, &image(&[a])).await;
    append(&partitions.get(TOPIC, 0).unwrap()).unwrap().committed().await.unwrap();
    alter("b");
    step(&partitions).await;
    assert_eq!(partitions.context.take_assignments(9), [((TOPIC_ID, 0), b)].into());
    alter("a");
    assert_eq!(places(&partitions), (vec![0], vec![]));
    assert_eq!(partitions.context.take_assignments(9), [((TOPIC_ID, 0), a)].into());
    alter("b");
    alter("c");
    assert_eq!(places(&partitions), (vec![0], vec![2]));
    step(&partitions).await;
    apply(&partitions, &image(&[c])).await;
    assert_eq!(step(&partitions).await, Progress::Over);
    assert_eq!(places(&partitions), (vec![2], vec![]));
    alter("a");
    let mut gone = image(&[c]);
    let remove = RemoveTopicRecord { topic_id: TOPIC_ID };
    gone.replay(&remove.into(), &mut Delta::default()).unwrap();
    apply(&partitions, &gone).await;
    assert_eq!(places(&partitions), (vec![], vec![]));
    assert!(partitions.moves.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_target_fails_the_replica_stays_and_the_controller_hears_where() {
    let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
    let partitions = start(&trick, folder.path(), &["a", "b"], "").await;
    let [a, b] = ids(&partitions)[..] else { panic!("two directories") };
    apply(&partitions, &image(&[a])).await;
    let leader = partitions.get(TOPIC, 0).unwrap();
    append(&leader).unwrap().committed().await.unwrap();
    partitions.alter_log_dir(&id(0), &folder.path().join("b")).unwrap();
    step(&partitions).await;
    apply(&partitions, &image(&[b])).await;
    *trick.0.broken.lock() = Some(folder.path().join("b"));
    append(&leader).unwrap().committed().await.unwrap();
    assert_eq!(step(&partitions).await, Progress::Over);
    let failed = partitions.dirs.gone_offline(&[]).await;
    partitions.on_offline(&failed);
    append(&leader).unwrap().committed().await.unwrap();
    assert_eq!(partitions.context.take_assignments(9), [((TOPIC_ID, 0), a)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_without_its_original_is_used_if_it_had_caught_up_and_set_aside_if_not() {
    for caught_up in [true, false] {
        let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
        let partitions = start(&trick, folder.path(), &["a", "b"], "").await;
        let [a, b] = ids(&partitions)[..] else { panic!("two directories") };
        apply(&partitions, &image(&[a])).await;
        append(&partitions.get(TOPIC, 0).unwrap()).unwrap().committed().await.unwrap();
        partitions.alter_log_dir(&id(0), &folder.path().join("b")).unwrap();
        step(&partitions).await;
        stop(partitions).await;
        // The other disk is taken out, and the configuration says so.
        let partitions = start(&trick, folder.path(), &["b"], "").await;
        apply(&partitions, &image(&[if caught_up { b } else { a }])).await;
        assert_eq!(records(&partitions).len(), usize::from(caught_up));
        let expected: &[&str] = if caught_up { &["0"] } else { &["0", "stray"] };
        assert_eq!(folders(&trick, &folder.path().join("b")), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_follows_truncations_of_the_log_that_it_copies() {
    let (trick, folder) = (Trick::new(), tempfile::tempdir().unwrap());
    let partitions = start(&trick, folder.path(), &["a", "b"], "").await;
    let dirs = partitions.dirs.all();
    let config = LogConfig { segment_bytes: 300, ..LogConfig::default() };
    let log = dirs[0].create(&id(0), Some(TOPIC_ID), config.clone()).unwrap();
    let write = |epoch: i32, count: usize| {
        for _ in 0..count {
            let value = format!("epoch {epoch}");
            log.append_as_leader(batch(&[&value]), epoch, Origin::Coordinator, 0).unwrap();
        }
    };
    write(1, 10);
    write(2, 10);
    let copy = dirs[1].create_future(&id(0), TOPIC_ID, 0, config).unwrap();
    assert!(copy.copy_from(&log, usize::MAX).unwrap());
    let cases: [(i64, i32, usize); 4] = [(15, 3, 2), (5, 4, 30), (0, 7, 1), (20, 8, 0)];
    for (cut, epoch, more) in cases {
        log.truncate_to(cut).unwrap();
        write(epoch, more);
        while !copy.copy_from(&log, 100).unwrap() {}
        let read = |log: &crate::log::Log| {
            let mut all = Vec::new();
            while (all.len() as i64) < log.end_offset() {
                let from = all.len() as i64;
                all.extend(values(&log.read_cold(from, 1 << 20, i64::MAX, true).unwrap()));
            }
            all
        };
        assert_eq!(read(&copy), read(&log), "cut to {cut}");
        assert_eq!(copy.end_offset(), log.end_offset());
    }
    let path: PathBuf = copy.dir();
    assert!(path.to_string_lossy().ends_with("-future"));
}
