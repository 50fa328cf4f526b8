//! A compacted topic: keys are set and deleted, and whoever reads it from its start finds the last
//! value of each, on every replica.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, sleep};

use super::produce::send;
use super::{RETRY, World, now_ms};
use crate::simulation::history::Place;
use crate::simulation::scenario::TABLE;
use crate::simulation::wire::{Identity, batches, keyed_batch, value_of};

const KEYS: u32 = 6;

impl World {
    fn table_places(&self) -> Vec<Place> {
        let partitions = self.scenario.ledger(TABLE).map_or(0, |topic| topic.partitions);
        (0..partitions).map(|partition| (TABLE.to_owned(), partition)).collect()
    }

    pub(super) fn start_table(&self, end: Instant) {
        for place in self.table_places() {
            self.start(self.clone().write_table(place, end));
        }
    }

    /// One writer for a partition: what it was told is set is set, until it sets it again.
    async fn write_table(self, place: Place, end: Instant) {
        let mut random = self.random(&format!("table {place:?}"));
        let (mut connection, mut number) = (None, 0);
        while Instant::now() < end {
            number += 1;
            let key = format!("k{}", random.random_range(0..KEYS));
            let value = if random.random_bool(0.3) { None } else { Some(format!("v{number}")) };
            let told = value.clone().unwrap_or_default();
            let entry = (place.1, key.clone());
            self.history.borrow_mut().table.entry(entry.clone()).or_default().asked(told.clone());
            if connection.is_none() {
                connection = self.to_leader(&place, &mut random).await.map(|(it, _)| it);
            }
            let records = keyed_batch(&[(Some(key), value)], Identity::PLAIN, now_ms());
            let sent = match &mut connection {
                Some(connection) => send(connection, &place, records).await.ok(),
                None => None,
            };
            if let Some((0, offset)) = sent {
                self.trace.note(&format!("table {entry:?}={told} at {offset}"));
                let mut history = self.history.borrow_mut();
                let intents = history.table.entry(entry).or_default();
                intents.was_acknowledged(told);
            } else {
                connection = None;
                sleep(RETRY).await;
            }
            sleep(Duration::from_millis(random.random_range(0..60))).await;
        }
    }

    /// All replicas have the same, and what was set last.
    pub async fn check_table(&self, end: Instant) -> Result<(), String> {
        for place in self.table_places() {
            // The replicas learn of the last high watermark with their next fetch.
            while let Err(why) = self.compare_tables(&place) {
                if Instant::now() >= end || !why.starts_with("behind") {
                    return Err(why.replacen("behind", "stuck", 1));
                }
                sleep(RETRY).await;
            }
        }
        Ok(())
    }

    fn compare_tables(&self, place: &Place) -> Result<(), String> {
        let mut replicas = 0;
        for node in self.nodes.iter() {
            let Some(broker) = node.broker() else { continue };
            let Some(partition) = broker.partitions.get(&place.0, place.1) else { continue };
            let _quiet = node.machine.disk.observe();
            replicas += 1;
            let (log, number) = (partition.log(), node.number);
            let (mut at, up_to) = (log.start_offset(), partition.high_watermark());
            if up_to < log.end_offset() {
                return Err(format!("behind: {place:?} on node {number} is not committed"));
            }
            let mut table = BTreeMap::new();
            while at < up_to {
                let bytes = log.read_cold(at, 1 << 20, up_to, true);
                let bytes = bytes.map_err(|it| format!("corrupt: {place:?} on {number}: {it}"))?;
                let read = batches(bytes).map_err(|error| format!("corrupt: {error}"))?;
                let Some(last) = read.last() else { break };
                at = last.last_offset + 1;
                for record in read.iter().flat_map(|batch| &batch.records) {
                    let key = record.key.as_deref().unwrap_or_default();
                    let key = String::from_utf8_lossy(key).into_owned();
                    table.insert(key, value_of(record));
                }
            }
            self.judge_table(place, number, &table)?;
        }
        if replicas == 0 { Err(format!("behind: nobody has {place:?}")) } else { Ok(()) }
    }

    fn judge_table(
        &self,
        place: &Place,
        node: usize,
        table: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        for ((partition, key), intents) in &self.history.borrow().table {
            if *partition != place.1 {
                continue;
            }
            // A key that is not there is as good as one that was deleted.
            let found = table.get(key).map_or("", |value| value).to_owned();
            let never_set = intents.acknowledged.is_none();
            if !(intents.allow(Some(&found)) || found.is_empty() && never_set) {
                let set = &intents.acknowledged;
                return Err(format!(
                    "lost: {key} of {place:?} was set to {set:?}, on node {node} it is {found:?}"
                ));
            }
        }
        Ok(())
    }
}
