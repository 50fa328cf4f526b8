//! Share groups (KIP-932): a member joins, gets records, settles them and leaves; and the share
//! coordinator is asked as brokers ask it.

use kafka_protocol::messages::delete_share_group_state_request as delete;
use kafka_protocol::messages::initialize_share_group_state_request as initialize;
use kafka_protocol::messages::read_share_group_state_request as read;
use kafka_protocol::messages::share_acknowledge_request as acknowledge;
use kafka_protocol::messages::share_fetch_request as fetch;
use kafka_protocol::messages::write_share_group_state_request as write;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteShareGroupStateRequest, FindCoordinatorRequest,
    InitializeShareGroupStateRequest, ReadShareGroupStateRequest, ShareAcknowledgeRequest,
    ShareFetchRequest, ShareGroupDescribeRequest, ShareGroupHeartbeatRequest,
    WriteShareGroupStateRequest,
};
use uuid::Uuid;

use crate::Case;
use crate::consumer_groups::{alter, known};
use crate::conversation::{Talk, name, text_of};
use crate::groups::group;
use crate::records::{filled, id_of};
use crate::topics::make;

pub const CASES: &[Case] = &[
    Case { name: "share groups: one member gets records and settles them", hold: life },
    Case { name: "share groups: state, kept for brokers", hold: state },
];

/// A member id as the Java client makes it.
const MEMBER: &str = "AAAAAAAAAAAAAAAAAAAAAQ";

fn beating(text: &str, epoch: i32) -> ShareGroupHeartbeatRequest {
    ShareGroupHeartbeatRequest::default()
        .with_group_id(group(text))
        .with_member_id(text_of(MEMBER))
        .with_member_epoch(epoch)
}

/// Asks until the answer is what it has to become; notes only that one.
fn until<A>(talk: &mut Talk, mut ask: impl FnMut(&mut Talk) -> Option<A>) -> Option<A> {
    for _ in 0..200 {
        let lines = talk.lines_so_far();
        if let Some(answer) = ask(talk) {
            return Some(answer);
        }
        talk.forget_from(lines);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    talk.note("until", "it never was");
    None
}

fn ready(talk: &mut Talk, text: &str) {
    make(talk, "shared", 1);
    let topic = id_of(talk, "shared");
    let keys = [(0, text.to_owned()), (2, format!("{text}:{}:0", base64(topic)))];
    for (kind, key) in keys {
        let find = FindCoordinatorRequest::default()
            .with_coordinator_keys(vec![text_of(&key)])
            .with_key_type(kind);
        until(talk, |talk| {
            let answer = talk.call(6, &find).ok()?;
            answer.coordinators.first().is_some_and(|it| it.error_code == 0).then_some(())
        });
    }
    for topic in ["__consumer_offsets", "__share_group_state"] {
        talk.wait_for_leaders(topic);
    }
}

/// As Kafka writes ids: URL-safe base64 without padding.
fn base64(id: Uuid) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = |index: usize| {
        let from = 128 - 6 * (index as i32 + 1);
        let value = if from < 0 { id.as_u128() << -from } else { id.as_u128() >> from };
        LETTERS[(value & 63) as usize] as char
    };
    (0..22).map(bits).collect()
}

