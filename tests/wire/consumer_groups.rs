//! Consumer groups (KIP-848): members join, follow, commit and leave, groups move between the two
//! protocols, and what is refused.

use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, DeleteGroupsRequest,
    DescribeConfigsRequest, DescribeGroupsRequest, HeartbeatRequest,
    IncrementalAlterConfigsRequest, JoinGroupRequest, LeaveGroupRequest,
    ListConfigResourcesRequest, ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest,
    SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::Case;
use crate::conversation::{Talk, name, text_of};
use crate::groups::{group, subscription};
use crate::records::id_of;
use crate::topics::make;

pub const CASES: &[Case] = &[
    Case { name: "group settings: set, described, listed, refused", hold: settings },
    Case { name: "consumer groups: two members share a topic", hold: share },
    Case { name: "consumer groups: the life of a static member", hold: static_member },
    Case { name: "consumer groups: what is refused, and with which code", hold: refused },
    Case { name: "consumer groups: offsets are for members in their epoch", hold: offsets },
    Case { name: "consumer groups: subscriptions by pattern", hold: patterns },
    Case { name: "consumer groups: from the classic protocol and back", hold: migrates },
];

pub fn alter(talk: &mut Talk, group: &str, key: &str, value: Option<&str>) {
    let config = AlterableConfig::default()
        .with_name(text_of(key))
        .with_config_operation(i8::from(value.is_none()))
        .with_value(value.map(text_of));
    let resource = AlterConfigsResource::default()
        .with_resource_type(32)
        .with_resource_name(text_of(group))
        .with_configs(vec![config]);
    talk.ask(1, &IncrementalAlterConfigsRequest::default().with_resources(vec![resource]));
}

/// Assigns at once: when the next assignment is due is a matter of time else.
fn at_once(talk: &mut Talk, group: &str) {
    alter(talk, group, "consumer.assignment.interval.ms", Some("0"));
    known(talk, group, "consumer.assignment.interval.ms");
}

/// Waits until the broker, which acts on a setting of a group once it has the record, has it.
pub fn known(talk: &mut Talk, group: &str, key: &str) {
    for _ in 0..100 {
        let answer = talk.call(4, &describing(group, &[key]));
        if answer.is_ok_and(|it| it.results[0].configs.iter().any(|it| it.config_source == 8)) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

pub fn describing(group: &str, keys: &[&str]) -> DescribeConfigsRequest {
    let keys = keys.iter().map(|key| text_of(key)).collect();
    let resource = DescribeConfigsResource::default()
        .with_resource_type(32)
        .with_resource_name(text_of(group))
        .with_configuration_keys(Some(keys));
    DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true)
}

fn settings(talk: &mut Talk) {
    const OURS: &[&str] = &[
        "consumer.session.timeout.ms",
        "consumer.heartbeat.interval.ms",
        "consumer.assignment.interval.ms",
    ];
    for (group, key, value) in [
        ("set", "consumer.session.timeout.ms", Some("50000")),
        ("set", "consumer.session.timeout.ms", Some("44999")),
        ("set", "consumer.session.timeout.ms", Some("60001")),
        ("set", "consumer.session.timeout.ms", Some("soon")),
        ("set", "consumer.heartbeat.interval.ms", Some("6000")),
        ("set", "consumer.heartbeat.interval.ms", Some("16000")),
        ("set", "consumer.assignment.interval.ms", Some("15001")),
        ("set", "no.such.key", Some("1")),
        ("set", "consumer.heartbeat.interval.ms", None),
        ("", "consumer.session.timeout.ms", Some("50000")),
    ] {
        alter(talk, group, key, value);
    }
    at_once(talk, "set");
    for group in ["set", "never set"] {
        talk.ask_with(4, &describing(group, OURS), |answer| {
            for result in &mut answer.results {
                result.configs.sort_by(|a, b| a.name.cmp(&b.name));
            }
        });
    }
    let listing = ListConfigResourcesRequest::default().with_resource_types(vec![32]);
    talk.ask_with(1, &listing, |answer| {
        answer.config_resources.sort_by(|a, b| a.resource_name.cmp(&b.resource_name));
    });
}

fn alive(text: &str, member: &str, epoch: i32) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group(text))
        .with_member_id(text_of(member))
        .with_member_epoch(epoch)
}

