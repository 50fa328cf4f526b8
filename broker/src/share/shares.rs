//! All share partitions and share sessions of this broker, and what they want done.
//!
//! A share partition is loaded when a member first fetches from it, and forgotten when this broker
//! no longer leads the partition, when its state was fenced, or when the group's last session here
//! ends. One task looks after locks that run out and connections that closed; a write of state has
//! a task of its own while it is on its way, of which a share partition has one at most.
//! Deliberately absent: a limit on share partitions, which members and leaderships limit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::partition::{
    AckBatch, Effects, Limits, LoadedState, RecordState, SharePartition, StateBatch, StateWrite,
};
use super::persister::Persister;
use super::refusals::{is_final, told};
use super::sessions::{SessionKey, Sessions, TopicIdPartition};
use super::settings::{GroupConfig, Reset};
use super::slot::{Slot, Stage};
use crate::controller::image::Image;
use crate::coordinator::share::records::ShareKey;
use crate::coordinator::share::shard::{Answer, Call, Changes, State, UNINITIALIZED, What};
use crate::env;
use crate::error::{ErrorCode, Refusal};
use crate::replica::peers::Peers;
use crate::replica::{LeadershipListener, Partition, Partitions};
use crate::types::{LeaderEpoch, Millis, Offset, TopicPartition};

/// How long the clock may sleep when nothing is due.
const IDLE: Duration = Duration::from_hours(1);

/// Resolves when a change of state is written, or was refused.
pub type Written = BoxFuture<'static, Result<(), Refusal>>;

pub struct Shares {
    me: Weak<Self>,
    pub partitions: Arc<Partitions>,
    pub sessions: Mutex<Sessions>,
    pub leaders: Peers,
    persister: Arc<dyn Persister>,
    slots: Mutex<BTreeMap<ShareKey, Arc<Slot>>>,
    board: Board,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What the task is to look at.
#[derive(Default)]
struct Board {
    due: Mutex<BTreeSet<(Millis, ShareKey)>>,
    closed: Mutex<Vec<u64>>,
    stop: Mutex<bool>,
    changed: Notify,
}

/// Tells when a connection with share sessions is closed.
pub struct OnClose {
    shares: Weak<Shares>,
    connection: u64,
}

impl Drop for OnClose {
    fn drop(&mut self) {
        if let Some(shares) = self.shares.upgrade() {
            shares.board.closed.lock().push(self.connection);
            shares.board.changed.notify_one();
        }
    }
}

impl Shares {
    pub fn start(partitions: Arc<Partitions>, persister: Arc<dyn Persister>) -> Arc<Self> {
        let most = partitions.context.settings.share_max_sessions;
        let sessions = Sessions::new(usize::try_from(most).unwrap_or(0));
        let context = partitions.context.clone();
        let client_id = format!("broker-{}-share-lag", context.me);
        let shares = Arc::new_cyclic(|me: &Weak<Self>| Self {
            me: me.clone(),
            leaders: Peers::new(context, client_id),
            partitions,
            sessions: Mutex::new(sessions),
            persister,
            slots: Mutex::default(),
            board: Board::default(),
            task: Mutex::default(),
        });
        *shares.task.lock() = Some(env::spawn(look_after(shares.clone())));
        shares
    }

    pub async fn shut_down(&self) {
        *self.board.stop.lock() = true;
        self.board.changed.notify_one();
        let task = self.task.lock().take();
        if let Some(task) = task {
            let _ = task.await; // a panic has been reported
        }
        let all: Vec<ShareKey> = self.slots.lock().keys().cloned().collect();
        for key in all {
            self.forget(&key, ErrorCode::NotLeaderOrFollower.into());
        }
    }

    /// Whether the cluster has share groups: feature share.version.
    pub fn is_enabled(&self) -> bool {
        self.shared_image().load().feature("share.version") >= 1
    }

    /// The way to the coordinators of states.
    pub fn coordinator(&self) -> &dyn Persister {
        &*self.persister
    }

    pub fn image(&self) -> Arc<Image> {
        self.partitions.image()
    }

    fn shared_image(&self) -> &ArcSwap<Image> {
        &self.partitions.context.image
    }

    pub(super) fn now(&self) -> Millis {
        self.partitions.context.now()
    }

    pub(super) fn limits(&self, group: &str) -> Limits {
        let image = self.shared_image().load();
        GroupConfig::of(&image, &self.partitions.context.settings, group).limits()
    }

