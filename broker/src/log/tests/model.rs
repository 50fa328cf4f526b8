//! Random operations, crashes among them, against a list of records.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Append { records: usize, length: usize },
    FromProducer,
    Flush,
    Checkpoint,
    Truncate(u8),
    Advance(u8),
    Retain,
    Restart,
    Crash(u64),
    StartAt(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1usize..4, 0usize..150).prop_map(|(records, length)| Op::Append { records, length }),
        4 => Just(Op::FromProducer),
        3 => Just(Op::Flush),
        1 => Just(Op::Checkpoint),
        1 => any::<u8>().prop_map(Op::Truncate),
        1 => any::<u8>().prop_map(Op::Advance),
        1 => Just(Op::Retain),
        1 => Just(Op::Restart),
        2 => any::<u64>().prop_map(Op::Crash),
        1 => (0u8..20).prop_map(Op::StartAt),
    ]
}

#[derive(Default)]
struct Model {
    /// All records that the log should have.
    records: Vec<(Offset, String)>,
    end: Offset,
    start: Offset,
    sequence: i32,
    written: usize,
}

impl Model {
    fn cut(&mut self, end: Offset) {
        self.records.retain(|(offset, _)| *offset < end);
        self.end = end;
        self.start = self.start.min(end);
        let of_producer = |value: &String| value.strip_prefix('p')?.parse::<i32>().ok();
        let last = self.records.iter().rev().find_map(|(_, value)| of_producer(value));
        // Retention may have taken the batch, but not the producer.
        if let Some(last) = last {
            self.sequence = self.sequence.min(last + 1);
        }
    }
}

async fn run(ops: Vec<Op>) {
    let disk = MemoryDisk::default();
    let (mut dir, mut log) = one_log(&disk, small()).await;
    let mut model = Model::default();
    let mut epoch = 0;
    log.flush(false);
    for op in ops {
        match op {
            Op::Append { records, length } => {
                model.written += 1;
                let values: Vec<_> = (0..records)
                    .map(|n| format!("{}.{n} {}", model.written, "x".repeat(length)))
                    .collect();
                let values: Vec<_> = values.iter().map(String::as_str).collect();
                let done =
                    log.append_as_leader(batch(&values, NOW), epoch, Origin::Client, NOW).unwrap();
                assert_eq!(done.first_offset, model.end);
                for value in values {
                    model.records.push((model.end, value.into()));
                    model.end += 1;
                }
            }
            Op::FromProducer => {
                let value = format!("p{}", model.sequence);
                let bytes = from_producer(7, 0, model.sequence, &value);
                let done = log.append_as_leader(bytes, epoch, Origin::Client, NOW);
                // What the producer wrote last may be gone with a crash or a truncation.
                let Ok(done) = done else { continue };
                if done.duplicate {
                    model.sequence += 1;
                    continue;
                }
                model.records.push((model.end, value));
                model.end += 1;
                model.sequence += 1;
            }
            Op::Flush => {
                log.flush(false);
                assert_eq!(log.synced_offset(), model.end);
            }
            Op::Checkpoint => dir.checkpoint().unwrap(),
            Op::Truncate(back) => {
                let to = (model.end - i64::from(back) / 8).max(model.start);
                log.truncate_to(to).unwrap();
                // A batch goes as a whole.
                assert!(log.end_offset() <= to && log.end_offset() > to - 4);
                model.cut(log.end_offset());
                epoch += 1;
                log.start_epoch(epoch, log.end_offset());
            }
            Op::Advance(on) => {
                model.start = model.start.max((model.start + i64::from(on) / 8).min(model.end));
                assert_eq!(log.advance_start(model.start), model.start);
            }
            Op::Retain => {
                log.retain(NOW, model.end).unwrap();
            }
            Op::Restart => {
                dir.shut_down_cleanly(1).await.unwrap();
                drop((dir, log));
                (dir, log) = one_log(&disk, small()).await;
                assert_eq!(log.end_offset(), model.end);
                assert_eq!(log.recovery_point(), model.end);
            }
            Op::Crash(luck) => {
                let synced = log.synced_offset();
                drop((dir, log));
                disk.crash(luck);
                (dir, log) = one_log(&disk, small()).await;
                assert!(log.end_offset() >= synced, "lost synced records");
                // An older log start, checkpointed, can lie past what is left.
                assert!(log.end_offset() <= model.end || log.size() == 0);
                model.cut(log.end_offset());
                // The log start offset is checkpointed now and then only: an older one, or, after a
                // truncation below it, a later one.
                log.advance_start(model.start);
                model.start = log.start_offset();
                log.flush(false);
            }
            Op::StartAt(on) => {
                if on % 5 != 0 {
                    continue;
                }
                let at = model.end + i64::from(on);
                log.truncate_fully_and_start_at(at).unwrap();
                model.records.clear();
                (model.start, model.end) = (at, at);
            }
        }
        assert!(log.why_offline().is_none());
        assert_eq!(log.end_offset(), model.end);
        model.records.retain(|(offset, _)| *offset >= model.start);
        assert_eq!(contents(&log), model.records);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::with_cases(150) })]

    #[test]
    fn the_log_holds_what_was_appended_through_truncations_restarts_and_crashes(
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(run(ops));
    }
}
