//! What transactional clients did and saw, and whether it can be true of transactions that are
//! atomic and isolated.
//!
//! A value is `TRANSACTION:REST`, and written once. Whoever asked for a commit and got no answer
//! does not know the outcome; all others do, and so do we.

use std::collections::{BTreeMap, BTreeSet};

use super::history::Place;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Open,
    /// Its end is not known, and it may be committed at any later time.
    CommitAsked,
    Committed,
    Aborted,
}

#[derive(Debug)]
struct Transaction {
    owner: String,
    instance: u64,
    fate: Fate,
    acknowledged: BTreeSet<(Place, String)>,
    /// Offsets of the group, by partition.
    offsets: BTreeMap<i32, i64>,
}

#[derive(Debug, Default)]
pub struct Ledger {
    transactions: BTreeMap<String, Transaction>,
    /// By transactional id, the newest instance that has its producer id.
    newest: BTreeMap<String, u64>,
    /// What readers of committed records saw, ever.
    visible: BTreeMap<Place, BTreeMap<i64, String>>,
    /// Where each value was seen.
    seen_at: BTreeMap<String, (Place, i64)>,
}

/// What a place holds for readers of committed records, by offset.
pub type Committed = BTreeMap<Place, BTreeMap<i64, String>>;

impl Ledger {
    pub fn begin(&mut self, name: &str, owner: &str, instance: u64) {
        // Who was fenced may begin whatever it likes: it comes to nothing.
        let fate = if self.is_fenced(owner, instance) { Fate::Aborted } else { Fate::Open };
        let transaction = Transaction {
            owner: owner.to_owned(),
            instance,
            fate,
            acknowledged: BTreeSet::new(),
            offsets: BTreeMap::new(),
        };
        self.transactions.insert(name.to_owned(), transaction);
    }

    pub fn acknowledged(&mut self, name: &str, place: &Place, values: &[String]) {
        if let Some(transaction) = self.transactions.get_mut(name) {
            let new = values.iter().map(|value| (place.clone(), value.clone()));
            transaction.acknowledged.extend(new);
        }
    }

    pub fn offset_acknowledged(&mut self, name: &str, partition: i32, offset: i64) {
        if let Some(transaction) = self.transactions.get_mut(name) {
            transaction.offsets.insert(partition, offset);
        }
    }

    pub fn commit_asked(&mut self, name: &str) {
        self.turn(name, Fate::Open, Fate::CommitAsked);
    }

    pub fn committed(&mut self, name: &str) {
        self.turn(name, Fate::CommitAsked, Fate::Committed);
    }

    /// It was aborted, or its commit surely refused.
    pub fn aborted(&mut self, name: &str) {
        self.turn(name, Fate::Open, Fate::Aborted);
        self.turn(name, Fate::CommitAsked, Fate::Aborted);
    }

    fn turn(&mut self, name: &str, from: Fate, to: Fate) {
        if let Some(it) = self.transactions.get_mut(name).filter(|it| it.fate == from) {
            it.fate = to;
        }
    }

    /// A new instance has its producer id: what older ones had not asked to commit never will be.
    pub fn initialized(&mut self, owner: &str, instance: u64) {
        let newest = self.newest.entry(owner.to_owned()).or_default();
        *newest = (*newest).max(instance);
        for it in self.transactions.values_mut() {
            if it.owner == owner && it.instance < instance && it.fate == Fate::Open {
                it.fate = Fate::Aborted;
            }
        }
    }

    pub fn is_fenced(&self, owner: &str, instance: u64) -> bool {
        self.newest.get(owner).is_some_and(|newest| *newest > instance)
    }

