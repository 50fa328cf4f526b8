//! Sends the ends of transactions to the leaders of their partitions, until each has its marker.
//!
//! One task for all brokers: what is to be sent to a broker is collected while a request to it is
//! on its way, and leaves as the next one. A partition whose leader moved, is not known or refuses
//! for now is tried again after a pause, at whoever leads it then; one that was deleted needs no
//! marker any more. This broker's own partitions are reached over the network as well.
//!
//! Invariants: a broker has one request on its way at most; what is queued is bounded by the
//! transactions that are ending, each of which is queued once; nothing is sent for a partition of
//! the state topic that this broker no longer leads.
//!
//! Deliberately absent: giving up. Only a newer coordinator (TRANSACTION_COORDINATOR_FENCED) or a
//! newer producer (INVALID_PRODUCER_EPOCH) ends the attempts, because either has taken over.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kafka_protocol::messages::ApiKey;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::call::{Answer, Call};
use super::shard::{self, Notice, Shard};
use super::state::Producer;
use crate::config::Settings;
use crate::controller::Image;
use crate::coordinator::runtime::Coordinator;
use crate::env::{self, Env};
use crate::error::ErrorCode;
use crate::net::peer::Peer;
use crate::replica::peers::Peers;
use crate::types::{LeaderEpoch, NO_LEADER, NodeId, TopicPartition};
use crate::wire::message::Message as _;
use crate::wire::txn_markers::{Marker, MarkerTopic, MarkersWritten, WriteMarkers};

/// The pause before a partition is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// Ends of transactions that one request carries at most.
const MAX_MARKERS: usize = 1_000;
/// The versions of WriteTxnMarkers that are spoken here.
const VERSIONS: std::ops::RangeInclusive<i16> = 1..=2;

/// The end of one transaction, for partitions that are still without their marker.
#[derive(Debug, Clone)]
struct Job {
    /// Of the state topic, with the epoch in which this broker leads it.
    kept_in: (i32, LeaderEpoch),
    end: shard::Markers,
}

/// What shards ask for, until the task takes it.
#[derive(Default)]
struct Asked {
    jobs: Vec<Job>,
    unloaded: Vec<(i32, LeaderEpoch)>,
    exhausted: Vec<(i32, String, Producer)>,
    stop: bool,
}

/// The end that shards see.
#[derive(Default)]
pub struct MarkerQueue {
    asked: Mutex<Asked>,
    changed: Notify,
}

impl MarkerQueue {
    /// Takes a notice of the shard of `partition`. Returns at once.
    pub fn take(&self, partition: i32, epoch: LeaderEpoch, notice: Notice) {
        let mut asked = self.asked.lock();
        match notice {
            Notice::Send(end) => asked.jobs.push(Job { kept_in: (partition, epoch), end }),
            Notice::Unloaded => {
                asked.jobs.retain(|job| job.kept_in.0 != partition);
                asked.unloaded.push((partition, epoch));
            }
            Notice::Exhausted { transactional_id, producer } => {
                asked.exhausted.push((partition, transactional_id, producer));
            }
        }
        drop(asked);
        self.changed.notify_one();
    }

    /// Ends the task.
    pub fn stop(&self) {
        self.asked.lock().stop = true;
        self.changed.notify_one();
    }
}

/// Gives producer ids that nobody has.
pub type FreshIds = Box<dyn Fn() -> BoxFuture<'static, Result<i64, ErrorCode>> + Send + Sync>;

/// What the task works with.
pub struct MarkerSender {
    pub env: Env,
    pub settings: Settings,
    pub image: Arc<ArcSwap<Image>>,
    pub peers: Peers,
    pub queue: Arc<MarkerQueue>,
    pub coordinator: Weak<Coordinator<Shard>>,
    pub fresh_ids: FreshIds,
}

/// A broker that leads partitions.
#[derive(Default)]
struct Destination {
    waiting: Vec<Job>,
    busy: bool,
    peer: Option<Peer>,
}

/// What came out of a request.
struct Sent {
    to: NodeId,
    peer: Option<Peer>,
    jobs: Vec<Job>,
    /// By producer id; `None` when there was no answer.
    results: Option<BTreeMap<i64, BTreeMap<TopicPartition, Option<ErrorCode>>>>,
}

