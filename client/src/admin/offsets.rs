//! Offsets in partitions: where they start and end, and moving the start.

use std::collections::BTreeMap;

use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, DeleteRecordsRequest, ListOffsetsRequest};

use super::{Admin, OffsetSpec};
use crate::client::Backoff;
use crate::names::topic_name;
use crate::{Error, Result, TopicPartition};

/// An offset and the timestamp of its record, where the question was about time.
pub type FoundOffset = (i64, i64);
type Outcome<T> = BTreeMap<TopicPartition, Result<T>>;

impl Admin {
    /// Finds the offset that `asked` names in each partition. An offset of -1: there is none.
    pub async fn list_offsets(
        &self,
        asked: &BTreeMap<TopicPartition, OffsetSpec>,
    ) -> Result<Outcome<FoundOffset>> {
        let isolation = 0;
        self.each_leader(asked.keys().cloned().collect(), async |leader, partitions| {
            let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
            for at in partitions {
                let spec = asked.get(at).copied().unwrap_or(OffsetSpec::Latest);
                topics.entry(&at.topic).or_default().push(
                    ListOffsetsPartition::default()
                        .with_partition_index(at.partition)
                        .with_current_leader_epoch(-1)
                        .with_timestamp(spec.number()),
                );
            }
            let topics = topics.into_iter().map(|(name, partitions)| {
                ListOffsetsTopic::default().with_name(topic_name(name)).with_partitions(partitions)
            });
            let request = ListOffsetsRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_isolation_level(isolation)
                .with_topics(topics.collect());
            let answer = self.client.to_broker(leader).await?.call(&request).await?;
            let mut found = BTreeMap::new();
            for topic in answer.topics {
                for one in topic.partitions {
                    let at = TopicPartition::new(topic.name.as_str(), one.partition_index);
                    found.insert(
                        at,
                        Error::check(one.error_code, None).map(|()| (one.offset, one.timestamp)),
                    );
                }
            }
            Ok(found)
        })
        .await
    }

    /// Deletes all records before an offset (-1: the high watermark); gives each partition's new start.
    pub async fn delete_records(
        &self,
        before: &BTreeMap<TopicPartition, i64>,
    ) -> Result<Outcome<i64>> {
        self.each_leader(before.keys().cloned().collect(), async |leader, partitions| {
            let mut topics: BTreeMap<&str, Vec<DeleteRecordsPartition>> = BTreeMap::new();
            for at in partitions {
                let offset = before.get(at).copied().unwrap_or(0);
                topics.entry(&at.topic).or_default().push(
                    DeleteRecordsPartition::default()
                        .with_partition_index(at.partition)
                        .with_offset(offset),
                );
            }
            let topics = topics.into_iter().map(|(name, partitions)| {
                DeleteRecordsTopic::default()
                    .with_name(topic_name(name))
                    .with_partitions(partitions)
            });
            let request = DeleteRecordsRequest::default()
                .with_topics(topics.collect())
                .with_timeout_ms(30_000);
            let answer = self.client.to_broker(leader).await?.call(&request).await?;
            let mut done = BTreeMap::new();
            for topic in answer.topics {
                for one in topic.partitions {
                    let at = TopicPartition::new(topic.name.as_str(), one.partition_index);
                    done.insert(at, Error::check(one.error_code, None).map(|()| one.low_watermark));
                }
            }
            Ok(done)
        })
        .await
    }

    /// Asks the leader of each partition, and again where leadership moved, until the API timeout.
    pub(super) async fn each_leader<T: Clone>(
        &self,
        mut open: Vec<TopicPartition>,
        ask: impl AsyncFn(i32, &[TopicPartition]) -> Result<Outcome<T>>,
    ) -> Result<Outcome<T>> {
        let mut done = Outcome::new();
        let mut backoff = Backoff::until(self.client.options().api_timeout);
        loop {
            let mut failed = Vec::new();
            let (by_leader, without) = self.client.leaders(&open).await?;
            failed.extend(without);
            for (leader, partitions) in by_leader {
                match ask(leader, &partitions).await {
                    Ok(answers) => {
                        for (at, answer) in answers {
                            match answer {
                                Err(error) => failed.push((at, error)),
                                answer => drop(done.insert(at, answer)),
                            }
                        }
                    }
                    Err(error) => {
                        failed.extend(partitions.into_iter().map(|at| (at, error.clone())));
                    }
                }
            }
            let again = failed.iter().any(|(_, error)| error.is_retriable());
            if failed.is_empty() || !again || !backoff.wait().await {
                done.extend(failed.into_iter().map(|(at, error)| (at, Err(error))));
                return Ok(done);
            }
            open.clear();
            for (at, error) in failed {
                if error.is_retriable() {
                    self.client.forget_leader(&at);
                    open.push(at);
                } else {
                    done.insert(at, Err(error));
                }
            }
        }
    }
}