fn life(talk: &mut Talk) {
    let topic = filled(talk, "shared");
    ready(talk, "sharing");
    alter(talk, "sharing", "share.auto.offset.reset", Some("earliest"));
    known(talk, "sharing", "share.auto.offset.reset");
    let joining = beating("sharing", 0).with_subscribed_topic_names(Some(vec![name("shared")]));
    let joined = talk.ask(1, &joining);
    // Partitions come once the share coordinator has their state.
    let mut epoch = joined.map_or(0, |it| it.member_epoch);
    until(talk, |talk| {
        let answer = talk.call(1, &beating("sharing", epoch)).ok()?;
        epoch = answer.member_epoch;
        let given = answer.assignment.as_ref()?.topic_partitions.len() == 1;
        talk.note_masked("ShareGroupHeartbeat", &format!("{answer:?}"));
        given.then_some(())
    });
    let describe = ShareGroupDescribeRequest::default().with_group_ids(vec![group("sharing")]);
    talk.ask(1, &describe);

    let fetching = |epoch: i32, settled: Vec<fetch::AcknowledgementBatch>| {
        let partition = fetch::FetchPartition::default().with_acknowledgement_batches(settled);
        let topic =
            fetch::FetchTopic::default().with_topic_id(topic).with_partitions(vec![partition]);
        ShareFetchRequest::default()
            .with_group_id(Some(group("sharing")))
            .with_member_id(Some(text_of(MEMBER)))
            .with_share_session_epoch(epoch)
            .with_max_wait_ms(200)
            .with_max_bytes(1 << 20)
            .with_max_records(100)
            .with_batch_size(100)
            .with_topics(vec![topic])
    };
    let mut session = 0;
    let got = until(talk, |talk| {
        let answer = talk.ask(1, &fetching(session, Vec::new()))?;
        session += 1;
        let parts = answer.responses.iter().flat_map(|topic| &topic.partitions);
        let acquired = parts.flat_map(|part| part.acquired_records.clone());
        acquired.map(|it| it.last_offset).max()
    });
    let Some(last) = got else { return };
    // The first is accepted, the second given back, the third rejected; the rest stays locked.
    let settled = acknowledge::AcknowledgementBatch::default()
        .with_last_offset(2)
        .with_acknowledge_types(vec![1, 2, 3]);
    let partition =
        acknowledge::AcknowledgePartition::default().with_acknowledgement_batches(vec![settled]);
    let topics = acknowledge::AcknowledgeTopic::default()
        .with_topic_id(topic)
        .with_partitions(vec![partition]);
    let request = ShareAcknowledgeRequest::default()
        .with_group_id(Some(group("sharing")))
        .with_member_id(Some(text_of(MEMBER)))
        .with_share_session_epoch(session)
        .with_topics(vec![topics]);
    talk.ask(1, &request);
    session += 1;
    // What was given back comes again, and is accepted with the last of the rest.
    until(talk, |talk| {
        let answer = talk.ask(1, &fetching(session, Vec::new()))?;
        session += 1;
        let mut parts = answer.responses.iter().flat_map(|topic| &topic.partitions);
        parts.any(|part| !part.acquired_records.is_empty()).then_some(())
    });
    let accepted = |first, last| {
        fetch::AcknowledgementBatch::default()
            .with_first_offset(first)
            .with_last_offset(last)
            .with_acknowledge_types(vec![1])
    };
    talk.ask(1, &fetching(session, vec![accepted(1, 1), accepted(3, last)]));
    // The session ends, the member leaves, the group goes.
    let closing = fetching(-1, Vec::new()).with_topics(Vec::new());
    talk.ask(1, &closing);
    talk.ask(1, &beating("sharing", -1));
    talk.ask(1, &describe);
    talk.ask(2, &DeleteGroupsRequest::default().with_groups_names(vec![group("sharing")]));
}

fn state(talk: &mut Talk) {
    ready(talk, "kept");
    let topic = id_of(talk, "shared");
    let start = |state_epoch, offset| {
        let partition = initialize::PartitionData::default()
            .with_state_epoch(state_epoch)
            .with_start_offset(offset);
        let topic = initialize::InitializeStateData::default()
            .with_topic_id(topic)
            .with_partitions(vec![partition]);
        InitializeShareGroupStateRequest::default()
            .with_group_id(text_of("kept"))
            .with_topics(vec![topic])
    };
    let change = |state_epoch, leader_epoch, offset, batches: &[(i64, i64, i8, i16)]| {
        let batches = batches.iter().map(|(first, last, state, count)| {
            write::StateBatch::default()
                .with_first_offset(*first)
                .with_last_offset(*last)
                .with_delivery_state(*state)
                .with_delivery_count(*count)
        });
        let partition = write::PartitionData::default()
            .with_state_epoch(state_epoch)
            .with_leader_epoch(leader_epoch)
            .with_start_offset(offset)
            .with_state_batches(batches.collect());
        let topic =
            write::WriteStateData::default().with_topic_id(topic).with_partitions(vec![partition]);
        WriteShareGroupStateRequest::default()
            .with_group_id(text_of("kept"))
            .with_topics(vec![topic])
    };
    let look = |leader_epoch| {
        let partition = read::PartitionData::default().with_leader_epoch(leader_epoch);
        let topic =
            read::ReadStateData::default().with_topic_id(topic).with_partitions(vec![partition]);
        ReadShareGroupStateRequest::default()
            .with_group_id(text_of("kept"))
            .with_topics(vec![topic])
    };
    talk.ask(0, &start(0, 10));
    talk.ask(0, &look(0));
    talk.ask(0, &change(0, 0, 10, &[(10, 14, 0, 1), (15, 19, 2, 1)]));
    talk.ask(0, &change(0, 0, 10, &[(12, 16, 0, 2)]));
    talk.ask(0, &look(0));
    // A new leader; then one that was.
    talk.ask(0, &look(3));
    talk.ask(0, &change(0, 2, 10, &[(10, 10, 2, 1)]));
    talk.ask(0, &change(0, 3, 15, &[(15, 19, 4, 5)]));
    talk.ask(0, &look(3));
    // The group is set anew by its administrator.
    talk.ask(0, &start(2, 0));
    talk.ask(0, &start(1, 5));
    talk.ask(0, &change(1, 3, 0, &[(0, 3, 2, 1)]));
    talk.ask(0, &look(3));
    let partition = delete::PartitionData::default();
    let gone =
        delete::DeleteStateData::default().with_topic_id(topic).with_partitions(vec![partition]);
    let request = DeleteShareGroupStateRequest::default()
        .with_group_id(text_of("kept"))
        .with_topics(vec![gone]);
    talk.ask(0, &request);
    talk.ask(0, &look(3));
}
