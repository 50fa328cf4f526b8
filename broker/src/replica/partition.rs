//! One partition on this broker: its log, and the role that the image gives it.
//!
//! The driver of the pure roles: it touches log and clock, and carries out what they decide.
//! Invariants: an append happens under the role's lock, so a partition that has lost its leadership
//! writes nothing more; the published high watermark moves back only where a follower truncates.
//! The role's lock is held for an append to the page cache at most, never for an fsync or an await;
//! the flusher takes it while it holds the log's own flushing lock, so truncations, which need that
//! one, run under a lock of their own.
//!
//! `acks=1` means what it means in Kafka: in the leader's log, not necessarily on its disk.

mod following;
mod transactions;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use uuid::Uuid;

use super::context::Context;
use super::follower::Follower;
use super::leader::{self, Effect, Leader, Proposal, ReplicaFetch, Rules};
#[cfg(feature = "simulation")]
use super::planted;
use super::ticket::Ticket;
use super::watchers::Watchers;
use crate::controller::image::{Image, PartitionImage};
use crate::env::planted;
use crate::error::{ErrorCode, Refusal};
use crate::log::{Appending, Log, SyncListener};
use crate::types::{LeaderEpoch, NO_LEADER, NodeId, Offset, TopicPartition};

/// Sent where a client does not know the leader's epoch.
pub const ANY_EPOCH: LeaderEpoch = -1;

pub struct Partition {
    pub id: TopicPartition,
    pub topic_id: Uuid,
    /// Changes when the replica moves to another directory, under both locks.
    log: ArcSwap<Log>,
    context: Arc<Context>,
    /// Held while the log follows a leader, and while the role changes; taken before `role`.
    following: Mutex<()>,
    role: Mutex<Role>,
    high_watermark: AtomicI64,
    /// Woken by each append, and when the role changes.
    pub on_append: Watchers,
    /// Woken when the high watermark, the role or a replica's log start changes.
    pub on_commit: Watchers,
}

enum Role {
    /// Of a partition that has no leader, or before the first image.
    Idle(LeaderEpoch),
    Leader(Box<Leader>),
    Follower(Follower),
}

impl Role {
    fn epoch(&self) -> LeaderEpoch {
        match self {
            Self::Idle(epoch) => *epoch,
            Self::Leader(leader) => leader.epoch,
            Self::Follower(follower) => follower.epoch,
        }
    }
}

impl Partition {
    pub fn new(
        id: TopicPartition,
        topic_id: Uuid,
        log: Arc<Log>,
        high_watermark: Offset,
        context: Arc<Context>,
    ) -> Arc<Self> {
        let mut high_watermark = high_watermark.clamp(log.start_offset(), log.end_offset());
        if planted!(HighWatermarkCheckpointAhead) {
            high_watermark = log.end_offset();
        }
        log.on_high_watermark(high_watermark);
        let partition = Arc::new(Self {
            id,
            topic_id,
            log: ArcSwap::new(log),
            context,
            following: Mutex::new(()),
            role: Mutex::new(Role::Idle(ANY_EPOCH)),
            high_watermark: AtomicI64::new(high_watermark),
            on_append: Watchers::default(),
            on_commit: Watchers::default(),
        });
        partition.hear_of_syncs();
        partition
    }

    fn hear_of_syncs(self: &Arc<Self>) {
        let listener: Arc<dyn SyncListener> = Arc::new(Synced(Arc::downgrade(self)));
        self.log().set_sync_listener(Some(listener));
    }

    pub fn log(&self) -> Arc<Log> {
        self.log.load_full()
    }

    /// Goes on with `copy`, which has all but the last of what the log has. Returns the log that it
    /// was, or nothing if there is more to copy first. Until [`Self::confirm_log`], nothing is
    /// told to be durable.
    pub fn take_log(&self, copy: &Arc<Log>) -> Option<Arc<Log>> {
        let _following = self.following.lock();
        let _role = self.role.lock();
        let before = self.log();
        if !copy.take_over(&before) {
            return None;
        }
        before.set_sync_listener(None);
        self.log.store(copy.clone());
        Some(before)
    }

