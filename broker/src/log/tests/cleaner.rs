//! Compaction: what readers see of a log is the same before and after, whatever interrupts it.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::env::Disk as _;
use crate::wire::records::{Compression, ControlKind, EndTransactionMarker};

const SETTINGS: CleanerSettings = CleanerSettings { dedupe_buffer_size: 1 << 20, load_factor: 0.9 };
const DAY: Millis = 24 * 3600 * 1000;

fn compacted() -> LogConfig {
    LogConfig { compact: true, delete: false, min_cleanable_dirty_ratio: 0.0, ..small() }
}

fn keyed(pairs: &[(&str, Option<&str>)]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for (key, value) in pairs {
        builder.push(NOW, Some(key.as_bytes()), value.map(str::as_bytes));
    }
    builder.build()
}

fn put(log: &Log, key: &str, value: Option<&str>) -> Offset {
    let batch = keyed(&[(key, value)]);
    log.append_as_leader(batch, 0, Origin::Client, NOW).unwrap().first_offset
}

fn roll(log: &Log) {
    let mut writer = log.writer.lock();
    let end = log.end_offset();
    if writer.active.size() > 0 {
        log.roll(&mut writer, end, NOW).unwrap();
    }
}

/// A round of the cleaner at `now`; where it ended, if there was something to do.
fn try_clean(dir: &LogDir, log: &Arc<Log>, now: Millis) -> Result<Option<Offset>, Trouble> {
    log.flush(true);
    log.on_high_watermark(log.end_offset());
    dir.checkpoint()?;
    let stable = log.last_stable_offset(log.end_offset());
    clean_up_to(log, stable, now, SETTINGS)
}

fn clean_up_to(
    log: &Arc<Log>,
    stable: Offset,
    now: Millis,
    settings: CleanerSettings,
) -> Result<Option<Offset>, Trouble> {
    let Some(candidate) = log.cleanable(stable, now).unwrap() else { return Ok(None) };
    let mut cleaning = Cleaning::begin(log.clone(), candidate, settings, now)?;
    loop {
        if let Progress::Done(end) = cleaning.step()? {
            cleaning.remember(end)?;
            return Ok(Some(end));
        }
    }
}

fn clean(dir: &LogDir, log: &Arc<Log>, now: Millis) -> Option<Offset> {
    try_clean(dir, log, now).unwrap()
}

/// A record as a read-committed consumer gets it.
type Seen = (Offset, String, Option<String>);

/// Reads all up to the last stable offset, as the Java consumer does.
fn seen(log: &Log) -> Vec<Seen> {
    let mut up_to = log.last_stable_offset(log.end_offset());
    let aborted = log.aborted_cold(log.start_offset(), up_to).unwrap();
    let mut ahead: BTreeSet<_> =
        aborted.iter().map(|it| (it.first_offset, it.producer_id, it.last_offset)).collect();
    let mut skipped = BTreeSet::new();
    let mut seen = Vec::new();
    let mut at = log.start_offset();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    while at < up_to {
        let bytes = log.read_cold(at, 500, up_to, true).unwrap();
        let before = at;
        for batch in Batches::new(&bytes).map(Result::unwrap) {
            batch.check().unwrap();
            at = batch.next_offset();
            while let Some(first) = ahead.first().copied().filter(|it| it.0 <= batch.last_offset())
            {
                ahead.remove(&first);
                skipped.insert(first.1);
            }
            let records = batch.records(MAX_DECOMPRESSED).unwrap();
            let records: Vec<_> = records.iter().map(Result::unwrap).collect();
            if batch.is_control() {
                let kind = records.first().and_then(|it| ControlKind::of_key(it.key?));
                if kind == Some(ControlKind::Abort) {
                    skipped.remove(&batch.producer_id());
                }
                continue;
            }
            if batch.is_transactional() && skipped.contains(&batch.producer_id()) {
                continue;
            }
            for record in records.iter().filter(|it| it.offset >= before) {
                seen.push((record.offset, text(record.key.unwrap()), record.value.map(text)));
            }
        }
        if at == before {
            // What was below has been overwritten by something above: that is read then.
            let grown = log.last_stable_offset(log.end_offset());
            assert!(grown > up_to, "nothing to read at {at} of {log:?}");
            up_to = grown;
        }
    }
    seen
}

/// The last value of each key.
fn latest(seen: &[Seen]) -> BTreeMap<String, (Offset, String)> {
    let mut latest = BTreeMap::new();
    for (offset, key, value) in seen {
        match value {
            Some(value) => drop(latest.insert(key.clone(), (*offset, value.clone()))),
            None => drop(latest.remove(key)),
        }
    }
    latest
}

