//! Three whole nodes on loopback: a quorum is founded, grows, loses its leader, and starts again.

#![expect(clippy::disallowed_methods, reason = "a test of whole processes, in real time")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::messages::add_raft_voter_request::Listener;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::{
    AddRaftVoterRequest, ApiVersionsRequest, DescribeQuorumRequest, DescribeQuorumResponse,
    RemoveRaftVoterRequest, TopicName,
};
use kafka_protocol::protocol::Request;
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::broker::Broker;
use crate::config::Settings;
use crate::coordinator::topic::TopicCreator;
use crate::env::real;
use crate::error::ErrorCode;
use crate::net::peer::Peer;
use crate::raft::peers::MAX_WAIT as FETCH_WAIT;

const PATIENCE: Duration = Duration::from_mins(1);

/// A process: what ends with it.
struct Node {
    runtime: Option<Runtime>,
    broker: Option<Arc<Broker>>,
}

impl Node {
    fn start(dir: &Path, id: usize, ports: &[(u16, u16)], more: &str) -> Self {
        let (port, controller) = ports[id];
        let servers: Vec<_> = ports.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
        let founding = id == 0;
        let text = format!(
            "node.id={id}\nprocess.roles=broker,controller\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             controller.quorum.bootstrap.servers={}\nottla.quorum.founding={founding}\n\
             cluster.id=dGhyZWUtY29udHJvbGxlcnM\nlog.dirs={}\n{more}",
            servers.join(","),
            dir.join(id.to_string()).display(),
        );
        let settings = Settings::for_test(&text);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let broker = runtime.block_on(Broker::start(real::env(), settings)).unwrap();
        Self { runtime: Some(runtime), broker: Some(broker) }
    }

    fn leads(&self) -> bool {
        let broker = self.broker.as_ref();
        broker.is_some_and(|it| it.controller.as_ref().is_some_and(|it| it.leads()))
    }

    /// As `kill -9`: sockets close, nothing is said.
    fn kill(&mut self) {
        self.broker = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    fn create(&self, topic: &str) {
        let request = CreatableTopic::default()
            .with_name(TopicName(topic.to_owned().into()))
            .with_num_partitions(1)
            .with_replication_factor(1);
        let (runtime, broker) = (self.runtime.as_ref().unwrap(), self.broker.as_ref().unwrap());
        until("a broker is in service", || {
            match runtime.block_on(broker.link.create(request.clone())) {
                Ok(()) => true,
                // Asked for once more, after a leader that had decided and was gone before it said so.
                Err(refusal) if refusal.code == ErrorCode::TopicAlreadyExists => true,
                Err(refusal) if refusal.code == ErrorCode::InvalidReplicationFactor => false,
                Err(refusal) => panic!("{refusal}"),
            }
        });
    }

    fn has(&self, topic: &str) -> bool {
        self.broker.as_ref().unwrap().image.load().topic(topic).is_some()
    }

    fn directory(&self) -> Uuid {
        self.broker.as_ref().unwrap().log_dirs.metadata_id()
    }
}

/// Looks again and again: what happens in a broker's own threads tells nobody outside.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    begun.elapsed()
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

fn ports() -> Vec<(u16, u16)> {
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap().port(), listener)
    };
    let all: Vec<_> = (0..6).map(|_| free()).collect();
    all.chunks(2).map(|pair| (pair[0].0, pair[1].0)).collect()
}

fn call<R: Request + Clone>(port: u16, request: R) -> R::Response {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let patience = Duration::from_secs(20);
        let peer = Peer::connect(&real::env(), "127.0.0.1", port, "test", patience).await.unwrap();
        peer.call(request, patience).await.unwrap()
    })
}

fn describe(port: u16) -> DescribeQuorumResponse {
    let topic = TopicData::default()
        .with_topic_name(TopicName("__cluster_metadata".into()))
        .with_partitions(vec![PartitionData::default()]);
    call(port, DescribeQuorumRequest::default().with_topics(vec![topic]))
}

fn api_versions() -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name("test".into())
        .with_client_software_version("1".into())
}

