//! Readers of committed records: each reads one partition as a consumer does that leaves out what
//! is in aborted transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::ListOffsetsRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use tokio::time::{Instant, sleep};

use super::{LATEST, RETRY, World, name};
use crate::simulation::history::Place;
use crate::simulation::wire::{Connection, FetchedBatch, batches, value_of};

/// What a fetch brought.
pub(super) struct Fetched {
    pub code: i16,
    pub records: Vec<(i64, String)>,
    /// Where to go on.
    pub next: i64,
}

/// Records from `offset` on, up to the last stable offset, without those of aborted transactions.
pub(super) async fn fetch_committed(
    connection: &mut Connection,
    place: &Place,
    epoch: i32,
    offset: i64,
    (wait_ms, bytes): (i32, i32),
) -> io::Result<Fetched> {
    let partition = FetchPartition::default()
        .with_partition(place.1)
        .with_fetch_offset(offset)
        .with_current_leader_epoch(epoch)
        .with_partition_max_bytes(bytes);
    let topic = FetchTopic::default().with_topic(name(&place.0)).with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(10 << 20)
        .with_isolation_level(1)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let answer = connection.call(&request, 11).await?;
    let mut partitions = answer.responses.into_iter().flat_map(|topic| topic.partitions);
    let Some(partition) = partitions.next().filter(|_| answer.error_code == 0) else {
        return Ok(Fetched { code: answer.error_code.max(1), records: Vec::new(), next: offset });
    };
    let aborted = partition.aborted_transactions.unwrap_or_default();
    let mut aborted: Vec<(i64, i64)> =
        aborted.iter().map(|it| (it.first_offset, it.producer_id.0)).collect();
    aborted.sort_unstable();
    let found = batches(partition.records.unwrap_or_default())
        .map_err(|error| io::Error::other(format!("corrupt: {error}")))?;
    let (records, next) = leave_out(found, aborted, offset);
    Ok(Fetched { code: partition.error_code, records, next })
}

/// As a consumer does: from an aborted transaction's first offset on, what its producer wrote is
/// left out until the marker.
fn leave_out(
    found: Vec<FetchedBatch>,
    aborted: Vec<(i64, i64)>,
    from: i64,
) -> (Vec<(i64, String)>, i64) {
    let mut ahead = aborted.into_iter().peekable();
    let mut open = BTreeSet::new();
    let (mut records, mut next) = (Vec::new(), from);
    for batch in found {
        while let Some((_, producer)) = ahead.next_if(|(first, _)| *first <= batch.last_offset) {
            open.insert(producer);
        }
        next = next.max(batch.last_offset + 1);
        if batch.control {
            if batch.is_abort() {
                open.remove(&batch.producer_id);
            }
        } else if !(batch.transactional && open.contains(&batch.producer_id)) {
            let wanted = batch.records.iter().filter(|record| record.offset >= from);
            records.extend(wanted.map(|record| (record.offset, value_of(record))));
        }
    }
    (records, next)
}

/// The end of a partition: for readers of committed records, or for all.
pub(super) async fn end_of(
    connection: &mut Connection,
    place: &Place,
    committed: bool,
) -> io::Result<i64> {
    let partition =
        ListOffsetsPartition::default().with_partition_index(place.1).with_timestamp(LATEST);
    let topic =
        ListOffsetsTopic::default().with_name(name(&place.0)).with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default()
        .with_replica_id((-1).into())
        .with_isolation_level(i8::from(committed))
        .with_topics(vec![topic]);
    let answer = connection.call(&request, 7).await?;
    let mut partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    match partitions.next() {
        Some(partition) if partition.error_code == 0 => Ok(partition.offset),
        _ => Err(io::Error::other("no end")),
    }
}

impl World {
    /// Reads what is committed of `place` as it comes, until the load is over.
    pub(super) async fn read_committed(self, place: Place, end: Instant) {
        let mut random = self.random(&format!("committed {place:?}"));
        let mut at = 0;
        let mut connection = None;
        while Instant::now() < end {
            if connection.is_none() {
                connection = self.to_leader(&place, &mut random).await;
            }
            if let Some((open, led)) = &mut connection {
                let fetched = fetch_committed(open, &place, led.epoch, at, (300, 1 << 20)).await;
                match fetched {
                    Ok(Fetched { code: 0, records, next }) => {
                        at = next;
                        for (offset, value) in records {
                            let mut history = self.history.borrow_mut();
                            let judged = history.ledger.saw(&place, offset, &value);
                            drop(history);
                            if let Err(what) = judged {
                                self.violate(what);
                            }
                        }
                        continue;
                    }
                    Err(error) if error.to_string().starts_with("corrupt") => {
                        self.violate(error.to_string());
                    }
                    _ => {}
                }
            }
            connection = None;
            sleep(RETRY).await;
        }
    }

    /// Waits until nothing of `place` is in an open transaction any more, and reads all that is
    /// committed.
    pub(super) async fn all_committed(
        &self,
        place: &Place,
        end: Instant,
    ) -> Result<BTreeMap<i64, String>, String> {
        let mut random = self.random(&format!("all of {place:?}"));
        let mut last = None;
        while Instant::now() < end {
            if let Some((mut connection, led)) = self.to_leader(place, &mut random).await {
                let stable = end_of(&mut connection, place, true).await;
                let all = end_of(&mut connection, place, false).await;
                last = Some((stable.as_ref().ok().copied(), all.as_ref().ok().copied()));
                if let (Ok(stable), Ok(all)) = (stable, all)
                    && stable == all
                    && let Some(found) =
                        self.read_up_to(&mut connection, place, led.epoch, all, end).await?
                {
                    return Ok(found);
                }
            }
            sleep(RETRY).await;
        }
        Err(format!(
            "stuck: {place:?} cannot be read to its end after the last fault: (last stable offset, \
             end) {last:?}"
        ))
    }

    async fn read_up_to(
        &self,
        connection: &mut Connection,
        place: &Place,
        epoch: i32,
        up_to: i64,
        end: Instant,
    ) -> Result<Option<BTreeMap<i64, String>>, String> {
        let (mut at, mut found) = (0, BTreeMap::new());
        while at < up_to {
            if Instant::now() >= end {
                return Ok(None);
            }
            match fetch_committed(connection, place, epoch, at, (0, 1 << 20)).await {
                Ok(Fetched { code: 0, records, next }) => {
                    if next == at {
                        sleep(RETRY).await;
                    }
                    (at, found) = (next, found.into_iter().chain(records).collect());
                }
                Err(error) if error.to_string().starts_with("corrupt") => {
                    return Err(error.to_string());
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(found))
    }
}
