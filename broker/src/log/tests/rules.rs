use super::*;
use crate::error::{ErrorCode, Refusal};
use crate::types::NO_EPOCH;
use crate::wire::records::{BatchView, Compression, TimestampType};

struct Told(parking_lot::Mutex<Vec<Offset>>);
impl SyncListener for Told {
    fn synced(&self, offset: Offset) {
        self.0.lock().push(offset);
    }
}

struct Tell(tokio::sync::mpsc::UnboundedSender<Offset>);
impl SyncListener for Tell {
    fn synced(&self, offset: Offset) {
        let _ = self.0.send(offset);
    }
}

fn code(error: AppendError) -> ErrorCode {
    Refusal::from(error).code
}

#[tokio::test]
async fn what_is_appended_is_read_warm_and_cold() {
    let disk = MemoryDisk::default();
    let (_dir, log) = one_log(&disk, small()).await;
    for n in 0..50 {
        assert_eq!(append(&log, &format!("value {n}")), n);
    }
    assert!(log.segment_count() > 3);
    let expected: Vec<_> = (0..50).map(|n| (n, format!("value {n}"))).collect();
    assert_eq!(contents(&log), expected);
    for from in 0..50 {
        let warm = log.read(from, 500, 40, true).unwrap().unwrap();
        let cold = log.read_cold(from, 500, 40, true).unwrap();
        if from >= 40 {
            assert!(warm.is_empty() && cold.is_empty());
            continue;
        }
        assert_eq!(BatchView::first(&warm).unwrap().base_offset(), from);
        assert!(warm.starts_with(&cold) && !cold.is_empty(), "cold reads end with a segment");
        assert!(Batches::new(&warm).all(|batch| batch.unwrap().last_offset() < 40));
    }
    assert!(matches!(log.read(51, 1, 99, true), Err(ReadError::OutOfRange { .. })));
    assert!(log.read(50, 1, 99, true).unwrap().unwrap().is_empty());
}

#[tokio::test]
async fn synced_follows_the_flusher_or_the_end() {
    let disk = MemoryDisk::default();
    let (_dir, log) = one_log(&disk, small()).await;
    let told = Arc::new(Told(parking_lot::Mutex::default()));
    log.set_sync_listener(Some(told.clone()));
    append(&log, "a");
    append(&log, "b");
    assert_eq!((log.end_offset(), log.synced_offset()), (2, 0));
    log.flush(false);
    assert_eq!((log.synced_offset(), told.0.lock().clone()), (2, vec![2]));
    log.set_config(LogConfig { flush: FlushPolicy::PageCache, ..small() });
    append(&log, "c");
    let before = disk.syncs();
    log.flush(false);
    assert_eq!((log.synced_offset(), log.recovery_point(), disk.syncs()), (3, 2, before));
}

#[tokio::test]
async fn the_flusher_task_syncs_without_being_asked() {
    let env = MemoryDisk::default().env();
    let dir = LogDir::open(env, options("/data")).unwrap();
    dir.start().await.unwrap();
    let log = dir.create(&topic(), None, small()).unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    log.set_sync_listener(Some(Arc::new(Tell(tell))));
    append(&log, "a");
    assert_eq!(told.recv().await, Some(1));
}

#[tokio::test]
async fn a_failed_fsync_takes_the_directory_offline_for_good() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, small()).await;
    append(&log, "a");
    disk.faults.lock().sync_fails = true;
    log.flush(false);
    assert_eq!(log.synced_offset(), 0);
    assert!(dir.offline().borrow().is_some());
    disk.faults.lock().sync_fails = false;
    log.flush(false);
    assert_eq!(log.synced_offset(), 0, "what failed once is not believed later");
    let error = log.append_as_leader(batch(&["b"], NOW), 0, Origin::Client, NOW).unwrap_err();
    assert_eq!(code(error), ErrorCode::KafkaStorageError);
    assert!(dir.shut_down_cleanly(1).await.is_err());
}

