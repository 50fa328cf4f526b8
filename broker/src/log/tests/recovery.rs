//! What a crash, a loss of power or a person can leave, and what is made of it.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::env::Disk;
use crate::env::disk::Open;

const FOLDER: &str = "/data/t-0";
/// Records are appended one per batch: so many, of which the first are below the recovery point.
const APPENDED: i32 = 60;
const CHECKPOINTED: i32 = 40;

fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Names and sizes of what lies in the partition's folder.
fn files(disk: &dyn Disk) -> BTreeMap<String, u64> {
    let entries = disk.list(FOLDER.as_ref()).unwrap();
    entries.into_iter().map(|entry| (entry.name, entry.len)).collect()
}

fn newest(disk: &dyn Disk, extension: &str) -> PathBuf {
    let files = files(disk);
    let found = files.keys().rfind(|name| name.ends_with(extension));
    path(found.unwrap_or_else(|| panic!("no {extension}: {files:?}")))
}

fn overwrite(disk: &dyn Disk, path: &Path, at: u64, bytes: &[u8]) {
    let file = disk.open(path, Open::ReadWrite).unwrap();
    file.write_all_at(&[std::io::IoSlice::new(bytes)], at).unwrap();
}

/// Where the batches of the active segment lie: first offset, position.
fn batches(disk: &dyn Disk) -> Vec<(Offset, u64)> {
    let bytes = disk.read(&newest(disk, ".log")).unwrap();
    let mut at = 0;
    let mut found = Vec::new();
    for batch in Batches::new(&bytes).map_while(Result::ok) {
        found.push((batch.base_offset(), at));
        at += batch.size() as u64;
    }
    found
}

fn position_of(disk: &dyn Disk, offset: Offset) -> u64 {
    batches(disk).into_iter().find(|(base, _)| *base == offset).unwrap().1
}

/// One large segment: its recovery begins in the middle.
fn large() -> LogConfig {
    LogConfig { segment_bytes: 1 << 20, ..small() }
}

/// A log with [`APPENDED`] records of one producer, stopped without warning. All is on the disk.
async fn stopped(config: &LogConfig) -> MemoryDisk {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, config.clone()).await;
    for n in 0..APPENDED {
        let bytes = from_producer(7, 0, n, &format!("value {n}"));
        log.append_as_leader(bytes, n / 25, Origin::Client, NOW).unwrap();
        if n + 1 == CHECKPOINTED {
            log.flush(false);
            dir.checkpoint().unwrap();
        }
    }
    log.flush(false);
    disk
}

struct Case {
    name: &'static str,
    damage: fn(&dyn Disk),
    /// Where the log ends then.
    end: i32,
}

const fn case(name: &'static str, end: i32, damage: fn(&dyn Disk)) -> Case {
    Case { name, damage, end }
}

