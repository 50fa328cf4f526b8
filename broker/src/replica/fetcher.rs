//! Followers' side of replication: one task and one connection per leading broker.
//!
//! A round: wait until what was appended is synced, ask the leader for all partitions followed from
//! it, append what came. Kafka's protocol has one number for "I want from here on" and "I hold all
//! below": a durable topic's follower may therefore not ask from past what it has synced. The wait
//! is one group commit for all partitions of a round; asking ahead of the disk would need two
//! connections and is left for later.
//!
//! Invariants: a partition that fails is left out for `replica.fetch.backoff.ms` and holds up no
//! other; an answer is applied only in the leader epoch it was asked in; when the set of partitions
//! changes, a long poll in flight is given up and asked anew, so that a new partition never waits
//! for an old one; a long poll lasts no longer than the wait of a partition that is left out of it.
//! Leaders older than Kafka 3.5 (Fetch 15) are not spoken to. Deliberately absent: fetch sessions
//! towards the leader; each request names all partitions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::follower::{Answer, Effect};
use super::partition::Partition;
use super::partitions::Partitions;
use super::remote::{Failure, Leaders, RemoteLeader};
use crate::env::{self, planted};
use crate::log::Log;
use crate::types::{LeaderEpoch, Millis, NodeId, Offset};
use crate::wire::records::Batches;

/// When a leader that does not know of its election is asked again.
const SOON: Duration = Duration::from_millis(20);

/// What is followed from one leader.
type Followed = Vec<(Arc<Partition>, LeaderEpoch)>;

/// Keeps a fetcher for each broker that leads something followed here.
pub async fn supervise(
    partitions: Arc<Partitions>,
    leaders: Arc<dyn Leaders>,
    stop: CancellationToken,
) {
    let mut fetchers: BTreeMap<NodeId, (watch::Sender<Arc<Followed>>, JoinHandle<()>)> =
        BTreeMap::new();
    loop {
        let mut followed = partitions.followed();
        for leader in fetchers.keys() {
            followed.entry(*leader).or_default();
        }
        for (leader, wanted) in followed {
            let (sender, _) = fetchers.entry(leader).or_insert_with(|| {
                let (sender, receiver) = watch::channel(Arc::new(Followed::new()));
                let fetcher = Fetcher {
                    partitions: partitions.clone(),
                    leaders: leaders.clone(),
                    leader,
                    followed: receiver,
                    delayed: BTreeMap::new(),
                };
                (sender, env::spawn(fetcher.run(stop.clone())))
            });
            sender.send_if_modified(|now| {
                let same = now.len() == wanted.len()
                    && now.iter().zip(&wanted).all(|(a, b)| Arc::ptr_eq(&a.0, &b.0) && a.1 == b.1);
                if !same {
                    *now = Arc::new(wanted);
                }
                !same
            });
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = partitions.refetch.notified() => {}
        }
    }
    for (_, (_, task)) in fetchers {
        // An error is a panic of the task, which has been reported.
        let _ = task.await;
    }
}

struct Fetcher {
    partitions: Arc<Partitions>,
    leaders: Arc<dyn Leaders>,
    leader: NodeId,
    followed: watch::Receiver<Arc<Followed>>,
    /// Until when a partition is left alone.
    delayed: BTreeMap<(Uuid, i32, LeaderEpoch), Millis>,
}

/// A partition in a request.
struct Asked {
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    from: Offset,
}

