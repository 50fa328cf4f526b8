//! What transactions ask of a partition's leader: to begin a verification, and to end one.

use std::sync::Arc;

use super::{ANY_EPOCH, Partition, Role};
use crate::error::{ErrorCode, Refusal};
use crate::log::{Appending, Guard};
use crate::replica::ticket::Ticket;
use crate::wire::records::{BatchBuilder, EndTransactionMarker};

impl Partition {
    /// Ends a producer's transaction here, in the name of its coordinator.
    pub fn append_marker(
        self: &Arc<Self>,
        (producer_id, producer_epoch): (i64, i16),
        marker: EndTransactionMarker,
        transaction_version: i8,
    ) -> Result<Ticket, Refusal> {
        let now = self.context.env.clock.wall_ms();
        let batch = BatchBuilder::end_transaction(producer_id, producer_epoch, marker, now);
        self.append(batch, true, ANY_EPOCH, Appending::marker(transaction_version))
    }

    /// Begins to verify that a producer may write to a transaction here; the guard is to be shown
    /// with the append. `None`: there is nothing to verify.
    pub fn start_verification(
        &self,
        producer: (i64, i16),
        sequence: i32,
        supports_epoch_bump: bool,
    ) -> Result<Option<Guard>, Refusal> {
        let role = self.role.lock();
        if !matches!(*role, Role::Leader(_)) {
            return Err(ErrorCode::NotLeaderOrFollower.into());
        }
        let now = self.context.env.clock.wall_ms();
        self.log().start_verification(producer, sequence, supports_epoch_bump, now)
    }
}