/// Makes the node a voter, as the operator does: tried until it has caught up.
fn add(leader: u16, node: &Node, id: usize, port: u16) {
    let listener = Listener::default()
        .with_name("CONTROLLER".into())
        .with_host("127.0.0.1".into())
        .with_port(port);
    let request = AddRaftVoterRequest::default()
        .with_cluster_id(Some("dGhyZWUtY29udHJvbGxlcnM".into()))
        .with_timeout_ms(10_000)
        .with_voter_id(id as i32)
        .with_voter_directory_id(node.directory())
        .with_listeners(vec![listener]);
    until("a voter is added", || {
        let answer = call(leader, request.clone());
        if answer.error_code != 0 {
            eprintln!("{id}: {} {:?}", answer.error_code, answer.error_message);
            std::thread::sleep(Duration::from_millis(100));
        }
        answer.error_code == 0
    });
}

/// Whoever is told of the decision last, is told at once, and not when its fetch has waited enough.
fn news_is_not_held_back(nodes: &[Node]) {
    let mut took: Vec<_> = (0..30)
        .map(|n| {
            let topic = format!("news-{n}");
            nodes[n % 3].create(&topic);
            until("all know the topic", || nodes.iter().all(|node| node.has(&topic)))
        })
        .collect();
    took.sort();
    println!("from an answer to the last node that knows: {:?} to {:?}", took[0], took[29]);
    assert!(took[24] < FETCH_WAIT / 2, "{took:?}");
}

#[test]
fn three_nodes_found_a_quorum_lose_its_leader_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let ports = ports();
    let start = |id| Node::start(dir.path(), id, &ports, "");
    let mut nodes: Vec<_> = (0..3).map(start).collect();
    until("the founder leads", || nodes[0].leads());
    add(ports[0].1, &nodes[1], 1, ports[1].1);
    add(ports[0].1, &nodes[2], 2, ports[2].1);
    let told = describe(ports[0].1);
    let voters: Vec<_> =
        told.topics[0].partitions[0].current_voters.iter().map(|it| it.replica_id.0).collect();
    assert_eq!(voters, [0, 1, 2]);
    assert_eq!(told.nodes.len(), 3);
    nodes[1].create("first");
    until("all know the topic", || nodes.iter().all(|node| node.has("first")));
    news_is_not_held_back(&nodes);

    // The leader dies without a word.
    nodes[0].kill();
    let killed = Instant::now();
    until("another node leads", || nodes[1..].iter().any(Node::leads));
    println!("led again {:?} after the leader was killed", killed.elapsed());
    nodes[2].create("second");
    println!("decided again {:?} after the leader was killed", killed.elapsed());
    let leader = 1 + nodes[1..].iter().position(Node::leads).unwrap();

    // Its disk is replaced: it comes back as an observer, and takes its old place.
    let before = told.topics[0].partitions[0].current_voters[0].replica_directory_id;
    std::fs::remove_dir_all(dir.path().join("0")).unwrap();
    nodes[0] = Node::start(dir.path(), 0, &ports, "ottla.quorum.founding=false");
    until("the new disk has caught up", || nodes[0].has("second"));
    assert!(!nodes[0].leads());
    assert_ne!(nodes[0].directory(), before);
    let remove = RemoveRaftVoterRequest::default()
        .with_cluster_id(None)
        .with_voter_id(0)
        .with_voter_directory_id(before);
    assert_eq!(call(ports[leader].1, remove).error_code, 0);
    add(ports[leader].1, &nodes[0], 0, ports[0].1);

    // All at once, and all back. What this process still holds of the old ones is their locks.
    nodes.iter_mut().for_each(Node::kill);
    let again = tempfile::tempdir().unwrap();
    for id in 0..3 {
        copy(&dir.path().join(id.to_string()), &again.path().join(id.to_string()));
    }
    nodes = (0..3).map(|id| Node::start(again.path(), id, &ports, "")).collect();
    until("one leads", || nodes.iter().any(Node::leads));
    until("nothing is forgotten", || nodes.iter().all(|it| it.has("first") && it.has("second")));
    let leader = nodes.iter().position(Node::leads).unwrap();
    let told = describe(ports[leader].1);
    assert_eq!(told.topics[0].partitions[0].current_voters.len(), 3);
    nodes[2].create("third");
}