    /// A crash finds the log that was taken, with all that is in it.
    pub fn confirm_log(self: &Arc<Self>) {
        let log = self.log();
        log.release();
        self.hear_of_syncs();
        self.on_synced(log.synced_offset());
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark.load(Ordering::Acquire)
    }

    /// Up to where a read-committed consumer reads: the high watermark, or the first transaction
    /// that is not decided below it.
    pub fn last_stable_offset(&self) -> Offset {
        self.log().last_stable_offset(self.high_watermark())
    }

    pub fn epoch(&self) -> LeaderEpoch {
        self.role.lock().epoch()
    }

    pub fn is_leader(&self) -> bool {
        matches!(*self.role.lock(), Role::Leader(_))
    }

    /// The leader that is to be followed, and its epoch.
    pub fn follows(&self) -> Option<(NodeId, LeaderEpoch)> {
        match &*self.role.lock() {
            Role::Follower(follower) => Some((follower.leader, follower.epoch)),
            _ => None,
        }
    }

    /// All below is durable here, as far as the topic asks for that.
    pub fn synced_offset(&self) -> Offset {
        if planted!(AcknowledgeBeforeSync) {
            return self.log().end_offset();
        }
        self.log().synced_offset()
    }

    /// Takes the role that `image` gives it. Returns whether this broker has newly become leader.
    pub fn apply(&self, image: &PartitionImage, cluster: &Image, rules: Rules) -> bool {
        let _not_while_following = self.following.lock();
        let mut role = self.role.lock();
        if image.leader_epoch < role.epoch() {
            return false;
        }
        let now = self.context.now();
        if image.leader == self.context.me {
            if let Role::Leader(leader) = &mut *role
                && leader.epoch == image.leader_epoch
            {
                leader.rules = rules;
                let effects = leader.on_image(image, cluster, now);
                self.carry_out(effects);
                return false;
            }
            let end = self.log().end_offset();
            self.log().start_epoch(image.leader_epoch, end);
            let (synced, known) = (self.synced_offset(), self.high_watermark());
            let mut leader = Leader::new(self.context.me, image, end, synced, known, rules, now);
            let effects = leader.on_synced(synced, cluster, now);
            *role = Role::Leader(Box::new(leader));
            self.carry_out(effects);
            drop(role);
        } else if image.leader == NO_LEADER {
            *role = Role::Idle(image.leader_epoch);
            drop(role);
        } else {
            if let Role::Follower(follower) = &*role
                && follower.epoch == image.leader_epoch
                && follower.leader == image.leader
            {
                return false;
            }
            let known = self.high_watermark();
            #[cfg(feature = "simulation")]
            planted::truncate_to_high_watermark(self, known);
            *role = Role::Follower(Follower::new(image.leader, image.leader_epoch, known));
            drop(role);
        }
        self.wake_all();
        image.leader == self.context.me
    }

    /// The broker stops to serve the partition, which is deleted or moved away.
    pub fn retire(&self) {
        let _not_while_following = self.following.lock();
        let mut role = self.role.lock();
        *role = Role::Idle(role.epoch());
        drop(role);
        self.log().set_sync_listener(None);
        self.wake_all();
    }

    fn wake_all(&self) {
        self.on_append.wake();
        self.on_commit.wake();
    }

    /// Refuses unless this broker leads the partition, in the epoch that the caller knows of.
    pub fn check_leader(&self, known: LeaderEpoch) -> Result<(), ErrorCode> {
        let role = self.role.lock();
        check_epoch(known, role.epoch())?;
        match &*role {
            Role::Leader(_) => Ok(()),
            _ => Err(ErrorCode::NotLeaderOrFollower),
        }
    }

    /// As [`Self::check_leader`], for a reader whom a follower may serve, too.
    pub fn check_replica(&self, known: LeaderEpoch) -> Result<(), ErrorCode> {
        let role = self.role.lock();
        check_epoch(known, role.epoch())?;
        match &*role {
            Role::Idle(_) => Err(ErrorCode::NotLeaderOrFollower),
            _ => Ok(()),
        }
    }

