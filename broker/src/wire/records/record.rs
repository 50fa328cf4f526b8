//! The records of a batch, decoded on demand. Headers keep their order and their duplicates.

use std::borrow::Cow;

use super::batch::{BatchView, TimestampType};
use super::compression::decompress;
use super::{Compression, NO_SEQUENCE, RecordsError};
use crate::types::{Millis, Offset};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header<'a> {
    pub key: &'a str,
    pub value: Option<&'a [u8]>,
}

/// One record; borrows from the batch or from its decompressed payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    pub offset: Offset,
    pub timestamp: Millis,
    pub sequence: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Vec<Header<'a>>,
    /// Bytes of the record as it was encoded, its length included.
    pub size: usize,
}

/// The records of one batch, opened.
pub struct Records<'a> {
    pub(super) payload: Cow<'a, [u8]>,
    pub(super) count: usize,
    pub(super) base_offset: Offset,
    pub(super) base_timestamp: Millis,
    pub(super) append_time: Option<Millis>,
    base_sequence: i32,
}

impl<'a> Records<'a> {
    pub(super) fn of(batch: &BatchView<'a>, max: usize) -> Result<Self, RecordsError> {
        let payload = match batch.compression()? {
            Compression::None => Cow::Borrowed(batch.payload()),
            other => Cow::Owned(decompress(other, batch.payload(), max)?),
        };
        let count = usize::try_from(batch.count())
            .map_err(|_| RecordsError::invalid("negative count of records"))?;
        Ok(Self {
            payload,
            count,
            base_offset: batch.base_offset(),
            base_timestamp: batch.base_timestamp(),
            append_time: (batch.timestamp_type() == TimestampType::LogAppendTime)
                .then(|| batch.max_timestamp()),
            base_sequence: batch.base_sequence(),
        })
    }

    pub fn count(&self) -> usize {
        self.count
    }
    /// The encoded records, not compressed.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Yields exactly `count` records, or an error last.
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter { records: self, rest: &self.payload, left: self.count, failed: false }
    }

    /// The first record, which names what a control batch is.
    pub fn first(&self) -> Result<Option<Record<'_>>, RecordsError> {
        self.iter().next().transpose()
    }

    /// Walks all records without building them: the count fits, each length is right, offsets are
    /// consecutive, and nothing is left over.
    pub fn check_all(&self) -> Result<(), RecordsError> {
        self.summary().map(|_| ())
    }

    /// [`Records::check_all`], and what the timestamp and key rules need to know.
    pub fn summary(&self) -> Result<Summary, RecordsError> {
        let mut rest: &[u8] = &self.payload;
        let mut summary =
            Summary { max_timestamp: i64::MIN, min_timestamp: i64::MAX, null_keys: false };
        for index in 0..self.count {
            let mut body = take_sized(&mut rest)?;
            take(&mut body, 1)?;
            let timestamp = self.base_timestamp.wrapping_add(varlong(&mut body)?);
            let delta = varint(&mut body)?;
            if i64::from(delta) != index as i64 {
                return Err(RecordsError::invalid(format!(
                    "record {index} has the offset delta {delta}"
                )));
            }
            summary.null_keys |= take_nullable(&mut body)?.is_none();
            take_nullable(&mut body)?;
            for _ in 0..header_count(&mut body)? {
                take_nullable(&mut body)?
                    .ok_or_else(|| RecordsError::invalid("a header without a key"))?;
                take_nullable(&mut body)?;
            }
            nothing_left(body)?;
            summary.max_timestamp = summary.max_timestamp.max(timestamp);
            summary.min_timestamp = summary.min_timestamp.min(timestamp);
        }
        if !rest.is_empty() {
            return Err(RecordsError::invalid("bytes after the last record of a batch"));
        }
        Ok(summary)
    }
}

impl<'r> IntoIterator for &'r Records<'_> {
    type Item = Result<Record<'r>, RecordsError>;
    type IntoIter = RecordIter<'r>;
    fn into_iter(self) -> RecordIter<'r> {
        self.iter()
    }
}

/// What [`Records::summary`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    pub max_timestamp: Millis,
    pub min_timestamp: Millis,
    pub null_keys: bool,
}

pub struct RecordIter<'r> {
    records: &'r Records<'r>,
    rest: &'r [u8],
    left: usize,
    failed: bool,
}

