//! What the operator asks of brokers and tells them. A trait, so that reconcilers can be tried
//! against brokers that are not there.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use ottla_client::{
    Admin, Cluster, ConfigOp, ConfigSource, Controllers, Error, ErrorCode, NewTopic, Options,
    Quorum, QuorumEndpoint, Resource, Result, Topic,
};

use crate::quorum::Change;

/// A topic as the brokers know it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundTopic {
    pub id: String,
    pub partitions: i32,
    /// Of the partition that has the fewest.
    pub replicas: i16,
    /// The settings that the topic has of its own.
    pub config: BTreeMap<String, String>,
}

/// One thing to do to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Create {
        partitions: i32,
        replicas: Option<i16>,
        config: BTreeMap<String, String>,
    },
    AddPartitions {
        total: i32,
    },
    /// New values; none returns a setting to its default.
    SetConfig(BTreeMap<String, Option<String>>),
    Delete,
}

/// How the copies of all partitions are, as the brokers know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copies {
    pub partitions: usize,
    /// Without a leader: neither written nor read.
    pub leaderless: usize,
    /// With a copy that is not in sync, on a broker or a disk that is away.
    pub offline: usize,
    /// With a copy that catches up.
    pub lagging: usize,
}

/// The nodes of one cluster: its brokers, found at `bootstrap`, and its controllers, each at its
/// own listener.
pub trait Kafka: Send + Sync + 'static {
    fn cluster<'a>(&'a self, bootstrap: &'a str) -> BoxFuture<'a, Result<Cluster>>;
    fn topic<'a>(
        &'a self,
        bootstrap: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<FoundTopic>>>;
    fn act<'a>(
        &'a self,
        bootstrap: &'a str,
        topic: &'a str,
        action: &'a Action,
    ) -> BoxFuture<'a, Result<()>>;
    fn copies<'a>(&'a self, bootstrap: &'a str) -> BoxFuture<'a, Result<Copies>>;
    /// The quorum, as the one of `controllers` that leads sees it.
    fn quorum<'a>(&'a self, controllers: &'a str) -> BoxFuture<'a, Result<Quorum>>;
    /// One change of the voters; `endpoint` is where a new one is reached.
    fn change_voter<'a>(
        &'a self,
        controllers: &'a str,
        change: &'a Change,
        endpoint: QuorumEndpoint,
    ) -> BoxFuture<'a, Result<()>>;
}

/// Real brokers. Each question connects anew: questions are few, and a broker's address may be
/// another one each time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Brokers;

impl Kafka for Brokers {
    fn cluster<'a>(&'a self, bootstrap: &'a str) -> BoxFuture<'a, Result<Cluster>> {
        Box::pin(async move { connect(bootstrap).await?.describe_cluster().await })
    }

    fn topic<'a>(
        &'a self,
        bootstrap: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<FoundTopic>>> {
        Box::pin(async move { find(&connect(bootstrap).await?, name).await })
    }

    fn act<'a>(
        &'a self,
        bootstrap: &'a str,
        topic: &'a str,
        action: &'a Action,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { act(&connect(bootstrap).await?, topic, action).await })
    }

    fn copies<'a>(&'a self, bootstrap: &'a str) -> BoxFuture<'a, Result<Copies>> {
        Box::pin(async move { Ok(count(&connect(bootstrap).await?.topics(None).await?)) })
    }

    fn quorum<'a>(&'a self, controllers: &'a str) -> BoxFuture<'a, Result<Quorum>> {
        Box::pin(async move { Controllers::at(controllers, patient())?.describe_quorum().await })
    }

    fn change_voter<'a>(
        &'a self,
        controllers: &'a str,
        change: &'a Change,
        endpoint: QuorumEndpoint,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let controllers = Controllers::at(controllers, patient())?;
            let done = match change {
                Change::Add { id, directory } => {
                    controllers.add_raft_voter(*id, *directory, &[endpoint]).await
                }
                Change::Remove { id, directory, .. } => {
                    controllers.remove_raft_voter(*id, *directory).await
                }
            };
            match done {
                // Done before, by one of us that was killed before it heard the answer.
                Err(error) if error.code() == Some(already(change)) => Ok(()),
                done => done,
            }
        })
    }
}

