//! Committed offsets: what each group has read of each partition.
//!
//! Every offset has the value that is committed in the log and, while writes are on their way,
//! those that will follow. Readers see the committed one; what decides on writes sees the newest.
//!
//! Invariants: writes are numbered upwards; a value is visible to readers only once its write is
//! committed; a write that is taken back leaves no trace.
//!
//! Offsets of open transactions are kept apart ([`open`]) until the transaction ends: no reader sees
//! them, and one that wants stable offsets is told that there are some.

mod open;
mod requests;

use std::collections::{BTreeMap, VecDeque};

use uuid::Uuid;

use super::records::{OffsetCommitKey, OffsetCommitValue};
pub use crate::coordinator::runtime::Write;
use crate::env::planted;
use crate::types::{Millis, Offset};
use open::{Open, Pending};
pub use requests::{commit, commit_in_transaction, delete, fetch};

#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    pub offset: Offset,
    pub leader_epoch: i32,
    pub metadata: Box<str>,
    pub commit_timestamp: Millis,
    /// Asked for by the client (versions 2 to 4); -1 for the broker's retention.
    pub expire_timestamp: Millis,
    /// Zero when an old broker wrote it.
    pub topic_id: Uuid,
}

impl Committed {
    /// Whether nobody wants it any more; `unused_since` is what its group says.
    pub fn is_expired(&self, unused_since: Millis, now: Millis, retention_ms: i64) -> bool {
        match self.expire_timestamp {
            -1 => now - unused_since >= retention_ms,
            at => now >= at,
        }
    }
}

impl From<OffsetCommitValue> for Committed {
    fn from(value: OffsetCommitValue) -> Self {
        Self {
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata.into(),
            commit_timestamp: value.commit_timestamp,
            expire_timestamp: value.expire_timestamp,
            topic_id: value.topic_id,
        }
    }
}

impl From<OffsetCommitKey> for Place {
    fn from(OffsetCommitKey { group, topic, partition }: OffsetCommitKey) -> Self {
        Self { group, topic, partition }
    }
}

#[derive(Debug, Default)]
struct Entry {
    committed: Option<Committed>,
    /// Where `committed` stands among all that was written.
    order: Order,
    /// On their way, in order.
    pending: VecDeque<(Write, Order, Option<Committed>)>,
}

impl Entry {
    fn newest(&self) -> Option<&Committed> {
        match self.pending.back() {
            Some((_, _, value)) => value.as_ref(),
            None => self.committed.as_ref(),
        }
    }

    /// Where the newest value stands among all that was written.
    fn newest_order(&self) -> Order {
        self.pending.back().map_or(self.order, |(_, order, _)| *order)
    }

    fn is_gone(&self) -> bool {
        self.committed.is_none() && self.pending.is_empty()
    }
}

/// Whose eyes look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    Committed,
    Newest,
}

/// Counts the values of a shard as they were written, by whatever producer: of two that are
/// committed the later one holds.
type Order = u64;

type Partitions = BTreeMap<i32, Entry>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub group: String,
    pub topic: String,
    pub partition: i32,
}

impl Place {
    fn new(group: &str, topic: &str, partition: i32) -> Self {
        Self { group: group.to_owned(), topic: topic.to_owned(), partition }
    }
}

#[derive(Debug, Default)]
pub struct Offsets {
    groups: BTreeMap<String, BTreeMap<String, Partitions>>,
    open: Open,
    next_order: Order,
    /// Where values are pending, in the order of their writes.
    writing: VecDeque<(Write, Place)>,
}

impl Offsets {
    /// Puts a value, or a deletion, that `write` will commit.
    pub fn put(
        &mut self,
        write: Write,
        group: &str,
        topic: &str,
        partition: i32,
        value: Option<Committed>,
    ) {
        let order = self.count();
        self.put_as(write, order, Place::new(group, topic, partition), value);
    }

    fn put_as(&mut self, write: Write, order: Order, place: Place, value: Option<Committed>) {
        if value.is_none() {
            self.open.clear(write, &place);
        }
        let entry = self.entry(&place.group, &place.topic, place.partition);
        entry.pending.push_back((write, order, value));
        self.writing.push_back((write, place));
    }

