//! The task that drives all shards of one kind on this broker.
//!
//! A turn: take what happened (commits, loads, news, timers, calls), let the shards step, append
//! what they wrote as one batch per partition. What is written in a producer's transaction, and the
//! marker that ends one, is a batch of its own and appended at once: that the log refuses it
//! concerns nobody else. Never waits for the log within a turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::effects::{Effects, Token, Write};
use super::hosted::{Active, Hosted, TransactionEnd, Waiting};
use super::loader;
use super::means::Means;
use super::shard::{Context, CoordinatorShard, MAX_SWEPT};
use super::state_log::Appended;
use super::timers::Timers;
use super::{Board, Event, Leadership, News, Reach};
use crate::env::{self, planted};
use crate::error::{ErrorCode, Refusal};
use crate::types::LeaderEpoch;

/// Calls that one turn takes at most: how many may share a batch.
const CALLS_PER_TURN: usize = 256;
/// Rounds of appending in one turn; what an append that failed brings about is appended, too.
const ROUNDS: usize = 4;

/// What the log tells us later.
enum Done<S> {
    Loaded { partition: i32, epoch: LeaderEpoch, result: Result<S, Refusal> },
    Committed { partition: i32, epoch: LeaderEpoch, write: Write, result: Result<(), Refusal> },
}

struct Parked<S: CoordinatorShard> {
    asked: S::Asked,
    reply: oneshot::Sender<S::Answer>,
}

pub(super) struct Driver<S: CoordinatorShard> {
    means: Means<S>,
    board: Arc<Board>,
    hosted: BTreeMap<i32, Hosted<S>>,
    /// Looked up by token only; never iterated.
    parked: FxHashMap<Token, Parked<S>>,
    next_token: Token,
    timers: Timers<S>,
    sweep_at: Instant,
    /// When batches on their way are answered as failed, in the order of their appends.
    overdue: VecDeque<(Instant, i32, LeaderEpoch, Write)>,
    /// Partitions with a batch to be appended.
    dirty: BTreeSet<i32>,
    pending: FuturesUnordered<BoxFuture<'static, Done<S>>>,
}

impl<S: CoordinatorShard> Driver<S> {
    pub fn new(means: Means<S>, board: Arc<Board>) -> Self {
        let sweep_at = means.env.clock.now() + S::sweep_interval(&means.settings);
        Self {
            means,
            board,
            hosted: BTreeMap::new(),
            parked: FxHashMap::default(),
            next_token: 0,
            timers: Timers::default(),
            sweep_at,
            overdue: VecDeque::new(),
            dirty: BTreeSet::new(),
            pending: FuturesUnordered::new(),
        }
    }

