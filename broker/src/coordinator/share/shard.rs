//! One partition of `__share_group_state`: pure, decide → records → replay.
//!
//! A share partition has a state from when the group coordinator initializes it until it is
//! deleted. Its leader reads it, which fences older leaders, and writes what has changed: as an
//! update, and after so many of them as a snapshot of everything. Invariants:
//! - nothing changes but by replaying a record, and what could not be appended is undone;
//! - a leader or state epoch that was seen fences all lower ones;
//! - what replay of the partition yields is what the shard held.

use std::collections::{BTreeMap, VecDeque};

use uuid::Uuid;

use super::combine::combine;
use super::records::{Record, ShareKey, ShareSnapshotValue, ShareUpdateValue, StateBatch};
use crate::error::{ErrorCode, Refusal};
use crate::types::{LeaderEpoch, Millis, Offset};

/// Numbers the writes of a shard.
pub type Write = u64;

/// Before a share partition has a start offset of its own.
pub const UNINITIALIZED: Offset = -1;

/// A request about one share partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub key: ShareKey,
    /// Whether the image knows the partition.
    pub exists: bool,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub enum What {
    Read { leader_epoch: LeaderEpoch },
    Write(Changes),
    Initialize { state_epoch: i32, start: Offset },
    Delete,
    Summarize,
}

/// What a leader writes.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    pub state_epoch: i32,
    pub leader_epoch: LeaderEpoch,
    pub start: Offset,
    pub done: i32,
    pub batches: Vec<StateBatch>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Read(Result<State, Refusal>),
    /// To a write, an initialization, or a deletion.
    Done(Result<(), Refusal>),
    Summary(Result<Summary, Refusal>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub state_epoch: i32,
    pub start: Offset,
    pub batches: Vec<StateBatch>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub state_epoch: i32,
    pub leader_epoch: LeaderEpoch,
    pub start: Offset,
    pub done: i32,
}

/// What the shard needs to know of the broker's settings.
#[derive(Debug, Clone, Copy)]
pub struct ShardSettings {
    /// `share.coordinator.snapshot.update.records.per.snapshot`
    pub updates_per_snapshot: i32,
    /// `share.coordinator.cold.partition.snapshot.interval.ms`
    pub cold_after: Millis,
}

impl What {
    /// The answer that refuses this call.
    pub fn refuse(&self, refusal: Refusal) -> Answer {
        match self {
            Self::Read { .. } => Answer::Read(Err(refusal)),
            Self::Summarize => Answer::Summary(Err(refusal)),
            Self::Write(_) | Self::Initialize { .. } | Self::Delete => Answer::Done(Err(refusal)),
        }
    }
}

/// A share partition's state, and the highest epochs that were seen of it.
#[derive(Debug, Clone, PartialEq)]
struct Kept {
    value: ShareSnapshotValue,
    leader_epoch: LeaderEpoch,
    state_epoch: i32,
    /// Since the last snapshot.
    updates: i32,
    /// Where the record lies that all later ones build upon; unknown until it is appended.
    snapshot_at: Option<Offset>,
}

/// How a key was before a write.
type Before = (Write, ShareKey, Option<Kept>);

#[derive(Debug, Default)]
pub struct Shard {
    states: BTreeMap<ShareKey, Kept>,
    undo: VecDeque<Before>,
    written: Write,
    committed: Write,
}

impl Shard {
    /// The records that carry out `call`, and its answer, which waits until they, and all before
    /// them, are committed.
    pub fn handle(
        &mut self,
        call: Call,
        settings: &ShardSettings,
        now: Millis,
    ) -> (Vec<Record>, Answer) {
        let Call { key, exists, what } = call;
        let refuse = |refusal| (Vec::new(), what.refuse(refusal));
        if let Err(refusal) = self.check(&key, exists, &what) {
            return refuse(refusal);
        }
        let (record, answer) = match what {
            Read { leader_epoch } => self.read(key, leader_epoch, settings, now),
            What::Write(changes) => {
                (Some(self.change(key, changes, None, settings, now)), Answer::Done(Ok(())))
            }
            Initialize { state_epoch, start } => {
                (Some(self.initialize(key, state_epoch, start, now)), Answer::Done(Ok(())))
            }
            Delete => {
                let known = self.states.contains_key(&key);
                (known.then(|| Record::Snapshot(key, None)), Answer::Done(Ok(())))
            }
            Summarize => (None, Answer::Summary(Ok(self.summary(&key)))),
        };
        let records: Vec<_> = record.into_iter().collect();
        self.write(&records, settings);
        (records, answer)
    }

