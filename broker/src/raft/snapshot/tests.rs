use proptest::prelude::*;
use uuid::Uuid;

use super::download::{Download, Step};
use super::*;
use crate::env::{Env, real};
use crate::error::{ErrorCode, Fault};
use crate::raft::batch::Entry;
use crate::wire::metadata::control::{Control, KRaftVersionRange, Voter};
use crate::wire::metadata::{Record, TopicRecord};

fn env() -> Env {
    real::env()
}

fn topic(n: u128) -> Record {
    TopicRecord { name: format!("topic-{n}"), topic_id: Uuid::from_u128(n) }.into()
}

fn voters() -> KRaftState {
    let voter = Voter {
        voter_id: 1,
        voter_directory_id: Uuid::from_u128(9),
        endpoints: Vec::new(),
        kraft_version_feature: KRaftVersionRange::default(),
    };
    KRaftState { kraft_version: 1, voters: Some(Voters { version: 0, voters: vec![voter] }) }
}

fn write(folder: &std::path::Path, id: SnapshotId, topics: u128) -> Contents {
    let header = Header { last_contained_timestamp: 77, kraft: Some(voters()) };
    let mut writer = SnapshotWriter::begin(&env(), folder, id, &header).unwrap();
    (0..topics).for_each(|n| writer.push(&topic(n)).unwrap());
    writer.finish().unwrap()
}

fn names(folder: &std::path::Path) -> Vec<String> {
    env().disk.list(folder).unwrap().into_iter().map(|entry| entry.name).collect()
}

#[test]
fn names_are_kafkas() {
    let id = SnapshotId::new(105, 3);
    assert_eq!(id.file_name(), "00000000000000000105-0000000003.checkpoint");
    assert_eq!(SnapshotId::parse(&id.file_name()), Some((id, Kind::Whole)));
    let of_kafka = "00000000000000000105-0000000003-8246724.checkpoint.part";
    assert_eq!(SnapshotId::parse(of_kafka), Some((id, Kind::Part)));
    let deleted = "00000000000000000105-0000000003.checkpoint.deleted";
    assert_eq!(SnapshotId::parse(deleted), Some((id, Kind::Deleted)));
    assert_eq!(SnapshotId::parse("bootstrap.checkpoint"), None);
    assert_eq!(SnapshotId::parse("00000000000000000105.log"), None);
}

#[test]
fn what_is_written_reads_back_in_batches_of_bounded_size() {
    let dir = tempfile::tempdir().unwrap();
    let id = SnapshotId::new(40_000, 3);
    let contents = write(dir.path(), id, 20_000);
    assert_eq!(contents.kraft, Some(voters()));
    assert_eq!((contents.id, contents.last_contained_timestamp), (id, 77));
    let mut reader = SnapshotReader::open(&*env().disk, dir.path(), id).unwrap();
    let (mut batches, mut records, mut controls) = (0, Vec::new(), Vec::new());
    while let Some(batch) = reader.next_batch().unwrap() {
        batches += 1;
        assert_eq!(batch.epoch, 3);
        for (_, entry) in batch.entries {
            match entry {
                Entry::Record(record) => records.push(record),
                Entry::Control(control) => controls.push(control),
            }
        }
    }
    assert_eq!(records, (0..20_000).map(topic).collect::<Vec<_>>());
    assert!(matches!(
        controls[..],
        [
            Control::SnapshotHeader(_),
            Control::KRaftVersion(_),
            Control::Voters(_),
            Control::SnapshotFooter(_)
        ]
    ));
    assert!(batches > 4, "{batches}");
    assert_eq!(names(dir.path()), [id.file_name()]);
}

#[test]
fn one_that_was_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let id = SnapshotId::new(5, 1);
    let mut writer = SnapshotWriter::begin(&env(), dir.path(), id, &Header::default()).unwrap();
    writer.push(&topic(1)).unwrap();
    assert_eq!(names(dir.path()).len(), 1);
    drop(writer);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn the_newest_whole_one_is_used_and_a_corrupt_one_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (SnapshotId::new(5, 1), SnapshotId::new(9, 2));
    write(dir.path(), old, 10);
    write(dir.path(), new, 10);
    let path = dir.path().join(new.file_name());
    let file = env().disk.open(&path, crate::env::disk::Open::ReadWrite).unwrap();
    file.truncate(file.len().unwrap() - 1).unwrap();
    let part = dir.path().join("00000000000000000011-0000000002-1.checkpoint.part");
    env().disk.write_atomically(&part, b"x").unwrap();
    let snapshots = Snapshots::open(&env().disk, dir.path()).unwrap();
    assert_eq!(snapshots.newest().unwrap().id, old);
    assert_eq!(snapshots.all().len(), 1);
    assert_eq!(names(dir.path()), [old.file_name(), new.corrupt_name()]);
}

