//! Errors by consequence: a [`Refusal`] goes to the client, a [`Fault`] concerns this broker.

use std::io;
use std::path::PathBuf;

pub use kafka_protocol::error::ResponseError as ErrorCode;

/// A request, or a part of one, that is answered with a Kafka error code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Refusal {
    pub code: ErrorCode,
    /// For people: what is wrong and what to do. Sent where the protocol has a place for it.
    pub message: String,
    /// Which records of a batch are at fault, by their index, where that is known.
    pub records: Vec<i32>,
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), records: Vec::new() }
    }

    #[must_use]
    pub fn of_records(self, records: Vec<i32>) -> Self {
        Self { records, ..self }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, code.to_string())
    }
}

/// The disk, or what we may use of it, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A failure of this broker's own: it takes the log directory, or the process, out of service.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("{path}: {source}", path = path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("{path}: corrupt: {what}", path = path.display())]
    Corrupt { path: PathBuf, what: String },
    #[error("{0}")]
    Start(String),
}

impl Fault {
    /// The disk is full, which may pass by itself.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Disk { source, .. } if is_full(source))
    }

    /// For `map_err` on an I/O error at `path`.
    pub fn disk(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk { path, source }
    }
}
