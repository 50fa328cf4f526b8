//! What holders of a share group's records were told, and whether it can be true: who says
//! something of a record is the last to whom it was given, and what was settled comes to nobody.

use std::collections::{BTreeMap, BTreeSet};

/// Counts what clients send and hear.
pub type Moment = u64;

#[derive(Debug, Default)]
struct Record {
    /// To whom it was given: who asked when, and heard when.
    given: Vec<(String, Moment, Moment)>,
    /// Who has asked that it be settled for good.
    asked: BTreeSet<String>,
    /// When it was settled for good.
    settled: Option<Moment>,
}

#[derive(Debug, Default)]
pub struct Shares {
    records: BTreeMap<(i32, i64), Record>,
    now: Moment,
    /// Partitions that the group has given to a member: nobody else is entitled to any record of
    /// them, and their state is not set up anew.
    pub assigned: BTreeSet<i32>,
}

impl Shares {
    /// The next moment.
    pub fn moment(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// A holder was given a record, by a request that it sent at `asked`. Somebody who was deposed,
    /// and has not heard of it, cannot know what was settled since: what he gives out comes twice.
    pub fn taken(
        &mut self,
        partition: i32,
        offset: i64,
        holder: &str,
        asked: Moment,
        by_leader: bool,
    ) -> Result<(), String> {
        let heard = self.moment();
        let record = self.records.entry((partition, offset)).or_default();
        if by_leader && record.settled.is_some_and(|at| at < asked) {
            return Err(format!(
                "again: {partition}@{offset} was settled, and {holder} is given it"
            ));
        }
        record.given.retain(|(who, ..)| who != holder);
        record.given.push((holder.to_owned(), asked, heard));
        Ok(())
    }

    /// Whether nobody else was given the record by a request that was sent since `holder` has it.
    pub fn is_held(&self, partition: i32, offset: i64, holder: &str) -> bool {
        let given = self.records.get(&(partition, offset)).map_or(&[][..], |it| &it.given);
        let Some((.., heard)) = given.iter().find(|(who, ..)| who == holder) else { return false };
        given.iter().all(|(who, asked, _)| who == holder || asked < heard)
    }

    /// A holder is about to say that a record is done.
    pub fn settles(&mut self, partition: i32, offset: i64, holder: &str) {
        let record = self.records.entry((partition, offset)).or_default();
        record.asked.insert(holder.to_owned());
    }

    /// Whether somebody else may have settled it: then whatever is said of it is not heard.
    pub fn may_be_settled(&self, partition: i32, offset: i64, holder: &str) -> bool {
        let record = self.records.get(&(partition, offset));
        record.is_some_and(|record| record.asked.iter().any(|who| who != holder))
    }

    /// What was said of a record holds.
    pub fn settled(&mut self, partition: i32, offset: i64) {
        let now = self.moment();
        let record = self.records.entry((partition, offset)).or_default();
        record.settled.get_or_insert(now);
    }

    pub fn was_delivered(&self, partition: i32, offset: i64) -> bool {
        self.records.contains_key(&(partition, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_given_a_record_takes_it_from_the_last_holder() {
        let mut shares = Shares::default();
        let asked = shares.moment();
        shares.taken(0, 5, "a", asked, true).unwrap();
        assert!(shares.is_held(0, 5, "a"));
        let later = shares.moment();
        shares.taken(0, 5, "b", later, true).unwrap();
        assert!(!shares.is_held(0, 5, "a") && shares.is_held(0, 5, "b"));
        // Asked before, and heard late: whose turn it was nobody knows.
        shares.taken(0, 5, "c", asked, true).unwrap();
        assert!(shares.is_held(0, 5, "b") && shares.is_held(0, 5, "c"));
        assert!(!shares.may_be_settled(0, 5, "a"));
        shares.settles(0, 5, "b");
        assert!(shares.may_be_settled(0, 5, "a") && !shares.may_be_settled(0, 5, "b"));
    }

    #[test]
    fn what_is_settled_comes_to_nobody_who_asks_later() {
        let mut shares = Shares::default();
        let asked = shares.moment();
        shares.taken(0, 5, "a", asked, true).unwrap();
        shares.settled(0, 5);
        assert_eq!(shares.taken(0, 5, "b", asked, true), Ok(()));
        let later = shares.moment();
        assert!(shares.taken(0, 5, "b", later, true).is_err());
        assert_eq!(shares.taken(0, 5, "b", later, false), Ok(()));
        assert!(shares.was_delivered(0, 5) && !shares.was_delivered(0, 6));
    }
}
