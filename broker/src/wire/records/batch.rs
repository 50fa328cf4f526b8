//! The header of a batch: read in place, checked, patched.

use super::record::{Records, Summary};
use super::{Compression, NO_PRODUCER_ID, RecordsError, crc32c};
use crate::types::{LeaderEpoch, Millis, Offset};

/// Base offset and length: what precedes the counted part of a batch.
pub const LOG_OVERHEAD: usize = 12;
/// All that precedes the records.
pub const HEADER_LEN: usize = 61;

const BASE_OFFSET: usize = 0;
const LENGTH: usize = 8;
const LEADER_EPOCH: usize = 12;
const MAGIC: usize = 16;
const CRC: usize = 17;
/// From here on the CRC counts.
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const BASE_TIMESTAMP: usize = 27;
const MAX_TIMESTAMP: usize = 35;
const PRODUCER_ID: usize = 43;
const PRODUCER_EPOCH: usize = 51;
const BASE_SEQUENCE: usize = 53;
const COUNT: usize = 57;

pub(super) const COMPRESSION_MASK: i16 = 0x07;
pub(super) const TIMESTAMP_TYPE: i16 = 0x08;
pub(super) const TRANSACTIONAL: i16 = 0x10;
pub(super) const CONTROL: i16 = 0x20;
pub(super) const DELETE_HORIZON: i16 = 0x40;

