//! ApiVersions, Metadata, topics, partitions and configuration.

use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_topic_partitions_request::TopicRequest;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, BrokerId, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest,
    DescribeTopicPartitionsRequest, IncrementalAlterConfigsRequest, MetadataRequest,
};
use uuid::Uuid;

use crate::Case;
use crate::conversation::{Talk, name, text_of};

pub const CASES: &[Case] = &[
    Case {
        name: "ApiVersions: the same versions of every API that both serve",
        hold: api_versions,
    },
    Case { name: "ApiVersions: an empty client name is refused", hold: api_versions_bad_name },
    Case { name: "Metadata: unknown, impossible, no and all topics", hold: metadata },
    Case { name: "DescribeCluster", hold: describe_cluster },
    Case { name: "CreateTopics: what is refused, and with which code", hold: create_refused },
    Case { name: "CreateTopics: what is created, in every version", hold: create },
    Case { name: "DeleteTopics: by name, by id, unknown ones", hold: delete },
    Case {
        name: "CreatePartitions: more, fewer, as many, assigned wrongly",
        hold: create_partitions,
    },
    Case { name: "DescribeTopicPartitions", hold: describe_topic_partitions },
    Case {
        name: "DescribeConfigs: every topic setting, its default, source and type",
        hold: describe_configs,
    },
    Case {
        name: "IncrementalAlterConfigs: what is refused, and with which code",
        hold: alter_configs,
    },
];

/// The APIs that Ottla serves: their version ranges are compared. Where kafka-protocol is behind
/// Kafka 4.3.1, its newest version is as far as both go.
const SERVED: &[ApiKey] = &[
    ApiKey::Produce,
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::Heartbeat,
    ApiKey::LeaveGroup,
    ApiKey::SyncGroup,
    ApiKey::DescribeGroups,
    ApiKey::ListGroups,
    ApiKey::ApiVersions,
    ApiKey::CreateTopics,
    ApiKey::DeleteTopics,
    ApiKey::InitProducerId,
    ApiKey::OffsetForLeaderEpoch,
    ApiKey::DescribeConfigs,
    ApiKey::CreatePartitions,
    ApiKey::DeleteGroups,
    ApiKey::IncrementalAlterConfigs,
    ApiKey::OffsetDelete,
    ApiKey::ConsumerGroupHeartbeat,
    ApiKey::ConsumerGroupDescribe,
    ApiKey::DescribeCluster,
];

/// Topic settings that Kafka does not have.
const OWN_SETTINGS: &[&str] = &["log.flush"];

fn api_versions(talk: &mut Talk) {
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text_of("wire"))
        .with_client_software_version(text_of("1"));
    for version in 0..=4 {
        match talk.call(version, &request) {
            Ok(answer) => {
                let mut ranges = String::new();
                for key in SERVED {
                    let newest = key.valid_versions().max;
                    let found = answer.api_keys.iter().find(|range| range.api_key == *key as i16);
                    let range =
                        found.map(|range| (range.min_version, range.max_version.min(newest)));
                    ranges += &format!("{key:?} {range:?} ");
                }
                talk.note(
                    format!("ApiVersions v{version}"),
                    format!("error {}: {ranges}", answer.error_code),
                );
            }
            Err(problem) => talk.note(format!("ApiVersions v{version}"), problem.to_string()),
        }
    }
}

fn api_versions_bad_name(talk: &mut Talk) {
    for (software, version) in [("", "1"), ("wire", ""), ("-wire", "1"), ("wire!", "1")] {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text_of(software))
            .with_client_software_version(text_of(version));
        let said = talk.call(3, &request).map_or_else(
            |problem| problem.to_string(),
            |answer| {
                format!(
                    "error {}, any versions: {}",
                    answer.error_code,
                    !answer.api_keys.is_empty()
                )
            },
        );
        talk.note(format!("ApiVersions of {software:?} {version:?}"), said);
    }
}

