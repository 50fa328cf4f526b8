//! Produce, Fetch, ListOffsets, OffsetForLeaderEpoch and InitProducerId.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, FetchRequest, InitProducerIdRequest, ListOffsetsRequest, MetadataRequest,
    OffsetForLeaderEpochRequest, ProduceRequest, ProducerId,
};
use kafka_protocol::records::{
    Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use uuid::Uuid;

use crate::Case;
use crate::conversation::{Talk, name};
use crate::topics::make;

pub const CASES: &[Case] = &[
    Case { name: "Produce: base offsets in every version", hold: produce },
    Case { name: "Produce: what is refused, and with which code", hold: produce_refused },
    Case { name: "Produce: the sequence numbers of an idempotent producer", hold: sequences },
    Case { name: "Fetch: the same bytes in every version", hold: fetch },
    Case { name: "Fetch: what is refused, and with which code", hold: fetch_refused },
    Case { name: "Fetch: sessions", hold: sessions },
    Case { name: "ListOffsets: by time and by name, in every version", hold: list_offsets },
    Case { name: "OffsetForLeaderEpoch", hold: epochs },
    Case { name: "InitProducerId without a transaction", hold: init_producer },
];

/// Who sends a batch: nobody in particular, or a producer with an epoch and its next sequence number.
#[derive(Clone, Copy)]
struct Sender {
    id: i64,
    epoch: i16,
    sequence: i32,
}

const ANYONE: Sender = Sender { id: -1, epoch: -1, sequence: -1 };

fn batch(time: i64, sender: Sender, values: &[&str]) -> Bytes {
    let records: Vec<Record> = values
        .iter()
        .enumerate()
        .map(|(index, value)| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: sender.id,
            producer_epoch: sender.epoch,
            timestamp_type: TimestampType::Creation,
            offset: index as i64,
            sequence: if sender.sequence < 0 { -1 } else { sender.sequence + index as i32 },
            timestamp: time + index as i64,
            key: Some(Bytes::from_static(b"key")),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: IndexMap::new(),
        })
        .collect();
    let mut encoded = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut encoded, &records, &options).expect("a batch of ours");
    encoded.freeze()
}

/// The id that the broker gave a topic: from version 13 on, records go by it.
pub fn id_of(talk: &mut Talk, topic: &str) -> Uuid {
    let request = MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(name(topic)))]))
        .with_allow_auto_topic_creation(false);
    talk.call(12, &request)
        .ok()
        .and_then(|answer| answer.topics.first().map(|topic| topic.topic_id))
        .unwrap_or_default()
}

fn production(
    version: i16,
    topic: &str,
    id: Uuid,
    partition: i32,
    records: Option<Bytes>,
) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(records);
    let mut to = TopicProduceData::default().with_partition_data(vec![data]);
    if version >= 13 {
        to.topic_id = id
    } else {
        to.name = name(topic)
    }
    ProduceRequest::default().with_acks(-1).with_timeout_ms(5000).with_topic_data(vec![to])
}

fn produce(talk: &mut Talk) {
    make(talk, "produced", 2);
    let id = id_of(talk, "produced");
    let records = batch(talk.time, ANYONE, &["a", "b", "c"]);
    talk.ask_all(|version| production(version, "produced", id, 0, Some(records.clone())));
    for version in [3, 7, 9, 12] {
        talk.ask(
            version,
            &production(version, "produced", id, 0, Some(records.clone())).with_acks(1),
        );
    }
}

