//! Whole nodes on loopback, with several log directories each: what the controller hears of them.

#![expect(clippy::disallowed_methods, reason = "a test of whole processes, in real time")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::cluster::{batch, values};
use super::trick::Trick;
use crate::broker::Broker;
use crate::config::Settings;
use crate::controller::image::{BrokerImage, PartitionImage};
use crate::controller::tests_quorum::{copy, until};
use crate::coordinator::topic::TopicCreator;
use crate::error::ErrorCode;
use crate::log::Origin;
use crate::types::TopicPartition;

/// No two lives of a process make up the same ids.
static LIVES: AtomicU64 = AtomicU64::new(1);

/// Node 1 is the controller, all are brokers.
struct Node {
    runtime: Option<Runtime>,
    broker: Option<Arc<Broker>>,
}

impl Node {
    fn start(dir: &Path, id: i32, ports: &[u16], trick: &Trick) -> Self {
        let controller = ports[0];
        let own =
            if id == 1 { format!(",CONTROLLER://127.0.0.1:{controller}") } else { String::new() };
        let dir = dir.join(id.to_string());
        let text = format!(
            "node.id={id}\nprocess.roles={}\nlisteners=PLAINTEXT://127.0.0.1:{}{own}\n\
             controller.listener.names=CONTROLLER\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             cluster.id=dGhyZWUtY29udHJvbGxlcnM\nlog.dirs={2}/a,{2}/b\nmetadata.log.dir={2}/meta\n\
             ottla.log.reserve.bytes=0",
            if id == 1 { "broker,controller" } else { "broker" },
            ports[id as usize],
            dir.display(),
        );
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let env = trick.env_of(LIVES.fetch_add(1, Ordering::Relaxed));
        let starting = Broker::start(env, Settings::for_test(&text));
        let broker = runtime.block_on(starting).unwrap();
        Self { runtime: Some(runtime), broker: Some(broker) }
    }

    fn broker(&self) -> &Arc<Broker> {
        self.broker.as_ref().unwrap()
    }

