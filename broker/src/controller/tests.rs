//! The controller as a whole: on a real folder, asked directly.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::alter_partition_request::{BrokerState, PartitionData, TopicData};
use kafka_protocol::messages::broker_registration_request::{Feature, Listener as Endpoint};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{
    AlterPartitionRequest, BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerId,
    BrokerRegistrationRequest, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    FetchRequest, IncrementalAlterConfigsRequest, TopicName,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::topics::METADATA_TOPIC_ID;
use super::*;
use crate::config::Settings;
use crate::env::real;
use crate::error::{ErrorCode, Refusal};
use crate::raft::batch::decode;
use crate::types::NodeId;
use crate::wire::metadata::FeatureLevelRecord;

struct Cluster {
    controller: Arc<Controller>,
    metadata: Arc<Metadata>,
    stop: CancellationToken,
    /// Where all brokers seem to listen: that they live is never in doubt.
    listener: std::net::TcpListener,
}

impl Cluster {
    async fn start(dir: &std::path::Path) -> Self {
        Self::with_session(dir, 400).await
    }

    async fn with_session(dir: &std::path::Path, millis: u64) -> Self {
        let settings = Settings::for_test(&format!(
            "log.dirs={}\nbroker.session.timeout.ms={millis}\nbroker.heartbeat.interval.ms=100",
            dir.display()
        ));
        let metadata = Metadata::new("cluster");
        let stop = CancellationToken::new();
        metadata.start(stop.clone());
        let controller = Controller::start(Start {
            env: real::env(),
            settings: &settings,
            cluster_id: "cluster",
            directory_id: Uuid::from_u128(1 << 100),
            metadata: metadata.clone(),
            controllers: tokio::sync::watch::Sender::new(Controllers::of(&settings)),
            stop: stop.clone(),
            on_fault: Box::new(|fault| panic!("{fault}")),
        })
        .await
        .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self { controller, metadata, stop, listener }
    }

    async fn register(&self, id: NodeId, incarnation: u128) -> Result<i64, Refusal> {
        let port = self.listener.local_addr().unwrap().port();
        self.register_as(id, incarnation, -1, port).await
    }

    /// Registers a process that listens on `port`, and whose predecessor closed its logs in the
    /// epoch `clean`; -1: did not.
    async fn register_as(
        &self,
        id: NodeId,
        incarnation: u128,
        clean: i64,
        port: u16,
    ) -> Result<i64, Refusal> {
        let endpoint = Endpoint::default()
            .with_name("PLAINTEXT".into())
            .with_host("127.0.0.1".into())
            .with_port(port);
        let range = |(name, min, max): (&'static str, i16, i16)| {
            Feature::default()
                .with_name(name.into())
                .with_min_supported_version(min)
                .with_max_supported_version(max)
        };
        let request = BrokerRegistrationRequest::default()
            .with_broker_id(BrokerId(id))
            .with_cluster_id("cluster".into())
            .with_incarnation_id(Uuid::from_u128(incarnation))
            .with_listeners(vec![endpoint])
            .with_features(brokers::supported_features().into_iter().map(range).collect())
            .with_log_dirs(vec![Uuid::from_u128(1000 + id as u128)])
            .with_previous_broker_epoch(clean);
        let contact = Some(id as u64);
        let decided =
            self.controller.decide(move |it, now| it.register_broker(&request, contact, now));
        decided.await
    }

    async fn finalize(&self, feature: &str, level: i16) {
        let record = FeatureLevelRecord { name: feature.into(), feature_level: level };
        let decided = self.controller.decide(|_, _| Ok(Decision::new(vec![record.into()], ())));
        decided.await.unwrap();
    }

    async fn heartbeat(
        &self,
        id: NodeId,
        epoch: i64,
        shut_down: bool,
    ) -> Result<BrokerHeartbeatResponse, Refusal> {
        self.heartbeat_over(id as u64, id, epoch, shut_down, Duration::ZERO).await
    }

    /// A heartbeat over a connection, by a clock that is ahead.
    async fn heartbeat_over(
        &self,
        contact: u64,
        id: NodeId,
        epoch: i64,
        shut_down: bool,
        ahead: Duration,
    ) -> Result<BrokerHeartbeatResponse, Refusal> {
        let request = BrokerHeartbeatRequest::default()
            .with_broker_id(BrokerId(id))
            .with_broker_epoch(epoch)
            .with_current_metadata_offset(i64::MAX)
            .with_want_shut_down(shut_down);
        let decide = move |core: &mut driver::Core, now| {
            core.heartbeat(&request, Some(contact), now + ahead)
        };
        self.controller.decide(decide).await
    }

    async fn fenced(&self, id: NodeId) {
        let mut applied = self.metadata.applied();
        while self.metadata.image().broker(id).is_none_or(|broker| !broker.fenced) {
            applied.changed().await.unwrap();
        }
    }

    /// Registers brokers and has them unfenced; their epochs.
    async fn brokers(&self, ids: std::ops::Range<NodeId>) -> Vec<i64> {
        let mut epochs = Vec::new();
        for id in ids {
            let epoch = self.register(id, 77 + id as u128).await.unwrap();
            assert!(!self.heartbeat(id, epoch, false).await.unwrap().is_fenced);
            epochs.push(epoch);
        }
        epochs
    }

    async fn create(&self, topic: CreatableTopic) -> CreateTopicsResponse {
        let request = CreateTopicsRequest::default().with_topics(vec![topic]);
        self.controller
            .decide_each(move |core| topics::create(core.view(), &core.random, &request))
            .await
            .unwrap()
    }

    async fn image(&self) -> Arc<Image> {
        let end = self.controller.high_watermark() - 1;
        self.metadata.applied().wait_for(|offset| *offset >= end).await.unwrap();
        self.metadata.image()
    }
}

fn topic(name: &str, partitions: i32, replicas: i16) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(TopicName(name.to_owned().into()))
        .with_num_partitions(partitions)
        .with_replication_factor(replicas)
}

