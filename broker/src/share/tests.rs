//! Share partitions over real logs, with the share coordinator's shard behind them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::fetch::{self, Fetched, ShareFetch};
use super::partition::{AckBatch, AckType, Acquired, Mode};
use super::persister::Persister;
use super::sessions::TopicIdPartition;
use super::shares::Shares;
use crate::coordinator::share::records::ShareKey;
use crate::coordinator::share::settings::ShareSettings;
use crate::coordinator::share::shard::{Answer, Call, Shard, What};
use crate::error::{ErrorCode, Refusal};
use crate::log::Origin;
use crate::replica::tests::cluster::{Cluster, TOPIC_ID, batch};

const AT: TopicIdPartition = (TOPIC_ID, 0);

/// A share coordinator without a log.
struct Keeper(Mutex<Shard>);

impl Keeper {
    fn handle(&self, what: What) -> Answer {
        let settings = ShareSettings {
            updates_per_snapshot: 3,
            cold_after: Duration::from_mins(5),
            prune_interval: Duration::from_mins(5),
            write_timeout: Duration::from_secs(5),
        };
        let key = ShareKey { group: "g".into(), topic_id: AT.0, partition: AT.1 };
        self.0.lock().handle(Call { key, what }, true, &settings, 0).1
    }
}

#[async_trait]
impl Persister for Keeper {
    async fn call(&self, call: Call) -> Answer {
        self.handle(call.what)
    }
}

struct World {
    cluster: Arc<Cluster>,
    keeper: Arc<Keeper>,
    shares: Arc<Shares>,
}

impl World {
    /// A partition with records 0 to 3 in two batches, and a group that starts at `start`.
    async fn new(more: &str, start: i64) -> Self {
        let cluster = Cluster::start(&[1, 2, 3], more).await;
        let keeper = Arc::new(Keeper(Mutex::default()));
        keeper.handle(What::Initialize { state_epoch: 1, start });
        let shares = Shares::start(cluster.node(1).partitions.clone(), keeper.clone());
        cluster.node(1).partitions.listen(shares.clone());
        let world = Self { cluster, keeper, shares };
        world.append(&["a", "b"]).await;
        world.append(&["c", "d"]).await;
        world
    }

    async fn append(&self, values: &[&str]) {
        let partition = self.cluster.partition(1);
        let ticket = partition.append(batch(values), true, -1, Origin::Client).unwrap();
        ticket.committed().await.unwrap();
    }

    async fn fetch(
        &self,
        member: &str,
        max_records: i64,
        wait_ms: u64,
    ) -> Result<Fetched, Refusal> {
        let ask = ShareFetch {
            group: "g".into(),
            member: member.into(),
            partitions: vec![AT],
            mode: Mode::BatchOptimized,
            batch_size: 100,
            max_records,
            min_bytes: 1,
            max_bytes: 1 << 20,
            max_wait: Duration::from_millis(wait_ms),
        };
        let mut outcome = fetch::serve(&self.shares, ask).await;
        outcome.pop().map_or_else(|| Ok(Fetched::default()), |(_, fetched)| fetched)
    }

    async fn ack(&self, member: &str, first: i64, last: i64, kind: AckType) -> Result<(), Refusal> {
        let acks = [AckBatch { first, last, types: vec![kind] }];
        self.shares.acknowledge("g", member, AT, &acks).await
    }

    async fn stop(self) {
        self.shares.shut_down().await;
        self.cluster.stop().await;
    }
}

fn got(first: i64, last: i64, deliveries: i16) -> Vec<Acquired> {
    vec![Acquired { first, last, deliveries }]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_member_has_another_does_not_get_and_what_is_accepted_is_kept() {
    let world = World::new("", 0).await;
    let fetched = world.fetch("a", 2, 5_000).await.unwrap();
    assert_eq!(fetched.acquired, got(0, 1, 1));
    assert_eq!(crate::replica::tests::cluster::values(&fetched.records), ["a", "b"]);
    assert_eq!(world.fetch("b", 9, 5_000).await.unwrap().acquired, got(2, 3, 1));
    world.ack("a", 0, 1, AckType::Accept).await.unwrap();
    let not_theirs = world.ack("a", 2, 3, AckType::Accept).await.unwrap_err();
    assert_eq!(not_theirs.code, ErrorCode::InvalidRecordState);
    let Answer::Read(Ok(state)) = world.keeper.handle(What::Read { leader_epoch: -1 }) else {
        panic!("the state is readable")
    };
    assert_eq!((state.start, state.batches.len()), (0, 1));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_is_woken_by_an_append_and_by_records_that_are_given_back() {
    let world = World::new("", 4).await;
    let (fetched, ()) = tokio::join!(world.fetch("a", 9, 60_000), world.append(&["e"]));
    assert_eq!(fetched.unwrap().acquired, got(4, 4, 1));
    let given_back = world.ack("a", 4, 4, AckType::Release);
    let (fetched, acked) = tokio::join!(world.fetch("b", 9, 60_000), given_back);
    acked.unwrap();
    assert_eq!(fetched.unwrap().acquired, got(4, 4, 2));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_runs_out_gives_the_records_to_another() {
    let world = World::new("group.share.record.lock.duration.ms=1000", 0).await;
    assert_eq!(world.fetch("a", 9, 5_000).await.unwrap().acquired, got(0, 3, 1));
    assert_eq!(world.fetch("b", 9, 60_000).await.unwrap().acquired, got(0, 3, 2));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_gives_all_back() {
    let world = World::new("", 0).await;
    let key = ("g".to_owned(), "a".to_owned());
    world.shares.sessions.lock().begin(&key, 0, &[AT], &[], false, 7).unwrap();
    assert_eq!(world.fetch("a", 9, 5_000).await.unwrap().acquired, got(0, 3, 1));
    drop(world.shares.on_close(7));
    assert_eq!(world.fetch("b", 9, 60_000).await.unwrap().acquired, got(0, 3, 2));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_goes_on_from_what_was_kept() {
    let world = World::new("", 0).await;
    world.fetch("a", 9, 5_000).await.unwrap();
    world.ack("a", 0, 1, AckType::Accept).await.unwrap();
    world.cluster.elect(2, &[1, 2, 3]);
    let old = world.fetch("a", 9, 5_000).await.unwrap_err();
    assert_eq!(old.code, ErrorCode::NotLeaderOrFollower);
    let partitions = world.cluster.node(2).partitions.clone();
    let keeper: Arc<dyn Persister> = world.keeper.clone();
    let shares = Shares::start(partitions, keeper);
    let world = World { shares, ..world };
    world.cluster.until("2 leads", || world.cluster.partition(2).is_leader()).await;
    assert_eq!(world.fetch("b", 9, 60_000).await.unwrap().acquired, got(2, 3, 1));
    world.stop().await;
}
