//! ShareGroupDescribe: what readers may know of a share group.

use kafka_protocol::messages::share_group_describe_response::{
    Assignment, DescribedGroup, Member, TopicPartitions,
};
use kafka_protocol::messages::{GroupId, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::{ShareGroup, ShareMember};
use crate::controller::Image;

impl ShareGroup {
    pub fn describe(&self, image: &Image) -> DescribedGroup {
        DescribedGroup::default()
            .with_group_id(GroupId(text(&self.id)))
            .with_group_state(StrBytes::from_static_str(self.state_name()))
            .with_group_epoch(self.epoch)
            .with_assignment_epoch(self.target.epoch)
            .with_assignor_name(StrBytes::from_static_str("simple"))
            .with_members(self.members().map(|member| describe(member, image)).collect())
    }
}

fn describe(member: &ShareMember, image: &Image) -> Member {
    let topics = member.assigned.iter().filter_map(|(topic, its)| {
        let name = TopicName(text(&image.topic_by_id(*topic)?.name));
        let topic = TopicPartitions::default().with_topic_id(*topic).with_topic_name(name);
        Some(topic.with_partitions(its.iter().copied().collect()))
    });
    Member::default()
        .with_member_id(text(&member.id))
        .with_rack_id(member.rack_id.clone().map(StrBytes::from_string))
        .with_member_epoch(member.epoch)
        .with_client_id(text(&member.client_id))
        .with_client_host(text(&member.client_host))
        .with_subscribed_topic_names(member.topics.iter().map(|it| TopicName(text(it))).collect())
        .with_assignment(Assignment::default().with_topic_partitions(topics.collect()))
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