#[tokio::test]
async fn a_topic_is_created_and_found_again_after_a_restart_in_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    cluster.brokers(0..3).await;
    let config = CreatableTopicConfig::default()
        .with_name("retention.ms".into())
        .with_value(Some("1000".into()));
    let created = cluster.create(topic("orders", 6, 3).with_configs(vec![config])).await;
    let created = &created.topics[0];
    assert_eq!((created.error_code, created.num_partitions), (0, 6), "{created:?}");
    let again = cluster.create(topic("orders", 1, 1)).await;
    assert_eq!(again.topics[0].error_code, ErrorCode::TopicAlreadyExists.code());
    let before = cluster.image().await;
    assert_eq!(before.topic("orders").unwrap().id, created.topic_id);
    assert_eq!(before.config(ResourceType::Topic, "orders")["retention.ms"], "1000");
    let epoch = cluster.controller.epoch();
    cluster.stop.cancel();

    let cluster = Cluster::start(dir.path()).await;
    assert_eq!(cluster.controller.epoch(), epoch + 1);
    let after = cluster.image().await;
    assert_eq!(after.topics, before.topics);
    assert_eq!(after.broker(2), before.broker(2));
    assert!(after.offset > before.offset);
    cluster.stop.cancel();
}

#[tokio::test]
async fn a_silent_broker_is_fenced_and_its_partitions_get_leaders_from_the_isr() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let epochs = cluster.brokers(0..3).await;
    cluster.create(topic("orders", 3, 3)).await;
    for id in [0, 2] {
        let later = Duration::from_mins(1);
        cluster.heartbeat_over(7, id, epochs[id as usize], false, later).await.unwrap();
    }
    cluster.fenced(1).await;
    let image = cluster.image().await;
    for partition in image.topic("orders").unwrap().partitions.values() {
        assert!(partition.leader != 1 && partition.has_leader(), "{partition:?}");
        assert!(!partition.isr.contains(&1) && partition.isr.len() == 2, "{partition:?}");
    }
    cluster.stop.cancel();
}

