//! An append that waits for its acknowledgement.

use std::sync::Arc;

use tokio::sync::Notify;

use super::partition::Partition;
use crate::error::ErrorCode;
use crate::log::Appended;
use crate::types::{LeaderEpoch, Offset};

/// Records in the leader's log, and what it takes to call them committed.
pub struct Ticket {
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    pub appended: Appended,
}

impl Ticket {
    pub(super) fn new(partition: Arc<Partition>, epoch: LeaderEpoch, appended: Appended) -> Self {
        Self { partition, epoch, appended }
    }

    /// The high watermark that commits these records.
    fn required(&self) -> Offset {
        self.appended.last_offset + 1
    }

    /// Returns once all in-sync replicas hold the records durably. NOT_LEADER_OR_FOLLOWER when the
    /// leadership went first: nobody knows then what became of them.
    pub async fn committed(&self) -> Result<(), ErrorCode> {
        let waiter = Arc::new(Notify::new());
        loop {
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
            self.partition.on_commit.add(&waiter);
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
            waiter.notified().await;
        }
    }

    fn outcome(&self) -> Option<Result<(), ErrorCode>> {
        self.partition.committed(self.required(), self.epoch)
    }
}
