//! Producers, readers and the final look: clients of the simulated cluster.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    CreateTopicsRequest, FetchRequest, InitProducerIdRequest, MetadataRequest, MetadataResponse,
    ProduceRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

use super::history::{History, Place};
use super::scenario::{PORT, Scenario, host};
use super::trace::Trace;
use super::wire::{Connection, Identity, batch, values};

const RETRY: Duration = Duration::from_millis(100);
/// Offset base of the wall clock that producers stamp; the brokers' is the same.
const START_MS: i64 = 1_767_225_600_000;

pub type Shared = Rc<RefCell<History>>;

/// What every client knows.
#[derive(Clone)]
pub struct World {
    pub scenario: Rc<Scenario>,
    pub history: Shared,
    pub trace: Trace,
}

fn now_ms() -> i64 {
    START_MS + turmoil::sim_elapsed().unwrap_or_default().as_millis() as i64
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

impl World {
    fn violate(&self, what: String) {
        self.trace.note(&format!("VIOLATION {what}"));
        self.history.borrow_mut().violation.get_or_insert(what);
    }

    fn any_broker(&self, random: &mut StdRng) -> String {
        host(random.random_range(0..self.scenario.brokers))
    }

    async fn metadata(&self, random: &mut StdRng) -> io::Result<MetadataResponse> {
        let mut connection = Connection::open(&self.any_broker(random), PORT).await?;
        let topics = self
            .scenario
            .topics
            .iter()
            .map(|topic| MetadataRequestTopic::default().with_name(Some(name(&topic.name))));
        let request = MetadataRequest::default()
            .with_topics(Some(topics.collect()))
            .with_allow_auto_topic_creation(false);
        connection.call(&request, 9).await
    }

    /// The leader of a partition by one broker's word.
    async fn leader(&self, place: &Place, random: &mut StdRng) -> io::Result<Option<i32>> {
        let metadata = self.metadata(random).await?;
        let partition = metadata
            .topics
            .iter()
            .filter(|topic| topic.name.as_ref().is_some_and(|name| name.as_str() == place.0))
            .flat_map(|topic| &topic.partitions)
            .find(|partition| partition.partition_index == place.1);
        Ok(partition.map(|partition| partition.leader_id.0).filter(|leader| *leader >= 0))
    }

    async fn to_leader(&self, place: &Place, random: &mut StdRng) -> Option<Connection> {
        let leader = self.leader(place, random).await.ok()??;
        Connection::open(&host(usize::try_from(leader).ok()?), PORT).await.ok()
    }

    /// Creates the scenario's topics, trying until each exists with all its leaders.
    pub async fn create_topics(&self) {
        let mut random = StdRng::seed_from_u64(self.scenario.seed ^ 1);
        loop {
            if let Err(error) = self.try_to_create(&mut random).await {
                self.trace.note(&format!("topics: {error}"));
            }
            if let Ok(metadata) = self.metadata(&mut random).await {
                let ready = metadata.topics.iter().all(|topic| {
                    topic.error_code == 0
                        && topic.partitions.iter().all(|partition| partition.leader_id.0 >= 0)
                });
                if ready && !metadata.topics.is_empty() {
                    return;
                }
            }
            sleep(RETRY).await;
        }
    }

    async fn try_to_create(&self, random: &mut StdRng) -> io::Result<()> {
        let topics = self.scenario.topics.iter().map(|topic| {
            CreatableTopic::default()
                .with_name(name(&topic.name))
                .with_num_partitions(topic.partitions)
                .with_replication_factor(3)
                .with_configs(vec![
                    CreatableTopicConfig::default()
                        .with_name(StrBytes::from_static_str("min.insync.replicas"))
                        .with_value(Some(StrBytes::from_string(topic.min_insync.to_string()))),
                ])
        });
        let request =
            CreateTopicsRequest::default().with_topics(topics.collect()).with_timeout_ms(5000);
        let mut connection = Connection::open(&self.any_broker(random), PORT).await?;
        let answer = connection.call(&request, 5).await?;
        for topic in answer.topics {
            self.trace.note(&format!("create {}: {}", topic.name.as_str(), topic.error_code));
        }
        Ok(())
    }

    /// Writes numbered values to `place`, one batch after the other, until the load is over.
    pub async fn produce(self, place: Place, producer: String, idempotent: bool) {
        let seed = self.scenario.seed ^ (u64::from(producer.as_bytes()[1]) << 8);
        let mut random = StdRng::seed_from_u64(seed);
        let key = (place.clone(), producer.clone());
        self.history.borrow_mut().written.entry(key.clone()).or_default().idempotent = idempotent;
        let end = Instant::now() + self.scenario.load;
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
            let batch_values: Vec<_> =
                numbers.iter().map(|number| format!("{producer}:{number}")).collect();
            self.history.borrow_mut().written.get_mut(&key).expect("entered above").sent =
                next + count;
            let timestamp =
                START_MS + turmoil::sim_elapsed().unwrap_or_default().as_millis() as i64;
            let records = batch(&batch_values, identity, timestamp);
            // The same batch again and again, until its fate is known.
            let acknowledged = loop {
                if connection.is_none() {
                    connection = self.to_leader(&place, &mut random).await;
                }
                let Some(open) = &mut connection else {
                    if Instant::now() >= end {
                        break None;
                    }
                    sleep(RETRY).await;
                    continue;
                };
                match send(open, &place, records.clone()).await {
                    Ok((0, offset)) => break Some(offset),
                    Ok((code, offset)) => {
                        self.trace.note(&format!("{producer}:{next} refused: {code}"));
                        match ResponseError::try_from_code(code) {
                            Some(ResponseError::DuplicateSequenceNumber) => break Some(offset),
                            Some(
                                error @ (ResponseError::OutOfOrderSequenceNumber
                                | ResponseError::UnknownProducerId
                                | ResponseError::InvalidProducerEpoch
                                | ResponseError::CorruptMessage
                                | ResponseError::InvalidRecord),
                            ) => {
                                self.violate(format!("{place:?} {producer}:{next}: {error:?}"));
                                break None;
                            }
                            _ => {}
                        }
                    }
                    Err(error) => self.trace.note(&format!("{producer}:{next} unknown: {error}")),
                }
                connection = None;
                if Instant::now() >= end {
                    break None;
                }
                sleep(RETRY).await;
            };
            let Some(offset) = acknowledged else { return };
            self.trace.note(&format!("{producer}:{next}+{count} acknowledged at {offset}"));
            self.acknowledge(&key, numbers, offset);
            next += count;
            if identity.sequence >= 0 {
                identity.sequence += count as i32;
            }
            sleep(Duration::from_millis(random.random_range(0..self.scenario.pause_ms))).await;
        }
    }

    fn acknowledge(&self, key: &(Place, String), numbers: Vec<u64>, offset: i64) {
        let mut history = self.history.borrow_mut();
        let written = history.written.get_mut(key).expect("a producer enters itself first");
        for (at, number) in numbers.into_iter().enumerate() {
            written.acknowledged.insert(number, offset + at as i64);
        }
    }

    async fn producer_id(&self, random: &mut StdRng) -> io::Result<Identity> {
        let mut connection = Connection::open(&self.any_broker(random), PORT).await?;
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let answer = connection.call(&request, 3).await?;
        if answer.error_code != 0 {
            return Err(io::Error::other(format!("error {}", answer.error_code)));
        }
        Ok(Identity {
            producer_id: answer.producer_id.0,
            epoch: answer.producer_epoch,
            sequence: 0,
        })
    }

    /// Reads `place` from its start and goes on reading until the load is over.
    pub async fn read(self, place: Place) {
        let mut random = StdRng::seed_from_u64(self.scenario.seed ^ 0xbeef);
        let end = Instant::now() + self.scenario.load;
        let mut offset = 0;
        let mut connection = None;
        while Instant::now() < end {
            if connection.is_none() {
                connection = self.to_leader(&place, &mut random).await;
            }
            let Some(open) = &mut connection else {
                sleep(RETRY).await;
                continue;
            };
            match fetch(open, &place, offset, 500).await {
                Ok((0, records)) => match values(records) {
                    Ok(new) => self.take(&place, &mut offset, new),
                    Err(error) => self.violate(format!("{place:?} at {offset}: {error}")),
                },
                Ok((1, _)) => {
                    self.violate(format!(
                        "{place:?} offset {offset} was read and is now out of range"
                    ));
                    return;
                }
                other => {
                    if let Ok((code, _)) = other {
                        self.trace.note(&format!("reader of {place:?} refused: {code}"));
                    }
                    connection = None;
                    sleep(RETRY).await;
                }
            }
        }
    }

    fn take(&self, place: &Place, offset: &mut i64, new: Vec<(i64, String)>) {
        let mut history = self.history.borrow_mut();
        for (at, value) in new {
            if at >= *offset {
                history.saw(place, at, &value);
                *offset = at + 1;
            }
        }
    }

    /// After the faults: waits until every partition has all its replicas in sync again, then
    /// reads all of it. An error says what did not come back in time.
    pub async fn final_logs(
        &self,
        limit: Duration,
    ) -> Result<BTreeMap<Place, BTreeMap<i64, String>>, String> {
        let mut random = StdRng::seed_from_u64(self.scenario.seed ^ 0xfeed);
        let end = Instant::now() + limit;
        loop {
            let complete = self.metadata(&mut random).await.map(|metadata| {
                metadata.topics.len() == self.scenario.topics.len()
                    && metadata.topics.iter().flat_map(|topic| &topic.partitions).all(|partition| {
                        partition.leader_id.0 >= 0
                            && partition.isr_nodes.len() == partition.replica_nodes.len()
                    })
            });
            if matches!(complete, Ok(true)) {
                break;
            }
            if Instant::now() >= end {
                return Err(format!("not all replicas are in sync {limit:?} after the last fault"));
            }
            sleep(RETRY).await;
        }
        let mut logs = BTreeMap::new();
        for topic in &self.scenario.topics {
            for partition in 0..topic.partitions {
                let place = (topic.name.clone(), partition);
                let last = self.last_record(&place, &mut random, end).await?;
                let log = self.whole_log(&place, last, &mut random, end).await?;
                logs.insert(place, log);
            }
        }
        Ok(logs)
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
        while Instant::now() < end {
            if let Some(mut connection) = self.to_leader(place, random).await
                && let Ok((0, offset)) = send(&mut connection, place, records.clone()).await
            {
                return Ok(offset);
            }
            sleep(RETRY).await;
        }
        Err(format!("{place:?} takes no records after the last fault"))
    }

    async fn whole_log(
        &self,
        place: &Place,
        last: i64,
        random: &mut StdRng,
        end: Instant,
    ) -> Result<BTreeMap<i64, String>, String> {
        let mut log = BTreeMap::new();
        let mut offset = 0;
        loop {
            if Instant::now() >= end {
                return Err(format!("{place:?} cannot be read to its end"));
            }
            let Some(mut connection) = self.to_leader(place, random).await else {
                sleep(RETRY).await;
                continue;
            };
            while let Ok((0, records)) = fetch(&mut connection, place, offset, 0).await {
                for (at, value) in values(records)? {
                    if at >= offset {
                        log.insert(at, value);
                        offset = at + 1;
                    }
                }
                if offset > last {
                    return Ok(log);
                }
                if Instant::now() >= end {
                    break;
                }
            }
            sleep(RETRY).await;
        }
    }
}