/// Longer than any test takes.
const LONG: u64 = 60_000;

#[tokio::test]
async fn a_broker_whose_connection_closed_and_where_nobody_listens_is_fenced_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::with_session(dir.path(), LONG).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let epoch = cluster.register_as(0, 77, -1, port).await.unwrap();
    cluster.heartbeat(0, epoch, false).await.unwrap();
    drop(listener);
    let closed = tokio::time::Instant::now();
    cluster.controller.note_closed(0);
    cluster.fenced(0).await;
    assert!(closed.elapsed() < contact::GRACE, "{:?}", closed.elapsed());
    cluster.stop.cancel();
}

#[tokio::test]
async fn a_broker_whose_connection_closed_has_a_grace_while_somebody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::with_session(dir.path(), LONG).await;
    cluster.brokers(0..1).await;
    let closed = tokio::time::Instant::now();
    cluster.controller.note_closed(0);
    cluster.fenced(0).await;
    assert!(closed.elapsed() >= contact::GRACE, "{:?}", closed.elapsed());
    cluster.stop.cancel();
}

#[tokio::test]
async fn a_broker_that_connects_again_is_not_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::with_session(dir.path(), LONG).await;
    let epoch = cluster.brokers(0..1).await[0];
    cluster.heartbeat_over(8, 0, epoch, false, Duration::ZERO).await.unwrap();
    // The connection before the present one, and then that one, too.
    cluster.controller.note_closed(0);
    cluster.controller.note_closed(8);
    cluster.heartbeat_over(9, 0, epoch, false, Duration::ZERO).await.unwrap();
    let dead = cluster.controller.decide(move |core, now| {
        core.sessions.declare_dead(0, epoch, now);
        Ok(Decision::nothing(core.sessions.stale(core.view(), now + contact::GRACE * 2)))
    });
    let fenced: Vec<NodeId> = dead.await.unwrap();
    assert!(fenced.is_empty(), "{fenced:?}");
    cluster.stop.cancel();
}

#[tokio::test]
async fn a_node_that_starts_again_gives_up_what_its_broker_led_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    // Broker 1 is on the controller's own node.
    cluster.brokers(1..3).await;
    cluster.create(topic("orders", 2, 2)).await;
    cluster.stop.cancel();
    let cluster = Cluster::start(dir.path()).await;
    cluster.fenced(1).await;
    let image = cluster.image().await;
    assert!(!image.broker(2).unwrap().fenced);
    assert!(image.topic("orders").unwrap().partitions.values().all(|it| it.leader == 2));
    cluster.register(1, 999).await.unwrap();
    cluster.stop.cancel();
}

#[tokio::test]
async fn an_id_belongs_to_one_process_until_its_session_ends_or_its_connection_closes() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let mut epoch = cluster.brokers(0..1).await[0];
    for (incarnation, closed) in [(998, false), (999, true)] {
        let refusal = cluster.register(0, incarnation).await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::DuplicateBrokerRegistration);
        if closed {
            cluster.controller.note_closed(0);
        } else {
            cluster.fenced(0).await;
        }
        let before = std::mem::replace(&mut epoch, cluster.register(0, incarnation).await.unwrap());
        assert!(epoch > before);
        let stale = cluster.heartbeat(0, before, false).await.unwrap_err();
        assert_eq!(stale.code, ErrorCode::StaleBrokerEpoch);
        cluster.heartbeat(0, epoch, false).await.unwrap();
    }
    cluster.stop.cancel();
}

