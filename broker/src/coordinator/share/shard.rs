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
use super::settings::ShareSettings;
use crate::coordinator::runtime::Write;
use crate::error::{ErrorCode, Refusal};
use crate::types::{LeaderEpoch, Millis, Offset};

use What::{Delete, Initialize, Read, Summarize};

/// Before a share partition has a start offset of its own.
pub const UNINITIALIZED: Offset = -1;

/// A request about one share partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub key: ShareKey,
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

/// Which kind of answer a call waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    State,
    Done,
    Summary,
}

impl What {
    pub fn asked(&self) -> Asked {
        match self {
            Self::Read { .. } => Asked::State,
            Self::Summarize => Asked::Summary,
            Self::Write(_) | Self::Initialize { .. } | Self::Delete => Asked::Done,
        }
    }
}

impl Asked {
    pub fn refuse(self, refusal: Refusal) -> Answer {
        match self {
            Self::State => Answer::Read(Err(refusal)),
            Self::Done => Answer::Done(Err(refusal)),
            Self::Summary => Answer::Summary(Err(refusal)),
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

/// A record that is not committed yet, and how its key was before.
#[derive(Debug)]
struct Written {
    write: Write,
    key: ShareKey,
    before: Option<Kept>,
    is_snapshot: bool,
}

#[derive(Debug, Default)]
pub struct Shard {
    states: BTreeMap<ShareKey, Kept>,
    undo: VecDeque<Written>,
    written: Write,
    committed: Write,
}

impl Shard {
    /// The records that carry out `call`, and its answer, which waits until they, and all before
    /// them, are committed. `exists`: the image knows the partition.
    pub fn handle(
        &mut self,
        call: Call,
        exists: bool,
        settings: &ShareSettings,
        now: Millis,
    ) -> (Vec<Record>, Answer) {
        let Call { key, what } = call;
        if let Err(refusal) = self.check(&key, exists, &what) {
            return (Vec::new(), what.asked().refuse(refusal));
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
                (known.then_some(Record::Snapshot(key, None)), Answer::Done(Ok(())))
            }
            Summarize => (None, Answer::Summary(Ok(self.summary(&key)))),
        };
        let records: Vec<_> = record.into_iter().collect();
        self.write(&records);
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
        settings: &ShareSettings,
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
        settings: &ShareSettings,
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
                ShareUpdateValue {
                    snapshot_epoch,
                    leader_epoch,
                    start_offset,
                    done,
                    state_batches,
                },
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
    pub fn forget_topics(&mut self, topics: &[(String, Uuid)], most: usize) -> Vec<Record> {
        let is_gone = |key: &&ShareKey| topics.iter().any(|(_, id)| *id == key.topic_id);
        let of_them = self.states.keys().filter(is_gone).take(most);
        let records: Vec<_> = of_them.map(|key| Record::Snapshot(key.clone(), None)).collect();
        self.write(&records);
        records
    }

    /// Snapshots of what has not changed for long, so that the records before it can be deleted.
    pub fn snapshot_cold(
        &mut self,
        most: usize,
        settings: &ShareSettings,
        now: Millis,
    ) -> Vec<Record> {
        let is_cold = |value: &ShareSnapshotValue| value.create_timestamp != value.write_timestamp;
        if self.states.values().all(|kept| is_cold(&kept.value)) {
            return Vec::new();
        }
        let cold_after = settings.cold_after.as_millis() as Millis;
        let due = |kept: &Kept| now - kept.value.write_timestamp >= cold_after;
        let of_those = self.states.iter().filter(|(_, kept)| due(kept)).take(most);
        let snapshot = |(key, kept): (&ShareKey, &Kept)| {
            let mut value = kept.value.clone();
            value.snapshot_epoch += 1;
            value.write_timestamp = now;
            Record::Snapshot(key.clone(), Some(value))
        };
        let records: Vec<_> = of_those.map(snapshot).collect();
        self.write(&records);
        records
    }

    /// Takes in a record that was read from the log at `offset`.
    pub fn take(&mut self, record: Record, offset: Option<Offset>) {
        let is_snapshot = matches!(record, Record::Snapshot(..));
        let Some(key) = self.replay(record) else { return };
        if let Some(kept) = self.states.get_mut(&key)
            && (is_snapshot || kept.snapshot_at.is_none())
        {
            kept.snapshot_at = offset;
        }
    }

    /// The records of the writes `first` to `last` lie in the log from `base` on.
    pub fn appended_at(&mut self, first: Write, last: Write, base: Offset) {
        let appended = self.undo.iter().filter(|it| (first..=last).contains(&it.write));
        for (offset, it) in (base..).zip(appended) {
            if it.is_snapshot
                && let Some(kept) = self.states.get_mut(&it.key)
            {
                kept.snapshot_at = Some(offset);
            }
        }
    }

    /// All records below this offset are of no use any more; `None` while that is not known.
    pub fn needed_from(&self) -> Option<Offset> {
        if self.written > self.committed {
            return None;
        }
        self.states.values().map(|kept| kept.snapshot_at).min().flatten()
    }

    fn write(&mut self, records: &[Record]) {
        if records.is_empty() {
            return;
        }
        self.written += 1;
        for record in records {
            let is_snapshot = matches!(record, Record::Snapshot(..));
            if let Record::Snapshot(key, _) | Record::Update(key, _) = record {
                let (write, key) = (self.written, key.clone());
                let before = self.states.get(&key).cloned();
                self.undo.push_back(Written { write, key, before, is_snapshot });
            }
            self.replay(record.clone());
        }
    }

    fn replay(&mut self, record: Record) -> Option<ShareKey> {
        match record {
            Record::Snapshot(key, None) => {
                self.states.remove(&key);
                Some(key)
            }
            Record::Snapshot(key, Some(value)) => {
                let before = self.states.get(&key);
                let kept = Kept {
                    leader_epoch: before
                        .map_or(value.leader_epoch, |it| it.leader_epoch.max(value.leader_epoch)),
                    state_epoch: before
                        .map_or(value.state_epoch, |it| it.state_epoch.max(value.state_epoch)),
                    updates: 0,
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

    /// Takes the next number without a record.
    pub fn number(&mut self) {
        self.written += 1;
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
        while self.undo.pop_front_if(|it| it.write <= write).is_some() {}
    }

    /// `write` and all after it could not be appended, and never were.
    pub fn take_back(&mut self, write: Write) {
        self.written = self.written.min(write - 1);
        while let Some(it) = self.undo.pop_back_if(|it| it.write >= write) {
            match it.before {
                Some(kept) => self.states.insert(it.key, kept),
                None => self.states.remove(&it.key),
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
