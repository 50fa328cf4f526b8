//! Batches with fewer records, as the cleaner leaves them: offsets, sequences and the end of the
//! batch stay, and so does its compression.
//!
//! A delete horizon (KIP-534) is kept in the place of the base timestamp, so a batch that gets one
//! has the time deltas of its records written anew. Records are not decoded beyond key and time.

use bytes::{BufMut, BytesMut};

use super::batch::{COMPRESSION_MASK, DELETE_HORIZON, HEADER_LEN, LOG_OVERHEAD};
use super::builder::put_varlong;
use super::compression::compress;
use super::record::{Records, take, take_nullable, take_sized, varint, varlong};
use super::{BatchView, Compression, NO_TIMESTAMP, RecordsError, crc32c};
use crate::types::{Millis, Offset};

/// A record of which only what the cleaner looks at is decoded.
#[derive(Debug, Clone, Copy)]
pub struct RawRecord<'a> {
    pub offset: Offset,
    pub timestamp: Millis,
    pub key: Option<&'a [u8]>,
    pub has_value: bool,
    attributes: u8,
    delta: i32,
    /// From the key on.
    rest: &'a [u8],
}

impl Records<'_> {
    /// All records, or the first thing that is wrong with them.
    pub fn raw(&self) -> Result<Vec<RawRecord<'_>>, RecordsError> {
        let mut rest: &[u8] = &self.payload;
        (0..self.count)
            .map(|_| {
                let mut body = take_sized(&mut rest)?;
                let attributes = take(&mut body, 1)?[0];
                let time = self.base_timestamp.wrapping_add(varlong(&mut body)?);
                let delta = varint(&mut body)?;
                let from_key = body;
                let key = take_nullable(&mut body)?;
                let has_value = take_nullable(&mut body)?.is_some();
                Ok(RawRecord {
                    offset: self.base_offset.wrapping_add(i64::from(delta)),
                    timestamp: self.append_time.unwrap_or(time),
                    key,
                    has_value,
                    attributes,
                    delta,
                    rest: from_key,
                })
            })
            .collect()
    }
}

