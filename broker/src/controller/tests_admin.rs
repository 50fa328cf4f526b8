//! Reassignments, elections, directories and features: decisions on an image in memory.

use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::alter_partition_request::{
    BrokerState, PartitionData as Proposal, TopicData as Proposals,
};
use kafka_protocol::messages::assign_replicas_to_dirs_request as assign;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionRequest, AssignReplicasToDirsRequest,
    BrokerHeartbeatRequest, BrokerId, ElectLeadersRequest, ListPartitionReassignmentsRequest,
    TopicName, UpdateFeaturesRequest,
};
use uuid::Uuid;

use super::image::{Image, PartitionImage};
use super::rules::SettingsRules;
use super::*;
use crate::config::Settings;
use crate::error::ErrorCode;
use crate::types::NodeId;
use crate::wire::message::Field as _;
use crate::wire::metadata::{
    ConfigRecord, FeatureLevelRecord, PartitionRecord, Record, RegisterBrokerRecord, TopicRecord,
};

const TOPIC: Uuid = Uuid::from_u128(7 << 64);

/// An image and what it takes to decide.
struct Desk {
    image: Image,
    rules: SettingsRules,
}

fn directory(broker: NodeId, which: u128) -> Uuid {
    Uuid::from_u128(((broker as u128 + 1) << 64) + which)
}

impl Desk {
    /// Five active brokers of two directories each, and topic `t` with one partition.
    fn with(replicas: &[NodeId], isr: &[NodeId], leader: NodeId) -> Self {
        let rules = SettingsRules(Settings::for_test("log.dirs=/nowhere"));
        let mut desk = Self { image: Image::empty("test"), rules };
        desk.replay(vec![
            FeatureLevelRecord { name: "metadata.version".into(), feature_level: 30 }.into(),
        ]);
        for broker_id in 1..=5 {
            desk.replay(vec![
                RegisterBrokerRecord {
                    broker_id,
                    broker_epoch: 100 + i64::from(broker_id),
                    fenced: false,
                    log_dirs: vec![directory(broker_id, 0), directory(broker_id, 1)],
                    ..Default::default()
                }
                .into(),
            ]);
        }
        desk.replay(vec![
            TopicRecord { name: "t".into(), topic_id: TOPIC }.into(),
            PartitionRecord {
                partition_id: 0,
                topic_id: TOPIC,
                replicas: replicas.to_vec(),
                isr: isr.to_vec(),
                leader,
                leader_epoch: 0,
                partition_epoch: 0,
                directories: replicas.iter().map(|id| directory(*id, 0)).collect(),
                ..Default::default()
            }
            .into(),
        ]);
        desk
    }

    fn replay(&mut self, records: Vec<Record>) {
        for record in records {
            self.image.replay(&record, &mut Delta::default()).unwrap();
        }
    }

