//! What a controller decides, asked on its own listener by brokers that do not exist: registration,
//! heartbeats, ISRs, elections, reassignments, directories, features.
//!
//! Beside each answer, the records that the decision has put into the metadata log are compared:
//! fetched from the controller, decoded, masked where two clusters must differ. The brokers of a
//! case register under ids from 101 on and are unregistered at its end.

use std::collections::BTreeMap;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::alter_partition_request::{
    BrokerState, PartitionData as Proposal, TopicData as Proposals,
};
use kafka_protocol::messages::assign_replicas_to_dirs_request as assign;
use kafka_protocol::messages::broker_registration_request::{Feature, Listener};
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionRequest, AssignReplicasToDirsRequest,
    BrokerHeartbeatRequest, BrokerId, BrokerRegistrationRequest, CreateTopicsRequest,
    DeleteTopicsRequest, DescribeClusterRequest, ElectLeadersRequest, FetchRequest,
    IncrementalAlterConfigsRequest, ListPartitionReassignmentsRequest, UnregisterBrokerRequest,
    UpdateFeaturesRequest,
};
use kafka_protocol::protocol::StrBytes;
use ottla_broker::raft::batch::{self, Entry};
use ottla_broker::wire::metadata::Record;
use uuid::Uuid;

use crate::Case;
use crate::conversation::{Talk, name, text_of};

pub const CASES: &[Case] = &[
    Case { name: "controller: registrations, and those that are refused", hold: registrations },
    Case { name: "controller: a broker's life by its heartbeats", hold: life },
    Case { name: "controller: ISRs that leaders propose", hold: isrs },
    Case { name: "controller: elections that are asked for", hold: elections },
    Case { name: "controller: elections, with eligible leader replicas", hold: elections_with_elr },
    Case { name: "controller: reassignments, from start to end or cancelled", hold: reassignments },
    Case { name: "controller: log directories, assigned, failed and cordoned", hold: directories },
    Case { name: "controller: a broker is unregistered", hold: unregistered },
    Case { name: "controller: feature levels", hold: features },
];

/// An active controller and the brokers that we pretend to be.
struct Desk<'a> {
    talk: &'a mut Talk,
    cluster_id: StrBytes,
    /// Where the records that were not looked at begin.
    seen: i64,
    /// Of the last record that was seen.
    last_epoch: i32,
    leader_epoch: i32,
    epochs: BTreeMap<i32, i64>,
    /// Of the last topic that was made.
    topic_id: Uuid,
    topics: Vec<&'static str>,
}

/// Of one of our brokers; the other cluster has the same.
fn directory(broker: i32, which: u128) -> Uuid {
    Uuid::from_u128(((broker as u128) << 80) + 1000 + which)
}

impl<'a> Desk<'a> {
    fn with(talk: &'a mut Talk) -> Self {
        let cluster = talk.call(0, &DescribeClusterRequest::default());
        let cluster_id = cluster.map(|it| it.cluster_id).unwrap_or_default();
        talk.turn_to_controller();
        let mut desk = Self {
            talk,
            cluster_id,
            seen: 0,
            last_epoch: 0,
            leader_epoch: 0,
            epochs: BTreeMap::new(),
            topic_id: Uuid::nil(),
            topics: Vec::new(),
        };
        desk.lower_features();
        while !desk.records().is_empty() {}
        desk
    }

    /// Kafka's own clusters have them; what follows is comparable only without.
    fn lower_features(&mut self) {
        for name in ["eligible.leader.replicas", "group", "share", "streams", "transaction"] {
            let update = FeatureUpdateKey::default()
                .with_feature(text_of(&format!("{name}.version")))
                .with_upgrade_type(2);
            let request = UpdateFeaturesRequest::default().with_feature_updates(vec![update]);
            let _ = self.talk.call(1, &request);
        }
    }

