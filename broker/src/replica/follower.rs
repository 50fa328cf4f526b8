//! The follower's side of one partition: from where to fetch, and what an answer means for the log.
//!
//! Pure: no I/O, no clock, no locks. A follower asks from its synced log end on, and tells the
//! epoch of its last record; a leader whose log differs there answers with the diverging epoch
//! instead of records (KIP-595, Fetch from version 12), and the follower truncates and asks again.
//!
//! Invariants, checked in the property tests:
//! - what lies below the high watermark is never truncated by a diverging epoch of a leader that
//!   is not older than what the follower follows;
//! - the high watermark that a follower knows never passes its own log end.
//!
//! Deliberately absent: truncation by OffsetForLeaderEpoch before the first fetch, which only
//! leaders older than Kafka 2.7 need.

use crate::error::ErrorCode;
use crate::types::{LeaderEpoch, NodeId, Offset};

/// What the follower's log holds, as far as a decision needs it.
pub trait FollowerLog {
    fn log_start(&self) -> Offset;
    fn log_end(&self) -> Offset;
    /// The largest epoch not above `epoch`, and where it ends; `None` when there is none.
    fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)>;
}

/// What the driver must do with the log, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Forget all from this offset on, and fetch from there.
    Truncate(Offset),
    /// Nothing here fits what the leader has: empty the log, which then begins at this offset.
    StartOverAt(Offset),
    /// Write the records of the answer at the log end.
    Append,
    /// The leader has deleted what lies below.
    AdvanceStart(Offset),
    HighWatermark(Offset),
    /// Ask the leader where its log begins and ends: [`Follower::on_leader_bounds`].
    AskBounds,
    /// Leave the partition alone until the image changes it.
    WaitForImage,
    /// Ask again soon: the leader has not heard yet that it leads.
    WaitForLeader,
    /// Leave the partition alone for `replica.fetch.backoff.ms`.
    BackOff,
}

pub type Effects = Vec<Effect>;

/// One partition's part of a leader's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub error: Option<ErrorCode>,
    pub high_watermark: Offset,
    pub log_start: Offset,
    /// Epoch and end offset, when the logs differ.
    pub diverging: Option<(LeaderEpoch, Offset)>,
    /// The offset of the first record, if there are records.
    pub first_offset: Option<Offset>,
    /// One past the last record.
    pub next_offset: Offset,
}

/// The follower of one partition under one leader.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Follower {
    pub leader: NodeId,
    pub epoch: LeaderEpoch,
    high_watermark: Offset,
}