fn joining(text: &str, member: &str, topics: &[&str]) -> ConsumerGroupHeartbeatRequest {
    alive(text, member, 0)
        .with_rebalance_timeout_ms(60_000)
        .with_subscribed_topic_names(Some(topics.iter().map(|topic| name(topic)).collect()))
        .with_topic_partitions(Some(Vec::new()))
}

fn owned(topic: Uuid, partitions: &[i32]) -> Vec<TopicPartitions> {
    let partitions = partitions.to_vec();
    vec![TopicPartitions::default().with_topic_id(topic).with_partitions(partitions)]
}

fn beat(talk: &mut Talk, version: i16, request: &ConsumerGroupHeartbeatRequest) {
    talk.ask_with(version, request, |answer| {
        for topic in answer.assignment.iter_mut().flat_map(|it| &mut it.topic_partitions) {
            topic.partitions.sort_unstable();
        }
        // Topics come in the order of their ids, which are random.
        if let Some(assignment) = &mut answer.assignment {
            assignment.topic_partitions.sort_by(|a, b| a.partitions.cmp(&b.partitions));
        }
    });
}

fn describe(talk: &mut Talk, text: &str) {
    let request = ConsumerGroupDescribeRequest::default()
        .with_group_ids(vec![group(text)])
        .with_include_authorized_operations(true);
    for version in 0..=1 {
        talk.ask_with(version, &request, |answer| {
            for group in &mut answer.groups {
                group.members.sort_by(|a, b| a.member_id.cmp(&b.member_id));
                for member in &mut group.members {
                    let lists = [&mut member.assignment, &mut member.target_assignment];
                    for assignment in lists {
                        assignment.topic_partitions.sort_by(|a, b| a.topic_name.cmp(&b.topic_name));
                        for topic in &mut assignment.topic_partitions {
                            topic.partitions.sort_unstable();
                        }
                    }
                }
            }
        });
    }
}

fn list(talk: &mut Talk, text: &str) {
    for types in [vec![], vec!["consumer"], vec!["Classic"], vec!["share"]] {
        let request = ListGroupsRequest::default()
            .with_types_filter(types.into_iter().map(text_of).collect());
        talk.ask_with(5, &request, |answer| {
            answer.groups.retain(|it| it.group_id.as_str() == text);
        });
    }
}

fn delete(talk: &mut Talk, text: &str) {
    talk.ask(2, &DeleteGroupsRequest::default().with_groups_names(vec![group(text)]));
}

fn share(talk: &mut Talk) {
    make(talk, "shared-topic", 4);
    at_once(talk, "sharing");
    let topic = id_of(talk, "shared-topic");
    describe(talk, "sharing");
    beat(talk, 1, &joining("sharing", "a", &["shared-topic"]));
    list(talk, "sharing");
    beat(talk, 1, &alive("sharing", "a", 2));
    beat(talk, 1, &joining("sharing", "b", &["shared-topic"]));
    describe(talk, "sharing");
    // The one gives up, the other gets it.
    beat(talk, 1, &alive("sharing", "a", 2));
    beat(talk, 1, &alive("sharing", "b", 3));
    describe(talk, "sharing");
    beat(
        talk,
        1,
        &alive("sharing", "a", 2).with_topic_partitions(Some(owned(topic, &[0, 1, 2, 3]))),
    );
    beat(talk, 1, &alive("sharing", "a", 2).with_topic_partitions(Some(owned(topic, &[0, 1]))));
    beat(talk, 1, &alive("sharing", "b", 3));
    describe(talk, "sharing");
    // Another subscription, another assignor.
    make(talk, "shared-other", 2);
    let both = ["shared-other", "shared-topic"].map(name).to_vec();
    let other = alive("sharing", "b", 3).with_subscribed_topic_names(Some(both));
    beat(talk, 1, &other.clone().with_server_assignor(Some(text_of("range"))));
    describe(talk, "sharing");
    list(talk, "sharing");
    talk.ask(5, &DescribeGroupsRequest::default().with_groups(vec![group("sharing")]));
    talk.ask(6, &DescribeGroupsRequest::default().with_groups(vec![group("sharing")]));
    delete(talk, "sharing");
    beat(talk, 1, &alive("sharing", "a", -1));
    beat(talk, 1, &alive("sharing", "a", -1));
    beat(talk, 1, &alive("sharing", "b", -1));
    describe(talk, "sharing");
    list(talk, "sharing");
    delete(talk, "sharing");
    describe(talk, "sharing");
    beat(talk, 1, &alive("sharing", "b", -1));
}