    fn view(&self) -> View<'_> {
        View { image: &self.image, rules: &self.rules }
    }

    fn decided<R>(&mut self, decision: Decision<R>) -> R {
        self.replay(decision.records);
        decision.response
    }

    fn partition(&self) -> &PartitionImage {
        self.image.partition("t", 0).unwrap()
    }

    fn fence(&mut self, broker_id: NodeId) {
        let records = brokers::fence(self.view(), broker_id);
        self.replay(records);
    }

    fn unclean(&mut self) {
        self.replay(vec![
            ConfigRecord {
                resource_type: 2,
                resource_name: "t".into(),
                name: "unclean.leader.election.enable".into(),
                value: Some("true".into()),
            }
            .into(),
        ]);
    }

    /// The code of the answer.
    fn reassign(&mut self, target: Option<&[NodeId]>) -> i16 {
        let replicas = target.map(|ids| ids.iter().copied().map(BrokerId).collect());
        let partition = ReassignablePartition::default().with_replicas(replicas);
        let topic = ReassignableTopic::default()
            .with_name(TopicName("t".into()))
            .with_partitions(vec![partition]);
        let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
        let decision = reassignments::alter(self.view(), &request);
        self.decided(decision).responses[0].partitions[0].error_code
    }

    /// The leader proposes an ISR; the code of the answer.
    fn propose(&mut self, isr: &[NodeId]) -> i16 {
        let partition = self.partition();
        let leader = partition.leader;
        let state = |id: &NodeId| {
            BrokerState::default()
                .with_broker_id(BrokerId(*id))
                .with_broker_epoch(100 + i64::from(*id))
        };
        let proposal = Proposal::default()
            .with_leader_epoch(partition.leader_epoch)
            .with_partition_epoch(partition.partition_epoch)
            .with_new_isr_with_epochs(isr.iter().map(state).collect());
        let request = AlterPartitionRequest::default()
            .with_broker_id(BrokerId(leader))
            .with_broker_epoch(100 + i64::from(leader))
            .with_topics(vec![
                Proposals::default().with_topic_id(TOPIC).with_partitions(vec![proposal]),
            ]);
        let decision = isr::alter_partition(self.view(), &request).unwrap();
        self.decided(decision).topics[0].partitions[0].error_code
    }

    fn elect(&mut self, kind: i8) -> i16 {
        let asked =
            TopicPartitions::default().with_topic(TopicName("t".into())).with_partitions(vec![0]);
        let request = ElectLeadersRequest::default()
            .with_election_type(kind)
            .with_topic_partitions(Some(vec![asked]));
        let decision = leaders::elect_leaders(self.view(), &request).unwrap();
        self.decided(decision).replica_election_results[0].partition_result[0].error_code
    }

    fn heartbeat(&mut self, id: NodeId, offline: &[Uuid], cordoned: Option<&[Uuid]>) {
        let mut request = BrokerHeartbeatRequest::default()
            .with_broker_id(BrokerId(id))
            .with_offline_log_dirs(offline.to_vec());
        if let Some(cordoned) = cordoned {
            let mut bytes = bytes::BytesMut::new();
            Some(cordoned.to_vec()).put(&mut bytes, 2, true);
            request.unknown_tagged_fields.insert(directories::CORDONED_TAG, bytes.freeze());
        }
        let records = directories::on_heartbeat(self.view(), &request).unwrap();
        self.replay(records);
    }

    /// (replicas, adding, removing, isr, leader)
    fn state(&self) -> (&[NodeId], &[NodeId], &[NodeId], &[NodeId], NodeId) {
        let it = self.partition();
        (&it.replicas, &it.adding, &it.removing, &it.isr, it.leader)
    }

    fn ongoing(&self) -> usize {
        let all = ListPartitionReassignmentsRequest::default().with_topics(None);
        reassignments::list(&self.image, &all).topics.len()
    }
}

#[test]
fn a_reassignment_ends_when_all_that_come_in_are_in_sync() {
    let mut desk = Desk::with(&[1, 2, 3], &[1, 2, 3], 1);
    assert_eq!(desk.reassign(Some(&[4, 5, 3])), 0);
    assert_eq!(desk.state(), (&[4, 5, 3, 1, 2][..], &[4, 5][..], &[1, 2][..], &[1, 2, 3][..], 1));
    assert_eq!(desk.ongoing(), 1);
    assert_eq!(desk.partition().directory(3), Some(directory(3, 0)));
    assert_eq!(desk.partition().directory(4), Some(directories::UNASSIGNED));
    assert_eq!(desk.partition().leader_epoch, 0);
    assert_eq!(desk.propose(&[1, 2, 3, 4]), 0);
    assert_eq!(desk.ongoing(), 1);
    // Completed by an ISR of the leader that goes: it is told that it is no longer leader.
    assert_eq!(desk.propose(&[1, 2, 3, 4, 5]), ErrorCode::NewLeaderElected.code());
    assert_eq!(desk.state(), (&[4, 5, 3][..], &[][..], &[][..], &[3, 4, 5][..], 4));
    assert_eq!((desk.partition().leader_epoch, desk.partition().directories.len()), (1, 3));
    assert_eq!(desk.ongoing(), 0);
}

#[test]
fn a_leader_that_stays_gets_a_new_epoch_when_a_replica_leaves() {
    let mut desk = Desk::with(&[1, 2, 3], &[1, 2, 3], 1);
    assert_eq!(desk.reassign(Some(&[1, 2])), 0);
    assert_eq!(desk.state(), (&[1, 2][..], &[][..], &[][..], &[1, 2][..], 1));
    assert_eq!((desk.partition().leader_epoch, desk.partition().partition_epoch), (1, 1));
    // Another order, and nothing else.
    assert_eq!(desk.reassign(Some(&[2, 1])), 0);
    assert_eq!(desk.state(), (&[2, 1][..], &[][..], &[][..], &[1, 2][..], 1));
    assert_eq!((desk.partition().leader_epoch, desk.partition().partition_epoch), (1, 2));
}