    /// Appends as the leader. With `all`, refuses below `min.insync.replicas`.
    pub fn append(
        self: &Arc<Self>,
        batches: Bytes,
        all: bool,
        known: LeaderEpoch,
        appending: impl Into<Appending>,
    ) -> Result<Ticket, Refusal> {
        let appending = appending.into();
        let now = self.context.env.clock.wall_ms();
        let mut role = self.role.lock();
        check_epoch(known, role.epoch())?;
        let Role::Leader(leader) = &mut *role else {
            return Err(ErrorCode::NotLeaderOrFollower.into());
        };
        if all && !leader.has_enough_replicas() {
            return Err(Refusal::new(
                ErrorCode::NotEnoughReplicas,
                format!(
                    "The size of the current ISR {:?} is insufficient to satisfy the min.isr \
                     requirement of {} for partition {}",
                    leader.isr(),
                    leader.min_insync_replicas(),
                    self.id
                ),
            ));
        }
        let epoch = leader.epoch;
        #[cfg(feature = "simulation")]
        if appending.origin == crate::log::Origin::Client
            && let Some(ticket) =
                planted::acknowledged_before_append(self, &self.context.env, &batches, epoch)
        {
            return Ok(ticket);
        }
        let appended = self.log().append_as_leader(batches, epoch, appending, now);
        let appended = appended.map_err(|error| self.unless_deposed(error.into()))?;
        leader.on_append(self.log().end_offset());
        // With log.flush=page-cache the synced offset follows at once, and nobody tells.
        let image = self.context.image.load();
        let synced = self.synced_offset();
        let effects = leader.on_synced(synced, &**image, self.context.now());
        self.carry_out(effects);
        drop(role);
        self.on_append.wake();
        #[cfg(feature = "simulation")]
        if let Some(ticket) = planted::acknowledged_at_once(self, epoch, appended) {
            return Ok(ticket);
        }
        Ok(Ticket::new(self.clone(), epoch, appended))
    }

    /// A gap in a producer's sequence is final for the producer. It may as well be a gap in this log:
    /// a leader that was deposed and has not heard of it lacks what its successor took.
    fn unless_deposed(&self, refusal: Refusal) -> Refusal {
        if refusal.code == ErrorCode::OutOfOrderSequenceNumber && self.context.may_be_fenced() {
            let why =
                format!("{refusal}; but no controller has answered this leader for a session");
            return Refusal::new(ErrorCode::NotLeaderOrFollower, why);
        }
        refusal
    }

    /// Whether all below `required` is committed in `epoch`; `None`: not yet.
    pub fn committed(&self, required: Offset, epoch: LeaderEpoch) -> Option<Result<(), ErrorCode>> {
        if planted!(DeposedLeaderAcknowledges) {
            return (self.high_watermark() >= required).then_some(Ok(()));
        }
        let role = self.role.lock();
        let Role::Leader(leader) = &*role else {
            return Some(Err(ErrorCode::NotLeaderOrFollower));
        };
        if leader.epoch != epoch {
            return Some(Err(ErrorCode::NotLeaderOrFollower));
        }
        let enough = || {
            if leader.has_enough_replicas() {
                Ok(())
            } else {
                Err(ErrorCode::NotEnoughReplicasAfterAppend)
            }
        };
        (leader.high_watermark() >= required).then(enough)
    }

    /// A new leader whose high watermark has not reached the start of its epoch: consumers may have
    /// read further under its predecessor than it can tell yet.
    pub fn is_catching_up(&self) -> bool {
        if planted!(LatestOffsetMovesBack) {
            return false;
        }
        match &*self.role.lock() {
            Role::Leader(leader) => leader.high_watermark() < leader.epoch_start,
            _ => false,
        }
    }

