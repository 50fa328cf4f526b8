//! ConsumerGroupDescribe: what readers may know of a consumer group.

use kafka_protocol::messages::consumer_group_describe_response::{
    Assignment, DescribedGroup, Member as DescribedMember, TopicPartitions,
};
use kafka_protocol::messages::{GroupId, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::{ConsumerGroup, Member};
use crate::controller::Image;
use crate::coordinator::group::modern::Partitions;

const CLASSIC_MEMBER: i8 = 0;
const CONSUMER_MEMBER: i8 = 1;

impl ConsumerGroup {
    pub fn describe(&self, default_assignor: &str, image: &Image) -> DescribedGroup {
        let assignor = self.preferred_assignor(None, None).unwrap_or(default_assignor);
        let members = self.members().map(|member| {
            let target = self.target.of(&member.id).cloned().unwrap_or_default();
            describe(member, &target, image)
        });
        DescribedGroup::default()
            .with_group_id(GroupId(text(&self.id)))
            .with_group_state(StrBytes::from_static_str(self.state().name()))
            .with_group_epoch(self.epoch)
            .with_assignment_epoch(self.target.epoch)
            .with_assignor_name(text(assignor))
            .with_members(members.collect())
    }
}

fn describe(member: &Member, target: &Partitions, image: &Image) -> DescribedMember {
    // It answers for what it has to give up until it has done so.
    let mut held = Partitions::new();
    for (topic, partition) in member.held() {
        held.entry(topic).or_default().insert(partition);
    }
    let optional = |text: &Option<String>| text.clone().map(StrBytes::from_string);
    DescribedMember::default()
        .with_member_id(text(&member.id))
        .with_instance_id(optional(&member.instance_id))
        .with_rack_id(optional(&member.rack_id))
        .with_member_epoch(member.epoch)
        .with_client_id(text(&member.client_id))
        .with_client_host(text(&member.client_host))
        .with_subscribed_topic_names(member.topics.iter().map(|it| TopicName(text(it))).collect())
        .with_subscribed_topic_regex(optional(&member.pattern))
        .with_assignment(assignment(&held, image))
        .with_target_assignment(assignment(target, image))
        .with_member_type(if member.is_classic() { CLASSIC_MEMBER } else { CONSUMER_MEMBER })
}

/// Without topics that are gone.
fn assignment(partitions: &Partitions, image: &Image) -> Assignment {
    let topics = partitions.iter().filter_map(|(topic, its)| {
        let name = TopicName(text(&image.topic_by_id(*topic)?.name));
        let topic = TopicPartitions::default().with_topic_id(*topic).with_topic_name(name);
        Some(topic.with_partitions(its.iter().copied().collect()))
    });
    Assignment::default().with_topic_partitions(topics.collect())
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