#[tokio::test]
async fn a_controlled_shutdown_moves_leaderships_before_the_broker_may_stop() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    let epochs = cluster.brokers(0..2).await;
    cluster.create(topic("orders", 4, 2)).await;
    let first = cluster.heartbeat(0, epochs[0], true).await.unwrap();
    assert!(!first.should_shut_down);
    let image = cluster.image().await;
    assert!(image.broker(0).unwrap().in_controlled_shutdown && !image.broker(0).unwrap().fenced);
    assert!(image.topic("orders").unwrap().partitions.values().all(|it| it.leader == 1));
    // The other broker has seen all of that.
    cluster.heartbeat(1, epochs[1], false).await.unwrap();
    assert!(cluster.heartbeat(0, epochs[0], true).await.unwrap().should_shut_down);
    assert!(cluster.image().await.broker(0).unwrap().fenced);
    cluster.stop.cancel();
}

#[tokio::test]
async fn isr_proposals_follow_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::with_session(dir.path(), LONG).await;
    let epochs = cluster.brokers(0..3).await;
    cluster.create(topic("orders", 1, 3)).await;
    let image = cluster.image().await;
    let orders = image.topic("orders").unwrap();
    let leader = orders.partitions[&0].leader;
    let follower = (leader + 1) % 3;
    let epoch_of = |id: NodeId| epochs[id as usize];
    let member = |id: NodeId, epoch: i64| {
        BrokerState::default().with_broker_id(BrokerId(id)).with_broker_epoch(epoch)
    };
    let propose = |isr: Vec<BrokerState>, leader_epoch: i32, partition_epoch: i32| {
        let proposal = PartitionData::default()
            .with_leader_epoch(leader_epoch)
            .with_partition_epoch(partition_epoch)
            .with_new_isr_with_epochs(isr);
        let topic = TopicData::default().with_topic_id(orders.id).with_partitions(vec![proposal]);
        let request = AlterPartitionRequest::default()
            .with_broker_id(BrokerId(leader))
            .with_broker_epoch(epoch_of(leader))
            .with_topics(vec![topic]);
        let controller = cluster.controller.clone();
        async move {
            let answer = controller
                .decide(move |core, _| isr::alter_partition(core.view(), &request))
                .await
                .unwrap();
            let answer = answer.topics[0].partitions[0].clone();
            (ErrorCode::try_from_code(answer.error_code), answer.isr, answer.partition_epoch)
        }
    };
    let mine = || member(leader, epoch_of(leader));
    let other = || member(follower, epoch_of(follower));
    let refused = [
        (vec![mine()], 1, 0, ErrorCode::NotController),
        (vec![mine()], 0, 1, ErrorCode::NotController),
        (vec![mine()], -1, 0, ErrorCode::FencedLeaderEpoch),
        (vec![mine()], 0, -1, ErrorCode::InvalidUpdateVersion),
        (vec![other()], 0, 0, ErrorCode::InvalidRequest),
        (vec![mine(), mine()], 0, 0, ErrorCode::InvalidRequest),
        (vec![mine(), member(9, -1)], 0, 0, ErrorCode::InvalidRequest),
        (vec![mine(), member(follower, 1)], 0, 0, ErrorCode::IneligibleReplica),
    ];
    for (isr, leader_epoch, partition_epoch, expected) in refused {
        let answer = propose(isr.clone(), leader_epoch, partition_epoch).await;
        assert_eq!(answer.0, Some(expected), "{isr:?} {leader_epoch} {partition_epoch}");
    }
    let (error, isr, partition_epoch) = propose(vec![mine(), other()], 0, 0).await;
    assert_eq!((error, partition_epoch), (None, 1));
    assert_eq!(isr, [BrokerId(leader), BrokerId(follower)]);
    cluster.stop.cancel();
}