fn by_name(topics: &[&str]) -> Vec<MetadataRequestTopic> {
    topics
        .iter()
        .map(|topic| MetadataRequestTopic::default().with_name(Some(name(topic))))
        .collect()
}

fn metadata(talk: &mut Talk) {
    make(talk, "metadata", 2);
    let long = "x".repeat(250);
    let wanted = ["nobody-made-this", "metadata", "", ".", "..", "a b", "ä", &long];
    for version in 0..=13 {
        // Before version 4 a client cannot say that it wants no topic made.
        let wanted = if version < 4 { &wanted[1..] } else { &wanted[..] };
        let request = MetadataRequest::default()
            .with_topics(Some(by_name(wanted)))
            .with_allow_auto_topic_creation(version < 4);
        talk.ask_with(version, &request, |answer| {
            answer.topics.sort_by(|a, b| a.name.cmp(&b.name));
        });
    }
    talk.ask_all(|_| {
        MetadataRequest::default()
            .with_topics(Some(Vec::new()))
            .with_allow_auto_topic_creation(true)
    });
    // All topics: which there are depends on what ran before.
    for version in 0..=13 {
        let everything = if version == 0 { Some(Vec::new()) } else { None };
        let request = MetadataRequest::default()
            .with_topics(everything)
            .with_allow_auto_topic_creation(version < 4);
        let said = talk.call(version, &request).map_or_else(
            |problem| problem.to_string(),
            |answer| format!("any: {}", !answer.topics.is_empty()),
        );
        talk.note(format!("Metadata v{version} of all topics"), said);
    }
    // librdkafka asks for all topics with three bytes more than there should be.
    let request = b"\0\0\0\x16\0\x03\0\x0d\0\0\0\x01\0\x04wire\0\0\x01\0\0\0\0\0";
    talk.send_raw_for_kind("Metadata v13 with bytes after its end", request);
    for (id, topic) in [
        (Uuid::from_u128(7), None),
        (Uuid::nil(), None),
        (Uuid::from_u128(7), Some(name("metadata"))),
    ] {
        for version in [10, 11, 12, 13] {
            let by_id = MetadataRequestTopic::default().with_topic_id(id).with_name(topic.clone());
            talk.ask(
                version,
                &MetadataRequest::default()
                    .with_topics(Some(vec![by_id]))
                    .with_allow_auto_topic_creation(false),
            );
        }
    }
    for version in [8, 9, 10] {
        let request = MetadataRequest::default()
            .with_topics(Some(by_name(&["metadata"])))
            .with_include_topic_authorized_operations(true)
            .with_include_cluster_authorized_operations(version < 11);
        talk.ask(version, &request);
    }
}

fn describe_cluster(talk: &mut Talk) {
    talk.ask_all(|_| DescribeClusterRequest::default());
    talk.ask(1, &DescribeClusterRequest::default().with_endpoint_type(2));
    talk.ask(1, &DescribeClusterRequest::default().with_endpoint_type(9));
    talk.ask(
        0,
        &DescribeClusterRequest::default().with_include_cluster_authorized_operations(true),
    );
}

fn topic(text: &str, partitions: i32, replicas: i16) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(name(text))
        .with_num_partitions(partitions)
        .with_replication_factor(replicas)
}

fn config(key: &str, value: Option<&str>) -> CreatableTopicConfig {
    CreatableTopicConfig::default().with_name(text_of(key)).with_value(value.map(text_of))
}

fn assign(partition: i32, brokers: &[i32]) -> CreatableReplicaAssignment {
    CreatableReplicaAssignment::default()
        .with_partition_index(partition)
        .with_broker_ids(brokers.iter().copied().map(BrokerId).collect())
}

fn creation(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
    CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(10_000)
}

