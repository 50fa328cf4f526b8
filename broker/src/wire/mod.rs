//! Bytes: request headers, bounds-checked decoding, record batches, metadata records.

pub mod message;
pub mod metadata;
pub mod records;