impl BatchView<'_> {
    /// When tombstones and markers of this batch may go.
    pub fn delete_horizon(&self) -> Option<Millis> {
        self.has_delete_horizon().then(|| self.base_timestamp())
    }

    /// The batch with none but the records `kept`, which are its own.
    pub fn with_only(
        &self,
        kept: &[RawRecord<'_>],
        horizon: Option<Millis>,
    ) -> Result<BytesMut, RecordsError> {
        let base = horizon.or_else(|| kept.first().map(|record| record.timestamp));
        let base = base.unwrap_or(NO_TIMESTAMP);
        let mut records = BytesMut::new();
        for record in kept {
            let mut head = BytesMut::with_capacity(16);
            head.put_u8(record.attributes);
            put_varlong(&mut head, record.timestamp.wrapping_sub(base));
            put_varlong(&mut head, record.delta.into());
            put_varlong(&mut records, (head.len() + record.rest.len()) as i64);
            records.put_slice(&head);
            records.put_slice(record.rest);
        }
        let newest = match self.timestamp_type() {
            super::TimestampType::LogAppendTime => self.max_timestamp(),
            super::TimestampType::CreateTime => {
                kept.iter().map(|record| record.timestamp).max().unwrap_or(NO_TIMESTAMP)
            }
        };
        let payload = match self.compression()? {
            Compression::None => records.to_vec(),
            how => {
                compress(how, &records).map_err(|error| RecordsError::invalid(error.to_string()))?
            }
        };
        let flag = if horizon.is_some() { DELETE_HORIZON } else { 0 };
        let attributes = self.attributes() & !DELETE_HORIZON | flag;
        self.rebuilt(attributes, (base, newest), kept.len(), &payload)
    }

    /// The batch without records, which stands for its offsets and its producer's sequence.
    pub fn emptied(&self) -> Result<BytesMut, RecordsError> {
        let attributes = self.attributes() & !(DELETE_HORIZON | COMPRESSION_MASK);
        self.rebuilt(attributes, (NO_TIMESTAMP, self.max_timestamp()), 0, &[])
    }

    fn rebuilt(
        &self,
        attributes: i16,
        (base_timestamp, max_timestamp): (Millis, Millis),
        count: usize,
        payload: &[u8],
    ) -> Result<BytesMut, RecordsError> {
        let size = HEADER_LEN + payload.len();
        let length = i32::try_from(size - LOG_OVERHEAD)
            .map_err(|_| RecordsError::TooLarge(i32::MAX as usize))?;
        let mut out = BytesMut::with_capacity(size);
        out.put_i64(self.base_offset());
        out.put_i32(length);
        out.put_i32(self.leader_epoch());
        out.put_i8(2);
        out.put_u32(0);
        out.put_i16(attributes);
        out.put_i32(self.last_offset_delta());
        out.put_i64(base_timestamp);
        out.put_i64(max_timestamp);
        out.put_i64(self.producer_id());
        out.put_i16(self.producer_epoch());
        out.put_i32(self.base_sequence());
        out.put_i32(count as i32);
        out.put_slice(payload);
        let crc = crc32c(&out[21..]);
        out[17..21].copy_from_slice(&crc.to_be_bytes());
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::records::{BatchBuilder, MAX_DECOMPRESSED, NewRecord};

    fn five(compression: Compression) -> bytes::Bytes {
        let mut builder = BatchBuilder::new()
            .base_offset(100)
            .leader_epoch(3)
            .producer(9, 2, 40)
            .compression(compression);
        for n in 0..5_u8 {
            let headers: &[(&str, Option<&[u8]>)] = &[("h", Some(b"1")), ("h", None)];
            builder.push_record(&NewRecord {
                timestamp: 1000 + i64::from(n),
                key: Some(&[n]),
                value: (n != 2).then_some(b"value".as_slice()),
                headers,
            });
        }
        builder.build()
    }

    #[test]
    fn what_is_kept_stays_as_it_was_whatever_the_compression() {
        for id in 0..=4 {
            let bytes = five(Compression::from_id(id).unwrap());
            let batch = BatchView::first(&bytes).unwrap();
            let opened = batch.records(MAX_DECOMPRESSED).unwrap();
            let raw = opened.raw().unwrap();
            let kept = [raw[1], raw[2], raw[4]];
            for horizon in [None, Some(77_000)] {
                let new = batch.with_only(&kept, horizon).unwrap();
                let view = BatchView::first(&new).unwrap();
                view.check().unwrap();
                assert_eq!(view.compression_id(), id);
                assert_eq!((view.base_offset(), view.last_offset()), (100, 104));
                assert_eq!((view.base_sequence(), view.last_sequence()), (40, 44));
                assert_eq!((view.leader_epoch(), view.count()), (3, 3));
                assert_eq!(view.max_timestamp(), 1004);
                assert_eq!(view.delete_horizon(), horizon);
                let after = view.records(MAX_DECOMPRESSED).unwrap();
                let after: Vec<_> = after.iter().map(Result::unwrap).collect();
                let before: Vec<_> = opened.iter().map(Result::unwrap).collect();
                let same = |n: usize, m: usize| {
                    let (new, old) = (&after[n], &before[m]);
                    assert_eq!((new.offset, new.timestamp), (old.offset, old.timestamp));
                    assert_eq!((new.key, new.value), (old.key, old.value));
                    assert_eq!((&new.headers, new.sequence), (&old.headers, old.sequence));
                };
                same(0, 1);
                same(1, 2);
                same(2, 4);
            }
        }
    }

    #[test]
    fn an_emptied_batch_is_a_header_with_the_same_end() {
        let bytes = five(Compression::Zstd);
        let new = BatchView::first(&bytes).unwrap().emptied().unwrap();
        let view = BatchView::first(&new).unwrap();
        view.check().unwrap();
        assert_eq!((view.size(), view.count(), view.compression_id()), (61, 0, 0));
        assert_eq!((view.last_offset(), view.last_sequence()), (104, 44));
        assert_eq!((view.base_timestamp(), view.max_timestamp()), (-1, 1004));
    }
}