    /// Records that were committed since the last call; none at the end of the log.
    fn records(&mut self) -> Vec<Record> {
        let partition = FetchPartition::default()
            .with_current_leader_epoch(self.leader_epoch)
            .with_fetch_offset(self.seen)
            .with_last_fetched_epoch(self.last_epoch)
            .with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default()
            .with_topic_id(Uuid::from_u128(1))
            .with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_cluster_id(Some(self.cluster_id.clone()))
            .with_max_wait_ms(0)
            .with_max_bytes(1 << 20)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let Ok(answer) = self.talk.call(17, &request) else {
            self.talk.note("the metadata log", "cannot be fetched");
            return Vec::new();
        };
        let mut records = Vec::new();
        for partition in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
            let leader_epoch = partition.current_leader.leader_epoch;
            if leader_epoch != self.leader_epoch {
                self.leader_epoch = leader_epoch;
                return self.records();
            }
            if partition.error_code != 0 || partition.diverging_epoch.end_offset >= 0 {
                self.talk.note("the metadata log", format!("{partition:?}"));
            }
            let bytes = partition.records.unwrap_or_default();
            for decoded in batch::decode(&bytes).unwrap_or_default() {
                if decoded.last_offset < self.seen {
                    continue;
                }
                self.last_epoch = decoded.epoch;
                for (offset, entry) in decoded.entries {
                    if let (true, Entry::Record(record)) = (offset >= self.seen, entry) {
                        records.push(record);
                    }
                }
                self.seen = decoded.last_offset + 1;
            }
        }
        records
    }

    /// Notes what was decided since the last time.
    fn note(&mut self, what: &str) {
        let mut said = Vec::new();
        loop {
            let records = self.records();
            if records.is_empty() {
                break;
            }
            // Kafka's controller ticks twice a second.
            let told = records.iter().filter(|it| !matches!(it, Record::NoOp(_)));
            said.extend(told.map(|record| format!("{record:?}")));
        }
        self.talk.note_masked(format!("records of {what}"), &said.join("; "));
    }

    fn registration(&self, id: i32) -> BrokerRegistrationRequest {
        let feature = |(name, max): (&str, i16)| {
            let min = if name == "metadata.version" { 7 } else { 0 };
            Feature::default()
                .with_name(text_of(name))
                .with_min_supported_version(min)
                .with_max_supported_version(max)
        };
        let features = [
            ("metadata.version", 30),
            ("kraft.version", 1),
            ("eligible.leader.replicas.version", 1),
            ("group.version", 1),
            ("share.version", 1),
            ("streams.version", 1),
            ("transaction.version", 2),
        ];
        BrokerRegistrationRequest::default()
            .with_broker_id(BrokerId(id))
            .with_cluster_id(self.cluster_id.clone())
            .with_incarnation_id(Uuid::from_u128(0xabc << 64 | id as u128))
            .with_listeners(vec![
                Listener::default()
                    .with_name(text_of("PLAINTEXT"))
                    .with_host(text_of("127.0.0.1"))
                    .with_port(9),
            ])
            .with_features(features.into_iter().map(feature).collect())
            .with_log_dirs(vec![directory(id, 0), directory(id, 1)])
    }

    fn register(&mut self, version: i16, request: &BrokerRegistrationRequest) {
        if let Some(answer) = self.talk.ask(version, request)
            && answer.error_code == 0
        {
            let id = request.broker_id.0;
            let before = self.epochs.insert(id, answer.broker_epoch);
            self.talk
                .note("its epoch", format!("as before: {}", before == Some(answer.broker_epoch)));
        }
        self.note("the registration");
    }

    fn heartbeat(&self, id: i32) -> BrokerHeartbeatRequest {
        BrokerHeartbeatRequest::default()
            .with_broker_id(BrokerId(id))
            .with_broker_epoch(self.epochs.get(&id).copied().unwrap_or(-1))
            .with_current_metadata_offset(1 << 40)
    }

    fn beat(&mut self, version: i16, request: &BrokerHeartbeatRequest) {
        self.talk.ask(version, request);
        self.note("the heartbeat");
    }

    fn quietly_beat(&mut self, request: &BrokerHeartbeatRequest) {
        let _ = self.talk.call(1, request);
        while !self.records().is_empty() {}
    }

    /// Brokers that are registered and unfenced.
    fn brokers(&mut self, ids: std::ops::RangeInclusive<i32>) {
        for id in ids {
            if let Ok(answer) = self.talk.call(4, &self.registration(id)) {
                self.epochs.insert(id, answer.broker_epoch);
            }
            self.quietly_beat(&self.heartbeat(id));
        }
    }

    fn fence(&mut self, id: i32) {
        self.quietly_beat(&self.heartbeat(id).with_want_fence(true));
    }

    fn unfence(&mut self, id: i32) {
        self.quietly_beat(&self.heartbeat(id));
    }

    /// A topic with these replicas of its one partition.
    fn topic(&mut self, text: &'static str, replicas: &[i32]) {
        self.topics.push(text);
        let assignment = CreatableReplicaAssignment::default().with_broker_ids(brokers(replicas));
        let topic = CreatableTopic::default()
            .with_name(name(text))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments(vec![assignment]);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000);
        match self.talk.call(7, &request) {
            Ok(answer) if answer.topics[0].error_code == 0 => {
                self.topic_id = answer.topics[0].topic_id
            }
            other => self.talk.note("a topic is made", format!("{other:?}")),
        }
        while !self.records().is_empty() {}
    }

    fn unclean(&mut self, text: &str) {
        self.set(text, "unclean.leader.election.enable", "true");
    }

    fn set(&mut self, text: &str, key: &str, value: &str) {
        let setting =
            AlterableConfig::default().with_name(text_of(key)).with_value(Some(text_of(value)));
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text_of(text))
            .with_configs(vec![setting]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let _ = self.talk.call(1, &request);
        while !self.records().is_empty() {}
    }

    fn proposal(&self, leader: i32, epochs: (i32, i32), isr: &[i32]) -> AlterPartitionRequest {
        let state = |id: &i32| {
            let epoch = self.epochs.get(id).copied().unwrap_or(-1);
            BrokerState::default().with_broker_id(BrokerId(*id)).with_broker_epoch(epoch)
        };
        let proposal = Proposal::default()
            .with_leader_epoch(epochs.0)
            .with_partition_epoch(epochs.1)
            .with_new_isr_with_epochs(isr.iter().map(state).collect());
        AlterPartitionRequest::default()
            .with_broker_id(BrokerId(leader))
            .with_broker_epoch(self.epochs.get(&leader).copied().unwrap_or(-1))
            .with_topics(vec![
                Proposals::default().with_topic_id(self.topic_id).with_partitions(vec![proposal]),
            ])
    }

    /// The leader proposes an ISR.
    fn propose(&mut self, leader: i32, epochs: (i32, i32), isr: &[i32]) {
        let request = self.proposal(leader, epochs, isr);
        self.talk.ask(3, &request);
        self.note("the ISR");
    }

    fn reassign(&mut self, text: &str, index: i32, target: Option<&[i32]>) {
        let partition = ReassignablePartition::default()
            .with_partition_index(index)
            .with_replicas(target.map(brokers));
        let topic =
            ReassignableTopic::default().with_name(name(text)).with_partitions(vec![partition]);
        let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
        self.talk.ask(1, &request);
        self.note("the reassignment");
        self.ongoing(text);
    }

    fn ongoing(&mut self, text: &str) {
        let asked = ListPartitionReassignmentsTopics::default()
            .with_name(name(text))
            .with_partition_indexes(vec![0, 1]);
        let request = ListPartitionReassignmentsRequest::default();
        self.talk.ask(0, &request.clone().with_topics(Some(vec![asked])));
        self.talk.ask(0, &request.clone().with_topics(Some(vec![])));
        self.talk.ask(0, &request.with_topics(None));
    }

    fn elect(&mut self, kind: i8, text: &str, index: i32) {
        let asked = TopicPartitions::default().with_topic(name(text)).with_partitions(vec![index]);
        for version in 0..=2 {
            // Version 0 knows preferred leaders only.
            let kind = if version == 0 { 0 } else { kind };
            let request = ElectLeadersRequest::default()
                .with_election_type(kind)
                .with_topic_partitions(Some(vec![asked.clone()]));
            self.talk.ask(version, &request);
        }
        self.note("the elections");
    }

    fn end(mut self) {
        let topics = self.topics.iter().map(|text| name(text)).collect();
        let request = DeleteTopicsRequest::default().with_topic_names(topics).with_timeout_ms(5000);
        let _ = self.talk.call(5, &request);
        for id in std::mem::take(&mut self.epochs).into_keys() {
            let _ =
                self.talk.call(0, &UnregisterBrokerRequest::default().with_broker_id(BrokerId(id)));
        }
    }
}