/// Whether a record's timestamp is the producer's or the broker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// One whole batch, borrowed. Its length fields agree with the bytes; its CRC may not have been
/// checked ([`BatchView::check`]).
#[derive(Debug, Clone, Copy)]
pub struct BatchView<'a> {
    bytes: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// The batch at the start of `bytes`. Looks at the length and the magic, not at the CRC.
    pub fn first(bytes: &'a [u8]) -> Result<Self, RecordsError> {
        if bytes.len() <= MAGIC {
            return Err(RecordsError::Incomplete);
        }
        let size = Self::size_in(bytes)?.unwrap_or(usize::MAX);
        let magic = bytes[MAGIC] as i8;
        if magic != 2 {
            return Err(RecordsError::Magic(magic));
        }
        if size < HEADER_LEN {
            return Err(RecordsError::corrupt(format!(
                "a record batch of {size} bytes is too small"
            )));
        }
        match bytes.get(..size) {
            Some(bytes) => Ok(Self { bytes }),
            None => Err(RecordsError::Incomplete),
        }
    }

    /// The header alone, from at least [`HEADER_LEN`] bytes: for scans that leave the records where
    /// they are. [`BatchView::records`] and the CRC are of no use on it; [`BatchView::size`] is.
    pub fn header(bytes: &'a [u8]) -> Result<Self, RecordsError> {
        let size = Self::size_in(bytes)?.ok_or(RecordsError::Incomplete)?;
        let magic = *bytes.get(MAGIC).ok_or(RecordsError::Incomplete)?;
        if magic != 2 {
            return Err(RecordsError::Magic(magic as i8));
        }
        if size < HEADER_LEN {
            return Err(RecordsError::corrupt(format!(
                "a record batch of {size} bytes is too small"
            )));
        }
        bytes.get(..HEADER_LEN).map(|bytes| Self { bytes }).ok_or(RecordsError::Incomplete)
    }

    /// The size that the batch at the start of `bytes` says it has; `None` with fewer than 12 bytes.
    pub fn size_in(bytes: &[u8]) -> Result<Option<usize>, RecordsError> {
        if bytes.len() < LOG_OVERHEAD {
            return Ok(None);
        }
        let length = i32::from_be_bytes(array(bytes, LENGTH));
        // The smallest counted part of any magic: Kafka's LegacyRecord.RECORD_OVERHEAD_V0.
        if length < 14 {
            return Err(RecordsError::corrupt(format!("a record of {length} bytes is too small")));
        }
        Ok(Some(length as usize + LOG_OVERHEAD))
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
    /// Bytes of the whole batch, header included.
    pub fn size(&self) -> usize {
        i32::from_be_bytes(array(self.bytes, LENGTH)) as usize + LOG_OVERHEAD
    }
    pub fn base_offset(&self) -> Offset {
        i64::from_be_bytes(array(self.bytes, BASE_OFFSET))
    }
    pub fn last_offset_delta(&self) -> i32 {
        i32::from_be_bytes(array(self.bytes, LAST_OFFSET_DELTA))
    }
    pub fn last_offset(&self) -> Offset {
        self.base_offset().wrapping_add(i64::from(self.last_offset_delta()))
    }
    pub fn next_offset(&self) -> Offset {
        self.last_offset().wrapping_add(1)
    }
    pub fn leader_epoch(&self) -> LeaderEpoch {
        i32::from_be_bytes(array(self.bytes, LEADER_EPOCH))
    }
    pub fn crc(&self) -> u32 {
        u32::from_be_bytes(array(self.bytes, CRC))
    }
    pub fn attributes(&self) -> i16 {
        i16::from_be_bytes(array(self.bytes, ATTRIBUTES))
    }
    pub fn base_timestamp(&self) -> Millis {
        i64::from_be_bytes(array(self.bytes, BASE_TIMESTAMP))
    }
    pub fn max_timestamp(&self) -> Millis {
        i64::from_be_bytes(array(self.bytes, MAX_TIMESTAMP))
    }
    pub fn producer_id(&self) -> i64 {
        i64::from_be_bytes(array(self.bytes, PRODUCER_ID))
    }
    pub fn has_producer_id(&self) -> bool {
        self.producer_id() > NO_PRODUCER_ID
    }
    pub fn producer_epoch(&self) -> i16 {
        i16::from_be_bytes(array(self.bytes, PRODUCER_EPOCH))
    }
    pub fn base_sequence(&self) -> i32 {
        i32::from_be_bytes(array(self.bytes, BASE_SEQUENCE))
    }
    /// The sequence of the last record; sequences wrap from the largest int32 to 0.
    pub fn last_sequence(&self) -> i32 {
        let base = self.base_sequence();
        if base < 0 { base } else { add_sequence(base, self.last_offset_delta()) }
    }
    /// As the header says; negative only before [`BatchView::check`].
    pub fn count(&self) -> i32 {
        i32::from_be_bytes(array(self.bytes, COUNT))
    }
    pub fn compression_id(&self) -> u8 {
        (self.attributes() & COMPRESSION_MASK) as u8
    }
    pub fn compression(&self) -> Result<Compression, RecordsError> {
        Compression::from_id(self.compression_id())
    }
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes() & TIMESTAMP_TYPE == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }
    pub fn is_transactional(&self) -> bool {
        self.attributes() & TRANSACTIONAL != 0
    }
    pub fn is_control(&self) -> bool {
        self.attributes() & CONTROL != 0
    }
    /// Whether the base timestamp is a delete horizon, which only the cleaner sets (KIP-534).
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes() & DELETE_HORIZON != 0
    }
    /// What lies after the header, compressed or not.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER_LEN..]
    }

    pub fn crc_is_right(&self) -> bool {
        crc32c(&self.bytes[ATTRIBUTES..]) == self.crc()
    }

    /// What every batch must satisfy, whoever wrote it: CRC, known compression, sane counts.
    pub fn check(&self) -> Result<(), RecordsError> {
        if !self.crc_is_right() {
            return Err(RecordsError::corrupt(format!(
                "record batch is corrupt (stored crc = {}, computed crc = {})",
                self.crc(),
                crc32c(&self.bytes[ATTRIBUTES..])
            )));
        }
        self.compression()?;
        if self.last_offset_delta() < 0 || self.base_offset() < 0 || self.last_offset() < 0 {
            return Err(RecordsError::invalid(format!(
                "batch has an invalid offset range: [{}, {}]",
                self.base_offset(),
                self.last_offset()
            )));
        }
        if self.count() < 0 {
            return Err(RecordsError::invalid(format!("batch has {} records", self.count())));
        }
        Ok(())
    }

    /// What a batch from a client must satisfy beyond [`BatchView::check`]. The records are walked
    /// over, and summed up, only when they are not compressed.
    pub fn check_from_client(&self) -> Result<Option<Summary>, RecordsError> {
        if self.base_offset() != 0 {
            return Err(RecordsError::invalid(format!(
                "the base offset of a produced batch should be 0, but it is {}",
                self.base_offset()
            )));
        }
        self.check()?;
        let from_offsets = i64::from(self.last_offset_delta()) + 1;
        if self.count() <= 0 || from_offsets != i64::from(self.count()) {
            return Err(RecordsError::invalid(format!(
                "inconsistent batch: offsets for {from_offsets} records, count {}",
                self.count()
            )));
        }
        if self.is_control() {
            return Err(RecordsError::invalid("clients are not allowed to write control records"));
        }
        if self.has_producer_id() && self.base_sequence() < 0 {
            return Err(RecordsError::invalid(format!(
                "invalid sequence number {} of producer {}",
                self.base_sequence(),
                self.producer_id()
            )));
        }
        if self.compression_id() == 0 { self.records(0)?.summary().map(Some) } else { Ok(None) }
    }

    /// The records, decompressed to at most `max_decompressed` bytes when they are compressed.
    pub fn records(&self, max_decompressed: usize) -> Result<Records<'a>, RecordsError> {
        Records::of(self, max_decompressed)
    }
}

