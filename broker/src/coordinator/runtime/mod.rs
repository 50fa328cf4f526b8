//! Runs the coordinator shards of this broker: calls → records → log → answers.
//!
//! What a shard is says [`CoordinatorShard`]: groups are one kind, of `__consumer_offsets`. For
//! each kind, one task drives the shards of all partitions that this broker leads; only loading a
//! partition has a task of its own. What calls, timers and news of commits bring about within one turn is
//! appended as one batch per partition. An answer that rests on records leaves when these are
//! committed.
//!
//! - While a partition is loaded, its calls are answered COORDINATOR_LOAD_IN_PROGRESS, and
//!   NOT_COORDINATOR when another broker leads it.
//! - An append that is refused is undone, and who asked for it is told why. A commit that takes
//!   longer than the shard's time-out (`offsets.commit.timeout.ms` for groups) is answered as
//!   failed but stays in the log, and counts once it is committed.
//! - Records of a producer's transaction and the marker that ends it go through the same queue and
//!   the same log as everything else: a shard sees the end where the log has it.
//! - The queue of calls is bounded ([`MAX_CALLS`]); when it is full, connections wait. News of
//!   leadership never waits and is merged per partition.

mod driver;
mod effects;
mod hosted;
mod loader;
mod means;
mod shard;
mod state_log;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

pub use effects::{Effects, InTransaction, TimerChange, Token, Write};
pub use hosted::TransactionEnd;
pub use shard::{Context, CoordinatorShard, MAX_SWEPT, TopicsChanged};
pub use state_log::{Appended, Committed, Sink, StateLog};

use super::topic::Maker;
use crate::controller::{Delta, Image, Listener, TopicImage};
use crate::env::{self, Env};
use crate::error::ErrorCode;
use crate::types::LeaderEpoch;
use driver::Driver;
use means::Means;

/// The internal topic of groups.
pub const GROUP_METADATA_TOPIC: &str = "__consumer_offsets";

/// The group coordinator of this broker.
pub type Groups = Coordinator<super::group::shard::Shard>;

/// The transaction coordinator of this broker.
pub type Transactions = Coordinator<super::transaction::shard::Shard>;

/// How many calls may wait for the task that serves them.
pub const MAX_CALLS: usize = 4_096;

/// Takes what shards ask of the world outside: the partition, its leader epoch, and the notice.
/// Must not block.
pub type Notify<S> = Box<dyn Fn(i32, LeaderEpoch, <S as CoordinatorShard>::Notice) + Send + Sync>;

/// Which partition of an internal topic keeps a key: Java's hash of it, because every broker and
/// tool must find the same one.
pub fn partition_of(key: &str, partitions: i32) -> i32 {
    let hash = key
        .encode_utf16()
        .fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // Kafka clears the sign where `abs` would leave the smallest number negative.
    let positive = if hash == i32::MIN { 0 } else { hash.abs() };
    positive % partitions.max(1)
}

/// What this broker is to a partition, as of the newest image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leadership {
    Gained(LeaderEpoch),
    Lost,
}

/// News that must arrive even when the queue of calls is full.
#[derive(Debug, Default)]
struct News {
    leadership: BTreeMap<i32, Leadership>,
    deleted_topics: Vec<(String, Uuid)>,
    changed_topics: TopicsChanged,
    stop: bool,
}

#[derive(Default)]
struct Board {
    news: Mutex<News>,
    changed: tokio::sync::Notify,
}

/// Which shards a call concerns.
#[derive(Debug)]
enum Reach {
    Partition(i32),
    /// All that this broker leads, as for ListGroups.
    All,
}

enum Event<S: CoordinatorShard> {
    Call { reach: Reach, call: S::Call, reply: oneshot::Sender<S::Answer> },
    Marker { partition: i32, end: TransactionEnd, reply: oneshot::Sender<Result<(), ErrorCode>> },
}

/// Only topics matter here; leadership comes from the partitions, once they have taken their roles.
#[async_trait]
impl<S: CoordinatorShard> Listener for Coordinator<S> {
    async fn on_image(&self, old: &Arc<Image>, new: &Arc<Image>, delta: &Delta) {
        let changed = topics_changed(old, new, delta);
        if !changed.names.is_empty() {
            let news = &mut self.board.news.lock().changed_topics;
            news.names.extend(changed.names);
            news.created |= changed.created;
            self.board.changed.notify_one();
        }
        if !delta.deleted.is_empty() {
            let topics = delta.deleted.iter().map(|(name, id)| (name.to_string(), *id));
            self.on_topics_deleted(topics.collect());
        }
    }
}

/// Leaders and in-sync replicas come and go without anybody being assigned anything else.
fn topics_changed(old: &Image, new: &Image, delta: &Delta) -> TopicsChanged {
    let deleted = delta.deleted.iter().map(|(name, _)| name.clone());
    let mut changed = TopicsChanged { names: deleted.collect(), created: false };
    for topic in delta.topics.iter().filter_map(|name| new.topic(name)) {
        let before = old.topic(&topic.name).filter(|before| before.id == topic.id);
        changed.created |= before.is_none();
        let same = before.is_some_and(|before| {
            let replicas = |of: &TopicImage| {
                of.partitions.values().map(|it| it.replicas.clone()).collect::<Vec<_>>()
            };
            before.partitions.len() == topic.partitions.len() && replicas(before) == replicas(topic)
        });
        if !same {
            changed.names.insert(topic.name.clone());
        }
    }
    changed
}