const CASES: [Case; 23] = [
    case("nothing", APPENDED, |_| {}),
    case("a torn tail", APPENDED - 1, |disk| {
        let file = disk.open(&newest(disk, ".log"), Open::ReadWrite).unwrap();
        file.truncate(file.len().unwrap() - 10).unwrap();
    }),
    case("a tail torn within a header", APPENDED - 1, |disk| {
        let file = disk.open(&newest(disk, ".log"), Open::ReadWrite).unwrap();
        file.truncate(position_of(disk, i64::from(APPENDED) - 1) + 30).unwrap();
    }),
    case("a tail of which only the length came", APPENDED, |disk| {
        let log = newest(disk, ".log");
        let end = disk.open(&log, Open::Read).unwrap().len().unwrap();
        overwrite(disk, &log, end, &[0; 5000]);
    }),
    case("a last batch whose bytes are zeros", APPENDED - 1, |disk| {
        let at = position_of(disk, i64::from(APPENDED) - 1);
        overwrite(disk, &newest(disk, ".log"), at + 20, &[0; 40]);
    }),
    case("an unsynced page that was lost before one that was not", APPENDED - 2, |disk| {
        let at = position_of(disk, i64::from(APPENDED) - 2);
        overwrite(disk, &newest(disk, ".log"), at + 61, &[0; 4]);
    }),
    case("old bytes behind the end", APPENDED, |disk| {
        let log = newest(disk, ".log");
        let bytes = disk.read(&log).unwrap();
        overwrite(disk, &log, bytes.len() as u64, &bytes[..150]);
    }),
    case("no index", APPENDED, |disk| disk.remove_file(&newest(disk, ".index")).unwrap()),
    case("no time index", APPENDED, |disk| disk.remove_file(&newest(disk, ".timeindex")).unwrap()),
    case("no index at all", APPENDED, |disk| {
        for name in files(disk).keys().filter(|name| name.ends_with("index")) {
            disk.remove_file(&path(name)).unwrap();
        }
    }),
    case("an index of garbage", APPENDED, |disk| {
        disk.write_atomically(&newest(disk, ".index"), &[0x55; 804]).unwrap();
    }),
    case("a time index of garbage", APPENDED, |disk| {
        disk.write_atomically(&newest(disk, ".timeindex"), &[0x55; 601]).unwrap();
    }),
    case("an index that leads behind the end", APPENDED, |disk| {
        let mut bytes = disk.read(&newest(disk, ".index")).unwrap();
        bytes.truncate(8);
        bytes.resize(8, 0);
        bytes[4..].copy_from_slice(&[0x7f; 4]);
        disk.write_atomically(&newest(disk, ".index"), &bytes).unwrap();
    }),
    case("an index that leads into a batch", APPENDED, |disk| {
        let index = newest(disk, ".index");
        let mut bytes = disk.read(&index).unwrap();
        bytes.chunks_exact_mut(8).for_each(|entry| entry[7] ^= 1);
        disk.write_atomically(&index, &bytes).unwrap();
    }),
    case("indexes as large as Kafka makes them ahead", APPENDED, |disk| {
        for index in [".index", ".timeindex"] {
            let file = disk.open(&newest(disk, index), Open::ReadWrite).unwrap();
            file.truncate(1 << 20).unwrap();
        }
    }),
    case("half a checkpoint of recovery points", APPENDED, |disk| {
        let path = Path::new("/data/recovery-point-offset-checkpoint");
        disk.write_atomically(path, b"0\n3\nt 0").unwrap();
    }),
    case("an empty checkpoint of recovery points", APPENDED, |disk| {
        let path = Path::new("/data/recovery-point-offset-checkpoint");
        disk.write_atomically(path, b"").unwrap();
    }),
    case("half checkpoints of log starts and high watermarks", APPENDED, |disk| {
        for name in ["log-start-offset-checkpoint", "replication-offset-checkpoint"] {
            disk.write_atomically(&Path::new("/data").join(name), b"0\n1\n").unwrap();
        }
    }),
    case("half of a checkpoint's successor", APPENDED, |disk| {
        let path = Path::new("/data/recovery-point-offset-checkpoint.tmp");
        overwrite(disk, path, 0, b"0\n9\nt");
    }),
    case("half a checkpoint of epochs", APPENDED, |disk| {
        disk.write_atomically(&path("leader-epoch-checkpoint"), b"0\n3\n0 0\n1").unwrap();
    }),
    case("no checkpoint of epochs", APPENDED, |disk| {
        disk.write_atomically(&path("leader-epoch-checkpoint"), b"0\nx\n").unwrap();
    }),
    case("a damaged snapshot of producers", APPENDED, |disk| {
        let snapshot = newest(disk, ".snapshot");
        let mut bytes = disk.read(&snapshot).unwrap();
        bytes[12] ^= 1;
        disk.write_atomically(&snapshot, &bytes).unwrap();
    }),
    case("no snapshots of producers", APPENDED, |disk| {
        for name in files(disk).keys().filter(|name| name.ends_with(".snapshot")) {
            disk.remove_file(&path(name)).unwrap();
        }
    }),
];