    fn check(&self, key: &ShareKey, exists: bool, what: &What) -> Result<(), Refusal> {
        if key.partition < 0 {
            let message = "The partition id cannot be a negative number.";
            return Err(Refusal::new(ErrorCode::InvalidRequest, message));
        }
        let kept = self.states.get(key);
        let uninitialized = |operation: &str| {
            let message =
                format!("{operation} operation on uninitialized share partition not allowed.");
            Refusal::new(ErrorCode::InvalidRequest, message)
        };
        let (leader_epoch, state_epoch) = match what {
            Read { leader_epoch } => {
                kept.ok_or_else(|| uninitialized("Read"))?;
                (*leader_epoch, -1)
            }
            What::Write(changes) => {
                kept.ok_or_else(|| uninitialized("Write"))?;
                (changes.leader_epoch, changes.state_epoch)
            }
            Initialize { state_epoch, .. } => (-1, *state_epoch),
            Delete | Summarize => (-1, -1),
        };
        if leader_epoch != -1 && kept.is_some_and(|kept| kept.leader_epoch > leader_epoch) {
            return Err(ErrorCode::FencedLeaderEpoch.into());
        }
        if state_epoch != -1 && kept.is_some_and(|kept| kept.state_epoch > state_epoch) {
            return Err(ErrorCode::FencedStateEpoch.into());
        }
        if exists { Ok(()) } else { Err(ErrorCode::UnknownTopicOrPartition.into()) }
    }

    fn read(
        &self,
        key: ShareKey,
        leader_epoch: LeaderEpoch,
        settings: &ShardSettings,
        now: Millis,
    ) -> (Option<Record>, Answer) {
        let kept = &self.states[&key];
        let value = &kept.value;
        let (state_epoch, start) = (value.state_epoch, value.start_offset);
        let state = State { state_epoch, start, batches: value.state_batches.clone() };
        let record = (leader_epoch != -1 && kept.leader_epoch != leader_epoch).then(|| {
            let done = value.done;
            let batches = Vec::new();
            let changes = Changes { state_epoch, leader_epoch, start, done, batches };
            self.change(key, changes, Some(leader_epoch), settings, now)
        });
        (record, Answer::Read(Ok(state)))
    }

    /// An update, or a snapshot when there are enough updates.
    fn change(
        &self,
        key: ShareKey,
        changes: Changes,
        new_leader: Option<LeaderEpoch>,
        settings: &ShardSettings,
        now: Millis,
    ) -> Record {
        let kept = &self.states[&key];
        let value = &kept.value;
        let leader_epoch = new_leader.unwrap_or(value.leader_epoch);
        let Changes { start, done, batches, .. } = changes;
        if kept.updates < settings.updates_per_snapshot {
            let snapshot_epoch = value.snapshot_epoch;
            let state_batches = combine(batches, start);
            let start_offset = start;
            return Record::Update(
                key,
                ShareUpdateValue { snapshot_epoch, leader_epoch, start_offset, done, state_batches },
            );
        }
        let start_offset = if start == UNINITIALIZED { value.start_offset } else { start };
        let all = value.state_batches.iter().copied().chain(batches);
        let snapshot = ShareSnapshotValue {
            snapshot_epoch: value.snapshot_epoch + 1,
            state_epoch: value.state_epoch,
            leader_epoch,
            start_offset,
            done,
            create_timestamp: now,
            write_timestamp: now,
            state_batches: combine(all, start_offset),
        };
        Record::Snapshot(key, Some(snapshot))
    }

    fn initialize(&self, key: ShareKey, state_epoch: i32, start: Offset, now: Millis) -> Record {
        let before = self.states.get(&key);
        let value = ShareSnapshotValue {
            snapshot_epoch: before.map_or(0, |kept| kept.value.snapshot_epoch + 1),
            state_epoch,
            leader_epoch: 0,
            start_offset: start,
            done: if start == UNINITIALIZED { -1 } else { 0 },
            create_timestamp: now,
            write_timestamp: now,
            state_batches: Vec::new(),
        };
        Record::Snapshot(key, Some(value))
    }

    fn summary(&self, key: &ShareKey) -> Summary {
        match self.states.get(key) {
            Some(Kept { value, .. }) => Summary {
                state_epoch: value.state_epoch,
                leader_epoch: value.leader_epoch,
                start: value.start_offset,
                done: value.done,
            },
            None => Summary { state_epoch: 0, leader_epoch: 0, start: UNINITIALIZED, done: -1 },
        }
    }

    /// Topics are gone, and with them what groups took of them. Returns tombstones, `most` of them.
    pub fn topics_deleted(
        &mut self,
        topics: &[Uuid],
        most: usize,
        settings: &ShardSettings,
    ) -> Vec<Record> {
        let of_them = self.states.keys().filter(|key| topics.contains(&key.topic_id)).take(most);
        let records: Vec<_> = of_them.map(|key| Record::Snapshot(key.clone(), None)).collect();
        self.write(&records, settings);
        records
    }