fn static_member(talk: &mut Talk) {
    make(talk, "static-topic", 2);
    at_once(talk, "static848");
    let known =
        |request: ConsumerGroupHeartbeatRequest| request.with_instance_id(Some(text_of("one")));
    beat(talk, 1, &known(joining("static848", "a", &["static-topic"])));
    beat(talk, 1, &known(joining("static848", "b", &["static-topic"])));
    beat(talk, 1, &known(alive("static848", "b", 2)));
    beat(talk, 1, &known(alive("static848", "a", -2)));
    describe(talk, "static848");
    beat(talk, 1, &known(joining("static848", "b", &["static-topic"])));
    describe(talk, "static848");
    beat(talk, 1, &known(alive("static848", "a", 2)));
    beat(talk, 1, &known(alive("static848", "b", 2)));
    beat(talk, 1, &known(alive("static848", "b", -1)));
    describe(talk, "static848");
}

fn refused(talk: &mut Talk) {
    make(talk, "refusing-topic", 2);
    at_once(talk, "refusing");
    let topics: &[&str] = &["refusing-topic"];
    let full = joining("refusing", "a", topics);
    for version in 0..=1 {
        for request in [
            joining("", "a", topics),
            joining("refusing", "", topics),
            full.clone().with_rebalance_timeout_ms(-1),
            full.clone().with_topic_partitions(None),
            full.clone().with_topic_partitions(Some(owned(Uuid::from_u128(5), &[1]))),
            full.clone().with_subscribed_topic_names(None),
            full.clone().with_instance_id(Some(text_of(" "))),
            full.clone().with_rack_id(Some(text_of(""))),
            full.clone().with_server_assignor(Some(text_of("sticky"))),
            alive("refusing", "a", -2),
            alive("refusing", "a", -3),
            alive("refusing", "", 1),
            alive("no such group", "a", 1),
            alive("no such group", "a", -1),
        ] {
            if version == 0 && request.member_epoch == 0 && request.member_id.is_empty() {
                continue; // Joins, with an id that is given.
            }
            beat(talk, version, &request);
        }
    }
    beat(talk, 1, &full);
    beat(talk, 1, &alive("refusing", "x", 2));
    beat(talk, 1, &alive("refusing", "a", 3));
    beat(talk, 1, &alive("refusing", "a", 1));
    beat(talk, 1, &alive("refusing", "a", -1).with_instance_id(Some(text_of("unknown"))));
    let groups = ["", "refusing", "no such group"].map(group).to_vec();
    talk.ask_with(1, &ConsumerGroupDescribeRequest::default().with_group_ids(groups), |answer| {
        answer.groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
    });
    // Others than consumers.
    let join = classic_join("refusing", "", "connect");
    talk.ask(9, &join);
    beat(talk, 1, &alive("refusing", "a", -1));
}

fn commit(talk: &mut Talk, version: i16, text: &str, member: &str, epoch: i32) {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(7)
        .with_committed_metadata(Some(text_of("m")));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(name("offsets-topic"))
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(group(text))
        .with_member_id(text_of(member))
        .with_generation_id_or_member_epoch(epoch)
        .with_topics(vec![topic]);
    talk.ask(version, &request);
}

fn fetch(talk: &mut Talk, text: &str, member: Option<&str>, epoch: i32) {
    let asked = OffsetFetchRequestGroup::default()
        .with_group_id(group(text))
        .with_member_id(member.map(text_of))
        .with_member_epoch(epoch)
        .with_topics(None);
    talk.ask(9, &OffsetFetchRequest::default().with_groups(vec![asked]).with_require_stable(true));
}

