//! What the steps of a group share.

use super::{Continuation, Slot, Timer, join, sync};
use crate::coordinator::group::effects::{Answer, Effects, TimerChange, Token};
use crate::coordinator::group::records::Record;
use crate::coordinator::group::settings::GroupSettings;
use crate::error::ErrorCode;
use crate::types::Millis;

/// What a step may look at, and where its effects go.
pub struct Step<'a> {
    pub settings: &'a GroupSettings,
    /// Wall-clock time.
    pub now: Millis,
    pub effects: &'a mut Effects,
}

impl Step<'_> {
    pub(super) fn set(&mut self, group: &str, slot: Slot, after_ms: i64, timer: Timer) {
        let change = TimerChange::Set { slot, after_ms, timer };
        self.effects.timers.push((group.to_owned(), change));
    }

    pub(super) fn cancel(&mut self, group: &str, slot: Slot) {
        self.effects.timers.push((group.to_owned(), TimerChange::Cancel(slot)));
    }

    pub(super) fn set_session(&mut self, group: &str, member: &str, after_ms: i64) {
        let timer = Timer::Session { member: member.to_owned() };
        self.set(group, Slot::Session(member.to_owned()), after_ms, timer);
    }

    pub(super) fn answer_join(&mut self, token: Token, member: &str, code: ErrorCode) {
        self.effects.answer(token, Answer::Join(join::refusal(member, code)));
    }

    pub(super) fn answer_sync(&mut self, token: Token, code: ErrorCode) {
        self.effects.answer(token, Answer::Sync(sync::refusal(code)));
    }

    /// Writes a record of a change that the group itself makes.
    pub(super) fn store(&mut self, group: &str, record: Record, then: Continuation) {
        self.effects.records.push(record);
        self.effects.then = Some((group.to_owned(), then));
    }
}