    /// Puts a value that `write` adds to the open transaction of a producer.
    pub fn put_in_transaction(
        &mut self,
        write: Write,
        producer: i64,
        place: Place,
        value: Committed,
    ) {
        let order = self.count();
        if planted!(OffsetsVisibleBeforeMarker) && write > 0 {
            self.put_as(write, order, place.clone(), Some(value.clone()));
        }
        self.open.put(write, producer, place, Pending { order, value });
    }

    /// `write` ends the transaction of a producer: what it committed counts, unless something newer
    /// was written since, or is void.
    pub fn end_transaction(&mut self, write: Write, producer: i64, committed: bool) {
        for (place, Pending { order, value }) in self.open.end(write, producer) {
            if committed && order > self.newest_order(&place) {
                self.put_as(write, order, place, Some(value));
            }
        }
    }

    /// Puts what was read from the log.
    pub fn load(&mut self, group: &str, topic: &str, partition: i32, value: Option<Committed>) {
        let order = self.count();
        let place = Place::new(group, topic, partition);
        if value.is_none() {
            self.open.clear(0, &place);
        }
        self.load_as(order, &place, value);
    }

    fn load_as(&mut self, order: Order, place: &Place, value: Option<Committed>) {
        let entry = self.entry(&place.group, &place.topic, place.partition);
        (entry.order, entry.committed) = (order, value);
        self.forget_if_gone(&place.group, &place.topic, place.partition);
    }

    /// As [`Offsets::put_in_transaction`], read from the log.
    pub fn load_in_transaction(&mut self, producer: i64, place: Place, value: Committed) {
        self.put_in_transaction(0, producer, place, value);
    }

    /// As [`Offsets::end_transaction`], read from the log.
    pub fn load_end(&mut self, producer: i64, committed: bool) {
        for (place, Pending { order, value }) in self.open.end(0, producer) {
            if committed && order > self.newest_order(&place) {
                self.load_as(order, &place, Some(value));
            }
        }
    }

    fn count(&mut self) -> Order {
        self.next_order += 1;
        self.next_order
    }

    fn newest_order(&self, Place { group, topic, partition }: &Place) -> Order {
        let entry = self.groups.get(group).and_then(|it| it.get(topic)?.get(partition));
        entry.map_or(0, Entry::newest_order)
    }

    /// Whether an open transaction holds an offset of the partition.
    pub fn is_unstable(&self, group: &str, topic: &str, partition: i32) -> bool {
        self.open.contains(group, topic, partition)
    }

    /// For what the open transactions of a group hold offsets.
    pub fn unstable_of_group<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a Place> {
        self.open.of_group(group)
    }

