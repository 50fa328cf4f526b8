//! Who coordinates a group or a transactional id.

use std::io;

use kafka_protocol::messages::FindCoordinatorRequest;
use ottla_broker::coordinator::runtime::partition_of;
use rand::rngs::StdRng;

use super::{World, text};
use crate::simulation::scenario::{OFFSETS, PORT};
use crate::simulation::wire::Connection;

/// Kinds of coordinators, as FindCoordinator has them.
pub(super) const OF_GROUPS: i8 = 0;
pub(super) const OF_TRANSACTIONS: i8 = 1;

impl World {
    /// The coordinator of a group, or of a transactional id.
    pub(super) async fn coordinator_of(
        &self,
        key: &str,
        kind: i8,
        random: &mut StdRng,
    ) -> io::Result<Connection> {
        let request = FindCoordinatorRequest::default().with_key(text(key)).with_key_type(kind);
        let answer = self.any_connection(random).await?.call(&request, 3).await?;
        if answer.error_code != 0 {
            return Err(io::Error::other(format!("no coordinator: {}", answer.error_code)));
        }
        Connection::open(answer.host.as_str(), PORT).await
    }

    /// Whether the broker at `host` coordinates `group` by the newest metadata that any broker has.
    pub(super) fn coordinates(&self, group: &str, host: &str) -> bool {
        let partitions =
            self.newest_image().and_then(|it| Some(it.topic(OFFSETS)?.partitions.len()));
        self.leads(OFFSETS, partition_of(group, partitions.unwrap_or_default() as i32), host)
    }
}
