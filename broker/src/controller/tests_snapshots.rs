//! Images as snapshots: nothing is lost, whatever the image.

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::loader::Loader;
use super::replay::image_of;
use super::snapshots::{self, Limits, Snapshotter};
use super::{Delta, Image, Metadata};
use crate::env::real;
use crate::raft::batch::{self, Place};
use crate::raft::snapshot::{KRaftState, SnapshotId};
use crate::raft::{LogOptions, MetadataLog};
use crate::wire::metadata::*;

fn id(n: u8) -> Uuid {
    Uuid::from_u128(u128::from(n))
}

fn ids() -> impl Strategy<Value = Vec<Uuid>> {
    vec((1..4u8).prop_map(id), 0..3)
}

fn nodes() -> impl Strategy<Value = Vec<i32>> {
    vec(0..4, 0..4)
}

fn end_points() -> impl Strategy<Value = Vec<EndPoint>> {
    let one = ("[A-C]", "[a-z]{0,5}", any::<u16>(), 0..4i16);
    vec(
        one.prop_map(|(name, host, port, security_protocol)| EndPoint {
            name,
            host,
            port,
            security_protocol,
        }),
        0..3,
    )
}

fn features() -> impl Strategy<Value = Vec<FeatureRange>> {
    let one = ("[a-c]", 0..3i16, 3..9i16).prop_map(|(name, min, max)| FeatureRange {
        name,
        min_supported_version: min,
        max_supported_version: max,
    });
    vec(one, 0..3)
}

fn of_brokers() -> impl Strategy<Value = Record> {
    let register =
        (0..4, 0..3i64, end_points(), features(), option::of("[rs]"), any::<(bool, bool)>())
            .prop_flat_map(|it| (Just(it), ids(), option::of(ids())))
            .prop_map(
                |((broker_id, epoch, end_points, features, rack, flags), log_dirs, cordoned)| {
                    RegisterBrokerRecord {
                        broker_id,
                        broker_epoch: epoch,
                        incarnation_id: id(epoch as u8),
                        end_points,
                        features,
                        rack,
                        fenced: flags.0,
                        in_controlled_shutdown: flags.1,
                        log_dirs,
                        cordoned_log_dirs: cordoned,
                        ..Default::default()
                    }
                    .into()
                },
            );
    let change = (0..4, 0..3i64, -1..=1i8, 0..=1i8, ids(), option::of(ids())).prop_map(
        |(broker_id, broker_epoch, fenced, stopping, log_dirs, cordoned_log_dirs)| {
            BrokerRegistrationChangeRecord {
                broker_id,
                broker_epoch,
                fenced,
                in_controlled_shutdown: stopping,
                log_dirs,
                cordoned_log_dirs,
            }
            .into()
        },
    );
    prop_oneof![
        4 => register,
        2 => change,
        1 => (0..4, 0..3i64).prop_map(|(broker_id, broker_epoch)| {
            UnregisterBrokerRecord { broker_id, broker_epoch }.into()
        }),
        1 => (0..4, 0..3i64).prop_map(|(id, epoch)| UnfenceBrokerRecord { id, epoch }.into()),
        1 => (0..4, end_points(), features()).prop_map(|(controller_id, end_points, features)| {
            RegisterControllerRecord { controller_id, end_points, features, ..Default::default() }
                .into()
        }),
    ]
}

fn of_topics() -> impl Strategy<Value = Record> {
    let partition = (1..5u8, 0..3, nodes(), nodes(), nodes(), nodes(), nodes(), ids(), -1..4)
        .prop_map(
            |(topic, partition_id, replicas, isr, adding, removing, elr, directories, leader)| {
                PartitionRecord {
                    partition_id,
                    topic_id: id(topic),
                    replicas,
                    isr,
                    adding_replicas: adding,
                    removing_replicas: removing,
                    last_known_elr: Some(elr.clone()),
                    eligible_leader_replicas: Some(elr),
                    directories,
                    leader,
                    leader_recovery_state: i8::from(leader == 2),
                    leader_epoch: leader + 3,
                    partition_epoch: partition_id + 7,
                }
                .into()
            },
        );
    let change = (1..5u8, 0..3, option::of(nodes()), option::of(nodes()), -2..4, option::of(ids()))
        .prop_map(|(topic, partition_id, isr, elr, leader, directories)| {
            PartitionChangeRecord {
                partition_id,
                topic_id: id(topic),
                isr,
                eligible_leader_replicas: elr,
                leader,
                directories,
                ..Default::default()
            }
            .into()
        });
    prop_oneof![
        3 => (1..5u8).prop_map(|n| TopicRecord { name: format!("t{n}"), topic_id: id(n) }.into()),
        1 => (1..5u8).prop_map(|n| RemoveTopicRecord { topic_id: id(n) }.into()),
        4 => partition,
        3 => change,
        1 => "(t1)?".prop_map(|topic_name| ClearElrRecord { topic_name }.into()),
    ]
}