#[test]
fn fewer_replicas_wait_until_all_that_stay_are_in_sync() {
    let mut desk = Desk::with(&[1, 2, 3, 4], &[1, 2], 1);
    assert_eq!(desk.reassign(Some(&[3, 4])), 0);
    assert_eq!(desk.state(), (&[3, 4, 1, 2][..], &[][..], &[1, 2][..], &[1, 2][..], 1));
    assert_eq!(desk.propose(&[1, 2, 3]), 0);
    assert_eq!(desk.ongoing(), 1);
    desk.propose(&[1, 2, 3, 4]);
    assert_eq!(desk.state(), (&[3, 4][..], &[][..], &[][..], &[3, 4][..], 3));
}

#[test]
fn a_cancelled_reassignment_leaves_everything_as_it_was() {
    let mut desk = Desk::with(&[1, 2], &[1, 2], 1);
    assert_eq!(desk.reassign(None), ErrorCode::NoReassignmentInProgress.code());
    desk.reassign(Some(&[3, 4, 1]));
    desk.propose(&[1, 2, 3]);
    assert_eq!(desk.reassign(None), 0);
    let (replicas, adding, removing, isr, leader) = desk.state();
    // The order is that of the target, as far as the old replicas are in it.
    assert_eq!(
        (replicas, adding, removing, isr, leader),
        (&[1, 2][..], &[][..], &[][..], &[1, 2][..], 1)
    );
    assert_eq!(desk.partition().directories, [directory(1, 0), directory(2, 0)]);
}

#[test]
fn cancelling_loses_records_only_where_the_topic_allows_that() {
    let mut desk = Desk::with(&[1], &[1], 1);
    desk.reassign(Some(&[2, 3]));
    desk.propose(&[1, 2]);
    desk.fence(1);
    assert_eq!((desk.partition().leader, &desk.partition().isr[..]), (2, &[2][..]));
    assert_eq!(desk.reassign(None), ErrorCode::InvalidReplicaAssignment.code());
    desk.unclean();
    assert_eq!(desk.reassign(None), 0);
    assert_eq!(desk.state(), (&[1][..], &[][..], &[][..], &[1][..], -1));
}

