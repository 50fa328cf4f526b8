//! Writing a batch.

use bytes::{BufMut, Bytes, BytesMut};

use super::{BATCH_HEADER, Compression, NewRecord, varint};
use crate::Result;

/// Who wrote a batch, and where it stands in that producer's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub producer_id: i64,
    pub epoch: i16,
    pub sequence: i32,
}

/// An upper bound of what `record` adds to a batch before compression.
pub fn size_of(record: &NewRecord) -> usize {
    let field = |bytes: Option<&Bytes>| bytes.map_or(1, |bytes| 5 + bytes.len());
    let headers: usize = record
        .headers
        .iter()
        .map(|header| 5 + header.key.len() + field(header.value.as_ref()))
        .sum();
    21 + field(record.key.as_ref()) + field(record.value.as_ref()) + headers
}

/// One batch of `records`, with base offset 0; the broker sets offsets and leader epoch.
pub fn encode(
    records: &[NewRecord],
    compression: Compression,
    stamp: Option<Stamp>,
) -> Result<Bytes> {
    let base_timestamp = records.first().map_or(-1, |record| record.timestamp);
    let max_timestamp = records.iter().map(|record| record.timestamp).max().unwrap_or(-1);
    let mut body = Vec::with_capacity(records.iter().map(size_of).sum());
    let mut one = Vec::new();
    for (at, record) in records.iter().enumerate() {
        one.clear();
        put_record(&mut one, at as i64, record.timestamp - base_timestamp, record);
        varint::put(&mut body, one.len() as i64);
        body.extend_from_slice(&one);
    }
    if compression != Compression::None {
        body = compression.pack(&body)?;
    }
    let stamp = stamp.unwrap_or(Stamp { producer_id: -1, epoch: -1, sequence: -1 });
    let mut batch = BytesMut::with_capacity(BATCH_HEADER + body.len());
    batch.put_i64(0); // base offset
    batch.put_i32((BATCH_HEADER - 12 + body.len()) as i32);
    batch.put_i32(-1); // leader epoch
    batch.put_i8(2); // magic
    batch.put_u32(0); // CRC, below
    batch.put_i16(compression.number());
    batch.put_i32(records.len() as i32 - 1); // last offset delta
    batch.put_i64(base_timestamp);
    batch.put_i64(max_timestamp);
    batch.put_i64(stamp.producer_id);
    batch.put_i16(stamp.epoch);
    batch.put_i32(stamp.sequence);
    batch.put_i32(records.len() as i32);
    batch.extend_from_slice(&body);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[21..]) as u32;
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    Ok(batch.freeze())
}

fn put_record(out: &mut Vec<u8>, offset_delta: i64, timestamp_delta: i64, record: &NewRecord) {
    out.put_u8(0); // attributes
    varint::put(out, timestamp_delta);
    varint::put(out, offset_delta);
    put_bytes(out, record.key.as_deref());
    put_bytes(out, record.value.as_deref());
    varint::put(out, record.headers.len() as i64);
    for header in &record.headers {
        put_bytes(out, Some(header.key.as_bytes()));
        put_bytes(out, header.value.as_deref());
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::put(out, -1),
        Some(bytes) => {
            varint::put(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_estimate_is_never_too_small() {
        let record = NewRecord {
            value: Some("x".repeat(300).into()),
            timestamp: i64::MAX / 4,
            ..NewRecord::default()
        };
        let alone =
            encode(std::slice::from_ref(&record), Compression::None, None).expect("encodes");
        assert!(alone.len() - BATCH_HEADER <= size_of(&record));
    }

    #[test]
    fn small_varints_have_the_size_that_they_say() {
        assert_eq!(varint::size(-1), 1);
        assert_eq!(varint::size(300), 2);
    }
}
