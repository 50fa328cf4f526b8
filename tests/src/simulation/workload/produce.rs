//! Producers: each writes numbered values to one partition, a batch at a time, the same batch again
//! until its fate is known.

use std::io;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::{RETRY, World, name, now_ms};
use crate::simulation::history::Place;
use crate::simulation::wire::{Connection, Identity, batch};

impl World {
    /// Writes numbered values to `place`, one batch after the other, until the load is over.
    pub(super) async fn produce(
        self,
        place: Place,
        producer: String,
        idempotent: bool,
        end: Instant,
    ) {
        let mut random = self.random(&format!("{producer} {place:?}"));
        let key = (place.clone(), producer.clone());
        self.history.borrow_mut().written.entry(key.clone()).or_default().idempotent = idempotent;
        let mut identity = Identity::PLAIN;
        let mut next: u64 = 0;
        let mut connection = None;
        while Instant::now() < end {
            if idempotent && identity.producer_id < 0 {
                let Ok(given) = self.producer_id(&mut random).await else {
                    sleep(RETRY).await;
                    continue;
                };
                identity = given;
            }
            let count = random.random_range(1..=3);
            let numbers: Vec<u64> = (next..next + count).collect();
            let values: Vec<_> =
                numbers.iter().map(|number| format!("{producer}:{number}")).collect();
            let sent = next + count;
            self.history.borrow_mut().written.get_mut(&key).expect("entered above").sent = sent;
            let records = batch(&values, identity, now_ms());
            let label = format!("{producer}:{next}");
            let acknowledged =
                self.insist(&mut connection, &place, &label, &records, end, &mut random).await;
            let Some(offset) = acknowledged else { return };
            self.trace.note(&format!("{label}+{count} acknowledged at {offset}"));
            self.acknowledge(&key, numbers, offset);
            next += count;
            if identity.sequence >= 0 {
                identity.sequence += count as i32;
            }
            sleep(Duration::from_millis(random.random_range(0..self.scenario.pause_ms))).await;
        }
    }

    /// The same batch again and again; `None` when the load is over, or something is wrong.
    async fn insist(
        &self,
        connection: &mut Option<Connection>,
        place: &Place,
        label: &str,
        records: &bytes::Bytes,
        end: Instant,
        random: &mut StdRng,
    ) -> Option<i64> {
        loop {
            if connection.is_none() {
                *connection = self.to_leader(place, random).await.map(|(connection, _)| connection);
            }
            if let Some(open) = connection {
                match send(open, place, records.clone()).await {
                    Ok((0, offset)) => return Some(offset),
                    Ok((code, offset)) => {
                        self.trace.note(&format!("{label} refused: {code}"));
                        match ResponseError::try_from_code(code) {
                            Some(ResponseError::DuplicateSequenceNumber) => return Some(offset),
                            Some(
                                error @ (ResponseError::OutOfOrderSequenceNumber
                                | ResponseError::UnknownProducerId
                                | ResponseError::InvalidProducerEpoch
                                | ResponseError::CorruptMessage
                                | ResponseError::InvalidRecord),
                            ) => {
                                self.violate(format!("refused: {place:?} {label}: {error:?}"));
                                return None;
                            }
                            _ => {}
                        }
                    }
                    Err(error) => self.trace.note(&format!("{label} unknown: {error}")),
                }
            }
            *connection = None;
            if Instant::now() >= end {
                return None;
            }
            sleep(RETRY).await;
        }
    }

    fn acknowledge(&self, key: &(Place, String), numbers: Vec<u64>, offset: i64) {
        let mut history = self.history.borrow_mut();
        let written = history.written.get_mut(key).expect("a producer enters itself first");
        for (at, number) in numbers.into_iter().enumerate() {
            let offset = if offset < 0 { -1 } else { offset + at as i64 };
            written.acknowledged.insert(number, offset);
        }
    }

    async fn producer_id(&self, random: &mut StdRng) -> io::Result<Identity> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let answer = self.any_connection(random).await?.call(&request, 3).await?;
        if answer.error_code != 0 {
            return Err(io::Error::other(format!("error {}", answer.error_code)));
        }
        Ok(Identity {
            producer_id: answer.producer_id.0,
            epoch: answer.producer_epoch,
            sequence: 0,
            transactional: false,
        })
    }
}

/// With acks=all. Returns the error code and the first offset.
pub(super) async fn send(
    connection: &mut Connection,
    place: &Place,
    records: bytes::Bytes,
) -> io::Result<(i16, i64)> {
    let partition = PartitionProduceData::default().with_index(place.1).with_records(Some(records));
    let topic =
        TopicProduceData::default().with_name(name(&place.0)).with_partition_data(vec![partition]);
    send_to(connection, topic, 8).await
}

pub(super) async fn send_to(
    connection: &mut Connection,
    topic: TopicProduceData,
    version: i16,
) -> io::Result<(i16, i64)> {
    let request =
        ProduceRequest::default().with_acks(-1).with_timeout_ms(3000).with_topic_data(vec![topic]);
    let answer = connection.call(&request, version).await?;
    let partition = answer
        .responses
        .into_iter()
        .flat_map(|topic| topic.partition_responses)
        .next()
        .ok_or_else(|| io::Error::other("an answer without the partition"))?;
    Ok((partition.error_code, partition.base_offset))
}
