//! The hash of the topics that a group subscribes to: their ids, names, partitions and racks.
//!
//! Bit for bit as Kafka 4.3.1 computes it (XXH3 over little-endian fields, text in UTF-16), because
//! it is stored with the group and compared by whoever coordinates it next. Not cached: it is
//! computed when a subscription or a topic changes, never on a plain heartbeat.

use twox_hash::XxHash3_64;

use crate::controller::Image;
use crate::controller::image::TopicImage;

/// The first byte of what is hashed of a topic.
const MAGIC: u8 = 0;

/// The hash of those of `topics` that exist, which must come in the order of their names; 0 when
/// there is none.
pub fn metadata_hash<'a>(topics: impl Iterator<Item = &'a str>, image: &Image) -> i64 {
    let mut sink = Vec::new();
    for topic in topics.filter_map(|name| image.topic(name)) {
        sink.extend(topic_hash(topic, image).to_le_bytes());
    }
    if sink.is_empty() { 0 } else { XxHash3_64::oneshot(&sink) as i64 }
}

pub fn topic_hash(topic: &TopicImage, image: &Image) -> i64 {
    let mut sink = vec![MAGIC];
    let (high, low) = topic.id.as_u64_pair();
    sink.extend(high.to_le_bytes());
    sink.extend(low.to_le_bytes());
    put_text(&mut sink, &topic.name);
    sink.extend((topic.partitions.len() as i32).to_le_bytes());
    for (index, partition) in &topic.partitions {
        sink.extend(index.to_le_bytes());
        let brokers = partition.replicas.iter().filter_map(|id| image.broker(*id));
        let mut racks: Vec<_> = brokers.filter_map(|broker| broker.rack.as_deref()).collect();
        racks.sort_unstable();
        for rack in racks {
            sink.extend((rack.encode_utf16().count() as i32).to_le_bytes());
            put_text(&mut sink, rack);
        }
    }
    XxHash3_64::oneshot(&sink) as i64
}

/// The UTF-16 units, then how many there are.
fn put_text(sink: &mut Vec<u8>, text: &str) {
    let before = sink.len();
    sink.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
    let units = ((sink.len() - before) / 2) as i32;
    sink.extend(units.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::controller::Delta;
    use crate::wire::metadata::{PartitionRecord, Record, RegisterBrokerRecord, TopicRecord};

    fn image() -> Image {
        let mut records: Vec<Record> = Vec::new();
        for (broker_id, rack) in
            [(1, "b"), (2, "a"), (10, "rack-0"), (11, "rack-1"), (12, "rack-2")]
        {
            let rack = Some(rack.to_owned());
            records.push(RegisterBrokerRecord { broker_id, rack, ..Default::default() }.into());
        }
        records.push(RegisterBrokerRecord { broker_id: 3, ..Default::default() }.into());
        let wide: Vec<_> = (0..40).map(|index| vec![10 + index % 3]).collect();
        let topics = [
            ("orders", Uuid::from_u64_pair(0, 7), vec![vec![1, 2], vec![3, 99]]),
            ("Grüße-😀", Uuid::from_u64_pair(1 << 40, 9), vec![vec![3]]),
            ("wide", Uuid::from_u64_pair(-5i64 as u64, 3), wide),
        ];
        for (name, topic_id, partitions) in topics {
            records.push(TopicRecord { name: name.to_owned(), topic_id }.into());
            for (index, replicas) in partitions.into_iter().enumerate() {
                let partition_id = index as i32;
                records.push(
                    PartitionRecord { topic_id, partition_id, replicas, ..Default::default() }
                        .into(),
                );
            }
        }
        let mut image = Image::empty("cluster");
        for record in records {
            image.replay(&record, &mut Delta::default()).unwrap();
        }
        image
    }

    /// The numbers were computed with the hash library that Kafka 4.3.1 uses.
    #[test]
    fn topics_and_groups_hash_as_in_kafka() {
        let image = image();
        for (name, hash) in [
            ("orders", 1806638333258839881),
            ("Grüße-😀", 2558541724202233610),
            ("wide", -2855742791004173974),
        ] {
            assert_eq!(topic_hash(image.topic(name).unwrap(), &image), hash, "{name}");
        }
        let of = |names: &[&str]| metadata_hash(names.iter().copied(), &image);
        assert_eq!(of(&["no such topic", "orders"]), 1567022678254044467);
        assert_eq!(of(&["Grüße-😀", "orders", "wide"]), 7968906750653920830);
        assert_eq!(of(&["no such topic"]), 0);
    }
}