fn produce_refused(talk: &mut Talk) {
    make(talk, "refuses", 1);
    let id = id_of(talk, "refuses");
    let good = batch(talk.time, ANYONE, &["a"]);
    let changed = |at: usize, to: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = to;
        Some(Bytes::from(bytes))
    };
    let last = good.len() - 1;
    let big = "x".repeat(1_100_000);
    let wrong: Vec<(&str, Option<Bytes>)> = vec![
        ("a wrong checksum", changed(last, b'z')),
        ("magic 1", changed(16, 1)),
        ("magic 0", changed(16, 0)),
        ("magic 9", changed(16, 9)),
        ("a length beyond the end", changed(11, 0xff)),
        ("a negative length", changed(8, 0xff)),
        ("half a batch", Some(good.slice(..good.len() / 2))),
        ("a few bytes", Some(good.slice(..8))),
        ("no bytes", Some(Bytes::new())),
        ("too large", Some(batch(talk.time, ANYONE, &[&big]))),
        ("two batches", Some([good.clone(), good.clone()].concat().into())),
        ("a time in a far future", Some(batch(talk.time + 86_400_000, ANYONE, &["a"]))),
        (
            "a sequence without a producer",
            Some(batch(talk.time, Sender { id: -1, epoch: -1, sequence: 5 }, &["a"])),
        ),
    ];
    for (what, records) in &wrong {
        for version in [3, 7, 8, 9, 12, 13] {
            talk.note("next", *what);
            talk.ask(version, &production(version, "refuses", id, 0, records.clone()));
        }
    }
    // To null records Kafka 4.3.1 gives no answer at all; here only the broker has to survive them.
    let _ = talk.call(9, &production(9, "refuses", id, 0, None));
    talk.ask(9, &production(9, "refuses", id, 0, Some(good.clone())));
    for version in [3, 8, 9, 12] {
        talk.ask(version, &production(version, "nobody-made-this", id, 0, Some(good.clone())));
        talk.ask(version, &production(version, "refuses", id, 7, Some(good.clone())));
        talk.ask(version, &production(version, "refuses", id, 0, Some(good.clone())).with_acks(2));
        talk.ask(version, &production(version, "refuses", id, 0, Some(good.clone())).with_acks(-2));
    }
    talk.ask(13, &production(13, "", Uuid::from_u128(7), 0, Some(good.clone())));
    talk.ask(13, &production(13, "", id, 7, Some(good)));
}

fn sequences(talk: &mut Talk) {
    make(talk, "sequences", 1);
    let id = id_of(talk, "sequences");
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000);
    // A broker that has no block of producer ids yet asks the client to try again.
    let given = (0..200).find_map(|_| {
        let given = talk.call(4, &request).ok().filter(|given| given.error_code == 0);
        if given.is_none() {
            std::thread::sleep(Duration::from_millis(50));
        }
        given
    });
    let Some(given) = given else {
        talk.note("InitProducerId", "failed");
        return;
    };
    let from = |sequence: i32, epoch: i16| Sender { id: given.producer_id.0, epoch, sequence };
    let steps: Vec<(&str, Sender)> = vec![
        ("the first", from(0, 0)),
        ("again", from(0, 0)),
        ("the next", from(2, 0)),
        ("a gap", from(10, 0)),
        ("the one after", from(4, 0)),
        ("an old one, still remembered", from(2, 0)),
        ("part of an old one", from(3, 0)),
        ("a new epoch, not from 0", from(6, 1)),
        ("a new epoch", from(0, 1)),
        ("the old epoch", from(6, 0)),
        ("a stranger in the middle", Sender { id: 987_654, epoch: 0, sequence: 40 }),
    ];
    let time = talk.time;
    for (what, sender) in steps {
        talk.note("next", what);
        talk.ask(9, &production(9, "sequences", id, 0, Some(batch(time, sender, &["a", "b"]))));
    }
    for start in 6..=12 {
        talk.ask(
            9,
            &production(
                9,
                "sequences",
                id,
                0,
                Some(batch(time, from((start - 5) * 2, 1), &["a", "b"])),
            ),
        );
    }
    talk.note("next", "a duplicate that is forgotten");
    talk.ask(9, &production(9, "sequences", id, 0, Some(batch(time, from(0, 1), &["a", "b"]))));
}

fn fetching(version: i16, topic: &str, id: Uuid, partition: FetchPartition) -> FetchRequest {
    let mut from = FetchTopic::default().with_partitions(vec![partition]);
    if version >= 13 {
        from.topic_id = id
    } else {
        from.topic = name(topic)
    }
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(0)
        .with_min_bytes(0)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![from])
}

fn part(offset: i64) -> FetchPartition {
    FetchPartition::default()
        .with_partition(0)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20)
        .with_current_leader_epoch(-1)
}

/// A topic with six batches of three records.
pub fn filled(talk: &mut Talk, topic: &str) -> Uuid {
    make(talk, topic, 1);
    let id = id_of(talk, topic);
    for round in 0..6 {
        let records = batch(talk.time + round * 1000, ANYONE, &["a", "b", "c"]);
        if talk.call(9, &production(9, topic, id, 0, Some(records))).is_err() {
            talk.note("fill", "failed");
        }
    }
    id
}

fn fetch(talk: &mut Talk) {
    let id = filled(talk, "fetched");
    for offset in [0, 1, 4, 17, 18] {
        talk.ask_all(|version| fetching(version, "fetched", id, part(offset)));
    }
    for limit in [0, 1, 100, 200, 300] {
        talk.ask(12, &fetching(12, "fetched", id, part(0).with_partition_max_bytes(limit)));
        talk.ask(12, &fetching(12, "fetched", id, part(0)).with_max_bytes(limit));
    }
    talk.ask(12, &fetching(12, "fetched", id, part(0)).with_isolation_level(1));
}