impl Fetcher {
    async fn run(mut self, stop: CancellationToken) {
        let mut connection = None;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.round(&mut connection) => {}
            }
        }
    }

    async fn round(&mut self, connection: &mut Option<Arc<dyn RemoteLeader>>) {
        let followed = self.followed.borrow_and_update().clone();
        if !self.wait_for_disk(&followed).await {
            return;
        }
        let asked = self.askable(&followed);
        if asked.is_empty() {
            if followed.is_empty() {
                *connection = None;
            }
            return self.wait_for_work(&followed).await;
        }
        let leader = match connection {
            Some(leader) => leader.clone(),
            None => match self.connect().await {
                Ok(leader) => connection.insert(leader).clone(),
                Err(error) => {
                    tracing::debug!(leader = self.leader, error, "cannot fetch");
                    return self.back_off().await;
                }
            },
        };
        let mut changed = self.followed.clone();
        let answered = tokio::select! {
            biased;
            _ = changed.changed() => None,
            answered = leader.fetch(self.request(&followed, &asked)) => Some(answered),
        };
        match answered {
            // The answer to a question that is outdated would hold up the next one.
            None => *connection = None,
            Some(Ok(response)) => match response.error_code.err() {
                None => self.take(&leader, asked, response).await,
                Some(code) => {
                    tracing::warn!(leader = self.leader, ?code, "the leader refused a fetch");
                    *connection = None;
                    self.back_off().await;
                }
            },
            Some(Err(error)) => {
                tracing::debug!(leader = self.leader, error, "fetch failed");
                *connection = None;
                self.back_off().await;
            }
        }
    }

    async fn connect(&self) -> Result<Arc<dyn RemoteLeader>, Failure> {
        self.leaders.connect(self.leader).await
    }

    /// Waits a little, or until there is something else to follow.
    async fn back_off(&mut self) {
        let context = &self.partitions.context;
        tokio::select! {
            biased;
            _ = self.followed.changed() => {}
            () = context.env.clock.sleep(context.settings.replica_fetch_backoff) => {}
        }
    }

    /// All is delayed, waits for the disk, or there is nothing.
    async fn wait_for_work(&mut self, followed: &Followed) {
        if followed.is_empty() {
            // An error means that the supervisor has ended, and this task is about to.
            if self.followed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            return;
        }
        let waiter = Arc::new(Notify::new());
        for (partition, _) in followed {
            partition.on_commit.add(&waiter);
        }
        if !self.askable(followed).is_empty() {
            return;
        }
        let clock = self.partitions.context.env.clock.clone();
        let next =
            self.delayed.values().min().map_or(1000, |at| at - self.partitions.context.now());
        let wait = std::time::Duration::from_millis(next.clamp(1, 1000) as u64);
        tokio::select! {
            biased;
            _ = self.followed.changed() => {}
            () = waiter.notified() => {}
            () = clock.sleep(wait) => {}
        }
    }

    /// What was appended must be synced before it can be asked past. To ask for the rest meanwhile
    /// would leave those partitions, and the producers behind them, waiting for a long poll.
    /// Returns false when something else is to be followed by now.
    async fn wait_for_disk(&mut self, followed: &Followed) -> bool {
        let clock = self.partitions.context.env.clock.clone();
        let patience = self.partitions.context.settings.replica_fetch_wait_max;
        let waiter = Arc::new(Notify::new());
        let mut deadline = std::pin::pin!(clock.sleep(patience));
        loop {
            let waiting: Vec<_> = followed.iter().filter(|(it, _)| waits_for_disk(it)).collect();
            for (partition, _) in &waiting {
                partition.on_commit.add(&waiter);
            }
            // A sync between the look and the registration wakes nobody: look again.
            if !waiting.iter().any(|(it, _)| waits_for_disk(it)) {
                return true;
            }
            tokio::select! {
                biased;
                _ = self.followed.changed() => return false,
                () = waiter.notified() => {}
                () = &mut deadline => return true,
            }
        }
    }

    /// What may be asked for now: not delayed, and nothing appended that is not yet synced.
    fn askable(&mut self, followed: &Followed) -> Vec<Asked> {
        let now = self.partitions.context.now();
        self.delayed.retain(|_, until| *until > now);
        let mut asked = Vec::with_capacity(followed.len());
        for (partition, epoch) in followed {
            let log = partition.log();
            let from = log.end_offset();
            let key = (partition.topic_id, partition.id.partition, *epoch);
            let delayed = self.delayed.contains_key(&key);
            // A full disk is left alone until there is room again.
            if !delayed && log.has_room() && is_synced(&log, from) {
                asked.push(Asked { partition: partition.clone(), epoch: *epoch, from });
            }
        }
        asked
    }

    /// How long the leader may wait for records: what is left out must be asked for soon.
    fn patience(&self, followed: &Followed) -> Millis {
        let context = &self.partitions.context;
        let longest = context.settings.replica_fetch_wait_max.as_millis() as Millis;
        let next = self.delayed.values().min().map_or(longest, |until| until - context.now());
        let slow_disk = followed.iter().any(|(it, _)| waits_for_disk(it));
        let next = if slow_disk { next.min(SOON.as_millis() as Millis) } else { next };
        next.clamp(1, longest.max(1))
    }

    fn request(&self, followed: &Followed, asked: &[Asked]) -> FetchRequest {
        let settings = &self.partitions.context.settings;
        let mut topics: Vec<FetchTopic> = Vec::new();
        for it in asked {
            let log = it.partition.log();
            let partition = FetchPartition::default()
                .with_partition(it.partition.id.partition)
                .with_current_leader_epoch(it.epoch)
                .with_fetch_offset(it.from)
                .with_last_fetched_epoch(log.latest_epoch().filter(|_| it.from > 0).unwrap_or(-1))
                .with_log_start_offset(log.start_offset())
                .with_partition_max_bytes(settings.replica_fetch_max_bytes);
            match topics.last_mut() {
                Some(topic) if topic.topic_id == it.partition.topic_id => {
                    topic.partitions.push(partition);
                }
                _ => topics.push(
                    FetchTopic::default()
                        .with_topic_id(it.partition.topic_id)
                        .with_partitions(vec![partition]),
                ),
            }
        }
        let me = self.partitions.context.me;
        let epoch = self.partitions.context.broker_epoch();
        let state = ReplicaState::default().with_replica_id(BrokerId(me)).with_replica_epoch(epoch);
        FetchRequest::default()
            .with_replica_state(state)
            .with_max_wait_ms(self.patience(followed) as i32)
            .with_min_bytes(settings.replica_fetch_min_bytes)
            .with_max_bytes(settings.replica_fetch_response_max_bytes)
            .with_topics(topics)
    }

    /// Applies an answer, partition by partition.
    async fn take(
        &mut self,
        leader: &Arc<dyn RemoteLeader>,
        asked: Vec<Asked>,
        response: FetchResponse,
    ) {
        let mut by_id: BTreeMap<(Uuid, i32), Asked> = asked
            .into_iter()
            .map(|it| ((it.partition.topic_id, it.partition.id.partition), it))
            .collect();
        let mut work = Vec::new();
        for topic in response.responses {
            for data in topic.partitions {
                if let Some(asked) = by_id.remove(&(topic.topic_id, data.partition_index)) {
                    work.push((asked, data));
                }
            }
        }
        let env = self.partitions.context.env.clone();
        let taken = env.blocking(move || work.into_iter().map(apply).collect::<Vec<_>>()).await;
        for (asked, effects) in taken {
            for effect in effects {
                self.follow_up(leader, &asked, effect).await;
            }
        }
    }

    async fn follow_up(&mut self, leader: &Arc<dyn RemoteLeader>, asked: &Asked, effect: Effect) {
        if effect == Effect::AskBounds
            && let Err(error) = self.ask_bounds(leader, asked).await
        {
            tracing::warn!(partition = %asked.partition.id, error, "cannot find its leader's log");
        }
        let back_off = self.partitions.context.settings.replica_fetch_backoff;
        let back_off = if effect == Effect::WaitForLeader { back_off.min(SOON) } else { back_off };
        // Whatever it is that is amiss, others go on, and so does this one in another epoch.
        let key = (asked.partition.topic_id, asked.partition.id.partition, asked.epoch);
        let until = self.partitions.context.now() + back_off.as_millis() as Millis;
        if effect != Effect::AskBounds {
            self.delayed.insert(key, until);
        }
    }

    async fn ask_bounds(
        &self,
        leader: &Arc<dyn RemoteLeader>,
        asked: &Asked,
    ) -> Result<(), Failure> {
        let mut bounds = [0; 2];
        for (bound, place) in bounds.iter_mut().zip([-2, -1]) {
            *bound = self.ask_offset(leader, asked, place).await?;
        }
        let [start, end] = bounds;
        let (partition, epoch) = (asked.partition.clone(), asked.epoch);
        let env = &self.partitions.context.env;
        let taken = env.blocking(move || partition.take_bounds(epoch, start, end)).await;
        taken.map(drop).map_err(|fault| fault.to_string())
    }

    async fn ask_offset(
        &self,
        leader: &Arc<dyn RemoteLeader>,
        asked: &Asked,
        timestamp: i64,
    ) -> Result<Offset, Failure> {
        let partition = ListOffsetsPartition::default()
            .with_partition_index(asked.partition.id.partition)
            .with_current_leader_epoch(asked.epoch)
            .with_timestamp(timestamp);
        let name = StrBytes::from_string(asked.partition.id.topic.to_string());
        let topic =
            ListOffsetsTopic::default().with_name(TopicName(name)).with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(self.partitions.context.me))
            .with_topics(vec![topic]);
        let response = leader.list_offsets(request).await?;
        let answer = response.topics.first().and_then(|topic| topic.partitions.first());
        let answer = answer.ok_or("an answer without the partition")?;
        match answer.error_code.err() {
            None => Ok(answer.offset),
            Some(code) => Err(format!("{code:?}")),
        }
    }
}