    /// Hears of it when a connection closes.
    pub fn on_close(&self, connection: u64) -> OnClose {
        OnClose { shares: self.me.clone(), connection }
    }

    /// The share partition, which is loaded if it is not there yet.
    pub(super) fn open(
        &self,
        group: &str,
        (topic_id, partition): TopicIdPartition,
    ) -> Result<Arc<Slot>, Refusal> {
        let image = self.shared_image().load();
        let topic = image.topic_by_id(topic_id).ok_or(ErrorCode::UnknownTopicId)?;
        let key = ShareKey { group: group.to_owned(), topic_id, partition };
        let led = match self.partitions.as_leader(&topic.name, partition, -1) {
            Ok(led) if led.topic_id == topic_id => led,
            other => {
                let code = other.err().unwrap_or(ErrorCode::UnknownTopicOrPartition);
                self.forget(&key, code.into());
                return Err(code.into());
            }
        };
        let epoch = led.epoch();
        if let Some(slot) = self.slots.lock().get(&key).filter(|slot| slot.epoch == epoch) {
            return Ok(slot.clone());
        }
        self.forget(&key, ErrorCode::NotLeaderOrFollower.into());
        let slot = Slot::new(key.clone(), led, epoch);
        self.slots.lock().insert(key, slot.clone());
        if let Some(me) = self.me.upgrade() {
            drop(env::spawn(me.load(slot.clone())));
        }
        Ok(slot)
    }

    fn slot(&self, group: &str, (topic_id, partition): TopicIdPartition) -> Option<Arc<Slot>> {
        let key = ShareKey { group: group.to_owned(), topic_id, partition };
        self.slots.lock().get(&key).cloned()
    }

    async fn load(self: Arc<Self>, slot: Arc<Slot>) {
        let what = What::Read { leader_epoch: slot.epoch };
        let answer = self.persister.call(Call { key: slot.key.clone(), what }).await;
        let loaded = match answer {
            Answer::Read(Ok(state)) => self.begin(&slot, state).await,
            Answer::Read(Err(refusal)) => Err(told(refusal)),
            _ => Err(ErrorCode::UnknownServerError.into()),
        };
        match loaded {
            Ok(partition) => {
                let mut inner = slot.inner.lock();
                if matches!(inner.stage, Stage::Loading) {
                    inner.stage = Stage::Active(Box::new(partition));
                }
            }
            Err(refusal) => {
                tracing::debug!(key = ?slot.key, %refusal, "a share partition is not loaded");
                self.forget_this(&slot, refusal);
            }
        }
        slot.changed.wake();
    }

    async fn begin(&self, slot: &Slot, state: State) -> Result<SharePartition, Refusal> {
        let start = match state.start {
            UNINITIALIZED => self.first_start(slot).await?,
            start => start,
        };
        let batch = |it: &crate::coordinator::share::records::StateBatch| {
            let state = RecordState::of(it.state)?;
            Some(StateBatch { first: it.first, last: it.last, state, deliveries: it.deliveries })
        };
        let batches: Option<Vec<_>> = state.batches.iter().map(batch).collect();
        let invalid = |why| Refusal::new(ErrorCode::UnknownServerError, why);
        let batches = batches.ok_or_else(|| invalid("a state that nobody knows"))?;
        let loaded = LoadedState { state_epoch: state.state_epoch, start, batches };
        let mut partition = SharePartition::load(slot.epoch, &loaded).map_err(invalid)?;
        partition.log_start_moved(slot.partition.log().start_offset());
        Ok(partition)
    }

    /// Where a group begins that has not been here before.
    async fn first_start(&self, slot: &Slot) -> Result<Offset, Refusal> {
        let image = self.image();
        let settings = &self.partitions.context.settings;
        let reset = GroupConfig::of(&image, settings, &slot.key.group).reset();
        let partition = &slot.partition;
        match reset {
            Reset::Earliest => Ok(partition.log().start_offset()),
            _ if partition.is_catching_up() => Err(ErrorCode::OffsetNotAvailable.into()),
            Reset::Latest => Ok(partition.high_watermark()),
            Reset::ByDuration(ago) => {
                let env = &self.partitions.context.env;
                let (log, since) = (partition.log(), env.clock.wall_ms() - ago);
                let found = env.blocking(move || log.offset_for_timestamp(since)).await;
                let found = found.map_err(|_| ErrorCode::KafkaStorageError)?;
                let end = partition.high_watermark();
                Ok(found.map_or(end, |found| found.offset.min(end)))
            }
        }
    }

