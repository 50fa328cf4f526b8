//! DescribeTransactions and ListTransactions on the transactional ids of one shard.

use super::call::{Answer, Filter, Listed};
use super::shard::Shard;
use super::state::{Known, State};
use crate::error::ErrorCode;
use crate::types::Millis;

impl Shard {
    pub(super) fn describe(&self, transactional_id: &str) -> Answer {
        match self.known.get(transactional_id) {
            Some(known) => Answer::Described(Box::new(known.at.clone())),
            None => Answer::Refused(ErrorCode::TransactionalIdNotFound),
        }
    }

    pub(super) fn list(&self, filter: &Filter, now: Millis) -> impl Iterator<Item = Listed> {
        let shown = move |(id, known): &(&String, &Known)| filter.lets_pass(id, known, now);
        self.known.iter().filter(shown).map(|(id, known)| Listed {
            transactional_id: id.clone(),
            producer_id: known.at.producer_id,
            state: known.at.state,
        })
    }
}

impl Filter {
    fn lets_pass(&self, id: &str, known: &Known, now: Millis) -> bool {
        let at = &known.at;
        at.state != State::Dead
            && (self.producer_ids.is_empty() || self.producer_ids.contains(&at.producer_id))
            && (self.any_state || self.states.contains(&at.state))
            && (self.longer_than_ms < 0 || now - at.started > self.longer_than_ms)
            && self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
    }
}