#[tokio::test]
async fn an_observer_gets_what_is_committed_and_learns_where_it_parted() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    cluster.brokers(0..1).await;
    cluster.stop.cancel();
    let cluster = Cluster::start(dir.path()).await;
    let end = cluster.controller.quorum().log().end_offset();
    let fetch = |offset: i64, epoch: i32, cluster_id: &'static str| {
        let partition = FetchPartition::default()
            .with_current_leader_epoch(2)
            .with_fetch_offset(offset)
            .with_last_fetched_epoch(epoch)
            .with_partition_max_bytes(1 << 20);
        let topic =
            FetchTopic::default().with_topic_id(METADATA_TOPIC_ID).with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_cluster_id(Some(cluster_id.into()))
            .with_replica_state(ReplicaState::default().with_replica_id(BrokerId(5)))
            .with_max_wait_ms(20)
            .with_topics(vec![topic]);
        let controller = cluster.controller.clone();
        async move { serve_metadata_fetch(&controller, &request).await }
    };
    let all = fetch(0, 0, "cluster").await.responses[0].partitions[0].clone();
    let batches = decode(all.records.as_deref().unwrap()).unwrap();
    assert_eq!(batches.last().unwrap().last_offset + 1, end);
    assert_eq!((all.high_watermark, all.current_leader.leader_epoch), (end, 2));
    let none = fetch(end, 2, "cluster").await.responses[0].partitions[0].clone();
    assert_eq!((none.error_code, none.records.map(|it| it.len())), (0, Some(0)));
    // More of epoch 1 than the controller has.
    let parted = fetch(end, 1, "cluster").await.responses[0].partitions[0].clone();
    assert_eq!(parted.diverging_epoch.epoch, 1);
    assert_eq!(parted.diverging_epoch.end_offset, end - 1);
    let other = fetch(0, 0, "other").await;
    assert_eq!(other.error_code, ErrorCode::InconsistentClusterId.code());
    cluster.stop.cancel();
}

#[tokio::test]
async fn topic_creation_is_refused_in_kafkas_codes() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::with_session(dir.path(), LONG).await;
    cluster.brokers(0..3).await;
    cluster.create(topic("a.b", 1, 1)).await;
    let with = |name: &str, value: &str| {
        let config = CreatableTopicConfig::default()
            .with_name(name.to_owned().into())
            .with_value(Some(value.to_owned().into()));
        topic("t", 1, 1).with_configs(vec![config])
    };
    let table = [
        (topic("a_b", 1, 1), ErrorCode::InvalidTopicException),
        (topic("", 1, 1), ErrorCode::InvalidTopicException),
        (topic("..", 1, 1), ErrorCode::InvalidTopicException),
        (topic("ü", 1, 1), ErrorCode::InvalidTopicException),
        (topic(&"x".repeat(250), 1, 1), ErrorCode::InvalidTopicException),
        (topic("__cluster_metadata", 1, 1), ErrorCode::InvalidRequest),
        (topic("t", 0, 1), ErrorCode::InvalidPartitions),
        (topic("t", -2, 1), ErrorCode::InvalidPartitions),
        (topic("t", 1, 0), ErrorCode::InvalidReplicationFactor),
        (topic("t", 1, 4), ErrorCode::InvalidReplicationFactor),
        (with("no.such.thing", "1"), ErrorCode::InvalidConfig),
        (with("retention.ms", "x"), ErrorCode::InvalidConfig),
    ];
    for (asked, expected) in table {
        let answer = cluster.create(asked.clone()).await;
        let code = ErrorCode::try_from_code(answer.topics[0].error_code);
        assert_eq!(code, Some(expected), "{asked:?}");
    }
    let delete = |names: Vec<&'static str>| {
        let names = names.into_iter().map(|name| TopicName(name.into())).collect();
        DeleteTopicsRequest::default().with_topic_names(names)
    };
    let request = delete(vec!["a.b", "missing"]);
    let answer =
        cluster.controller.decide_each(move |it| topics::delete(it.view(), &request)).await;
    let codes: Vec<_> = answer.unwrap().responses.iter().map(|it| it.error_code).collect();
    assert_eq!(codes, [0, ErrorCode::UnknownTopicOrPartition.code()]);
    assert!(cluster.image().await.topic("a.b").is_none());
    cluster.stop.cancel();
}