#[tokio::test]
async fn a_full_disk_refuses_the_append_and_leaves_no_trace() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, small()).await;
    append(&log, "a");
    let size = log.size();
    disk.faults.lock().room = Some(10);
    let error = log.append_as_leader(batch(&["b"], NOW), 0, Origin::Client, NOW).unwrap_err();
    assert_eq!(code(error), ErrorCode::KafkaStorageError);
    assert_eq!((log.size(), log.end_offset()), (size, 1));
    assert!(dir.offline().borrow().is_none());
    disk.faults.lock().room = None;
    assert_eq!(append(&log, "b"), 1);
    assert_eq!(contents(&log).len(), 2);
}

#[tokio::test]
async fn appends_that_kafka_refuses_are_refused() {
    let disk = MemoryDisk::default();
    let config = LogConfig { compact: true, max_message_bytes: 500, ..small() };
    let (_dir, log) = one_log(&disk, config).await;
    let hour = 3600 * 1000;
    let mut no_key = BatchBuilder::new();
    no_key.push(NOW, None, Some(b"v"));
    let mut no_key_zipped = BatchBuilder::new().compression(Compression::Zstd);
    no_key_zipped.push(NOW, None, Some(b"v"));
    let mut theirs = BatchBuilder::new().timestamp_type(TimestampType::LogAppendTime);
    theirs.push(NOW, Some(b"k"), None);
    let mut broken = batch(&["a"], NOW).to_vec();
    broken[65] ^= 1;
    let cases = [
        ("empty", Bytes::new(), ErrorCode::InvalidRecord),
        ("too large", batch(&[&"x".repeat(500)], NOW), ErrorCode::MessageTooLarge),
        ("no key", no_key.build(), ErrorCode::InvalidRecord),
        ("no key, compressed", no_key_zipped.build(), ErrorCode::InvalidRecord),
        ("future", batch(&["a"], NOW + hour + 1), ErrorCode::InvalidTimestamp),
        ("append time", theirs.build(), ErrorCode::InvalidTimestamp),
        ("crc", broken.into(), ErrorCode::CorruptMessage),
        ("cut off", batch(&["a"], NOW).slice(..60), ErrorCode::CorruptMessage),
    ];
    for (name, bytes, expected) in cases {
        let error = log.append_as_leader(bytes, 0, Origin::Client, NOW).unwrap_err();
        assert_eq!(code(error), expected, "{name}");
    }
    assert_eq!(log.end_offset(), 0);
}

#[tokio::test]
async fn append_time_and_compression_are_the_topics() {
    let disk = MemoryDisk::default();
    let config = LogConfig {
        timestamp_type: TimestampType::LogAppendTime,
        compression: Some(Compression::Lz4),
        ..small()
    };
    let (_dir, log) = one_log(&disk, config).await;
    let done = log.append_as_leader(batch(&["a", "b"], 5), 3, Origin::Client, NOW).unwrap();
    assert_eq!((done.append_time, done.last_offset, done.records), (NOW, 1, 2));
    let bytes = log.read_cold(0, 1000, 99, true).unwrap();
    let view = BatchView::first(&bytes).unwrap();
    view.check().unwrap();
    assert_eq!((view.compression().unwrap(), view.max_timestamp()), (Compression::Lz4, NOW));
    assert_eq!(view.leader_epoch(), 3);
    assert_eq!(contents(&log), [(0, "a".into()), (1, "b".into())]);
}

