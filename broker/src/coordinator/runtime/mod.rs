//! Runs the coordinator shards of this broker: calls → records → log → answers.
//!
//! One task drives the shards of all partitions that this broker leads; only loading a partition
//! has a task of its own. What calls, timers and news of commits bring about within one turn is
//! appended as one batch per partition. An answer that rests on records leaves when these are
//! committed.
//!
//! - While a partition is loaded, its groups are answered COORDINATOR_LOAD_IN_PROGRESS, and
//!   NOT_COORDINATOR when another broker leads it.
//! - An append that is refused is undone, and who asked for it is told why. A commit that takes
//!   longer than `offsets.commit.timeout.ms` is answered as failed but stays in the log, and counts
//!   once it is committed.
//! - The queue of calls is bounded ([`MAX_CALLS`]); when it is full, connections wait. News of
//!   leadership never waits and is merged per partition.

mod driver;
mod hosted;
mod loader;
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
use tokio::sync::{Notify, mpsc, oneshot};
use uuid::Uuid;

pub use state_log::{Committed, Sink, StateLog};

use super::group::call::Call;
use super::group::effects::Answer;
use super::group::partition_of;
use super::group::settings::GroupSettings;
use super::topic::Maker;
use crate::controller::{Delta, Image, Listener};
use crate::env::{self, Env};
use crate::error::ErrorCode;
use crate::types::LeaderEpoch;
use driver::Driver;

/// The internal topic of groups.
pub const GROUP_METADATA_TOPIC: &str = "__consumer_offsets";

/// How many calls may wait for the task that serves them.
pub const MAX_CALLS: usize = 4_096;

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
    stop: bool,
}

#[derive(Default)]
struct Board {
    news: Mutex<News>,
    changed: Notify,
}

/// Which groups a call concerns.
#[derive(Debug)]
enum Reach {
    Partition(i32),
    /// ListGroups: all that this broker leads.
    All,
}

struct Event {
    reach: Reach,
    call: Call,
    reply: oneshot::Sender<Answer>,
}

/// Only deleted topics matter here; leadership comes from the partitions, once they have taken
/// their roles.
#[async_trait]
impl Listener for Groups {
    async fn on_image(&self, _: &Arc<Image>, _: &Arc<Image>, delta: &Delta) {
        if !delta.deleted.is_empty() {
            let topics = delta.deleted.iter().map(|(name, id)| (name.to_string(), *id));
            self.on_topics_deleted(topics.collect());
        }
    }
}

/// The group coordinator of this broker. `Arc`, shared by all connections.
pub struct Groups {
    pub settings: GroupSettings,
    pub topic: Maker,
    image: Arc<ArcSwap<Image>>,
    calls: mpsc::Sender<Event>,
    board: Arc<Board>,
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Groups {
    /// Starts without any partition; [`Groups::on_leadership`] brings them.
    pub fn start(
        env: Env,
        settings: GroupSettings,
        log: Arc<dyn StateLog>,
        image: Arc<ArcSwap<Image>>,
        topic: Maker,
    ) -> Arc<Self> {
        let (calls, events) = mpsc::channel(MAX_CALLS);
        let board = Arc::new(Board::default());
        let driver = Driver::new(env, settings.clone(), log, board.clone());
        let task = Mutex::new(Some(env::spawn(driver.run(events))));
        Arc::new(Self { settings, topic, image, calls, board, task })
    }

    /// This broker begins to lead, or no longer leads, partitions of `__consumer_offsets`. Returns
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

    /// Where a group is kept; `None` before `__consumer_offsets` exists.
    pub fn partition_of(&self, group: &str) -> Option<i32> {
        let image = self.image.load();
        let topic = image.topic(GROUP_METADATA_TOPIC)?;
        Some(partition_of(group, topic.partitions.len() as i32))
    }

    /// Hands a call about `group` over. When this returns, the call has its place before all later
    /// ones; the future that it returns is the answer.
    pub async fn call(
        &self,
        group: &str,
        call: Call,
    ) -> impl Future<Output = Answer> + Send + use<> {
        let reach = self.partition_of(group).map(Reach::Partition);
        self.enqueue(reach, call).await
    }

    /// As [`Groups::call`], about all groups of this broker.
    pub async fn call_all(&self, call: Call) -> Answer {
        self.enqueue(Some(Reach::All), call).await.await
    }

    async fn enqueue(
        &self,
        reach: Option<Reach>,
        call: Call,
    ) -> impl Future<Output = Answer> + Send + use<> {
        let asked = call.asked();
        let waits = match reach {
            None => Err(ErrorCode::NotCoordinator),
            Some(reach) => {
                let (reply, answer) = oneshot::channel();
                let sent = self.calls.send(Event { reach, call, reply }).await;
                sent.map(|()| answer).map_err(|_| ErrorCode::CoordinatorNotAvailable)
            }
        };
        async move {
            match waits {
                Ok(answer) => {
                    let gone = |_| asked.refuse(ErrorCode::CoordinatorNotAvailable);
                    answer.await.unwrap_or_else(gone)
                }
                Err(code) => asked.refuse(code),
            }
        }
    }
}
