//! A cluster as a client sees it: its brokers, their connections, who leads what.
//!
//! Connections are made on demand, one per broker, and replaced when they break. What is known of
//! the brokers comes from the last Metadata answer; when none of them can be reached, the bootstrap
//! addresses are asked again, so a client survives a cluster whose brokers all moved.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::Request;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::names::{str_bytes, topic_name};
use crate::{Connection, Error, ErrorCode, Result, TopicPartition};

/// How a client behaves; the defaults are those of Kafka's clients.
#[derive(Debug, Clone)]
pub struct Options {
    pub client_id: String,
    /// How long one connection may take to come up.
    pub connect_timeout: Duration,
    /// How long one request may wait for its answer.
    pub request_timeout: Duration,
    /// How long a call goes on retrying, all attempts together.
    pub api_timeout: Duration,
    /// How long `connect` goes on trying the bootstrap addresses. Zero: each is tried once.
    pub bootstrap_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            client_id: "ottla".into(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            api_timeout: Duration::from_mins(1),
            bootstrap_timeout: Duration::ZERO,
        }
    }
}

/// A broker as clients reach it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    pub id: i32,
    pub host: String,
    pub port: u16,
    pub rack: Option<String>,
    /// Registered, but not serving. Only known from `Admin::describe_cluster`.
    pub fenced: bool,
}

impl Node {
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Cheap to clone; clones share connections and metadata.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    bootstrap: Vec<String>,
    options: Options,
    known: Mutex<Known>,
    /// By address. The outer lock is never held over a connect, the inner one is: so two callers
    /// share one attempt, and a broker that hangs delays nobody else.
    connections: Mutex<BTreeMap<String, Slot>>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>;

#[derive(Default)]
struct Known {
    brokers: BTreeMap<i32, Node>,
    leaders: BTreeMap<TopicPartition, i32>,
    coordinators: BTreeMap<(i8, String), i32>,
}

/// The waits between attempts: short at first, then a second.
pub(crate) struct Backoff {
    next: Duration,
    deadline: Instant,
}

impl Backoff {
    pub(crate) fn until(timeout: Duration) -> Self {
        Self { next: Duration::from_millis(50), deadline: Instant::now() + timeout }
    }

