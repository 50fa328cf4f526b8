//! A topic that is deleted and created again under its name, again and again. Clients name it by its
//! id, so that what they write and read is of one incarnation: each value carries it.

use std::io;
use std::time::Duration;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{CreateTopicsRequest, DeleteTopicsRequest};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::admin::delete_below;
use super::produce::send_to;
use super::read::fetch_from;
use super::{RETRY, World, name, now_ms};
use crate::simulation::scenario::{PORT, host};
use crate::simulation::wire::{Connection, Identity, batch, values};

const TOPIC: &str = "churn";
const EXISTS: i16 = 36;
const UNKNOWN: i16 = 3;
const OFFSET_OUT_OF_RANGE: i16 = 1;
/// As DeleteRecords means it.
const HIGH_WATERMARK: i64 = -1;
/// Values of one incarnation.
const VALUES: usize = 6;

impl World {
    pub(super) async fn churn(self, end: Instant) {
        let mut random = self.random(TOPIC);
        while Instant::now() < end {
            let created = self.create_churned(&mut random).await;
            if !matches!(created, Ok(0 | EXISTS)) {
                sleep(RETRY).await;
                continue;
            }
            let incarnation = self.incarnation(&mut random).await;
            if let Some((id, _)) = incarnation {
                self.use_incarnation(id, &mut random, end).await;
                if random.random_bool(0.5) {
                    let _ = self.clear_incarnation(id, &mut random).await;
                }
            }
            sleep(Duration::from_millis(random.random_range(0..300))).await;
            while Instant::now() < end {
                match self.delete_churned(&mut random).await {
                    Ok(0 | UNKNOWN) => break,
                    _ => sleep(RETRY).await,
                }
            }
        }
    }

    async fn create_churned(&self, random: &mut StdRng) -> io::Result<i16> {
        let topic = CreatableTopic::default()
            .with_name(name(TOPIC))
            .with_num_partitions(1)
            .with_replication_factor(3);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000);
        let answer = self.any_connection(random).await?.call(&request, 5).await?;
        Ok(answer.topics.first().map_or(-1, |topic| topic.error_code))
    }

    async fn delete_churned(&self, random: &mut StdRng) -> io::Result<i16> {
        let topic = DeleteTopicState::default().with_name(Some(name(TOPIC)));
        let request = DeleteTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000);
        let answer = self.any_connection(random).await?.call(&request, 6).await?;
        Ok(answer.responses.first().map_or(-1, |topic| topic.error_code))
    }

    /// The id of the topic that has the name now, by one broker's word, and its leader.
    async fn incarnation(&self, random: &mut StdRng) -> Option<(Uuid, i32)> {
        let metadata = self.metadata(Some(&[TOPIC]), random).await.ok()?;
        let topic = metadata.topics.first().filter(|topic| topic.error_code == 0)?;
        Some((topic.topic_id, topic.partitions.first()?.leader_id.0))
    }

    async fn to_incarnation(&self, id: Uuid, random: &mut StdRng) -> Option<Connection> {
        let (_, leader) = self.incarnation(random).await.filter(|(now, _)| *now == id)?;
        Connection::open(&host(usize::try_from(leader).ok()?), PORT).await.ok()
    }

    async fn use_incarnation(&self, id: Uuid, random: &mut StdRng, end: Instant) {
        let mut written = Vec::new();
        let patience = end.min(Instant::now() + Duration::from_secs(3));
        while written.len() < VALUES && Instant::now() < patience {
            let value = format!("{id}:{}", written.len());
            if let Some(mut connection) = self.to_incarnation(id, random).await
                && let Ok((0, offset)) = write(&mut connection, id, &value).await
            {
                self.trace.note(&format!("{value} acknowledged at {offset}"));
                written.push((offset, value));
                continue;
            }
            sleep(RETRY).await;
        }
        while Instant::now() < patience {
            if let Some(mut connection) = self.to_incarnation(id, random).await
                && let Ok(true) = self.check_incarnation(&mut connection, id, &written).await
            {
                return;
            }
            sleep(RETRY).await;
        }
    }

    /// Its log starts where it ends: nothing that its successor should know of.
    async fn clear_incarnation(&self, id: Uuid, random: &mut StdRng) -> io::Result<()> {
        let Some(mut connection) = self.to_incarnation(id, random).await else { return Ok(()) };
        let code = delete_below(&mut connection, TOPIC, 0, HIGH_WATERMARK).await?;
        self.trace.note(&format!("{TOPIC} {id} is cleared: {code}"));
        Ok(())
    }

    /// Whether all of it could be read.
    async fn check_incarnation(
        &self,
        connection: &mut Connection,
        id: Uuid,
        written: &[(i64, String)],
    ) -> io::Result<bool> {
        let place = |it: Option<&(i64, String)>| it.map_or(-1, |(offset, _)| *offset);
        let (first, last) = (place(written.first()), place(written.last()));
        let mut offset = 0;
        while offset <= last {
            let partition = FetchPartition::default()
                .with_fetch_offset(offset)
                .with_current_leader_epoch(-1)
                .with_partition_max_bytes(1 << 20);
            let topic = FetchTopic::default().with_topic_id(id).with_partitions(vec![partition]);
            let (code, records) = fetch_from(connection, topic, 0, 13).await?;
            let read = values(records).map_err(io::Error::other)?;
            if code == OFFSET_OUT_OF_RANGE && offset < first {
                // One that was cleared and deleted before, of which some brokers have not heard.
                offset = first;
                continue;
            }
            if code == OFFSET_OUT_OF_RANGE {
                self.violate(format!("lost: {TOPIC} {id} does not have {offset} of 0..={last}"));
            }
            if code != 0 || read.is_empty() {
                return Ok(false);
            }
            for (at, value) in read {
                if !value.starts_with(&id.to_string()) {
                    self.violate(format!("resurrected: {TOPIC} {id} holds {value} at {at}"));
                }
                if let Some((_, expected)) = written.iter().find(|(offset, _)| *offset == at)
                    && *expected != value
                {
                    self.violate(format!(
                        "lost: {TOPIC} {id} has {value}, not {expected}, at {at}"
                    ));
                }
                offset = offset.max(at + 1);
            }
        }
        Ok(true)
    }
}

async fn write(connection: &mut Connection, id: Uuid, value: &str) -> io::Result<(i16, i64)> {
    let records = batch(&[value.to_owned()], Identity::PLAIN, now_ms());
    let partition = PartitionProduceData::default().with_index(0).with_records(Some(records));
    let topic = TopicProduceData::default().with_topic_id(id).with_partition_data(vec![partition]);
    send_to(connection, topic, 13).await
}