struct Running {
    sender: Arc<MarkerSender>,
    destinations: BTreeMap<NodeId, Destination>,
    /// To be tried again, in the order of their times.
    later: Vec<(Instant, Job)>,
    sent: FuturesUnordered<BoxFuture<'static, Sent>>,
    /// Calls to the coordinator on their way.
    told: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl MarkerSender {
    /// Runs until the queue is told to stop.
    pub fn start(self) {
        let running = Running {
            sender: Arc::new(self),
            destinations: BTreeMap::new(),
            later: Vec::new(),
            sent: FuturesUnordered::new(),
            told: FuturesUnordered::new(),
        };
        drop(env::spawn(running.run()));
    }

    fn coordinator(&self) -> Option<Arc<Coordinator<Shard>>> {
        self.coordinator.upgrade()
    }

    /// Sends one request.
    async fn send(self: Arc<Self>, to: NodeId, peer: Option<Peer>, jobs: Vec<Job>) -> Sent {
        match self.exchange(to, peer, &jobs).await {
            Ok((peer, written)) => {
                Sent { to, peer: Some(peer), jobs, results: Some(results_of(written)) }
            }
            Err(why) => {
                tracing::debug!(broker = to, why, "markers of transactions are not answered");
                Sent { to, peer: None, jobs, results: None }
            }
        }
    }

    async fn exchange(
        &self,
        to: NodeId,
        peer: Option<Peer>,
        jobs: &[Job],
    ) -> Result<(Peer, MarkersWritten), String> {
        let peer = match peer.filter(|peer| !peer.is_closed()) {
            Some(peer) => peer,
            None => self.peers.connect(to).await?,
        };
        let version = peer
            .version_within(ApiKey::WriteTxnMarkers as i16, VERSIONS)
            .map_err(|error| error.to_string())?;
        let body: Bytes = request_of(jobs).to_bytes(version);
        let timeout = self.settings.request_timeout;
        let answer = peer.call_raw(ApiKey::WriteTxnMarkers as i16, version, vec![body], timeout);
        let answer = answer.await.map_err(|error| error.to_string())?;
        let written = MarkersWritten::decode(&mut &answer[..], version);
        Ok((peer, written.map_err(|error| error.to_string())?))
    }

    /// An id for a producer that has no epoch left to be fenced with.
    async fn abort(self: Arc<Self>, partition: i32, transactional_id: String, producer: Producer) {
        let Some(coordinator) = self.coordinator() else { return };
        // Without an id now, the next sweep asks again.
        let Ok(fresh) = (self.fresh_ids)().await else { return };
        let call = Call::Abort { transactional_id, producer, fresh };
        coordinator.call_partition(partition, call).await.await;
    }
}

impl Running {
    async fn run(mut self) {
        let queue = self.sender.queue.clone();
        let clock = self.sender.env.clock.clone();
        loop {
            let now = clock.now();
            let retry_at = self.later.first().map_or(now + Duration::from_hours(1), |it| it.0);
            tokio::select! {
                biased;
                Some(sent) = self.sent.next() => self.settle(sent),
                Some(()) = self.told.next() => {}
                () = queue.changed.notified() => {
                    if self.take_asked() {
                        return;
                    }
                }
                () = clock.sleep_until(retry_at) => self.retry(clock.now()),
            }
            self.send_all();
        }
    }

    /// Whether it is time to stop.
    fn take_asked(&mut self) -> bool {
        let asked = std::mem::take(&mut *self.sender.queue.asked.lock());
        for (partition, epoch) in asked.unloaded {
            let ours = |job: &Job| job.kept_in.0 != partition || job.kept_in.1 > epoch;
            self.later.retain(|(_, job)| ours(job));
            for destination in self.destinations.values_mut() {
                destination.waiting.retain(ours);
            }
        }
        for job in asked.jobs {
            self.route(job);
        }
        for (partition, transactional_id, producer) in asked.exhausted {
            let sender = self.sender.clone();
            self.told.push(Box::pin(sender.abort(partition, transactional_id, producer)));
        }
        asked.stop
    }

    /// Gives each leader its part of a job.
    fn route(&mut self, job: Job) {
        let image = self.sender.image.load_full();
        let mut by_leader: BTreeMap<NodeId, Vec<TopicPartition>> = BTreeMap::new();
        let mut deleted = Vec::new();
        for at in &job.end.partitions {
            match image.partition(&at.topic, at.partition) {
                Some(partition) => {
                    by_leader.entry(partition.leader).or_default().push(at.clone());
                }
                None => deleted.push(at.clone()),
            }
        }
        if !deleted.is_empty() {
            tracing::info!(id = job.end.transactional_id, ?deleted, "need no marker any more");
            self.tell(&job, deleted);
        }
        for (leader, partitions) in by_leader {
            let end = shard::Markers { partitions, ..job.end.clone() };
            let part = Job { kept_in: job.kept_in, end };
            if leader == NO_LEADER || image.broker(leader).is_none_or(|broker| broker.fenced) {
                self.try_later(part);
            } else {
                self.destinations.entry(leader).or_default().waiting.push(part);
            }
        }
    }