#[tokio::test]
async fn a_duplicate_has_the_offset_of_the_first_attempt_also_after_restarts() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, small()).await;
    append(&log, "x");
    for n in 0..20 {
        log.append_as_leader(from_producer(7, 0, n, "v"), 0, Origin::Client, NOW).unwrap();
    }
    let again = |log: &Log| {
        log.append_as_leader(from_producer(7, 0, 19, "v"), 0, Origin::Client, NOW).unwrap()
    };
    assert_eq!((again(&log).duplicate, again(&log).first_offset), (true, 20));
    dir.shut_down_cleanly(5).await.unwrap();
    drop((dir, log));
    let (dir, log) = one_log(&disk, small()).await;
    assert_eq!(dir.clean_shutdown_epoch(), Some(5));
    assert_eq!((again(&log).duplicate, log.end_offset()), (true, 21));
    log.append_as_leader(from_producer(7, 0, 20, "v"), 0, Origin::Client, NOW).unwrap();
    log.flush(false);
    disk.crash(0);
    drop((dir, log));
    let (dir, log) = one_log(&disk, small()).await;
    assert_eq!(dir.clean_shutdown_epoch(), None);
    let error = log.append_as_leader(from_producer(7, 0, 22, "v"), 0, Origin::Client, NOW);
    assert_eq!(code(error.unwrap_err()), ErrorCode::OutOfOrderSequenceNumber);
    log.append_as_leader(from_producer(7, 0, 21, "v"), 0, Origin::Client, NOW).unwrap();
}

#[tokio::test]
async fn a_follower_takes_offsets_and_epochs_as_they_are() {
    let disk = MemoryDisk::default();
    let (_dir, log) = one_log(&disk, small()).await;
    let at = |base, epoch| {
        let mut builder = BatchBuilder::new().base_offset(base).leader_epoch(epoch);
        builder.push(NOW, None, Some(b"v"));
        builder.build()
    };
    let mut two = at(0, 1).to_vec();
    two.extend_from_slice(&at(1, 4));
    two.extend_from_slice(&at(2, 4)[..30]);
    assert_eq!(log.append_as_follower(two.into()).unwrap().last_offset, 1);
    assert_eq!(log.epochs(), [(1, 0), (4, 1)]);
    let error = log.append_as_follower(at(1, 4)).unwrap_err();
    assert!(matches!(error, AppendError::Unexpected { end: 2, first: 1 }));
    log.append_as_follower(at(7, 5)).unwrap();
    assert_eq!((log.end_offset(), log.end_offset_for_epoch(4)), (8, Some((4, 7))));
    assert_eq!(log.end_offset_for_epoch(NO_EPOCH), None);
    // A gap is passed over, warm and cold.
    assert_eq!(
        BatchView::first(&log.read_cold(2, 99, 99, true).unwrap()).unwrap().base_offset(),
        7
    );
}

#[tokio::test]
async fn truncation_removes_records_epochs_and_producer_state() {
    let disk = MemoryDisk::default();
    let (_dir, log) = one_log(&disk, small()).await;
    for n in 0..40 {
        let bytes = from_producer(7, 0, n, &format!("v{n}"));
        log.append_as_leader(bytes, n / 10, Origin::Client, NOW).unwrap();
    }
    log.flush(false);
    assert!(log.truncate_to(15).unwrap());
    assert!(!log.truncate_to(15).unwrap());
    assert_eq!((log.end_offset(), log.synced_offset(), log.latest_epoch()), (15, 15, Some(1)));
    assert_eq!(contents(&log).last(), Some(&(14, "v14".into())));
    assert!(log.read(14, 99, 99, true).unwrap().is_none(), "the tail cache was emptied");
    let done = log.append_as_leader(from_producer(7, 0, 15, "w"), 9, Origin::Client, NOW).unwrap();
    assert_eq!((done.first_offset, done.duplicate), (15, false));
    assert_eq!(contents(&log).last(), Some(&(15, "w".into())));
    log.truncate_fully_and_start_at(100).unwrap();
    assert_eq!((log.start_offset(), log.end_offset(), log.synced_offset()), (100, 100, 100));
    assert_eq!((log.latest_epoch(), append(&log, "n")), (None, 100));
}

