//! The answer to ShareFetch as chunks: the fields in small buffers, the records as the log's own
//! bytes. Versions 1 and 2, which are alike.

use bytes::{BufMut, Bytes};
use uuid::Uuid;

use super::chunks::Chunks;
use super::share::{Leader, NodeEndpoint};
use crate::types::Offset;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShareFetchResponse {
    pub error_code: i16,
    pub error_message: Option<String>,
    /// How long what was acquired is locked.
    pub lock_timeout_ms: i32,
    pub topics: Vec<(Uuid, Vec<PartitionData>)>,
    pub endpoints: Vec<NodeEndpoint>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct PartitionData {
    pub index: i32,
    pub error_code: i16,
    pub error_message: Option<String>,
    pub acknowledge_error_code: i16,
    pub acknowledge_error_message: Option<String>,
    pub leader: Leader,
    pub records: Bytes,
    /// First and last offset, and which delivery it is.
    pub acquired: Vec<(Offset, Offset, i16)>,
}

pub fn encode(response: ShareFetchResponse) -> Vec<Bytes> {
    let mut out = Chunks::new(true);
    out.open.put_i32(0); // never throttled
    out.open.put_i16(response.error_code);
    put_nullable(&mut out, response.error_message.as_deref());
    out.open.put_i32(response.lock_timeout_ms);
    out.array(response.topics.len());
    for (topic_id, partitions) in response.topics {
        out.open.put_slice(topic_id.as_bytes());
        out.array(partitions.len());
        for partition in partitions {
            put_partition(&mut out, partition);
        }
        out.varint(0);
    }
    out.array(response.endpoints.len());
    for endpoint in &response.endpoints {
        out.open.put_i32(endpoint.id);
        out.string(&endpoint.host);
        out.open.put_i32(endpoint.port);
        put_nullable(&mut out, endpoint.rack.as_deref());
        out.varint(0);
    }
    out.varint(0);
    out.finish()
}

fn put_partition(out: &mut Chunks, partition: PartitionData) {
    out.open.put_i32(partition.index);
    out.open.put_i16(partition.error_code);
    put_nullable(out, partition.error_message.as_deref());
    out.open.put_i16(partition.acknowledge_error_code);
    put_nullable(out, partition.acknowledge_error_message.as_deref());
    out.open.put_i32(partition.leader.id);
    out.open.put_i32(partition.leader.epoch);
    out.varint(0);
    out.records(Some(partition.records));
    out.array(partition.acquired.len());
    for (first, last, deliveries) in partition.acquired {
        out.open.put_i64(first);
        out.open.put_i64(last);
        out.open.put_i16(deliveries);
        out.varint(0);
    }
    out.varint(0);
}

fn put_nullable(out: &mut Chunks, text: Option<&str>) {
    match text {
        Some(text) => out.string(text),
        None => out.varint(0),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::ShareFetchResponse as Expected;
    use kafka_protocol::messages::share_fetch_response as theirs;
    use kafka_protocol::protocol::{Encodable, StrBytes};

    use super::*;

    #[test]
    fn it_has_the_bytes_that_kafka_protocol_writes_and_the_records_are_not_copied() {
        let records = Bytes::from(vec![9; 300]);
        let endpoint = NodeEndpoint { id: 2, host: "h".into(), port: 9092, rack: None };
        let partition = PartitionData {
            index: 3,
            error_code: 6,
            error_message: Some("why".into()),
            acknowledge_error_code: 121,
            acknowledge_error_message: None,
            leader: Leader { id: 2, epoch: 8 },
            records: records.clone(),
            acquired: vec![(1, 4, 2)],
        };
        let topic_id = Uuid::from_u128(42);
        let chunks = encode(ShareFetchResponse {
            error_code: 0,
            error_message: None,
            lock_timeout_ms: 30_000,
            topics: vec![(topic_id, vec![partition, PartitionData::default()])],
            endpoints: vec![endpoint],
        });
        assert!(chunks.iter().any(|chunk| chunk.as_ptr() == records.as_ptr()));
        let text = StrBytes::from_static_str;
        let full = theirs::PartitionData::default()
            .with_partition_index(3)
            .with_error_code(6)
            .with_error_message(Some(text("why")))
            .with_acknowledge_error_code(121)
            .with_current_leader(
                theirs::LeaderIdAndEpoch::default().with_leader_id(2).with_leader_epoch(8),
            )
            .with_records(Some(records))
            .with_acquired_records(vec![
                theirs::AcquiredRecords::default()
                    .with_first_offset(1)
                    .with_last_offset(4)
                    .with_delivery_count(2),
            ]);
        let empty = theirs::PartitionData::default()
            .with_records(Some(Bytes::new()))
            .with_current_leader(theirs::LeaderIdAndEpoch::default().with_leader_id(0));
        let topic = theirs::ShareFetchableTopicResponse::default()
            .with_topic_id(topic_id)
            .with_partitions(vec![full, empty]);
        let expected = Expected::default()
            .with_acquisition_lock_timeout_ms(30_000)
            .with_responses(vec![topic])
            .with_node_endpoints(vec![
                theirs::NodeEndpoint::default()
                    .with_node_id(2.into())
                    .with_host(text("h"))
                    .with_port(9092),
            ]);
        let mut bytes = BytesMut::new();
        expected.encode(&mut bytes, 1).unwrap();
        assert_eq!(chunks.concat(), bytes);
    }
}