    fn try_later(&mut self, job: Job) {
        self.later.push((self.sender.env.clock.now() + RETRY, job));
    }

    fn retry(&mut self, now: Instant) {
        let due = self.later.partition_point(|(at, _)| *at <= now);
        let due: Vec<Job> = self.later.drain(..due).map(|(_, job)| job).collect();
        for job in due {
            self.route(job);
        }
    }

    fn send_all(&mut self) {
        for (to, destination) in &mut self.destinations {
            if destination.busy || destination.waiting.is_empty() {
                continue;
            }
            let count = destination.waiting.len().min(MAX_MARKERS);
            let jobs = destination.waiting.drain(..count).collect();
            let peer = destination.peer.take();
            destination.busy = true;
            self.sent.push(Box::pin(self.sender.clone().send(*to, peer, jobs)));
        }
    }

    fn settle(&mut self, sent: Sent) {
        let Sent { to, peer, jobs, results } = sent;
        let destination = self.destinations.entry(to).or_default();
        destination.busy = false;
        destination.peer = peer;
        for job in jobs {
            let Some(results) = &results else {
                self.try_later(job);
                continue;
            };
            let of_producer = results.get(&job.end.producer.id);
            let result = |at: &TopicPartition| of_producer.and_then(|it| it.get(at)).copied();
            self.judge(&job, result);
        }
    }

    /// What the leader said of each partition; `None` is nothing.
    fn judge(&mut self, job: &Job, result: impl Fn(&TopicPartition) -> Option<Option<ErrorCode>>) {
        let (mut marked, mut again) = (Vec::new(), Vec::new());
        let id = &*job.end.transactional_id;
        for at in &job.end.partitions {
            match result(at) {
                Some(Some(
                    code @ (ErrorCode::InvalidProducerEpoch
                    | ErrorCode::TransactionCoordinatorFenced),
                )) => {
                    tracing::info!(id, partition = %at, ?code, "the end of a transaction is void");
                    return;
                }
                // Where markers cannot be written none is missed.
                Some(
                    None
                    | Some(ErrorCode::UnsupportedForMessageFormat | ErrorCode::UnsupportedVersion),
                ) => marked.push(at.clone()),
                Some(Some(code)) => {
                    tracing::debug!(id, partition = %at, ?code, "a marker is sent again");
                    again.push(at.clone());
                }
                None => again.push(at.clone()),
            }
        }
        if !marked.is_empty() {
            self.tell(job, marked);
        }
        if !again.is_empty() {
            let end = shard::Markers { partitions: again, ..job.end.clone() };
            self.try_later(Job { kept_in: job.kept_in, end });
        }
    }

    /// Tells the shard what needs no marker any more.
    fn tell(&mut self, job: &Job, partitions: Vec<TopicPartition>) {
        let Some(coordinator) = self.sender.coordinator() else { return };
        let (partition, coordinator_epoch) = job.kept_in;
        let call = Call::Marked {
            transactional_id: job.end.transactional_id.clone(),
            coordinator_epoch,
            producer: job.end.producer,
            partitions,
        };
        self.told.push(Box::pin(async move {
            // One that is loaded anew, or elsewhere, sends the markers itself.
            let _: Answer = coordinator.call_partition(partition, call).await.await;
        }));
    }
}

fn request_of(jobs: &[Job]) -> WriteMarkers {
    let marker = |Job { kept_in, end }: &Job| {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for at in &end.partitions {
            topics.entry(&at.topic).or_default().push(at.partition);
        }
        let topic =
            |(name, partitions): (&str, _)| MarkerTopic { name: name.to_owned(), partitions };
        Marker {
            producer_id: end.producer.id,
            producer_epoch: end.producer.epoch,
            committed: end.commit,
            topics: topics.into_iter().map(topic).collect(),
            coordinator_epoch: kept_in.1,
            transaction_version: i8::try_from(end.version).unwrap_or(i8::MAX),
        }
    };
    WriteMarkers { markers: jobs.iter().map(marker).collect() }
}

fn results_of(
    written: MarkersWritten,
) -> BTreeMap<i64, BTreeMap<TopicPartition, Option<ErrorCode>>> {
    let mut results: BTreeMap<i64, BTreeMap<_, _>> = BTreeMap::new();
    for marker in written.markers {
        let of_producer = results.entry(marker.producer_id).or_default();
        for topic in marker.topics {
            let name: Arc<str> = topic.name.into();
            for partition in topic.partitions {
                let at = TopicPartition::new(name.clone(), partition.index);
                of_producer.insert(at, ErrorCode::try_from_code(partition.error_code));
            }
        }
    }
    results
}