impl Follower {
    pub fn new(leader: NodeId, epoch: LeaderEpoch, high_watermark: Offset) -> Self {
        Self { leader, epoch, high_watermark }
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The leader answered a fetch from `asked` on, made in `epoch`.
    pub fn on_answer(
        &mut self,
        epoch: LeaderEpoch,
        asked: Offset,
        answer: &Answer,
        log: &dyn FollowerLog,
    ) -> Effects {
        // Asked under an earlier leader, or the log moved since: whatever it says is outdated.
        if epoch != self.epoch || asked != log.log_end() {
            return Vec::new();
        }
        if let Some(code) = answer.error {
            return Self::on_error(code);
        }
        if let Some((leader_epoch, leader_end)) = answer.diverging {
            return self.truncate(leader_epoch, leader_end, log);
        }
        self.on_records(answer, log)
    }

    fn on_error(code: ErrorCode) -> Effects {
        vec![match code {
            ErrorCode::OffsetOutOfRange => Effect::AskBounds,
            // Another leader, or one that we do not know yet.
            ErrorCode::FencedLeaderEpoch => Effect::WaitForImage,
            // We heard of the election first.
            ErrorCode::UnknownLeaderEpoch
            | ErrorCode::NotLeaderOrFollower
            | ErrorCode::UnknownTopicId
            | ErrorCode::UnknownTopicOrPartition => Effect::WaitForLeader,
            _ => Effect::BackOff,
        }]
    }

    fn on_records(&mut self, answer: &Answer, log: &dyn FollowerLog) -> Effects {
        let mut effects = Vec::new();
        let mut log_end = log.log_end();
        if let Some(first) = answer.first_offset {
            let empty = log.log_start() == log_end;
            let reaches_over = empty && answer.next_offset > log_end;
            if first < log_end && reaches_over {
                // The leader's log starts within a batch, which is sent as a whole.
                effects.push(Effect::StartOverAt(first));
            } else if first < log_end || answer.next_offset <= first {
                // Nobody asked for that: it is not the log that we follow.
                return vec![Effect::BackOff];
            }
            effects.push(Effect::Append);
            if first < log_end {
                effects.push(Effect::AdvanceStart(log_end));
            }
            log_end = answer.next_offset;
        }
        let high_watermark = answer.high_watermark.min(log_end);
        if high_watermark > self.high_watermark {
            self.high_watermark = high_watermark;
            effects.push(Effect::HighWatermark(high_watermark));
        }
        if answer.log_start > log.log_start() && answer.log_start <= log_end {
            effects.push(Effect::AdvanceStart(answer.log_start));
        }
        effects
    }

    /// The leader's largest epoch not above ours ends at `leader_end`.
    fn truncate(
        &mut self,
        leader_epoch: LeaderEpoch,
        leader_end: Offset,
        log: &dyn FollowerLog,
    ) -> Effects {
        let log_end = log.log_end();
        let to = if leader_end < 0 {
            // It cannot tell; what was committed is common to both.
            self.high_watermark
        } else {
            match log.end_of_epoch(leader_epoch) {
                // Ours ends earlier or later: common up to the lesser of both.
                Some((epoch, end)) if epoch == leader_epoch => end.min(leader_end),
                // We do not have that epoch: an earlier one of ours is to be compared next.
                Some((_, end)) => end.min(log_end),
                None => leader_end,
            }
        };
        self.truncate_to(to.min(log_end))
    }

    fn truncate_to(&mut self, offset: Offset) -> Effects {
        let mut effects = vec![Effect::Truncate(offset)];
        if offset < self.high_watermark {
            self.high_watermark = offset;
            effects.push(Effect::HighWatermark(offset));
        }
        effects
    }

    /// The leader's log begins at `start` and ends at `end`; what we asked for lies outside.
    pub fn on_leader_bounds(
        &mut self,
        epoch: LeaderEpoch,
        start: Offset,
        end: Offset,
        log: &dyn FollowerLog,
    ) -> Effects {
        if epoch != self.epoch {
            return Vec::new();
        }
        if end < log.log_end() {
            return self.truncate_to(end);
        }
        if start > log.log_end() {
            self.high_watermark = start;
            return vec![Effect::StartOverAt(start), Effect::HighWatermark(start)];
        }
        // The leader has grown since it answered: asking again will do.
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Epochs with their first offsets, and a range.
    struct Log(Offset, Offset, Vec<(LeaderEpoch, Offset)>);

    impl FollowerLog for Log {
        fn log_start(&self) -> Offset {
            self.0
        }
        fn log_end(&self) -> Offset {
            self.1
        }
        fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
            let at = self.2.iter().rposition(|(known, _)| *known <= epoch)?;
            let end = self.2.get(at + 1).map_or(self.1, |(_, start)| *start);
            Some((self.2[at].0, end))
        }
    }

    fn answer() -> Answer {
        Answer {
            error: None,
            high_watermark: 0,
            log_start: 0,
            diverging: None,
            first_offset: None,
            next_offset: -1,
        }
    }

    #[test]
    fn records_are_appended_and_the_high_watermark_stays_within_the_log() {
        let mut follower = Follower::new(1, 3, 0);
        let log = Log(0, 10, vec![(3, 0)]);
        let records =
            Answer { first_offset: Some(10), next_offset: 15, high_watermark: 40, ..answer() };
        let effects = follower.on_answer(3, 10, &records, &log);
        assert_eq!(effects, [Effect::Append, Effect::HighWatermark(15)]);
        let behind = Answer { high_watermark: 12, ..answer() };
        assert_eq!(follower.on_answer(3, 10, &behind, &log), []);
    }

    #[test]
    fn an_empty_log_takes_a_first_batch_that_begins_before_the_leaders_start() {
        let mut follower = Follower::new(1, 3, 10);
        let records = Answer { first_offset: Some(7), next_offset: 15, log_start: 10, ..answer() };
        let effects = follower.on_answer(3, 10, &records, &Log(10, 10, vec![]));
        let expected = [Effect::StartOverAt(7), Effect::Append, Effect::AdvanceStart(10)];
        assert_eq!(effects, expected);
        let effects = follower.on_answer(3, 10, &records, &Log(9, 10, vec![(3, 9)]));
        assert_eq!(effects, [Effect::BackOff], "what it holds is not overwritten");
    }

    #[test]
    fn an_answer_to_an_outdated_question_changes_nothing() {
        let mut follower = Follower::new(1, 3, 0);
        let log = Log(0, 10, vec![(3, 0)]);
        let records =
            Answer { first_offset: Some(9), next_offset: 15, high_watermark: 40, ..answer() };
        assert_eq!(follower.on_answer(3, 9, &records, &log), []);
        assert_eq!(follower.on_answer(2, 10, &records, &log), []);
    }

    #[test]
    fn a_follower_truncates_to_where_the_logs_part() {
        // epochs of the log, what the leader says, where to truncate
        type Case<'a> = (&'a [(LeaderEpoch, Offset)], (LeaderEpoch, Offset), Offset);
        let cases: &[Case<'_>] = &[
            // The same epoch, which ended earlier at the leader.
            (&[(1, 0), (2, 10)], (2, 15), 15),
            // The same epoch, which ended earlier here.
            (&[(1, 0), (3, 10)], (1, 15), 10),
            // An epoch that we do not have: first to the end of our earlier one.
            (&[(1, 0), (4, 10)], (3, 15), 10),
            // Nothing that old here.
            (&[(5, 0)], (3, 7), 7),
            // The leader knows no epochs at all.
            (&[(5, 0)], (-1, -1), 5),
        ];
        for (epochs, diverging, expected) in cases {
            let mut follower = Follower::new(1, 9, 5);
            let log = Log(0, 20, epochs.to_vec());
            let said = Answer { diverging: Some(*diverging), ..answer() };
            let effects = follower.on_answer(9, 20, &said, &log);
            assert_eq!(effects, [Effect::Truncate(*expected)], "{epochs:?} {diverging:?}");
        }
    }

