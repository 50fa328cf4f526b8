//! What can go wrong between a client and a cluster, by what the caller can do about it.

use std::time::Duration;

use kafka_protocol::error::ParseResponseErrorCode;

/// A Kafka error code; `.code()` gives its number.
pub type ErrorCode = kafka_protocol::error::ResponseError;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A broker answered with an error code, with its own words where it sent some.
    #[error("{message}")]
    Kafka { code: ErrorCode, message: String },
    /// No connection, or it broke. Retrying may help, once the address is right and the broker is up.
    #[error("cannot reach {address}: {reason}")]
    Connection { address: String, reason: String },
    /// The cluster did not answer in time.
    #[error("timed out after {} ms: {what}", after.as_millis())]
    Timeout { what: String, after: Duration },
    /// The peer speaks something else, or a version that we do not.
    #[error("{0}")]
    Protocol(String),
    /// The caller asked for something impossible; nothing was sent.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// The error for `code`, if it is one. The broker's words win over the general description.
    pub(crate) fn check(code: i16, message: Option<&str>) -> Result<()> {
        match code.err() {
            None => Ok(()),
            Some(code) => Err(Self::kafka(code, message)),
        }
    }

    pub(crate) fn kafka(code: ErrorCode, message: Option<&str>) -> Self {
        let message = match message {
            Some(words) if !words.is_empty() => words.to_owned(),
            _ => crate::text::describe_error(code),
        };
        Self::Kafka { code, message }
    }

    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Kafka { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the same request may succeed later, with fresh metadata.
    pub fn is_retriable(&self) -> bool {
        match self {
            // The last transaction is still being ended: our message library takes it for fatal.
            Self::Kafka { code, .. } => {
                *code == ErrorCode::ConcurrentTransactions || code.is_retriable()
            }
            Self::Connection { .. } | Self::Timeout { .. } => true,
            Self::Protocol(_) | Self::Invalid(_) => false,
        }
    }
}
