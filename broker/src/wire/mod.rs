//! Bytes: request headers, bounds-checked decoding, record batches, metadata records,
//! requests that `kafka-protocol` does not know.

pub mod bounds;
mod chunks;
pub mod fetch_response;
pub mod header;
pub mod key;
pub mod message;
pub mod metadata;
pub mod records;
pub mod schema;
pub mod share;
pub mod share_fetch_response;
pub mod streams;
pub mod txn_markers;