    #[test]
    fn a_truncation_below_the_high_watermark_takes_it_along() {
        let mut follower = Follower::new(1, 9, 18);
        let said = Answer { diverging: Some((2, 15)), ..answer() };
        let effects = follower.on_answer(9, 20, &said, &Log(0, 20, vec![(2, 0)]));
        assert_eq!(effects, [Effect::Truncate(15), Effect::HighWatermark(15)]);
    }

    #[test]
    fn out_of_range_asks_the_leader_and_then_truncates_or_starts_over() {
        let mut follower = Follower::new(1, 9, 18);
        let log = Log(0, 20, vec![(2, 0)]);
        let said = Answer { error: Some(ErrorCode::OffsetOutOfRange), ..answer() };
        assert_eq!(follower.on_answer(9, 20, &said, &log), [Effect::AskBounds]);
        let over = [Effect::StartOverAt(30), Effect::HighWatermark(30)];
        assert_eq!(follower.clone().on_leader_bounds(9, 30, 40, &log), over);
        assert_eq!(follower.clone().on_leader_bounds(9, 0, 19, &log), [Effect::Truncate(19)]);
        assert_eq!(follower.on_leader_bounds(9, 5, 40, &log), []);
    }

    #[test]
    fn the_start_follows_the_leader_but_never_past_the_end() {
        let mut follower = Follower::new(1, 9, 0);
        let log = Log(0, 20, vec![(2, 0)]);
        let said = Answer { log_start: 12, ..answer() };
        assert_eq!(follower.on_answer(9, 20, &said, &log), [Effect::AdvanceStart(12)]);
        let said = Answer { log_start: 21, ..answer() };
        assert_eq!(follower.on_answer(9, 20, &said, &log), []);
    }

    #[test]
    fn records_from_before_the_log_end_are_not_taken() {
        let mut follower = Follower::new(1, 9, 0);
        let log = Log(0, 20, vec![(2, 0)]);
        let said = Answer { first_offset: Some(19), next_offset: 25, ..answer() };
        assert_eq!(follower.on_answer(9, 20, &said, &log), [Effect::BackOff]);
    }
}