fn fetch_refused(talk: &mut Talk) {
    let id = filled(talk, "fetch-refused");
    for version in [4, 7, 9, 11, 12, 13, 16] {
        talk.ask(version, &fetching(version, "fetch-refused", id, part(19)));
        talk.ask(version, &fetching(version, "fetch-refused", id, part(-1)));
        talk.ask(version, &fetching(version, "fetch-refused", id, part(0).with_partition(9)));
        talk.ask(version, &fetching(version, "nobody-made-this", Uuid::from_u128(7), part(0)));
        if version >= 9 {
            talk.ask(
                version,
                &fetching(version, "fetch-refused", id, part(0).with_current_leader_epoch(0)),
            );
            talk.ask(
                version,
                &fetching(version, "fetch-refused", id, part(0).with_current_leader_epoch(99)),
            );
        }
        if version >= 12 {
            talk.ask(
                version,
                &fetching(version, "fetch-refused", id, part(0).with_last_fetched_epoch(99)),
            );
        }
    }
}

fn sessions(talk: &mut Talk) {
    let id = filled(talk, "sessions");
    for version in [7, 12, 13, 16] {
        let Some(opened) =
            talk.ask(version, &fetching(version, "sessions", id, part(16)).with_session_epoch(0))
        else {
            continue;
        };
        let session = opened.session_id;
        let next = |epoch: i32| {
            FetchRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_max_bytes(1 << 20)
                .with_session_id(session)
                .with_session_epoch(epoch)
        };
        talk.ask(version, &next(1)); // nothing new
        talk.ask(version, &next(5)); // out of turn
        talk.ask(version, &next(2));
        let more = fetching(version, "sessions", id, part(0))
            .with_session_id(session)
            .with_session_epoch(3);
        talk.ask(version, &more); // another place in the same session
        talk.ask(version, &next(-1)); // closes it
        talk.ask(version, &next(4)); // it is gone
        talk.ask(version, &next(1).with_session_id(123_456));
    }
}

fn list_offsets(talk: &mut Talk) {
    filled(talk, "listed");
    let time = talk.time;
    let asked = |topic: &str, timestamp: i64, partition: i32, epoch: i32| {
        let one = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_timestamp(timestamp)
            .with_current_leader_epoch(epoch);
        ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![
            ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![one]),
        ])
    };
    for timestamp in
        [-1, -2, -3, -4, -5, -9, 0, time, time + 1, time + 1001, time + 5002, time + 5003]
    {
        talk.ask_all(|_| asked("listed", timestamp, 0, -1));
    }
    for version in [1, 4, 7, 10] {
        talk.ask(version, &asked("nobody-made-this", -1, 0, -1));
        talk.ask(version, &asked("listed", -1, 9, -1));
    }
    for epoch in [0, 99] {
        talk.ask(7, &asked("listed", -1, 0, epoch));
    }
    talk.ask(7, &asked("listed", -1, 0, -1).with_isolation_level(1));
    make(talk, "listed-empty", 1);
    for timestamp in [-1, -2, -3, time] {
        talk.ask(7, &asked("listed-empty", timestamp, 0, -1));
    }
}

fn epochs(talk: &mut Talk) {
    filled(talk, "epochs");
    let asked = |topic: &str, partition: i32, current: i32, epoch: i32| {
        let one = OffsetForLeaderPartition::default()
            .with_partition(partition)
            .with_current_leader_epoch(current)
            .with_leader_epoch(epoch);
        OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-1)).with_topics(
            [OffsetForLeaderTopic::default().with_topic(name(topic)).with_partitions(vec![one])]
                .into(),
        )
    };
    for version in [2, 3, 4] {
        for (current, epoch) in [(-1, 0), (0, 0), (-1, 5), (-1, -1), (9, 0)] {
            talk.ask(version, &asked("epochs", 0, current, epoch));
        }
        talk.ask(version, &asked("epochs", 9, -1, 0));
        talk.ask(version, &asked("nobody-made-this", 0, -1, 0));
    }
}

fn init_producer(talk: &mut Talk) {
    talk.ask_all(|_| {
        InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
    });
    let again = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000);
    talk.ask(4, &again.with_producer_id(ProducerId(5)).with_producer_epoch(3));
}
