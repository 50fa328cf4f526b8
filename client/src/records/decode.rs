//! Reading the batches of a fetch.

use std::collections::BTreeSet;

use bytes::{Buf, Bytes};

use super::varint::{self, cut_off};
use super::{BATCH_HEADER, Compression, Header, Record};
use crate::{Error, Result};

const TIMESTAMP_TYPE: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

/// A transaction that was aborted, from the Fetch answer of a read-committed consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted {
    pub producer_id: i64,
    pub first_offset: i64,
}

#[derive(Debug, Default)]
pub struct Decoded {
    pub records: Vec<Record>,
    /// Where to fetch next: past the last whole batch, control batches and aborted records included.
    pub next_offset: i64,
}

/// Reads the records at and after `from`, without those of `aborted` transactions.
pub fn decode(bytes: &Bytes, from: i64, aborted: &[Aborted]) -> Result<Decoded> {
    let mut decoded = Decoded { records: Vec::new(), next_offset: from };
    let mut aborted = aborted.to_vec();
    aborted.sort_by_key(|one| std::cmp::Reverse(one.first_offset));
    let mut aborting: BTreeSet<i64> = BTreeSet::new();
    let mut rest = bytes.clone();
    while rest.len() >= 17 {
        let length = 12 + i64::from(i32::from_be_bytes([rest[8], rest[9], rest[10], rest[11]]));
        if rest[16] != 2 {
            return Err(Error::Protocol(format!(
                "a batch has format version {}; only 2 can be read",
                rest[16]
            )));
        }
        if length < BATCH_HEADER as i64 {
            return Err(Error::Protocol(format!("a batch has an impossible length ({length})")));
        }
        if length > rest.len() as i64 {
            break;
        }
        let batch = Batch::parse(rest.split_to(length as usize))?;
        while aborted.last().is_some_and(|one| one.first_offset <= batch.last_offset) {
            aborting.extend(aborted.pop().map(|one| one.producer_id));
        }
        decoded.next_offset = decoded.next_offset.max(batch.last_offset + 1);
        let skipped =
            batch.attributes & TRANSACTIONAL != 0 && aborting.contains(&batch.producer_id);
        if batch.attributes & CONTROL != 0 {
            aborting.remove(&batch.producer_id);
        } else if !skipped {
            batch.records(from, &mut decoded.records)?;
        }
    }
    Ok(decoded)
}

struct Batch {
    base_offset: i64,
    last_offset: i64,
    leader_epoch: i32,
    attributes: i16,
    base_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    count: i32,
    body: Bytes,
}

impl Batch {
    fn parse(mut bytes: Bytes) -> Result<Self> {
        let base_offset = bytes.get_i64();
        bytes.advance(4);
        let leader_epoch = bytes.get_i32();
        bytes.advance(1);
        let crc = bytes.get_u32();
        if crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes) as u32 != crc {
            return Err(Error::Protocol(format!(
                "the batch at offset {base_offset} is corrupt: its CRC is wrong"
            )));
        }
        let attributes = bytes.get_i16();
        let last_offset = base_offset + i64::from(bytes.get_i32());
        let base_timestamp = bytes.get_i64();
        let max_timestamp = bytes.get_i64();
        let producer_id = bytes.get_i64();
        bytes.advance(6); // producer epoch, base sequence
        let count = bytes.get_i32();
        Ok(Self {
            base_offset,
            last_offset,
            leader_epoch,
            attributes,
            base_timestamp,
            max_timestamp,
            producer_id,
            count,
            body: bytes,
        })
    }

    fn records(self, from: i64, out: &mut Vec<Record>) -> Result<()> {
        if self.last_offset < from {
            return Ok(());
        }
        let mut body = Compression::of_attributes(self.attributes)?.unpack(self.body)?;
        let log_append_time = self.attributes & TIMESTAMP_TYPE != 0;
        for _ in 0..self.count {
            let mut input = varint::get_bytes(&mut body)?.ok_or_else(cut_off)?;
            if input.is_empty() {
                return Err(cut_off());
            }
            input.advance(1); // attributes, unused
            let timestamp = self.base_timestamp.wrapping_add(varint::get(&mut input)?);
            let offset = self.base_offset.wrapping_add(varint::get(&mut input)?);
            let record = Record {
                offset,
                leader_epoch: self.leader_epoch,
                timestamp: if log_append_time { self.max_timestamp } else { timestamp },
                log_append_time,
                key: varint::get_bytes(&mut input)?,
                value: varint::get_bytes(&mut input)?,
                headers: headers(&mut input)?,
            };
            if offset >= from {
                out.push(record);
            }
        }
        Ok(())
    }
}

fn headers(input: &mut Bytes) -> Result<Vec<Header>> {
    let count = varint::get(input)?;
    // A header takes two bytes at least: a count beyond that is a lie, found before it is believed.
    if count < 0 || count as usize > input.len() {
        return Err(cut_off());
    }
    let mut headers = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let key = varint::get_bytes(input)?.ok_or_else(cut_off)?;
        let key = String::from_utf8_lossy(&key).into_owned();
        headers.push(Header { key, value: varint::get_bytes(input)? });
    }
    Ok(headers)
}
