use super::*;
use crate::env::real;
use crate::raft::batch::{self, Place};
use crate::raft::messages::{Fetched, LogEnd};
use crate::raft::requests::compare;
use crate::raft::snapshot::{Header, SnapshotId};
use crate::wire::metadata::{NoOpRecord, Record};

const SMALL: LogOptions =
    LogOptions { segment_bytes: 300, segment_ms: 1000, retention_bytes: 0, retention_ms: -1 };

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self, options: LogOptions) -> Result<MetadataLog, Fault> {
        MetadataLog::open_with(&real::env(), self.0.path(), options)
    }

    fn segments(&self) -> Vec<Offset> {
        let entries = real::env().disk.list(&self.0.path().join(FOLDER)).unwrap();
        entries.iter().filter_map(|entry| Segment::base_of(&entry.name)).collect()
    }
}

/// Batches of `count` records each.
fn append(log: &MetadataLog, epoch: LeaderEpoch, batches: usize, count: usize, now: Millis) {
    for _ in 0..batches {
        let records = vec![Record::from(NoOpRecord {}); count];
        let place = Place { offset: log.end_offset(), epoch, now };
        log.append(&batch::of_records(&records, place)).unwrap();
    }
}

fn snapshot(log: &MetadataLog, end_offset: Offset) -> SnapshotId {
    let id = log.snapshot_id_at(end_offset).unwrap();
    let header = Header { last_contained_timestamp: end_offset, kraft: None };
    let writer = log.snapshots().begin(&real::env(), id, &header).unwrap();
    log.snapshots().add(writer.finish().unwrap());
    id
}

fn position_of(log: &MetadataLog, offset: Offset, epoch: LeaderEpoch) -> Fetched {
    compare(LogEnd { epoch, offset }, log)
}

fn snapshot_of(id: SnapshotId) -> Fetched {
    Fetched::Snapshot(LogEnd { epoch: id.epoch, offset: id.end_offset })
}

/// All batches' last offsets, read chunk by chunk.
fn all(log: &MetadataLog) -> Vec<Offset> {
    let (mut from, mut found) = (log.start_offset(), Vec::new());
    while from < log.end_offset() {
        for batch in batch::decode(&log.read(from, log.end_offset(), 1000).unwrap()).unwrap() {
            found.push(batch.last_offset);
            from = batch.last_offset + 1;
        }
    }
    found
}

#[test]
fn a_log_of_several_segments_reads_as_one_and_opens_again() {
    let folder = Folder::new();
    let log = folder.open(SMALL).unwrap();
    append(&log, 1, 5, 2, 0);
    append(&log, 2, 5, 2, 0);
    assert_eq!(folder.segments(), [0, 6, 12, 18]);
    let expected: Vec<_> = (0..10).map(|n| n * 2 + 1).collect();
    assert_eq!(all(&log), expected);
    let log = folder.open(SMALL).unwrap();
    assert_eq!(all(&log), expected);
    assert_eq!((log.end_of_epoch(1), log.last_epoch()), ((1, 10), 2));
    // The rest of a batch goes, too; a segment that is empty then goes whole.
    log.truncate_to(13).unwrap();
    assert_eq!((log.end_offset(), &folder.segments()[..]), (12, &[0, 6, 12][..]));
    log.truncate_to(9).unwrap();
    assert_eq!((log.end_offset(), log.last_epoch()), (8, 1));
    append(&log, 3, 1, 1, 0);
    assert_eq!(folder.open(SMALL).unwrap().end_of_epoch(2), (1, 8));
}

#[test]
fn what_is_appended_at_once_is_split_at_the_same_places() {
    let (one, two) = (Folder::new(), Folder::new());
    let (first, second) = (one.open(SMALL).unwrap(), two.open(LogOptions::default()).unwrap());
    append(&second, 1, 9, 3, 0);
    let bytes = second.read(0, second.end_offset(), 1 << 20).unwrap();
    first.append(&bytes).unwrap();
    assert_eq!(one.segments(), [0, 9, 18]);
    assert_eq!(all(&first), all(&second));
}

#[test]
fn an_old_segment_is_rolled() {
    let folder = Folder::new();
    let log = folder.open(SMALL).unwrap();
    append(&log, 1, 1, 1, 5000);
    append(&log, 1, 1, 1, 6000);
    append(&log, 1, 1, 1, 6001);
    assert_eq!(folder.segments(), [0, 2]);
}

#[test]
fn a_torn_end_is_cut_off_and_a_hole_is_refused() {
    let folder = Folder::new();
    let log = folder.open(SMALL).unwrap();
    append(&log, 1, 6, 2, 0);
    let path = |base: Offset| folder.0.path().join(FOLDER).join(format!("{base:020}.log"));
    let cut = |base: Offset| {
        let file = real::env().disk.open(&path(base), crate::env::disk::Open::ReadWrite).unwrap();
        file.truncate(file.len().unwrap() - 1).unwrap();
    };
    cut(6);
    assert_eq!(folder.open(SMALL).unwrap().end_offset(), 10);
    cut(0);
    let fault = folder.open(SMALL).err().unwrap().to_string();
    assert!(fault.contains("00000000000000000000.log"), "{fault}");
    real::env().disk.remove_file(&path(0)).unwrap();
    let fault = folder.open(SMALL).err().unwrap().to_string();
    assert!(fault.contains("starts at 6, and no whole snapshot"), "{fault}");
}

