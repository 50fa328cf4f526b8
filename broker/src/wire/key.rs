//! API keys: those of `kafka-protocol`, and those of Kafka 4.3.1 that it does not know.

use std::fmt;

use kafka_protocol::messages::ApiKey;

use super::{bounds, schema};

/// Names an API.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(i16);

impl Key {
    pub const STREAMS_GROUP_HEARTBEAT: Self = Self(88);
    pub const STREAMS_GROUP_DESCRIBE: Self = Self(89);

    pub const fn of(key: ApiKey) -> Self {
        Self(key as i16)
    }

    pub const fn number(self) -> i16 {
        self.0
    }

    /// As `kafka-protocol` names it; `None` when it does not know the API.
    pub fn known(self) -> Option<ApiKey> {
        ApiKey::try_from(self.0).ok()
    }

    pub fn request_header_version(self, version: i16) -> i16 {
        match self.known() {
            Some(key) => key.request_header_version(version),
            None => 1 + i16::from(bounds::has_flexible_header(self.0, version)),
        }
    }

    pub fn response_header_version(self, version: i16) -> i16 {
        match self.known() {
            Some(key) => key.response_header_version(version),
            None => i16::from(bounds::has_flexible_header(self.0, version)),
        }
    }
}

impl From<ApiKey> for Key {
    fn from(key: ApiKey) -> Self {
        Self::of(key)
    }
}

impl PartialEq<ApiKey> for Key {
    fn eq(&self, other: &ApiKey) -> bool {
        self.0 == *other as i16
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.known(), schema::request(self.0)) {
            (Some(key), _) => key.fmt(f),
            (None, Some(request)) => f.write_str(request.name.trim_end_matches("Request")),
            (None, None) => write!(f, "API {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_as_in_kafka_whoever_knows_it() {
        assert_eq!(format!("{:?}", Key::of(ApiKey::Fetch)), "Fetch");
        assert_eq!(format!("{:?}", Key::STREAMS_GROUP_HEARTBEAT), "StreamsGroupHeartbeat");
        assert_eq!(Key::STREAMS_GROUP_DESCRIBE.response_header_version(0), 1);
        assert_eq!(Key::STREAMS_GROUP_DESCRIBE.request_header_version(0), 2);
        assert_eq!(Key::of(ApiKey::ApiVersions).response_header_version(4), 0);
    }
}
