//! The consumer: records of assigned partitions, by hand or through a classic group.
//!
//! One owner calls `poll` in a loop. Fetches run ahead in the background of the calls, one per
//! broker; a heartbeat task keeps the membership alive between polls. A position moves when a
//! record is handed out, so a commit never covers a record that the caller has not seen.
//!
//! Deliberately absent: KIP-848 membership, incremental (cooperative) rebalancing, fetch sessions.

mod assignor;
mod fetch;
mod group;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::records::{Header, Record};
use crate::{Admin, Client, Error, ErrorCode, OffsetSpec, Result, TopicPartition};

pub use assignor::Assignor;

use fetch::Fetched;
use group::Membership;

/// Where to start without a committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetReset {
    Earliest,
    Latest,
    /// Refuse: the caller wants to know.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
}

/// Defaults are those of Kafka 4's consumer.
#[derive(Debug, Clone)]
pub struct ConsumerOptions {
    pub group: Option<String>,
    pub group_instance_id: Option<String>,
    pub offset_reset: OffsetReset,
    pub isolation: Isolation,
    pub fetch_max_wait: Duration,
    pub fetch_min_bytes: i32,
    pub fetch_max_bytes: i32,
    pub max_partition_fetch_bytes: i32,
    pub max_poll_records: usize,
    pub auto_commit: bool,
    pub auto_commit_interval: Duration,
    pub session_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub max_poll_interval: Duration,
    /// In order of preference.
    pub assignors: Vec<Assignor>,
    pub metadata_max_age: Duration,
    pub allow_auto_create_topics: bool,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            group: None,
            group_instance_id: None,
            offset_reset: OffsetReset::Latest,
            isolation: Isolation::ReadUncommitted,
            fetch_max_wait: Duration::from_millis(500),
            fetch_min_bytes: 1,
            fetch_max_bytes: 50 << 20,
            max_partition_fetch_bytes: 1 << 20,
            max_poll_records: 500,
            auto_commit: true,
            auto_commit_interval: Duration::from_secs(5),
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            max_poll_interval: Duration::from_mins(5),
            assignors: vec![Assignor::Range, Assignor::RoundRobin],
            metadata_max_age: Duration::from_mins(5),
            allow_auto_create_topics: true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRecord {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
    pub leader_epoch: i32,
    pub timestamp: i64,
    pub log_append_time: bool,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
}

/// Which topics a group member wants.
pub enum Subscription {
    Topics(Vec<String>),
    /// Every topic, internal ones left out, whose name passes.
    Matching(Box<dyn Fn(&str) -> bool + Send + Sync>),
}

pub struct Consumer {
    client: Client,
    options: Arc<ConsumerOptions>,
    /// `None` offset: still to be found.
    positions: BTreeMap<TopicPartition, Option<i64>>,
    /// Leader epoch of the last record handed out; goes into commits.
    epochs: BTreeMap<TopicPartition, i32>,
    buffered: VecDeque<(TopicPartition, VecDeque<Record>, i64)>,
    fetches: FuturesUnordered<BoxFuture<'static, Fetched>>,
    fetching: std::collections::BTreeSet<i32>,
    membership: Option<Membership>,
    next_commit: Instant,
    retry_at: Option<Instant>,
}

impl Consumer {
    pub fn new(client: Client, options: ConsumerOptions) -> Self {
        Self {
            client,
            next_commit: Instant::now() + options.auto_commit_interval,
            options: Arc::new(options),
            positions: BTreeMap::new(),
            epochs: BTreeMap::new(),
            buffered: VecDeque::new(),
            fetches: FuturesUnordered::new(),
            fetching: std::collections::BTreeSet::new(),
            membership: None,
            retry_at: None,
        }
    }

