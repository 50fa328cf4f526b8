//! Internal topics as their coordinators see them.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use super::partition::Partition;
use super::partitions::{LeadershipListener, Partitions};
use crate::coordinator::runtime::{Appended, Coordinator, CoordinatorShard, Sink, StateLog};
use crate::env::planted;
use crate::error::{ErrorCode, Refusal};
use crate::log::Appending;
use crate::types::{LeaderEpoch, TopicPartition};

/// What is read at once while a partition is loaded: offsets.load.buffer.size has this order.
const LOAD_BYTES: usize = 5 << 20;

impl Partitions {
    fn led(
        &self,
        topic: &str,
        partition: i32,
        epoch: LeaderEpoch,
    ) -> Result<Arc<Partition>, Refusal> {
        let found = self.as_leader(topic, partition, epoch);
        // To the coordinator another epoch means that another leads, or will.
        found.map_err(|_| ErrorCode::NotLeaderOrFollower.into())
    }
}

#[async_trait]
impl StateLog for Partitions {
    async fn load(
        &self,
        topic: &str,
        partition: i32,
        epoch: LeaderEpoch,
        sink: Sink<'_>,
    ) -> Result<(), Refusal> {
        let partition = self.led(topic, partition, epoch)?;
        let end = partition.log().end_offset();
        let mut from = partition.log().start_offset();
        while from < end {
            let log = partition.log();
            let read = move || log.read_cold(from, LOAD_BYTES, end, true);
            let bytes = self.context.env.blocking(read).await?;
            let last = crate::wire::records::Batches::new(&bytes).map_while(Result::ok).last();
            let Some(next) = last.map(|batch| batch.next_offset()) else { break };
            from = next;
            sink(bytes);
        }
        wait_for(&partition, end, epoch).await.map_err(Refusal::from)
    }

    fn append(
        &self,
        topic: &str,
        partition: i32,
        epoch: LeaderEpoch,
        batch: Bytes,
        appending: Appending,
    ) -> Result<Appended, Refusal> {
        let partition = self.led(topic, partition, epoch)?;
        let ticket = partition.append(batch, true, epoch, appending)?;
        let base = ticket.appended.first_offset;
        if planted!(OffsetsAcknowledgedBeforeCommit) {
            return Ok(Appended { base, committed: Box::pin(async { Ok(()) }) });
        }
        let committed = Box::pin(async move { ticket.committed().await.map_err(Refusal::from) });
        Ok(Appended { base, committed })
    }
}

/// Until all below `end` is committed.
async fn wait_for(partition: &Partition, end: i64, epoch: LeaderEpoch) -> Result<(), ErrorCode> {
    let waiter = Arc::new(Notify::new());
    loop {
        partition.on_commit.add(&waiter);
        match partition.committed(end, epoch) {
            // It is committed; too few replicas now does not make it less so.
            Some(Err(ErrorCode::NotEnoughReplicasAfterAppend)) => return Ok(()),
            Some(outcome) => return outcome,
            None => waiter.notified().await,
        }
    }
}

impl<S: CoordinatorShard> LeadershipListener for Coordinator<S> {
    fn on_leadership(&self, gained: &[(TopicPartition, LeaderEpoch)], lost: &[TopicPartition]) {
        let ours = |id: &&TopicPartition| &*id.topic == S::TOPIC;
        let gained: Vec<_> = gained
            .iter()
            .filter(|(id, _)| ours(&id))
            .map(|(id, epoch)| (id.partition, *epoch))
            .collect();
        let lost: Vec<_> = lost.iter().filter(ours).map(|id| id.partition).collect();
        if !gained.is_empty() || !lost.is_empty() {
            Self::on_leadership(self, gained, lost);
        }
    }
}
