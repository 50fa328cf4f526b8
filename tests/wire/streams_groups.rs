//! Streams groups (KIP-1071): topologies and the topics that they want, members with active and
//! standby tasks, offsets in epochs, and what is refused.

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    ApiVersionsRequest, ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest,
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, HeartbeatRequest,
    JoinGroupRequest, ListGroupsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest,
};
use ottla_broker::wire::key::Key;
use ottla_broker::wire::streams::{
    Assignment, CopartitionGroup, Endpoint, KeyValue, OrNull, StreamsGroupDescribeRequest,
    StreamsGroupDescribeResponse, StreamsGroupHeartbeatRequest, StreamsGroupHeartbeatResponse,
    Subtopology, TaskIds, TaskOffset, TopicInfo, Topology,
};

use crate::Case;
use crate::consumer_groups::{alter, describing, known};
use crate::conversation::{Talk, name, text_of};
use crate::groups::group;
use crate::topics::make;

pub const CASES: &[Case] = &[
    Case { name: "streams groups: settings, set, described, refused", hold: settings },
    Case { name: "streams groups: internal topics are made, tasks handed out", hold: word_count },
    Case { name: "streams groups: two processes, active tasks and standbys", hold: standbys },
    Case { name: "streams groups: the first members wait for each other", hold: delay },
    Case { name: "streams groups: topologies that do not fit", hold: topologies },
    Case { name: "streams groups: what is refused, and with which code", hold: refused },
    Case { name: "streams groups: offsets are for members in their epoch", hold: offsets },
    Case { name: "streams groups: endpoints, and a request to stop", hold: endpoints },
];

const OURS: &[&str] = &[
    "streams.session.timeout.ms",
    "streams.heartbeat.interval.ms",
    "streams.assignment.interval.ms",
    "streams.initial.rebalance.delay.ms",
    "streams.num.standby.replicas",
];

fn settings(talk: &mut Talk) {
    for (key, value) in [
        ("streams.session.timeout.ms", Some("50000")),
        ("streams.session.timeout.ms", Some("44999")),
        ("streams.heartbeat.interval.ms", Some("16000")),
        ("streams.assignment.interval.ms", Some("15001")),
        ("streams.initial.rebalance.delay.ms", Some("0")),
        ("streams.initial.rebalance.delay.ms", Some("-1")),
        ("streams.num.standby.replicas", Some("2")),
        ("streams.num.standby.replicas", Some("3")),
        ("streams.num.standby.replicas", Some("-1")),
        ("streams.session.timeout.ms", None),
        ("streams.no.such.key", Some("1")),
    ] {
        alter(talk, "streams settings", key, value);
    }
    set(talk, "streams settings", "streams.assignment.interval.ms", "0");
    for group in ["streams settings", "streams never set"] {
        talk.ask_with(4, &describing(group, OURS), |answer| {
            for result in &mut answer.results {
                result.configs.sort_by(|a, b| a.name.cmp(&b.name));
            }
        });
    }
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text_of("wire"))
        .with_client_software_version(text_of("1"));
    let Ok(answer) = talk.call(4, &request) else { return };
    let is_ours = |name: &str| name == "streams.version";
    let supported = answer.supported_features.iter().filter(|it| is_ours(&it.name));
    let supported: Vec<_> = supported.map(|it| (it.min_version, it.max_version)).collect();
    let finalized = answer.finalized_features.iter().filter(|it| is_ours(&it.name));
    let finalized: Vec<_> = finalized.map(|it| it.max_version_level).collect();
    let keys = answer.api_keys.iter().filter(|it| matches!(it.api_key, 88 | 89));
    let keys: Vec<_> = keys.map(|it| (it.api_key, it.min_version, it.max_version)).collect();
    talk.note("streams.version", format!("{supported:?} {finalized:?} {keys:?}"));
}

fn set(talk: &mut Talk, group: &str, key: &str, value: &str) {
    alter(talk, group, key, Some(value));
    known(talk, group, key);
}

