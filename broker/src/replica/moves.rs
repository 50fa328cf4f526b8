//! Replicas on their way from one log directory to another (KIP-113, KIP-858).
//!
//! A future replica in the target directory follows the one in place until it has caught up. Then
//! the controller is asked for the new directory, and once the image names it the partition goes on
//! with the copy: its log is taken, made durable, given the partition's name, and only then are
//! records acknowledged again and the old folder removed. Whatever moment a crash takes, the folder
//! with the partition's name holds all that was acknowledged; a start goes on with a future replica
//! that it finds, and removes an old one whose successor has the name already.
//!
//! As many replicas are copied at a time as there are directories, a few MiB each in turn: no task
//! is any one's own. Deliberately absent: a throttle (`replica.alter.log.dirs.io.max.bytes.per.second`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::directories::assigned;
use super::partition::Partition;
use super::partitions::Partitions;
use crate::error::{ErrorCode, Fault};
use crate::log::{Log, LogDir, can_be_moved};
use crate::types::{Millis, TopicPartition};

/// What is copied of one replica before it is the turn of the next.
const SLICE: usize = 8 << 20;
/// How often those are looked at that wait for the controller, or for room.
const PAUSE: Duration = Duration::from_millis(50);
/// After that the controller is told again: it may have refused, or somebody told it otherwise.
const ASK_AGAIN: Millis = 10_000;

/// All moves of a broker.
#[derive(Default)]
pub struct Moves {
    /// One for each replica at most.
    all: Mutex<BTreeMap<TopicPartition, Arc<Move>>>,
    /// Where replicas are to be made that are not here yet, for partitions that exist.
    wishes: Mutex<BTreeMap<TopicPartition, Uuid>>,
    begun: Notify,
}

/// One replica on its way.
struct Move {
    id: TopicPartition,
    topic_id: Uuid,
    to: Arc<LogDir>,
    copy: Arc<Log>,
    state: Mutex<State>,
}

/// Held while a slice is copied, so that nobody takes the copy away meanwhile.
#[derive(Default)]
struct State {
    asked: Option<Millis>,
    /// The partition goes on with the copy; this is the log that it had.
    taken: Option<Arc<Log>>,
    over: bool,
    /// The last step failed, and somebody was told.
    failed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    More,
    Waits,
    Over,
}

impl Moves {
    pub fn is_empty(&self) -> bool {
        self.all.lock().is_empty()
    }

    fn get(&self, id: &TopicPartition) -> Option<Arc<Move>> {
        self.all.lock().get(id).cloned()
    }

    fn begin(&self, topic_id: Uuid, to: &Arc<LogDir>, copy: Arc<Log>) {
        let (id, to) = (copy.partition().clone(), to.clone());
        tracing::info!(partition = %id, to = %to.path().display(), "moves to another log directory");
        let one = Move { id: id.clone(), topic_id, to, copy, state: Mutex::default() };
        self.all.lock().insert(id, Arc::new(one));
        self.begun.notify_one();
    }

    /// Where the replica is wanted, if somebody said so before it was made.
    pub(super) fn wish(&self, id: &TopicPartition) -> Option<Uuid> {
        self.wishes.lock().get(id).copied()
    }
    pub(super) fn forget_wish(&self, id: &TopicPartition) {
        self.wishes.lock().remove(id);
    }
    pub(super) fn forget_wishes_of(&self, topic: &str) {
        self.wishes.lock().retain(|id, _| &*id.topic != topic);
    }
}

