//! The clients of a simulated cluster: what all of them know, and how they find a leader.

mod admin;
mod churn;
mod classic;
mod committed;
mod consume;
mod coordinators;
mod group;
mod member;
mod operator;
mod pipeline;
mod produce;
mod read;
mod settle;
mod share;
mod table;
mod transactor;
mod writers;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    CreateTopicsRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla_broker::controller::Image;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::history::{History, Place};
use super::node::Node;
use super::scenario::{LEDGER, OUTPUT, PORT, Scenario, Topic, host, internal_topics};
use super::trace::Trace;
use super::wire::Connection;

pub(super) const RETRY: Duration = Duration::from_millis(100);
/// Offset base of the wall clock that producers stamp; the brokers' is the same.
const START_MS: i64 = 1_767_225_600_000;
/// As timestamps in ListOffsets.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

pub type Shared = Rc<RefCell<History>>;

/// What every client knows.
#[derive(Clone)]
pub struct World {
    pub scenario: Rc<Scenario>,
    pub history: Shared,
    pub trace: Trace,
    pub nodes: Rc<Vec<Rc<Node>>>,
    /// All controllers that are there vote, under the identity that they have now.
    pub voters_are_complete: Rc<Cell<bool>>,
    /// Partitions that exist for certain, and are written to.
    pub places: Rc<RefCell<BTreeSet<Place>>>,
    /// The load is over: whatever goes on does no harm to itself any more.
    pub calm: Rc<Cell<bool>>,
    /// All is judged: nobody goes on.
    pub over: Rc<Cell<bool>>,
    /// Work that began while the load was on.
    tasks: Rc<RefCell<Vec<JoinHandle<()>>>>,
}

/// Where a partition's leader is, by the word of some broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Led {
    by: i32,
    epoch: i32,
}

fn now_ms() -> i64 {
    START_MS + turmoil::sim_elapsed().unwrap_or_default().as_millis() as i64
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}

/// The same on every machine, unlike the standard library's.
fn number_of(text: &str) -> u64 {
    text.bytes().fold(7, |hash, byte| hash * 31 + u64::from(byte))
}

impl World {
    pub fn new(
        scenario: Rc<Scenario>,
        history: Shared,
        trace: Trace,
        nodes: Rc<Vec<Rc<Node>>>,
    ) -> Self {
        let voters_are_complete = Rc::new(Cell::new(!scenario.quorum.dynamic));
        Self {
            scenario,
            history,
            trace,
            nodes,
            voters_are_complete,
            places: Rc::default(),
            calm: Rc::default(),
            over: Rc::default(),
            tasks: Rc::default(),
        }
    }

    /// Whatever `who` draws, it draws the same in every run of the seed.
    fn random(&self, who: &str) -> StdRng {
        StdRng::seed_from_u64(self.scenario.seed ^ number_of(who) << 8)
    }

    fn violate(&self, what: String) {
        self.trace.note(&format!("VIOLATION {what}"));
        self.history.borrow_mut().violation.get_or_insert(what);
    }

    /// All clients work until the load is over.
    pub async fn work(&self) {
        for topic in &self.scenario.topics {
            for partition in 0..topic.partitions {
                self.work_on((topic.name.clone(), partition));
            }
        }
        let end = Instant::now() + self.scenario.load;
        let extras = self.scenario.extras;
        if extras.churn {
            self.start(self.clone().churn(end));
        }
        if extras.admin {
            self.start(self.clone().administrate(end));
        }
        if extras.group {
            self.start(self.clone().commit_offsets(end));
        }
        self.work_in_transactions(end);
        if let Some(kind) = extras.members {
            self.start_members(kind);
        }
        if let Some(kind) = extras.pipeline {
            self.start_pipeline(kind);
        }
        if extras.sharers {
            self.start_sharers();
        }
        if extras.table {
            self.start_table(end);
        }
        loop {
            let Some(task) = self.tasks.borrow_mut().pop() else { break };
            // A panic of a client has been noted already.
            let _ = task.await;
        }
        self.calm.set(true);
    }

    fn work_in_transactions(&self, end: Instant) {
        for name in [LEDGER, OUTPUT] {
            let partitions = self.scenario.ledger(name).map_or(0, |topic| topic.partitions);
            for partition in 0..partitions {
                self.start(self.clone().read_committed((name.to_owned(), partition), end));
            }
        }
        if self.scenario.extras.transactions {
            for number in 0..writers::WRITERS {
                self.start(self.clone().write_transactions(number, end));
            }
        }
    }

    fn start(&self, work: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().push(tokio::task::spawn_local(work));
    }

    /// Two or three producers and a reader for a partition.
    fn work_on(&self, place: Place) {
        if !self.places.borrow_mut().insert(place.clone()) {
            return;
        }
        let number = self.places.borrow().len();
        let end = Instant::now() + self.scenario.load;
        self.start(self.clone().produce(place.clone(), format!("p{number}"), false, end));
        self.start(self.clone().produce(place.clone(), format!("q{number}"), true, end));
        if self.scenario.seed.is_multiple_of(3) {
            self.start(self.clone().produce(place.clone(), format!("r{number}"), true, end));
        }
        self.start(self.clone().read(place, end));
    }

