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