fn pairs(log: &Log) -> Vec<(Offset, String)> {
    seen(log)
        .into_iter()
        .map(|(at, key, value)| (at, format!("{key}={}", value.as_deref().unwrap_or("-"))))
        .collect()
}

fn told(pairs: &[(Offset, &str)]) -> Vec<(Offset, String)> {
    pairs.iter().map(|(at, text)| (*at, (*text).to_owned())).collect()
}

#[tokio::test]
async fn the_newest_record_of_each_key_stays_and_the_active_segment_is_left_alone() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, compacted()).await;
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")] {
        put(&log, key, Some(value));
    }
    roll(&log);
    put(&log, "b", Some("2"));
    put(&log, "b", Some("3"));
    assert_eq!(clean(&dir, &log, NOW), Some(4));
    let left = told(&[(1, "b=1"), (2, "a=2"), (3, "c=1"), (4, "b=2"), (5, "b=3")]);
    assert_eq!(pairs(&log), left, "the active segment is not looked at");
    assert_eq!(clean(&dir, &log, NOW), None, "there is nothing dirty");
    roll(&log);
    assert_eq!(clean(&dir, &log, NOW), Some(6));
    assert_eq!(pairs(&log), told(&[(2, "a=2"), (3, "c=1"), (5, "b=3")]));
    assert_eq!(log.segment_count(), 2, "small ones are put together");
    assert_eq!(log.read_cold(0, 1000, 6, true).unwrap().len(), log.size() as usize);
    drop((log, dir));
    let (_dir, log) = one_log(&disk, compacted()).await;
    assert_eq!(pairs(&log), told(&[(2, "a=2"), (3, "c=1"), (5, "b=3")]));
}

#[tokio::test]
async fn a_tombstone_stays_for_its_time_and_then_goes() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, compacted()).await;
    put(&log, "a", Some("1"));
    put(&log, "a", None);
    roll(&log);
    put(&log, "x", Some("1"));
    roll(&log);
    assert_eq!(clean(&dir, &log, NOW), Some(3));
    assert_eq!(pairs(&log), told(&[(1, "a=-"), (2, "x=1")]));
    let dirty = |n: i64, now: Millis| {
        put(&log, "x", Some(&n.to_string()));
        roll(&log);
        clean(&dir, &log, now).unwrap();
        pairs(&log).len()
    };
    assert_eq!(dirty(2, NOW + DAY - 1), 2, "its time began when the cleaner saw it first");
    assert_eq!(dirty(3, NOW + DAY), 1);
}

#[tokio::test]
async fn what_is_young_or_not_stable_or_not_on_the_disk_stays() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, compacted()).await;
    for n in 0..3 {
        put(&log, "a", Some(&n.to_string()));
        roll(&log);
    }
    assert_eq!(log.cleanable(3, NOW).unwrap(), None, "nothing is on the disk");
    log.flush(true);
    dir.checkpoint().unwrap();
    assert_eq!(log.cleanable(3, NOW).unwrap().unwrap().up_to, 3);
    assert_eq!(log.cleanable(2, NOW).unwrap().unwrap().up_to, 2);
    assert_eq!(log.cleanable(0, NOW).unwrap(), None);
    log.set_config(LogConfig { min_compaction_lag_ms: 10, ..compacted() });
    assert_eq!(log.cleanable(3, NOW + 9).unwrap(), None);
    assert!(log.cleanable(3, NOW + 10).unwrap().is_some());
    let patient = LogConfig { min_cleanable_dirty_ratio: 1.0, ..compacted() };
    log.set_config(patient.clone());
    assert_eq!(log.cleanable(3, NOW).unwrap(), None);
    log.set_config(LogConfig { max_compaction_lag_ms: 50, ..patient });
    assert_eq!(log.cleanable(3, NOW + 50).unwrap(), None);
    assert!(log.cleanable(3, NOW + 51).unwrap().unwrap().due);
}

#[tokio::test]
async fn a_producer_goes_on_after_its_records_are_gone() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, compacted()).await;
    let from = |sequence| {
        let batch = from_producer(7, 0, sequence, "v");
        log.append_as_leader(batch, 0, Origin::Client, NOW).unwrap().first_offset
    };
    assert_eq!((from(0), from(1)), (0, 1));
    put(&log, "key", Some("other"));
    roll(&log);
    assert_eq!(clean(&dir, &log, NOW), Some(3));
    assert_eq!(pairs(&log), told(&[(2, "key=other")]));
    let bytes = log.read_cold(0, 1000, 3, true).unwrap();
    let batches: Vec<_> = Batches::new(&bytes).map(Result::unwrap).collect();
    let sizes: Vec<_> = batches.iter().map(|it| (it.last_offset(), it.count())).collect();
    assert_eq!(sizes, [(1, 0), (2, 1)], "the last batch of the producer is kept empty");
    assert_eq!(batches[0].last_sequence(), 1);
    // Without the snapshots the log itself has to tell the sequence.
    for at in super::super::load::snapshots(&log.home).unwrap() {
        disk.remove_file(&log.home.path(at, "snapshot")).unwrap();
    }
    drop((log, dir));
    let (_dir, log) = one_log(&disk, compacted()).await;
    let batch = from_producer(7, 0, 2, "v");
    assert!(log.append_as_leader(batch, 0, Origin::Client, NOW).is_ok());
}

