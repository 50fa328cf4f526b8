//! What an administrator asks of a cluster, one method each.
//!
//! A call retries while the answer is one that time heals (a connection that broke, a coordinator
//! that loads), until `Options::api_timeout`; every other error is returned as the broker gave it.

mod configs;
mod groups;
mod offsets;
pub(crate) mod quorum;
mod topics;
mod transactions;
mod types;

use std::collections::BTreeMap;

use kafka_protocol::messages::alter_replica_log_dirs_request::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic,
};
use kafka_protocol::messages::{
    AlterReplicaLogDirsRequest, ApiKey, describe_log_dirs_request::DescribableLogDirTopic,
};
use kafka_protocol::messages::{DescribeClusterRequest, DescribeLogDirsRequest};
use kafka_protocol::protocol::VersionRange;

pub(crate) use groups::{by_topic, decode_assignment};
pub use quorum::{Quorum, QuorumEndpoint, QuorumReplica};
pub use transactions::*;
pub use types::*;

use crate::names::{str_bytes, topic_name};
use crate::{Client, Error, Node, Options, Result, TopicPartition};

#[derive(Clone)]
pub struct Admin {
    client: Client,
}

impl Admin {
    /// Finds the cluster behind `bootstrap`: `host:port` pairs with commas between them.
    pub async fn connect(bootstrap: &str, options: Options) -> Result<Self> {
        Ok(Self { client: Client::connect(bootstrap, options).await? })
    }

    /// An admin on the connections of `client`.
    pub fn of(client: Client) -> Self {
        Self { client }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The cluster and its registered brokers, fenced ones included where the broker can tell.
    pub async fn describe_cluster(&self) -> Result<Cluster> {
        let connection = self.client.to_any().await?;
        let fenced = connection.version_of::<DescribeClusterRequest>()? >= 2;
        let request = DescribeClusterRequest::default()
            .with_endpoint_type(1)
            .with_include_fenced_brokers(fenced);
        let answer = self.client.call_any(&request).await?;
        Error::check(answer.error_code, answer.error_message.as_deref())?;
        let brokers = answer.brokers.iter().map(|broker| Node {
            id: broker.broker_id.0,
            host: broker.host.to_string(),
            port: broker.port as u16,
            rack: broker.rack.as_ref().map(ToString::to_string),
            fenced: broker.is_fenced,
        });
        Ok(Cluster {
            id: answer.cluster_id.to_string(),
            controller: Some(answer.controller_id.0).filter(|id| *id >= 0),
            brokers: brokers.collect(),
        })
    }

    /// The features of the cluster, as the broker `id` knows them, or any.
    pub async fn features(&self, id: Option<i32>) -> Result<Features> {
        let connection = match id {
            Some(id) => self.client.to_broker(id).await?,
            None => self.client.to_any().await?,
        };
        Ok(connection.features().clone())
    }

    /// Which versions of which API the broker at each node speaks.
    pub async fn api_versions(&self) -> Result<Vec<(Node, Result<SupportedApis>)>> {
        self.client.metadata(Some(&[])).await?;
        let mut all = Vec::new();
        for node in self.client.brokers() {
            let apis = self
                .client
                .to_broker(node.id)
                .await
                .map(|connection| supported(connection.versions()));
            all.push((node, apis));
        }
        Ok(all)
    }

    /// The log directories of `broker`, with the size of each replica of `topics` (`None`: all).
    pub async fn log_dirs(
        &self,
        broker: i32,
        topics: Option<&[(String, Vec<i32>)]>,
    ) -> Result<Vec<LogDir>> {
        let topics = topics.map(|topics| {
            let one = |(name, partitions): &(String, Vec<i32>)| {
                DescribableLogDirTopic::default()
                    .with_topic(topic_name(name))
                    .with_partitions(partitions.clone())
            };
            topics.iter().map(one).collect()
        });
        let request = DescribeLogDirsRequest::default().with_topics(topics);
        let answer = self.client.to_broker(broker).await?.call(&request).await?;
        Error::check(answer.error_code, None)?;
        Ok(answer.results.into_iter().map(LogDir::from).collect())
    }

    /// Has replicas of `broker` moved into these log directories; what it says of each.
    pub async fn alter_log_dirs(
        &self,
        broker: i32,
        wanted: &BTreeMap<TopicPartition, String>,
    ) -> Result<BTreeMap<TopicPartition, Result<()>>> {
        let mut dirs = BTreeMap::<&str, BTreeMap<&str, Vec<i32>>>::new();
        for (at, path) in wanted {
            let topics = dirs.entry(path).or_default();
            topics.entry(&at.topic).or_default().push(at.partition);
        }
        let dirs = dirs.into_iter().map(|(path, topics)| {
            let topics = topics.into_iter().map(|(name, partitions)| {
                AlterReplicaLogDirTopic::default()
                    .with_name(topic_name(name))
                    .with_partitions(partitions)
            });
            AlterReplicaLogDir::default().with_path(str_bytes(path)).with_topics(topics.collect())
        });
        let request = AlterReplicaLogDirsRequest::default().with_dirs(dirs.collect());
        let answer = self.client.to_broker(broker).await?.call(&request).await?;
        let mut all = BTreeMap::new();
        for topic in &answer.results {
            for one in &topic.partitions {
                let at = TopicPartition::new(topic.topic_name.as_str(), one.partition_index);
                all.insert(at, Error::check(one.error_code, None));
            }
        }
        Ok(all)
    }
}

fn supported(versions: &std::collections::BTreeMap<i16, VersionRange>) -> SupportedApis {
    let one = |(key, range): (&i16, &VersionRange)| {
        let ours = ApiKey::try_from(*key).ok().map(|key| key.valid_versions());
        (
            *key,
            range.min,
            range.max,
            ours.map(|ours| ours.intersect(range).max).filter(|max| *max >= range.min),
        )
    };
    SupportedApis(versions.iter().map(one).collect())
}
