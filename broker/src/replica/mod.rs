//! Partitions as leader and follower, fetchers, parked requests.

pub mod sessions;