/// Waits until somebody coordinates groups.
fn coordinated(talk: &mut Talk, group: &str) {
    let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text_of(group)]);
    let listing = StreamsGroupDescribeRequest { groups: texts(&[group]), ..Default::default() };
    for _ in 0..100 {
        let found = talk.call(4, &request);
        if found.is_ok_and(|it| it.coordinators.iter().all(|it| it.error_code == 0)) {
            let noted = talk.lines_so_far();
            let key = Key::STREAMS_GROUP_DESCRIBE;
            let answer = talk.ask_own(key, &listing, |_: &mut StreamsGroupDescribeResponse| {});
            talk.forget_from(noted);
            if answer.is_some_and(|it| it.groups.iter().all(|it| matches!(it.error_code, 0 | 69))) {
                return;
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    talk.note("coordinator", "none");
}

/// Neither the first members wait, nor the next assignment.
fn at_once(talk: &mut Talk, group: &str) {
    coordinated(talk, group);
    set(talk, group, "streams.assignment.interval.ms", "0");
    set(talk, group, "streams.initial.rebalance.delay.ms", "0");
}

fn topic(name: &str) -> TopicInfo {
    TopicInfo { name: name.to_owned(), ..TopicInfo::default() }
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|it| (*it).to_owned()).collect()
}

fn reads(id: &str, topics: &[&str]) -> Subtopology {
    Subtopology { id: id.to_owned(), source_topics: texts(topics), ..Subtopology::default() }
}

fn app(subtopologies: Vec<Subtopology>) -> OrNull<Topology> {
    OrNull(Some(Topology { epoch: 0, subtopologies }))
}

fn alive(group: &str, member: &str, epoch: i32) -> StreamsGroupHeartbeatRequest {
    StreamsGroupHeartbeatRequest {
        group: group.to_owned(),
        member: member.to_owned(),
        member_epoch: epoch,
        ..StreamsGroupHeartbeatRequest::default()
    }
}

fn joining(group: &str, member: &str, topology: &OrNull<Topology>) -> StreamsGroupHeartbeatRequest {
    StreamsGroupHeartbeatRequest {
        rebalance_timeout_ms: 60_000,
        topology: topology.clone(),
        active: Some(Vec::new()),
        standby: Some(Vec::new()),
        warmup: Some(Vec::new()),
        process_id: Some(format!("process-{member}")),
        client_tags: Some(Vec::new()),
        ..alive(group, member, 0)
    }
}

/// The same heartbeat from a member that says what it has.
fn owning(
    request: StreamsGroupHeartbeatRequest,
    active: &[(&str, &[i32])],
    standby: &[(&str, &[i32])],
) -> StreamsGroupHeartbeatRequest {
    let ids = |tasks: &[(&str, &[i32])]| {
        let each = tasks.iter().map(|(id, partitions)| TaskIds {
            subtopology: (*id).to_owned(),
            partitions: partitions.to_vec(),
        });
        Some(each.collect())
    };
    let (active, standby) = (ids(active), ids(standby));
    StreamsGroupHeartbeatRequest { active, standby, warmup: Some(Vec::new()), ..request }
}

fn sort_tasks(tasks: &mut [TaskIds]) {
    tasks.sort_by(|a, b| a.subtopology.cmp(&b.subtopology));
    for it in tasks {
        it.partitions.sort_unstable();
    }
}

/// Where Kafka follows a hash map, names decide.
fn arrange(answer: &mut StreamsGroupHeartbeatResponse) {
    for tasks in [&mut answer.active, &mut answer.standby, &mut answer.warmup] {
        sort_tasks(tasks.as_deref_mut().unwrap_or_default());
    }
    let endpoints = answer.partitions_by_endpoint.as_deref_mut().unwrap_or_default();
    endpoints.sort_by_key(|it| it.endpoint.port);
    for it in endpoints {
        for topics in [&mut it.active, &mut it.standby] {
            topics.sort_by(|a, b| a.topic.cmp(&b.topic));
            for it in topics {
                it.partitions.sort_unstable();
            }
        }
    }
}

fn beat(
    talk: &mut Talk,
    request: &StreamsGroupHeartbeatRequest,
) -> Option<StreamsGroupHeartbeatResponse> {
    talk.ask_own(Key::STREAMS_GROUP_HEARTBEAT, request, arrange)
}

/// As [`beat`], with words that are ours: a refusal's.
fn beat_wrong(talk: &mut Talk, request: &StreamsGroupHeartbeatRequest) {
    talk.ask_own(
        Key::STREAMS_GROUP_HEARTBEAT,
        request,
        |it: &mut StreamsGroupHeartbeatResponse| {
            arrange(it);
            // Masked elsewhere; these sentences are the same.
            it.member = format!("{} {:?}", it.member, it.error_message);
        },
    );
}

fn describe(talk: &mut Talk, groups: &[&str]) {
    let request =
        StreamsGroupDescribeRequest { groups: texts(groups), include_authorized_operations: true };
    talk.ask_own(
        Key::STREAMS_GROUP_DESCRIBE,
        &request,
        |answer: &mut StreamsGroupDescribeResponse| {
            answer.groups.sort_by(|a, b| a.group.cmp(&b.group));
            for group in &mut answer.groups {
                group.members.sort_by(|a, b| a.id.cmp(&b.id));
                for member in &mut group.members {
                    for Assignment { active, standby, warmup } in
                        [&mut member.assignment, &mut member.target_assignment]
                    {
                        for tasks in [active, standby, warmup] {
                            sort_tasks(tasks);
                        }
                    }
                }
            }
        },
    );
}

fn list(talk: &mut Talk, text: &str) {
    for (types, states) in [
        (vec![], vec![]),
        (vec!["Streams"], vec![]),
        (vec![], vec!["NotReady"]),
        (vec![], vec!["not_ready"]),
    ] {
        let texts = |all: Vec<&str>| all.into_iter().map(text_of).collect();
        let request = ListGroupsRequest::default()
            .with_types_filter(texts(types))
            .with_states_filter(texts(states));
        talk.ask_with(5, &request, |answer| {
            answer.groups.retain(|it| it.group_id.as_str() == text);
        });
    }
}

fn delete(talk: &mut Talk, text: &str) {
    talk.ask(2, &DeleteGroupsRequest::default().with_groups_names(vec![group(text)]));
}

fn is_served(talk: &mut Talk, topics: &[&str]) {
    for topic in topics {
        talk.wait_for_leaders(topic);
    }
    let topic = |text: &&str| MetadataRequestTopic::default().with_name(Some(name(text)));
    let request = MetadataRequest::default()
        .with_topics(Some(topics.iter().map(topic).collect()))
        .with_allow_auto_topic_creation(false);
    let Ok(answer) = talk.call(12, &request) else { return };
    let mut made: Vec<_> = answer
        .topics
        .iter()
        .map(|it| (it.name.clone().unwrap_or_default().to_string(), it.partitions.len()))
        .collect();
    made.sort();
    talk.note("internal topics", format!("{made:?}"));
}

/// Asks until nothing is missing or delayed, and notes that answer only.
fn until_settled(talk: &mut Talk, request: &StreamsGroupHeartbeatRequest) {
    for _ in 0..100 {
        let noted = talk.lines_so_far();
        let answer = beat(talk, request);
        if answer.is_none_or(|it| it.error_code != 0 || it.status == Some(Vec::new())) {
            return;
        }
        talk.forget_from(noted);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    talk.note("settle", "it never did");
}

fn word_count(talk: &mut Talk) {
    make(talk, "streams-words", 2);
    at_once(talk, "counting");
    let config = KeyValue { key: "cleanup.policy".into(), value: "compact".into() };
    let store = TopicInfo { configs: vec![config], ..topic("counting-store-changelog") };
    let topology = app(vec![
        Subtopology {
            repartition_sinks: texts(&["counting-by-word-repartition"]),
            ..reads("0", &["streams-words"])
        },
        Subtopology {
            id: "1".into(),
            repartition_sources: vec![topic("counting-by-word-repartition")],
            changelogs: vec![store],
            ..Subtopology::default()
        },
    ]);
    describe(talk, &["counting"]);
    beat(talk, &joining("counting", "a", &topology));
    list(talk, "counting");
    describe(talk, &["counting"]);
    is_served(talk, &["counting-by-word-repartition", "counting-store-changelog"]);
    until_settled(talk, &alive("counting", "a", 2));
    describe(talk, &["counting"]);
    list(talk, "counting");
    let keys = ["cleanup.policy", "retention.ms"];
    let mut asked = describing("counting-store-changelog", &keys).with_include_synonyms(false);
    asked.resources[0].resource_type = 2;
    talk.ask_with(4, &asked, |answer| {
        answer.results[0].configs.sort_by(|a, b| a.name.cmp(&b.name));
    });
    // Another member; the first gives up its half.
    beat(talk, &joining("counting", "b", &topology));
    beat(talk, &alive("counting", "a", 3));
    beat(talk, &alive("counting", "b", 4));
    describe(talk, &["counting"]);
    let all: &[(&str, &[i32])] = &[("0", &[0, 1]), ("1", &[0, 1])];
    beat(talk, &owning(alive("counting", "a", 3), all, &[]));
    let half: &[(&str, &[i32])] = &[("0", &[0]), ("1", &[0])];
    beat(talk, &owning(alive("counting", "a", 3), half, &[]));
    beat(talk, &alive("counting", "b", 4));
    describe(talk, &["counting"]);
    for version in 5..=6 {
        talk.ask(version, &DescribeGroupsRequest::default().with_groups(vec![group("counting")]));
    }
    delete(talk, "counting");
    beat(talk, &alive("counting", "a", -1));
    beat(talk, &alive("counting", "a", -1));
    beat(talk, &alive("counting", "b", -1));
    describe(talk, &["counting"]);
    list(talk, "counting");
    delete(talk, "counting");
    describe(talk, &["counting"]);
    beat(talk, &alive("counting", "b", -1));
}

fn standbys(talk: &mut Talk) {
    make(talk, "streams-stateful", 2);
    make(talk, "standing-by-changelog", 2);
    at_once(talk, "standing-by");
    set(talk, "standing-by", "streams.num.standby.replicas", "1");
    let stateful = Subtopology {
        changelogs: vec![topic("standing-by-changelog")],
        ..reads("0", &["streams-stateful"])
    };
    let topology = app(vec![stateful]);
    beat(talk, &joining("standing-by", "a", &topology));
    beat(talk, &joining("standing-by", "b", &topology));
    describe(talk, &["standing-by"]);
    beat(talk, &owning(alive("standing-by", "a", 2), &[("0", &[0, 1])], &[]));
    beat(talk, &owning(alive("standing-by", "a", 2), &[("0", &[0])], &[]));
    beat(talk, &owning(alive("standing-by", "a", 3), &[("0", &[0])], &[]));
    beat(talk, &owning(alive("standing-by", "b", 3), &[], &[("0", &[0])]));
    describe(talk, &["standing-by"]);
    // The one goes, the other takes over what it stood by for.
    beat(talk, &alive("standing-by", "a", -1));
    beat(talk, &owning(alive("standing-by", "b", 3), &[("0", &[1])], &[("0", &[0])]));
    beat(talk, &owning(alive("standing-by", "b", 3), &[("0", &[1])], &[]));
    beat(talk, &owning(alive("standing-by", "b", 4), &[("0", &[1])], &[]));
    describe(talk, &["standing-by"]);
    beat(talk, &alive("standing-by", "b", -1));
    delete(talk, "standing-by");
}

fn delay(talk: &mut Talk) {
    make(talk, "streams-waiting", 2);
    coordinated(talk, "waiting");
    set(talk, "waiting", "streams.initial.rebalance.delay.ms", "2000");
    set(talk, "waiting", "streams.assignment.interval.ms", "0");
    let topology = app(vec![reads("0", &["streams-waiting"])]);
    beat(talk, &joining("waiting", "a", &topology));
    beat(talk, &joining("waiting", "b", &topology));
    describe(talk, &["waiting"]);
    until_settled(talk, &alive("waiting", "a", 1));
    until_settled(talk, &alive("waiting", "b", 1));
    describe(talk, &["waiting"]);
    beat(talk, &alive("waiting", "a", -1));
    beat(talk, &alive("waiting", "b", -1));
    delete(talk, "waiting");
}

fn topologies(talk: &mut Talk) {
    make(talk, "streams-two", 2);
    make(talk, "streams-three", 3);
    let repartition = |name: &str, partitions| TopicInfo { partitions, ..topic(name) };
    let joined = CopartitionGroup { source_topics: vec![0, 1], ..CopartitionGroup::default() };
    let loops = |from: &str, to: &str| Subtopology {
        id: from.to_owned(),
        repartition_sources: vec![topic(from)],
        repartition_sinks: texts(&[to]),
        ..Subtopology::default()
    };
    for (group, subtopologies) in [
        ("source missing", vec![reads("0", &["streams-nowhere"])]),
        (
            "other widths",
            vec![Subtopology {
                copartition_groups: vec![joined],
                ..reads("0", &["streams-two", "streams-three"])
            }],
        ),
        (
            "changelog of another width",
            vec![Subtopology {
                changelogs: vec![topic("streams-three")],
                ..reads("0", &["streams-two"])
            }],
        ),
        (
            "fixed to another width",
            vec![
                Subtopology {
                    repartition_sinks: texts(&["streams-r"]),
                    ..reads("0", &["streams-two"])
                },
                Subtopology {
                    repartition_sources: vec![repartition("streams-r", 5)],
                    copartition_groups: vec![CopartitionGroup {
                        source_topics: vec![0],
                        repartition_sources: vec![0],
                        ..CopartitionGroup::default()
                    }],
                    ..reads("1", &["streams-three"])
                },
            ],
        ),
        ("a loop", vec![loops("streams-a", "streams-b"), loops("streams-b", "streams-a")]),
        (
            "nothing writes it",
            vec![Subtopology {
                repartition_sources: vec![topic("streams-a")],
                ..reads("0", &["streams-two"])
            }],
        ),
        ("nothing to read", vec![reads("0", &[])]),
        ("internal", vec![reads("0", &["streams-two", "__consumer_offsets"])]),
        ("illegal", vec![reads("0", &["streams two", "."])]),
        (
            "fixed changelog",
            vec![Subtopology {
                changelogs: vec![repartition("streams-c", 2)],
                ..reads("0", &["streams-two"])
            }],
        ),
        (
            "a pattern",
            vec![Subtopology {
                source_topic_regex: texts(&["a.*"]),
                ..reads("0", &["streams-two"])
            }],
        ),
        ("no subtopology", vec![]),
    ] {
        talk.note("next", group);
        at_once(talk, group);
        beat_wrong(talk, &joining(group, "a", &app(subtopologies)));
        describe(talk, &[group]);
    }
    // A source topic that comes.
    make(talk, "streams-nowhere", 1);
    until_settled(talk, &alive("source missing", "a", 2));
    describe(talk, &["source missing"]);
    // One topology for all.
    let mut other = app(vec![reads("0", &["streams-two"])]);
    beat_wrong(talk, &joining("source missing", "b", &other));
    if let Some(topology) = &mut other.0 {
        topology.epoch = 7;
    }
    beat_wrong(talk, &joining("source missing", "b", &other));
    at_once(talk, "seventh");
    beat(talk, &joining("seventh", "a", &other));
    beat(talk, &joining("seventh", "b", &app(vec![reads("0", &["streams-three"])])));
    describe(talk, &["seventh"]);
}

fn refused(talk: &mut Talk) {
    make(talk, "streams-refusing", 2);
    at_once(talk, "refusing1071");
    let topology = app(vec![reads("0", &["streams-refusing"])]);
    let full = joining("refusing1071", "a", &topology);
    let epoch = |epoch: i32| alive("refusing1071", "a", epoch);
    let offset = || Some(vec![TaskOffset::default()]);
    let task = || Some(vec![TaskIds { subtopology: "0".into(), partitions: vec![0] }]);
    for request in [
        joining("", "a", &topology),
        joining("refusing1071", " ", &topology),
        StreamsGroupHeartbeatRequest { rebalance_timeout_ms: -1, ..full.clone() },
        StreamsGroupHeartbeatRequest { rack_id: Some(String::new()), ..full.clone() },
        StreamsGroupHeartbeatRequest { instance_id: Some("i".into()), ..full.clone() },
        StreamsGroupHeartbeatRequest { topology: OrNull(None), ..full.clone() },
        StreamsGroupHeartbeatRequest { active: None, ..full.clone() },
        StreamsGroupHeartbeatRequest { standby: task(), ..full.clone() },
        StreamsGroupHeartbeatRequest { warmup: task(), ..full.clone() },
        StreamsGroupHeartbeatRequest { task_offsets: offset(), ..full.clone() },
        StreamsGroupHeartbeatRequest { task_end_offsets: offset(), ..full.clone() },
        StreamsGroupHeartbeatRequest { topology: topology.clone(), ..epoch(1) },
        StreamsGroupHeartbeatRequest { active: task(), ..epoch(1) },
        epoch(-2),
        epoch(-3),
        epoch(1),
        epoch(-1),
    ] {
        beat_wrong(talk, &request);
    }
    beat(talk, &full);
    for request in [
        alive("refusing1071", "x", 2),
        alive("refusing1071", "x", -1),
        epoch(3),
        epoch(1),
        owning(epoch(2), &[("0", &[2])], &[]),
        owning(epoch(2), &[("9", &[0])], &[]),
        owning(epoch(2), &[("0", &[0, 1])], &[]),
    ] {
        beat_wrong(talk, &request);
    }
    describe(talk, &["", "refusing1071", "no such group"]);
    // Others than streams.
    let join = JoinGroupRequest::default()
        .with_group_id(group("refusing1071"))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_protocol_type(text_of("consumer"));
    talk.ask(9, &join);
    let consumer = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group("refusing1071"))
        .with_member_id(text_of("c"))
        .with_rebalance_timeout_ms(60_000)
        .with_subscribed_topic_names(Some(vec![name("streams-refusing")]))
        .with_topic_partitions(Some(Vec::new()));
    talk.ask(1, &consumer);
    let heartbeat = HeartbeatRequest::default().with_group_id(group("refusing1071"));
    talk.ask(4, &heartbeat.with_member_id(text_of("a")));
    let groups = vec![group("refusing1071")];
    talk.ask(1, &ConsumerGroupDescribeRequest::default().with_group_ids(groups));
    beat(talk, &epoch(-1));
    delete(talk, "refusing1071");
    let other = consumer.clone().with_group_id(group("refusing1071 other"));
    talk.ask(1, &other);
    beat_wrong(talk, &joining("refusing1071 other", "a", &topology));
    talk.ask(1, &other.with_member_epoch(-1));
    beat_wrong(talk, &joining("refusing1071 other", "a", &topology));
    delete(talk, "refusing1071 other");
}

fn commit(talk: &mut Talk, version: i16, member: &str, epoch: i32, partition: i32) {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(7)
        .with_committed_metadata(Some(text_of("m")));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(name("streams-offsets"))
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(group("offsets1071"))
        .with_member_id(text_of(member))
        .with_generation_id_or_member_epoch(epoch)
        .with_topics(vec![topic]);
    talk.ask(version, &request);
}

fn offsets(talk: &mut Talk) {
    make(talk, "streams-offsets", 2);
    at_once(talk, "offsets1071");
    let topology = app(vec![reads("0", &["streams-offsets"])]);
    beat(talk, &joining("offsets1071", "a", &topology));
    for (version, member, epoch) in
        [(8, "a", 2), (9, "a", 2), (9, "a", 1), (9, "a", 3), (9, "x", 2), (9, "", -1)]
    {
        commit(talk, version, member, epoch, 0);
    }
    for (member, epoch) in [(None, -1), (Some("a"), 2), (Some("a"), 1), (Some("x"), 2)] {
        let asked = OffsetFetchRequestGroup::default()
            .with_group_id(group("offsets1071"))
            .with_member_id(member.map(text_of))
            .with_member_epoch(epoch)
            .with_topics(None);
        let request = OffsetFetchRequest::default().with_groups(vec![asked]);
        talk.ask(9, &request.with_require_stable(true));
    }
    // A task that it has since epoch 2 may be committed in 2, although the member is in 3.
    beat(talk, &joining("offsets1071", "b", &topology));
    beat(talk, &alive("offsets1071", "a", 2));
    commit(talk, 9, "a", 2, 1);
    beat(talk, &owning(alive("offsets1071", "a", 2), &[("0", &[0])], &[]));
    commit(talk, 9, "a", 2, 0);
    commit(talk, 9, "a", 1, 0);
    commit(talk, 9, "a", 2, 1);
    commit(talk, 9, "b", 3, 1);
    beat(talk, &alive("offsets1071", "a", -1));
    beat(talk, &alive("offsets1071", "b", -1));
    commit(talk, 9, "", -1, 0);
    delete(talk, "offsets1071");
}

fn endpoints(talk: &mut Talk) {
    make(talk, "streams-asked", 2);
    at_once(talk, "asked");
    let topology = app(vec![reads("0", &["streams-asked"])]);
    let at = |port| OrNull(Some(Endpoint { host: "h".into(), port }));
    let a =
        StreamsGroupHeartbeatRequest { user_endpoint: at(1), ..joining("asked", "a", &topology) };
    beat(talk, &a);
    beat(talk, &alive("asked", "a", 2));
    let b =
        StreamsGroupHeartbeatRequest { user_endpoint: at(2), ..joining("asked", "b", &topology) };
    beat(talk, &b);
    beat(talk, &owning(alive("asked", "a", 2), &[("0", &[0, 1])], &[]));
    beat(talk, &owning(alive("asked", "a", 2), &[("0", &[0])], &[]));
    for knows in 0..4 {
        let b = alive("asked", "b", 3);
        beat(talk, &StreamsGroupHeartbeatRequest { endpoint_epoch: knows, ..b });
    }
    describe(talk, &["asked"]);
    let a = StreamsGroupHeartbeatRequest { shutdown_application: true, ..alive("asked", "a", 3) };
    beat(talk, &a);
    beat(talk, &alive("asked", "b", 3));
    beat(talk, &alive("asked", "a", -1));
    beat(talk, &alive("asked", "b", -1));
    delete(talk, "asked");
}