#[tokio::test]
async fn an_epoch_that_wrote_nothing_goes_with_a_truncation_to_the_end() {
    let disk = MemoryDisk::default();
    let (_dir, log) = one_log(&disk, small()).await;
    append(&log, "a");
    let (before, end) = (log.latest_epoch(), log.end_offset());
    log.start_epoch(7, end);
    assert_eq!(log.latest_epoch(), Some(7));
    assert!(!log.truncate_to(end).unwrap());
    assert_eq!((log.latest_epoch(), log.end_offset()), (before, end));
}

#[tokio::test]
async fn retention_goes_by_time_size_and_start_and_never_past_the_high_watermark() {
    let disk = MemoryDisk::default();
    let (_dir, log) = one_log(&disk, small()).await;
    for n in 0..60 {
        let bytes = batch(&["v"], NOW + n);
        log.append_as_leader(bytes, 0, Origin::Client, NOW).unwrap();
    }
    log.flush(false);
    let bases: Vec<_> = log.segments.load().keys().copied().collect();
    assert_eq!(log.retain(NOW + 99, 60).unwrap(), 0, "nothing is asked for");
    log.advance_start(bases[1] + 1);
    assert!(log.retain(NOW + 99, 60).unwrap() > 0);
    assert_eq!((log.segment_count(), log.start_offset()), (bases.len() - 1, bases[1] + 1));
    let size = log.size();
    log.set_config(LogConfig { retention_bytes: size as i64 - 10, ..small() });
    assert_eq!(log.retain(NOW + 99, 60).unwrap(), 0, "only whole segments above the bound");
    log.set_config(LogConfig { retention_bytes: size as i64 - 1000, ..small() });
    log.retain(NOW + 99, 60).unwrap();
    assert_eq!(log.start_offset(), bases[2]);
    log.set_config(LogConfig { retention_ms: 10, ..small() });
    log.retain(NOW + 9999, bases[3]).unwrap();
    assert_eq!(log.start_offset(), bases[3]);
    log.retain(NOW + 9999, 60).unwrap();
    assert_eq!((log.start_offset(), log.end_offset(), log.size()), (60, 60, 0));
    assert_eq!(append(&log, "after"), 60);
    let left = disk_names(&disk).into_iter().filter(|name| name.ends_with(".deleted")).count();
    assert!(left > 0, "files go later");
    log.shared.remove_due(i64::MAX);
    assert!(disk_names(&disk).iter().all(|name| !name.ends_with(".deleted")));
    let compacted = LogConfig { delete: false, compact: true, retention_ms: 1, ..small() };
    log.set_config(compacted);
    assert_eq!(log.retain(NOW * 2, 99).unwrap(), 0);
}