fn brokers(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

fn registrations(talk: &mut Talk) {
    let mut desk = Desk::with(talk);
    for version in 0..=4 {
        let id = 101 + i32::from(version);
        let mut request = desk.registration(id);
        if version < 4 {
            // They could not tell a lowest level of 0, and leave such features out.
            request.features.retain(|feature| feature.min_supported_version > 0);
        }
        if version < 2 {
            request.log_dirs.clear();
        }
        desk.talk.note("next", format!("version {version}"));
        desk.register(version, &request);
    }
    let good = desk.registration(120);
    let level = |min: i16, max: i16| {
        Feature::default()
            .with_name(text_of("metadata.version"))
            .with_min_supported_version(min)
            .with_max_supported_version(max)
    };
    let odd = Feature::default()
        .with_name(text_of("odd.version"))
        .with_min_supported_version(1)
        .with_max_supported_version(2);
    let wrong = [
        ("of another cluster", good.clone().with_cluster_id(text_of("AAAAAAAAAAAAAAAAAAAAAA"))),
        ("of ZooKeeper", good.clone().with_is_migrating_zk_broker(true)),
        ("without directories", good.clone().with_log_dirs(vec![])),
        ("with a reserved directory", good.clone().with_log_dirs(vec![Uuid::from_u128(1)])),
        ("with a directory twice", good.clone().with_log_dirs(vec![directory(120, 0); 2])),
        ("without metadata.version", good.clone().with_features(vec![])),
        ("too old", good.clone().with_features(vec![level(7, 29)])),
        ("too new", good.clone().with_features(vec![level(31, 32)])),
        ("with a feature that must be on", good.clone().with_features(vec![level(7, 30), odd])),
    ];
    for (what, request) in wrong {
        desk.talk.note("next", what);
        desk.register(4, &request);
    }
    desk.register(4, &good);
    desk.talk.note("next", "with a directory of 120");
    desk.register(4, &desk.registration(121).with_log_dirs(vec![directory(120, 1)]));
    desk.talk.note("next", "again, amended");
    desk.register(4, &good.clone().with_rack(Some(text_of("r"))));
    desk.unfence(120);
    desk.talk.note("next", "again, amended, unfenced");
    desk.register(4, &good.clone().with_rack(None));
    desk.talk.note("next", "another incarnation of one that lives");
    desk.register(4, &good.clone().with_incarnation_id(Uuid::from_u128(5 << 64)));
    desk.end();
}

fn life(talk: &mut Talk) {
    let mut desk = Desk::with(talk);
    desk.beat(1, &desk.heartbeat(101));
    desk.register(4, &desk.registration(101));
    desk.talk.note("next", "of an earlier registration");
    let stale = desk.heartbeat(101);
    desk.beat(1, &stale.clone().with_broker_epoch(stale.broker_epoch - 1));
    desk.talk.note("next", "behind");
    desk.beat(0, &desk.heartbeat(101).with_current_metadata_offset(0));
    desk.talk.note("next", "caught up, and wants to stay fenced");
    desk.beat(1, &desk.heartbeat(101).with_want_fence(true));
    desk.talk.note("next", "unfenced");
    desk.beat(1, &desk.heartbeat(101));
    desk.beat(0, &desk.heartbeat(101));
    desk.talk.note("next", "behind, while it is unfenced");
    desk.beat(1, &desk.heartbeat(101).with_current_metadata_offset(0));
    desk.talk.note("next", "fenced on its wish, and back");
    desk.beat(1, &desk.heartbeat(101).with_want_fence(true));
    desk.beat(1, &desk.heartbeat(101));
    desk.talk.note("next", "wants to stop, and leads nothing");
    desk.beat(1, &desk.heartbeat(101).with_want_shut_down(true));
    // What a new incarnation finds after that differs: here it need not wait for the session's end.
    desk.brokers(102..=104);
    desk.topic("life", &[104, 102, 103]);
    desk.talk.note("next", "wants to stop, and leads");
    desk.beat(1, &desk.heartbeat(104).with_want_shut_down(true));
    desk.talk.note("next", "not all have seen it");
    desk.quietly_beat(&desk.heartbeat(102).with_current_metadata_offset(1));
    desk.beat(1, &desk.heartbeat(104).with_want_shut_down(true));
    desk.talk.note("next", "nor does it help to ask for a fence");
    desk.beat(1, &desk.heartbeat(104).with_want_fence(true).with_want_shut_down(true));
    desk.end();
}

fn isrs(talk: &mut Talk) {
    let mut desk = Desk::with(talk);
    desk.brokers(101..=104);
    desk.topic("isrs", &[101, 102, 103]);
    for version in [2, 3] {
        desk.talk.note("next", "nothing");
        desk.talk.ask(version, &AlterPartitionRequest::default());
    }
    let good = desk.proposal(101, (0, 0), &[101, 102]);
    let with = |change: &dyn Fn(&mut Proposal)| {
        let mut request = good.clone();
        change(&mut request.topics[0].partitions[0]);
        request
    };
    let state = |id: i32| BrokerState::default().with_broker_id(BrokerId(id)).with_broker_epoch(-1);
    let wrong = [
        ("of an earlier registration", good.clone().with_broker_epoch(1)),
        ("of a stranger", good.clone().with_broker_id(BrokerId(150))),
        ("of another topic", {
            let mut request = good.clone();
            request.topics[0].topic_id = Uuid::from_u128(99 << 70);
            request
        }),
        ("of another partition", with(&|it| it.partition_index = 7)),
        ("of a later leader epoch", with(&|it| it.leader_epoch = 1)),
        ("of an earlier leader epoch", with(&|it| it.leader_epoch = -1)),
        ("of a later partition epoch", with(&|it| it.partition_epoch = 1)),
        ("of an earlier partition epoch", with(&|it| it.partition_epoch = -1)),
        ("of a follower", desk.proposal(102, (0, 0), &[101, 102])),
        ("without the leader", with(&|it| it.new_isr_with_epochs = vec![state(102)])),
        ("of nobody", with(&|it| it.new_isr_with_epochs = vec![])),
        ("with one twice", with(&|it| it.new_isr_with_epochs = vec![state(101), state(101)])),
        (
            "with one that is no replica",
            with(&|it| it.new_isr_with_epochs = vec![state(101), state(104)]),
        ),
        (
            "with one of an earlier registration",
            with(&|it| it.new_isr_with_epochs = vec![state(101), state(102).with_broker_epoch(1)]),
        ),
        ("recovering, without need", with(&|it| it.leader_recovery_state = 1)),
    ];
    for (what, request) in wrong {
        desk.talk.note("next", what);
        desk.talk.ask(3, &request);
        desk.note("the ISR");
    }
    desk.talk.note("next", "a smaller one, by ids alone");
    let mut by_id = good.clone();
    by_id.topics[0].partitions[0].new_isr = brokers(&[101, 102]);
    by_id.topics[0].partitions[0].new_isr_with_epochs.clear();
    desk.talk.ask(2, &by_id);
    desk.note("the ISR");
    desk.talk.note("next", "the same once more, with its epochs, then larger");
    desk.propose(101, (0, 0), &[101, 102]);
    desk.propose(101, (0, 1), &[101, 102]);
    desk.propose(101, (0, 1), &[101, 102, 103]);
    desk.talk.note("next", "with one that is fenced");
    desk.fence(103);
    desk.propose(101, (0, 3), &[101, 102, 103]);
    desk.end();
}

fn elections(talk: &mut Talk) {
    let mut desk = Desk::with(talk);
    desk.brokers(101..=103);
    desk.topic("elections", &[101, 102, 103]);
    desk.talk.note("next", "of nothing");
    desk.talk.ask(2, &ElectLeadersRequest::default().with_topic_partitions(Some(vec![])));
    desk.talk.note("next", "of an unknown kind");
    let all = ElectLeadersRequest::default().with_topic_partitions(None);
    desk.talk.ask(2, &all.with_election_type(5));
    for (text, index) in [("elections", 0), ("elections", 1), ("nobody-made-this", 0)] {
        for kind in [0, 1] {
            desk.talk.note("next", format!("{kind} of {text}-{index}"));
            desk.elect(kind, text, index);
        }
    }
    desk.talk.note("next", "the preferred leader comes back");
    desk.fence(101);
    desk.elect(0, "elections", 0);
    desk.unfence(101);
    desk.elect(0, "elections", 0);
    desk.propose(102, (1, 1), &[102, 103, 101]);
    desk.elect(0, "elections", 0);
    desk.talk.note("next", "nobody is left");
    desk.propose(101, (2, 3), &[101]);
    desk.fence(101);
    desk.elect(0, "elections", 0);
    desk.elect(1, "elections", 0);
    desk.unfence(101);
    desk.note("its return");
    desk.end();
}

/// Turns the feature on and, at the end, off again.
fn elr(desk: &mut Desk<'_>, level: i16) {
    let update = FeatureUpdateKey::default()
        .with_feature(text_of("eligible.leader.replicas.version"))
        .with_max_version_level(level)
        .with_upgrade_type(if level > 0 { 1 } else { 2 });
    let request = UpdateFeaturesRequest::default().with_feature_updates(vec![update]);
    desk.talk.ask(2, &request);
    desk.note("the feature");
}

fn elections_with_elr(talk: &mut Talk) {
    let mut desk = Desk::with(talk);
    elr(&mut desk, 1);
    desk.brokers(101..=104);
    desk.topic("eligible", &[101, 102, 103]);
    desk.set("eligible", "min.insync.replicas", "2");
    desk.talk.note("next", "one by one they go, and come back in another order");
    for id in [103, 102, 101] {
        let fence = desk.heartbeat(id).with_want_fence(true);
        desk.beat(1, &fence);
    }
    desk.elect(0, "eligible", 0);
    desk.elect(1, "eligible", 0);
    for id in [103, 102, 101] {
        let back = desk.heartbeat(id);
        desk.beat(1, &back);
    }
    desk.elect(0, "eligible", 0);
    desk.propose(102, (2, 4), &[102, 101]);
    desk.propose(102, (2, 5), &[102, 101, 103]);
    desk.talk.note("next", "reassigned while some are only eligible");
    desk.propose(102, (2, 6), &[102]);
    desk.reassign("eligible", 0, Some(&[104, 101]));
    desk.propose(102, (2, 8), &[102, 101]);
    desk.propose(102, (2, 9), &[102, 101, 104]);
    desk.ongoing("eligible");
    desk.talk.note("next", "one is unregistered, one loses its directory");
    let request = UnregisterBrokerRequest::default().with_broker_id(BrokerId(101));
    desk.talk.ask(0, &request);
    desk.note("the end of a registration");
    let failed = vec![directory(104, 0), directory(104, 1)];
    desk.beat(1, &desk.heartbeat(104).with_offline_log_dirs(failed));
    elr(&mut desk, 0);
    desk.end();
}

fn reassignments(talk: &mut Talk) {
    let mut desk = Desk::with(talk);
    desk.brokers(101..=105);
    desk.topic("moves", &[101, 102, 103]);
    desk.talk.ask(1, &AlterPartitionReassignmentsRequest::default());
    desk.ongoing("nobody-made-this");
    for (text, index, target) in [
        ("nobody-made-this", 0, Some(&[101][..])),
        ("moves", 1, Some(&[101][..])),
        ("moves", 0, None),
        ("moves", 0, Some(&[])),
        ("moves", 0, Some(&[101, 101])),
        ("moves", 0, Some(&[101, 199])),
        ("moves", 0, Some(&[101, 102, 103])),
    ] {
        desk.talk.note("next", format!("{text}-{index} to {target:?}"));
        desk.reassign(text, index, target);
    }
    desk.talk.note("next", "two at once, with a fixed replication factor");
    let to = |index: i32, ids: &[i32]| {
        ReassignablePartition::default()
            .with_partition_index(index)
            .with_replicas(Some(brokers(ids)))
    };
    let topic = ReassignableTopic::default()
        .with_name(name("moves"))
        .with_partitions(vec![to(0, &[101, 102]), to(9, &[101])]);
    let request = AlterPartitionReassignmentsRequest::default()
        .with_topics(vec![topic])
        .with_allow_replication_factor_change(false);
    desk.talk.ask(1, &request);
    desk.note("the reassignment");
    desk.talk.note("next", "another order");
    desk.reassign("moves", 0, Some(&[102, 101, 103]));
    desk.talk.note("next", "two come, two go; the leader goes");
    desk.reassign("moves", 0, Some(&[104, 105, 103]));
    desk.propose(101, (0, 2), &[101, 102, 103, 104]);
    desk.ongoing("moves");
    desk.propose(101, (0, 3), &[101, 102, 103, 104, 105]);
    desk.ongoing("moves");
    desk.talk.note("next", "fewer; the others must be in sync first");
    desk.propose(104, (1, 4), &[104]);
    desk.reassign("moves", 0, Some(&[103, 105]));
    desk.propose(104, (1, 6), &[104, 103]);
    desk.propose(104, (1, 7), &[104, 103, 105]);
    desk.ongoing("moves");
    desk.talk.note("next", "cancelled");
    desk.reassign("moves", 0, Some(&[101, 102]));
    desk.propose(103, (2, 9), &[103, 105, 101]);
    desk.reassign("moves", 0, None);
    desk.talk.note("next", "replaced by one that shares nothing with it");
    desk.reassign("moves", 0, Some(&[101, 103]));
    desk.reassign("moves", 0, Some(&[102, 103]));
    desk.reassign("moves", 0, None);
    desk.talk.note("next", "to one broker, which is fenced");
    desk.fence(102);
    desk.reassign("moves", 0, Some(&[102]));
    desk.reassign("moves", 0, None);
    desk.talk.note("next", "cancelled, though only the new one is in sync");
    desk.unfence(102);
    desk.topic("moves-2", &[101]);
    desk.reassign("moves-2", 0, Some(&[102, 103]));
    desk.propose(101, (0, 1), &[101, 102]);
    desk.fence(101);
    desk.reassign("moves-2", 0, None);
    desk.unclean("moves-2");
    desk.reassign("moves-2", 0, None);
    desk.end();
}

fn directories(talk: &mut Talk) {
    let mut desk = Desk::with(talk);
    desk.brokers(101..=103);
    desk.topic("lies", &[101, 102]);
    let assigned = |desk: &mut Desk<'_>, what: &str, to: Uuid, topic: Uuid, index: i32, id: i32| {
        let partitions = vec![assign::PartitionData::default().with_partition_index(index)];
        let topics =
            vec![assign::TopicData::default().with_topic_id(topic).with_partitions(partitions)];
        let data = assign::DirectoryData::default().with_id(to).with_topics(topics);
        let request = AssignReplicasToDirsRequest::default()
            .with_broker_id(BrokerId(id))
            .with_broker_epoch(desk.epochs.get(&id).copied().unwrap_or(-1))
            .with_directories(vec![data]);
        desk.talk.note("next", what);
        desk.talk.ask(0, &request);
        desk.note("the assignment");
    };
    let (topic, stranger) = (desk.topic_id, Uuid::from_u128(99 << 70));
    assigned(&mut desk, "assigned", directory(101, 1), topic, 0, 101);
    assigned(&mut desk, "again", directory(101, 1), topic, 0, 101);
    assigned(&mut desk, "of an unknown topic", directory(101, 1), stranger, 0, 101);
    assigned(&mut desk, "of an unknown partition", directory(101, 1), topic, 7, 101);
    assigned(&mut desk, "of others", directory(103, 1), topic, 0, 103);
    assigned(&mut desk, "of an unknown broker", directory(150, 1), topic, 0, 150);
    assigned(&mut desk, "a follower's", directory(102, 0), topic, 0, 102);
    desk.talk.note("next", "the other directory fails");
    let one = desk.heartbeat(101).with_offline_log_dirs(vec![directory(101, 0), directory(102, 0)]);
    desk.beat(1, &one);
    desk.beat(1, &one);
    desk.talk.note("next", "cordoned");
    for cordoned in
        [None, Some(vec![]), Some(vec![directory(102, 0)]), Some(vec![directory(102, 0)])]
    {
        let request = desk.heartbeat(102);
        let tagged = cordoned.map(|ids: Vec<Uuid>| {
            let mut bytes = BytesMut::new();
            bytes.put_u8(ids.len() as u8 + 1);
            for id in ids {
                bytes.put_slice(id.as_bytes());
            }
            bytes.freeze()
        });
        let tags: BTreeMap<i32, Bytes> = tagged.map(|bytes| (1, bytes)).into_iter().collect();
        desk.talk.ask_as(2, 1, &request.with_unknown_tagged_fields(tags));
        desk.note("the heartbeat");
    }
    desk.talk.note("next", "the leader's fails");
    desk.topic("lies-2", &[102, 103]);
    let topic = desk.topic_id;
    assigned(&mut desk, "the leader's", directory(102, 1), topic, 0, 102);
    desk.beat(1, &desk.heartbeat(102).with_offline_log_dirs(vec![directory(102, 1)]));
    desk.end();
}

