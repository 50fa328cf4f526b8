//! What clients did and saw, and whether it can be true of a log that loses nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::groups::Groups;
use super::ledger::Ledger;
use super::shares::Shares;

/// A producer writes to one partition, in order: its values are `NAME:0`, `NAME:1`, …
#[derive(Debug, Clone, Default)]
pub struct Written {
    pub idempotent: bool,
    /// Numbers whose write was acknowledged, with the offset it was told.
    pub acknowledged: BTreeMap<u64, i64>,
    /// Numbers that were sent at least once.
    pub sent: u64,
}

/// A topic and a partition of it.
pub type Place = (String, i32);

/// What a partition holds at the end.
#[derive(Debug, Clone, Default)]
pub struct FinalLog {
    /// What lay before has been deleted.
    pub start: i64,
    pub records: BTreeMap<i64, String>,
}

/// A value that is set again and again. A request without an answer may take effect at any later
/// time.
#[derive(Debug, Clone, Default)]
pub struct Intents<T> {
    pub acknowledged: Option<T>,
    /// How many requests for each value are without an answer.
    pub unknown: BTreeMap<T, u32>,
}

impl<T: Ord + Clone> Intents<T> {
    pub fn asked(&mut self, value: T) {
        *self.unknown.entry(value).or_default() += 1;
    }

    pub fn was_acknowledged(&mut self, value: T) {
        if let Some(requests) = self.unknown.get_mut(&value) {
            *requests -= 1;
            if *requests == 0 {
                self.unknown.remove(&value);
            }
        }
        self.acknowledged = Some(value);
    }

    /// Whether `found` can be what is set now.
    pub fn allow(&self, found: Option<&T>) -> bool {
        match found {
            None => self.acknowledged.is_none(),
            found => {
                found == self.acknowledged.as_ref()
                    || found.is_some_and(|it| self.unknown.contains_key(it))
            }
        }
    }
}

#[derive(Debug, Default)]
pub struct History {
    pub written: BTreeMap<(Place, String), Written>,
    /// What readers saw, ever, at each offset.
    pub seen: BTreeMap<Place, BTreeMap<i64, String>>,
    /// Offsets that a group committed, -1 where it deleted them.
    pub commits: Intents<i64>,
    /// By topic and key.
    pub configs: BTreeMap<(String, String), Intents<String>>,
    /// By partition and key of the compacted topic; empty for a key that was deleted.
    pub table: BTreeMap<(i32, String), Intents<String>>,
    pub ledger: Ledger,
    pub groups: Groups,
    pub shares: Shares,
    /// The first thing that cannot be. It begins with a word for its kind.
    pub violation: Option<String>,
}

impl History {
    /// A reader saw `value` at `offset`: what one reader saw, all must see for ever.
    pub fn saw(&mut self, place: &Place, offset: i64, value: &str) {
        let seen = self.seen.entry(place.clone()).or_default();
        match seen.get(&offset) {
            Some(before) if before != value => {
                let what =
                    format!("diverged: {place:?} offset {offset} was {before} and became {value}");
                self.violation.get_or_insert(what);
            }
            Some(_) => {}
            None => {
                seen.insert(offset, value.to_owned());
            }
        }
    }

    /// Judges the whole, given the final content of each partition.
    pub fn verdict(&self, logs: &BTreeMap<Place, FinalLog>) -> Result<(), String> {
        if let Some(violation) = &self.violation {
            return Err(violation.clone());
        }
        for (place, seen) in &self.seen {
            let log = logs.get(place).ok_or(format!("lost: {place:?} is not there at the end"))?;
            for (offset, value) in seen.range(log.start..) {
                let now = log.records.get(offset);
                if now != Some(value) {
                    return Err(format!(
                        "lost: {place:?} offset {offset}: a reader saw {value}, at the end it is {now:?}"
                    ));
                }
            }
        }
        for ((place, producer), written) in &self.written {
            let log = logs.get(place).ok_or(format!("lost: {place:?} is not there at the end"))?;
            check_producer(place, producer, written, log)?;
        }
        Ok(())
    }
}