fn disk_names(disk: &MemoryDisk) -> Vec<String> {
    let entries = disk.env().disk.list("/data/t-0".as_ref()).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

#[tokio::test]
async fn timestamps_lead_to_offsets() {
    let disk = MemoryDisk::default();
    let (_dir, log) = one_log(&disk, small()).await;
    for n in 0..40 {
        // Not in order: 1 0 3 2 5 4 …
        let bytes = batch(&["a", "b"], NOW + (n ^ 1) * 10);
        log.append_as_leader(bytes, 2, Origin::Client, NOW).unwrap();
    }
    let look = |time| log.offset_for_timestamp(time).unwrap().map(|at| (at.timestamp, at.offset));
    assert_eq!(look(0), Some((NOW + 10, 0)));
    assert_eq!(look(NOW + 11), Some((NOW + 30, 4)));
    assert_eq!(look(NOW + 390), Some((NOW + 390, 76)));
    assert_eq!(look(NOW + 391), None);
    let largest = log.max_timestamp().unwrap().unwrap();
    assert_eq!((largest.offset, largest.leader_epoch), (76, Some(2)));
    log.advance_start(50);
    assert_eq!(look(0), Some((NOW + 240, 50)));
}

#[tokio::test]
async fn segments_roll_by_time_and_by_index_size() {
    let disk = MemoryDisk::default();
    let config = LogConfig { segment_ms: 100, ..small() };
    let (_dir, log) = one_log(&disk, config).await;
    for time in [0, 100, 101, 150] {
        log.append_as_leader(batch(&["v"], NOW + time), 0, Origin::Client, NOW).unwrap();
    }
    assert_eq!(log.segments.load().keys().copied().collect::<Vec<_>>(), [0, 2]);
    let disk = MemoryDisk::default();
    let config = LogConfig { segment_bytes: 1 << 20, segment_index_bytes: 24, ..small() };
    let (_dir, log) = one_log(&disk, config).await;
    for n in 0..40 {
        log.append_as_leader(batch(&["v"], NOW + n), 0, Origin::Client, NOW).unwrap();
    }
    assert!(log.segment_count() > 3);
    assert_eq!(contents(&log).len(), 40);
}

#[tokio::test]
async fn damaged_and_missing_indexes_of_closed_segments_are_rebuilt() {
    for damage in ["missing", "short", "wrong"] {
        let disk = MemoryDisk::default();
        let (dir, log) = one_log(&disk, small()).await;
        for n in 0..40 {
            append(&log, &format!("value {n}"));
        }
        dir.shut_down_cleanly(1).await.unwrap();
        drop((dir, log));
        let all = disk.env().disk;
        for name in disk_names(&disk).iter().filter(|name| name.ends_with("index")) {
            let path = PathBuf::from("/data/t-0").join(name);
            match damage {
                "missing" => all.remove_file(&path).unwrap(),
                "short" => all.write_atomically(&path, &[1, 2, 3]).unwrap(),
                _ => all.write_atomically(&path, &[0xff; 24]).unwrap(),
            }
        }
        let (_dir, log) = one_log(&disk, small()).await;
        assert_eq!(contents(&log).len(), 40, "{damage}");
        assert_eq!(append(&log, "more"), 40);
        assert!(log.offset_for_timestamp(NOW).unwrap().is_some());
    }
}

#[tokio::test]
async fn a_deleted_log_is_renamed_and_its_folder_goes_later() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, small()).await;
    append(&log, "a");
    assert!(dir.delete(&topic()).unwrap());
    assert!(!dir.delete(&topic()).unwrap());
    assert!(log.append_as_leader(batch(&["b"], NOW), 0, Origin::Client, NOW).is_err());
    log.flush(false);
    assert!(dir.offline().borrow().is_none());
    let folders = || -> Vec<_> {
        let entries = disk.env().disk.list("/data".as_ref()).unwrap();
        entries.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect()
    };
    assert!(folders()[0].starts_with("t-0.") && folders()[0].ends_with("-delete"));
    let new = dir.create(&topic(), None, small()).unwrap();
    assert_eq!(new.end_offset(), 0);
    log.shared.remove_due(i64::MAX);
    assert_eq!(folders(), ["t-0"]);
}

#[tokio::test]
async fn identity_and_topic_ids_are_checked() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, small()).await;
    let id = uuid::Uuid::from_u128(77);
    log.assign_topic_id(id).unwrap();
    log.assign_topic_id(id).unwrap();
    assert!(log.assign_topic_id(uuid::Uuid::from_u128(78)).is_err());
    let directory = dir.directory_id();
    dir.write_high_watermarks(|_| Some(3)).unwrap();
    drop((dir, log));
    let (dir, log) = one_log(&disk, small()).await;
    assert_eq!((dir.directory_id(), log.topic_id()), (directory, Some(id)));
    assert_eq!(dir.high_watermark(&topic()), Some(3));
    let other = LogDirOptions { node_id: 2, ..options("/data") };
    assert!(LogDir::open(disk.env(), other).is_err());
    let other = LogDirOptions { cluster_id: "x".into(), ..options("/data") };
    assert!(LogDir::open(disk.env(), other).is_err());
}