    /// For which groups and partitions of a topic open transactions hold offsets.
    pub fn unstable_of_topic<'a>(
        &'a self,
        topic: &'a str,
    ) -> impl Iterator<Item = (&'a Place, &'a Committed)> {
        self.open.of_topic(topic)
    }

    /// All writes up to `write` are committed.
    pub fn committed(&mut self, write: Write) {
        while let Some((_, place)) = self.writing.pop_front_if(|(at, _)| *at <= write) {
            let entry = self.entry(&place.group, &place.topic, place.partition);
            while let Some((_, order, value)) = entry.pending.pop_front_if(|(at, ..)| *at <= write)
            {
                (entry.order, entry.committed) = (order, value);
            }
            self.forget_if_gone(&place.group, &place.topic, place.partition);
        }
        self.open.committed(write);
    }

    /// `write` and all after it never happened.
    pub fn take_back(&mut self, write: Write) {
        while let Some((_, place)) = self.writing.pop_back_if(|(at, _)| *at >= write) {
            let entry = self.entry(&place.group, &place.topic, place.partition);
            while entry.pending.pop_back_if(|(at, ..)| *at >= write).is_some() {}
            self.forget_if_gone(&place.group, &place.topic, place.partition);
        }
        self.open.take_back(write);
    }

    pub fn get(&self, group: &str, topic: &str, partition: i32, view: View) -> Option<&Committed> {
        let entry = self.groups.get(group)?.get(topic)?.get(&partition)?;
        match view {
            View::Committed => entry.committed.as_ref(),
            View::Newest => entry.newest(),
        }
    }

    /// All offsets of a group, by topic and partition.
    pub fn of_group(
        &self,
        group: &str,
        view: View,
    ) -> impl Iterator<Item = (&str, i32, &Committed)> {
        let topics = self.groups.get(group).into_iter().flatten();
        topics.flat_map(move |(topic, partitions)| {
            partitions.iter().filter_map(move |(partition, entry)| {
                let value = match view {
                    View::Committed => entry.committed.as_ref(),
                    View::Newest => entry.newest(),
                };
                value.map(|value| (topic.as_str(), *partition, value))
            })
        })
    }

    /// The newest offsets of all groups for one topic.
    pub fn of_topic<'a>(
        &'a self,
        topic: &'a str,
    ) -> impl Iterator<Item = (&'a str, i32, &'a Committed)> {
        self.groups.iter().flat_map(move |(group, topics)| {
            topics.get(topic).into_iter().flatten().filter_map(move |(partition, entry)| {
                entry.newest().map(|value| (group.as_str(), *partition, value))
            })
        })
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    fn entry(&mut self, group: &str, topic: &str, partition: i32) -> &mut Entry {
        let topics = get_or_default(&mut self.groups, group);
        get_or_default(topics, topic).entry(partition).or_default()
    }

    fn forget_if_gone(&mut self, group: &str, topic: &str, partition: i32) {
        let Some(topics) = self.groups.get_mut(group) else { return };
        let Some(partitions) = topics.get_mut(topic) else { return };
        if partitions.get(&partition).is_some_and(Entry::is_gone) {
            partitions.remove(&partition);
        }
        if partitions.is_empty() {
            topics.remove(topic);
        }
        if topics.is_empty() {
            self.groups.remove(group);
        }
    }
}

