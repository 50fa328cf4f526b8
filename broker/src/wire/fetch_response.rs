//! A Fetch answer as chunks: the fields in small buffers, the records as the log's own bytes.
//!
//! kafka-protocol would copy every record into one buffer. Same bytes, versions 4 to 18, no copy;
//! a test compares the two for every version.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::FetchResponse;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};

use super::chunks::Chunks;

/// The first flexible version: compact lengths and tagged fields.
const FLEXIBLE: i16 = 12;

/// Encodes `response` in `version`.
pub fn encode(response: FetchResponse, version: i16) -> Vec<Bytes> {
    let mut out = Chunks::new(version >= FLEXIBLE);
    out.open.put_i32(response.throttle_time_ms);
    if version >= 7 {
        out.open.put_i16(response.error_code);
        out.open.put_i32(response.session_id);
    }
    out.array(response.responses.len());
    for topic in response.responses {
        put_topic(&mut out, topic, version);
    }
    if version >= FLEXIBLE {
        let endpoints = if version >= 16 { &response.node_endpoints[..] } else { &[] };
        if endpoints.is_empty() {
            out.varint(0);
        } else {
            let mut field = Chunks::new(true);
            field.array(endpoints.len());
            for endpoint in endpoints {
                field.open.put_i32(endpoint.node_id.0);
                field.string(&endpoint.host);
                field.open.put_i32(endpoint.port);
                match &endpoint.rack {
                    Some(rack) => field.string(rack),
                    None => field.varint(0),
                }
                field.varint(0);
            }
            out.varint(1);
            out.tagged(0, &field.open);
        }
    }
    out.finish()
}

fn put_topic(out: &mut Chunks, topic: FetchableTopicResponse, version: i16) {
    if version >= 13 {
        out.open.put_slice(topic.topic_id.as_bytes());
    } else {
        out.string(&topic.topic.0);
    }
    out.array(topic.partitions.len());
    for partition in topic.partitions {
        put_partition(out, partition, version);
    }
    if version >= FLEXIBLE {
        out.varint(0);
    }
}

fn put_partition(out: &mut Chunks, partition: PartitionData, version: i16) {
    out.open.put_i32(partition.partition_index);
    out.open.put_i16(partition.error_code);
    out.open.put_i64(partition.high_watermark);
    out.open.put_i64(partition.last_stable_offset);
    if version >= 5 {
        out.open.put_i64(partition.log_start_offset);
    }
    match &partition.aborted_transactions {
        None => out.null_array(),
        Some(aborted) => {
            out.array(aborted.len());
            for transaction in aborted {
                out.open.put_i64(transaction.producer_id.0);
                out.open.put_i64(transaction.first_offset);
                if version >= FLEXIBLE {
                    out.varint(0);
                }
            }
        }
    }
    if version >= 11 {
        out.open.put_i32(partition.preferred_read_replica.0);
    }
    out.records(partition.records);
    if version >= FLEXIBLE {
        put_tagged(out, &partition.diverging_epoch, &partition.current_leader);
    }
}

fn put_tagged(
    out: &mut Chunks,
    diverging: &kafka_protocol::messages::fetch_response::EpochEndOffset,
    leader: &kafka_protocol::messages::fetch_response::LeaderIdAndEpoch,
) {
    let has_diverging = diverging.epoch != -1 || diverging.end_offset != -1;
    let has_leader = leader.leader_id.0 != -1 || leader.leader_epoch != -1;
    out.varint(u32::from(has_diverging) + u32::from(has_leader));
    if has_diverging {
        let mut field = BytesMut::new();
        field.put_i32(diverging.epoch);
        field.put_i64(diverging.end_offset);
        field.put_u8(0);
        out.tagged(0, &field);
    }
    if has_leader {
        let mut field = BytesMut::new();
        field.put_i32(leader.leader_id.0);
        field.put_i32(leader.leader_epoch);
        field.put_u8(0);
        out.tagged(1, &field);
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction, EpochEndOffset, LeaderIdAndEpoch, NodeEndpoint,
    };
    use kafka_protocol::protocol::{Encodable, Message, StrBytes};

    use super::*;

    fn response(version: i16) -> FetchResponse {
        let plain = PartitionData::default()
            .with_partition_index(3)
            .with_high_watermark(7)
            .with_last_stable_offset(6)
            .with_records(Some(Bytes::from(vec![9; 300])));
        let mut odd = PartitionData::default()
            .with_error_code(6)
            .with_aborted_transactions(Some(vec![
                AbortedTransaction::default().with_producer_id(5.into()).with_first_offset(1),
            ]))
            .with_records(Some(Bytes::new()));
        if version >= 5 {
            odd.log_start_offset = 2;
        }
        if version >= 12 {
            odd.diverging_epoch = EpochEndOffset::default().with_epoch(1).with_end_offset(4);
            odd.current_leader =
                LeaderIdAndEpoch::default().with_leader_id(2.into()).with_leader_epoch(8);
        }
        let none = PartitionData::default().with_aborted_transactions(None).with_records(None);
        let mut topic = FetchableTopicResponse::default().with_partitions(vec![plain, odd, none]);
        if version >= 13 {
            topic.topic_id = uuid::Uuid::from_u128(42);
        } else {
            topic.topic = TopicName(StrBytes::from_static_str("orders"));
        }
        let mut response = FetchResponse::default().with_responses(vec![topic]);
        if version >= 7 {
            response = response.with_session_id(77).with_error_code(1);
        }
        if version >= 16 {
            response.node_endpoints = vec![
                NodeEndpoint::default()
                    .with_node_id(2.into())
                    .with_host(StrBytes::from_static_str("h"))
                    .with_port(9092)
                    .with_rack(Some(StrBytes::from_static_str("r"))),
                NodeEndpoint::default().with_node_id(3.into()),
            ];
        }
        response
    }

    #[test]
    fn every_version_has_the_bytes_that_kafka_protocol_writes() {
        for version in 4..=FetchResponse::VERSIONS.max {
            for response in [FetchResponse::default(), response(version)] {
                let mut expected = BytesMut::new();
                response.encode(&mut expected, version).unwrap();
                let chunks = encode(response, version).concat();
                assert_eq!(chunks, expected, "version {version}");
            }
        }
    }

    #[test]
    fn records_are_passed_on_and_not_copied() {
        let response = response(12);
        let records = response.responses[0].partitions[0].records.clone().unwrap();
        let chunks = encode(response, 12);
        assert!(chunks.iter().any(|chunk| chunk.as_ptr() == records.as_ptr()));
    }
}
