//! Planted bugs of partitions, for simulation builds only: see `env::simulated::Bug`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::partition::{ANY_EPOCH, Partition};
use super::ticket::Ticket;
use crate::env::simulated::{Bug, planted};
use crate::env::{self, Env};
use crate::log::{Appended, Origin};
use crate::types::{LeaderEpoch, Offset};

/// How long a batch that was acknowledged too early stays in memory.
const DELAY: Duration = Duration::from_millis(20);

/// With [`Bug::AcknowledgeBeforeAppend`]: a ticket that is committed already, for records that are
/// appended a little later.
pub fn acknowledged_before_append(
    partition: &Arc<Partition>,
    env: &Env,
    batches: &Bytes,
    epoch: LeaderEpoch,
) -> Option<Ticket> {
    if !planted(Bug::AcknowledgeBeforeAppend) {
        return None;
    }
    let (late, batches, clock) = (partition.clone(), batches.clone(), env.clock.clone());
    env::spawn(async move {
        clock.sleep(DELAY).await;
        // The producer has its answer: nobody is left who could hear of a refusal.
        let _ = late.append(batches, true, ANY_EPOCH, Origin::Coordinator);
    });
    let appended = Appended {
        first_offset: partition.log().end_offset(),
        last_offset: -1,
        append_time: -1,
        start_offset: partition.log().start_offset(),
        max_timestamp: -1,
        bytes: 0,
        records: 0,
        duplicate: false,
    };
    Some(Ticket::new(partition.clone(), epoch, appended))
}

/// With [`Bug::DuplicateAcknowledgedAtOnce`]: a ticket for what the log has already, which waits for
/// nothing.
pub fn acknowledged_at_once(
    partition: &Arc<Partition>,
    epoch: LeaderEpoch,
    appended: Appended,
) -> Option<Ticket> {
    let duplicate = appended.duplicate && planted(Bug::DuplicateAcknowledgedAtOnce);
    if !duplicate && !planted(Bug::AcknowledgeBeforeReplication) {
        return None;
    }
    let at_once = Appended { last_offset: -1, ..appended };
    Some(Ticket::new(partition.clone(), epoch, at_once))
}

/// With [`Bug::TruncateToHighWatermark`]: what a replica does that begins to follow.
pub fn truncate_to_high_watermark(partition: &Partition, high_watermark: Offset) {
    if planted(Bug::TruncateToHighWatermark) {
        // A failure takes the log directory offline; there is nobody to tell here.
        let _ = partition.log().truncate_to(high_watermark);
    }
}