#[test]
fn a_new_target_replaces_the_one_before() {
    // target 1, target 2 → replicas, adding, removing once the second is asked for
    type Case = (&'static [NodeId], &'static [NodeId], [&'static [NodeId]; 3]);
    let table: &[Case] = &[
        (&[1, 2, 4], &[1, 2, 5], [&[1, 2, 5, 3, 4], &[5], &[3, 4]]),
        (&[1, 2, 4], &[1, 2, 4], [&[1, 2, 4, 3], &[4], &[3]]),
        (&[1, 2, 4], &[1, 2, 4, 5], [&[1, 2, 4, 5, 3], &[4, 5], &[3]]),
        (&[1, 2, 4], &[1, 2, 3, 4], [&[1, 2, 3, 4], &[4], &[]]),
        // Back to where it was: done at once.
        (&[1, 2, 4], &[1, 2, 3], [&[1, 2, 3], &[], &[]]),
    ];
    for (first, second, [replicas, adding, removing]) in table {
        let mut desk = Desk::with(&[1, 2, 3], &[1, 2, 3], 1);
        assert_eq!(desk.reassign(Some(first)), 0);
        assert_eq!(desk.reassign(Some(second)), 0);
        let state = desk.state();
        assert_eq!((state.0, state.1, state.2), (*replicas, *adding, *removing), "{second:?}");
    }
}

#[test]
fn impossible_targets_are_refused() {
    for (target, code) in [
        (&[][..], ErrorCode::InvalidReplicaAssignment),
        (&[1, 1], ErrorCode::InvalidReplicaAssignment),
        (&[1, 9], ErrorCode::InvalidReplicaAssignment),
    ] {
        let mut desk = Desk::with(&[1, 2], &[1, 2], 1);
        assert_eq!(desk.reassign(Some(target)), code.code(), "{target:?}");
    }
    let desk = Desk::with(&[1, 2], &[1, 2], 1);
    let partition = ReassignablePartition::default().with_replicas(Some(vec![BrokerId(1)]));
    let topic = |name: &'static str, partition: ReassignablePartition| {
        ReassignableTopic::default()
            .with_name(TopicName(name.into()))
            .with_partitions(vec![partition])
    };
    let request = AlterPartitionReassignmentsRequest::default()
        .with_allow_replication_factor_change(false)
        .with_topics(vec![
            topic("t", partition.clone()),
            topic("u", partition.clone()),
            topic("t", partition.with_partition_index(1)),
        ]);
    let answer = reassignments::alter(desk.view(), &request);
    assert!(answer.records.is_empty());
    let codes: Vec<_> =
        answer.response.responses.iter().map(|topic| topic.partitions[0].error_code).collect();
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    assert_eq!(codes, [ErrorCode::InvalidReplicationFactor.code(), unknown, unknown]);
}

#[test]
fn asked_for_elections_happen_only_where_they_help() {
    let mut desk = Desk::with(&[1, 2, 3], &[1, 2], 2);
    assert_eq!(desk.elect(1), ErrorCode::ElectionNotNeeded.code());
    assert_eq!(desk.elect(0), 0);
    assert_eq!(desk.partition().leader, 1);
    assert_eq!(desk.elect(0), ErrorCode::ElectionNotNeeded.code());
    desk.fence(1);
    assert_eq!(desk.elect(0), ErrorCode::PreferredLeaderNotAvailable.code());
    desk.fence(2);
    assert_eq!(desk.partition().leader, -1);
    assert_eq!(desk.elect(1), 0);
    let it = desk.partition();
    assert_eq!((it.leader, &it.isr[..], it.recovering), (3, &[3][..], true));
    desk.fence(3);
    assert_eq!(desk.elect(1), ErrorCode::EligibleLeadersNotAvailable.code());
}

#[test]
fn the_controller_elects_uncleanly_only_where_the_topic_allows_it() {
    let mut desk = Desk::with(&[1, 2], &[1], 1);
    desk.fence(1);
    assert!(leaders::unclean(desk.view(), 10).is_empty());
    desk.unclean();
    let records = leaders::unclean(desk.view(), 10);
    desk.replay(records);
    assert_eq!((desk.partition().leader, desk.partition().recovering), (2, true));
    assert!(leaders::unclean(desk.view(), 10).is_empty());
}

#[test]
fn leaders_go_home_only_when_home_is_in_sync() {
    let mut desk = Desk::with(&[1, 2, 3], &[2, 3], 2);
    assert!(leaders::balance(desk.view(), 10).is_empty());
    desk.propose(&[2, 3, 1]);
    let records = leaders::balance(desk.view(), 10);
    assert!(leaders::balance(desk.view(), 0).is_empty());
    desk.replay(records);
    assert_eq!((desk.partition().leader, desk.partition().leader_epoch), (1, 1));
}

#[test]
fn a_failed_directory_moves_the_leaders_that_lie_there_and_no_others() {
    let mut desk = Desk::with(&[1, 2], &[1, 2], 1);
    desk.heartbeat(1, &[directory(1, 1)], None);
    assert_eq!((desk.partition().leader, desk.image.broker(1).unwrap().directories.len()), (1, 1));
    let mut desk = Desk::with(&[1, 2], &[1, 2], 1);
    desk.heartbeat(1, &[directory(1, 0), directory(2, 0)], None);
    assert_eq!((desk.partition().leader, &desk.partition().isr[..]), (2, &[2][..]));
    assert_eq!(desk.image.broker(1).unwrap().directories, [directory(1, 1)]);
    // It is alive, and yet may not lead this one.
    assert!(desk.image.is_active(1) && !desk.image.may_lead(desk.partition(), 1));
    desk.fence(2);
    assert_eq!(desk.partition().leader, -1);
    // Told again, it is no news.
    let before = desk.partition().partition_epoch;
    desk.heartbeat(1, &[directory(1, 0)], None);
    assert_eq!(desk.partition().partition_epoch, before);
}

#[test]
fn replicas_are_assigned_to_directories_of_their_broker() {
    let assigned = |desk: &mut Desk, to: Uuid, topic: Uuid, partition: i32, broker: NodeId| {
        let partitions = vec![assign::PartitionData::default().with_partition_index(partition)];
        let topics =
            vec![assign::TopicData::default().with_topic_id(topic).with_partitions(partitions)];
        let request = AssignReplicasToDirsRequest::default()
            .with_broker_id(BrokerId(broker))
            .with_broker_epoch(100 + i64::from(broker))
            .with_directories(vec![
                assign::DirectoryData::default().with_id(to).with_topics(topics),
            ]);
        let decision = directories::assign(desk.view(), &request).unwrap();
        desk.decided(decision).directories[0].topics[0].partitions[0].error_code
    };
    let mut desk = Desk::with(&[1, 2], &[1, 2], 1);
    let other = directory(1, 1);
    assert_eq!(assigned(&mut desk, other, TOPIC, 0, 1), 0);
    assert_eq!(desk.partition().directory(1), Some(other));
    assert_eq!((desk.partition().leader_epoch, desk.partition().partition_epoch), (0, 1));
    for (topic, partition, broker, code) in [
        (Uuid::from_u128(9 << 64), 0, 1, ErrorCode::UnknownTopicId),
        (TOPIC, 3, 1, ErrorCode::UnknownTopicOrPartition),
        (TOPIC, 0, 3, ErrorCode::NotLeaderOrFollower),
    ] {
        assert_eq!(assigned(&mut desk, other, topic, partition, broker), code.code());
    }
    // One that is offline: the replica leaves at once.
    assert_eq!(assigned(&mut desk, directories::LOST, TOPIC, 0, 1), 0);
    assert_eq!((desk.partition().leader, &desk.partition().isr[..]), (2, &[2][..]));
    assert_eq!(desk.partition().directory(1), Some(directories::LOST));
}

#[test]
fn cordoned_directories_are_recorded_when_they_change() {
    let mut desk = Desk::with(&[1], &[1], 1);
    let both = [directory(1, 0), directory(1, 1)];
    desk.heartbeat(1, &[], Some(&both));
    assert_eq!(desk.image.broker(1).unwrap().cordoned_directories.as_deref(), Some(&both[..]));
    let request = BrokerHeartbeatRequest::default().with_broker_id(BrokerId(1));
    assert!(directories::on_heartbeat(desk.view(), &request).unwrap().is_empty());
    desk.heartbeat(1, &[], Some(&[]));
    assert_eq!(desk.image.broker(1).unwrap().cordoned_directories.as_deref(), Some(&[][..]));
}

#[test]
fn feature_levels_change_only_as_far_as_all_support_them() {
    // feature, level, way, registered range of broker 1 → accepted
    for (name, level, way, broker, accepted) in [
        ("metadata.version", 30, 1, (7, 30), true),
        ("metadata.version", 30, 1, (7, 29), false),
        ("metadata.version", 31, 1, (7, 31), false),
        ("metadata.version", 29, 2, (7, 30), false),
        ("metadata.version", 30, 0, (7, 30), false),
        ("metadata.version", -1, 2, (7, 30), false),
        ("kraft.version", 0, 1, (7, 30), true),
        ("transaction.version", 9, 1, (7, 30), false),
        ("no.such.feature", 0, 1, (7, 30), false),
    ] {
        let mut desk = Desk::with(&[1], &[1], 1);
        for id in 1..=5 {
            let mut it = desk.image.broker(id).unwrap().clone();
            let (min, max) = if id == 1 { broker } else { (7, 30) };
            it.features = vec![SupportedFeature { name: "metadata.version".into(), min, max }];
            desk.image.brokers.insert(id, it.into());
        }
        let update = FeatureUpdateKey::default()
            .with_feature(name.into())
            .with_max_version_level(level)
            .with_upgrade_type(way);
        let request = UpdateFeaturesRequest::default().with_feature_updates(vec![update]);
        let decision = features::update(desk.view(), 0, &request, 2);
        let code = decision.response.error_code;
        assert_eq!(code == 0, accepted, "{name} {level} {:?}", decision.response);
        assert!(accepted || decision.records.is_empty());
        let tried = features::update(desk.view(), 0, &request.with_validate_only(true), 1);
        assert!(tried.records.is_empty() && tried.response.error_code == code);
        assert_eq!(tried.response.results.len(), usize::from(accepted));
    }
}
