//! Readers: each reads one partition from its start on, and asks now and then where its end is.

use std::io;

use bytes::Bytes;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::{EARLIEST, LATEST, Led, RETRY, World, list_offset, name};
use crate::simulation::history::Place;
use crate::simulation::wire::{Connection, values};

/// What Kafka's clients call OFFSET_OUT_OF_RANGE.
pub(super) const OUT_OF_RANGE: i16 = 1;

/// One reader.
struct Reader {
    world: World,
    place: Place,
    random: StdRng,
    /// To the leader, and the epoch in which it leads: it only goes forward.
    connection: Option<(Connection, Led)>,
    epoch: i32,
    offset: i64,
    /// The largest end that a leader told.
    latest: i64,
}

impl World {
    /// Reads `place` from its start and goes on reading until the load is over.
    pub(super) async fn read(self, place: Place, end: Instant) {
        let random = self.random(&format!("reader {place:?}"));
        let mut reader = Reader {
            world: self,
            place,
            random,
            connection: None,
            epoch: -1,
            offset: 0,
            latest: 0,
        };
        while Instant::now() < end {
            if reader.connect().await && reader.turn().await.is_ok() {
                continue;
            }
            reader.connection = None;
            sleep(RETRY).await;
        }
    }
}

impl Reader {
    async fn connect(&mut self) -> bool {
        if self.connection.is_none() {
            let found = self.world.to_leader(&self.place, &mut self.random).await;
            // Some broker may not have heard of the newest leader yet.
            self.connection = found.filter(|(_, led)| led.epoch >= self.epoch);
            if let Some((_, led)) = &self.connection {
                self.epoch = led.epoch;
            }
        }
        self.connection.is_some()
    }

    /// One question. An error: another connection is needed.
    async fn turn(&mut self) -> Result<(), ()> {
        let Some((connection, led)) = &mut self.connection else { return Err(()) };
        if self.random.random_range(0..6) == 0 {
            return match list_offset(connection, &self.place, led.epoch, LATEST).await {
                Ok((0, latest)) => {
                    self.hear_of_end(latest);
                    Ok(())
                }
                _ => Err(()),
            };
        }
        match fetch(connection, &self.place, led.epoch, self.offset, 500).await {
            Ok((0, records)) => {
                self.take(records);
                Ok(())
            }
            Ok((OUT_OF_RANGE, _)) => self.skip().await,
            Ok((code, _)) => {
                self.world.trace.note(&format!("reader of {:?} refused: {code}", self.place));
                Err(())
            }
            Err(_) => Err(()),
        }
    }

    fn hear_of_end(&mut self, latest: i64) {
        let (place, before, offset) = (&self.place, self.latest, self.offset);
        if latest < before.max(offset) {
            self.world.violate(format!(
                "watermark: {place:?} ends at {latest} for a reader who was told {before} and read \
                 up to {offset}"
            ));
        }
        self.latest = before.max(latest);
    }

    fn take(&mut self, records: Bytes) {
        match values(records) {
            Ok(new) => {
                let mut history = self.world.history.borrow_mut();
                for (at, value) in new {
                    if at >= self.offset {
                        history.saw(&self.place, at, &value);
                        self.offset = at + 1;
                    }
                }
            }
            Err(error) => {
                let (place, offset) = (&self.place, self.offset);
                self.world.violate(format!("corrupt: {place:?} at {offset}: {error}"));
            }
        }
    }

    /// Where we read on is no record any more: right if it was deleted.
    async fn skip(&mut self) -> Result<(), ()> {
        let (place, offset) = (&self.place, self.offset);
        if !self.world.scenario.topic(&place.0).is_some_and(|topic| topic.short_lived) {
            self.world.violate(format!("lost: {place:?} {offset} was reached and is out of range"));
            return Err(());
        }
        let Some((connection, led)) = &mut self.connection else { return Err(()) };
        match list_offset(connection, place, led.epoch, EARLIEST).await {
            Ok((0, start)) if start > offset => {
                self.offset = start;
                Ok(())
            }
            Ok((0, start)) => {
                self.world.violate(format!(
                    "lost: {place:?} begins at {start}, and {offset} is out of range"
                ));
                Err(())
            }
            _ => Err(()),
        }
    }
}

/// Returns the error code and the records from `offset` on.
pub(super) async fn fetch(
    connection: &mut Connection,
    place: &Place,
    epoch: i32,
    offset: i64,
    wait_ms: i32,
) -> io::Result<(i16, Bytes)> {
    let partition = FetchPartition::default()
        .with_partition(place.1)
        .with_fetch_offset(offset)
        .with_current_leader_epoch(epoch)
        .with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(name(&place.0)).with_partitions(vec![partition]);
    fetch_from(connection, topic, wait_ms, 11).await
}

pub(super) async fn fetch_from(
    connection: &mut Connection,
    topic: FetchTopic,
    wait_ms: i32,
    version: i16,
) -> io::Result<(i16, Bytes)> {
    let request = FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(10 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let answer = connection.call(&request, version).await?;
    if answer.error_code != 0 {
        return Ok((answer.error_code, Bytes::new()));
    }
    let partition = answer
        .responses
        .into_iter()
        .flat_map(|topic| topic.partitions)
        .next()
        .ok_or_else(|| io::Error::other("an answer without the partition"))?;
    Ok((partition.error_code, partition.records.unwrap_or_default()))
}