    /// Reads these partitions, whatever groups think of it. `None`: from the committed offset or the
    /// reset policy; a spec is looked up at the first poll.
    pub async fn assign(
        &mut self,
        partitions: Vec<(TopicPartition, Option<StartAt>)>,
    ) -> Result<()> {
        self.positions.clear();
        self.buffered.clear();
        let mut lookups = BTreeMap::new();
        for (at, start) in partitions {
            match start {
                Some(StartAt::Offset(offset)) => drop(self.positions.insert(at, Some(offset))),
                Some(StartAt::Spec(spec)) => drop(lookups.insert(at, spec)),
                None => drop(self.positions.insert(at, None)),
            }
        }
        if !lookups.is_empty() {
            for (at, found) in Admin::of(self.client.clone()).list_offsets(&lookups).await? {
                self.positions.insert(at, Some(found?.0));
            }
        }
        Ok(())
    }

    /// Joins the group of the options at the next poll.
    pub fn subscribe(&mut self, subscription: Subscription) -> Result<()> {
        let Some(group) = self.options.group.clone() else {
            return Err(Error::Invalid(
                "a group id is needed to subscribe; assign partitions to read without".into(),
            ));
        };
        self.membership =
            Some(Membership::new(self.client.clone(), self.options.clone(), group, subscription));
        Ok(())
    }

    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.positions.keys().cloned().collect()
    }

    /// The offset of the next record of `at`, when known.
    pub fn position(&self, at: &TopicPartition) -> Option<i64> {
        self.positions.get(at).copied().flatten()
    }

    /// Records, as soon as there are some; empty when `timeout` passes first.
    pub async fn poll(&mut self, timeout: Duration) -> Result<Vec<ConsumerRecord>> {
        let deadline = Instant::now() + timeout;
        loop {
            self.keep_membership(deadline).await?;
            self.auto_commit().await;
            if self.buffered.is_empty() {
                self.find_positions().await?;
                self.start_fetches().await?;
                self.await_fetch(deadline).await?;
            }
            let records = self.take_records();
            if !records.is_empty() || Instant::now() >= deadline {
                return Ok(records);
            }
        }
    }

    /// Sets positions back, so that a commit leaves out what was handed out but not used.
    pub fn rewind(&mut self, to: &BTreeMap<TopicPartition, i64>) {
        for (at, offset) in to {
            if let Some(position) = self.positions.get_mut(at) {
                *position = Some(*offset);
                self.buffered.retain(|(buffered, ..)| buffered != at);
            }
        }
    }

    async fn keep_membership(&mut self, deadline: Instant) -> Result<()> {
        let Some(mut membership) = self.membership.take() else { return Ok(()) };
        let result = self.rebalance_if_needed(&mut membership, deadline).await;
        self.membership = Some(membership);
        result
    }

    async fn rebalance_if_needed(
        &mut self,
        membership: &mut Membership,
        deadline: Instant,
    ) -> Result<()> {
        membership.polled();
        if !membership.needs_join().await? {
            return Ok(());
        }
        // Eager rebalancing: what was read is committed, then everything is given up until the new assignment.
        if self.options.auto_commit && membership.is_member() {
            let offsets = self.committable();
            if let Err(error) = membership.commit(&offsets, &self.epochs).await {
                tracing::warn!(%error, "could not commit before the rebalance");
            }
        }
        let Some(assigned) = membership.join(deadline).await? else { return Ok(()) };
        self.buffered.clear();
        self.positions = assigned.into_iter().map(|at| (at, None)).collect();
        Ok(())
    }

    /// Finds where to start in partitions that have no position: committed offset, then reset policy.
    async fn find_positions(&mut self) -> Result<()> {
        let open: Vec<TopicPartition> = self
            .positions
            .iter()
            .filter(|(_, offset)| offset.is_none())
            .map(|(at, _)| at.clone())
            .collect();
        if open.is_empty() || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let mut reset = BTreeMap::new();
        let committed = match &self.options.group {
            Some(group) => Admin::of(self.client.clone()).group_offsets(group, Some(&open)).await?,
            None => BTreeMap::new(),
        };
        for at in open {
            match committed.get(&at) {
                Some(found) => drop(self.positions.insert(at, Some(found.offset))),
                None => drop(reset.insert(at.clone(), self.reset_spec(&at)?)),
            }
        }
        self.look_up(reset).await
    }

