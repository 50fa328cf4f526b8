//! FindCoordinator, classic groups and their offsets: one member's life, and what is refused.

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ApiKey, DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId,
    HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetFetchRequest, OffsetFetchResponse,
    SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;
use ottla_broker::api::{offset_commit, offset_fetch};
use ottla_broker::wire::message::Message as _;
use uuid::Uuid;

use crate::Case;
use crate::conversation::{Talk, name, text_of};
use crate::records::id_of;
use crate::topics::make;

pub const CASES: &[Case] = &[
    Case { name: "FindCoordinator: for groups, in every version", hold: find },
    Case { name: "groups: one member joins, syncs, beats, commits and leaves", hold: life },
    Case { name: "groups: a static member is known by its instance", hold: static_member },
    Case { name: "groups: what is refused, and with which code", hold: refused },
    Case { name: "groups: offsets without a group", hold: offsets_alone },
    Case { name: "groups: offsets of topics by their ids", hold: offsets_by_id },
];

pub fn group(text: &str) -> GroupId {
    GroupId(text_of(text))
}

/// Kafka lists the partitions that do not exist first; order means nothing here.
fn commit(talk: &mut Talk, version: i16, request: &OffsetCommitRequest) {
    talk.ask_with(version, request, |answer| {
        for topic in &mut answer.topics {
            topic.partitions.sort_by_key(|one| one.partition_index);
        }
    });
}

fn delete_offsets(talk: &mut Talk, text: &str) {
    talk.ask_with(0, &offset_deletion(text), |answer| {
        for topic in &mut answer.topics {
            topic.partitions.sort_by_key(|one| one.partition_index);
        }
    });
}

fn find(talk: &mut Talk) {
    // The first one makes the offsets topic: until it is there, the answer is "try again".
    let first = FindCoordinatorRequest::default().with_key(text_of("found"));
    for _ in 0..200 {
        if talk.call(3, &first).is_ok_and(|answer| answer.error_code == 0) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    talk.wait_for_leaders("__consumer_offsets");
    for version in 0..=3 {
        talk.ask(version, &FindCoordinatorRequest::default().with_key(text_of("found")));
        talk.ask(version, &FindCoordinatorRequest::default().with_key(text_of("")));
    }
    for version in 4..=6 {
        talk.ask(
            version,
            &FindCoordinatorRequest::default().with_coordinator_keys(vec![
                text_of("found"),
                text_of("other"),
                text_of(""),
            ]),
        );
    }
    talk.ask(3, &FindCoordinatorRequest::default().with_key(text_of("found")).with_key_type(9));
}

/// What a consumer of `group-topic` says of itself (version 0): Kafka looks into it.
pub fn subscription() -> Bytes {
    let topic = b"group-topic";
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(1);
    bytes.put_i16(topic.len() as i16);
    bytes.put_slice(topic);
    bytes.put_i32(-1);
    bytes.freeze()
}

fn joining(text: &str, member: &StrBytes) -> JoinGroupRequest {
    JoinGroupRequest::default()
        .with_group_id(group(text))
        .with_member_id(member.clone())
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(text_of("consumer"))
        .with_protocols(vec![
            JoinGroupRequestProtocol::default()
                .with_name(text_of("range"))
                .with_metadata(subscription()),
            JoinGroupRequestProtocol::default()
                .with_name(text_of("roundrobin"))
                .with_metadata(subscription()),
        ])
}

/// Joins as older clients do (before version 4 no second try is asked for) or as newer ones.
fn join(
    talk: &mut Talk,
    version: i16,
    text: &str,
    instance: Option<&str>,
) -> Option<(StrBytes, i32)> {
    let instance = instance.map(text_of);
    let with = |request: JoinGroupRequest| {
        if version >= 5 { request.with_group_instance_id(instance.clone()) } else { request }
    };
    let mut answer = talk.ask(version, &with(joining(text, &StrBytes::default())))?;
    if answer.error_code == 79 {
        answer = talk.ask(version, &with(joining(text, &answer.member_id)))?;
    }
    Some((answer.member_id, answer.generation_id))
}

fn syncing(text: &str, version: i16, member: &StrBytes, generation: i32) -> SyncGroupRequest {
    let request = SyncGroupRequest::default()
        .with_group_id(group(text))
        .with_member_id(member.clone())
        .with_generation_id(generation)
        .with_assignments(vec![
            SyncGroupRequestAssignment::default()
                .with_member_id(member.clone())
                .with_assignment(Bytes::from_static(b"assignment")),
        ]);
    if version >= 5 {
        request
            .with_protocol_type(Some(text_of("consumer")))
            .with_protocol_name(Some(text_of("range")))
    } else {
        request
    }
}

fn committing(text: &str, topic: &str, member: &StrBytes, generation: i32) -> OffsetCommitRequest {
    let one = |partition: i32| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(3)
            .with_committed_metadata(Some(text_of("note")))
    };
    OffsetCommitRequest::default()
        .with_group_id(group(text))
        .with_member_id(member.clone())
        .with_generation_id_or_member_epoch(generation)
        .with_topics(vec![
            OffsetCommitRequestTopic::default()
                .with_name(name(topic))
                .with_partitions(vec![one(0), one(9)]),
        ])
}