/// `base + n` in the ring of sequence numbers.
pub fn add_sequence(base: i32, n: i32) -> i32 {
    let sum = i64::from(base) + i64::from(n);
    (if sum > i64::from(i32::MAX) { sum - (1 << 31) } else { sum }) as i32
}

/// Walks over batches that lie one after the other. Ends after the first error; bytes that do not
/// make up a whole batch at the end are the error [`RecordsError::Incomplete`].
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Batches<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
    /// What has not been walked over yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The bytes at the start of `bytes` that make up whole batches; a cut-off last one is left out.
    pub fn whole(bytes: &[u8]) -> Result<usize, RecordsError> {
        let mut length = 0;
        for batch in Batches::new(bytes) {
            match batch {
                Ok(batch) => length += batch.size(),
                Err(RecordsError::Incomplete) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(length)
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<BatchView<'a>, RecordsError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = BatchView::first(self.rest);
        self.rest = match &batch {
            Ok(batch) => &self.rest[batch.size()..],
            Err(_) => &[],
        };
        Some(batch)
    }
}

/// One batch that may be patched. Offset and leader epoch are outside the CRC.
pub struct BatchMut<'a> {
    bytes: &'a mut [u8],
}

impl<'a> BatchMut<'a> {
    pub fn first(bytes: &'a mut [u8]) -> Result<Self, RecordsError> {
        let size = BatchView::first(bytes)?.size();
        Ok(Self { bytes: &mut bytes[..size] })
    }
    pub fn view(&self) -> BatchView<'_> {
        BatchView { bytes: self.bytes }
    }
    pub fn set_base_offset(&mut self, offset: Offset) {
        self.put(BASE_OFFSET, &offset.to_be_bytes());
    }
    pub fn set_leader_epoch(&mut self, epoch: LeaderEpoch) {
        self.put(LEADER_EPOCH, &epoch.to_be_bytes());
    }
    /// Marks the batch as LogAppendTime with this time; the CRC is computed anew.
    pub fn set_append_time(&mut self, now: Millis) {
        let attributes = self.view().attributes() | TIMESTAMP_TYPE;
        self.put(ATTRIBUTES, &attributes.to_be_bytes());
        self.put(MAX_TIMESTAMP, &now.to_be_bytes());
        self.renew_crc();
    }
    /// Corrects the largest timestamp; the CRC is computed anew.
    pub fn set_max_timestamp(&mut self, time: Millis) {
        self.put(MAX_TIMESTAMP, &time.to_be_bytes());
        self.renew_crc();
    }
    fn renew_crc(&mut self) {
        let crc = crc32c(&self.bytes[ATTRIBUTES..]);
        self.put(CRC, &crc.to_be_bytes());
    }
    fn put(&mut self, at: usize, value: &[u8]) {
        self.bytes[at..at + value.len()].copy_from_slice(value);
    }
}