impl<'r> RecordIter<'r> {
    fn decode(&mut self) -> Result<Record<'r>, RecordsError> {
        let before = self.rest.len();
        let mut body = take_sized(&mut self.rest)?;
        let size = before - self.rest.len();
        take(&mut body, 1)?; // attributes of a record: unused
        let timestamp_delta = varlong(&mut body)?;
        let offset_delta = varint(&mut body)?;
        let key = take_nullable(&mut body)?;
        let value = take_nullable(&mut body)?;
        let count = header_count(&mut body)?;
        let mut headers = Vec::with_capacity(count.min(16));
        for _ in 0..count {
            let key = take_nullable(&mut body)?
                .ok_or_else(|| RecordsError::invalid("a header without a key"))?;
            let key = std::str::from_utf8(key)
                .map_err(|_| RecordsError::invalid("a header key that is not UTF-8"))?;
            headers.push(Header { key, value: take_nullable(&mut body)? });
        }
        nothing_left(body)?;
        let of = self.records;
        Ok(Record {
            offset: of.base_offset.wrapping_add(i64::from(offset_delta)),
            timestamp: of
                .append_time
                .unwrap_or_else(|| of.base_timestamp.wrapping_add(timestamp_delta)),
            sequence: if of.base_sequence < 0 {
                NO_SEQUENCE
            } else {
                super::batch::add_sequence(of.base_sequence, offset_delta)
            },
            key,
            value,
            headers,
            size,
        })
    }
}

impl<'r> Iterator for RecordIter<'r> {
    type Item = Result<Record<'r>, RecordsError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 || self.failed {
            return None;
        }
        self.left -= 1;
        let record = self.decode();
        self.failed = record.is_err();
        Some(record)
    }
}

pub(super) fn take<'a>(from: &mut &'a [u8], n: usize) -> Result<&'a [u8], RecordsError> {
    let Some((taken, rest)) = from.split_at_checked(n) else {
        return Err(RecordsError::invalid("a record goes past the end of its batch"));
    };
    *from = rest;
    Ok(taken)
}

pub(super) fn take_sized<'a>(from: &mut &'a [u8]) -> Result<&'a [u8], RecordsError> {
    let length = varint(from)?;
    let length = usize::try_from(length)
        .map_err(|_| RecordsError::invalid(format!("a record of {length} bytes")))?;
    take(from, length)
}

pub(super) fn take_nullable<'a>(from: &mut &'a [u8]) -> Result<Option<&'a [u8]>, RecordsError> {
    match varint(from)? {
        length if length < 0 => Ok(None),
        length => take(from, length as usize).map(Some),
    }
}

fn header_count(from: &mut &[u8]) -> Result<usize, RecordsError> {
    let count = varint(from)?;
    match usize::try_from(count) {
        // A header takes two bytes at least.
        Ok(count) if count <= from.len() / 2 => Ok(count),
        _ => Err(RecordsError::invalid(format!("a record with {count} headers"))),
    }
}

fn nothing_left(body: &[u8]) -> Result<(), RecordsError> {
    if body.is_empty() {
        return Ok(());
    }
    Err(RecordsError::invalid(format!("{} bytes after the end of a record", body.len())))
}

/// Zigzag, at most five bytes.
pub(super) fn varint(from: &mut &[u8]) -> Result<i32, RecordsError> {
    let raw = unsigned(from, 5)?;
    let raw = u32::try_from(raw & 0xffff_ffff).unwrap_or(0);
    Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
}

/// Zigzag, at most ten bytes.
pub(super) fn varlong(from: &mut &[u8]) -> Result<i64, RecordsError> {
    let raw = unsigned(from, 10)?;
    Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

fn unsigned(from: &mut &[u8], longest: usize) -> Result<u64, RecordsError> {
    let mut value = 0;
    for index in 0..longest {
        let byte = take(from, 1)?[0];
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(RecordsError::invalid("a variable-length number that does not end"))
}

/// The type in the key of a control record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum ControlKind {
    Abort = 0,
    Commit = 1,
    LeaderChange = 2,
    SnapshotHeader = 3,
    SnapshotFooter = 4,
    KRaftVersion = 5,
    KRaftVoters = 6,
}

impl ControlKind {
    /// From a control record's key: version, type.
    pub fn of_key(key: &[u8]) -> Option<Self> {
        Some(match i16::from_be_bytes(key.get(2..4)?.try_into().ok()?) {
            0 => Self::Abort,
            1 => Self::Commit,
            2 => Self::LeaderChange,
            3 => Self::SnapshotHeader,
            4 => Self::SnapshotFooter,
            5 => Self::KRaftVersion,
            6 => Self::KRaftVoters,
            _ => return None,
        })
    }
    /// The key of a control record of this type, version 0.
    pub fn key(self) -> [u8; 4] {
        let kind = (self as i16).to_be_bytes();
        [0, 0, kind[0], kind[1]]
    }
}

/// What ends a transaction in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndTransactionMarker {
    pub committed: bool,
    pub coordinator_epoch: i32,
}

impl EndTransactionMarker {
    /// `None` when the control record is of another type.
    pub fn of(record: &Record<'_>) -> Option<Self> {
        let committed = match ControlKind::of_key(record.key?)? {
            ControlKind::Commit => true,
            ControlKind::Abort => false,
            _ => return None,
        };
        let epoch = record.value?.get(2..6)?;
        Some(Self { committed, coordinator_epoch: i32::from_be_bytes(epoch.try_into().ok()?) })
    }
    /// The control record's value, version 0.
    pub fn value(self) -> [u8; 6] {
        let epoch = self.coordinator_epoch.to_be_bytes();
        [0, 0, epoch[0], epoch[1], epoch[2], epoch[3]]
    }
}