    /// Snapshots of what has not changed for long, so that the records before it can be deleted.
    pub fn snapshot_cold(&mut self, settings: &ShardSettings, now: Millis) -> Vec<Record> {
        let is_cold = |value: &ShareSnapshotValue| value.create_timestamp != value.write_timestamp;
        if self.states.values().all(|kept| is_cold(&kept.value)) {
            return Vec::new();
        }
        let due = |kept: &&Kept| now - kept.value.write_timestamp >= settings.cold_after;
        let of_those = self.states.iter().filter(|(_, kept)| due(kept));
        let snapshot = |(key, kept): (&ShareKey, &Kept)| {
            let mut value = kept.value.clone();
            value.snapshot_epoch += 1;
            value.write_timestamp = now;
            Record::Snapshot(key.clone(), Some(value))
        };
        let records: Vec<_> = of_those.map(snapshot).collect();
        self.write(&records, settings);
        records
    }

    /// Takes in a record that was read from the log at `offset`.
    pub fn load(&mut self, record: Record, offset: Offset, settings: &ShardSettings) {
        let is_snapshot = matches!(record, Record::Snapshot(..));
        let Some(key) = self.replay(record, settings) else { return };
        if let Some(kept) = self.states.get_mut(&key)
            && (is_snapshot || kept.snapshot_at.is_none())
        {
            kept.snapshot_at = Some(offset);
        }
    }

    /// The records of `write` lie in the log from `base` on.
    pub fn appended_at(&mut self, records: &[Record], base: Offset) {
        for (offset, record) in (base..).zip(records) {
            if let Record::Snapshot(key, Some(_)) = record
                && let Some(kept) = self.states.get_mut(key)
            {
                kept.snapshot_at = Some(offset);
            }
        }
    }

    /// All records below this offset are of no use any more; `None` while that is not known.
    pub fn needed_from(&self) -> Option<Offset> {
        self.states.values().map(|kept| kept.snapshot_at).min().flatten()
    }

    fn write(&mut self, records: &[Record], settings: &ShardSettings) {
        if records.is_empty() {
            return;
        }
        self.written += 1;
        for record in records {
            if let Record::Snapshot(key, _) | Record::Update(key, _) = record {
                let before = self.states.get(key).cloned();
                self.undo.push_back((self.written, key.clone(), before));
            }
            self.replay(record.clone(), settings);
        }
    }

    fn replay(&mut self, record: Record, settings: &ShardSettings) -> Option<ShareKey> {
        match record {
            Record::Snapshot(key, None) => {
                self.states.remove(&key);
                Some(key)
            }
            Record::Snapshot(key, Some(value)) => {
                let before = self.states.get(&key);
                let updates = before.map_or(0, |kept| kept.updates);
                let kept = Kept {
                    leader_epoch: before
                        .map_or(value.leader_epoch, |it| it.leader_epoch.max(value.leader_epoch)),
                    state_epoch: before
                        .map_or(value.state_epoch, |it| it.state_epoch.max(value.state_epoch)),
                    updates: if updates >= settings.updates_per_snapshot { 0 } else { updates },
                    snapshot_at: None,
                    value,
                };
                self.states.insert(key.clone(), kept);
                Some(key)
            }
            Record::Update(key, update) => {
                let kept = self.states.entry(key.clone()).or_insert_with(|| unknown(&update));
                kept.leader_epoch = kept.leader_epoch.max(update.leader_epoch);
                kept.updates += 1;
                merge(&mut kept.value, update);
                Some(key)
            }
            Record::Other(_) => None,
        }
    }

    /// The newest write.
    pub fn written(&self) -> Write {
        self.written
    }

    pub fn is_committed(&self, write: Write) -> bool {
        write <= self.committed
    }

    pub fn commit_up_to(&mut self, write: Write) {
        self.committed = self.committed.max(write);
        while self.undo.pop_front_if(|(of, ..)| *of <= write).is_some() {}
    }

    /// `write` and all after it could not be appended, and never were.
    pub fn take_back(&mut self, write: Write) {
        self.written = self.written.min(write - 1);
        while let Some((_, key, before)) = self.undo.pop_back_if(|(of, ..)| *of >= write) {
            match before {
                Some(kept) => self.states.insert(key, kept),
                None => self.states.remove(&key),
            };
        }
    }

    pub fn len(&self) -> usize {
        self.states.len()
    }

    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }
}

use What::{Delete, Initialize, Read, Summarize};

fn merge(value: &mut ShareSnapshotValue, update: ShareUpdateValue) {
    if update.start_offset != UNINITIALIZED {
        value.start_offset = update.start_offset;
    }
    if update.leader_epoch != -1 {
        value.leader_epoch = update.leader_epoch;
    }
    value.done = update.done;
    let all = value.state_batches.iter().copied().chain(update.state_batches);
    value.state_batches = combine(all, value.start_offset);
}

/// An update whose snapshot is not in the log.
fn unknown(update: &ShareUpdateValue) -> Kept {
    let value = ShareSnapshotValue {
        snapshot_epoch: update.snapshot_epoch,
        leader_epoch: update.leader_epoch,
        start_offset: update.start_offset,
        done: update.done,
        ..ShareSnapshotValue::default()
    };
    let (leader_epoch, state_epoch) = (update.leader_epoch, 0);
    Kept { value, leader_epoch, state_epoch, updates: 0, snapshot_at: None }
}
