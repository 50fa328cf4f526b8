//! Transactions in one log: what is open, what was aborted, up to where readers may read; and that
//! a crash or a truncation changes none of it.

use std::collections::BTreeMap;

use super::*;
use crate::error::ErrorCode;
use crate::wire::records::EndTransactionMarker;

fn data(id: i64, epoch: i16, sequence: i32) -> Bytes {
    let mut builder = BatchBuilder::new().producer(id, epoch, sequence).transactional();
    builder.push(NOW, Some(b"key"), Some(b"some value in a transaction"));
    builder.build()
}

fn write(log: &Log, id: i64, sequence: i32) -> Offset {
    let appended = log.append_as_leader(data(id, 0, sequence), 0, Origin::Client, NOW);
    appended.unwrap().first_offset
}

fn end(log: &Log, id: i64, epoch: i16, committed: bool) -> Offset {
    let marker = EndTransactionMarker { committed, coordinator_epoch: 1 };
    let batch = BatchBuilder::end_transaction(id, epoch, marker, NOW);
    log.append_as_leader(batch, 0, Origin::Coordinator, NOW).unwrap().first_offset
}

fn aborted(log: &Log, from: Offset, up_to: Offset) -> Vec<(i64, Offset, Offset)> {
    let found = log.aborted_cold(from, up_to).unwrap();
    found.iter().map(|it| (it.producer_id, it.first_offset, it.last_offset)).collect()
}

#[tokio::test]
async fn the_last_stable_offset_waits_for_markers_to_be_committed() {
    let disk = MemoryDisk::default();
    let (_dir, log) = one_log(&disk, small()).await;
    append(&log, "before");
    let stable = |high_watermark| log.last_stable_offset(high_watermark);
    assert_eq!(stable(1), 1);
    assert_eq!(write(&log, 1, 0), 1);
    assert_eq!(write(&log, 2, 0), 2);
    assert_eq!(stable(3), 1);
    assert_eq!(end(&log, 1, 0, false), 3);
    assert_eq!(stable(3), 1, "the marker is not committed");
    log.on_high_watermark(4);
    assert_eq!(stable(4), 2);
    assert_eq!(end(&log, 2, 0, true), 4);
    log.on_high_watermark(4);
    assert_eq!(stable(4), 2);
    log.on_high_watermark(5);
    assert_eq!(stable(5), 5);
    assert_eq!(log.aborted(0, 5).unwrap().len(), 1);
    assert_eq!(aborted(&log, 0, 5), [(1, 1, 3)]);
    assert_eq!(aborted(&log, 4, 5), []);
}

#[tokio::test]
async fn records_of_open_transactions_that_are_deleted_hold_up_nobody() {
    let disk = MemoryDisk::default();
    let (_dir, log) = one_log(&disk, small()).await;
    write(&log, 1, 0);
    append(&log, "more");
    assert_eq!(log.last_stable_offset(2), 0);
    log.advance_start(1);
    assert_eq!(log.last_stable_offset(2), 1);
}

#[tokio::test]
async fn the_first_batch_of_a_transaction_needs_the_word_of_the_coordinator() {
    let disk = MemoryDisk::default();
    let (_dir, log) = one_log(&disk, LogConfig { verify_transactions: true, ..small() }).await;
    let append = |sequence, guard| {
        let appending = Appending::verified(Origin::Client, guard);
        let appended = log.append_as_leader(data(1, 0, sequence), 0, appending, NOW);
        appended.map(|it| it.first_offset).map_err(|error| crate::error::Refusal::from(error).code)
    };
    let begin = |sequence| log.start_verification((1, 0), sequence, false, NOW).unwrap();
    assert_eq!(append(0, None), Err(ErrorCode::InvalidTxnState));
    let guard = begin(0);
    assert!(guard.is_some());
    assert_eq!(begin(1), guard, "the second of a pipeline waits for the same answer");
    assert_eq!(append(1, guard), Err(ErrorCode::OutOfOrderSequenceNumber));
    assert_eq!(append(0, guard), Ok(0));
    assert_eq!(begin(1), None, "the transaction is ongoing");
    assert_eq!(append(1, None), Ok(1));
    end(&log, 1, 0, false);
    assert_eq!(append(2, None), Err(ErrorCode::InvalidTxnState));
    assert_eq!(append(2, guard), Err(ErrorCode::InvalidTxnState), "an old guard");
    let late = begin(2);
    end(&log, 1, 0, false);
    assert_eq!(append(2, late), Err(ErrorCode::InvalidTxnState), "a marker came between");
    let again = begin(2);
    assert_eq!(append(2, again), Ok(4));
}