/// Makes a topic and waits for its leaders; only a problem is noted.
pub fn make(talk: &mut Talk, text: &str, partitions: i32) {
    match talk.call(5, &creation(vec![topic(text, partitions, 1)])) {
        Ok(answer)
            if answer.topics.iter().all(|made| made.error_code == 0 || made.error_code == 36) => {}
        other => talk.note(format!("make {text}"), format!("{other:?}")),
    }
    talk.wait_for_leaders(text);
}

fn create_refused(talk: &mut Talk) {
    make(talk, "taken", 1);
    make(talk, "taken.dot", 1);
    let long = "x".repeat(250);
    let wrong: Vec<(&str, CreatableTopic)> = vec![
        ("exists", topic("taken", 1, 1)),
        ("collides", topic("taken_dot", 1, 1)),
        ("no name", topic("", 1, 1)),
        ("dot", topic(".", 1, 1)),
        ("blank", topic("a b", 1, 1)),
        ("long", topic(&long, 1, 1)),
        ("no partitions", topic("new", 0, 1)),
        ("minus two partitions", topic("new", -2, 1)),
        ("no replicas", topic("new", 1, 0)),
        ("minus two replicas", topic("new", 1, -2)),
        ("too many replicas", topic("new", 1, 2)),
        (
            "unknown setting",
            topic("new", 1, 1).with_configs(vec![config("no.such.setting", Some("1"))]),
        ),
        (
            "setting without value",
            topic("new", 1, 1).with_configs(vec![config("retention.ms", None)]),
        ),
        (
            "setting not a number",
            topic("new", 1, 1).with_configs(vec![config("retention.ms", Some("soon"))]),
        ),
        (
            "setting too small",
            topic("new", 1, 1).with_configs(vec![config("segment.bytes", Some("1"))]),
        ),
        (
            "unknown policy",
            topic("new", 1, 1).with_configs(vec![config("cleanup.policy", Some("burn"))]),
        ),
        ("assigned and counted", topic("new", 1, 1).with_assignments(vec![assign(0, &[0])])),
        ("assigned to nobody", topic("new", -1, -1).with_assignments(vec![assign(0, &[])])),
        ("assigned to a stranger", topic("new", -1, -1).with_assignments(vec![assign(0, &[99])])),
        ("assigned twice to one", topic("new", -1, -1).with_assignments(vec![assign(0, &[0, 0])])),
        ("partition 1 without 0", topic("new", -1, -1).with_assignments(vec![assign(1, &[0])])),
    ];
    for (what, creatable) in wrong {
        for version in [2, 4, 5, 7] {
            talk.note("next", what);
            talk.ask(version, &creation(vec![creatable.clone()]));
        }
    }
    talk.ask_with(
        5,
        &creation(vec![topic("twice", 1, 1), topic("twice", 2, 1), topic("once", 1, 1)])
            .with_validate_only(true),
        arrange,
    );
    talk.ask(5, &creation(Vec::new()));
}

fn create(talk: &mut Talk) {
    for version in 2..=7 {
        let text = format!("made-by-v{version}");
        let settings = vec![
            config("retention.ms", Some("1000000")),
            config("cleanup.policy", Some("compact")),
        ];
        let wanted = topic(&text, 3, 1).with_configs(settings);
        talk.ask_with(version, &creation(vec![wanted.clone()]).with_validate_only(true), arrange);
        talk.ask_with(version, &creation(vec![wanted]), arrange);
        talk.wait_for_leaders(&text);
        talk.ask(12, &MetadataRequest::default().with_topics(Some(by_name(&[&text]))));
    }
    for version in [4, 7] {
        let text = format!("defaults-by-v{version}");
        talk.ask_with(version, &creation(vec![topic(&text, -1, -1)]), arrange);
    }
    talk.ask_with(
        7,
        &creation(vec![
            topic("assigned", -1, -1).with_assignments(vec![assign(0, &[0]), assign(1, &[0])]),
        ]),
        arrange,
    );
}