#[tokio::test]
async fn a_table_that_is_too_small_takes_several_rounds() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, compacted()).await;
    for n in 0..60 {
        put(&log, &format!("key {}", n % 20), Some(&n.to_string()));
    }
    roll(&log);
    log.flush(true);
    dir.checkpoint().unwrap();
    let before = latest(&seen(&log));
    let tiny = CleanerSettings { dedupe_buffer_size: 24 * 8, load_factor: 0.9 };
    let mut rounds = 0;
    while clean_up_to(&log, 60, NOW, tiny).unwrap().is_some() {
        rounds += 1;
        assert_eq!(latest(&seen(&log)), before, "round {rounds}");
    }
    assert!((3..=10).contains(&rounds), "{rounds}");
}

#[tokio::test]
async fn damage_is_told_and_nothing_is_swapped() {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, compacted()).await;
    for n in 0..4 {
        put(&log, "a", Some(&n.to_string()));
    }
    roll(&log);
    log.flush(true);
    dir.checkpoint().unwrap();
    let path = log.home.path(0, "log");
    let file = disk.open(&path, crate::env::disk::Open::ReadWrite).unwrap();
    file.write_all_at(&[std::io::IoSlice::new(b"xyz")], 100).unwrap();
    let trouble = clean_up_to(&log, 4, NOW, SETTINGS).unwrap_err();
    assert!(matches!(trouble, Trouble::Uncleanable(_)), "{trouble}");
    assert!(log.why_offline().is_none());
    let names: Vec<_> = disk.list(&log.dir()).unwrap().into_iter().map(|it| it.name).collect();
    assert!(names.iter().all(|name| !name.ends_with(".cleaned")), "{names:?}");
}

struct Luck(u64);