#[tokio::test]
async fn markers_are_judged_by_the_version_of_their_coordinator() {
    let disk = MemoryDisk::default();
    let (_dir, log) = one_log(&disk, small()).await;
    let marker = |epoch, coordinator_epoch, version| {
        let marker = EndTransactionMarker { committed: true, coordinator_epoch };
        let batch = BatchBuilder::end_transaction(1, epoch, marker, NOW);
        let appended = log.append_as_leader(batch, 0, Appending::marker(version), NOW);
        appended.map(|_| ()).map_err(|error| crate::error::Refusal::from(error).code)
    };
    log.append_as_leader(data(1, 3, 0), 0, Origin::Client, NOW).unwrap();
    assert_eq!(marker(2, 5, 0), Err(ErrorCode::InvalidProducerEpoch));
    assert_eq!(marker(3, 5, 2), Err(ErrorCode::InvalidProducerEpoch), "the epoch has to grow");
    assert_eq!(marker(4, 5, 2), Ok(()));
    assert_eq!(marker(4, 5, 2), Ok(()), "the same once more, after its answer was lost");
    assert_eq!(marker(4, 4, 2), Err(ErrorCode::TransactionCoordinatorFenced));
    assert_eq!(marker(3, 5, 2), Err(ErrorCode::InvalidProducerEpoch));
    let late = log.append_as_leader(data(1, 3, 1), 0, Origin::Client, NOW);
    let code = late.map_err(|error| crate::error::Refusal::from(error).code).err();
    assert_eq!(code, Some(ErrorCode::InvalidProducerEpoch));
    assert_eq!(log.first_undecided_offset(), None);
}

#[tokio::test]
async fn a_producer_in_a_transaction_is_never_forgotten() {
    let disk = MemoryDisk::default();
    let config = LogConfig { producer_id_expiration_ms: 1000, ..small() };
    let (_dir, log) = one_log(&disk, config).await;
    write(&log, 1, 0);
    log.append_as_leader(from_producer(2, 0, 0, "v"), 0, Origin::Client, NOW).unwrap();
    log.expire_producers(NOW + 5000);
    assert_eq!(log.producers().keys().copied().collect::<Vec<_>>(), [1]);
    end(&log, 1, 0, true);
    log.expire_producers(NOW + 5000);
    assert!(log.producers().is_empty());
}

/// What the records say: the transactions that are open, by producer, and those that were aborted.
type Told = (BTreeMap<i64, Offset>, Vec<(i64, Offset, Offset)>);

fn told(log: &Log) -> Told {
    let (mut open, mut aborted) = (BTreeMap::new(), Vec::new());
    let mut at = log.start_offset();
    while at < log.end_offset() {
        let bytes = log.read_cold(at, 1 << 20, i64::MAX, true).unwrap();
        for batch in Batches::new(&bytes).map(Result::unwrap) {
            at = batch.next_offset();
            if !batch.is_transactional() {
                continue;
            }
            let id = batch.producer_id();
            if !batch.is_control() {
                open.entry(id).or_insert(batch.base_offset());
                continue;
            }
            let records = batch.records(MAX_DECOMPRESSED).unwrap();
            let marker = EndTransactionMarker::of(&records.first().unwrap().unwrap()).unwrap();
            if let Some(first) = open.remove(&id)
                && !marker.committed
            {
                aborted.push((id, first, batch.base_offset()));
            }
        }
    }
    (open, aborted)
}

