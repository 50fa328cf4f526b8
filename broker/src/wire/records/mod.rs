//! Record batches (magic 2) as they lie in a request, in a segment file and in a fetch response.
//!
//! A batch is looked at in place: [`BatchView`] borrows the bytes, [`Batches`] walks over several
//! batches, [`BatchMut`] patches what a broker may change. Records inside are decoded, and a
//! compressed batch is opened, only when somebody asks ([`BatchView::records`]). [`BatchBuilder`]
//! makes the batches that this broker itself writes.
//!
//! Invariants: a `BatchView` exists only over bytes whose length fields agree with each other, so
//! that its accessors cannot fail; no length from outside is used for an allocation before it was
//! held against the bytes that are there; decompression stops at a given bound.
//!
//! Deliberately absent: magic 0 and 1, which Kafka 4 neither accepts nor writes any more.

mod batch;
mod builder;
mod compression;
mod record;
mod rewrite;
#[cfg(test)]
mod tests;

pub use batch::{BatchMut, BatchView, Batches, HEADER_LEN, LOG_OVERHEAD, TimestampType};
pub use builder::{BatchBuilder, NewRecord, recompress};
pub use compression::Compression;
pub use record::{ControlKind, EndTransactionMarker, Header, Record, Records, Summary};
pub use rewrite::RawRecord;

use crate::error::{ErrorCode, Refusal};

pub const NO_PRODUCER_ID: i64 = -1;
pub const NO_PRODUCER_EPOCH: i16 = -1;
pub const NO_SEQUENCE: i32 = -1;
pub const NO_TIMESTAMP: i64 = -1;

/// What one batch may grow to when it is opened, unless the caller knows better.
pub const MAX_DECOMPRESSED: usize = 128 << 20;

/// Why bytes are not a sound record batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordsError {
    /// Fewer bytes than the batch says it has: at the end of a fetch or of a torn file, nothing wrong.
    #[error("the batch is cut off")]
    Incomplete,
    #[error("{0}")]
    Corrupt(String),
    #[error("{0}")]
    Invalid(String),
    #[error("record batches of magic {0} are not supported, only magic 2")]
    Magic(i8),
    #[error("unknown compression type {0}")]
    Compression(u8),
    #[error("the batch is larger than {0} bytes when it is decompressed")]
    TooLarge(usize),
}

impl RecordsError {
    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt(what.into())
    }
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid(what.into())
    }

    /// The error code with which Kafka answers a produce request that holds such bytes.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Incomplete | Self::Corrupt(_) | Self::Compression(_) => ErrorCode::CorruptMessage,
            // Kafka knows the magics up to 2 and takes others for noise.
            Self::Magic(magic) if !(0..=2).contains(magic) => ErrorCode::CorruptMessage,
            Self::Invalid(_) | Self::Magic(_) | Self::TooLarge(_) => ErrorCode::InvalidRecord,
        }
    }
}

impl From<RecordsError> for Refusal {
    fn from(error: RecordsError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// CRC-32C (Castagnoli), as batches and producer snapshots carry it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}
