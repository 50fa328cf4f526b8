//! Offsets that producers committed in transactions which are still open.
//!
//! They count from the marker that commits their transaction, unless something newer was written
//! for the same partition in between; a deletion takes them along. Every change belongs to a write
//! and can be taken back with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Committed, Place};
use crate::coordinator::runtime::Write;

#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// The write that put it; 0 when it was loaded.
    pub write: Write,
    pub value: Committed,
}

/// What a place held for a producer before a write.
#[derive(Debug)]
struct Undo {
    write: Write,
    producer: i64,
    place: Place,
    before: Option<Pending>,
}

#[derive(Debug, Default)]
pub struct Open {
    places: BTreeMap<Place, BTreeMap<i64, Pending>>,
    producers: BTreeMap<i64, BTreeSet<Place>>,
    undo: VecDeque<Undo>,
}

impl Open {
    pub fn put(&mut self, write: Write, producer: i64, place: Place, value: Committed) {
        self.change(write, producer, place, Some(Pending { write, value }));
    }

    /// What all producers committed for a place is void.
    pub fn clear(&mut self, write: Write, place: &Place) {
        let producers: Vec<i64> =
            self.places.get(place).into_iter().flat_map(|it| it.keys().copied()).collect();
        for producer in producers {
            self.change(write, producer, place.clone(), None);
        }
    }

    /// The transaction of a producer has ended: takes what it committed.
    pub fn end(&mut self, write: Write, producer: i64) -> Vec<(Place, Pending)> {
        let places = self.producers.get(&producer).cloned().unwrap_or_default();
        let take = |place: Place| {
            let pending = self.change(write, producer, place.clone(), None)?;
            Some((place, pending))
        };
        places.into_iter().filter_map(take).collect()
    }

    /// Writes up to `write` are not taken back any more.
    pub fn committed(&mut self, write: Write) {
        while self.undo.pop_front_if(|undo| undo.write <= write).is_some() {}
    }

    /// `write` and all after it never happened.
    pub fn take_back(&mut self, write: Write) {
        while let Some(undo) = self.undo.pop_back_if(|undo| undo.write >= write) {
            self.set(undo.producer, undo.place, undo.before);
        }
    }

    pub fn contains(&self, group: &str, topic: &str, partition: i32) -> bool {
        !self.places.is_empty() && self.places.contains_key(&Place::new(group, topic, partition))
    }

    /// The places of a group, in order.
    pub fn of_group<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a Place> {
        let first = Place::new(group, "", i32::MIN);
        self.places.range(first..).map(|(place, _)| place).take_while(move |it| it.group == group)
    }

    pub fn of_topic<'a>(
        &'a self,
        topic: &'a str,
    ) -> impl Iterator<Item = (&'a Place, &'a Committed)> {
        self.places.iter().filter(move |(place, _)| place.topic == topic).flat_map(
            |(place, producers)| producers.values().map(move |pending| (place, &pending.value)),
        )
    }

    fn change(
        &mut self,
        write: Write,
        producer: i64,
        place: Place,
        to: Option<Pending>,
    ) -> Option<Pending> {
        let before = self.set(producer, place.clone(), to);
        // What was loaded is committed.
        if write > 0 {
            self.undo.push_back(Undo { write, producer, place, before: before.clone() });
        }
        before
    }

    fn set(&mut self, producer: i64, place: Place, to: Option<Pending>) -> Option<Pending> {
        if let Some(to) = to {
            self.producers.entry(producer).or_default().insert(place.clone());
            return self.places.entry(place).or_default().insert(producer, to);
        }
        if let Some(places) = self.producers.get_mut(&producer) {
            places.remove(&place);
            if places.is_empty() {
                self.producers.remove(&producer);
            }
        }
        let producers = self.places.get_mut(&place)?;
        let before = producers.remove(&producer);
        if producers.is_empty() {
            self.places.remove(&place);
        }
        before
    }
}
