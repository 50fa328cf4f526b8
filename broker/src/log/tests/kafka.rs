//! Together with Kafka's own files and tools. Both tests do something only when the environment
//! names a folder: `OTTLA_DUMP_DIR`, into which a log directory is written for Kafka's
//! DumpLogSegments to read, and `OTTLA_KAFKA_DIR`, a log directory that a stopped Kafka left.

use super::*;
use crate::types::TopicPartition;
use crate::wire::records::{Compression, EndTransactionMarker, NewRecord};

#[tokio::test(flavor = "multi_thread")]
async fn writes_a_log_directory_for_kafkas_tools_to_read() {
    let Ok(path) = std::env::var("OTTLA_DUMP_DIR") else { return };
    let dir = LogDir::open(crate::env::real::env(), options(path)).unwrap();
    dir.start().await.unwrap();
    let id = dir.directory_id();
    for (partition, compression) in (0..=4).zip([0, 1, 2, 3, 4]) {
        let at = TopicPartition::new("dump", partition);
        let config = LogConfig { segment_bytes: 4000, ..small() };
        let log = dir.create(&at, Some(id), config).unwrap();
        for n in 0..60 {
            let mut builder = BatchBuilder::new()
                .producer(1000 + i64::from(partition), 0, n * 2)
                .compression(Compression::from_id(compression).unwrap());
            builder.push_record(&NewRecord {
                timestamp: NOW + i64::from(n),
                key: Some(b"key"),
                value: Some(format!("value {n} {}", "x".repeat(n as usize)).as_bytes()),
                headers: &[("h", Some(b"1")), ("h", None)],
            });
            builder.push(NOW + i64::from(n), None, None);
            log.append_as_leader(builder.build(), n / 20, Origin::Client, NOW).unwrap();
        }
        let mut open = BatchBuilder::new().producer(5, 1, 0).transactional();
        open.push(NOW + 100, Some(b"k"), Some(b"in a transaction"));
        log.append_as_leader(open.build(), 3, Origin::Client, NOW).unwrap();
        if partition > 0 {
            let committed = partition == 1;
            let marker = EndTransactionMarker { committed, coordinator_epoch: 2 };
            let end = BatchBuilder::end_transaction(5, 1, marker, NOW + 101);
            log.append_as_leader(end, 3, Origin::Coordinator, NOW).unwrap();
        }
    }
    let compacted = LogConfig { compact: true, min_cleanable_dirty_ratio: 0.0, ..small() };
    let log = dir.create(&TopicPartition::new("compacted", 0), Some(id), compacted).unwrap();
    for n in 0..40 {
        let mut builder = BatchBuilder::new().producer(9, 0, n * 2);
        for m in 0..2 {
            let (key, value) = (format!("key {}", (n + m) % 5), format!("value {n}"));
            let value = (n % 7 != 3).then_some(value.as_bytes());
            builder.push(NOW + i64::from(n), Some(key.as_bytes()), value);
        }
        log.append_as_leader(builder.build(), 0, Origin::Client, NOW).unwrap();
    }
    log.flush(true);
    dir.checkpoint().unwrap();
    let candidate = log.cleanable(log.end_offset(), NOW).unwrap().unwrap();
    let settings = CleanerSettings { dedupe_buffer_size: 1 << 20, load_factor: 0.9 };
    let mut cleaning = Cleaning::begin(log.clone(), candidate, settings, NOW).unwrap();
    let end = loop {
        if let Progress::Done(end) = cleaning.step().unwrap() {
            break end;
        }
    };
    cleaning.remember(end).unwrap();
    dir.write_high_watermarks(|_| Some(121)).unwrap();
    dir.shut_down_cleanly(7).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn opens_a_log_directory_that_kafka_wrote() {
    let Ok(path) = std::env::var("OTTLA_KAFKA_DIR") else { return };
    let env = crate::env::real::env();
    let meta = MetaProperties::read(&*env.disk, path.as_ref()).unwrap().unwrap();
    let options =
        LogDirOptions { cluster_id: meta.cluster_id, node_id: meta.node_id, ..options(path) };
    let dir = LogDir::open(env, options).unwrap();
    println!("clean shutdown of epoch {:?}", dir.clean_shutdown_epoch());
    dir.start().await.unwrap();
    for log in dir.open_all(|_| LogConfig::default()).await.unwrap() {
        println!(
            "{log:?} id {:?} segments {} size {} epochs {:?} producers {}",
            log.topic_id(),
            log.segment_count(),
            log.size(),
            log.epochs(),
            log.producers().len()
        );
        let mut at = log.start_offset();
        while at < log.end_offset() {
            let bytes = log.read_cold(at, 1 << 20, i64::MAX, true).unwrap();
            for batch in Batches::new(&bytes) {
                let batch = batch.unwrap();
                batch.check().unwrap();
                let records = batch.records(MAX_DECOMPRESSED).unwrap();
                records.check_all().unwrap();
                assert!(records.iter().all(|record| record.is_ok()));
                at = batch.next_offset();
            }
        }
        assert!(log.max_timestamp().is_ok());
    }
}