    /// As `kill -9`: sockets close, nothing is said.
    fn kill(&mut self) {
        self.broker = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// The topic `t`, its partitions on these brokers.
    fn create(&self, partitions: &[&[i32]]) {
        let assign = |(index, brokers): (usize, &&[i32])| {
            CreatableReplicaAssignment::default()
                .with_partition_index(index as i32)
                .with_broker_ids(brokers.iter().map(|id| (*id).into()).collect())
        };
        let request = CreatableTopic::default()
            .with_name(TopicName("t".to_owned().into()))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments(partitions.iter().enumerate().map(assign).collect());
        let runtime = self.runtime.as_ref().unwrap();
        until("the topic can be made", || {
            match runtime.block_on(self.broker().link.create(request.clone())) {
                Ok(()) => true,
                Err(refusal) if refusal.code == ErrorCode::InvalidReplicaAssignment => false,
                Err(refusal) => panic!("{refusal}"),
            }
        });
    }

    fn partition(&self, index: i32) -> Option<PartitionImage> {
        self.broker().image.load().partition("t", index).cloned()
    }

    /// Where the image has the replica of broker `id`.
    fn directory(&self, index: i32, id: i32) -> Option<Uuid> {
        self.partition(index)?.directory(id)
    }

    fn dirs(&self) -> Vec<Uuid> {
        self.broker().log_dirs.all().iter().map(|dir| dir.directory_id()).collect()
    }

    /// Appends with acks=all; true if it was acknowledged.
    fn write(&self, index: i32, value: &str) -> bool {
        let Some(partition) = self.broker().partitions.get("t", index) else { return false };
        let appended = partition.append(batch(&[value]), true, -1, Origin::Client);
        let Ok(ticket) = appended else { return false };
        let patience = Duration::from_secs(10);
        let waiting = async { tokio::time::timeout(patience, ticket.committed()).await };
        matches!(self.runtime.as_ref().unwrap().block_on(waiting), Ok(Ok(())))
    }

    fn read(&self, index: i32) -> Vec<String> {
        let log = self.broker().partitions.get("t", index).unwrap().log();
        let mut all = Vec::new();
        while (all.len() as i64) < log.end_offset() {
            let from = all.len() as i64;
            all.extend(values(&log.read_cold(from, 1 << 20, i64::MAX, true).unwrap()));
        }
        all
    }
}

fn ports(count: usize) -> Vec<u16> {
    let held: Vec<_> =
        (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

fn id(index: i32) -> TopicPartition {
    TopicPartition::new("t", index)
}

#[test]
fn the_controller_knows_where_replicas_lie_also_after_a_move_and_after_a_wipe() {
    let (folder, ports) = (tempfile::tempdir().unwrap(), ports(2));
    let start = |life: &str| Node::start(&folder.path().join(life), 1, &ports, &Trick::new());
    // Locks end with the process, which here goes on.
    let hand_over = |from: &str, to: &str| copy(&folder.path().join(from), &folder.path().join(to));
    let mut node = start("first");
    node.create(&[&[1], &[1], &[1]]);
    let right = |node: &Node| {
        (0..3).all(|index| {
            let holder = node.broker().log_dirs.holder(&id(index), None);
            holder.is_some_and(|dir| node.directory(index, 1) == Some(dir.directory_id()))
        })
    };
    until("the image has the directories", || right(&node));
    until("it leads", || node.write(0, "before"));
    let [a, b] = node.dirs()[..] else { panic!("two directories") };
    let (from, to) = if node.directory(0, 1) == Some(a) { (a, b) } else { (b, a) };
    let path = node.broker().log_dirs.by_id(to).unwrap().path().to_owned();
    node.broker().partitions.alter_log_dir(&id(0), &path).unwrap();
    until("the replica has moved", || node.broker().partitions.moves.is_empty());
    assert!(!node.broker().log_dirs.by_id(from).unwrap().holds(&id(0)));
    assert_eq!(node.directory(0, 1), Some(to));
    assert!(node.write(0, "after"));
    assert_eq!(node.read(0), ["before", "after"]);
    node.kill();
    hand_over("first", "second");
    let mut node = start("second");
    until("it leads again", || node.write(0, "restarted"));
    assert_eq!(node.read(0), ["before", "after", "restarted"]);
    assert!(right(&node));
    node.kill();
    hand_over("second", "third");
    for dir in ["a", "b"] {
        std::fs::remove_dir_all(folder.path().join("third/1").join(dir)).unwrap();
    }
    let mut node = start("third");
    assert!(!node.dirs().contains(&a) && !node.dirs().contains(&b), "new disks");
    until("the image has the new directories", || right(&node));
    until("the leader is elected", || node.write(0, "new"));
    node.kill();
}

#[test]
fn when_a_directory_fails_under_load_its_leaders_move_away_and_nothing_is_lost() {
    let (folder, ports) = (tempfile::tempdir().unwrap(), ports(3));
    let trick = Trick::new();
    let mut one = Node::start(folder.path(), 1, &ports, &Trick::new());
    let mut two = Node::start(folder.path(), 2, &ports, &trick);
    let in_service =
        |id: i32| one.broker().image.load().broker(id).is_some_and(BrokerImage::is_active);
    until("both are in service", || in_service(1) && in_service(2));
    one.create(&[&[2, 1], &[2, 1], &[2, 1], &[2, 1]]);
    let leader = |index: i32| one.partition(index).map(|it| it.leader);
    until("broker 2 leads all", || (0..4).all(|index| leader(index) == Some(2)));
    let b = two.dirs()[1];
    let known = |index: i32| one.directory(index, 2).is_some_and(|id| two.dirs().contains(&id));
    until("the image has the directories", || (0..4).all(known));
    let in_b: Vec<_> = (0..4).filter(|index| one.directory(*index, 2) == Some(b)).collect();
    assert_eq!(in_b.len(), 2);
    let mut acked = BTreeMap::<i32, Vec<String>>::new();
    let mut failed = None;
    let mut moved = BTreeMap::new();
    until("all leaders are where a disk is, and take records", || {
        for index in 0..4 {
            let value = format!("{index}/{}", acked.get(&index).map_or(0, Vec::len));
            let at = if leader(index) == Some(1) { &one } else { &two };
            let before = Instant::now();
            if at.write(index, &value) {
                acked.entry(index).or_default().push(value);
                if leader(index) == Some(1)
                    && let Some(failed) = failed
                {
                    moved.entry(index).or_insert(before.duration_since(failed));
                }
            }
        }
        if failed.is_none() && acked.values().all(|it| it.len() >= 20) {
            failed = Some(Instant::now());
            *trick.0.broken.lock() = Some(folder.path().join("2/b"));
        }
        moved.len() == in_b.len()
    });
    println!("took records on the other broker after {moved:?}");
    assert_eq!(moved.keys().copied().collect::<Vec<_>>(), in_b);
    for index in 0..4 {
        let at = if in_b.contains(&index) { &one } else { &two };
        let left = at.read(index);
        let lost: Vec<_> = acked[&index].iter().filter(|value| !left.contains(value)).collect();
        assert!(lost.is_empty(), "partition {index}: {lost:?}");
        assert_eq!(leader(index), Some(if in_b.contains(&index) { 1 } else { 2 }));
    }
    let image = one.broker().image.load();
    let offline = &image.broker(2).unwrap().directories;
    assert!(!offline.contains(&b), "the heartbeat has told");
    drop(image);
    two.kill();
    one.kill();
}
