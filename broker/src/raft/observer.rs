//! The observer's side of KRaft: what to fetch, and what an answer means.
//!
//! Pure: the driver sends the fetches and does what [`Observer::on_answer`] says. An observer
//! appends what its leader sends and replays up to the high watermark only. With one voter, which
//! sends nothing that is not committed, the logs never part: if they do, the voter has lost its own,
//! and the observer forgets nothing. Deliberately absent until there are several voters: truncation.

use bytes::Bytes;

use crate::types::{LeaderEpoch, NO_EPOCH, NodeId, Offset};

/// The part of a Fetch answer that concerns the metadata log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub error: i16,
    pub leader_id: NodeId,
    pub leader_epoch: LeaderEpoch,
    pub high_watermark: Offset,
    /// (epoch, end offset) at which the logs part; epoch -1: they do not.
    pub diverging: (LeaderEpoch, Offset),
    /// The leader's log starts later than our end: a snapshot stands for what is missing.
    pub snapshot: Option<(Offset, LeaderEpoch)>,
    pub records: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Append these batches, then replay up to the high watermark.
    Append(Bytes),
    /// Write the epoch and leader down, before anything of that epoch is appended.
    RecordEpoch(NodeId, LeaderEpoch),
    /// Ask someone else, or wait a little.
    FindLeader,
    /// The leader knows less than we have, although it sent only what was committed: its log is
    /// not the one that we followed. Nothing may be forgotten because of that.
    LeaderLostMetadata,
    /// We are too far behind, and cannot go on.
    NeedsSnapshot(Offset, LeaderEpoch),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observer {
    pub leader_id: NodeId,
    pub epoch: LeaderEpoch,
    pub high_watermark: Offset,
}

const NONE: i16 = 0;

impl Observer {
    pub fn new(epoch: LeaderEpoch) -> Self {
        Self { leader_id: -1, epoch, high_watermark: 0 }
    }

    pub fn on_answer(&mut self, answer: Answer) -> Vec<Effect> {
        let mut effects = Vec::new();
        if answer.leader_epoch > self.epoch
            || (answer.leader_epoch == self.epoch && self.leader_id != answer.leader_id)
        {
            self.epoch = answer.leader_epoch;
            self.leader_id = answer.leader_id;
            effects.push(Effect::RecordEpoch(self.leader_id, self.epoch));
        }
        if answer.leader_epoch < self.epoch && answer.leader_id >= 0 {
            // The epochs of the one voter only grow: in an earlier one it has lost its log.
            effects.push(Effect::LeaderLostMetadata);
            return effects;
        }
        if answer.leader_epoch < self.epoch || answer.error != NONE {
            effects.push(Effect::FindLeader);
            return effects;
        }
        if answer.diverging.0 != NO_EPOCH {
            effects.push(Effect::LeaderLostMetadata);
            return effects;
        }
        if let Some((offset, epoch)) = answer.snapshot {
            effects.push(Effect::NeedsSnapshot(offset, epoch));
            return effects;
        }
        // The high watermark of a leader that has just been elected may be unknown (-1).
        self.high_watermark = self.high_watermark.max(answer.high_watermark);
        effects.push(Effect::Append(answer.records));
        effects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(leader_epoch: LeaderEpoch) -> Answer {
        Answer { leader_id: 0, leader_epoch, diverging: (-1, -1), ..Answer::default() }
    }

    #[test]
    fn a_new_epoch_is_recorded_before_its_records_are_appended() {
        let mut observer = Observer::new(3);
        let effects = observer.on_answer(answer(4));
        assert_eq!(effects, [Effect::RecordEpoch(0, 4), Effect::Append(Bytes::new())]);
        let effects = observer.on_answer(answer(4));
        assert_eq!(effects, [Effect::Append(Bytes::new())]);
    }

    #[test]
    fn an_answer_that_names_no_leader_is_not_followed() {
        let mut observer = Observer::new(3);
        let nobody = Answer { leader_id: -1, ..answer(2) };
        assert_eq!(observer.on_answer(nobody), [Effect::FindLeader]);
        assert_eq!(observer.epoch, 3);
    }

    #[test]
    fn a_leader_that_has_lost_its_log_makes_nobody_forget() {
        let mut observer = Observer { leader_id: 0, epoch: 5, high_watermark: 4 };
        let parted = Answer { diverging: (3, 7), ..answer(5) };
        assert_eq!(observer.on_answer(parted), [Effect::LeaderLostMetadata]);
        assert_eq!(observer.on_answer(answer(1)), [Effect::LeaderLostMetadata]);
    }

    #[test]
    fn the_high_watermark_never_falls() {
        let mut observer = Observer { leader_id: 0, epoch: 5, high_watermark: 4 };
        observer.on_answer(Answer { high_watermark: -1, ..answer(5) });
        assert_eq!(observer.high_watermark, 4);
    }
}