fn unregistered(talk: &mut Talk) {
    let mut desk = Desk::with(talk);
    desk.brokers(101..=103);
    desk.topic("stays", &[101, 102]);
    for id in [150, 101, 101, -1] {
        desk.talk.note("next", id.to_string());
        let request = UnregisterBrokerRequest::default().with_broker_id(BrokerId(id));
        desk.talk.ask(0, &request);
        desk.note("the end of a registration");
    }
    desk.talk.note("next", "it is not known any more");
    desk.beat(1, &desk.heartbeat(101));
    desk.register(4, &desk.registration(101));
    desk.end();
}

fn features(talk: &mut Talk) {
    let mut desk = Desk::with(talk);
    let update = |name: &str, level: i16, way: i8| {
        FeatureUpdateKey::default()
            .with_feature(text_of(name))
            .with_max_version_level(level)
            .with_upgrade_type(way)
    };
    let asked = [
        vec![],
        vec![update("metadata.version", 30, 1)],
        vec![update("metadata.version", 30, 2)],
        vec![update("metadata.version", 31, 1)],
        vec![update("metadata.version", 29, 1)],
        vec![update("metadata.version", 29, 2)],
        vec![update("metadata.version", 29, 3)],
        vec![update("metadata.version", 0, 3)],
        vec![update("metadata.version", -1, 3)],
        vec![update("metadata.version", 30, 0)],
        vec![update("metadata.version", 30, 4)],
        vec![update("no.such.feature", 1, 1)],
        vec![update("no.such.feature", 0, 2)],
        vec![update("kraft.version", 2, 1)],
        vec![update("metadata.version", 30, 1), update("no.such.feature", 1, 1)],
    ];
    for (index, updates) in asked.iter().enumerate() {
        for version in 0..=2 {
            let mut updates = updates.clone();
            if version == 0 {
                for update in &mut updates {
                    update.upgrade_type = 1;
                }
            }
            desk.talk.note("next", format!("{index} in version {version}"));
            let request = UpdateFeaturesRequest::default().with_feature_updates(updates);
            desk.talk.ask(version, &request);
            desk.note("the update");
            if version > 0 {
                desk.talk.ask(version, &request.with_validate_only(true));
                desk.note("the trial");
            }
        }
    }
    desk.talk.note("next", "a broker that is behind");
    let levels = |max: i16| {
        Feature::default()
            .with_name(text_of("metadata.version"))
            .with_min_supported_version(7)
            .with_max_supported_version(max)
    };
    let registration = desk.registration(101).with_features(vec![levels(30)]);
    desk.register(4, &registration);
    let request = UpdateFeaturesRequest::default().with_feature_updates(vec![update(
        "metadata.version",
        30,
        1,
    )]);
    desk.talk.ask(2, &request);
    desk.end();
}
