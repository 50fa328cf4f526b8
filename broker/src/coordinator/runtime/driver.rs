//! The task that drives all shards of this broker.
//!
//! A turn: take what happened (commits, loads, news, timers, calls), let the shards step, append
//! what they wrote as one batch per partition. Never waits for the log within a turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::hosted::{Active, Hosted, Waiting};
use super::loader;
use super::state_log::StateLog;
use super::timers::Timers;
use super::{Board, Event, Leadership, News, Reach};
use crate::coordinator::group::call::{Asked, Call};
use crate::coordinator::group::classic::append_error;
use crate::coordinator::group::effects::{Answer, Effects, TimerChange, Token};
use crate::coordinator::group::offsets::Write;
use crate::coordinator::group::settings::GroupSettings;
use crate::coordinator::group::shard::{MAX_TOMBSTONES, Shard};
use crate::env::{self, Env};
use crate::error::{ErrorCode, Refusal};
use crate::types::{LeaderEpoch, Millis};

/// Calls that one turn takes at most: how many may share a batch.
const CALLS_PER_TURN: usize = 256;
/// Rounds of appending in one turn; what an append that failed brings about is appended, too.
const ROUNDS: usize = 4;

/// What the log tells us later.
enum Done {
    Loaded { partition: i32, epoch: LeaderEpoch, result: Result<Shard, Refusal> },
    Committed { partition: i32, epoch: LeaderEpoch, write: Write, result: Result<(), Refusal> },
}

struct Parked {
    asked: Asked,
    reply: oneshot::Sender<Answer>,
}

pub(super) struct Driver {
    env: Env,
    settings: GroupSettings,
    log: Arc<dyn StateLog>,
    board: Arc<Board>,
    hosted: BTreeMap<i32, Hosted>,
    /// Looked up by token only; never iterated.
    parked: FxHashMap<Token, Parked>,
    next_token: Token,
    timers: Timers,
    expire_offsets_at: Instant,
    /// When batches on their way are answered as failed, in the order of their appends.
    overdue: VecDeque<(Instant, i32, LeaderEpoch, Write)>,
    /// Partitions with a batch to be appended.
    dirty: BTreeSet<i32>,
    pending: FuturesUnordered<BoxFuture<'static, Done>>,
}

impl Driver {
    pub fn new(
        env: Env,
        settings: GroupSettings,
        log: Arc<dyn StateLog>,
        board: Arc<Board>,
    ) -> Self {
        let expire_offsets_at = env.clock.now() + settings.offsets_retention_check_interval;
        Self {
            env,
            settings,
            log,
            board,
            hosted: BTreeMap::new(),
            parked: FxHashMap::default(),
            next_token: 0,
            timers: Timers::default(),
            expire_offsets_at,
            overdue: VecDeque::new(),
            dirty: BTreeSet::new(),
            pending: FuturesUnordered::new(),
        }
    }

    /// Runs until it is told to stop, or nobody can call any more.
    pub async fn run(mut self, mut calls: mpsc::Receiver<Event>) {
        let board = self.board.clone();
        loop {
            let due = self.next_due();
            tokio::select! {
                biased;
                Some(done) = self.pending.next() => self.done(done),
                () = board.changed.notified() => {
                    if self.read_news() {
                        break;
                    }
                }
                () = self.env.clock.sleep_until(due) => self.run_timers(),
                event = calls.recv() => match event {
                    Some(event) => self.take_calls(event, &mut calls),
                    None => break,
                },
            }
            self.append_all();
        }
        let all: Vec<i32> = self.hosted.keys().copied().collect();
        for partition in all {
            self.unload(partition);
        }
    }

    fn now(&self) -> Millis {
        self.env.clock.wall_ms()
    }