#[tokio::test]
async fn recovery_scans_only_past_the_recovery_point() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, LogConfig { segment_bytes: 1 << 20, ..small() }).await;
    for n in 0..200 {
        append(&log, &format!("value {n}"));
    }
    log.flush(false);
    dir.checkpoint().unwrap();
    append(&log, "tail");
    log.flush(false);
    disk.crash(0);
    drop((dir, log));
    // A damaged byte before the recovery point is not noticed, because nobody looks there.
    let path = PathBuf::from("/data/t-0/00000000000000000000.log");
    let file = disk.env().disk.open(&path, crate::env::disk::Open::ReadWrite).unwrap();
    file.write_all_at(&[std::io::IoSlice::new(b"!")], 70).unwrap();
    let (_dir, log) = one_log(&disk, LogConfig { segment_bytes: 1 << 20, ..small() }).await;
    assert_eq!(log.end_offset(), 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_retention_and_the_flusher_do_not_disturb_an_append() {
    let folder = tempfile::tempdir().unwrap();
    let env = crate::env::real::env();
    let cache = TailCache::new(3000);
    let options = LogDirOptions { tail_cache: cache.clone(), ..options(folder.path()) };
    let dir = LogDir::open(env.clone(), options).unwrap();
    let config = LogConfig { retention_bytes: 20_000, file_delete_delay_ms: 0, ..small() };
    dir.start().await.unwrap();
    let log = dir.create(&topic(), None, config).unwrap();
    let total = 3000;
    let writer = {
        let log = log.clone();
        crate::env::spawn(async move {
            for n in 0..total {
                assert_eq!(append(&log, &format!("value {n}")), n);
                tokio::task::yield_now().await;
            }
        })
    };
    let keeper = {
        let (log, dir) = (log.clone(), dir.clone());
        crate::env::spawn(async move {
            while log.end_offset() < total {
                log.retain(NOW, log.synced_offset()).unwrap();
                log.shared.remove_due(i64::MAX);
                dir.checkpoint().unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    let mut at = 0;
    while at < total {
        let warm = log.read(at, 700, i64::MAX, true);
        let read = match warm {
            Ok(None) => {
                let log = log.clone();
                env.blocking(move || log.read_cold(at, 700, i64::MAX, true)).await
            }
            other => other.map(Option::unwrap_or_default),
        };
        match read {
            Ok(bytes) => {
                for batch in Batches::new(&bytes) {
                    let batch = batch.unwrap();
                    batch.check().unwrap();
                    assert_eq!(batch.base_offset(), at);
                    let records = batch.records(0).unwrap();
                    let record = records.first().unwrap().unwrap();
                    assert_eq!(record.value.unwrap(), format!("value {at}").as_bytes());
                    at += 1;
                }
            }
            Err(ReadError::OutOfRange { start, .. }) if start > at => at = start,
            Err(error) => panic!("{error}"),
        }
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    keeper.await.unwrap();
    assert!(log.why_offline().is_none());
    dir.shut_down_cleanly(1).await.unwrap();
    assert_eq!(log.synced_offset(), total);
}

#[tokio::test]
async fn a_tail_lost_at_the_end_of_a_batch_takes_the_later_segments_with_it() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, small()).await;
    for n in 0..20 {
        append(&log, &format!("value {n}"));
    }
    let batch = log.read_cold(0, 1, 99, true).unwrap().len() as u64;
    let next = *log.segments.load().keys().nth(1).unwrap();
    drop((dir, log));
    let path = PathBuf::from("/data/t-0/00000000000000000000.log");
    let file = disk.env().disk.open(&path, crate::env::disk::Open::ReadWrite).unwrap();
    file.truncate(file.len().unwrap() - batch).unwrap();
    let (_dir, log) = one_log(&disk, small()).await;
    assert_eq!((log.end_offset(), log.segment_count()), (next - 1, 1));
    assert_eq!(contents(&log).len() as i64, next - 1);
}