    /// A member's word on what it has; resolves when it is written.
    pub fn acknowledge(
        &self,
        group: &str,
        member: &str,
        at: TopicIdPartition,
        acks: &[AckBatch],
    ) -> Written {
        self.change(group, at, |partition, token, limits, now| {
            partition.acknowledge(token, member, acks, limits, now)
        })
    }

    /// A member's session is over: what it has of a partition becomes available.
    pub fn release(&self, group: &str, member: &str, at: TopicIdPartition) -> Written {
        self.change(group, at, |partition, token, limits, now| {
            partition.release_all(token, member, limits, now)
        })
    }

    fn change(
        &self,
        group: &str,
        at: TopicIdPartition,
        change: impl FnOnce(&mut SharePartition, u64, &Limits, Millis) -> Effects,
    ) -> Written {
        let limits = self.limits(group);
        let answer = self.slot(group, at).map(|slot| {
            let mut inner = slot.inner.lock();
            let (token, answer) = inner.wait();
            let effects = match &mut inner.stage {
                Stage::Active(partition) => Ok(change(partition, token, &limits, self.now())),
                Stage::Gone(refusal) => Err(refusal.clone()),
                Stage::Loading => Err(Refusal::new(
                    ErrorCode::InvalidRecordState,
                    "Batch record not found. The request batch offsets are not found in the cache.",
                )),
            };
            match effects {
                Ok(effects) => self.carry_out(&slot, &mut inner, effects),
                Err(refusal) => inner.answer(token, Err(refusal)),
            }
            drop(inner);
            answer
        });
        Box::pin(async move {
            match answer {
                Some(answer) => {
                    answer.await.unwrap_or_else(|_| Err(ErrorCode::NotLeaderOrFollower.into()))
                }
                None => Err(ErrorCode::UnknownTopicOrPartition.into()),
            }
        })
    }

    /// Ends a session; what its member has becomes available.
    pub fn end_session(&self, key: &SessionKey) -> bool {
        let Some(partitions) = self.sessions.lock().end(key) else { return false };
        for at in partitions {
            // Nobody waits for it: what becomes of it is between the coordinator and the group.
            drop(self.release(&key.0, &key.1, at));
        }
        true
    }

    /// Does what a step of a share partition asks for.
    pub(super) fn carry_out(
        &self,
        slot: &Arc<Slot>,
        inner: &mut super::slot::Inner,
        effects: Effects,
    ) {
        for (token, result) in effects.answers {
            inner.answer(token, result);
        }
        if let (Some(write), Some(me)) = (effects.write, self.me.upgrade()) {
            drop(env::spawn(me.write(slot.clone(), write)));
        }
        if effects.wake {
            slot.changed.wake();
        }
        self.schedule(slot, inner);
    }

    /// Lets the clock look at a share partition when its next lock runs out.
    pub(super) fn schedule(&self, slot: &Slot, inner: &mut super::slot::Inner) {
        let next = match &inner.stage {
            Stage::Active(partition) => partition.next_lock(),
            _ => None,
        };
        if next == inner.due {
            return;
        }
        let mut due = self.board.due.lock();
        if let Some(before) = inner.due {
            due.remove(&(before, slot.key.clone()));
        }
        inner.due = next;
        if let Some(next) = next {
            due.insert((next, slot.key.clone()));
            if due.first().is_some_and(|(first, _)| *first == next) {
                self.board.changed.notify_one();
            }
        }
    }

    async fn write(self: Arc<Self>, slot: Arc<Slot>, write: StateWrite) {
        let batches = write.batches.iter().map(|it| {
            let (first, last, deliveries) = (it.first, it.last, it.deliveries);
            let state = it.state as i8;
            crate::coordinator::share::records::StateBatch { first, last, state, deliveries }
        });
        let changes = Changes {
            state_epoch: write.state_epoch,
            leader_epoch: write.leader_epoch,
            start: write.start,
            done: write.done,
            batches: batches.collect(),
        };
        let what = What::Write(changes);
        let answer = self.persister.call(Call { key: slot.key.clone(), what }).await;
        let result = match answer {
            Answer::Done(result) => result.map_err(told),
            _ => Err(ErrorCode::UnknownServerError.into()),
        };
        let limits = self.limits(&slot.key.group);
        {
            let mut inner = slot.inner.lock();
            let Stage::Active(partition) = &mut inner.stage else { return };
            let effects = partition.written(&result, &limits, self.now());
            self.carry_out(&slot, &mut inner, effects);
        }
        if let Err(refusal) = result {
            tracing::info!(key = ?slot.key, %refusal, "a share partition's state is not written");
            if is_final(refusal.code) {
                self.forget_this(&slot, refusal);
            }
        }
    }