/// CreateTopics lists a topic's settings in no particular order.
fn arrange(answer: &mut kafka_protocol::messages::CreateTopicsResponse) {
    for made in &mut answer.topics {
        if let Some(configs) = &mut made.configs {
            configs.retain(|entry| !OWN_SETTINGS.contains(&entry.name.as_str()));
            configs.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }
    answer.topics.sort_by(|a, b| a.name.0.cmp(&b.name.0));
}

fn delete(talk: &mut Talk) {
    for version in 1..=5 {
        let text = format!("delete-by-v{version}");
        make(talk, &text, 1);
        let request = DeleteTopicsRequest::default()
            .with_topic_names(vec![name(&text), name("nobody-made-this"), name("a b")])
            .with_timeout_ms(10_000);
        talk.ask_with(version, &request, |answer| {
            answer.responses.sort_by(|a, b| a.name.cmp(&b.name))
        });
    }
    make(talk, "delete-by-v6", 1);
    let states = vec![
        DeleteTopicState::default().with_name(Some(name("delete-by-v6"))),
        DeleteTopicState::default().with_name(Some(name("nobody-made-this"))),
        DeleteTopicState::default().with_name(None).with_topic_id(Uuid::from_u128(7)),
        DeleteTopicState::default().with_name(None).with_topic_id(Uuid::nil()),
    ];
    for state in states {
        talk.ask(
            6,
            &DeleteTopicsRequest::default().with_topics(vec![state]).with_timeout_ms(10_000),
        );
    }
}

fn create_partitions(talk: &mut Talk) {
    make(talk, "grows", 2);
    let to = |text: &str, count: i32| {
        CreatePartitionsTopic::default().with_name(name(text)).with_count(count)
    };
    let on = |brokers: &[i32]| {
        CreatePartitionsAssignment::default()
            .with_broker_ids(brokers.iter().copied().map(BrokerId).collect())
    };
    let wrong = [
        to("grows", 1),
        to("grows", 2),
        to("grows", 0),
        to("grows", -1),
        to("nobody-made-this", 3),
        to("a b", 3),
        to("grows", 3).with_assignments(Some(vec![])),
        to("grows", 3).with_assignments(Some(vec![on(&[9])])),
        to("grows", 3).with_assignments(Some(vec![on(&[0, 0])])),
        to("grows", 4).with_assignments(Some(vec![on(&[0])])),
    ];
    for partitions in wrong {
        talk.ask(
            3,
            &CreatePartitionsRequest::default()
                .with_topics(vec![partitions])
                .with_timeout_ms(10_000),
        );
    }
    for version in 0..=3 {
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![to("grows", 3 + i32::from(version))])
            .with_timeout_ms(10_000);
        talk.ask(version, &request.clone().with_validate_only(true));
        talk.ask(version, &request);
    }
    talk.ask(
        3,
        &CreatePartitionsRequest::default()
            .with_topics(vec![to("grows", 9), to("grows", 10)])
            .with_timeout_ms(10_000),
    );
}

fn describe_topic_partitions(talk: &mut Talk) {
    make(talk, "described", 3);
    let wanted = |texts: &[&str]| {
        texts.iter().map(|text| TopicRequest::default().with_name(name(text))).collect::<Vec<_>>()
    };
    talk.ask(
        0,
        &DescribeTopicPartitionsRequest::default()
            .with_topics(wanted(&["nobody-made-this", "described", "a b"]))
            .with_response_partition_limit(100),
    );
    talk.ask(
        0,
        &DescribeTopicPartitionsRequest::default()
            .with_topics(wanted(&["described"]))
            .with_response_partition_limit(2),
    );
}