    /// A follower fetches: it has all below `fetch.offset`.
    pub fn on_fetch(&self, fetch: ReplicaFetch) -> Result<(), ErrorCode> {
        let image = self.context.image.load();
        let mut role = self.role.lock();
        let Role::Leader(leader) = &mut *role else {
            return Err(ErrorCode::NotLeaderOrFollower);
        };
        let before = leader.others().get(&fetch.replica).map(|replica| replica.log_start);
        let effects = leader
            .on_fetch(fetch, &**image, self.context.now())
            .ok_or(ErrorCode::UnknownLeaderEpoch)?;
        self.carry_out(effects);
        drop(role);
        if before != Some(fetch.log_start) {
            self.on_commit.wake();
        }
        Ok(())
    }

    /// Looks for replicas that lag, or that may join the ISR.
    pub fn tick(&self) {
        let image = self.context.image.load();
        let mut role = self.role.lock();
        if let Role::Leader(leader) = &mut *role {
            let effects = leader.on_tick(&**image, self.context.now());
            self.carry_out(effects);
        }
    }

    fn on_synced(&self, synced: Offset) {
        let image = self.context.image.load();
        let mut role = self.role.lock();
        if let Role::Leader(leader) = &mut *role {
            let effects = leader.on_synced(synced, &**image, self.context.now());
            self.carry_out(effects);
        }
        self.on_commit.wake();
    }

    pub fn on_isr_accepted(&self, epoch: LeaderEpoch, isr: &[NodeId], partition_epoch: i32) {
        let image = self.context.image.load();
        let mut role = self.role.lock();
        if let Role::Leader(leader) = &mut *role {
            let now = self.context.now();
            let effects = leader.on_isr_accepted(epoch, isr, partition_epoch, &**image, now);
            self.carry_out(effects);
            self.on_commit.wake();
        }
    }

    /// Returns whether the proposal is to be sent again.
    pub fn on_isr_refused(&self, proposal: &Proposal, code: ErrorCode) -> bool {
        match &mut *self.role.lock() {
            Role::Leader(leader) => leader.on_isr_refused(proposal, code),
            _ => false,
        }
    }

    fn carry_out(&self, effects: leader::Effects) {
        for effect in effects {
            match effect {
                Effect::HighWatermark(offset) => {
                    self.high_watermark.fetch_max(offset, Ordering::AcqRel);
                    self.log().on_high_watermark(offset);
                    self.on_commit.wake();
                }
                Effect::ProposeIsr(proposal) => {
                    tracing::info!(partition = %self.id, isr = ?proposal.isr, "proposes an ISR");
                    self.context.propose(self.topic_id, self.id.partition, proposal);
                }
            }
        }
    }

    /// The lowest log start of all replicas; only the leader knows.
    pub fn low_watermark(&self) -> Result<Offset, ErrorCode> {
        let image = self.context.image.load();
        match &*self.role.lock() {
            Role::Leader(leader) => Ok(leader.low_watermark(self.log().start_offset(), &**image)),
            _ => Err(ErrorCode::NotLeaderOrFollower),
        }
    }

    /// Deletes all below `offset`, -1: below the high watermark. Returns the log start wanted.
    pub fn delete_records(&self, offset: Offset) -> Result<Offset, ErrorCode> {
        let role = self.role.lock();
        if !matches!(*role, Role::Leader(_)) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let high_watermark = self.high_watermark();
        let offset = if offset == -1 { high_watermark } else { offset };
        if !(0..=high_watermark).contains(&offset) {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        self.log().advance_start(offset);
        drop(role);
        self.wake_all();
        Ok(offset)
    }
}

/// Compares the epoch that a client knows with ours.
fn check_epoch(known: LeaderEpoch, ours: LeaderEpoch) -> Result<(), ErrorCode> {
    if known == ANY_EPOCH || known == ours {
        Ok(())
    } else if known < ours {
        Err(ErrorCode::FencedLeaderEpoch)
    } else {
        Err(ErrorCode::UnknownLeaderEpoch)
    }
}

/// Tells the partition what the flusher made durable.
struct Synced(std::sync::Weak<Partition>);

impl SyncListener for Synced {
    fn synced(&self, offset: Offset) {
        if let Some(partition) = self.0.upgrade() {
            partition.on_synced(offset);
        }
    }
}