fn of_the_rest() -> impl Strategy<Value = Record> {
    let kind = prop_oneof![Just(2i8), Just(4), Just(8), Just(16), Just(32)];
    let config = (kind, "(t1|t2|)", "[a-c]", option::of("[x-z]{0,3}")).prop_map(
        |(resource_type, resource_name, name, value)| {
            ConfigRecord { resource_type, resource_name, name, value }.into()
        },
    );
    let quota = (vec(("(user|ip)", option::of("[ab]")), 1..3), "[ab]", -9.0..9.0, any::<bool>())
        .prop_map(|(entity, key, value, remove)| {
            let entity = entity
                .into_iter()
                .map(|(entity_type, entity_name)| QuotaEntity { entity_type, entity_name })
                .collect();
            ClientQuotaRecord { entity, key, value, remove }.into()
        });
    prop_oneof![
        4 => config,
        2 => quota,
        1 => ("[a-c]", 0..4i16).prop_map(|(name, feature_level)| {
            FeatureLevelRecord { name, feature_level }.into()
        }),
        1 => (0..9000i64).prop_map(|next_producer_id| {
            ProducerIdsRecord { broker_id: 1, broker_epoch: 1, next_producer_id }.into()
        }),
        1 => ("[ab]", 1..3i8, vec(any::<u8>(), 0..4)).prop_map(|(name, mechanism, salt)| {
            UserScramCredentialRecord { name, mechanism, salt: salt.into(), ..Default::default() }
                .into()
        }),
        1 => ("[ab]", 1..3i8).prop_map(|(name, mechanism)| {
            RemoveUserScramCredentialRecord { name, mechanism }.into()
        }),
        1 => (1..4u8, "[ab]").prop_map(|(n, principal)| {
            AccessControlEntryRecord { id: id(n), principal, ..Default::default() }.into()
        }),
        1 => (1..4u8).prop_map(|n| RemoveAccessControlEntryRecord { id: id(n) }.into()),
        1 => "[ab]".prop_map(|token_id| {
            DelegationTokenRecord { token_id, ..Default::default() }.into()
        }),
        1 => Just(NoOpRecord {}.into()),
    ]
}

/// Records of which each fits those before it.
fn history() -> impl Strategy<Value = Vec<Record>> {
    let any = prop_oneof![2 => of_brokers(), 4 => of_topics(), 3 => of_the_rest()];
    vec(any, 0..80).prop_map(|records| {
        let mut image = Image::empty("test");
        let fits = |record: &Record| {
            let mut after = image.clone();
            let fits = after.replay(record, &mut Delta::default()).is_ok();
            if fits {
                image = after;
            }
            fits
        };
        records.into_iter().filter(fits).collect()
    })
}

