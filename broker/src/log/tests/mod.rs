//! Helpers, and the tests by subject.

mod cleaner;
mod kafka;
mod memory_disk;
mod model;
mod recovery;
mod rules;
mod transactions;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use memory_disk::MemoryDisk;

use super::*;
use crate::env::Env;
use crate::types::{Millis, Offset, TopicPartition};
use crate::wire::records::{BatchBuilder, Batches, MAX_DECOMPRESSED};

const NOW: Millis = 1_700_000_000_000;

fn options(path: impl Into<PathBuf>) -> LogDirOptions {
    LogDirOptions {
        path: path.into(),
        cluster_id: "MkU3OEVBNTcwNTJENDM2Qk".into(),
        node_id: 1,
        tail_cache: TailCache::new(1 << 20),
        checkpoint_every: 60_000,
        expire_every: 600_000,
        reserve_bytes: -1,
    }
}

fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 1000,
        index_interval_bytes: 200,
        retention_ms: -1,
        // The clock of the tests is not that of the records.
        producer_id_expiration_ms: i64::MAX,
        verify_transactions: false,
        ..LogConfig::default()
    }
}

/// A directory with its logs open, but no task running: tests call the flusher themselves.
async fn open(env: &Env, config: LogConfig) -> Arc<LogDir> {
    let dir = LogDir::open(env.clone(), options("/data")).unwrap();
    dir.start().await.unwrap();
    dir.open_all(move |_| config.clone()).await.unwrap();
    dir.stop_tasks();
    dir
}

fn topic() -> TopicPartition {
    TopicPartition::new("t", 0)
}

async fn one_log(disk: &MemoryDisk, config: LogConfig) -> (Arc<LogDir>, Arc<Log>) {
    let dir = open(&disk.env(), config.clone()).await;
    let log = dir.create(&topic(), None, config).unwrap();
    (dir, log)
}

fn batch(values: &[&str], timestamp: Millis) -> Bytes {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(timestamp, Some(b"key"), Some(value.as_bytes()));
    }
    builder.build()
}

fn from_producer(id: i64, epoch: i16, sequence: i32, value: &str) -> Bytes {
    let mut builder = BatchBuilder::new().producer(id, epoch, sequence);
    builder.push(NOW, Some(b"key"), Some(value.as_bytes()));
    builder.build()
}

fn append(log: &Log, value: &str) -> Offset {
    log.append_as_leader(batch(&[value], NOW), 0, Origin::Client, NOW).unwrap().first_offset
}

/// All records, read cold.
fn contents(log: &Log) -> Vec<(Offset, String)> {
    let mut found = Vec::new();
    let mut at = log.start_offset();
    while at < log.end_offset() {
        let bytes = log.read_cold(at, 300, i64::MAX, true).unwrap();
        let before = at;
        for batch in Batches::new(&bytes) {
            let batch = batch.unwrap();
            batch.check().unwrap();
            assert_eq!(log.epoch_at(batch.last_offset()), Some(batch.leader_epoch()));
            for record in &batch.records(MAX_DECOMPRESSED).unwrap() {
                let record = record.unwrap();
                if record.offset >= at {
                    let value = String::from_utf8_lossy(record.value.unwrap()).into_owned();
                    found.push((record.offset, value));
                }
            }
            at = batch.next_offset();
        }
        assert!(at > before, "nothing to read at {at}");
    }
    found
}