    fn forget_this(&self, slot: &Arc<Slot>, why: Refusal) {
        let mut slots = self.slots.lock();
        if slots.get(&slot.key).is_some_and(|here| Arc::ptr_eq(here, slot)) {
            slots.remove(&slot.key);
        }
        drop(slots);
        self.fence(slot, why);
    }

    fn forget(&self, key: &ShareKey, why: Refusal) {
        let slot = self.slots.lock().remove(key);
        if let Some(slot) = slot {
            self.fence(&slot, why);
        }
    }

    fn fence(&self, slot: &Arc<Slot>, why: Refusal) {
        let mut inner = slot.inner.lock();
        if let Stage::Active(partition) = &mut inner.stage {
            let effects = partition.fence();
            self.carry_out(slot, &mut inner, effects);
        }
        inner.stage = Stage::Gone(why);
        self.schedule(slot, &mut inner);
        drop(inner);
        slot.changed.wake();
    }

    fn look_at_locks(&self) {
        let now = self.now();
        loop {
            let key = {
                let mut due = self.board.due.lock();
                match due.first() {
                    Some((at, _)) if *at <= now => due.pop_first().map(|(_, key)| key),
                    _ => return,
                }
            };
            let slot = key.and_then(|key| self.slots.lock().get(&key).cloned());
            let Some(slot) = slot else { continue };
            let limits = self.limits(&slot.key.group);
            let mut inner = slot.inner.lock();
            inner.due = None;
            if let Stage::Active(partition) = &mut inner.stage {
                let effects = partition.expire(&limits, now);
                self.carry_out(&slot, &mut inner, effects);
            }
        }
    }

    fn look_at_connections(&self) {
        let closed = std::mem::take(&mut *self.board.closed.lock());
        for connection in closed {
            let sessions = self.sessions.lock().of_connection(connection);
            for key in sessions {
                self.end_session(&key);
                if !self.sessions.lock().has_group(&key.0) {
                    self.forget_group(&key.0);
                }
            }
        }
    }

    /// Share partitions of a group without members here, once nothing is in their way.
    fn forget_group(&self, group: &str) {
        let of_group: Vec<Arc<Slot>> = {
            let slots = self.slots.lock();
            slots.values().filter(|slot| slot.key.group == group).cloned().collect()
        };
        for slot in of_group {
            let idle = match &slot.inner.lock().stage {
                Stage::Active(partition) => partition.is_settled(),
                _ => false,
            };
            if idle {
                self.forget_this(&slot, ErrorCode::NotLeaderOrFollower.into());
            }
        }
    }

    fn next_due(&self) -> Option<Millis> {
        self.board.due.lock().first().map(|(at, _)| *at)
    }
}

/// Awaits what is due, and does it.
async fn look_after(shares: Arc<Shares>) {
    let clock = shares.partitions.context.env.clock.clone();
    loop {
        let pause = shares.next_due().map_or(IDLE, |at| {
            Duration::from_millis(u64::try_from(at - shares.now()).unwrap_or(0))
        });
        tokio::select! {
            biased;
            () = shares.board.changed.notified() => {}
            () = clock.sleep(pause) => {}
        }
        if *shares.board.stop.lock() {
            return;
        }
        shares.look_at_connections();
        shares.look_at_locks();
    }
}

impl LeadershipListener for Shares {
    fn on_leadership(&self, gained: &[(TopicPartition, LeaderEpoch)], lost: &[TopicPartition]) {
        let touched: BTreeSet<&TopicPartition> =
            gained.iter().map(|(id, _)| id).chain(lost).collect();
        let of_them: Vec<Arc<Slot>> = {
            let slots = self.slots.lock();
            slots.values().filter(|it| touched.contains(&it.partition.id)).cloned().collect()
        };
        for slot in of_them {
            let is_still: Result<(), ErrorCode> =
                Partition::check_leader(&slot.partition, slot.epoch);
            if is_still.is_err() {
                self.forget_this(&slot, ErrorCode::NotLeaderOrFollower.into());
            }
        }
    }
}