    /// A reader of committed records saw `value`.
    pub fn saw(&mut self, place: &Place, offset: i64, value: &str) -> Result<(), String> {
        let (name, _) = value.split_once(':').unwrap_or((value, ""));
        match self.transactions.get(name).map(|it| it.fate) {
            None => return Err(format!("corrupt: {place:?} {offset} holds {value}")),
            Some(Fate::Open) => {
                return Err(format!("dirty: {place:?} {offset}: {value} is not committed yet"));
            }
            Some(Fate::Aborted) => {
                return Err(format!("dirty: {place:?} {offset}: {value} was aborted"));
            }
            Some(Fate::CommitAsked | Fate::Committed) => {}
        }
        let here = (place.clone(), offset);
        let first = self.seen_at.entry(value.to_owned()).or_insert_with(|| here.clone());
        if *first != here {
            return Err(format!("duplicate: {value} lies at {first:?} and at {here:?}"));
        }
        let seen = self.visible.entry(place.clone()).or_default();
        let known = seen.entry(offset).or_insert_with(|| value.to_owned());
        if known != value {
            return Err(format!("diverged: {place:?} {offset} was {known} and became {value}"));
        }
        Ok(())
    }

    /// The highest offset that was surely committed for a partition, or -1.
    pub fn committed_offset(&self, partition: i32) -> i64 {
        let committed = self.transactions.values().filter(|it| it.fate == Fate::Committed);
        committed.filter_map(|it| it.offsets.get(&partition)).copied().max().unwrap_or(-1)
    }

    /// Whether a transaction that may be committed holds this offset.
    pub fn may_be_committed(&self, partition: i32, offset: i64) -> bool {
        offset < 0
            || self.transactions.values().any(|it| {
                matches!(it.fate, Fate::Committed | Fate::CommitAsked)
                    && it.offsets.get(&partition) == Some(&offset)
            })
    }

    /// Judges the whole, given all that readers of committed records find at the end.
    pub fn verdict(&self, found: &Committed) -> Result<(), String> {
        for (place, seen) in &self.visible {
            for (offset, value) in seen {
                let now = found.get(place).and_then(|it| it.get(offset));
                if now != Some(value) {
                    return Err(format!(
                        "lost: {place:?} {offset}: a reader saw {value}, at the end it is {now:?}"
                    ));
                }
            }
        }
        let mut by_name: BTreeMap<&str, BTreeSet<(&Place, &str)>> = BTreeMap::new();
        for (place, records) in found {
            for value in records.values() {
                let (name, _) = value.split_once(':').unwrap_or((value, ""));
                if !by_name.entry(name).or_default().insert((place, value)) {
                    return Err(format!("duplicate: {place:?} holds {value} twice"));
                }
            }
        }
        for (name, it) in &self.transactions {
            let found = by_name.remove(&**name).unwrap_or_default();
            let all: BTreeSet<_> =
                it.acknowledged.iter().map(|(place, value)| (place, &**value)).collect();
            let none_is_right = it.fate != Fate::Committed;
            let all_is_right = matches!(it.fate, Fate::Committed | Fate::CommitAsked);
            if !(found.is_empty() && none_is_right || found == all && all_is_right) {
                let kind = if all_is_right { "torn" } else { "dirty" };
                let (fate, there, count) = (it.fate, found.len(), all.len());
                let missing: Vec<_> = all.difference(&found).take(3).collect();
                return Err(format!(
                    "{kind}: {there} of {count} records of {name} are visible, and it is {fate:?}; \
                     missing {missing:?}"
                ));
            }
        }
        match by_name.first_key_value() {
            None => Ok(()),
            Some((name, _)) => Err(format!("corrupt: nobody began {name}")),
        }
    }

