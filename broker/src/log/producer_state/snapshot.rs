//! The `.snapshot` file: version, CRC-32C of what follows, entries; Kafka's ProducerSnapshot v1.

use std::collections::BTreeMap;

use super::{Producer, WrittenBatch};
use crate::wire::records::crc32c;

const VERSION: i16 = 1;
/// Version and CRC.
const HEADER: usize = 6;
const ENTRY: usize = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8;

pub(in crate::log) fn encode(producers: &BTreeMap<i64, Producer>) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + 4 + producers.len() * ENTRY);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(producers.len() as i32).to_be_bytes());
    for (id, producer) in producers {
        let last = producer.batches.back();
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&producer.epoch.to_be_bytes());
        out.extend_from_slice(&producer.last_sequence().to_be_bytes());
        out.extend_from_slice(&last.map_or(-1, |batch| batch.last_offset).to_be_bytes());
        out.extend_from_slice(&last.map_or(0, |batch| batch.offset_delta).to_be_bytes());
        out.extend_from_slice(&producer.last_timestamp.to_be_bytes());
        out.extend_from_slice(&producer.coordinator_epoch.to_be_bytes());
        out.extend_from_slice(&producer.transaction_start.unwrap_or(-1).to_be_bytes());
    }
    let crc = crc32c(&out[HEADER..]);
    out[2..HEADER].copy_from_slice(&crc.to_be_bytes());
    out
}

/// The entries, or what is wrong with the file.
pub(in crate::log) fn decode(bytes: &[u8]) -> Result<Vec<(i64, Producer)>, String> {
    let mut reader = Reader(bytes);
    let version = i16::from_be_bytes(reader.take()?);
    if version != VERSION {
        return Err(format!("unknown version {version}"));
    }
    let crc = u32::from_be_bytes(reader.take()?);
    if crc != crc32c(reader.0) {
        return Err("the CRC is wrong".into());
    }
    let count = i32::from_be_bytes(reader.take()?);
    if usize::try_from(count).ok() != Some(reader.0.len() / ENTRY) || reader.0.len() % ENTRY != 0 {
        return Err(format!("{count} entries do not fit {} bytes", reader.0.len()));
    }
    (0..count).map(|_| entry(&mut reader)).collect()
}

fn entry(reader: &mut Reader<'_>) -> Result<(i64, Producer), String> {
    let id = i64::from_be_bytes(reader.take()?);
    let epoch = i16::from_be_bytes(reader.take()?);
    let last_sequence = i32::from_be_bytes(reader.take()?);
    let last_offset = i64::from_be_bytes(reader.take()?);
    let offset_delta = i32::from_be_bytes(reader.take()?);
    let timestamp = i64::from_be_bytes(reader.take()?);
    let coordinator_epoch = i32::from_be_bytes(reader.take()?);
    let transaction_start = Some(i64::from_be_bytes(reader.take()?)).filter(|start| *start >= 0);
    let batch = WrittenBatch { last_sequence, last_offset, offset_delta, timestamp };
    let batches = Some(batch).filter(|batch| batch.last_offset >= 0).into_iter().collect();
    let last_timestamp = timestamp;
    Ok((id, Producer { epoch, coordinator_epoch, last_timestamp, transaction_start, batches }))
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.0.split_first_chunk().ok_or("the file is too short")?;
        self.0 = rest;
        Ok(*taken)
    }
}