fn offsets(talk: &mut Talk) {
    make(talk, "offsets-topic", 2);
    at_once(talk, "offsets848");
    let topic = id_of(talk, "offsets-topic");
    commit(talk, 8, "offsets848", "a", 2);
    commit(talk, 9, "offsets848", "a", 2);
    beat(talk, 1, &joining("offsets848", "a", &["offsets-topic"]));
    for (version, member, epoch) in
        [(8, "a", 2), (9, "a", 2), (9, "a", 1), (9, "a", 3), (9, "x", 2), (9, "", -1)]
    {
        commit(talk, version, "offsets848", member, epoch);
    }
    for (member, epoch) in [(None, -1), (Some("a"), 2), (Some("a"), 1), (Some("x"), 2)] {
        fetch(talk, "offsets848", member, epoch);
    }
    // A partition that it has since epoch 2 may be committed in 2, although the member is in 3.
    beat(talk, 1, &joining("offsets848", "b", &["offsets-topic"]));
    beat(talk, 1, &alive("offsets848", "a", 2));
    beat(talk, 1, &alive("offsets848", "a", 2).with_topic_partitions(Some(owned(topic, &[0]))));
    commit(talk, 9, "offsets848", "a", 2);
    commit(talk, 9, "offsets848", "a", 1);
    commit(talk, 9, "offsets848", "b", 3);
    beat(talk, 1, &alive("offsets848", "a", -1));
    beat(talk, 1, &alive("offsets848", "b", -1));
    commit(talk, 9, "offsets848", "", -1);
    fetch(talk, "offsets848", None, -1);
    delete(talk, "offsets848");
    fetch(talk, "offsets848", None, -1);
}

fn patterns(talk: &mut Talk) {
    make(talk, "pattern-one", 1);
    make(talk, "pattern-two", 1);
    at_once(talk, "patterns");
    let by = |member: &str, pattern: &str| {
        joining("patterns", member, &[])
            .with_subscribed_topic_names(None)
            .with_subscribed_topic_regex(Some(text_of(pattern)))
    };
    for wrong in ["pattern-(", "(?=a)b", "[", "a**", "\\1"] {
        beat(talk, 1, &by("a", wrong));
    }
    beat(talk, 1, &by("a", "pattern-(one|three)"));
    for _ in 0..100 {
        let answer = talk.call(1, &alive("patterns", "a", 2));
        if answer.is_ok_and(|answer| answer.error_code == 0) {
            break;
        }
        let _ = talk.call(1, &alive("patterns", "a", 1));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    describe(talk, "patterns");
    beat(talk, 1, &alive("patterns", "a", -1));
    describe(talk, "patterns");
}

fn classic_join(text: &str, member: &str, kind: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text_of("range"))
        .with_metadata(subscription());
    JoinGroupRequest::default()
        .with_group_id(group(text))
        .with_member_id(text_of(member))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(text_of(kind))
        .with_protocols(vec![protocol])
}

fn migrates(talk: &mut Talk) {
    make(talk, "group-topic", 2);
    at_once(talk, "migrating");
    let text = "migrating";
    let first = classic_join(text, "", "consumer");
    let Some(told) = talk.ask(9, &first) else { return };
    let member: StrBytes = told.member_id;
    let again = first.clone().with_member_id(member.clone());
    talk.ask(9, &again);
    let sync = |generation: i32| {
        SyncGroupRequest::default()
            .with_group_id(group(text))
            .with_member_id(member.clone())
            .with_generation_id(generation)
            .with_protocol_type(Some(text_of("consumer")))
            .with_protocol_name(Some(text_of("range")))
    };
    let heartbeat = |generation: i32| {
        HeartbeatRequest::default()
            .with_group_id(group(text))
            .with_member_id(member.clone())
            .with_generation_id(generation)
    };
    talk.ask(5, &sync(1));
    beat(talk, 1, &joining(text, "new", &["group-topic"]));
    describe(talk, text);
    list(talk, text);
    talk.ask(4, &heartbeat(1));
    talk.ask(5, &sync(1));
    talk.ask(9, &again);
    talk.ask(5, &sync(2));
    talk.ask(4, &heartbeat(2));
    talk.ask(4, &heartbeat(1));
    talk.ask(9, &classic_join(text, "", "connect"));
    describe(talk, text);
    // The last of the newer protocol goes: a classic group again, which rebalances.
    beat(talk, 1, &alive(text, "new", -1));
    list(talk, text);
    talk.ask(4, &heartbeat(2));
    describe(talk, text);
    let who = MemberIdentity::default().with_member_id(member.clone());
    talk.ask(5, &LeaveGroupRequest::default().with_group_id(group(text)).with_members(vec![who]));
    list(talk, text);
    // An empty group moves whatever the policy.
    beat(talk, 1, &joining(text, "new", &["group-topic"]));
    list(talk, text);
    beat(talk, 1, &alive(text, "new", -1));
    talk.ask(9, &first);
    list(talk, text);
}
