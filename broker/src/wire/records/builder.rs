//! Batches that this broker writes itself: coordinators' records, metadata, control records.

use bytes::{BufMut, Bytes, BytesMut};

use super::batch::{
    Batches, COMPRESSION_MASK, CONTROL, HEADER_LEN, LOG_OVERHEAD, TIMESTAMP_TYPE, TRANSACTIONAL,
};
use super::compression::compress;
use super::{
    Compression, ControlKind, EndTransactionMarker, MAX_DECOMPRESSED, NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP, RecordsError, TimestampType, crc32c,
};
use crate::types::{LeaderEpoch, Millis, NO_EPOCH, Offset};

/// A record to be written. Borrowed, because it is copied into the batch at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    pub timestamp: Millis,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// Collects records and makes one batch of them.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    attributes: i16,
    compression: Compression,
    producer: (i64, i16, i32),
    base_timestamp: Millis,
    max_timestamp: Millis,
    count: i32,
    records: BytesMut,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    pub fn new() -> Self {
        Self {
            base_offset: 0,
            leader_epoch: NO_EPOCH,
            attributes: 0,
            compression: Compression::None,
            producer: (NO_PRODUCER_ID, NO_PRODUCER_EPOCH, NO_SEQUENCE),
            base_timestamp: NO_TIMESTAMP,
            max_timestamp: NO_TIMESTAMP,
            count: 0,
            records: BytesMut::new(),
        }
    }

    /// A batch with the one record that ends a transaction.
    pub fn end_transaction(
        producer_id: i64,
        producer_epoch: i16,
        marker: EndTransactionMarker,
        now: Millis,
    ) -> Bytes {
        let kind = if marker.committed { ControlKind::Commit } else { ControlKind::Abort };
        let mut builder = Self::new()
            .producer(producer_id, producer_epoch, NO_SEQUENCE)
            .transactional()
            .control();
        builder.push(now, Some(&kind.key()), Some(&marker.value()));
        builder.build()
    }

    #[must_use]
    pub fn base_offset(mut self, offset: Offset) -> Self {
        self.base_offset = offset;
        self
    }
    #[must_use]
    pub fn leader_epoch(mut self, epoch: LeaderEpoch) -> Self {
        self.leader_epoch = epoch;
        self
    }
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }
    #[must_use]
    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        self.producer = (id, epoch, base_sequence);
        self
    }
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.attributes |= TRANSACTIONAL;
        self
    }
    #[must_use]
    pub fn control(mut self) -> Self {
        self.attributes |= CONTROL;
        self
    }
    #[must_use]
    pub fn timestamp_type(mut self, kind: TimestampType) -> Self {
        match kind {
            TimestampType::CreateTime => self.attributes &= !TIMESTAMP_TYPE,
            TimestampType::LogAppendTime => self.attributes |= TIMESTAMP_TYPE,
        }
        self
    }

    pub fn count(&self) -> usize {
        self.count as usize
    }
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
    /// What the batch measures if it were built now, uncompressed.
    pub fn size(&self) -> usize {
        HEADER_LEN + self.records.len()
    }

    /// Adds a record without headers.
    pub fn push(&mut self, timestamp: Millis, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.push_record(&NewRecord { timestamp, key, value, headers: &[] });
    }

    pub fn push_record(&mut self, record: &NewRecord<'_>) {
        if self.count == 0 {
            self.base_timestamp = record.timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        let mut body = BytesMut::with_capacity(16 + record.key.map_or(0, <[u8]>::len));
        body.put_u8(0);
        put_varlong(&mut body, record.timestamp.wrapping_sub(self.base_timestamp));
        put_varlong(&mut body, i64::from(self.count));
        put_nullable(&mut body, record.key);
        put_nullable(&mut body, record.value);
        put_varlong(&mut body, record.headers.len() as i64);
        for (key, value) in record.headers {
            put_nullable(&mut body, Some(key.as_bytes()));
            put_nullable(&mut body, *value);
        }
        put_varlong(&mut self.records, body.len() as i64);
        self.records.put_slice(&body);
        self.count += 1;
    }

    /// The batch. One without records is valid, too (Kafka keeps such after compaction).
    ///
    /// # Panics
    /// When it would be 2 GiB or more, which no caller may let it grow to.
    pub fn build(self) -> Bytes {
        match self.try_build() {
            Ok(batch) => batch,
            // The encoders write to memory; they fail for want of it only.
            Err(error) => panic!("a batch of our own could not be built: {error}"),
        }
    }

    /// As [`BatchBuilder::build`], but with the compressor's failure as an error.
    pub fn try_build(self) -> Result<Bytes, RecordsError> {
        let payload = match self.compression {
            Compression::None => self.records,
            how => BytesMut::from(
                &compress(how, &self.records)
                    .map_err(|error| RecordsError::invalid(error.to_string()))?[..],
            ),
        };
        let size = HEADER_LEN + payload.len();
        let length = i32::try_from(size - LOG_OVERHEAD)
            .map_err(|_| RecordsError::TooLarge(i32::MAX as usize))?;
        let mut out = BytesMut::with_capacity(size);
        out.put_i64(self.base_offset);
        out.put_i32(length);
        out.put_i32(self.leader_epoch);
        out.put_i8(2);
        out.put_u32(0);
        out.put_i16(self.attributes | i16::from(self.compression.id()));
        out.put_i32((self.count - 1).max(0));
        out.put_i64(self.base_timestamp);
        out.put_i64(self.max_timestamp);
        out.put_i64(self.producer.0);
        out.put_i16(self.producer.1);
        out.put_i32(self.producer.2);
        out.put_i32(self.count);
        out.put_slice(&payload);
        let crc = crc32c(&out[21..]);
        out[17..21].copy_from_slice(&crc.to_be_bytes());
        Ok(out.freeze())
    }
}

/// The same batches with their records compressed (or not) as `how` says; control batches stay.
pub fn recompress(batches: &[u8], how: Compression) -> Result<BytesMut, RecordsError> {
    let mut out = BytesMut::with_capacity(batches.len());
    for batch in Batches::new(batches) {
        let batch = batch?;
        if batch.is_control() || batch.compression()? == how {
            out.put_slice(batch.bytes());
            continue;
        }
        let payload = batch.records(MAX_DECOMPRESSED)?;
        let payload = compress(how, payload.payload())
            .map_err(|error| RecordsError::invalid(error.to_string()))?;
        let start = out.len();
        out.put_slice(&batch.bytes()[..HEADER_LEN]);
        out.put_slice(&payload);
        let new = &mut out[start..];
        let length = i32::try_from(new.len() - LOG_OVERHEAD)
            .map_err(|_| RecordsError::TooLarge(i32::MAX as usize))?;
        new[8..12].copy_from_slice(&length.to_be_bytes());
        let attributes = batch.attributes() & !COMPRESSION_MASK | i16::from(how.id());
        new[21..23].copy_from_slice(&attributes.to_be_bytes());
        let crc = crc32c(&new[21..]);
        new[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    Ok(out)
}

pub(super) fn put_varlong(out: &mut BytesMut, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.put_u8(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.put_u8(raw as u8);
}

fn put_nullable(out: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        None => put_varlong(out, -1),
        Some(value) => {
            put_varlong(out, value.len() as i64);
            out.put_slice(value);
        }
    }
}