/// What the log knows must be what its records say.
fn agrees(log: &Log, when: &str) {
    let (open, aborted_ones) = told(log);
    let known = log.producers();
    let starts = known.iter().filter_map(|(id, it)| Some((*id, it.transaction_start?))).collect();
    assert_eq!(open, starts, "{when}");
    assert_eq!(log.first_undecided_offset(), open.values().min().copied(), "{when}");
    let end = log.end_offset();
    assert_eq!(aborted(log, 0, end), aborted_ones, "{when}");
    for from in (0..end).step_by(7) {
        let up_to = (from + 11).min(end);
        let mut got = aborted(log, from, up_to);
        got.sort_unstable();
        let touches = |it: &&(i64, Offset, Offset)| it.2 >= from && it.1 < up_to;
        let mut expected: Vec<_> = aborted_ones.iter().filter(touches).copied().collect();
        expected.sort_unstable();
        assert_eq!(got, expected, "{when}: {from}..{up_to}");
    }
}

struct Luck(u64);

impl Luck {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

#[tokio::test]
async fn crashes_and_truncations_leave_what_the_records_say() {
    for seed in 0..60 {
        let disk = MemoryDisk::default();
        let (mut dir, mut log) = one_log(&disk, small()).await;
        let mut luck = Luck(seed * 77 + 1);
        for step in 0..220 {
            let id = luck.below(4) as i64;
            let known = log.producers().get(&id).cloned();
            let open = known.as_ref().is_some_and(|it| it.transaction_start.is_some());
            let sequence = known.map_or(0, |it| it.last_sequence() + 1);
            match luck.below(20) {
                0..10 => {
                    write(&log, id, sequence);
                }
                10..15 if open => {
                    end(&log, id, 0, luck.below(2) == 0);
                }
                15 => {
                    append(&log, "plain");
                }
                16 => log.flush(luck.below(2) == 0),
                17 => dir.checkpoint().unwrap(),
                18 if luck.below(3) == 0 => {
                    let offset = luck.below(1 + log.end_offset() as u64) as Offset;
                    log.truncate_to(offset).unwrap();
                    agrees(&log, &format!("seed {seed} step {step}: truncated to {offset}"));
                }
                19 if luck.below(3) == 0 => {
                    drop((log, dir));
                    disk.crash(luck.below(1 << 30));
                    (dir, log) = one_log(&disk, small()).await;
                    agrees(&log, &format!("seed {seed} step {step}: after a crash"));
                }
                _ => {}
            }
        }
        agrees(&log, &format!("seed {seed}: at the end"));
        dir.shut_down_cleanly(1).await.unwrap();
        drop((log, dir));
        let (_dir, log) = one_log(&disk, small()).await;
        agrees(&log, &format!("seed {seed}: after a clean stop"));
    }
}

#[tokio::test]
async fn a_follower_knows_of_transactions_what_its_leader_does() {
    let disk = MemoryDisk::default();
    let dir = open(&disk.env(), small()).await;
    let leader = dir.create(&topic(), None, small()).unwrap();
    let follower = dir.create(&TopicPartition::new("f", 0), None, small()).unwrap();
    for n in 0..40 {
        write(&leader, n % 3, (n / 3) as i32);
        if n % 7 == 6 {
            end(&leader, n % 3, 0, n % 2 == 0);
        }
    }
    let all = leader.read_cold(0, 600, i64::MAX, true).unwrap();
    follower.append_as_follower(all).unwrap();
    while follower.end_offset() < leader.end_offset() {
        let more = leader.read_cold(follower.end_offset(), 600, i64::MAX, true).unwrap();
        follower.append_as_follower(more).unwrap();
    }
    agrees(&follower, "the follower");
    assert_eq!(follower.producers(), leader.producers());
    for high_watermark in [0, 20, 45] {
        leader.on_high_watermark(high_watermark);
        follower.on_high_watermark(high_watermark);
        let stable = |log: &Log| log.last_stable_offset(high_watermark);
        assert_eq!(stable(&follower), stable(&leader));
    }
}