#[test]
fn a_snapshot_is_sent_in_chunks_and_nothing_beyond_it() {
    let dir = tempfile::tempdir().unwrap();
    let id = SnapshotId::new(5, 1);
    let size = write(dir.path(), id, 50).size as i64;
    write(dir.path(), SnapshotId::BOOTSTRAP, 0);
    let snapshots = Snapshots::open(&env().disk, dir.path()).unwrap();
    let chunk = snapshots.chunk(id, 10, 7).unwrap();
    assert_eq!((chunk.size as i64, chunk.position, chunk.bytes.len()), (size, 10, 7));
    assert_eq!(snapshots.chunk(id, size - 1, i32::MAX).unwrap().bytes.len(), 1);
    for (id, position, code) in [
        (id, size, ErrorCode::PositionOutOfRange),
        (id, -1, ErrorCode::PositionOutOfRange),
        (SnapshotId::new(6, 1), 0, ErrorCode::SnapshotNotFound),
        (SnapshotId::BOOTSTRAP, 0, ErrorCode::SnapshotNotFound),
    ] {
        assert_eq!(snapshots.chunk(id, position, 7).unwrap_err().code, code);
    }
}

#[test]
fn a_fetched_snapshot_is_the_leaders_byte_for_byte() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let id = SnapshotId::new(5, 1);
    let contents = write(one.path(), id, 500);
    let leader = Snapshots::open(&env().disk, one.path()).unwrap();
    let mut part = PartFile::create(&env().disk, two.path(), id).unwrap();
    let mut download = Download::new(id);
    loop {
        match download.on_chunk(leader.chunk(id, download.position() as i64, 1000).unwrap()) {
            Step::Append(bytes) => part.append(&bytes).unwrap(),
            Step::Finish(bytes) => break part.append(&bytes).unwrap(),
            Step::StartOver(why) => panic!("{why}"),
        }
    }
    assert_eq!(part.finish().unwrap(), contents);
    let read = |dir: &tempfile::TempDir| env().disk.read(&dir.path().join(id.file_name())).unwrap();
    assert_eq!(read(&one), read(&two));
}

#[test]
fn a_chunk_that_does_not_fit_starts_the_download_over() {
    let id = SnapshotId::new(5, 1);
    let chunk =
        |position, size, len: usize| Chunk { id, size, position, bytes: vec![0; len].into() };
    let other = Chunk { id: SnapshotId::new(6, 1), ..chunk(0, 10, 4) };
    for wrong in [chunk(1, 10, 4), chunk(0, 10, 11), chunk(0, 10, 0), other] {
        let step = Download::new(id).on_chunk(wrong);
        assert!(matches!(step, Step::StartOver(_)), "{step:?}");
    }
    let mut download = Download::new(id);
    assert!(matches!(download.on_chunk(chunk(0, 10, 4)), Step::Append(_)));
    assert!(matches!(download.on_chunk(chunk(4, 12, 4)), Step::StartOver(_)));
    assert!(matches!(download.on_chunk(chunk(4, 10, 6)), Step::Finish(_)));
}

#[test]
fn a_fetched_file_that_is_not_a_whole_snapshot_is_refused_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let id = SnapshotId::new(5, 1);
    write(dir.path(), id, 5);
    let mut content = env().disk.read(&dir.path().join(id.file_name())).unwrap();
    content.truncate(content.len() - 70);
    let id = SnapshotId::new(6, 1);
    let mut part = PartFile::create(&env().disk, dir.path(), id).unwrap();
    part.append(&content).unwrap();
    assert!(matches!(part.finish(), Err(Fault::Corrupt { .. })));
    assert_eq!(names(dir.path()).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_cut_and_no_flipped_bit_passes_for_whole(at in 0.0..1.0f64, bit in 0..8u32, cut: bool) {
        let dir = tempfile::tempdir().unwrap();
        let id = SnapshotId::new(5, 1);
        write(dir.path(), id, 5);
        let path = dir.path().join(id.file_name());
        let mut content = env().disk.read(&path).unwrap();
        let at = (content.len() as f64 * at) as usize;
        if cut {
            content.truncate(at);
        } else {
            content[at] ^= 1 << bit;
        }
        env().disk.write_atomically(&path, &content).unwrap();
        let file = env().disk.open(&path, crate::env::disk::Open::Read).unwrap();
        let checked = read::check(&*file, &path, id);
        // The leader epoch of a batch is outside of its checksum.
        let epoch = |start: usize| (start + 12..start + 16).contains(&at);
        if !cut && checked.is_ok() {
            let batches = crate::wire::records::Batches::new(&content);
            let mut start = 0;
            let mut in_epoch = false;
            for batch in batches {
                in_epoch |= epoch(start);
                start += batch.unwrap().size();
            }
            prop_assert!(in_epoch);
        } else {
            let corrupt = matches!(checked, Err(Fault::Corrupt { .. }));
            prop_assert!(corrupt);
        }
    }
}
