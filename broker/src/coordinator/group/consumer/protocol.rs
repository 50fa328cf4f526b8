//! The consumer protocol that classic members embed in JoinGroup and SyncGroup: subscriptions and
//! assignments, versions 0 to 3, each behind two bytes of version.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::controller::Image;
use crate::coordinator::group::modern::Partitions;
use crate::wire::message::{Malformed, Message};

const NEWEST: i16 = 3;

crate::message! {
    pub struct SubscriptionData (0, 3, flexible i16::MAX) {
        topics: Vec<String> [from 0],
        user_data: Option<Bytes> [from 0],
        owned_partitions: Vec<NamedPartitions> [from 1],
        generation: i32 [from 2, default -1],
        rack_id: Option<String> [from 3],
    }

    pub struct AssignmentData (0, 3, flexible i16::MAX) {
        assigned_partitions: Vec<NamedPartitions> [from 0],
        user_data: Option<Bytes> [from 0],
    }

    pub struct NamedPartitions {
        topic: String [from 0],
        partitions: Vec<i32> [from 0],
    }
}

/// What a classic member subscribes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscription {
    pub topics: BTreeSet<String>,
    /// Of topics that exist.
    pub owned: Partitions,
    pub rack_id: Option<String>,
}

/// The version of an embedded message, which answers repeat. A newer one begins as ours does.
pub fn version(metadata: &[u8]) -> i16 {
    metadata.first_chunk::<2>().map_or(0, |bytes| i16::from_be_bytes(*bytes)).clamp(0, NEWEST)
}

pub fn read_subscription(metadata: &[u8], image: &Image) -> Result<Subscription, Malformed> {
    let read: SubscriptionData = read(metadata)?;
    Ok(Subscription {
        owned: by_id(read.owned_partitions, image),
        topics: read.topics.into_iter().collect(),
        rack_id: read.rack_id.filter(|rack| !rack.is_empty()),
    })
}

/// The partitions of topics that exist, and whether a custom assignor put data of its own with
/// them.
pub fn read_assignment(bytes: &[u8], image: &Image) -> Result<(Partitions, bool), Malformed> {
    let read: AssignmentData = read(bytes)?;
    let has_data = read.user_data.is_some_and(|data| !data.is_empty());
    Ok((by_id(read.assigned_partitions, image), has_data))
}

/// The assignment as a classic member reads it, in the version of its subscription.
pub fn write_assignment(partitions: &Partitions, version: i16, image: &Image) -> Bytes {
    let topics = partitions.iter().filter_map(|(topic, its)| {
        let topic = image.topic_by_id(*topic)?.name.to_string();
        Some(NamedPartitions { topic, partitions: its.iter().copied().collect() })
    });
    let assignment = AssignmentData { assigned_partitions: topics.collect(), user_data: None };
    let mut out = BytesMut::new();
    out.put_i16(version);
    assignment.encode(version, &mut out);
    out.freeze()
}

fn read<M: Message>(bytes: &[u8]) -> Result<M, Malformed> {
    let mut body = bytes.get(2..).ok_or(Malformed::Short)?;
    M::decode(&mut body, version(bytes))
}

fn by_id(topics: Vec<NamedPartitions>, image: &Image) -> Partitions {
    let mut partitions = Partitions::new();
    for topic in topics {
        if let Some(known) = image.topic(&topic.topic) {
            partitions.entry(known.id).or_default().extend(topic.partitions);
        }
    }
    partitions.retain(|_, its| !its.is_empty());
    partitions
}

/// As Java prints a `Uuid` of Kafka's: 22 characters of base64.
pub fn java_id(id: Uuid) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = id.as_u128();
    let digit = |at: u32| match at {
        // The last digit holds the two bits that are left.
        21 => ALPHABET[((bits & 0b11) << 4) as usize],
        at => ALPHABET[((bits >> (122 - 6 * at)) & 0x3f) as usize],
    };
    (0..22).map(|at| char::from(digit(at))).collect()
}