impl Partitions {
    /// Blocking. Has the replica of `id` moved to the directory at `path`; answers as Kafka does.
    pub fn alter_log_dir(&self, id: &TopicPartition, path: &Path) -> Result<(), ErrorCode> {
        let _no_image = self.current.lock();
        if !can_be_moved(id) {
            return Err(ErrorCode::InvalidTopicException);
        }
        if self.dirs.broken().contains_key(path) {
            return Err(ErrorCode::KafkaStorageError);
        }
        let to = self.dirs.by_path(path).ok_or(ErrorCode::LogDirNotFound)?;
        if to.why_offline().is_some() || self.offline.read().contains_key(id) {
            return Err(ErrorCode::KafkaStorageError);
        }
        let Some(partition) = self.get(&id.topic, id.partition) else {
            if self.image().partition(&id.topic, id.partition).is_none() {
                return Err(ErrorCode::UnknownTopicOrPartition);
            }
            // It may be on its way here: kafka-reassign-partitions.sh says this first.
            self.moves.wishes.lock().insert(id.clone(), to.directory_id());
            return Err(ErrorCode::ReplicaNotAvailable);
        };
        if let Some(under_way) = self.moves.get(id) {
            if under_way.to.directory_id() == to.directory_id() {
                return Ok(());
            }
            // The last step of one that is as good as done.
            let taken = under_way.state.lock().taken.is_some();
            if taken && self.step_move(id) != Progress::Over {
                return Err(ErrorCode::KafkaStorageError);
            }
            self.cancel_move(id);
        }
        if to.holds(id) {
            return Ok(());
        }
        // The replica may lie in the one that is offline.
        if self.dirs.any_offline() {
            return Err(ErrorCode::KafkaStorageError);
        }
        let log = partition.log();
        let config = (*log.config()).clone();
        let copy = to.create_future(id, partition.topic_id, log.start_offset(), config);
        let copy = copy.map_err(|fault| {
            tracing::warn!(partition = %id, %fault, "cannot be moved");
            ErrorCode::KafkaStorageError
        })?;
        self.moves.begin(partition.topic_id, to, copy);
        Ok(())
    }

    /// Blocking. Nobody wants the copy any more.
    pub(super) fn cancel_move(&self, id: &TopicPartition) {
        let Some(one) = self.moves.all.lock().remove(id) else { return };
        let mut state = one.state.lock();
        state.over = true;
        if let Err(fault) = one.to.remove_future(id) {
            tracing::warn!(partition = %id, %fault, "its copy could not be removed");
        }
        if state.asked.is_some()
            && let Some(holder) = self.dirs.holder(id, None)
        {
            self.context.assign(one.topic_id, id.partition, holder.directory_id());
        }
    }

    /// Blocking. Goes on with a move that the run before this one did not end. Returns whether the
    /// image may go on naming the directory to which it leads.
    pub(super) fn resume_move(
        &self,
        id: &TopicPartition,
        topic_id: Uuid,
        log: &Log,
        assigned: Option<Uuid>,
    ) -> Result<bool, Fault> {
        let mut named = false;
        for to in self.dirs.online().filter(|dir| dir.found_future(id)) {
            let ours = to.future_topic_id(id)?.is_none_or(|found| found == topic_id);
            if !ours || to.holds(id) || self.moves.get(id).is_some() {
                to.remove_future(id)?;
                continue;
            }
            let Some(copy) = to.open_future(id, (*log.config()).clone())? else { continue };
            // Before anything is appended: what follows may get the offsets of what was lost.
            copy.cut_to(log)?;
            named |= assigned == Some(to.directory_id());
            self.moves.begin(topic_id, to, copy);
        }
        Ok(named)
    }

    /// Blocking. Copies a little of the replica, or does the next step. No step is done twice at a
    /// time.
    pub fn step_move(&self, id: &TopicPartition) -> Progress {
        let Some(one) = self.moves.get(id) else { return Progress::Over };
        let mut state = one.state.lock();
        if state.over {
            return Progress::Over;
        }
        let progress = match self.get(&id.topic, id.partition) {
            Some(partition) if partition.topic_id == one.topic_id => {
                let done = self.go_on(&one, &mut state, &partition);
                let failed = std::mem::replace(&mut state.failed, done.is_err());
                done.unwrap_or_else(|fault| {
                    if !failed {
                        tracing::warn!(partition = %id, %fault, "the move waits");
                    }
                    Progress::Waits
                })
            }
            // It is offline: what was copied is left for the next start.
            _ => Progress::Over,
        };
        let lost = one.to.why_offline().is_some();
        if lost {
            self.give_up(&one, &state);
        }
        if lost || progress == Progress::Over {
            state.over = true;
            let mut all = self.moves.all.lock();
            if all.get(id).is_some_and(|now| Arc::ptr_eq(now, &one)) {
                all.remove(id);
            }
            return Progress::Over;
        }
        progress
    }