    /// Whether each input, given as the offsets of each partition, was made into one output:
    /// `TRANSACTION:PARTITION@OFFSET`.
    pub fn each_once(
        inputs: &BTreeMap<i32, BTreeSet<i64>>,
        outputs: &BTreeMap<i64, String>,
        seen: &mut BTreeMap<(i32, i64), String>,
    ) -> Result<(), String> {
        for value in outputs.values() {
            let source = value.split_once(':').and_then(|(_, source)| {
                let (partition, offset) = source.split_once('@')?;
                Some((partition.parse().ok()?, offset.parse().ok()?))
            });
            let Some((partition, offset)) = source else {
                return Err(format!("corrupt: an output is {value}"));
            };
            if !inputs.get(&partition).is_some_and(|offsets| offsets.contains(&offset)) {
                return Err(format!("corrupt: {value} was made of no input"));
            }
            if let Some(other) = seen.insert((partition, offset), value.clone()) {
                return Err(format!("duplicate: input {partition}@{offset}: {other} and {value}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(partition: i32) -> Place {
        ("t".to_owned(), partition)
    }

    fn ledger(fate: Fate) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.begin("a.1.0", "a", 1);
        ledger.acknowledged("a.1.0", &place(0), &["a.1.0:0".to_owned()]);
        ledger.acknowledged("a.1.0", &place(1), &["a.1.0:1".to_owned()]);
        if matches!(fate, Fate::CommitAsked | Fate::Committed) {
            ledger.commit_asked("a.1.0");
        }
        match fate {
            Fate::Committed => ledger.committed("a.1.0"),
            Fate::Aborted => ledger.aborted("a.1.0"),
            Fate::Open | Fate::CommitAsked => {}
        }
        ledger
    }

    fn found(values: &[i32]) -> Committed {
        let at = |partition: &i32| {
            (place(*partition), [(5, format!("a.1.0:{partition}"))].into_iter().collect())
        };
        values.iter().map(at).collect()
    }

    #[test]
    fn all_or_nothing_of_a_transaction_is_there() {
        use Fate::{Aborted, CommitAsked, Committed, Open};
        let cases: [(Fate, &[i32], Option<&str>); 10] = [
            (Committed, &[0, 1], None),
            (Committed, &[0], Some("torn")),
            (Committed, &[], Some("torn")),
            (CommitAsked, &[0, 1], None),
            (CommitAsked, &[], None),
            (CommitAsked, &[1], Some("torn")),
            (Aborted, &[], None),
            (Aborted, &[0], Some("dirty")),
            (Open, &[], None),
            (Open, &[0, 1], Some("dirty")),
        ];
        for (fate, there, expected) in cases {
            let verdict = ledger(fate).verdict(&found(there));
            match expected {
                None => assert_eq!(verdict, Ok(()), "{fate:?} {there:?}"),
                Some(kind) => assert!(verdict.unwrap_err().starts_with(kind), "{fate:?}"),
            }
        }
    }

    #[test]
    fn a_new_instance_ends_what_the_old_one_has_open() {
        let mut ledger = ledger(Fate::Open);
        ledger.initialized("a", 2);
        assert!(ledger.is_fenced("a", 1));
        ledger.commit_asked("a.1.0");
        assert!(ledger.saw(&place(0), 5, "a.1.0:0").unwrap_err().contains("aborted"));
    }

    #[test]
    fn offsets_count_with_their_transaction() {
        for (fate, floor, may_be) in [
            (Fate::Open, -1, false),
            (Fate::CommitAsked, -1, true),
            (Fate::Committed, 7, true),
            (Fate::Aborted, -1, false),
        ] {
            let mut ledger = ledger(fate);
            ledger.offset_acknowledged("a.1.0", 0, 7);
            assert_eq!(ledger.committed_offset(0), floor, "{fate:?}");
            assert_eq!(ledger.may_be_committed(0, 7), may_be, "{fate:?}");
        }
    }

    #[test]
    fn an_input_that_was_used_twice_is_found() {
        let inputs = [(0, [3, 4].into())].into();
        let mut seen = BTreeMap::new();
        let outputs = [(0, "x:0@3".to_owned()), (1, "y:0@4".to_owned())].into();
        assert_eq!(Ledger::each_once(&inputs, &outputs, &mut seen), Ok(()));
        let again = [(0, "z:0@3".to_owned())].into();
        assert!(Ledger::each_once(&inputs, &again, &mut seen).unwrap_err().contains("duplicate"));
        let none = [(0, "z:0@9".to_owned())].into();
        assert!(Ledger::each_once(&inputs, &none, &mut seen).is_err());
    }
}