#[tokio::test]
async fn what_a_crash_leaves_becomes_a_log_without_the_damaged_and_with_all_before_it() {
    for (kind, config) in [("several segments", small()), ("one segment", large())] {
        for Case { name, damage, end } in &CASES {
            let name = format!("{name}, {kind}");
            let disk = stopped(&config).await;
            damage(&*disk.env().disk);
            let (_dir, log) = one_log(&disk, config.clone()).await;
            assert_eq!(log.end_offset(), i64::from(*end), "{name}");
            let expected: Vec<_> =
                (0..*end).map(|n| (i64::from(n), format!("value {n}"))).collect();
            assert_eq!(contents(&log), expected, "{name}");
            let epochs: Vec<_> = [(0, 0), (1, 25), (2, 50)].into();
            assert_eq!(log.epochs(), epochs, "{name}");
            assert!(log.offset_for_timestamp(NOW).unwrap().is_some(), "{name}");
            // The producers are known: a retry is none, and what follows is taken.
            let again = |n: i32| from_producer(7, 0, n, &format!("value {n}"));
            let append = |bytes| log.append_as_leader(bytes, 2, Origin::Client, NOW).unwrap();
            assert!(append(again(end - 1)).duplicate, "{name}");
            assert_eq!(append(again(*end)).first_offset, i64::from(*end), "{name}");
        }
    }
}

#[tokio::test]
async fn a_recovered_log_survives_the_next_crash_too() {
    for Case { name, damage, end } in &CASES {
        let disk = stopped(&large()).await;
        damage(&*disk.env().disk);
        let (dir, log) = one_log(&disk, large()).await;
        log.flush(false);
        dir.checkpoint().unwrap();
        drop((dir, log));
        disk.crash(1);
        let (_dir, log) = one_log(&disk, large()).await;
        assert_eq!(log.end_offset(), i64::from(*end), "{name}");
        assert_eq!(contents(&log).len(), *end as usize, "{name}");
    }
}

#[tokio::test]
async fn a_recovery_point_behind_the_end_covers_nothing_that_is_appended_there() {
    let disk = stopped(&large()).await;
    let all = disk.env().disk;
    let file = all.open(&newest(&*all, ".log"), Open::ReadWrite).unwrap();
    file.truncate(position_of(&*all, 20)).unwrap();
    file.sync().unwrap();
    let (dir, log) = one_log(&disk, large()).await;
    assert_eq!(log.end_offset(), 20);
    assert_eq!(append(&log, "torn"), 20);
    drop((dir, log));
    overwrite(&*all, &newest(&*all, ".log"), position_of(&*all, 20) + 65, &[0; 3]);
    let (_dir, log) = one_log(&disk, large()).await;
    assert_eq!((log.end_offset(), contents(&log).len()), (20, 20));
}