    fn go_on(
        &self,
        one: &Move,
        state: &mut State,
        partition: &Arc<Partition>,
    ) -> Result<Progress, Fault> {
        if state.taken.is_some() {
            return self.finish(one, state, partition);
        }
        let log = partition.log();
        if one.copy.config() != log.config() {
            one.copy.set_config((*log.config()).clone());
        }
        if !one.copy.has_room() {
            return Ok(Progress::Waits);
        }
        if !one.copy.copy_from(&log, SLICE)? {
            return Ok(Progress::More);
        }
        if !self.is_named(one) {
            self.ask(one, state);
            return Ok(Progress::Waits);
        }
        // Most of it is durable before anybody has to wait for the rest.
        if !one.copy.make_durable() {
            return Ok(Progress::Waits);
        }
        if let Some(from) = self.dirs.holder(&one.id, None) {
            from.note_moved(&one.id, one.to.directory_id())?;
        }
        match partition.take_log(&one.copy) {
            Some(before) => state.taken = Some(before),
            None => return Ok(Progress::More),
        }
        self.finish(one, state, partition)
    }

    /// The partition goes on with the copy: that gets its name, then the old one goes.
    fn finish(
        &self,
        one: &Move,
        state: &mut State,
        partition: &Arc<Partition>,
    ) -> Result<Progress, Fault> {
        if !one.copy.make_durable() {
            return Ok(Progress::Waits);
        }
        let old = self.dirs.online().find(|dir| dir.holds(&one.id)).cloned();
        one.to.promote(&one.id)?;
        partition.confirm_log();
        state.taken = None;
        tracing::info!(partition = %one.id, to = %one.to.path().display(), "has moved");
        if let Some(old) = old
            && let Err(fault) = old.delete(&one.id)
        {
            tracing::warn!(partition = %one.id, %fault, "what it was before could not be removed");
        }
        // Whatever was under way when this was decided, this is true.
        self.context.assign(one.topic_id, one.id.partition, one.to.directory_id());
        Ok(Progress::Over)
    }

    fn is_named(&self, one: &Move) -> bool {
        let image = self.image();
        let partition = image.partition(&one.id.topic, one.id.partition);
        partition.and_then(|it| assigned(it, self.context.me)) == Some(one.to.directory_id())
    }

    fn ask(&self, one: &Move, state: &mut State) {
        let now = self.context.now();
        if state.asked.is_none_or(|asked| now - asked >= ASK_AGAIN) {
            state.asked = Some(now);
            self.context.assign(one.topic_id, one.id.partition, one.to.directory_id());
        }
    }

    /// The target has failed. The replica in place goes on; unless the partition had gone on with
    /// the copy, with which it is offline now until the next start.
    fn give_up(&self, one: &Move, state: &State) {
        tracing::warn!(partition = %one.id, "not moved: the log directory is offline");
        if let Some(before) = &state.taken {
            before.freeze();
            return;
        }
        let here = self.get(&one.id.topic, one.id.partition);
        if here.is_some()
            && let Some(holder) = self.dirs.holder(&one.id, None)
        {
            self.context.assign(one.topic_id, one.id.partition, holder.directory_id());
        }
    }
}

/// Carries out all moves, one slice of some of them at a time.
pub async fn run(partitions: Arc<Partitions>, stop: CancellationToken) {
    let at_once = partitions.dirs.all().len().max(1);
    let mut queue = VecDeque::<TopicPartition>::new();
    let mut known = BTreeSet::<TopicPartition>::new();
    let mut waiting = Vec::new();
    let mut running = FuturesUnordered::<BoxFuture<'static, (TopicPartition, Progress)>>::new();
    loop {
        for id in partitions.moves.all.lock().keys() {
            if known.insert(id.clone()) {
                queue.push_back(id.clone());
            }
        }
        while running.len() < at_once
            && let Some(id) = queue.pop_front()
        {
            let all = partitions.clone();
            let step = async move {
                let (doing, of) = (all.clone(), id.clone());
                (id, all.context.env.blocking(move || doing.step_move(&of)).await)
            };
            running.push(Box::pin(step));
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some((id, progress)) = running.next(), if !running.is_empty() => match progress {
                Progress::More => queue.push_back(id),
                Progress::Waits => waiting.push(id),
                Progress::Over => {
                    known.remove(&id);
                }
            },
            () = partitions.moves.begun.notified() => {}
            () = partitions.context.env.clock.sleep(PAUSE), if !waiting.is_empty() => {
                queue.extend(waiting.drain(..));
            }
        }
    }
}