fn get_or_default<'a, V: Default>(map: &'a mut BTreeMap<String, V>, key: &str) -> &'a mut V {
    if !map.contains_key(key) {
        map.insert(key.to_owned(), V::default());
    }
    map.get_mut(key).expect("the key was put in just now")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn at(offset: Offset) -> Committed {
        Committed {
            offset,
            leader_epoch: -1,
            metadata: "".into(),
            commit_timestamp: 0,
            expire_timestamp: -1,
            topic_id: Uuid::nil(),
        }
    }

    fn seen(offsets: &Offsets, view: View) -> Option<Offset> {
        offsets.get("g", "t", 0, view).map(|value| value.offset)
    }

    #[test]
    fn a_reader_sees_a_value_only_once_it_is_committed() {
        let mut offsets = Offsets::default();
        offsets.put(1, "g", "t", 0, Some(at(5)));
        offsets.put(2, "g", "t", 0, Some(at(6)));
        assert_eq!(
            (seen(&offsets, View::Committed), seen(&offsets, View::Newest)),
            (None, Some(6))
        );
        offsets.committed(1);
        assert_eq!(
            (seen(&offsets, View::Committed), seen(&offsets, View::Newest)),
            (Some(5), Some(6))
        );
        offsets.committed(2);
        assert_eq!(seen(&offsets, View::Committed), Some(6));
    }

    fn in_transaction(offsets: &mut Offsets, write: Write, producer: i64, offset: Offset) {
        offsets.put_in_transaction(write, producer, Place::new("g", "t", 0), at(offset));
    }

    #[test]
    fn an_offset_of_a_transaction_counts_once_its_end_is_committed() {
        let mut offsets = Offsets::default();
        in_transaction(&mut offsets, 1, 7, 5);
        assert_eq!(seen(&offsets, View::Newest), None);
        assert!(offsets.is_unstable("g", "t", 0));
        offsets.end_transaction(2, 7, true);
        assert!(!offsets.is_unstable("g", "t", 0));
        assert_eq!(
            (seen(&offsets, View::Committed), seen(&offsets, View::Newest)),
            (None, Some(5))
        );
        offsets.committed(2);
        assert_eq!(seen(&offsets, View::Committed), Some(5));
    }

    #[test]
    fn an_aborted_transaction_leaves_what_was_there() {
        let mut offsets = Offsets::default();
        offsets.load("g", "t", 0, Some(at(3)));
        in_transaction(&mut offsets, 1, 7, 5);
        offsets.end_transaction(2, 7, false);
        offsets.committed(2);
        assert_eq!(seen(&offsets, View::Committed), Some(3));
        assert!(!offsets.is_unstable("g", "t", 0));
    }

    #[test]
    fn what_was_written_after_it_wins_over_an_offset_of_a_transaction() {
        let mut offsets = Offsets::default();
        in_transaction(&mut offsets, 1, 7, 5);
        offsets.put(2, "g", "t", 0, Some(at(9)));
        offsets.committed(2);
        offsets.end_transaction(3, 7, true);
        assert_eq!(seen(&offsets, View::Newest), Some(9));
        in_transaction(&mut offsets, 4, 8, 10);
        offsets.end_transaction(5, 8, true);
        assert_eq!(seen(&offsets, View::Newest), Some(10));
    }

    #[test]
    fn of_two_transactions_the_offset_that_was_written_later_holds_whichever_ends_first() {
        for loaded in [false, true] {
            for ends in [[7, 8], [8, 7]] {
                let mut offsets = Offsets::default();
                for (write, producer) in [(1, 7), (2, 8)] {
                    let (place, value) = (Place::new("g", "t", 0), at(producer));
                    if loaded {
                        offsets.load_in_transaction(producer, place, value);
                    } else {
                        offsets.put_in_transaction(write, producer, place, value);
                    }
                }
                for (write, producer) in [3, 4].into_iter().zip(ends) {
                    if loaded {
                        offsets.load_end(producer, true);
                    } else {
                        offsets.end_transaction(write, producer, true);
                    }
                }
                offsets.committed(4);
                assert_eq!(seen(&offsets, View::Committed), Some(8), "loaded {loaded}, {ends:?}");
            }
        }
    }

    #[test]
    fn a_deletion_takes_offsets_of_open_transactions_along() {
        let mut offsets = Offsets::default();
        in_transaction(&mut offsets, 1, 7, 5);
        offsets.put(2, "g", "t", 0, None);
        assert!(!offsets.is_unstable("g", "t", 0));
        offsets.take_back(2);
        assert!(offsets.is_unstable("g", "t", 0));
        offsets.put(2, "g", "t", 0, None);
        offsets.end_transaction(3, 7, true);
        offsets.committed(3);
        assert!(offsets.is_empty());
    }

    #[test]
    fn the_end_of_a_transaction_can_be_taken_back() {
        let mut offsets = Offsets::default();
        in_transaction(&mut offsets, 1, 7, 5);
        offsets.committed(1);
        offsets.end_transaction(2, 7, true);
        offsets.take_back(2);
        assert!(offsets.is_unstable("g", "t", 0));
        assert_eq!(seen(&offsets, View::Newest), None);
        offsets.end_transaction(2, 7, true);
        offsets.committed(2);
        assert_eq!(seen(&offsets, View::Committed), Some(5));
    }

    #[test]
    fn a_write_that_is_taken_back_leaves_no_trace() {
        let mut offsets = Offsets::default();
        offsets.put(1, "g", "t", 0, Some(at(5)));
        offsets.take_back(1);
        assert!(offsets.is_empty());
        offsets.load("g", "t", 0, Some(at(3)));
        offsets.put(2, "g", "t", 0, None);
        assert_eq!(
            (seen(&offsets, View::Committed), seen(&offsets, View::Newest)),
            (Some(3), None)
        );
        offsets.take_back(2);
        assert_eq!(seen(&offsets, View::Newest), Some(3));
        offsets.put(3, "g", "t", 0, None);
        offsets.committed(3);
        assert!(offsets.is_empty());
    }
}