    fn next_due(&self) -> Instant {
        let overdue = self.overdue.front().map(|(at, ..)| *at);
        let timers = self.timers.next_due();
        let next = [overdue, timers].into_iter().flatten().min();
        next.map_or(self.expire_offsets_at, |next| next.min(self.expire_offsets_at))
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Loaded { partition, epoch, result } => self.loaded(partition, epoch, result),
            Done::Committed { partition, epoch, write, result } => {
                self.committed(partition, epoch, write, result);
            }
        }
    }

    /// Whether it is time to stop.
    fn read_news(&mut self) -> bool {
        let News { leadership, deleted_topics, stop } =
            std::mem::take(&mut *self.board.news.lock());
        for (partition, change) in leadership {
            match change {
                Leadership::Lost => self.unload(partition),
                Leadership::Gained(epoch) => self.begin_load(partition, epoch),
            }
        }
        if !deleted_topics.is_empty() {
            self.forget_topics(&deleted_topics);
        }
        stop
    }

    fn begin_load(&mut self, partition: i32, epoch: LeaderEpoch) {
        if self.hosted.get(&partition).is_some_and(|hosted| hosted.epoch() >= epoch) {
            return;
        }
        // With a new epoch somebody else may have led, and written, in between.
        self.unload(partition);
        self.hosted.insert(partition, Hosted::Loading(epoch));
        let log = self.log.clone();
        let load = env::spawn(async move { loader::load(&*log, partition, epoch).await });
        self.pending.push(Box::pin(async move {
            let failed = |_| Err(ErrorCode::UnknownServerError.into());
            Done::Loaded { partition, epoch, result: load.await.unwrap_or_else(failed) }
        }));
    }

    fn loaded(&mut self, partition: i32, epoch: LeaderEpoch, result: Result<Shard, Refusal>) {
        if !matches!(self.hosted.get(&partition), Some(Hosted::Loading(at)) if *at == epoch) {
            return; // Something newer is under way.
        }
        match result {
            Ok(mut shard) => {
                let groups = shard.groups().count();
                tracing::info!(partition, epoch, groups, "groups are loaded");
                let effects = shard.loaded(&self.settings, self.now());
                let active = Box::new(Active::new(epoch, shard));
                self.hosted.insert(partition, Hosted::Active(active));
                self.perform(partition, effects);
            }
            Err(refusal) => {
                tracing::warn!(partition, epoch, %refusal, "groups could not be loaded");
                self.hosted.insert(partition, Hosted::Failed(epoch));
            }
        }
    }

    /// Ends a shard: all that wait are told to look for its new coordinator.
    fn unload(&mut self, partition: i32) {
        self.timers.cancel_all(partition);
        self.dirty.remove(&partition);
        let Some(Hosted::Active(mut active)) = self.hosted.remove(&partition) else { return };
        let effects = active.shard.unload(&self.settings, self.now());
        for (token, answer) in effects.answers {
            self.reply(token, answer);
        }
        for waiting in active.take_waiting_from(0) {
            if let Waiting::Answer(token, _) = waiting {
                self.refuse(token, ErrorCode::NotCoordinator);
            }
        }
    }

    fn forget_topics(&mut self, topics: &[(String, Uuid)]) {
        self.step_all(|shard, _, _| shard.topics_deleted(topics));
    }

    /// Lets all shards write tombstones until they have no more.
    fn step_all(&mut self, step: impl Fn(&mut Shard, &GroupSettings, Millis) -> Effects) {
        let now = self.now();
        for partition in self.hosted.keys().copied().collect::<Vec<_>>() {
            while let Some(Hosted::Active(active)) = self.hosted.get_mut(&partition) {
                let effects = step(&mut active.shard, &self.settings, now);
                let more = effects.records.len() >= MAX_TOMBSTONES;
                self.perform(partition, effects);
                if !more {
                    break;
                }
            }
        }
    }

    fn run_timers(&mut self) {
        let now = self.env.clock.now();
        while let Some((partition, group, timer)) = self.timers.pop(now) {
            let wall = self.now();
            if let Some(Hosted::Active(active)) = self.hosted.get_mut(&partition) {
                let effects = active.shard.expire(&group, timer, &self.settings, wall);
                self.perform(partition, effects);
            }
        }
        while let Some((_, partition, epoch, write)) =
            self.overdue.pop_front_if(|(at, ..)| *at <= now)
        {
            self.settle(partition, epoch, write, Err(ErrorCode::RequestTimedOut));
        }
        if self.expire_offsets_at <= now {
            self.expire_offsets_at = now + self.settings.offsets_retention_check_interval;
            self.step_all(Shard::expire_offsets);
        }
    }

    fn take_calls(&mut self, first: Event, calls: &mut mpsc::Receiver<Event>) {
        self.take_call(first);
        for _ in 1..CALLS_PER_TURN {
            match calls.try_recv() {
                Ok(event) => self.take_call(event),
                Err(_) => break,
            }
        }
    }

    fn take_call(&mut self, event: Event) {
        let Event { reach, call, reply } = event;
        let asked = call.asked();
        match reach {
            Reach::All => {
                // Whoever asked may have gone; nobody else would miss the answer.
                let _ = reply.send(self.list(call));
            }
            Reach::Partition(partition) => match self.hosted.get_mut(&partition) {
                Some(Hosted::Active(active)) => {
                    let token = self.next_token;
                    self.next_token += 1;
                    let now = self.env.clock.wall_ms();
                    let call = call.with_token(token);
                    let effects = active.shard.handle(token, call, &asked, &self.settings, now);
                    self.parked.insert(token, Parked { asked, reply });
                    self.perform(partition, effects);
                }
                Some(Hosted::Loading(_)) => {
                    let _ = reply.send(asked.refuse(ErrorCode::CoordinatorLoadInProgress));
                }
                Some(Hosted::Failed(_)) | None => {
                    let _ = reply.send(asked.refuse(ErrorCode::NotCoordinator));
                }
            },
        }
    }

    /// All groups of this broker, or why they cannot all be told.
    fn list(&mut self, call: Call) -> Answer {
        let Call::List { states, types } = call else {
            return call.asked().refuse(ErrorCode::InvalidRequest);
        };
        let mut groups = Vec::new();
        for hosted in self.hosted.values() {
            match hosted {
                Hosted::Active(active) => groups.extend(active.shard.list(&states, &types)),
                Hosted::Loading(_) => {
                    return Answer::List(Err(ErrorCode::CoordinatorLoadInProgress));
                }
                Hosted::Failed(_) => {}
            }
        }
        Answer::List(Ok(groups))
    }

    /// Carries out what a step of a shard asks for.
    fn perform(&mut self, partition: i32, effects: Effects) {
        let Effects { timers, answers, records, then, after_commit, replay: _ } = effects;
        for (group, change) in timers {
            match change {
                TimerChange::Set { slot, after_ms, timer } => {
                    let after = Duration::from_millis(after_ms.max(0) as u64);
                    self.timers.set(partition, group, slot, self.env.clock.now() + after, timer);
                }
                TimerChange::Cancel(slot) => self.timers.cancel(partition, group, slot),
            }
        }
        for (token, answer) in answers {
            self.reply(token, answer);
        }
        let now = self.now();
        let Some(Hosted::Active(active)) = self.hosted.get_mut(&partition) else { return };
        if !records.is_empty() {
            active.collect(&records, now);
            self.dirty.insert(partition);
        }
        let then = then.map(|(group, then)| Waiting::Group(group, then));
        let answer = after_commit.map(|(token, answer)| Waiting::Answer(token, answer));
        let ready: Vec<_> =
            [then, answer].into_iter().flatten().filter_map(|it| active.wait(it)).collect();
        let full = active.is_batch_full();
        for waiting in ready {
            self.go_on(partition, waiting, Ok(()));
        }
        if full {
            self.append(partition);
        }
    }

    fn append_all(&mut self) {
        for _ in 0..ROUNDS {
            let dirty = std::mem::take(&mut self.dirty);
            if dirty.is_empty() {
                return;
            }
            for partition in dirty {
                self.append(partition);
            }
        }
    }

    fn append(&mut self, partition: i32) {
        self.dirty.remove(&partition);
        let now = self.now();
        let Some(Hosted::Active(active)) = self.hosted.get_mut(&partition) else { return };
        let epoch = active.epoch;
        let Some((first, write, batch)) = active.take_batch() else { return };
        match self.log.append(partition, epoch, batch) {
            Ok(committed) => {
                let deadline = self.env.clock.now() + self.settings.offsets_commit_timeout;
                self.overdue.push_back((deadline, partition, epoch, write));
                self.pending.push(Box::pin(async move {
                    Done::Committed { partition, epoch, write, result: committed.await }
                }));
            }
            Err(refusal) => {
                tracing::debug!(partition, %refusal, "a batch of group records is refused");
                let waiting = active.take_waiting_from(first);
                let effects = active.shard.take_back(first, refusal.code, &self.settings, now);
                self.perform(partition, effects);
                for waiting in waiting {
                    self.go_on(partition, waiting, Err(refusal.code));
                }
            }
        }
    }

    fn committed(
        &mut self,
        partition: i32,
        epoch: LeaderEpoch,
        write: Write,
        result: Result<(), Refusal>,
    ) {
        let Some(Hosted::Active(active)) = self.hosted.get_mut(&partition) else { return };
        if active.epoch != epoch {
            return;
        }
        // Too few in-sync replicas by now; but those that are in sync have it.
        let lacks_replicas =
            |refusal: &Refusal| refusal.code == ErrorCode::NotEnoughReplicasAfterAppend;
        match result.or_else(|it| if lacks_replicas(&it) { Ok(()) } else { Err(it) }) {
            Ok(()) => {
                active.shard.commit_up_to(write);
                self.overdue.retain(|(_, at, of, up_to)| {
                    (*at, *of) != (partition, epoch) || *up_to > write
                });
                self.settle(partition, epoch, write, Ok(()));
            }
            Err(refusal) => {
                // What the log holds now is unknown: read it again, if it is still ours.
                tracing::info!(partition, epoch, %refusal, "group records are not committed");
                self.unload(partition);
                self.begin_load(partition, epoch);
            }
        }
    }

    /// All that waits for writes up to `write` goes on.
    fn settle(
        &mut self,
        partition: i32,
        epoch: LeaderEpoch,
        write: Write,
        result: Result<(), ErrorCode>,
    ) {
        let Some(Hosted::Active(active)) = self.hosted.get_mut(&partition) else { return };
        if active.epoch != epoch {
            return;
        }
        for waiting in active.take_waiting_to(write) {
            self.go_on(partition, waiting, result);
        }
    }

    fn go_on(&mut self, partition: i32, waiting: Waiting, result: Result<(), ErrorCode>) {
        match (waiting, result) {
            (Waiting::Answer(token, answer), Ok(())) => self.reply(token, answer),
            (Waiting::Answer(token, _), Err(code)) => self.refuse(token, append_error(code)),
            (Waiting::Group(group, then), result) => {
                let now = self.now();
                if let Some(Hosted::Active(active)) = self.hosted.get_mut(&partition) {
                    let effects = active.shard.stored(&group, then, result, &self.settings, now);
                    self.perform(partition, effects);
                }
            }
        }
    }

    fn reply(&mut self, token: Token, answer: Answer) {
        if let Some(parked) = self.parked.remove(&token) {
            // Whoever asked may have gone.
            let _ = parked.reply.send(answer);
        }
    }

    fn refuse(&mut self, token: Token, code: ErrorCode) {
        if let Some(parked) = self.parked.remove(&token) {
            let _ = parked.reply.send(parked.asked.refuse(code));
        }
    }
}