/// Nothing acknowledged is lost, first occurrences are in order, and an idempotent producer's
/// records occur once.
fn check_producer(
    place: &Place,
    producer: &str,
    written: &Written,
    log: &FinalLog,
) -> Result<(), String> {
    let mut present = BTreeSet::new();
    for (offset, value) in &log.records {
        let Some(number) = value.strip_prefix(producer).and_then(|rest| rest.strip_prefix(':'))
        else {
            continue;
        };
        let number: u64 =
            number.parse().map_err(|_| format!("corrupt: {place:?} holds {value}"))?;
        if number >= written.sent {
            return Err(format!(
                "corrupt: {place:?} offset {offset} holds {value}, which was never sent"
            ));
        }
        if present.contains(&number) {
            // A producer whose records were all deleted is unknown, and not recognised.
            if written.idempotent && log.start == 0 {
                return Err(format!("duplicate: {place:?} offset {offset} repeats {value}"));
            }
        } else if present.last().is_some_and(|last| *last > number) {
            return Err(format!("order: {place:?} offset {offset}: {value} comes too late"));
        }
        present.insert(number);
    }
    for (number, offset) in &written.acknowledged {
        // Where nobody knows the offset, what was deleted cannot be told from what was lost.
        let deleted = *offset < log.start && (*offset >= 0 || log.start > 0);
        if !present.contains(number) && !deleted {
            return Err(format!(
                "lost: {place:?} lacks {producer}:{number}, acknowledged at offset {offset}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        ("t".to_owned(), 0)
    }

    fn log(values: &[&str]) -> BTreeMap<Place, FinalLog> {
        let records = values.iter().enumerate().map(|(at, value)| (at as i64, (*value).to_owned()));
        [(place(), FinalLog { start: 0, records: records.collect() })].into()
    }

    fn history(idempotent: bool, acknowledged: &[u64], sent: u64) -> History {
        let acknowledged = acknowledged.iter().map(|number| (*number, *number as i64)).collect();
        let written = Written { idempotent, acknowledged, sent };
        History { written: [((place(), "p".to_owned()), written)].into(), ..History::default() }
    }

    #[test]
    fn what_is_wrong_is_found_and_what_is_right_passes() {
        let cases: [(&str, bool, &[u64], &[&str], Option<&str>); 7] = [
            ("all there", true, &[0, 1], &["p:0", "p:1"], None),
            ("unacknowledged may be missing", true, &[0], &["p:0"], None),
            ("acknowledged may not", true, &[0, 1], &["p:0"], Some("lacks p:1")),
            ("a plain producer may repeat", false, &[0, 1], &["p:0", "p:1", "p:0"], None),
            ("an idempotent one may not", true, &[0, 1], &["p:0", "p:1", "p:0"], Some("repeats")),
            ("order counts", false, &[0, 1], &["p:1", "p:0"], Some("too late")),
            ("nothing comes from nowhere", false, &[], &["p:9"], Some("never sent")),
        ];
        for (case, idempotent, acknowledged, values, expected) in cases {
            let verdict = history(idempotent, acknowledged, 2).verdict(&log(values));
            match expected {
                None => assert_eq!(verdict, Ok(()), "{case}"),
                Some(words) => assert!(verdict.unwrap_err().contains(words), "{case}"),
            }
        }
    }

    #[test]
    fn what_a_reader_saw_may_not_change() {
        let mut history = history(false, &[], 2);
        history.saw(&place(), 0, "p:0");
        assert_eq!(history.verdict(&log(&["p:0"])), Ok(()));
        assert!(history.verdict(&log(&["p:1"])).is_err());
        history.saw(&place(), 0, "p:1");
        assert!(history.verdict(&log(&["p:1"])).unwrap_err().contains("became"));
    }
}