/// Whether something was appended that is not synced yet.
fn waits_for_disk(partition: &Partition) -> bool {
    let log = partition.log();
    !is_synced(&log, log.end_offset())
}

fn is_synced(log: &Log, offset: Offset) -> bool {
    log.synced_offset() >= offset || planted!(FollowerAcknowledgesBeforeSync)
}

/// Applies one partition's answer. Returns what is left to do.
fn apply((asked, data): (Asked, PartitionData)) -> (Asked, Vec<Effect>) {
    let records = data.records.unwrap_or_default();
    let (first_offset, next_offset) = extent(&records);
    let diverging = data.diverging_epoch;
    let answer = Answer {
        error: data.error_code.err(),
        high_watermark: data.high_watermark,
        log_start: data.log_start_offset,
        diverging: (diverging.end_offset >= 0).then_some((diverging.epoch, diverging.end_offset)),
        first_offset,
        next_offset,
    };
    let effects = asked.partition.take_answer(asked.epoch, asked.from, &answer, records);
    let effects = effects.unwrap_or_else(|fault| {
        tracing::error!(partition = %asked.partition.id, %fault, "cannot follow");
        vec![Effect::BackOff]
    });
    (asked, effects)
}

/// The first offset of the whole batches in `records`, and the one after the last.
fn extent(records: &Bytes) -> (Option<Offset>, Offset) {
    let mut batches = Batches::new(records).map_while(Result::ok);
    let Some(first) = batches.next() else { return (None, -1) };
    let last = batches.last().unwrap_or(first);
    (Some(first.base_offset()), last.next_offset())
}