fn append(log: &MetadataLog, loader: &mut Loader, records: &[Record]) {
    for few in records.chunks(7) {
        let place = Place { offset: log.end_offset(), epoch: 3, now: 1000 + log.end_offset() };
        let bytes = batch::of_records(few, place);
        log.append(&bytes).unwrap();
        loader.replay(&batch::decode(&bytes).unwrap()[0]).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn an_image_comes_back_from_its_snapshot_and_replay_goes_on_from_it(
        records in history(), cut in 0.0..1.0f64,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let log = MetadataLog::open(&real::env(), dir.path()).unwrap();
        let mut loader = Loader::new(Image::empty("test"));
        let cut = (records.len() as f64 * cut) as usize;
        append(&log, &mut loader, &records[..cut]);
        let before = loader.image().clone();
        let written = snapshots::write(&real::env(), &log, &before, None).unwrap();
        prop_assert_eq!(written.is_some(), cut > 0);
        if let Some(contents) = &written {
            prop_assert_eq!(&snapshots::load(&log, contents, "test").unwrap(), &before);
        }
        append(&log, &mut loader, &records[cut..]);
        // What a node does when it starts.
        let log = MetadataLog::open(&real::env(), dir.path()).unwrap();
        let mut again = snapshots::loader(&log, "test").unwrap();
        prop_assert_eq!(again.next_offset(), before.offset + 1);
        super::replica::replay_all(&mut again, &log).unwrap();
        prop_assert_eq!(again.image(), loader.image());
    }

    #[test]
    fn what_changed_between_two_images_names_all_that_differs(
        records in history(), cut in 0.0..1.0f64,
    ) {
        let cut = (records.len() as f64 * cut) as usize;
        let (old, _) = image_of(&records[..cut]);
        let (new, all) = image_of(&records);
        let between = Delta::between(&old, &new);
        prop_assert!(between.topics.is_subset(&all.topics));
        prop_assert!(between.partitions.is_subset(&all.partitions));
        prop_assert!(between.brokers.is_subset(&all.brokers));
        prop_assert!(between.configs.is_subset(&all.configs));
        for topic in new.topics() {
            let same = old.topic_by_id(topic.id) == Some(topic);
            prop_assert_eq!(!same, between.topics.contains(&topic.name));
        }
        for topic in old.topics() {
            let gone = (topic.name.clone(), topic.id);
            prop_assert_eq!(new.topic_by_id(topic.id).is_none(), between.deleted.contains(&gone));
        }
    }
}

#[test]
fn the_metadata_version_is_the_first_record() {
    let records = [
        FeatureLevelRecord { name: "group.version".into(), feature_level: 1 }.into(),
        FeatureLevelRecord { name: "metadata.version".into(), feature_level: 30 }.into(),
        FeatureLevelRecord { name: "transaction.version".into(), feature_level: 2 }.into(),
    ];
    let (image, _) = image_of(&records);
    let names: Vec<_> = image.records().iter().map(|record| format!("{record:?}")).collect();
    assert!(names[0].contains("metadata.version") && names.len() == 3, "{names:?}");
}

struct Node {
    log: Arc<MetadataLog>,
    metadata: Arc<Metadata>,
    loader: Loader,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Node {
    fn start(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = real::env();
        let options = LogOptions { retention_bytes: 0, ..LogOptions::default() };
        let log = Arc::new(MetadataLog::open_with(&env, dir.path(), options).unwrap());
        let (metadata, stop) = (Metadata::new("test"), CancellationToken::new());
        metadata.start(stop.clone());
        let kraft = Box::new(|end| {
            Some(KRaftState { kraft_version: i16::try_from(end).unwrap(), voters: None })
        });
        let snapshotter =
            Snapshotter { env, log: log.clone(), metadata: metadata.clone(), limits, kraft };
        snapshotter.start(stop.clone());
        Self { log, metadata, loader: Loader::new(Image::empty("test")), stop, _dir: dir }
    }

    /// Appends so many batches of 7 records, and publishes.
    async fn go_on(&mut self, batches: usize) {
        let version = FeatureLevelRecord { name: "metadata.version".into(), feature_level: 30 };
        append(&self.log, &mut self.loader, &vec![version.into(); batches * 7]);
        let end = self.log.end_offset();
        let (image, delta) = self.loader.publish().unwrap();
        self.metadata.publish(image, delta);
        self.metadata.applied().wait_for(|offset| offset + 1 == end).await.unwrap();
    }

    async fn newest(&self, at_least: i64) -> SnapshotId {
        loop {
            match self.log.snapshots().newest_image() {
                Some(it) if it.id.end_offset >= at_least => {
                    assert_eq!(it.kraft.unwrap().kraft_version, it.id.end_offset as i16);
                    return it.id;
                }
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }
}

#[tokio::test]
async fn a_snapshot_is_written_after_so_many_bytes() {
    let mut node = Node::start(Limits { bytes: 1000, interval: Duration::ZERO });
    node.go_on(1).await;
    node.go_on(1).await;
    assert_eq!(node.log.snapshots().newest(), None);
    node.go_on(10).await;
    assert_eq!(node.newest(1).await, SnapshotId::new(84, 3));
    node.go_on(10).await;
    assert_eq!(node.newest(85).await, SnapshotId::new(154, 3));
    node.stop.cancel();
}

#[tokio::test]
async fn a_snapshot_is_written_after_so_long_and_the_log_is_trimmed() {
    let interval = Duration::from_millis(50);
    let mut node = Node::start(Limits { bytes: 1 << 40, interval });
    let clock = real::env().clock;
    let begun = clock.now();
    node.go_on(1).await;
    assert_eq!(node.newest(1).await, SnapshotId::new(7, 3));
    assert!(clock.now().duration_since(begun) >= interval);
    node.go_on(1).await;
    assert_eq!(node.newest(8).await, SnapshotId::new(14, 3));
    // The start moves first, then the older snapshot goes.
    while node.log.snapshots().all().len() > 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(node.log.start_offset(), 14);
    node.stop.cancel();
}

/// What Apache Kafka 4.3.1 wrote: a metadata log, and snapshots of it.
const OF_KAFKA: [(&str, &[u8]); 3] = [
    (
        "00000000000000000000.log",
        include_bytes!("../../testdata/kafka-4.3.1-snapshots/00000000000000000000.log"),
    ),
    (
        "00000000000000000046-0000000001.checkpoint",
        include_bytes!(
            "../../testdata/kafka-4.3.1-snapshots/00000000000000000046-0000000001.checkpoint"
        ),
    ),
    (
        "00000000000000000258-0000000001.checkpoint",
        include_bytes!(
            "../../testdata/kafka-4.3.1-snapshots/00000000000000000258-0000000001.checkpoint"
        ),
    ),
];

fn folder_of_kafka(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(crate::raft::log::FOLDER);
    let disk = real::env().disk;
    disk.create_dir_all(&folder).unwrap();
    for (name, content) in files {
        disk.write_atomically(&folder.join(name), content).unwrap();
    }
    dir
}

/// With its features by name, as we write them.
fn sorted(record: &Record) -> Record {
    let mut record = record.clone();
    match &mut record {
        Record::RegisterBroker(it) => it.features.sort_by(|a, b| a.name.cmp(&b.name)),
        Record::RegisterController(it) => it.features.sort_by(|a, b| a.name.cmp(&b.name)),
        _ => {}
    }
    record
}

/// The records of a snapshot, as bytes, in any order.
fn frames(log: &MetadataLog, id: SnapshotId) -> Vec<bytes::Bytes> {
    let mut reader = log.snapshots().reader(id).unwrap();
    let mut frames = Vec::new();
    while let Some(batch) = reader.next_batch().unwrap() {
        let records = batch.entries.iter().filter_map(|(_, entry)| match entry {
            batch::Entry::Record(record) => Some(sorted(record).to_frame()),
            batch::Entry::Control(_) => None,
        });
        frames.extend(records);
    }
    frames.sort();
    frames
}

#[test]
fn a_snapshot_of_kafka_holds_the_image_of_its_log_and_ours_holds_the_same_records() {
    let dir = folder_of_kafka(&OF_KAFKA);
    let log = MetadataLog::open(&real::env(), dir.path()).unwrap();
    for (end, epoch) in [(46, 1), (258, 1)] {
        let id = SnapshotId::new(end, epoch);
        let mut loader = Loader::new(Image::empty("test"));
        while loader.next_offset() < end {
            let bytes = log.read(loader.next_offset(), end, 1 << 20).unwrap();
            batch::decode(&bytes).unwrap().iter().for_each(|it| loader.replay(it).unwrap());
        }
        let mut replayed = loader.image().clone();
        let newest = log.snapshots().newest().unwrap();
        if newest.id == id {
            replayed.controller_id = -1;
            assert_eq!(snapshots::load(&log, &newest, "test").unwrap(), replayed);
        }
        // What we would have written.
        let ours = tempfile::tempdir().unwrap();
        let other = MetadataLog::open(&real::env(), ours.path()).unwrap();
        other.append(&log.read(0, end, 1 << 20).unwrap()).unwrap();
        let written =
            snapshots::write(&real::env(), &other, loader.image(), None).unwrap().unwrap();
        assert_eq!(written.id, id);
        assert_eq!(frames(&other, id), frames(&log, id));
    }
}

#[test]
fn a_folder_in_which_kafka_keeps_only_a_snapshot_and_what_follows_is_opened() {
    let all = folder_of_kafka(&OF_KAFKA);
    let log = MetadataLog::open(&real::env(), all.path()).unwrap();
    let rest = log.read(258, log.end_offset(), 1 << 20).unwrap();
    let dir = folder_of_kafka(&[OF_KAFKA[2], ("00000000000000000258.log", &rest)]);
    let trimmed = MetadataLog::open(&real::env(), dir.path()).unwrap();
    assert_eq!((trimmed.start_offset(), trimmed.end_offset()), (258, log.end_offset()));
    let image = |log: &MetadataLog| {
        let mut loader = snapshots::loader(log, "test").unwrap();
        super::replica::replay_all(&mut loader, log).unwrap();
        loader.image().clone()
    };
    assert_eq!(image(&trimmed), image(&log));
    assert_eq!(image(&trimmed).topic("orders").unwrap().partitions.len(), 6);
}
