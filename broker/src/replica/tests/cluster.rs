//! Several brokers' partitions in one process: real logs in temporary folders, the controller's
//! real decision about ISRs, and calls from one to the other without a network.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, AlterPartitionRequest,
    AlterPartitionResponse, AssignReplicasToDirsRequest, AssignReplicasToDirsResponse,
    FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::api::list_offsets;
use crate::config::Settings;
use crate::controller::lifecycle::Membership;
use crate::controller::rules::SettingsRules;
use crate::controller::{Delta, Image, View, isr};
use crate::env::real;
use crate::log::{LogDir, LogDirOptions, LogDirs, TailCache};
use crate::replica::context::Context;
use crate::replica::remote::Failure;
use crate::replica::{Leaders, Partition, Partitions, RemoteLeader, ToController, read};
use crate::types::NodeId;
use crate::wire::metadata::{
    PartitionChangeRecord, PartitionRecord, Record, RegisterBrokerRecord, TopicRecord,
};
use crate::wire::records::{BatchBuilder, Batches};

pub const TOPIC: &str = "t";
pub const TOPIC_ID: Uuid = Uuid::from_u128(7);

pub struct Node {
    pub partitions: Arc<Partitions>,
    image: Arc<ArcSwap<Image>>,
    up: AtomicBool,
    pub epoch: watch::Sender<i64>,
    /// When a controller last answered.
    pub heard: watch::Sender<Option<Instant>>,
    _folder: tempfile::TempDir,
}

/// Brokers 1, 2 and 3 with one topic, one partition on all of them, led by 1.
pub struct Cluster {
    pub nodes: Vec<Node>,
    truth: Mutex<Image>,
    rules: SettingsRules,
    /// Something has happened: records were committed, or a follower fetched.
    happened: watch::Sender<()>,
}

fn settings(id: NodeId, more: &str) -> Settings {
    Settings::for_test(&format!(
        "node.id={id}\nreplica.fetch.backoff.ms=20\nreplica.fetch.wait.max.ms=200\n\
         replica.lag.time.max.ms=400\n{more}"
    ))
}

pub async fn node(id: NodeId, more: &str) -> Node {
    let folder = tempfile::tempdir().unwrap();
    let options = LogDirOptions {
        path: folder.path().to_owned(),
        cluster_id: "cluster".into(),
        node_id: id,
        tail_cache: TailCache::new(1 << 20),
        checkpoint_every: 60_000,
        expire_every: 600_000,
        reserve_bytes: -1,
    };
    let env = real::env();
    let dir = LogDir::open(env.clone(), options).unwrap();
    let dirs = LogDirs::of_one(&env, dir);
    dirs.start().await.unwrap();
    let image = Arc::new(ArcSwap::from_pointee(Image::empty("cluster")));
    let (epoch, registered) = watch::channel(i64::from(id) + 100);
    let (heard, seen) = watch::channel(None);
    let membership = Membership { epoch: registered, heard: seen };
    let context = Context::new(env, settings(id, more), image.clone(), membership);
    let partitions = Partitions::new(context, dirs, Arc::new(NoController));
    Node { partitions, image, up: AtomicBool::new(true), epoch, heard, _folder: folder }
}

impl Cluster {
    pub async fn start(isr: &[NodeId], more: &str) -> Arc<Self> {
        let mut nodes = Vec::new();
        for id in 1..=3 {
            nodes.push(node(id, more).await);
        }
        let truth = Mutex::new(Image::empty("cluster"));
        let rules = SettingsRules(settings(1, more));
        let happened = watch::Sender::new(());
        let cluster = Arc::new(Self { nodes, truth, rules, happened });
        let mut records: Vec<Record> = (1..=3)
            .map(|id| {
                let broker = RegisterBrokerRecord {
                    broker_id: id,
                    broker_epoch: i64::from(id) + 100,
                    fenced: false,
                    ..Default::default()
                };
                broker.into()
            })
            .collect();
        records.push(TopicRecord { name: TOPIC.into(), topic_id: TOPIC_ID }.into());
        let partition = PartitionRecord {
            partition_id: 0,
            topic_id: TOPIC_ID,
            replicas: vec![1, 2, 3],
            isr: isr.to_vec(),
            leader: 1,
            leader_epoch: 0,
            partition_epoch: 0,
            directories: vec![Uuid::nil(); 3],
            ..Default::default()
        };
        records.push(partition.into());
        cluster.commit(&records);
        for id in 1..=3 {
            let leaders = Arc::new(Directly { cluster: cluster.clone(), from: id });
            cluster.node(id).partitions.run(Arc::new(Decides(cluster.clone())), leaders);
        }
        cluster
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize - 1]
    }

    pub fn partition(&self, id: NodeId) -> Arc<Partition> {
        self.node(id).partitions.get(TOPIC, 0).unwrap()
    }

    /// Replays records everywhere. Nodes that are down do not hear of them.
    pub fn commit(&self, records: &[Record]) {
        let mut truth = self.truth.lock();
        let mut delta = Delta::default();
        for record in records {
            truth.replay(record, &mut delta).unwrap();
        }
        truth.offset += records.len() as i64;
        for node in self.nodes.iter().filter(|node| node.up.load(Ordering::Acquire)) {
            let image = Arc::new(truth.clone());
            node.image.store(image.clone());
            node.partitions.apply(&image, &delta);
        }
        self.happened.send_replace(());
    }

    /// Waits until `what` holds. What a follower was answered it has applied when it asks again.
    pub async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let mut happened = self.happened.subscribe();
        let waiting = async {
            while !holds() {
                happened.changed().await.unwrap();
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(10), waiting).await;
        assert!(in_time.is_ok(), "{what}: not within ten seconds");
    }

    pub fn truth(&self) -> Image {
        self.truth.lock().clone()
    }

    pub fn elect(&self, leader: NodeId, isr: &[NodeId]) {
        let change = PartitionChangeRecord {
            partition_id: 0,
            topic_id: TOPIC_ID,
            leader,
            isr: Some(isr.to_vec()),
            ..Default::default()
        };
        self.commit(&[change.into()]);
    }

    pub fn cut_off(&self, id: NodeId) {
        self.node(id).up.store(false, Ordering::Release);
    }

    /// Back, with all that it missed.
    pub fn reconnect(&self, id: NodeId) {
        let node = self.node(id);
        node.up.store(true, Ordering::Release);
        let truth = Arc::new(self.truth.lock().clone());
        let old = node.image.swap(truth.clone());
        node.partitions.apply(&truth, &Delta::between(&old, &truth));
    }

    pub fn isr(&self) -> Vec<NodeId> {
        self.truth.lock().partition(TOPIC, 0).unwrap().isr.clone()
    }

    pub async fn stop(&self) {
        for node in &self.nodes {
            node.partitions.shut_down().await;
        }
    }
}

