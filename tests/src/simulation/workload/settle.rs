//! The final look, once nothing strikes any more: everything has to come back within a bounded
//! time, and is then read from begin to end.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::produce::send;
use super::read::{OUT_OF_RANGE, fetch};
use super::{EARLIEST, RETRY, World, list_offset, now_ms};
use crate::simulation::history::{FinalLog, Place};
use crate::simulation::wire::{Identity, batch, values};

impl World {
    /// Waits until every partition has all its replicas in sync again, then reads all that was
    /// written to. An error says what did not come back in time. `newest` is the metadata that some
    /// broker acted on.
    pub async fn final_logs(
        &self,
        limit: Duration,
        newest: i64,
    ) -> Result<BTreeMap<Place, FinalLog>, String> {
        let mut random = self.random("final");
        let end = Instant::now() + limit;
        while let Err(why) = self.is_complete(newest, &mut random).await {
            if Instant::now() >= end {
                return Err(format!("stuck: {limit:?} after the last fault {why}"));
            }
            sleep(RETRY).await;
        }
        self.trace.note("all replicas are in sync");
        let places = self.places.borrow().clone();
        let mut logs = BTreeMap::new();
        for place in places {
            let last = self.last_record(&place, &mut random, end).await?;
            let log = self.whole_log(&place, last, &mut random, end).await?;
            logs.insert(place, log);
        }
        // What was set just now takes a moment to get everywhere.
        while let Err(why) = self.settings_hold() {
            if Instant::now() >= end {
                return Err(why);
            }
            sleep(RETRY).await;
        }
        self.check_group(&mut random, end).await?;
        Ok(logs)
    }

    async fn is_complete(&self, newest: i64, random: &mut StdRng) -> Result<(), String> {
        for node in self.nodes.iter() {
            let number = node.number;
            let broker = node.broker().ok_or_else(|| format!("node {number} does not run"))?;
            let offset = broker.image.load().offset;
            if offset < newest {
                return Err(format!(
                    "node {number} knows the metadata up to {offset}, others knew {newest}"
                ));
            }
        }
        if !self.voters_are_complete.get() {
            return Err("not all controllers are voters".to_owned());
        }
        let metadata = self.metadata(None, random).await.map_err(|error| error.to_string())?;
        for place in self.places.borrow().iter() {
            let known = metadata.topics.iter().any(|topic| {
                topic.name.as_ref().is_some_and(|name| name.as_str() == place.0)
                    && topic.partitions.len() as i32 > place.1
            });
            if !known {
                return Err(format!("{place:?} does not exist"));
            }
        }
        for topic in &metadata.topics {
            for partition in &topic.partitions {
                let (isr, replicas) = (partition.isr_nodes.len(), partition.replica_nodes.len());
                if partition.leader_id.0 < 0 || isr < replicas {
                    let name = topic.name.as_ref().map_or("", |name| name.as_str());
                    let (index, leader) = (partition.partition_index, partition.leader_id.0);
                    return Err(format!(
                        "{name}-{index} has the leader {leader} and {isr} of {replicas} in sync"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Writes one more record: all that was acknowledged lies before it, whatever a leader that
    /// was elected just now believes to be committed.
    async fn last_record(
        &self,
        place: &Place,
        random: &mut StdRng,
        end: Instant,
    ) -> Result<i64, String> {
        let records = batch(&["end:0".to_owned()], Identity::PLAIN, now_ms());
        let mut refused = None;
        while Instant::now() < end {
            if let Some((mut connection, _)) = self.to_leader(place, random).await {
                match send(&mut connection, place, records.clone()).await {
                    Ok((0, offset)) => return Ok(offset),
                    other => refused = Some(other),
                }
            }
            sleep(RETRY).await;
        }
        Err(format!("stuck: {place:?} takes no records after the last fault: {refused:?}"))
    }

    async fn whole_log(
        &self,
        place: &Place,
        last: i64,
        random: &mut StdRng,
        end: Instant,
    ) -> Result<FinalLog, String> {
        let mut log = FinalLog::default();
        let mut offset = None;
        while Instant::now() < end {
            let Some((mut connection, led)) = self.to_leader(place, random).await else {
                sleep(RETRY).await;
                continue;
            };
            if offset.is_none()
                && let Ok((0, start)) =
                    list_offset(&mut connection, place, led.epoch, EARLIEST).await
            {
                log.start = start;
                offset = Some(start);
            }
            let Some(at) = &mut offset else { continue };
            loop {
                let fetched = fetch(&mut connection, place, led.epoch, *at, 0).await;
                let Ok((0, records)) = fetched else {
                    if matches!(fetched, Ok((OUT_OF_RANGE, _))) {
                        // Retention has come in between: from the new begin, once more.
                        (log, offset) = (FinalLog::default(), None);
                    }
                    break;
                };
                for (found, value) in values(records).map_err(|it| format!("corrupt: {it}"))? {
                    if found >= *at {
                        log.records.insert(found, value);
                        *at = found + 1;
                    }
                }
                if *at > last {
                    return Ok(log);
                }
                if Instant::now() >= end {
                    break;
                }
            }
            sleep(RETRY).await;
        }
        Err(format!("stuck: {place:?} cannot be read to its end at {last}"))
    }
}
