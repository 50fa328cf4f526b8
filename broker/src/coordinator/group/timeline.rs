//! A value with what it was before each write that is not committed yet.
//!
//! The coordinator decides on the newest state, shows readers the committed one, and goes back when
//! the log refuses: for that the value before a write is kept until the write is committed. Cheap
//! for values that clone cheaply (persistent maps).
//!
//! Invariants: one value is kept for each write at most, in the order of writes; a write that is
//! taken back leaves no trace.

use std::collections::{BTreeMap, VecDeque};

use super::offsets::Write;

#[derive(Debug)]
pub struct Timeline<T> {
    newest: Option<T>,
    /// What was there before a write: `None`, nothing.
    before: VecDeque<(Write, Option<T>)>,
}

impl<T> Default for Timeline<T> {
    fn default() -> Self {
        Self { newest: None, before: VecDeque::new() }
    }
}

impl<T> Timeline<T> {
    /// A value that is in the log already.
    pub fn loaded(value: T) -> Self {
        Self { newest: Some(value), before: VecDeque::new() }
    }

    /// What decisions rest on.
    pub fn newest(&self) -> Option<&T> {
        self.newest.as_ref()
    }

    /// For a change that no write makes, or whose write was announced with [`Self::keep`].
    pub fn newest_mut(&mut self) -> Option<&mut T> {
        self.newest.as_mut()
    }

    /// What readers may know of.
    pub fn committed(&self) -> Option<&T> {
        match self.before.front() {
            Some((_, before)) => before.as_ref(),
            None => self.newest.as_ref(),
        }
    }

    /// Puts a value, or nothing, by `write`; returns what it takes the place of, if nothing needs
    /// to be kept of that.
    pub fn put(&mut self, write: Write, value: Option<T>) -> Option<T> {
        let before = std::mem::replace(&mut self.newest, value);
        if self.is_changed_by(write) {
            return before;
        }
        self.before.push_back((write, before));
        None
    }

    /// Keeps the value as it is now for the case that `write`, which changes it, is taken back.
    pub fn keep(&mut self, write: Write)
    where
        T: Clone,
    {
        if !self.is_changed_by(write) {
            self.before.push_back((write, self.newest.clone()));
        }
    }

    fn is_changed_by(&self, write: Write) -> bool {
        self.before.back().is_some_and(|(at, _)| *at == write)
    }

    /// All writes up to `write` are committed.
    pub fn commit(&mut self, write: Write) {
        while self.before.pop_front_if(|(at, _)| *at <= write).is_some() {}
    }

    /// `write` and all after it are undone. Returns what is gone by that, if anything is.
    pub fn take_back(&mut self, write: Write) -> Option<T> {
        let mut gone = None;
        while let Some((_, before)) = self.before.pop_back_if(|(at, _)| *at >= write) {
            let after = std::mem::replace(&mut self.newest, before);
            gone = gone.or(after);
        }
        gone
    }

    /// Nothing is there, and nothing comes back.
    pub fn is_gone(&self) -> bool {
        self.newest.is_none() && self.before.is_empty()
    }
}

/// Values by name, each with its timeline.
#[derive(Debug)]
pub struct Timelines<T> {
    by_id: BTreeMap<String, Timeline<T>>,
    /// Whose values writes changed that are on their way, in order.
    writing: VecDeque<(Write, String)>,
}

impl<T> Default for Timelines<T> {
    fn default() -> Self {
        Self { by_id: BTreeMap::new(), writing: VecDeque::new() }
    }
}

impl<T> Timelines<T> {
    pub fn get(&self, id: &str) -> Option<&T> {
        self.by_id.get(id)?.newest()
    }