    /// Waits, and says whether there is time for another attempt.
    pub(crate) async fn wait(&mut self) -> bool {
        if Instant::now() + self.next >= self.deadline {
            return false;
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(Duration::from_secs(1));
        true
    }
}

impl Client {
    /// Finds the cluster behind `bootstrap`, `host:port` pairs with commas between them.
    pub async fn connect(bootstrap: &str, options: Options) -> Result<Self> {
        let client = Self::lazy(bootstrap, options)?;
        let mut backoff = Backoff::until(client.options().bootstrap_timeout);
        loop {
            match client.metadata(Some(&[])).await {
                Ok(_) => return Ok(client),
                Err(error) if !error.is_retriable() || !backoff.wait().await => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// As [`connect`](Self::connect), but the first call makes the connection.
    pub fn lazy(bootstrap: &str, options: Options) -> Result<Self> {
        let bootstrap = parse_bootstrap(bootstrap)?;
        let inner =
            Inner { bootstrap, options, known: Mutex::default(), connections: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    pub fn brokers(&self) -> Vec<Node> {
        self.inner.known.lock().brokers.values().cloned().collect()
    }

    /// The connection to `address`, made now if there is none.
    pub async fn to_address(&self, address: &str) -> Result<Arc<Connection>> {
        let slot = self.inner.connections.lock().entry(address.to_owned()).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let options = self.options();
        let connection = Connection::open(
            address,
            &options.client_id,
            options.connect_timeout,
            options.request_timeout,
        )
        .await?;
        let connection = Arc::new(connection);
        *slot = Some(connection.clone());
        Ok(connection)
    }

    pub async fn to_broker(&self, id: i32) -> Result<Arc<Connection>> {
        let known = |client: &Self| client.inner.known.lock().brokers.get(&id).cloned();
        let mut node = known(self);
        if node.is_none() {
            self.metadata(Some(&[])).await?;
            node = known(self);
        }
        match node {
            Some(node) => self.to_address(&node.address()).await,
            None => Err(Error::kafka(
                ErrorCode::BrokerNotAvailable,
                Some(&format!("broker {id} is not available")),
            )),
        }
    }

    /// A connection to any broker: one that is open, else one that is known, else a bootstrap address.
    pub async fn to_any(&self) -> Result<Arc<Connection>> {
        let known: Vec<String> =
            self.inner.known.lock().brokers.values().map(Node::address).collect();
        let mut failure = None;
        for address in known.iter().chain(&self.inner.bootstrap) {
            match self.to_address(address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::Invalid("no bootstrap address".into())))
    }

    /// Asks for `topics` (`None`: all; an empty list: brokers only) and remembers brokers and leaders.
    pub async fn metadata(&self, topics: Option<&[&str]>) -> Result<MetadataResponse> {
        self.metadata_creating(topics, false).await
    }

    /// As [`metadata`](Self::metadata); with `create` the broker may create topics that do not exist.
    pub async fn metadata_creating(
        &self,
        topics: Option<&[&str]>,
        create: bool,
    ) -> Result<MetadataResponse> {
        let asked = topics.map(|names| {
            let topic =
                |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
            names.iter().map(topic).collect()
        });
        let request =
            MetadataRequest::default().with_topics(asked).with_allow_auto_topic_creation(create);
        let answer = self.to_any().await?.call(&request).await?;
        self.learn(&answer);
        Ok(answer)
    }

    fn learn(&self, answer: &MetadataResponse) {
        let mut known = self.inner.known.lock();
        if !answer.brokers.is_empty() {
            known.brokers =
                answer.brokers.iter().map(|broker| (broker.node_id.0, node(broker))).collect();
        }
        for topic in &answer.topics {
            let Some(name) = topic.name.as_ref() else { continue };
            let name: Arc<str> = name.as_str().into();
            for partition in &topic.partitions {
                let at = TopicPartition::new(name.clone(), partition.partition_index);
                if partition.leader_id.0 >= 0 {
                    known.leaders.insert(at, partition.leader_id.0);
                } else {
                    known.leaders.remove(&at);
                }
            }
        }
    }

    /// The leader of a partition as last heard, without asking.
    pub fn known_leader(&self, at: &TopicPartition) -> Option<i32> {
        self.inner.known.lock().leaders.get(at).copied()
    }

    /// Forgets who leads `at`: the next [`leaders`](Self::leaders) asks.
    pub fn forget_leader(&self, at: &TopicPartition) {
        self.inner.known.lock().leaders.remove(at);
    }

    /// Groups `partitions` by leader, asking for metadata when one is not known.
    ///
    /// Those without a leader are in the second part, with the reason.
    pub async fn leaders(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<(ByLeader, Vec<(TopicPartition, Error)>)> {
        let unknown = |client: &Self| -> Vec<TopicPartition> {
            partitions.iter().filter(|at| client.known_leader(at).is_none()).cloned().collect()
        };
        let mut without = Vec::new();
        let missing = unknown(self);
        if !missing.is_empty() {
            let mut names: Vec<&str> = missing.iter().map(|at| &*at.topic).collect();
            names.dedup();
            let answer = self.metadata(Some(&names)).await?;
            for at in unknown(self) {
                let code = leaderless(&answer, &at);
                without.push((at, Error::kafka(code, None)));
            }
        }
        let mut by_leader = ByLeader::new();
        for at in partitions {
            if let Some(leader) = self.known_leader(at) {
                by_leader.entry(leader).or_default().push(at.clone());
            }
        }
        Ok((by_leader, without))
    }

    /// Sends `request` to any broker, again if the connection fails, until the API timeout.
    pub async fn call_any<R: Request>(&self, request: &R) -> Result<R::Response> {
        let mut backoff = Backoff::until(self.options().api_timeout);
        loop {
            let result = match self.to_any().await {
                Ok(connection) => connection.call(request).await,
                Err(error) => Err(error),
            };
            match result {
                Err(error) if error.is_retriable() && backoff.wait().await => {}
                other => return other,
            }
        }
    }

    /// The broker that coordinates `key`, waiting while the cluster makes one ready.
    pub async fn coordinator(&self, key: impl Into<CoordinatorKey<'_>>) -> Result<i32> {
        let key = key.into();
        if let Some(id) = self.inner.known.lock().coordinators.get(&key.owned()) {
            return Ok(*id);
        }
        let mut backoff = Backoff::until(self.options().api_timeout);
        loop {
            match self.find_coordinator(key).await {
                Ok(id) => {
                    self.inner.known.lock().coordinators.insert(key.owned(), id);
                    return Ok(id);
                }
                Err(error) if error.is_retriable() && backoff.wait().await => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub fn forget_coordinator<'a>(&self, key: impl Into<CoordinatorKey<'a>>) {
        self.inner.known.lock().coordinators.remove(&key.into().owned());
    }

    async fn find_coordinator(&self, key: CoordinatorKey<'_>) -> Result<i32> {
        let connection = self.to_any().await?;
        let batched = connection.version_of::<FindCoordinatorRequest>()? >= 4;
        let (kind, name) = key.owned();
        let request = FindCoordinatorRequest::default().with_key_type(kind);
        let request = if batched {
            request.with_coordinator_keys(vec![str_bytes(&name)])
        } else {
            request.with_key(str_bytes(&name))
        };
        let mut answer = connection.call(&request).await?;
        let (code, message, id, host, port) = if batched {
            let one = answer.coordinators.pop().ok_or_else(|| {
                Error::Protocol(format!(
                    "{} answered FindCoordinator with nothing",
                    connection.address()
                ))
            })?;
            (one.error_code, one.error_message, one.node_id.0, one.host, one.port)
        } else {
            (answer.error_code, answer.error_message, answer.node_id.0, answer.host, answer.port)
        };
        Error::check(code, message.as_deref())?;
        let node =
            Node { id, host: host.to_string(), port: port as u16, rack: None, fenced: false };
        self.inner.known.lock().brokers.entry(id).or_insert(node);
        Ok(id)
    }

    /// Sends `request` to the coordinator of `key`; `code` finds the error in the answer that
    /// means "not here" or "not yet", upon which the coordinator is looked up again.
    pub async fn call_coordinator<R: Request>(
        &self,
        key: impl Into<CoordinatorKey<'_>>,
        request: &R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response> {
        let key = key.into();
        let mut backoff = Backoff::until(self.options().api_timeout);
        loop {
            let result = self.try_coordinator(key, request).await;
            let failure = match &result {
                Ok(answer) => Error::check(code(answer), None).err(),
                Err(error) => Some(error.clone()),
            };
            match failure {
                Some(error) if error.is_retriable() && backoff.wait().await => {
                    self.forget_coordinator(key);
                }
                _ => return result,
            }
        }
    }

    async fn try_coordinator<R: Request>(
        &self,
        key: CoordinatorKey<'_>,
        request: &R,
    ) -> Result<R::Response> {
        let id = self.coordinator(key).await?;
        self.to_broker(id).await?.call(request).await
    }
}

/// Who has a coordinator; a bare name is a group's.
#[derive(Debug, Clone, Copy)]
pub enum CoordinatorKey<'a> {
    Group(&'a str),
    Transaction(&'a str),
}

impl CoordinatorKey<'_> {
    /// FindCoordinator's number for the kind, and the name.
    fn owned(self) -> (i8, String) {
        match self {
            Self::Group(name) => (0, name.to_owned()),
            Self::Transaction(id) => (1, id.to_owned()),
        }
    }
}

impl<'a> From<&'a str> for CoordinatorKey<'a> {
    fn from(group: &'a str) -> Self {
        Self::Group(group)
    }
}

impl<'a> From<&'a String> for CoordinatorKey<'a> {
    fn from(group: &'a String) -> Self {
        Self::Group(group)
    }
}

/// Partitions by the broker that leads them.
pub type ByLeader = BTreeMap<i32, Vec<TopicPartition>>;

/// Why `answer` names no leader for `at`.
fn leaderless(answer: &MetadataResponse, at: &TopicPartition) -> ErrorCode {
    let topic = answer
        .topics
        .iter()
        .find(|topic| topic.name.as_ref().is_some_and(|name| name.as_str() == &*at.topic));
    let Some(topic) = topic else { return ErrorCode::UnknownTopicOrPartition };
    match ErrorCode::try_from_code(topic.error_code) {
        Some(code) => code,
        None if topic
            .partitions
            .iter()
            .any(|partition| partition.partition_index == at.partition) =>
        {
            ErrorCode::LeaderNotAvailable
        }
        None => ErrorCode::UnknownTopicOrPartition,
    }
}

pub(crate) fn node(
    broker: &kafka_protocol::messages::metadata_response::MetadataResponseBroker,
) -> Node {
    Node {
        id: broker.node_id.0,
        host: broker.host.to_string(),
        port: broker.port as u16,
        rack: broker.rack.as_ref().map(ToString::to_string),
        fenced: false,
    }
}

pub(crate) fn parse_bootstrap(text: &str) -> Result<Vec<String>> {
    let addresses: Vec<String> =
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Into::into).collect();
    if addresses.is_empty() {
        return Err(Error::Invalid(
            "no bootstrap address was given: name at least one HOST:PORT".into(),
        ));
    }
    for address in &addresses {
        let port = address.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
        if !matches!(port, Some((host, Ok(1..))) if !host.is_empty()) {
            return Err(Error::Invalid(format!(
                "{address:?} is not an address: write it as HOST:PORT"
            )));
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrap_addresses_are_hosts_with_ports() {
        assert_eq!(parse_bootstrap("a:1, [::1]:2,").expect("valid"), ["a:1", "[::1]:2"]);
        for wrong in ["", ",", "a", "a:", "a:0", ":9092", "a:70000", "a:1,b"] {
            assert!(matches!(parse_bootstrap(wrong), Err(Error::Invalid(_))), "{wrong}");
        }
    }
}
