//! How a group comes to be here, and becomes one of another kind: by a load, from a consumer group and
//! to one.

use super::{CONSUMER, ClassicGroup, Slot, State, Step, Timer};
use crate::coordinator::group::records::Record;
use crate::error::ErrorCode;

impl ClassicGroup {
    /// The group is there: loaded, made of a consumer group, or back because what replaced it was
    /// taken back. Sessions begin anew.
    pub fn loaded(&mut self, step: &mut Step<'_>) {
        for member in self.members.iter() {
            step.set_session(&self.id, &member.id, i64::from(member.session_timeout_ms));
        }
        let timeout_ms = self.members.rebalance_timeout_ms();
        match self.state {
            State::PreparingRebalance => step.set(&self.id, Slot::Join, timeout_ms, Timer::Join),
            State::CompletingRebalance => {
                let timer = Timer::Sync { generation: self.generation };
                step.set(&self.id, Slot::Sync, timeout_ms, timer);
            }
            State::Empty | State::Stable | State::Dead => {}
        }
        if self.members.len() > step.settings.max_size {
            // The setting was lowered. A rebalance lets the consumers commit before some must go.
            self.prepare_rebalance(step);
        }
    }

    /// The record of the group as it is.
    pub fn stored_record(&self) -> Record {
        self.record(|member| member.assignment.clone())
    }

    /// Members of a consumer group of epoch `generation` go on as a stable classic one.
    pub fn take_over(&mut self, generation: i32) {
        self.state = State::Stable;
        self.generation = generation;
        self.protocol_type = Some(CONSUMER.to_owned());
        self.protocol = self.members.vote();
        self.leader = self.members.first_id();
        self.subscribed = self.read_subscriptions();
    }

    /// The group becomes one of another kind: whoever waits joins that.
    pub fn hand_over(&mut self, step: &mut Step<'_>) {
        for id in self.members.ids() {
            self.answer_parked_join(&id, ErrorCode::RebalanceInProgress, step);
            self.answer_parked_sync(&id, ErrorCode::RebalanceInProgress, step);
        }
    }

    /// Members leave a group of another kind, or have it rebalance.
    pub fn rebalance(&mut self, step: &mut Step<'_>) {
        self.rebalance_or_complete(step);
    }
}