pub fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(1_700_000_000_000, Some(b"k"), Some(value.as_bytes()));
    }
    builder.build()
}

pub fn values(bytes: &Bytes) -> Vec<String> {
    let mut all = Vec::new();
    for batch in Batches::new(bytes).map_while(Result::ok) {
        let records = batch.records(1 << 20).unwrap();
        for record in &records {
            all.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
        }
    }
    all
}

/// A consumer's fetch of one partition.
pub fn consume(from: i64, max_wait_ms: i32, min_bytes: i32) -> FetchRequest {
    let partition =
        FetchPartition::default().with_fetch_offset(from).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic_id(TOPIC_ID).with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(min_bytes)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

pub async fn fetch(partitions: &Arc<Partitions>, request: FetchRequest) -> PartitionData {
    let mut response = read::serve(partitions.clone(), request, 17, "PLAINTEXT".into()).await;
    response.responses.remove(0).partitions.remove(0)
}

struct Directly {
    cluster: Arc<Cluster>,
    from: NodeId,
}

#[async_trait]
impl Leaders for Directly {
    async fn connect(&self, leader: NodeId) -> Result<Arc<dyn RemoteLeader>, Failure> {
        Ok(Arc::new(Wire { cluster: self.cluster.clone(), from: self.from, to: leader }))
    }
}

struct Wire {
    cluster: Arc<Cluster>,
    from: NodeId,
    to: NodeId,
}

impl Wire {
    fn check(&self) -> Result<(), Failure> {
        let up = |id| self.cluster.node(id).up.load(Ordering::Acquire);
        if up(self.from) && up(self.to) { Ok(()) } else { Err("cut off".into()) }
    }
}

#[async_trait]
impl RemoteLeader for Wire {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchResponse, Failure> {
        self.cluster.happened.send_replace(());
        self.check()?;
        let partitions = self.cluster.node(self.to).partitions.clone();
        let response = read::serve(partitions, request, 18, "PLAINTEXT".into()).await;
        self.check()?;
        Ok(response)
    }

    async fn list_offsets(
        &self,
        request: ListOffsetsRequest,
    ) -> Result<ListOffsetsResponse, Failure> {
        self.check()?;
        Ok(list_offsets::answer(&self.cluster.node(self.to).partitions, &request, 10))
    }
}

struct Decides(Arc<Cluster>);

#[async_trait]
impl ToController for Decides {
    async fn alter_partition(
        &self,
        request: AlterPartitionRequest,
    ) -> Result<AlterPartitionResponse, Failure> {
        if !self.0.node(request.broker_id.0).up.load(Ordering::Acquire) {
            return Err("cut off".into());
        }
        let decision = {
            let image = self.0.truth.lock();
            let view = View { image: &image, rules: &self.0.rules };
            isr::alter_partition(view, &request).map_err(|refusal| refusal.to_string())?
        };
        self.0.commit(&decision.records);
        Ok(decision.response)
    }

    async fn allocate_producer_ids(
        &self,
        _: AllocateProducerIdsRequest,
    ) -> Result<AllocateProducerIdsResponse, Failure> {
        Err("not here".into())
    }

    async fn assign_replicas_to_dirs(
        &self,
        _: AssignReplicasToDirsRequest,
    ) -> Result<AssignReplicasToDirsResponse, Failure> {
        Err("not here".into())
    }
}

pub struct NoController;

#[async_trait]
impl ToController for NoController {
    async fn alter_partition(
        &self,
        _: AlterPartitionRequest,
    ) -> Result<AlterPartitionResponse, Failure> {
        Err("not here".into())
    }

    async fn allocate_producer_ids(
        &self,
        _: AllocateProducerIdsRequest,
    ) -> Result<AllocateProducerIdsResponse, Failure> {
        Err("not here".into())
    }

    async fn assign_replicas_to_dirs(
        &self,
        _: AssignReplicasToDirsRequest,
    ) -> Result<AssignReplicasToDirsResponse, Failure> {
        Err("not here".into())
    }
}