fn fetching(version: i16, text: &str, topic: &str) -> OffsetFetchRequest {
    if version < 8 {
        let topics = OffsetFetchRequestTopic::default()
            .with_name(name(topic))
            .with_partition_indexes(vec![0, 1, 9]);
        return OffsetFetchRequest::default()
            .with_group_id(group(text))
            .with_topics(Some(vec![topics]));
    }
    let topics = OffsetFetchRequestTopics::default()
        .with_name(name(topic))
        .with_partition_indexes(vec![0, 1, 9]);
    OffsetFetchRequest::default().with_groups(vec![
        OffsetFetchRequestGroup::default()
            .with_group_id(group(text))
            .with_topics(Some(vec![topics])),
    ])
}

fn life(talk: &mut Talk) {
    make(talk, "group-topic", 2);
    for (round, version) in [2, 3, 4, 5, 6, 7, 8, 9].into_iter().enumerate() {
        let text = format!("life-{round}");
        let Some((member, generation)) = join(talk, version, &text, None) else { continue };
        talk.ask(version.min(5), &syncing(&text, version.min(5), &member, generation));
        let beat = HeartbeatRequest::default()
            .with_group_id(group(&text))
            .with_member_id(member.clone())
            .with_generation_id(generation);
        talk.ask(version.min(4), &beat);
        talk.ask(version.min(4), &beat.clone().with_generation_id(generation + 1));
        commit(talk, version, &committing(&text, "group-topic", &member, generation));
        commit(talk, version, &committing(&text, "group-topic", &member, generation + 1));
        talk.ask(version.min(9), &fetching(version.min(9), &text, "group-topic"));
        talk.ask(version.min(5), &DescribeGroupsRequest::default().with_groups(vec![group(&text)]));
        talk.ask(2, &DeleteGroupsRequest::default().with_groups_names(vec![group(&text)]));
        delete_offsets(talk, &text);
        if version < 3 {
            talk.ask(
                version,
                &LeaveGroupRequest::default().with_group_id(group(&text)).with_member_id(member),
            );
        } else {
            let who = MemberIdentity::default().with_member_id(member);
            talk.ask(
                version.min(5),
                &LeaveGroupRequest::default().with_group_id(group(&text)).with_members(vec![who]),
            );
        }
        talk.ask(version.min(5), &DescribeGroupsRequest::default().with_groups(vec![group(&text)]));
        talk.ask(2, &DeleteGroupsRequest::default().with_groups_names(vec![group(&text)]));
        talk.ask(7, &fetching(7, &text, "group-topic"));
    }
    talk.ask_all(|_| ListGroupsRequest::default());
}

fn offset_deletion(text: &str) -> OffsetDeleteRequest {
    let one = |index: i32| OffsetDeleteRequestPartition::default().with_partition_index(index);
    OffsetDeleteRequest::default().with_group_id(group(text)).with_topics(vec![
        OffsetDeleteRequestTopic::default()
            .with_name(name("group-topic"))
            .with_partitions(vec![one(0), one(9)]),
    ])
}

fn static_member(talk: &mut Talk) {
    let Some((first, _)) = join(talk, 7, "static", Some("one")) else { return };
    let Some((second, generation)) = join(talk, 7, "static", Some("one")) else { return };
    talk.note("the same member id again", (first == second).to_string());
    let beat = |member: &StrBytes| {
        HeartbeatRequest::default()
            .with_group_id(group("static"))
            .with_member_id(member.clone())
            .with_generation_id(generation)
            .with_group_instance_id(Some(text_of("one")))
    };
    talk.ask(3, &beat(&first)); // fenced by the second
    talk.ask(3, &beat(&second));
    let by_instance = MemberIdentity::default().with_group_instance_id(Some(text_of("one")));
    let stranger = MemberIdentity::default().with_group_instance_id(Some(text_of("two")));
    talk.ask(
        4,
        &LeaveGroupRequest::default()
            .with_group_id(group("static"))
            .with_members(vec![stranger, by_instance]),
    );
}

