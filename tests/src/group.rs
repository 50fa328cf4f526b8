//! What members of a group say, as Kafka's own consumer says it: for the programs that play many
//! members at once.

use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId, JoinGroupRequest,
    JoinGroupResponse, SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

/// A member of a group that reads one topic.
#[derive(Clone)]
pub struct Member {
    pub number: usize,
    pub group: GroupId,
    pub topic: TopicName,
    pub partitions: i32,
    pub session_ms: i32,
}

impl Member {
    /// The first heartbeat of the consumer protocol.
    pub fn arriving(&self, id: &StrBytes) -> ConsumerGroupHeartbeatRequest {
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(self.group.clone())
            .with_member_id(id.clone())
            .with_rebalance_timeout_ms(300_000)
            .with_subscribed_topic_names(Some(vec![self.topic.clone()]))
            .with_topic_partitions(Some(Vec::new()))
    }

    /// What follows an answer. A member that has to give up partitions has given them up at once,
    /// and says so.
    pub fn following(
        &self,
        id: &StrBytes,
        answer: &ConsumerGroupHeartbeatResponse,
    ) -> ConsumerGroupHeartbeatRequest {
        let owned = answer.assignment.as_ref().map(|assignment| {
            let topics = assignment.topic_partitions.iter().map(|topic| {
                kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions::default()
                    .with_topic_id(topic.topic_id)
                    .with_partitions(topic.partitions.clone())
            });
            topics.collect()
        });
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(self.group.clone())
            .with_member_id(id.clone())
            .with_member_epoch(answer.member_epoch)
            .with_topic_partitions(owned)
    }

    /// JoinGroup of the classic protocol.
    pub fn joining(&self, id: &StrBytes) -> JoinGroupRequest {
        let mut subscription = BytesMut::new();
        subscription.put_i16(0);
        subscription.put_i32(1);
        subscription.put_i16(self.topic.len() as i16);
        subscription.put_slice(self.topic.as_bytes());
        subscription.put_i32(-1);
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(StrBytes::from_static_str("range"))
            .with_metadata(subscription.freeze());
        JoinGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_member_id(id.clone())
            .with_session_timeout_ms(self.session_ms)
            .with_rebalance_timeout_ms(300_000)
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(vec![protocol])
    }

    /// SyncGroup; the leader gives each member its range.
    pub fn syncing(&self, joined: &JoinGroupResponse) -> SyncGroupRequest {
        let members = joined.members.len();
        let assignments = joined.members.iter().enumerate().map(|(index, it)| {
            let part = |index: usize| (self.partitions as usize * index / members) as i32;
            SyncGroupRequestAssignment::default()
                .with_member_id(it.member_id.clone())
                .with_assignment(assignment(&self.topic, part(index)..part(index + 1)))
        });
        SyncGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_member_id(joined.member_id.clone())
            .with_generation_id(joined.generation_id)
            .with_protocol_type(joined.protocol_type.clone())
            .with_protocol_name(joined.protocol_name.clone())
            .with_assignments(assignments.collect())
    }
}

/// An assignment of the classic protocol: one topic, or none for a member that gets nothing.
fn assignment(topic: &TopicName, partitions: Range<i32>) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(1);
    bytes.put_i16(topic.len() as i16);
    bytes.put_slice(topic.as_bytes());
    bytes.put_i32(partitions.len() as i32);
    for partition in partitions {
        bytes.put_i32(partition);
    }
    bytes.put_i32(-1);
    bytes.freeze()
}

/// The partitions of [`assignment`].
pub fn assigned(mut assignment: &[u8]) -> Vec<i32> {
    let mut take = |count: usize| {
        let (head, rest) = assignment.split_at_checked(count).unwrap_or((&[], &[]));
        assignment = rest;
        head.iter().fold(0_i64, |sum, byte| (sum << 8) | i64::from(*byte))
    };
    let (_version, topics) = (take(2), take(4));
    if topics == 0 {
        return Vec::new();
    }
    for _ in 0..take(2) {
        take(1);
    }
    (0..take(4)).map(|_| take(4) as i32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_reads_the_partitions_that_the_leader_wrote() {
        let topic = TopicName(StrBytes::from_static_str("topic"));
        assert_eq!(assigned(&assignment(&topic, 3..6)), [3, 4, 5]);
        assert_eq!(assigned(&assignment(&topic, 3..3)), [0; 0]);
        assert_eq!(assigned(&[]), [0; 0]);
    }
}