#[test]
fn trimming_keeps_the_newest_snapshot_and_what_follows_it() {
    let folder = Folder::new();
    let log = folder.open(SMALL).unwrap();
    append(&log, 1, 10, 2, 0);
    let ids = [4, 8, 14].map(|at| snapshot(&log, at));
    assert_eq!(log.snapshot_id_at(13), None, "not where a batch ends");
    assert_eq!(log.snapshot_id_at(8), None, "a newer one exists");
    log.trim(0).unwrap();
    assert_eq!(log.snapshots().all().len(), 1);
    assert_eq!((log.start_offset(), &folder.segments()[..]), (14, &[12, 18][..]));
    assert!(log.read(12, 20, 100).is_err());
    assert_eq!(all(&log), [15, 17, 19]);
    let fault = log.truncate_to(12).unwrap_err().to_string();
    assert!(fault.contains("a snapshot reaches to 14"), "{fault}");
    assert_eq!(position_of(&log, 14, 1), Fetched::Read);
    assert_eq!(position_of(&log, 12, 1), snapshot_of(ids[2]));
    assert_eq!(position_of(&log, 0, 0), snapshot_of(ids[2]));
    let stray = SnapshotId::new(8, 1);
    let writer = log.snapshots().begin(&real::env(), stray, &Header::default()).unwrap();
    writer.finish().unwrap();
    // The start within a segment is not remembered, as in Kafka.
    let log = folder.open(SMALL).unwrap();
    assert_eq!((log.start_offset(), log.end_offset()), (12, 20));
    assert_eq!(log.snapshots().oldest_id(), Some(ids[2]));
}

#[test]
fn snapshots_are_kept_within_the_limits() {
    let folder = Folder::new();
    let options = LogOptions { retention_bytes: -1, retention_ms: 10, ..SMALL };
    let log = folder.open(options).unwrap();
    append(&log, 1, 10, 2, 0);
    let ids = [4, 8, 14].map(|at| snapshot(&log, at));
    log.trim(14).unwrap();
    assert_eq!(log.snapshots().oldest_id(), Some(ids[0]), "age 10 is not more than 10");
    log.trim(15).unwrap();
    assert_eq!(log.snapshots().oldest_id(), Some(ids[1]));
    let options = LogOptions { retention_bytes: 1 << 20, retention_ms: -1, ..SMALL };
    let log = folder.open(options).unwrap();
    log.trim(i64::MAX).unwrap();
    assert_eq!(log.snapshots().all().len(), 2);
}

#[test]
fn a_log_starts_anew_at_a_fetched_snapshot_and_goes_on_from_there() {
    let folder = Folder::new();
    let log = folder.open(SMALL).unwrap();
    append(&log, 1, 10, 2, 0);
    snapshot(&log, 8);
    let leader = Folder::new();
    let other = leader.open(SMALL).unwrap();
    append(&other, 1, 40, 2, 0);
    append(&other, 3, 1, 2, 0);
    let id = snapshot(&other, 82);
    let mut part = log.snapshots().begin_part(id).unwrap();
    let size = other.snapshots().newest().unwrap().size;
    part.append(&other.snapshots().chunk(id, 0, size as i32).unwrap().bytes).unwrap();
    log.install(part).unwrap();
    let state = |log: &MetadataLog| (log.start_offset(), log.end_offset(), log.last_epoch());
    assert_eq!((state(&log), &folder.segments()[..]), ((82, 82, 3), &[82][..]));
    assert_eq!(position_of(&log, 82, 3), Fetched::Read);
    assert_eq!(position_of(&log, 82, 2), snapshot_of(id));
    let log = folder.open(SMALL).unwrap();
    assert_eq!((state(&log), log.snapshots().all().len()), ((82, 82, 3), 1));
    append(&log, 3, 1, 2, 0);
    append(&log, 4, 1, 2, 0);
    assert_eq!(position_of(&log, 84, 3), Fetched::Read);
    assert_eq!(position_of(&log, 86, 3), Fetched::Diverging(LogEnd { epoch: 3, offset: 84 }));
    assert_eq!(state(&folder.open(SMALL).unwrap()), (82, 86, 4));
}

#[test]
fn a_crash_between_fetching_and_emptying_is_made_good_when_the_log_is_opened() {
    for (end_offset, epoch) in [(82, 1), (82, 3), (10, 3), (10, 0)] {
        let folder = Folder::new();
        let log = folder.open(SMALL).unwrap();
        append(&log, 1, 10, 2, 0);
        let id = SnapshotId::new(end_offset, epoch);
        let writer = log.snapshots().begin(&real::env(), id, &Header::default()).unwrap();
        writer.finish().unwrap();
        let log = folder.open(SMALL).unwrap();
        assert_eq!((log.start_offset(), log.end_offset()), (end_offset, end_offset));
        assert_eq!((log.last_epoch(), &folder.segments()[..]), (epoch, &[end_offset][..]));
    }
}

#[test]
fn a_snapshot_of_this_log_changes_nothing_when_it_is_opened() {
    let folder = Folder::new();
    let log = folder.open(SMALL).unwrap();
    append(&log, 1, 5, 2, 0);
    append(&log, 4, 5, 2, 0);
    let id = snapshot(&log, 10);
    assert_eq!(id, SnapshotId::new(10, 1));
    assert_eq!(log.bytes_since_snapshot() as usize, log.read(10, 20, 1 << 20).unwrap().len() * 5);
    let log = folder.open(SMALL).unwrap();
    assert_eq!((log.start_offset(), log.end_offset()), (0, 20));
    assert_eq!(position_of(&log, 10, 1), Fetched::Read);
    assert_eq!(position_of(&log, 12, 1), Fetched::Diverging(LogEnd { epoch: 1, offset: 10 }));
    assert_eq!(position_of(&log, 12, 4), Fetched::Read);
    assert_eq!(position_of(&log, 22, 9), Fetched::Diverging(LogEnd { epoch: 4, offset: 20 }));
}