    /// For a change that no write makes, or whose write was announced with [`Self::keep`].
    pub fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.by_id.get_mut(id)?.newest_mut()
    }

    pub fn committed(&self, id: &str) -> Option<&T> {
        self.by_id.get(id)?.committed()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        let all = self.by_id.iter();
        all.filter_map(|(id, timeline)| Some((id.as_str(), timeline.newest()?)))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut T)> {
        let all = self.by_id.iter_mut();
        all.filter_map(|(id, timeline)| Some((id.as_str(), timeline.newest_mut()?)))
    }

    /// What readers may know of, in the order of the names.
    pub fn iter_committed(&self) -> impl Iterator<Item = (&str, &T)> {
        let all = self.by_id.iter();
        all.filter_map(|(id, timeline)| Some((id.as_str(), timeline.committed()?)))
    }

    /// Puts what is in the log already.
    pub fn load(&mut self, id: &str, value: Option<T>) {
        match value {
            Some(value) => drop(self.by_id.insert(id.to_owned(), Timeline::loaded(value))),
            None => drop(self.by_id.remove(id)),
        }
    }

    /// Puts a value, or nothing, by `write`.
    pub fn put(&mut self, write: Write, id: &str, value: Option<T>) {
        self.note(write, id).put(write, value);
    }

    /// Keeps a value as it is now for the case that `write`, which changes it, is taken back.
    pub fn keep(&mut self, write: Write, id: &str)
    where
        T: Clone,
    {
        self.note(write, id).keep(write);
    }

    fn note(&mut self, write: Write, id: &str) -> &mut Timeline<T> {
        let timeline = self.by_id.entry(id.to_owned()).or_default();
        if !timeline.is_changed_by(write) {
            self.writing.push_back((write, id.to_owned()));
        }
        timeline
    }

    /// All writes up to `write` are committed.
    pub fn commit(&mut self, write: Write) {
        while let Some((_, id)) = self.writing.pop_front_if(|(at, _)| *at <= write) {
            if let Some(timeline) = self.by_id.get_mut(&id) {
                timeline.commit(write);
                if timeline.is_gone() {
                    self.by_id.remove(&id);
                }
            }
        }
    }

    /// `write` and all after it are undone. Returns whose values that changed, and those that are
    /// gone by it.
    pub fn take_back(&mut self, write: Write) -> BTreeMap<String, Option<T>> {
        let mut changed = BTreeMap::new();
        while let Some((_, id)) = self.writing.pop_back_if(|(at, _)| *at >= write) {
            if let Some(timeline) = self.by_id.get_mut(&id) {
                let gone = timeline.take_back(write);
                if timeline.is_gone() {
                    self.by_id.remove(&id);
                }
                let before = changed.entry(id).or_insert(None);
                *before = before.take().or(gone);
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Move {
        Put(Option<u8>),
        Change(u8),
        Commit(u64),
        TakeBack(u64),
    }

    fn moves() -> impl Strategy<Value = Move> {
        prop_oneof![
            proptest::option::of(any::<u8>()).prop_map(Move::Put),
            any::<u8>().prop_map(Move::Change),
            (0..4u64).prop_map(Move::Commit),
            (0..4u64).prop_map(Move::TakeBack),
        ]
    }

    proptest! {
        /// Against the plain way: the value after each write, in a list.
        #[test]
        fn readers_see_the_committed_value_and_what_is_taken_back_leaves_no_trace(
            moves in proptest::collection::vec(moves(), 1..40)
        ) {
            let mut timeline = Timeline::default();
            let mut values: Vec<Option<u8>> = vec![None];
            let mut committed = 0;
            for next in moves {
                let written = values.len() as u64 - 1;
                match next {
                    Move::Put(value) => {
                        timeline.put(written + 1, value);
                        values.push(value);
                    }
                    Move::Change(value) => {
                        timeline.keep(written + 1);
                        if let Some(newest) = timeline.newest_mut() {
                            *newest = value;
                        }
                        values.push(values[written as usize].map(|_| value));
                    }
                    Move::Commit(back) => {
                        committed = committed.max(written.saturating_sub(back));
                        timeline.commit(committed);
                    }
                    Move::TakeBack(back) => {
                        let first = (written.saturating_sub(back) + 1).max(committed + 1);
                        timeline.take_back(first);
                        values.truncate(first as usize);
                    }
                }
                prop_assert_eq!(timeline.newest().copied(), *values.last().unwrap());
                prop_assert_eq!(timeline.committed().copied(), values[committed as usize]);
            }
        }
    }
}