fn refused(talk: &mut Talk) {
    let nobody = text_of("nobody");
    for text in ["refused", ""] {
        for version in [2, 5, 7, 9] {
            talk.ask(version, &joining(text, &nobody));
            talk.ask(version.min(5), &syncing(text, version.min(5), &nobody, 1));
            talk.ask(
                version.min(4),
                &HeartbeatRequest::default()
                    .with_group_id(group(text))
                    .with_member_id(nobody.clone())
                    .with_generation_id(1),
            );
            commit(talk, version, &committing(text, "group-topic", &nobody, 1));
        }
        talk.ask(2, &DeleteGroupsRequest::default().with_groups_names(vec![group(text)]));
        delete_offsets(talk, text);
        for version in [0, 5, 6] {
            talk.ask(version, &DescribeGroupsRequest::default().with_groups(vec![group(text)]));
        }
        talk.ask(
            2,
            &LeaveGroupRequest::default().with_group_id(group(text)).with_member_id(nobody.clone()),
        );
        talk.ask(
            4,
            &LeaveGroupRequest::default()
                .with_group_id(group(text))
                .with_members(vec![MemberIdentity::default().with_member_id(nobody.clone())]),
        );
    }
    let none = StrBytes::default();
    for timeout in [0, 1, 10_000_000] {
        talk.ask(7, &joining("refused", &none).with_session_timeout_ms(timeout));
    }
    talk.ask(7, &joining("refused", &none).with_protocols(vec![]));
    talk.ask(7, &joining("refused", &none).with_protocol_type(none.clone()));
    // A member of another kind, while the group has one.
    if join(talk, 4, "kinds", None).is_some() {
        talk.ask(3, &joining("kinds", &none).with_protocol_type(text_of("connect")));
        let strange = JoinGroupRequestProtocol::default()
            .with_name(text_of("strange"))
            .with_metadata(subscription());
        talk.ask(3, &joining("kinds", &none).with_protocols(vec![strange]));
    }
}

fn offsets_alone(talk: &mut Talk) {
    make(talk, "group-topic", 2);
    let none = StrBytes::default();
    for version in 2..=9 {
        let text = format!("alone-{version}");
        commit(talk, version, &committing(&text, "group-topic", &none, -1));
        commit(talk, version, &committing(&text, "nobody-made-this", &none, -1));
        talk.ask(version, &fetching(version, &text, "group-topic"));
        talk.ask(version, &fetching(version, "nobody", "group-topic"));
    }
    for version in [2, 7] {
        talk.ask(
            version,
            &OffsetFetchRequest::default().with_group_id(group("alone-5")).with_topics(None),
        );
    }
    let long = "x".repeat(5000);
    let mut heavy = committing("heavy", "group-topic", &none, -1);
    heavy.topics[0].partitions[0].committed_metadata = Some(text_of(&long));
    commit(talk, 8, &heavy);
    delete_offsets(talk, "alone-5");
    talk.ask(7, &fetching(7, "alone-5", "group-topic"));
    talk.ask(
        2,
        &DeleteGroupsRequest::default().with_groups_names(vec![group("alone-5"), group("nobody")]),
    );
}

/// Version 10 of both, which `kafka-protocol` cannot say yet.
fn offsets_by_id(talk: &mut Talk) {
    make(talk, "group-topic", 2);
    let known = id_of(talk, "group-topic");
    let stranger = Uuid::from_u128(7);
    for (generation, member) in [(-1, ""), (1, "nobody"), (-1, "nobody")] {
        for id in [known, stranger, Uuid::nil()] {
            for index in [0, 9] {
                let partition = offset_commit::PartitionById {
                    index,
                    offset: 3,
                    leader_epoch: -1,
                    metadata: Some("note".into()),
                };
                let request = offset_commit::CommitById {
                    group: if member.is_empty() { "by-id" } else { "by-id-nobody" }.into(),
                    generation,
                    member: member.into(),
                    instance: None,
                    topics: vec![offset_commit::TopicById { id, partitions: vec![partition] }],
                };
                let body = request.to_bytes(10);
                talk.ask_encoded::<OffsetCommitResponse>(ApiKey::OffsetCommit, 10, &body);
            }
        }
    }
    let some = |id| Some(vec![offset_fetch::TopicById { id, partitions: vec![0, 1, 9] }]);
    for text in ["by-id", "nobody"] {
        for topics in [some(known), some(stranger), some(Uuid::nil()), Some(Vec::new()), None] {
            for require_stable in [false, true] {
                let group = offset_fetch::GroupById {
                    group: text.into(),
                    topics: topics.clone(),
                    ..offset_fetch::GroupById::default()
                };
                let request = offset_fetch::FetchById { groups: vec![group], require_stable };
                let body = request.to_bytes(10);
                talk.ask_encoded::<OffsetFetchResponse>(ApiKey::OffsetFetch, 10, &body);
            }
        }
    }
}