    /// Runs until it is told to stop, or nobody can call any more.
    pub async fn run(mut self, mut calls: mpsc::Receiver<Event<S>>) {
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
                () = self.means.env.clock.sleep_until(due) => self.run_timers(),
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

    fn next_due(&self) -> Instant {
        let overdue = self.overdue.front().map(|(at, ..)| *at);
        let timers = self.timers.next_due();
        let next = [overdue, timers].into_iter().flatten().min();
        next.map_or(self.sweep_at, |next| next.min(self.sweep_at))
    }

    fn done(&mut self, done: Done<S>) {
        match done {
            Done::Loaded { partition, epoch, result } => self.loaded(partition, epoch, result),
            Done::Committed { partition, epoch, write, result } => {
                self.committed(partition, epoch, write, result);
            }
        }
    }

    /// Whether it is time to stop.
    fn read_news(&mut self) -> bool {
        let News { leadership, deleted_topics, changed_topics, stop } =
            std::mem::take(&mut *self.board.news.lock());
        for (partition, change) in leadership {
            match change {
                Leadership::Lost => self.unload(partition),
                Leadership::Gained(epoch) => self.begin_load(partition, epoch),
            }
        }
        if !changed_topics.names.is_empty() {
            for hosted in self.hosted.values_mut() {
                if let Hosted::Active(active) = hosted {
                    self.means.step(|it| active.shard.topics_changed(&changed_topics, it));
                }
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
        let log = self.means.log.clone();
        let load = env::spawn(async move { loader::load(&*log, partition, epoch).await });
        self.pending.push(Box::pin(async move {
            let failed = |_| Err(ErrorCode::UnknownServerError.into());
            Done::Loaded { partition, epoch, result: load.await.unwrap_or_else(failed) }
        }));
    }

    fn loaded(&mut self, partition: i32, epoch: LeaderEpoch, result: Result<S, Refusal>) {
        if !matches!(self.hosted.get(&partition), Some(Hosted::Loading(at)) if *at == epoch) {
            return; // Something newer is under way.
        }
        let what = S::WHAT;
        match result {
            Ok(mut shard) => {
                tracing::info!(partition, epoch, "{what} are loaded");
                let effects = self.means.step(|context| shard.loaded(context));
                let active = Box::new(Active::new(epoch, shard));
                self.hosted.insert(partition, Hosted::Active(active));
                self.perform(partition, effects);
            }
            Err(refusal) => {
                tracing::warn!(partition, epoch, %refusal, "{what} could not be loaded");
                self.hosted.insert(partition, Hosted::Failed(epoch));
            }
        }
    }

    /// Ends a shard: all that wait are told to look for its new coordinator.
    fn unload(&mut self, partition: i32) {
        self.timers.cancel_all(partition);
        self.dirty.remove(&partition);
        let Some(Hosted::Active(mut active)) = self.hosted.remove(&partition) else { return };
        let effects = self.means.step(|context| active.shard.unload(context));
        for (token, answer) in effects.answers {
            self.reply(token, answer);
        }
        for notice in effects.notices {
            (self.means.notify)(partition, active.epoch, notice);
        }
        for waiting in active.take_waiting_from(0) {
            match waiting {
                Waiting::Answer(token, _) => self.refuse(token, ErrorCode::NotCoordinator),
                Waiting::Marker(reply) => {
                    let _ = reply.send(Err(ErrorCode::NotCoordinator));
                }
                Waiting::Shard(..) => {}
            }
        }
    }

    fn forget_topics(&mut self, topics: &[(String, Uuid)]) {
        self.step_all(|shard, context| shard.topics_deleted(topics, context));
    }

    /// Lets all shards write tombstones until they have no more.
    fn step_all(&mut self, step: impl Fn(&mut S, &Context<'_, S>) -> Effects<S>) {
        for partition in self.hosted.keys().copied().collect::<Vec<_>>() {
            while let Some(Hosted::Active(active)) = self.hosted.get_mut(&partition) {
                let effects = self.means.step(|context| step(&mut active.shard, context));
                let more = effects.records.len() >= MAX_SWEPT;
                self.perform(partition, effects);
                if !more {
                    break;
                }
            }
        }
    }

    fn run_timers(&mut self) {
        let now = self.means.env.clock.now();
        while let Some((partition, key, timer)) = self.timers.pop(now) {
            if let Some(Hosted::Active(active)) = self.hosted.get_mut(&partition) {
                let effects = self.means.step(|context| active.shard.expire(&key, timer, context));
                self.perform(partition, effects);
            }
        }
        while let Some((_, partition, epoch, write)) =
            self.overdue.pop_front_if(|(at, ..)| *at <= now)
        {
            self.settle(partition, epoch, write, Err(ErrorCode::RequestTimedOut));
        }
        if self.sweep_at <= now {
            self.sweep_at = now + S::sweep_interval(&self.means.settings);
            self.step_all(S::sweep);
        }
    }

    fn take_calls(&mut self, first: Event<S>, calls: &mut mpsc::Receiver<Event<S>>) {
        self.take_event(first);
        for _ in 1..CALLS_PER_TURN {
            match calls.try_recv() {
                Ok(event) => self.take_event(event),
                Err(_) => break,
            }
        }
    }

    fn take_event(&mut self, event: Event<S>) {
        match event {
            Event::Call { reach: Reach::All, call, reply } => {
                // Whoever asked may have gone; nobody else would miss the answer.
                let _ = reply.send(self.ask_all(&call));
            }
            Event::Call { reach: Reach::Partition(partition), call, reply } => {
                self.take_call(partition, call, reply);
            }
            Event::Marker { partition, end, reply } => self.take_marker(partition, end, reply),
        }
    }

    fn take_call(&mut self, partition: i32, call: S::Call, reply: oneshot::Sender<S::Answer>) {
        let asked = S::asked(&call);
        let active = match Self::active(&mut self.hosted, partition) {
            Ok(active) => active,
            Err(code) => {
                let _ = reply.send(S::refuse(&asked, code));
                return;
            }
        };
        let token = self.next_token;
        self.next_token += 1;
        let effects = self.means.step(|context| active.shard.handle(token, call, &asked, context));
        self.parked.insert(token, Parked { asked, reply });
        self.perform(partition, effects);
    }

    /// A transaction ends: the marker takes its place among the writes.
    fn take_marker(
        &mut self,
        partition: i32,
        end: TransactionEnd,
        reply: oneshot::Sender<Result<(), ErrorCode>>,
    ) {
        let now = self.means.env.clock.wall_ms();
        let active = match Self::active(&mut self.hosted, partition) {
            Ok(active) => active,
            Err(code) => {
                let _ = reply.send(Err(code));
                return;
            }
        };
        active.shard.end_transaction(end.producer_id, end.committed);
        active.collect_marker(end, now);
        // It was written just now: it waits.
        active.wait(Waiting::Marker(reply));
        self.append(partition);
    }

    /// The shard that serves a partition, or why none does.
    fn active(
        hosted: &mut BTreeMap<i32, Hosted<S>>,
        partition: i32,
    ) -> Result<&mut Active<S>, ErrorCode> {
        match hosted.get_mut(&partition) {
            Some(Hosted::Active(active)) => Ok(active),
            Some(Hosted::Loading(_)) => Err(ErrorCode::CoordinatorLoadInProgress),
            Some(Hosted::Failed(_)) | None => Err(ErrorCode::NotCoordinator),
        }
    }

    /// Asks all shards of this broker, unless one of them is not there yet.
    fn ask_all(&self, call: &S::Call) -> S::Answer {
        if self.hosted.values().any(|hosted| matches!(hosted, Hosted::Loading(_))) {
            return S::refuse(&S::asked(call), ErrorCode::CoordinatorLoadInProgress);
        }
        let mut shards = self.hosted.values().filter_map(|hosted| match hosted {
            Hosted::Active(active) => Some(&active.shard),
            Hosted::Loading(_) | Hosted::Failed(_) => None,
        });
        self.means.step(|context| S::handle_all(call, &mut shards, context))
    }

    /// Carries out what a step of a shard asks for.
    fn perform(&mut self, partition: i32, effects: Effects<S>) {
        let Effects {
            timers,
            answers,
            notices,
            records,
            transaction,
            then,
            after_commit,
            replay: _,
        } = effects;
        for (key, change) in timers {
            self.timers.change(partition, key, change, self.means.env.clock.now());
        }
        for (token, answer) in answers {
            self.reply(token, answer);
        }
        let now = self.means.env.clock.wall_ms();
        let Some(Hosted::Active(active)) = self.hosted.get_mut(&partition) else { return };
        for notice in notices {
            (self.means.notify)(partition, active.epoch, notice);
        }
        if !records.is_empty() {
            active.collect(&records, transaction, now);
            self.dirty.insert(partition);
        }
        let mut after_commit = after_commit;
        if planted!(AnswersBeforeReplicated)
            && let Some((token, answer)) = after_commit.take()
        {
            self.reply(token, answer);
        }
        let Some(Hosted::Active(active)) = self.hosted.get_mut(&partition) else { return };
        let then = then.map(|(key, then)| Waiting::Shard(key, then));
        let answer = after_commit.map(|(token, answer)| Waiting::Answer(token, answer));
        let ready: Vec<_> =
            [then, answer].into_iter().flatten().filter_map(|it| active.wait(it)).collect();
        let at_once = transaction.is_some() || active.is_batch_full();
        for waiting in ready {
            self.go_on(partition, waiting, Ok(()));
        }
        if at_once {
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

    /// Appends what was collected for a partition, batch by batch, until one is refused.
    fn append(&mut self, partition: i32) {
        self.dirty.remove(&partition);
        while let Some(Hosted::Active(active)) = self.hosted.get_mut(&partition) {
            let epoch = active.epoch;
            let Some((first, write, batch, appending)) = active.take_batch() else { return };
            match self.means.log.append(S::TOPIC, partition, epoch, batch, appending) {
                Ok(Appended { base, committed }) => {
                    active.shard.appended(first, write, base);
                    let timeout = S::commit_timeout(&self.means.settings);
                    let deadline = self.means.env.clock.now() + timeout;
                    self.overdue.push_back((deadline, partition, epoch, write));
                    self.pending.push(Box::pin(async move {
                        Done::Committed { partition, epoch, write, result: committed.await }
                    }));
                }
                Err(refusal) => {
                    let topic = S::TOPIC;
                    tracing::debug!(topic, partition, %refusal, "a batch is refused");
                    active.drop_batches();
                    let waiting = active.take_waiting_from(first);
                    let code = refusal.code;
                    let effects =
                        self.means.step(|context| active.shard.take_back(first, code, context));
                    self.perform(partition, effects);
                    for waiting in waiting {
                        self.go_on(partition, waiting, Err(code));
                    }
                    return;
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
                let topic = S::TOPIC;
                tracing::info!(topic, partition, epoch, %refusal, "records are not committed");
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

    fn go_on(&mut self, partition: i32, waiting: Waiting<S>, result: Result<(), ErrorCode>) {
        match (waiting, result) {
            (Waiting::Answer(token, answer), Ok(())) => self.reply(token, answer),
            (Waiting::Answer(token, _), Err(code)) => self.refuse(token, S::append_error(code)),
            (Waiting::Shard(key, then), result) => {
                if let Some(Hosted::Active(active)) = self.hosted.get_mut(&partition) {
                    let effects =
                        self.means.step(|context| active.shard.stored(&key, then, result, context));
                    self.perform(partition, effects);
                }
            }
            (Waiting::Marker(reply), result) => {
                // Whoever asked may have gone.
                let _ = reply.send(result);
            }
        }
    }

    fn reply(&mut self, token: Token, answer: S::Answer) {
        if let Some(parked) = self.parked.remove(&token) {
            // Whoever asked may have gone.
            let _ = parked.reply.send(answer);
        }
    }

    fn refuse(&mut self, token: Token, code: ErrorCode) {
        if let Some(parked) = self.parked.remove(&token) {
            let _ = parked.reply.send(S::refuse(&parked.asked, code));
        }
    }
}