/// A snapshot after each commit, and nothing kept besides the newest.
const EAGER: &str = "metadata.log.max.record.bytes.between.snapshots=1\n\
    metadata.max.retention.bytes=0\ninternal.metadata.log.segment.bytes=300";

impl Node {
    fn log(&self) -> Arc<crate::raft::MetadataLog> {
        self.broker.as_ref().unwrap().controller.as_ref().unwrap().quorum().log().clone()
    }

    /// Creates topics until the log starts later than `offset`, in a snapshot that names `voters`.
    fn trim_beyond(&self, offset: i64, voters: usize, prefix: &str) {
        let log = self.log();
        let named = || {
            let kraft = log.snapshots().newest_image()?.kraft?;
            Some((kraft.kraft_version, kraft.voters?.voters.len()))
        };
        for topic in 0..200 {
            self.create(&format!("{prefix}-{topic}"));
            log.trim(i64::MAX).unwrap();
            if log.start_offset() > offset && named() == Some((1, voters)) {
                return;
            }
        }
        panic!("not trimmed: start {}, {:?}", log.start_offset(), named());
    }
}

#[test]
fn voters_survive_that_the_log_is_trimmed_and_whoever_was_away_starts_at_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let ports = ports();
    let start = |id| Node::start(dir.path(), id, &ports, EAGER);
    let mut nodes = vec![start(0)];
    until("the founder leads", || nodes[0].leads());
    nodes[0].trim_beyond(0, 1, "early");
    let told = call(ports[0].0, api_versions());
    let finalized = told.finalized_features.iter().map(|it| (&*it.name, it.max_version_level));
    assert!(
        finalized.clone().any(|it| it == ("kraft.version", 1)),
        "{:?}",
        told.finalized_features
    );

    // New voters have nothing but the snapshot to begin with.
    for id in 1..3 {
        let node = start(id);
        until("it has caught up", || node.has("early-0"));
        assert!(node.log().start_offset() > 0);
        add(ports[0].1, &node, id, ports[id].1);
        nodes.push(node);
    }
    nodes[0].trim_beyond(nodes[0].log().end_offset(), 3, "with");

    // One is away, and what it needs is trimmed on both others meanwhile.
    let end = nodes[2].log().end_offset();
    nodes[2].kill();
    nodes[0].trim_beyond(end, 3, "without");
    nodes[1].trim_beyond(end, 3, "still-without");
    let away = tempfile::tempdir().unwrap();
    copy(&dir.path().join("2"), &away.path().join("2"));
    nodes[2] = Node::start(away.path(), 2, &ports, EAGER);
    until("it knows what it missed", || nodes[2].has("without-0"));
    assert!(nodes[2].log().start_offset() > end);

    // The voters stand in snapshots only, on all three: they still elect a leader.
    nodes[2].trim_beyond(end, 3, "after");
    nodes.iter_mut().for_each(Node::kill);
    let again = tempfile::tempdir().unwrap();
    for id in 0..3 {
        let from = if id == 2 { away.path() } else { dir.path() };
        copy(&from.join(id.to_string()), &again.path().join(id.to_string()));
    }
    nodes = (0..3).map(|id| Node::start(again.path(), id, &ports, EAGER)).collect();
    until("one leads", || nodes.iter().any(Node::leads));
    until("nothing is forgotten", || nodes.iter().all(|node| node.has("after-0")));
    let leader = nodes.iter().position(Node::leads).unwrap();
    let told = describe(ports[leader].1);
    assert_eq!(told.topics[0].partitions[0].current_voters.len(), 3);
    // The one that was away votes: with it alone, another one leads on.
    nodes[leader].kill();
    until("another one leads", || {
        nodes.iter().enumerate().any(|(id, it)| id != leader && it.leads())
    });
}
