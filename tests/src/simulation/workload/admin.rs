//! Admin calls: partitions are added, settings changed, leaders moved, records deleted.

use std::io;
use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{
    CreatePartitionsRequest, DeleteRecordsRequest, ElectLeadersRequest,
    IncrementalAlterConfigsRequest,
};
use ottla_broker::controller::image::ResourceType;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::{World, name, text};
use crate::simulation::wire::Connection;

/// More partitions than this are not added.
const MOST: i32 = 5;

impl World {
    pub(super) async fn administrate(self, end: Instant) {
        let mut random = self.random("admin");
        while Instant::now() < end {
            sleep(Duration::from_millis(random.random_range(50..1_500))).await;
            let topic = random.random_range(0..self.scenario.topics.len());
            let topic = &self.scenario.topics[topic];
            let done = match random.random_range(0..4) {
                0 => self.add_partition(&topic.name, &mut random).await,
                1 => self.alter(&topic.name, &mut random).await,
                2 => self.elect(&mut random).await,
                _ if topic.short_lived => self.delete_records(&topic.name, &mut random).await,
                _ => Ok(()),
            };
            if let Err(error) = done {
                self.trace.note(&format!("admin: {error}"));
            }
        }
    }

    fn partitions_of(&self, topic: &str) -> i32 {
        self.places.borrow().iter().filter(|(name, _)| name == topic).count() as i32
    }

    async fn add_partition(&self, topic: &str, random: &mut StdRng) -> io::Result<()> {
        let count = self.partitions_of(topic) + 1;
        if count > MOST {
            return Ok(());
        }
        let asked = CreatePartitionsTopic::default()
            .with_name(name(topic))
            .with_count(count)
            .with_assignments(None);
        let request =
            CreatePartitionsRequest::default().with_topics(vec![asked]).with_timeout_ms(5000);
        let answer = self.any_connection(random).await?.call(&request, 3).await?;
        let code = answer.results.first().map_or(-1, |result| result.error_code);
        self.trace.note(&format!("{topic} gets partition {}: {code}", count - 1));
        // INVALID_PARTITIONS: an earlier attempt went through.
        if matches!(code, 0 | 37) {
            self.work_on((topic.to_owned(), count - 1));
        }
        Ok(())
    }

    /// Sets something that does no harm, and must stay set.
    async fn alter(&self, topic: &str, random: &mut StdRng) -> io::Result<()> {
        let key = "max.message.bytes";
        let value = random.random_range(500_000..900_000).to_string();
        let entry = (topic.to_owned(), key.to_owned());
        self.history.borrow_mut().configs.entry(entry.clone()).or_default().asked(value.clone());
        let config = AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(0)
            .with_value(Some(text(&value)));
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(topic))
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.any_connection(random).await?.call(&request, 1).await?;
        let code = answer.responses.first().map_or(-1, |result| result.error_code);
        self.trace.note(&format!("{topic} {key}={value}: {code}"));
        if code == 0 {
            let mut history = self.history.borrow_mut();
            history.configs.entry(entry).or_default().was_acknowledged(value);
        }
        Ok(())
    }

    async fn elect(&self, random: &mut StdRng) -> io::Result<()> {
        let request = ElectLeadersRequest::default()
            .with_election_type(0)
            .with_topic_partitions(None)
            .with_timeout_ms(5000);
        let answer = self.any_connection(random).await?.call(&request, 2).await?;
        self.trace.note(&format!("preferred leaders: {}", answer.error_code));
        Ok(())
    }

    async fn delete_records(&self, topic: &str, random: &mut StdRng) -> io::Result<()> {
        let place = (topic.to_owned(), random.random_range(0..self.partitions_of(topic)));
        let Some((mut connection, _)) = self.to_leader(&place, random).await else {
            return Ok(());
        };
        let seen = self
            .history
            .borrow()
            .seen
            .get(&place)
            .and_then(|it| it.last_key_value().map(|(offset, _)| *offset));
        let offset = random.random_range(0..=seen.unwrap_or(0));
        let code = delete_below(&mut connection, topic, place.1, offset).await?;
        self.trace.note(&format!("{place:?} deletes below {offset}: {code}"));
        Ok(())
    }

    /// What was set last, and surely, is what all brokers have.
    pub(super) fn settings_hold(&self) -> Result<(), String> {
        for ((topic, key), intents) in &self.history.borrow().configs {
            for node in self.nodes.iter() {
                let Some(broker) = node.broker() else { continue };
                let image = broker.image.load_full();
                let has = image.config(ResourceType::Topic, topic).get(key);
                if !intents.allow(has) {
                    let (number, value) = (node.number, &intents.acknowledged);
                    return Err(format!(
                        "metadata: {key} of {topic} was set to {value:?}, node {number} has {has:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The error that the partition's leader answers with.
pub(super) async fn delete_below(
    leader: &mut Connection,
    topic: &str,
    partition: i32,
    offset: i64,
) -> io::Result<i16> {
    let partition =
        DeleteRecordsPartition::default().with_partition_index(partition).with_offset(offset);
    let asked =
        DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![asked]).with_timeout_ms(3000);
    let answer = leader.call(&request, 2).await?;
    let partition = answer.topics.first().and_then(|topic| topic.partitions.first());
    Ok(partition.map_or(-1, |partition| partition.error_code))
}
