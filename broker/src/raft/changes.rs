//! The leader changes who votes, one step at a time (KIP-853).
//!
//! A change is one Voters record, in force once it is in the log. The next one waits until this
//! one is committed, and the first one in an epoch until the epoch's own record is: two majorities,
//! before and after a change of one voter, always share a member.

use super::messages::{At, Effect, LogView, ReplicaKey};
use super::node::{Effects, Raft};
use super::voters::{Voter, VoterSet};
use crate::error::{ErrorCode, Refusal};
use crate::types::{LeaderEpoch, Millis, Offset};

/// A replica that was caught up within this time may become a voter.
const CAUGHT_UP: Millis = 5000;

/// A change under way: its effects, and the offset that has to be committed.
pub type Change = (Effects, Offset);

impl Raft {
    /// Whether a voter can be added now. The driver asks before it calls on the new voter, too.
    pub fn may_add(&self, key: ReplicaKey) -> Result<(), Refusal> {
        let voters = self.changeable()?;
        match voters.get(key.id) {
            None => Ok(()),
            Some(known) => Err(Refusal::new(
                ErrorCode::DuplicateVoter,
                format!(
                    "The voter id for {} is already part of the set of voters, with directory {}.",
                    key.id,
                    crate::log::uuid_to_text(known.key.directory)
                ),
            )),
        }
    }

    pub fn add_voter(
        &mut self,
        voter: Voter,
        log: &impl LogView,
        at: At,
    ) -> Result<Change, Refusal> {
        self.may_add(voter.key)?;
        let version = self.voters.kraft_version();
        if voter.versions.0 > version || voter.versions.1 < version {
            return Err(Refusal::new(
                ErrorCode::InvalidRequest,
                format!(
                    "Voter {} supports kraft.version {} to {}, but the quorum is at {version}.",
                    voter.key.id, voter.versions.0, voter.versions.1
                ),
            ));
        }
        let caught_up = self
            .role
            .leader()
            .is_some_and(|leader| leader.is_caught_up(voter.key, at.now, CAUGHT_UP));
        if !caught_up {
            return Err(Refusal::new(
                ErrorCode::RequestTimedOut,
                format!("Voter {} is lagging behind: it must catch up first.", voter.key.id),
            ));
        }
        let voters = self.voters.current().with(voter);
        Ok(self.change_to(&voters, log))
    }

    pub fn remove_voter(&mut self, key: ReplicaKey, log: &impl LogView) -> Result<Change, Refusal> {
        let voters = self.changeable()?;
        if voters.get(key.id).is_none_or(|known| known.key != key) {
            return Err(not_found(key));
        }
        let rest = voters.without(key.id);
        if rest.is_empty() {
            return Err(Refusal::new(
                ErrorCode::InvalidRequest,
                format!("Voter {} is the only one: without it there is no quorum.", key.id),
            ));
        }
        Ok(self.change_to(&rest, log))
    }

    /// `None`: nothing to change.
    pub fn update_voter(
        &mut self,
        voter: Voter,
        epoch: LeaderEpoch,
        log: &impl LogView,
    ) -> Result<Option<Change>, Refusal> {
        if epoch != self.epoch {
            let code = if epoch < self.epoch {
                ErrorCode::FencedLeaderEpoch
            } else {
                ErrorCode::UnknownLeaderEpoch
            };
            return Err(code.into());
        }
        let voters = self.changeable()?;
        match voters.get(voter.key.id) {
            Some(known) if *known == voter => Ok(None),
            Some(known) if known.key == voter.key => {
                let voters = voters.with(voter);
                Ok(Some(self.change_to(&voters, log)))
            }
            _ => Err(not_found(voter.key)),
        }
    }

    fn changeable(&self) -> Result<&VoterSet, Refusal> {
        let Some(leader) = self.role.leader() else {
            return Err(ErrorCode::NotLeaderOrFollower.into());
        };
        let timed_out = |what: &str| Refusal::new(ErrorCode::RequestTimedOut, what);
        if self.high_watermark <= leader.epoch_start {
            return Err(timed_out("The leader has not committed anything in its epoch yet."));
        }
        let version = self.voters.kraft_version();
        if version == 0 {
            return Err(Refusal::new(
                ErrorCode::UnsupportedVersion,
                "The voters of this cluster cannot change: its kraft.version is 0.",
            ));
        }
        if self.voters.changed_at() >= self.high_watermark {
            return Err(timed_out("The last change of the voters is not committed yet."));
        }
        Ok(self.voters.current())
    }

    fn change_to(&mut self, voters: &VoterSet, log: &impl LogView) -> Change {
        let offset = log.end().offset;
        let record = voters.to_record();
        self.voters.replay(offset, &record);
        (vec![Effect::Append(vec![record])], offset)
    }
}

fn not_found(key: ReplicaKey) -> Refusal {
    Refusal::new(
        ErrorCode::VoterNotFound,
        format!(
            "There is no voter {} with directory {}.",
            key.id,
            crate::log::uuid_to_text(key.directory)
        ),
    )
}
