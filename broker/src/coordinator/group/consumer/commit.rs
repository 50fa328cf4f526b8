//! Who may commit and fetch offsets of a consumer group: its members, in the right epoch.

use uuid::Uuid;

use super::{ConsumerGroup, Member};
use crate::env::planted;
use crate::error::ErrorCode;

impl ConsumerGroup {
    /// Refuses a commit that is not by a member. A member in an older epoch is returned: what it
    /// may commit depends on the partition ([`Member::may_commit`]). `version` is that of
    /// OffsetCommit; `None` for a commit in a transaction, which need not name a member.
    pub fn validate_commit(
        &self,
        member: &str,
        epoch: i32,
        version: Option<i16>,
    ) -> Result<Option<&Member>, ErrorCode> {
        // An administrator, or somebody who does without the group.
        if epoch < 0 && self.is_empty() || planted!(OldGenerationCommits) {
            return Ok(None);
        }
        if version.is_none() && epoch == -1 && member.is_empty() {
            return Ok(None);
        }
        let known = self.member(member).ok_or(ErrorCode::UnknownMemberId)?;
        if !known.is_classic() && version.is_some_and(|version| version < 9) {
            return Err(ErrorCode::UnsupportedVersion);
        }
        match epoch.cmp(&known.epoch) {
            std::cmp::Ordering::Equal => Ok(None),
            std::cmp::Ordering::Greater => Err(known.stale()),
            std::cmp::Ordering::Less => Ok(Some(known)),
        }
    }

    /// Refuses a fetch that says it is by a member and is not, or not in its epoch.
    pub fn validate_fetch(&self, member: Option<&str>, epoch: i32) -> Result<(), ErrorCode> {
        if member.is_none() && epoch < 0 {
            return Ok(());
        }
        let known = self.member(member.unwrap_or_default()).ok_or(ErrorCode::UnknownMemberId)?;
        if epoch == known.epoch { Ok(()) } else { Err(known.stale()) }
    }
}

impl Member {
    /// What it is told when its epoch is not the one that counts.
    fn stale(&self) -> ErrorCode {
        if self.is_classic() { ErrorCode::IllegalGeneration } else { ErrorCode::StaleMemberEpoch }
    }

    /// Whether it may commit in an older epoch than its own: since the partition was assigned to
    /// it, nobody else had it.
    pub fn may_commit(&self, topic: Uuid, partition: i32, epoch: i32) -> Result<(), ErrorCode> {
        match self.assignment_epoch(topic, partition) {
            Some(assigned) if epoch >= assigned => Ok(()),
            _ => Err(self.stale()),
        }
    }
}