impl Luck {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// One to three records, with any compression; `producer`: of a transaction.
fn some_records(luck: &mut Luck, producer: Option<(i64, i32)>) -> Bytes {
    let compression = Compression::from_id(luck.below(5) as u8).unwrap();
    let mut builder = BatchBuilder::new().compression(compression);
    if let Some((id, sequence)) = producer {
        builder = builder.producer(id, 0, sequence).transactional();
    }
    for _ in 0..=luck.below(3) {
        let key = format!("key {}", luck.below(6));
        let value = format!("value {}", luck.below(1000));
        let tombstone = luck.below(4) == 0;
        builder.push(NOW, Some(key.as_bytes()), (!tombstone).then_some(value.as_bytes()));
    }
    builder.build()
}

fn do_something(log: &Log, luck: &mut Luck) {
    let id = luck.below(3) as i64;
    let known = log.producers().get(&id).cloned();
    let open = known.as_ref().is_some_and(|it| it.transaction_start.is_some());
    let sequence = known.map_or(0, |it| it.last_sequence() + 1);
    let append = |batch, origin| {
        log.append_as_leader(batch, 0, origin, NOW).unwrap();
    };
    match luck.below(12) {
        0..5 => append(some_records(luck, None), Origin::Client),
        5..8 => append(some_records(luck, Some((id, sequence))), Origin::Client),
        8..11 if open => {
            let marker =
                EndTransactionMarker { committed: luck.below(2) == 0, coordinator_epoch: 0 };
            append(BatchBuilder::end_transaction(id, 0, marker, NOW), Origin::Coordinator);
        }
        11 => roll(log),
        _ => {}
    }
}

#[tokio::test]
async fn the_last_value_of_each_key_is_the_same_before_and_after() {
    for seed in 0..40 {
        let disk = MemoryDisk::default();
        let (mut dir, mut log) = one_log(&disk, compacted()).await;
        let mut luck = Luck(seed * 31 + 5);
        let mut now = NOW;
        for step in 0..150 {
            do_something(&log, &mut luck);
            if luck.below(12) == 0 {
                now += luck.below(3) as Millis * DAY;
                log.on_high_watermark(log.end_offset());
                let (end, open) = (log.end_offset(), log.first_undecided_offset());
                let (before, producers) = (latest(&seen(&log)), log.producers());
                clean(&dir, &log, now);
                let when = format!("seed {seed} step {step}");
                assert_eq!(latest(&seen(&log)), before, "{when}");
                assert_eq!((log.end_offset(), log.first_undecided_offset()), (end, open), "{when}");
                if luck.below(3) == 0 {
                    drop((log, dir));
                    disk.crash_with_some_names(luck.below(1 << 30));
                    (dir, log) = one_log(&disk, compacted()).await;
                    assert_eq!(latest(&seen(&log)), before, "{when}: after a crash");
                    let known = log.producers();
                    assert_eq!(
                        known.keys().collect::<Vec<_>>(),
                        producers.keys().collect::<Vec<_>>()
                    );
                }
            }
        }
    }
}

/// The same log each time: transactions, tombstones, several segments, one round of the cleaner.
async fn dirty(seed: u64) -> (MemoryDisk, Arc<LogDir>, Arc<Log>) {
    let disk = MemoryDisk::default();
    let (dir, log) = one_log(&disk, compacted()).await;
    let mut luck = Luck(seed);
    for _ in 0..50 {
        do_something(&log, &mut luck);
    }
    clean(&dir, &log, NOW);
    for _ in 0..30 {
        do_something(&log, &mut luck);
    }
    roll(&log);
    put(&log, "last", Some("1"));
    log.flush(true);
    log.on_high_watermark(log.end_offset());
    dir.checkpoint().unwrap();
    (disk, dir, log)
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_round_loses_nothing() {
    for seed in 0..2 {
        let mut interrupted = 0;
        for changes in (seed as usize..).step_by(5) {
            let (disk, dir, log) = dirty(seed).await;
            let before = latest(&seen(&log));
            let producers: Vec<_> = log.producers().into_keys().collect();
            disk.faults.lock().changes = Some(changes);
            let done = try_clean(&dir, &log, NOW + 2 * DAY).is_ok();
            drop((log, dir));
            disk.faults.lock().changes = None;
            disk.crash_with_some_names(changes as u64 * 7919 + seed);
            let (dir, log) = one_log(&disk, compacted()).await;
            let when = format!("seed {seed}, after {changes} changes");
            assert_eq!(latest(&seen(&log)), before, "{when}");
            assert_eq!(log.producers().into_keys().collect::<Vec<_>>(), producers, "{when}");
            clean(&dir, &log, NOW + 2 * DAY);
            assert_eq!(latest(&seen(&log)), before, "{when}, and cleaned again");
            if done {
                break;
            }
            interrupted += 1;
        }
        assert!(interrupted > 5, "{interrupted}");
    }
}

#[tokio::test]
async fn a_truncation_meanwhile_ends_the_round_and_makes_the_rest_dirty_again() {
    let (_disk, _dir, log) = dirty(3).await;
    let stable = log.last_stable_offset(log.end_offset());
    let candidate = log.cleanable(stable, NOW).unwrap().unwrap();
    let mut cleaning = Cleaning::begin(log.clone(), candidate, SETTINGS, NOW).unwrap();
    cleaning.step().unwrap();
    log.truncate_to(candidate.first_dirty - 1).unwrap();
    let trouble = loop {
        match cleaning.step() {
            Ok(Progress::More(_)) => {}
            Ok(Progress::Done(_)) => panic!("a log that was cut was swapped"),
            Err(trouble) => break trouble,
        }
    };
    assert!(matches!(trouble, Trouble::Changed), "{trouble}");
    let end = log.end_offset();
    for n in 0..20 {
        put(&log, "a", Some(&n.to_string()));
    }
    roll(&log);
    log.flush(true);
    let again = log.cleanable(log.end_offset(), NOW).unwrap().unwrap();
    assert!(again.first_dirty <= end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_do_not_notice_a_swap() {
    let env = crate::env::real::env();
    for seed in 10..12 {
        let (_disk, dir, log) = dirty(seed).await;
        let read = |log: &Log| {
            let mut all = latest(&seen(log));
            all.remove("last");
            all
        };
        let before = read(&log);
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let reader = {
            let (env, log, done) = (env.clone(), log.clone(), done.clone());
            let reading = move || {
                let mut rounds = 0;
                while !done.load(std::sync::atomic::Ordering::Acquire) || rounds == 0 {
                    assert_eq!(read(&log), before);
                    rounds += 1;
                }
            };
            tokio::spawn(async move { env.blocking(reading).await })
        };
        let cleaning = move || {
            for n in 1..4 {
                clean(&dir, &log, NOW + n * DAY);
                put(&log, "last", Some("1"));
                roll(&log);
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        };
        env.blocking(cleaning).await;
        reader.await.unwrap();
    }
}
