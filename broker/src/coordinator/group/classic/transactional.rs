//! Offsets in transactions, as far as a group has a say in them.

use super::{ClassicGroup, State};
use crate::env::planted;
use crate::error::ErrorCode;

impl ClassicGroup {
    /// As [`ClassicGroup::validate_commit`], of offsets in a transaction: these may come without a
    /// member, and while assignments are made.
    pub fn validate_transactional_commit(
        &self,
        member: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> Result<(), ErrorCode> {
        if self.state == State::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        if generation < 0 && self.state == State::Empty || planted!(OldGenerationCommits) {
            return Ok(());
        }
        if generation >= 0 || !member.is_empty() || instance.is_some() {
            self.validate(member, instance)?;
            if generation != self.generation {
                return Err(ErrorCode::IllegalGeneration);
            }
        }
        Ok(())
    }
}
