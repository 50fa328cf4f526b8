//! The follower's side of a partition: what the role decides about a leader's answer, done to the
//! log. One answer at a time, under the lock that keeps the role from changing meanwhile.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Partition, Role};
use crate::error::Fault;
use crate::log::Log;
use crate::replica::follower::{self, FollowerLog};
use crate::types::{LeaderEpoch, Offset};

impl Partition {
    /// The leader answered this follower's fetch from `asked` on, made in `epoch`. Blocking, as it
    /// may truncate. Returns what is left to do: all but what concerns the log.
    pub fn take_answer(
        &self,
        epoch: LeaderEpoch,
        asked: Offset,
        answer: &follower::Answer,
        records: Bytes,
    ) -> Result<follower::Effects, Fault> {
        let _following = self.following.lock();
        let effects = match &mut *self.role.lock() {
            Role::Follower(follower) => follower.on_answer(epoch, asked, answer, &*self.log()),
            _ => return Ok(Vec::new()),
        };
        self.follow(effects, records)
    }

    /// As [`Self::take_answer`], when the leader said where its log begins and ends.
    pub fn take_bounds(
        &self,
        epoch: LeaderEpoch,
        start: Offset,
        end: Offset,
    ) -> Result<follower::Effects, Fault> {
        let _following = self.following.lock();
        let effects = match &mut *self.role.lock() {
            Role::Follower(follower) => follower.on_leader_bounds(epoch, start, end, &*self.log()),
            _ => return Ok(Vec::new()),
        };
        self.follow(effects, Bytes::new())
    }

    fn follow(
        &self,
        effects: follower::Effects,
        records: Bytes,
    ) -> Result<follower::Effects, Fault> {
        let mut left = Vec::new();
        for effect in effects {
            match effect {
                follower::Effect::Truncate(offset) => {
                    tracing::info!(partition = %self.id, offset, "truncates to its leader's log");
                    self.log().truncate_to(offset)?;
                }
                follower::Effect::StartOverAt(offset) => {
                    tracing::warn!(partition = %self.id, offset, "starts over: its leader's log has moved past");
                    self.log().truncate_fully_and_start_at(offset)?;
                }
                follower::Effect::Append => {
                    if let Err(error) = self.log().append_as_follower(records.clone()) {
                        tracing::warn!(partition = %self.id, %error, "cannot append what its leader sent");
                        left.push(follower::Effect::BackOff);
                        return Ok(left);
                    }
                    self.on_append.wake();
                }
                follower::Effect::AdvanceStart(offset) => {
                    self.log().advance_start(offset);
                }
                follower::Effect::HighWatermark(offset) => {
                    self.high_watermark.store(offset, Ordering::Release);
                    self.log().on_high_watermark(offset);
                    self.on_commit.wake();
                }
                other => left.push(other),
            }
        }
        Ok(left)
    }
}

impl FollowerLog for Log {
    fn log_start(&self) -> Offset {
        self.start_offset()
    }
    fn log_end(&self) -> Offset {
        self.end_offset()
    }
    fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.end_offset_for_epoch(epoch).filter(|(epoch, end)| *epoch >= 0 && *end >= 0)
    }
}
