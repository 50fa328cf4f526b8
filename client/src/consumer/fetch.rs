//! Fetching: one long poll per broker at a time, decoded into the consumer's buffer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest};
use tokio::time::Instant;

use super::{Consumer, ConsumerOptions, Isolation};
use crate::names::topic_name;
use crate::records::{Aborted, decode};
use crate::{Client, Error, ErrorCode, Result, TopicPartition};

/// The answer of one broker, with the offsets that were asked.
pub(super) struct Fetched {
    leader: i32,
    asked: BTreeMap<TopicPartition, i64>,
    answer: Result<Vec<(TopicPartition, PartitionData)>>,
}

impl Consumer {
    /// Starts a fetch at each broker that leads partitions with a position and has none under way.
    pub(super) async fn start_fetches(&mut self) -> Result<()> {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        self.retry_at = None;
        let wanted: Vec<TopicPartition> = self
            .positions
            .iter()
            .filter(|(_, offset)| offset.is_some())
            .map(|(at, _)| at.clone())
            .collect();
        let (by_leader, without) = match self.client.leaders(&wanted).await {
            Ok(found) => found,
            Err(error) if error.is_retriable() => {
                self.retry_later();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if !without.is_empty() {
            self.retry_later();
        }
        for (leader, partitions) in by_leader {
            if !self.fetching.insert(leader) {
                continue;
            }
            let asked: BTreeMap<TopicPartition, i64> = partitions
                .into_iter()
                .filter_map(|at| Some((at.clone(), self.position(&at)?)))
                .collect();
            let (client, options) = (self.client.clone(), self.options.clone());
            self.fetches.push(Box::pin(async move {
                let answer = fetch(&client, &options, leader, &asked).await;
                Fetched { leader, asked, answer }
            }));
        }
        Ok(())
    }

    /// Waits for one fetch, a call to rebalance, or the deadline.
    pub(super) async fn await_fetch(&mut self, deadline: Instant) -> Result<()> {
        let mut until = deadline;
        if let Some(retry) = self.retry_at {
            until = until.min(retry);
        }
        if self.options.auto_commit && self.options.group.is_some() {
            until = until.min(self.next_commit);
        }
        let rejoin = self.membership.as_ref().map(super::group::Membership::rejoin_signal);
        let rejoin = async {
            match rejoin {
                Some(signal) => signal.notified().await,
                None => std::future::pending().await,
            }
        };
        let fetched = tokio::select! {
            biased;
            Some(fetched) = self.fetches.next(), if !self.fetches.is_empty() => Some(fetched),
            () = rejoin => None,
            () = tokio::time::sleep_until(until) => None,
        };
        match fetched {
            Some(fetched) => self.on_fetched(fetched).await,
            None => Ok(()),
        }
    }

    async fn on_fetched(&mut self, fetched: Fetched) -> Result<()> {
        self.fetching.remove(&fetched.leader);
        let answers = match fetched.answer {
            Ok(answers) => answers,
            Err(error) if error.is_retriable() => {
                fetched.asked.keys().for_each(|at| self.client.forget_leader(at));
                self.retry_later();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for (at, data) in answers {
            // An answer to a question that no longer stands: the partition went, or its position moved.
            let Some(&from) =
                fetched.asked.get(&at).filter(|from| self.position(&at) == Some(**from))
            else {
                continue;
            };
            self.on_partition(at, from, data).await?;
        }
        Ok(())
    }

    async fn on_partition(
        &mut self,
        at: TopicPartition,
        from: i64,
        data: PartitionData,
    ) -> Result<()> {
        match ErrorCode::try_from_code(data.error_code) {
            None => {}
            Some(ErrorCode::OffsetOutOfRange) => {
                let spec = self.reset_spec(&at)?;
                return self.look_up(BTreeMap::from([(at, spec)])).await;
            }
            Some(code) if code.is_retriable() => {
                self.client.forget_leader(&at);
                self.retry_later();
                return Ok(());
            }
            Some(code) => {
                return Err(Error::kafka(code, Some(&format!("cannot fetch from {at}: {code:?}"))));
            }
        }
        let Some(bytes) = data.records.filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        let aborted: Vec<Aborted> = match self.options.isolation {
            Isolation::ReadUncommitted => Vec::new(),
            Isolation::ReadCommitted => data
                .aborted_transactions
                .unwrap_or_default()
                .iter()
                .map(|one| Aborted {
                    producer_id: one.producer_id.0,
                    first_offset: one.first_offset,
                })
                .collect(),
        };
        let decoded = decode(&bytes, from, &aborted)?;
        if decoded.records.is_empty() {
            self.positions.insert(at, Some(decoded.next_offset));
        } else {
            self.buffered.push_back((at, decoded.records.into(), decoded.next_offset));
        }
        Ok(())
    }
}

async fn fetch(
    client: &Client,
    options: &ConsumerOptions,
    leader: i32,
    asked: &BTreeMap<TopicPartition, i64>,
) -> Result<Vec<(TopicPartition, PartitionData)>> {
    let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
    for (at, offset) in asked {
        topics.entry(&at.topic).or_default().push(
            FetchPartition::default()
                .with_partition(at.partition)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(*offset)
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                .with_partition_max_bytes(options.max_partition_fetch_bytes),
        );
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        FetchTopic::default().with_topic(topic_name(name)).with_partitions(partitions)
    });
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(options.fetch_max_wait.as_millis() as i32)
        .with_min_bytes(options.fetch_min_bytes)
        .with_max_bytes(options.fetch_max_bytes)
        .with_isolation_level(i8::from(options.isolation == Isolation::ReadCommitted))
        .with_session_id(0)
        .with_session_epoch(-1) // no session
        .with_topics(topics.collect());
    let timeout =
        client.options().request_timeout.max(options.fetch_max_wait + Duration::from_secs(5));
    let answer =
        client.to_broker(leader).await?.send_for(&request, timeout).await?.answer().await?;
    Error::check(answer.error_code, None)?;
    let mut all = Vec::new();
    for topic in answer.responses {
        let name: Arc<str> = topic.topic.as_str().into();
        for partition in topic.partitions {
            all.push((TopicPartition::new(name.clone(), partition.partition_index), partition));
        }
    }
    Ok(all)
}