fn describe_configs(talk: &mut Talk) {
    let settings =
        vec![config("retention.ms", Some("1000000")), config("max.message.bytes", Some("2000000"))];
    if talk.call(5, &creation(vec![topic("configured", 1, 1).with_configs(settings)])).is_err() {
        talk.note("make configured", "failed");
    }
    talk.wait_for_leaders("configured");
    let of = |kind: i8, text: &str| {
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text_of(text))
            .with_configuration_keys(None)
    };
    for version in 1..=4 {
        let request = DescribeConfigsRequest::default().with_resources(vec![of(2, "configured")]);
        match talk.call(version, &request) {
            Ok(mut answer) => {
                for result in &mut answer.results {
                    talk.note(
                        format!("DescribeConfigs v{version}"),
                        format!("error {}", result.error_code),
                    );
                    result.configs.retain(|entry| !OWN_SETTINGS.contains(&entry.name.as_str()));
                    result.configs.sort_by(|a, b| a.name.cmp(&b.name));
                    for entry in &result.configs {
                        talk.note(
                            format!("DescribeConfigs v{version} {}", entry.name),
                            format!("{entry:?}"),
                        );
                    }
                }
            }
            Err(problem) => talk.note(format!("DescribeConfigs v{version}"), problem.to_string()),
        }
    }
    let some = of(2, "configured")
        .with_configuration_keys(Some(vec![text_of("retention.ms"), text_of("no.such.setting")]));
    talk.ask(
        4,
        &DescribeConfigsRequest::default()
            .with_resources(vec![some.clone()])
            .with_include_synonyms(true),
    );
    talk.ask(4, &DescribeConfigsRequest::default().with_resources(vec![of(2, "nobody-made-this")]));
    talk.ask(4, &DescribeConfigsRequest::default().with_resources(vec![of(2, "a b")]));
    talk.ask(4, &DescribeConfigsRequest::default().with_resources(vec![of(4, "x")]));
    talk.ask(4, &DescribeConfigsRequest::default().with_resources(vec![of(4, "99")]));
    talk.ask(4, &DescribeConfigsRequest::default().with_resources(vec![of(77, "x")]));
}

fn alter_configs(talk: &mut Talk) {
    make(talk, "altered", 1);
    let change = |operation: i8, key: &str, value: Option<&str>| {
        AlterableConfig::default()
            .with_config_operation(operation)
            .with_name(text_of(key))
            .with_value(value.map(text_of))
    };
    let of = |kind: i8, text: &str, changes: Vec<AlterableConfig>| {
        AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text_of(text))
            .with_configs(changes)
    };
    let all = [
        of(2, "altered", vec![change(0, "no.such.setting", Some("1"))]),
        of(2, "altered", vec![change(0, "retention.ms", Some("soon"))]),
        of(2, "altered", vec![change(0, "retention.ms", None)]),
        of(2, "altered", vec![change(9, "retention.ms", Some("1"))]),
        of(2, "altered", vec![change(2, "retention.ms", Some("1"))]),
        of(
            2,
            "altered",
            vec![change(0, "retention.ms", Some("1")), change(0, "retention.ms", Some("2"))],
        ),
        of(2, "altered", vec![change(1, "no.such.setting", None)]),
        of(2, "altered", vec![change(1, "retention.ms", None)]),
        of(2, "altered", vec![change(0, "min.insync.replicas", Some("0"))]),
        of(2, "altered", vec![change(2, "cleanup.policy", Some("compact"))]),
        of(2, "altered", vec![change(3, "cleanup.policy", Some("delete"))]),
        of(2, "nobody-made-this", vec![change(0, "retention.ms", Some("1"))]),
        of(2, "", vec![change(0, "retention.ms", Some("1"))]),
        of(4, "99", vec![change(0, "log.retention.ms", Some("1"))]),
        of(4, "x", vec![change(0, "log.retention.ms", Some("1"))]),
        of(77, "x", vec![]),
        of(2, "altered", vec![]),
    ];
    for version in [0, 1] {
        for resource in &all {
            let request =
                IncrementalAlterConfigsRequest::default().with_resources(vec![resource.clone()]);
            talk.ask(version, &request.clone().with_validate_only(true));
            talk.ask(version, &request);
        }
    }
    let twice = vec![all[7].clone(), all[7].clone()];
    talk.ask(1, &IncrementalAlterConfigsRequest::default().with_resources(twice));
}
