//! A log whose records are an epoch and a number.

use crate::replica::follower::FollowerLog;
use crate::types::{LeaderEpoch, Offset};

pub type Record = (LeaderEpoch, u8);

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Log {
    pub records: Vec<Record>,
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    pub synced: Offset,
}

impl Log {
    pub fn end(&self) -> Offset {
        self.records.len() as Offset
    }

    pub fn begin_epoch(&mut self, epoch: LeaderEpoch, offset: Offset) {
        if self.epochs.iter().all(|(known, _)| *known != epoch) {
            self.epochs.retain(|(known, start)| *known < epoch && *start < offset);
            self.epochs.push((epoch, offset));
        }
    }

    pub fn append(&mut self, record: Record) {
        self.begin_epoch(record.0, self.end());
        self.records.push(record);
    }

    pub fn truncate(&mut self, offset: Offset) {
        self.records.truncate(offset as usize);
        self.synced = self.synced.min(self.end());
        let end = self.end();
        self.epochs.retain(|(_, start)| *start < end);
    }

    /// As `Epochs::end_offset_for`.
    pub fn end_of(&self, asked: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let latest = self.epochs.last().map(|(epoch, _)| *epoch);
        if latest == Some(asked) {
            return Some((asked, self.end()));
        }
        let (_, end) = self.epochs.iter().find(|(epoch, _)| *epoch > asked)?;
        let before = self.epochs.iter().rfind(|(epoch, _)| *epoch <= asked);
        Some((before.map_or(asked, |(epoch, _)| *epoch), *end))
    }
}

impl FollowerLog for Log {
    fn log_start(&self) -> Offset {
        0
    }
    fn log_end(&self) -> Offset {
        self.end()
    }
    fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.end_of(epoch)
    }
}