#[tokio::test]
async fn configuration_is_set_appended_to_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::with_session(dir.path(), LONG).await;
    cluster.brokers(0..1).await;
    cluster.create(topic("t", 1, 1)).await;
    let alter = |op: i8, name: &'static str, value: Option<&'static str>| {
        let config = AlterableConfig::default()
            .with_name(name.into())
            .with_config_operation(op)
            .with_value(value.map(Into::into));
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name("t".into())
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let controller = cluster.controller.clone();
        async move {
            let answer =
                controller.decide_each(move |it| configs::incremental(it.view(), &request)).await;
            ErrorCode::try_from_code(answer.unwrap().responses[0].error_code)
        }
    };
    let steps = [
        (0, "retention.ms", Some("5"), None),
        (2, "cleanup.policy", Some("compact"), None),
        (3, "cleanup.policy", Some("delete"), None),
        (2, "retention.ms", Some("6"), Some(ErrorCode::InvalidConfig)),
        (0, "retention.ms", Some("many"), Some(ErrorCode::InvalidConfig)),
        (0, "no.such", Some("1"), Some(ErrorCode::InvalidConfig)),
        (9, "retention.ms", Some("1"), Some(ErrorCode::UnknownServerError)),
        (1, "retention.ms", None, None),
    ];
    for (op, name, value, expected) in steps {
        assert_eq!(alter(op, name, value).await, expected, "{op} {name} {value:?}");
    }
    let image = cluster.image().await;
    let config = image.config(ResourceType::Topic, "t");
    assert_eq!(
        config.iter().collect::<Vec<_>>(),
        [(&"cleanup.policy".to_owned(), &"compact".to_owned())]
    );
    cluster.stop.cancel();
}

#[tokio::test]
async fn features_of_a_foreign_log_that_are_not_built_are_lowered_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let first = Cluster::start(dir.path()).await;
    assert_eq!(first.image().await.feature(decision::TRANSACTION_FEATURE), 2);
    first.finalize("foreign.version", 2).await;
    first.finalize(decision::TRANSACTION_FEATURE, 1).await;
    first.finalize(decision::ELR_FEATURE, 1).await;
    first.stop.cancel();
    let second = Cluster::start(dir.path()).await;
    let image = second.image().await;
    assert_eq!(image.feature("foreign.version"), 0);
    assert_eq!(image.feature(decision::TRANSACTION_FEATURE), 1);
    assert_eq!(image.feature("metadata.version"), 30);
    assert_eq!(image.feature(decision::ELR_FEATURE), 1);
    second.stop.cancel();
}

#[tokio::test]
async fn an_eligible_broker_leads_again_after_a_clean_stop_and_after_a_kill_only_as_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path()).await;
    cluster.finalize(decision::ELR_FEATURE, 1).await;
    let mut epoch = cluster.brokers(0..1).await[0];
    cluster.create(topic("orders", 1, 1)).await;
    for (clean, incarnation) in [(true, 101), (false, 102)] {
        // Twice: it leads, and leaves when that has ended.
        cluster.heartbeat(0, epoch, true).await.unwrap();
        cluster.heartbeat(0, epoch, true).await.unwrap();
        let partition = cluster.image().await.partition("orders", 0).unwrap().clone();
        assert_eq!(
            (partition.leader, &partition.isr[..], &partition.elr[..]),
            (-1, &[][..], &[0][..])
        );
        let before = if clean { epoch } else { -1 };
        epoch = cluster.register_as(0, incarnation, before, 0).await.unwrap();
        let partition = cluster.image().await.partition("orders", 0).unwrap().clone();
        assert_eq!((partition.elr.is_empty(), &partition.last_known_elr[..]), (!clean, &[0][..]));
        cluster.heartbeat(0, epoch, false).await.unwrap();
        let partition = cluster.image().await.partition("orders", 0).unwrap().clone();
        assert_eq!(
            (partition.leader, &partition.isr[..], partition.recovering),
            (0, &[0][..], !clean)
        );
    }
    cluster.stop.cancel();
}
