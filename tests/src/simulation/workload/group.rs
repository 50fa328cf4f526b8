//! A group that commits one offset after the other, deletes them now and then, and must never find
//! anything but what was acknowledged last.

use std::io;
use std::time::Duration;

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    GroupId, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::coordinators::OF_GROUPS;
use super::{RETRY, World, name, now_ms, text};
use crate::simulation::wire::Connection;

const GROUP: &str = "group";
/// As an offset: there is none.
const DELETED: i64 = -1;

impl World {
    pub(super) async fn commit_offsets(self, end: Instant) {
        let mut random = self.random(GROUP);
        let mut connection = None;
        while Instant::now() < end {
            if connection.is_none() {
                connection = self.coordinator_of(GROUP, OF_GROUPS, &mut random).await.ok();
            }
            if let Some(open) = &mut connection
                && self.commit_and_look(open, &mut random).await.is_ok()
            {
                sleep(Duration::from_millis(random.random_range(10..300))).await;
                continue;
            }
            connection = None;
            sleep(RETRY).await;
        }
    }

    async fn commit_and_look(
        &self,
        connection: &mut Connection,
        random: &mut StdRng,
    ) -> io::Result<()> {
        let next = if random.random_bool(0.15) { DELETED } else { now_ms() };
        self.history.borrow_mut().commits.asked(next);
        if next == DELETED {
            self.delete(connection).await?;
        } else {
            self.commit(connection, next).await?;
        }
        self.trace.note(&format!("group committed {next}"));
        self.history.borrow_mut().commits.was_acknowledged(next);
        if random.random_bool(0.3) {
            let found = self.committed(connection).await?;
            self.judge(found);
        }
        Ok(())
    }

    fn judge(&self, found: i64) {
        let commits = self.history.borrow().commits.clone();
        let never = commits.acknowledged.is_none() && found == DELETED;
        if !never && !commits.allow(Some(&found)) {
            self.violate(format!(
                "lost: the group committed {:?} and has {found}",
                commits.acknowledged
            ));
        }
    }

    /// After the faults, too.
    pub(super) async fn check_group(
        &self,
        random: &mut StdRng,
        end: Instant,
    ) -> Result<(), String> {
        if self.history.borrow().commits.acknowledged.is_none() {
            return Ok(());
        }
        while Instant::now() < end {
            if let Ok(mut connection) = self.coordinator_of(GROUP, OF_GROUPS, random).await
                && let Ok(found) = self.committed(&mut connection).await
            {
                self.judge(found);
                return Ok(());
            }
            sleep(RETRY).await;
        }
        Err("stuck: the group has no coordinator after the last fault".to_owned())
    }

    async fn commit(&self, connection: &mut Connection, offset: i64) -> io::Result<()> {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(offset);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(name(&self.scenario.topics[0].name))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        let answer = connection.call(&request, 7).await?;
        let partition = answer.topics.first().and_then(|topic| topic.partitions.first());
        match partition.map_or(-1, |partition| partition.error_code) {
            0 => Ok(()),
            code => Err(io::Error::other(format!("commit refused: {code}"))),
        }
    }

    async fn delete(&self, connection: &mut Connection) -> io::Result<()> {
        let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
        let topic = OffsetDeleteRequestTopic::default()
            .with_name(name(&self.scenario.topics[0].name))
            .with_partitions(vec![partition]);
        let request = OffsetDeleteRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_topics(vec![topic]);
        let answer = connection.call(&request, 0).await?;
        let partition = answer.topics.first().and_then(|topic| topic.partitions.first());
        match (answer.error_code, partition.map_or(-1, |partition| partition.error_code)) {
            (0, 0) => Ok(()),
            codes => Err(io::Error::other(format!("delete refused: {codes:?}"))),
        }
    }

    async fn committed(&self, connection: &mut Connection) -> io::Result<i64> {
        let topic = OffsetFetchRequestTopic::default()
            .with_name(name(&self.scenario.topics[0].name))
            .with_partition_indexes(vec![0]);
        let request = OffsetFetchRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_topics(Some(vec![topic]));
        let answer = connection.call(&request, 6).await?;
        let partition = answer.topics.first().and_then(|topic| topic.partitions.first());
        match partition {
            Some(partition) if answer.error_code == 0 && partition.error_code == 0 => {
                Ok(partition.committed_offset)
            }
            _ => Err(io::Error::other(format!("fetch refused: {}", answer.error_code))),
        }
    }
}