    fn reset_spec(&self, at: &TopicPartition) -> Result<OffsetSpec> {
        match self.options.offset_reset {
            OffsetReset::Earliest => Ok(OffsetSpec::Earliest),
            OffsetReset::Latest => Ok(OffsetSpec::Latest),
            OffsetReset::None => Err(Error::Invalid(format!(
                "Undefined offset with no reset policy for partitions: [{at}]; \
                 set auto.offset.reset to earliest or latest, or commit an offset first"
            ))),
        }
    }

    async fn look_up(&mut self, asked: BTreeMap<TopicPartition, OffsetSpec>) -> Result<()> {
        if asked.is_empty() {
            return Ok(());
        }
        for (at, found) in Admin::of(self.client.clone()).list_offsets(&asked).await? {
            match found {
                Ok((offset, _)) => drop(self.positions.insert(at, Some(offset))),
                Err(error) if error.is_retriable() => self.retry_later(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn retry_later(&mut self) {
        self.retry_at = Some(Instant::now() + Duration::from_millis(100));
    }

    /// Hands out what is buffered, up to `max_poll_records`, and moves the positions past it.
    fn take_records(&mut self) -> Vec<ConsumerRecord> {
        let mut out = Vec::new();
        while let Some((at, records, next)) = self.buffered.front_mut() {
            let (at, next) = (at.clone(), *next);
            let owned = self.positions.contains_key(&at);
            while owned && out.len() < self.options.max_poll_records {
                let Some(record) = records.pop_front() else { break };
                self.positions.insert(at.clone(), Some(record.offset + 1));
                self.epochs.insert(at.clone(), record.leader_epoch);
                out.push(consumer_record(&at, record));
            }
            if owned && !records.is_empty() {
                break;
            }
            if owned {
                // Past control records and what was filtered, too.
                self.positions.insert(at, Some(next));
            }
            self.buffered.pop_front();
        }
        out
    }

    fn committable(&self) -> BTreeMap<TopicPartition, i64> {
        self.positions.iter().filter_map(|(at, offset)| Some((at.clone(), (*offset)?))).collect()
    }

    async fn auto_commit(&mut self) {
        if !self.options.auto_commit
            || self.options.group.is_none()
            || Instant::now() < self.next_commit
        {
            return;
        }
        self.next_commit = Instant::now() + self.options.auto_commit_interval;
        if let Err(error) = self.commit().await {
            tracing::warn!(%error, "auto-commit failed");
        }
    }

    /// Commits the positions of all partitions.
    pub async fn commit(&mut self) -> Result<()> {
        let offsets = self.committable();
        self.commit_offsets(&offsets).await
    }

    /// Commits these offsets: of each partition the next one to read.
    pub async fn commit_offsets(&mut self, offsets: &BTreeMap<TopicPartition, i64>) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        if let Some(membership) = &mut self.membership {
            return membership.commit(offsets, &self.epochs).await;
        }
        let Some(group) = &self.options.group else {
            return Err(Error::Invalid("a group id is needed to commit".into()));
        };
        for (_, result) in
            Admin::of(self.client.clone()).alter_group_offsets(group, offsets).await?
        {
            result?;
        }
        Ok(())
    }

    /// Commits if auto-commit is on, and leaves the group.
    pub async fn close(mut self) -> Result<()> {
        let committed = if self.options.auto_commit && self.options.group.is_some() {
            self.commit().await
        } else {
            Ok(())
        };
        if let Some(membership) = self.membership.take() {
            membership.leave().await?;
        }
        match committed {
            // The group moved on without us: what we read is read again by its new owner.
            Err(Error::Kafka {
                code: ErrorCode::IllegalGeneration | ErrorCode::UnknownMemberId,
                ..
            }) => Ok(()),
            other => other,
        }
    }
}

/// Where a hand-assigned partition is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    Offset(i64),
    Spec(OffsetSpec),
}

fn consumer_record(at: &TopicPartition, record: Record) -> ConsumerRecord {
    ConsumerRecord {
        topic: at.topic.clone(),
        partition: at.partition,
        offset: record.offset,
        leader_epoch: record.leader_epoch,
        timestamp: record.timestamp,
        log_append_time: record.log_append_time,
        key: record.key,
        value: record.value,
        headers: record.headers,
    }
}