#[tokio::test]
async fn a_log_that_many_ask_for_at_once_is_opened_once() {
    for _ in 0..50 {
        let disk = stopped(&large()).await;
        disk.crash(0);
        let dir = LogDir::open(disk.env(), options("/data")).unwrap();
        dir.start().await.unwrap();
        let together = std::sync::Barrier::new(8);
        let logs: Vec<_> = std::thread::scope(|scope| {
            let open = || {
                together.wait();
                dir.open_log(&topic(), large()).unwrap().unwrap()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(logs.iter().all(|log| Arc::ptr_eq(log, &logs[0])));
        // What it has to write after the crash is written by one.
        assert_eq!(dir.shared.dirty.lock().len(), 1);
    }
}

/// As [`stopped`], but a cleaner has removed all odd records below `cleaned`, in all segments.
async fn cleaned(config: &LogConfig, all_below: Offset) -> MemoryDisk {
    let disk = stopped(config).await;
    let all = disk.env().disk;
    let logs: Vec<_> =
        files(&*all).into_keys().filter(|name| name.strip_suffix(".log").is_some()).collect();
    for name in logs {
        let bytes = all.read(&path(&name)).unwrap();
        let mut kept = Vec::new();
        let mut rest = &bytes[..];
        for batch in Batches::new(&bytes).map_while(Result::ok) {
            let (this, after) = rest.split_at(batch.size());
            if batch.base_offset() % 2 == 0 || batch.base_offset() >= all_below {
                kept.extend_from_slice(this);
            }
            rest = after;
        }
        all.write_atomically(&path(&name), &kept).unwrap();
        for index in ["index", "timeindex"] {
            let _ = all.remove_file(&path(&name.replace(".log", &format!(".{index}"))));
        }
    }
    // Kafka's recovery points are as old as its last checkpoint.
    all.remove_file(Path::new("/data/recovery-point-offset-checkpoint")).unwrap();
    disk
}

#[tokio::test]
async fn gaps_that_kafkas_cleaner_left_are_not_taken_for_losses() {
    // Where segments end with an odd offset, the cleaned one ends before the next begins.
    let sizes = [1000, 1100, 900, 800];
    let mut gaps = 0;
    for segment_bytes in sizes {
        let compacted = LogConfig { segment_bytes, compact: true, delete: false, ..small() };
        let was_compacted = LogConfig { segment_bytes, ..small() };
        for config in [compacted, was_compacted] {
            let disk = cleaned(&config, 50).await;
            let names = files(&*disk.env().disk);
            let bases = names.keys().filter_map(|name| name.strip_suffix(".log"));
            gaps += bases.filter(|base| base.parse::<i64>().unwrap() % 2 == 0).count() - 1;
            let (_dir, log) = one_log(&disk, config).await;
            assert_eq!(log.end_offset(), i64::from(APPENDED));
            assert_eq!(contents(&log).len(), 25 + 10, "{segment_bytes}");
        }
    }
    assert!(gaps > 0, "the test has gaps between segments");
}

#[tokio::test]
async fn a_log_that_looks_like_nothing_was_cleaned_loses_what_is_behind_a_gap() {
    let disk = stopped(&small()).await;
    let all = disk.env().disk;
    all.remove_file(Path::new("/data/recovery-point-offset-checkpoint")).unwrap();
    let log = path("00000000000000000000.log");
    let bytes = all.read(&log).unwrap();
    let sizes = Batches::new(&bytes).map(|batch| batch.unwrap().size() as u64);
    let last = sizes.last().unwrap();
    let file = all.open(&log, Open::ReadWrite).unwrap();
    file.truncate(bytes.len() as u64 - last).unwrap();
    let (_dir, log) = one_log(&disk, small()).await;
    assert_eq!(log.segment_count(), 1);
    assert_eq!(contents(&log).len() as i64, log.end_offset());
}

#[tokio::test]
async fn a_compacted_durable_log_has_no_gap_after_any_loss_of_power() {
    let config = LogConfig { compact: true, delete: false, ..small() };
    for luck in 0..64_u64 {
        let disk = MemoryDisk::default();
        let (dir, log) = one_log(&disk, config.clone()).await;
        log.flush(false);
        for n in 0..40 {
            let mut builder = BatchBuilder::new();
            builder.push(NOW, Some(b"k"), Some(format!("value {n}").as_bytes()));
            log.append_as_leader(builder.build(), 0, Origin::Client, NOW).unwrap();
        }
        drop((dir, log));
        disk.crash(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(luck));
        let (_dir, log) = one_log(&disk, config.clone()).await;
        assert_eq!(contents(&log).len() as i64, log.end_offset(), "luck {luck}");
    }
}

#[tokio::test]
async fn folders_are_finished_kept_or_left_alone_by_their_names() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, small()).await;
    append(&log, "a");
    log.flush(true);
    drop((dir, log));
    let all = disk.env().disk;
    for name in ["gone-1.0a-delete", "odd-2.0b-stray", "moved-3.0c-future", "lost+found"] {
        let folder = Path::new("/data").join(name);
        all.create_dir_all(&folder).unwrap();
        overwrite(&*all, &folder.join("00000000000000000000.log"), 0, b"x");
    }
    let dir = LogDir::open(disk.env(), options("/data")).unwrap();
    dir.start().await.unwrap();
    dir.stop_tasks();
    assert_eq!(dir.unopened(), [topic()]);
    let left: Vec<_> = all.list("/data".as_ref()).unwrap();
    let left: Vec<_> = left.iter().filter(|it| it.is_dir).map(|it| &*it.name).collect();
    assert_eq!(left, ["lost+found", "moved-3.0c-future", "odd-2.0b-stray", "t-0"]);
}

#[tokio::test]
async fn a_log_that_nobody_opened_keeps_its_checkpoints_and_its_need_for_recovery() {
    let disk = stopped(&small()).await;
    let all = disk.env().disk;
    let points = all.read(Path::new("/data/recovery-point-offset-checkpoint")).unwrap();
    let high = "replication-offset-checkpoint";
    all.write_atomically(&Path::new("/data").join(high), b"0\n1\nt 0 17\n").unwrap();
    let dir = LogDir::open(disk.env(), options("/data")).unwrap();
    dir.start().await.unwrap();
    dir.write_high_watermarks(|_| None).unwrap();
    dir.checkpoint().unwrap();
    dir.shut_down_cleanly(3).await.unwrap();
    drop(dir);
    assert_eq!(all.read(Path::new("/data/recovery-point-offset-checkpoint")).unwrap(), points);
    let (dir, log) = one_log(&disk, small()).await;
    assert_eq!(dir.clean_shutdown_epoch(), None, "the crash before is not forgotten");
    assert_eq!(dir.high_watermark(&topic()), Some(17));
    assert_eq!(contents(&log).len(), APPENDED as usize);
}

#[tokio::test]
async fn after_a_crash_a_new_log_has_nothing_of_the_one_that_had_its_name_before() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, small()).await;
    for n in 0..20 {
        append(&log, &format!("old {n}"));
    }
    log.flush(false);
    log.advance_start(12);
    let other = TopicPartition::new("other", 1);
    dir.create(&other, None, small()).unwrap();
    dir.checkpoint().unwrap();
    dir.write_high_watermarks(|_| Some(20)).unwrap();
    assert!(dir.delete(&topic()).unwrap());
    let new = dir.create(&topic(), None, small()).unwrap();
    append(&new, "new");
    new.flush(false);
    disk.crash(0);
    drop((dir, log, new));
    let (dir, log) = one_log(&disk, small()).await;
    assert_eq!((log.start_offset(), log.end_offset()), (0, 1));
    assert_eq!(contents(&log).len(), 1);
    assert_eq!(dir.high_watermark(&topic()), None);
    assert_eq!(dir.high_watermark(&other), Some(20), "the others' stay");
}

#[tokio::test]
async fn lack_of_room_for_small_files_passes_and_loses_nothing() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, small()).await;
    for n in 0..30 {
        let bytes = from_producer(7, 0, n, "v");
        log.append_as_leader(bytes, n / 10, Origin::Client, NOW).unwrap();
    }
    disk.faults.lock().room = Some(3);
    log.flush(false);
    assert_eq!(log.synced_offset(), 0, "nothing is promised meanwhile");
    assert!(dir.checkpoint().is_err() && dir.why_offline().is_none());
    disk.faults.lock().room = None;
    log.flush(false);
    assert_eq!(log.synced_offset(), 30);
    disk.crash(0);
    drop((dir, log));
    let (_dir, log) = one_log(&disk, small()).await;
    assert_eq!((log.end_offset(), log.epochs().len()), (30, 3));
    let again = log.append_as_leader(from_producer(7, 0, 29, "v"), 2, Origin::Client, NOW);
    assert!(again.unwrap().duplicate);
}