async fn send(
    connection: &mut Connection,
    place: &Place,
    records: bytes::Bytes,
) -> io::Result<(i16, i64)> {
    let partition = PartitionProduceData::default().with_index(place.1).with_records(Some(records));
    let topic =
        TopicProduceData::default().with_name(name(&place.0)).with_partition_data(vec![partition]);
    let request =
        ProduceRequest::default().with_acks(-1).with_timeout_ms(3000).with_topic_data(vec![topic]);
    let answer = connection.call(&request, 8).await?;
    let partition = answer
        .responses
        .into_iter()
        .flat_map(|topic| topic.partition_responses)
        .next()
        .ok_or_else(|| io::Error::other("an answer without the partition"))?;
    Ok((partition.error_code, partition.base_offset))
}

async fn fetch(
    connection: &mut Connection,
    place: &Place,
    offset: i64,
    wait_ms: i32,
) -> io::Result<(i16, bytes::Bytes)> {
    let partition = FetchPartition::default()
        .with_partition(place.1)
        .with_fetch_offset(offset)
        .with_current_leader_epoch(-1)
        .with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(name(&place.0)).with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(10 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let answer = connection.call(&request, 11).await?;
    if answer.error_code != 0 {
        return Ok((answer.error_code, bytes::Bytes::new()));
    }
    let partition = answer
        .responses
        .into_iter()
        .flat_map(|topic| topic.partitions)
        .next()
        .ok_or_else(|| io::Error::other("an answer without the partition"))?;
    Ok((partition.error_code, partition.records.unwrap_or_default()))
}
