//! For the tests of APIs: an image made of records.

use crate::controller::{Delta, Image};
use uuid::Uuid;

use crate::wire::metadata::{
    EndPoint, PartitionRecord, Record, RegisterBrokerRecord, TopicRecord, UnfenceBrokerRecord,
};

/// The image that `records` make.
pub fn image_of(records: impl IntoIterator<Item = Record>) -> Image {
    let mut image = Image::empty("test");
    let mut delta = Delta::default();
    for record in records {
        image.replay(&record, &mut delta).unwrap();
    }
    image
}

/// Three brokers: 1 on INSIDE and OUTSIDE, 2 on INSIDE only, 3 on both and fenced. The topic
/// `orders` has three partitions, led by 1, 2 and 3; broker 9, a replica of the last, is gone.
pub fn three_brokers() -> Image {
    let topic_id = ORDERS;
    let mut records: Vec<Record> = vec![TopicRecord { name: "orders".into(), topic_id }.into()];
    for (id, listeners) in
        [(1, &["INSIDE", "OUTSIDE"][..]), (2, &["INSIDE"]), (3, &["INSIDE", "OUTSIDE"])]
    {
        let end_points = listeners.iter().map(|name| EndPoint {
            name: (*name).to_owned(),
            host: format!("{}-{id}", name.to_lowercase()),
            port: 9092,
            security_protocol: 0,
        });
        records.push(
            RegisterBrokerRecord {
                broker_id: id,
                broker_epoch: 1,
                end_points: end_points.collect(),
                rack: Some(format!("rack-{id}")),
                ..Default::default()
            }
            .into(),
        );
        if id != 3 {
            records.push(UnfenceBrokerRecord { id, epoch: 1 }.into());
        }
    }
    for (partition_id, replicas) in [(0, vec![1, 2]), (1, vec![2, 1]), (2, vec![3, 9])] {
        let leader = replicas[0];
        let isr = replicas.clone();
        records.push(
            PartitionRecord {
                partition_id,
                topic_id,
                replicas,
                isr,
                leader,
                leader_epoch: 4,
                ..Default::default()
            }
            .into(),
        );
    }
    image_of(records)
}

/// The id of `orders`.
pub const ORDERS: Uuid = Uuid::from_u128(5);