fn already(change: &Change) -> ErrorCode {
    match change {
        Change::Add { .. } => ErrorCode::DuplicateVoter,
        Change::Remove { .. } => ErrorCode::VoterNotFound,
    }
}

fn count(topics: &[Topic]) -> Copies {
    let mut copies = Copies::default();
    for partition in topics.iter().flat_map(|topic| &topic.partitions) {
        copies.partitions += 1;
        copies.leaderless += usize::from(partition.leader.is_none());
        // Whatever is known of its disk: a copy that is in sync is not away.
        let away = |id: &i32| !partition.isr.contains(id);
        copies.offline += usize::from(partition.offline.iter().any(away));
        copies.lagging += usize::from(partition.isr.len() < partition.replicas.len());
    }
    copies
}

/// A reconcile must not hang on a broker that does not answer: it comes back later anyway.
async fn connect(bootstrap: &str) -> Result<Admin> {
    Admin::connect(bootstrap, patient()).await
}

fn patient() -> Options {
    Options {
        client_id: "ottla-operator".to_owned(),
        connect_timeout: Duration::from_secs(3),
        request_timeout: Duration::from_secs(10),
        api_timeout: Duration::from_secs(15),
        ..Options::default()
    }
}

async fn find(admin: &Admin, name: &str) -> Result<Option<FoundTopic>> {
    let topics = match admin.topics(Some(&[name])).await {
        Err(error) if error.code() == Some(ErrorCode::UnknownTopicOrPartition) => return Ok(None),
        topics => topics?,
    };
    let Some(topic) = topics.into_iter().find(|topic| topic.name == name) else { return Ok(None) };
    match topic.error {
        Some(ErrorCode::UnknownTopicOrPartition) => return Ok(None),
        Some(code) => return Err(Error::Kafka { code, message: format!("{name}: {code}") }),
        None => {}
    }
    let own = |entry: &ottla_client::ConfigEntry| entry.source == ConfigSource::DynamicTopic;
    let entries = admin.describe_configs(&Resource::topic(name)).await?;
    let config = entries
        .into_iter()
        .filter(own)
        .map(|entry| (entry.name, entry.value.unwrap_or_default()))
        .collect();
    let replicas = topic.partitions.iter().map(|partition| partition.replicas.len()).min();
    Ok(Some(FoundTopic {
        id: ottla_client::text::id_text(topic.id),
        partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
        replicas: replicas.and_then(|count| i16::try_from(count).ok()).unwrap_or_default(),
        config,
    }))
}

async fn act(admin: &Admin, topic: &str, action: &Action) -> Result<()> {
    match action {
        Action::Create { partitions, replicas, config } => {
            let new = NewTopic {
                name: topic.to_owned(),
                partitions: Some(*partitions),
                replication: *replicas,
                configs: config.clone(),
                ..NewTopic::default()
            };
            admin.create_topic(new, false).await
        }
        Action::AddPartitions { total } => admin.create_partitions(topic, *total).await,
        Action::SetConfig(changes) => {
            let change = |(name, value): (&String, &Option<String>)| {
                let op = if value.is_some() { ConfigOp::Set } else { ConfigOp::Delete };
                (op, name.clone(), value.clone())
            };
            let changes = changes.iter().map(change).collect();
            admin.alter_configs(&Resource::topic(topic), changes).await
        }
        Action::Delete => match admin.delete_topic(topic).await {
            Err(error) if error.code() == Some(ErrorCode::UnknownTopicOrPartition) => Ok(()),
            done => done,
        },
    }
}
