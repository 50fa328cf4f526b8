//! Who may commit and fetch offsets of a streams group: its members, in the right epoch.

use super::{Member, StreamsGroup};
use crate::error::ErrorCode;

impl StreamsGroup {
    /// Refuses a commit that is not by a member. A member in an older epoch is returned: what it
    /// may commit depends on the task ([`Self::may_commit`]). `version` is that of OffsetCommit;
    /// `None` for a commit in a transaction, which need not name a member.
    pub fn validate_commit(
        &self,
        member: &str,
        instance: Option<&str>,
        epoch: i32,
        version: Option<i16>,
    ) -> Result<Option<&Member>, ErrorCode> {
        // An administrator, or somebody who does without the group.
        if epoch < 0 && self.is_empty() {
            return Ok(None);
        }
        if version.is_none() && epoch == -1 && member.is_empty() && instance.is_none() {
            return Ok(None);
        }
        let known = self.member(member).ok_or(ErrorCode::UnknownMemberId)?;
        if version.is_some_and(|version| version < 9) {
            return Err(ErrorCode::UnsupportedVersion);
        }
        match epoch.cmp(&known.epoch) {
            std::cmp::Ordering::Equal => Ok(None),
            std::cmp::Ordering::Greater => Err(ErrorCode::StaleMemberEpoch),
            std::cmp::Ordering::Less => Ok(Some(known)),
        }
    }

    /// Whether `member` may commit for a partition in an older epoch than its own: since the task
    /// that reads it was assigned to it, nobody else had it.
    pub fn may_commit(
        &self,
        member: &Member,
        topic: &str,
        partition: i32,
        epoch: i32,
    ) -> Result<(), ErrorCode> {
        let reader = self.topology.as_ref().and_then(|it| it.reader_of(topic));
        let since = reader.and_then(|id| {
            let held = member.held.active_since(id, partition);
            held.or_else(|| member.revoking.active_since(id, partition))
        });
        match since {
            Some(since) if epoch >= since => Ok(()),
            _ => Err(ErrorCode::StaleMemberEpoch),
        }
    }

    /// Refuses a fetch that says it is by a member and is not, or not in its epoch.
    pub fn validate_fetch(&self, member: Option<&str>, epoch: i32) -> Result<(), ErrorCode> {
        if member.is_none() && epoch < 0 {
            return Ok(());
        }
        let known = self.member(member.unwrap_or_default()).ok_or(ErrorCode::UnknownMemberId)?;
        if epoch == known.epoch { Ok(()) } else { Err(ErrorCode::StaleMemberEpoch) }
    }
}