    fn any_broker(&self, random: &mut StdRng) -> String {
        host(random.random_range(self.scenario.brokers()))
    }

    async fn any_connection(&self, random: &mut StdRng) -> io::Result<Connection> {
        Connection::open(&self.any_broker(random), PORT).await
    }

    /// Of some topics, or of all.
    async fn metadata(
        &self,
        topics: Option<&[&str]>,
        random: &mut StdRng,
    ) -> io::Result<MetadataResponse> {
        let named = |topic: &&str| MetadataRequestTopic::default().with_name(Some(name(topic)));
        let request = MetadataRequest::default()
            .with_topics(topics.map(|topics| topics.iter().map(named).collect()))
            .with_allow_auto_topic_creation(false);
        self.any_connection(random).await?.call(&request, 12).await
    }

    /// The leader of a partition by one broker's word.
    async fn led(&self, place: &Place, random: &mut StdRng) -> io::Result<Option<Led>> {
        let metadata = self.metadata(Some(&[&place.0]), random).await?;
        let mut partitions = metadata.topics.iter().flat_map(|topic| &topic.partitions);
        let found = partitions.find(|partition| partition.partition_index == place.1);
        let led = found.map(|it| Led { by: it.leader_id.0, epoch: it.leader_epoch });
        Ok(led.filter(|led| led.by >= 0))
    }

    async fn to_leader(&self, place: &Place, random: &mut StdRng) -> Option<(Connection, Led)> {
        let led = self.led(place, random).await.ok()??;
        let host = host(usize::try_from(led.by).ok()?);
        Some((Connection::open(&host, PORT).await.ok()?, led))
    }

    fn newest_image(&self) -> Option<Arc<Image>> {
        let images = self.nodes.iter().filter_map(|node| Some(node.broker()?.image.load_full()));
        images.max_by_key(|image| image.offset)
    }

    /// Whether the broker at `at` leads a partition by the newest metadata that any broker has. One
    /// that was deposed may not have heard of it, and goes on to answer what takes no write.
    fn leads(&self, topic: &str, partition: i32, at: &str) -> bool {
        let newest = self.newest_image();
        let led = newest.as_ref().and_then(|image| image.partition(topic, partition));
        led.is_some_and(|it| usize::try_from(it.leader).is_ok_and(|id| host(id) == at))
    }

    /// Creates the scenario's topics, trying until each exists with all its leaders.
    pub async fn create_topics(&self) {
        let mut random = self.random("topics");
        let all = self.scenario.topics.iter().chain(&self.scenario.ledgers);
        let names: Vec<&str> = all.map(|topic| &*topic.name).collect();
        loop {
            if let Err(error) = self.try_to_create(&mut random).await {
                self.trace.note(&format!("topics: {error}"));
            }
            if let Ok(metadata) = self.metadata(Some(&names), &mut random).await {
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
        let scenario = &self.scenario;
        let internal = internal_topics(scenario.seed);
        let all = scenario.topics.iter().chain(&scenario.ledgers).chain(&internal);
        let topics = all.map(creatable);
        let request =
            CreateTopicsRequest::default().with_topics(topics.collect()).with_timeout_ms(5000);
        let answer = self.any_connection(random).await?.call(&request, 5).await?;
        for topic in answer.topics {
            self.trace.note(&format!("create {}: {}", topic.name.as_str(), topic.error_code));
        }
        Ok(())
    }
}

fn creatable(topic: &Topic) -> CreatableTopic {
    let min_insync = ("min.insync.replicas", topic.min_insync.to_string());
    let configs = topic.configs.iter().cloned().chain([min_insync]).map(|(key, value)| {
        CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(&value)))
    });
    CreatableTopic::default()
        .with_name(name(&topic.name))
        .with_num_partitions(topic.partitions)
        .with_replication_factor(topic.replicas)
        .with_configs(configs.collect())
}

/// The offset that `timestamp` names, as a client that knows the leader's epoch sees it.
async fn list_offset(
    connection: &mut Connection,
    place: &Place,
    epoch: i32,
    timestamp: i64,
) -> io::Result<(i16, i64)> {
    let partition = ListOffsetsPartition::default()
        .with_partition_index(place.1)
        .with_current_leader_epoch(epoch)
        .with_timestamp(timestamp);
    let topic =
        ListOffsetsTopic::default().with_name(name(&place.0)).with_partitions(vec![partition]);
    let request =
        ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    let answer = connection.call(&request, 7).await?;
    let partition = answer
        .topics
        .into_iter()
        .flat_map(|topic| topic.partitions)
        .next()
        .ok_or_else(|| io::Error::other("an answer without the partition"))?;
    Ok((partition.error_code, partition.offset))
}