/// A coordinator of this broker. `Arc`, shared by all connections.
pub struct Coordinator<S: CoordinatorShard> {
    pub settings: S::Settings,
    pub topic: Maker,
    image: Arc<ArcSwap<Image>>,
    calls: mpsc::Sender<Event<S>>,
    board: Arc<Board>,
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// What a coordinator starts with.
pub struct Start<S: CoordinatorShard> {
    pub env: Env,
    pub settings: S::Settings,
    pub log: Arc<dyn StateLog>,
    pub image: Arc<ArcSwap<Image>>,
    pub topic: Maker,
    pub notify: Notify<S>,
}

impl<S: CoordinatorShard> Coordinator<S> {
    /// Starts without any partition; [`Coordinator::on_leadership`] brings them.
    pub fn start(start: Start<S>) -> Arc<Self> {
        let Start { env, settings, log, image, topic, notify } = start;
        let (calls, events) = mpsc::channel(MAX_CALLS);
        let board = Arc::new(Board::default());
        let means = Means { env, settings: settings.clone(), log, image: image.clone(), notify };
        let driver = Driver::new(means, board.clone());
        let task = Mutex::new(Some(env::spawn(driver.run(events))));
        Arc::new(Self { settings, topic, image, calls, board, task })
    }

    /// This broker begins to lead, or no longer leads, partitions of the internal topic. Returns
    /// at once; loading goes on behind.
    pub fn on_leadership(&self, gained: Vec<(i32, LeaderEpoch)>, lost: Vec<i32>) {
        let mut news = self.board.news.lock();
        let lost = lost.into_iter().map(|partition| (partition, Leadership::Lost));
        let gained =
            gained.into_iter().map(|(partition, epoch)| (partition, Leadership::Gained(epoch)));
        news.leadership.extend(lost.chain(gained));
        drop(news);
        self.board.changed.notify_one();
    }

    /// Topics are gone, and with them what groups committed for them.
    pub fn on_topics_deleted(&self, topics: Vec<(String, Uuid)>) {
        self.board.news.lock().deleted_topics.extend(topics);
        self.board.changed.notify_one();
    }

    /// Answers all that wait with NOT_COORDINATOR and ends.
    pub async fn shut_down(&self) {
        self.board.news.lock().stop = true;
        self.board.changed.notify_one();
        let task = self.task.lock().take();
        if let Some(task) = task {
            // An error is a panic of the task, which has been reported.
            let _ = task.await;
        }
    }

    /// Where a key is kept; `None` before the internal topic exists.
    pub fn partition_of(&self, key: &str) -> Option<i32> {
        let image = self.image.load();
        let topic = image.topic(S::TOPIC)?;
        Some(partition_of(key, topic.partitions.len() as i32))
    }

    /// Hands a call about `key` over. When this returns, the call has its place before all later
    /// ones; the future that it returns is the answer.
    pub async fn call(
        &self,
        key: &str,
        call: S::Call,
    ) -> impl Future<Output = S::Answer> + Send + use<S> {
        let reach = self.partition_of(key).map(Reach::Partition);
        self.enqueue(reach, call).await
    }

    /// As [`Coordinator::call`], about what one partition keeps.
    pub async fn call_partition(
        &self,
        partition: i32,
        call: S::Call,
    ) -> impl Future<Output = S::Answer> + Send + use<S> {
        self.enqueue(Some(Reach::Partition(partition)), call).await
    }

    /// As [`Coordinator::call`], about all that this broker keeps.
    pub async fn call_all(&self, call: S::Call) -> S::Answer {
        self.enqueue(Some(Reach::All), call).await.await
    }

    /// Appends the marker that ends a producer's transaction on a partition of the internal topic,
    /// and lets the shard know, in the same order as everything else. When this returns, the
    /// marker has its place; the future that it returns resolves once it is committed, or says
    /// why it will not be: COORDINATOR_LOAD_IN_PROGRESS and NOT_COORDINATOR when no shard serves
    /// the partition here, else as the log refuses.
    pub async fn end_transaction(
        &self,
        partition: i32,
        end: TransactionEnd,
    ) -> impl Future<Output = Result<(), ErrorCode>> + Send + use<S> {
        let (reply, ended) = oneshot::channel();
        let sent = self.calls.send(Event::Marker { partition, end, reply }).await.is_ok();
        async move {
            let ended = if sent { ended.await.ok() } else { None };
            ended.unwrap_or(Err(ErrorCode::NotCoordinator))
        }
    }

    async fn enqueue(
        &self,
        reach: Option<Reach>,
        call: S::Call,
    ) -> impl Future<Output = S::Answer> + Send + use<S> {
        let asked = S::asked(&call);
        let waits = match reach {
            None => Err(ErrorCode::NotCoordinator),
            Some(reach) => {
                let (reply, answer) = oneshot::channel();
                let sent = self.calls.send(Event::Call { reach, call, reply }).await;
                sent.map(|()| answer).map_err(|_| ErrorCode::CoordinatorNotAvailable)
            }
        };
        async move {
            match waits {
                Ok(answer) => {
                    let answer = answer.await;
                    answer.unwrap_or_else(|_| S::refuse(&asked, ErrorCode::CoordinatorNotAvailable))
                }
                Err(code) => S::refuse(&asked, code),
            }
        }
    }
}
