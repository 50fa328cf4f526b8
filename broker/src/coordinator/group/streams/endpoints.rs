//! Which partitions are to be found where, for members that answer queries (KIP-67).

use std::collections::BTreeMap;

use super::tasks::{Tasks, plain};
use super::topology::{Configured, ConfiguredSubtopology};
use super::{Member, StreamsGroup};
use crate::controller::Image;
use crate::wire::streams::{EndpointPartitions, TopicPartitions};

impl StreamsGroup {
    /// Of all members with an endpoint; `changed` is one of them as it will be. Without a
    /// configured topology there are no tasks, and so no partitions.
    pub(super) fn endpoints(
        &self,
        changed: &Member,
        configured: &Configured,
        image: &Image,
    ) -> Vec<EndpointPartitions> {
        let others = self.members().filter(|member| member.id != changed.id);
        let each = others.chain([changed]).filter_map(|member| {
            let topics = |tasks: &Tasks| {
                let subtopologies = configured.subtopologies.as_ref();
                subtopologies.map(|all| topics(tasks, all, image)).unwrap_or_default()
            };
            Some(EndpointPartitions {
                endpoint: member.user_endpoint.clone()?,
                active: topics(&plain(&member.held.active)),
                standby: topics(&member.held.standby),
            })
        });
        each.collect()
    }
}

fn topics(
    tasks: &Tasks,
    subtopologies: &BTreeMap<String, ConfiguredSubtopology>,
    image: &Image,
) -> Vec<TopicPartitions> {
    let mut topics = Vec::new();
    for (id, partitions) in tasks {
        let Some(subtopology) = subtopologies.get(id) else { continue };
        let internal = subtopology.repartition_sources.keys();
        for topic in subtopology.source_topics.iter().chain(internal) {
            let there = image.topic(topic).map_or(0, |it| it.partitions.len());
            // Not every topic has a partition for each task.
            let count = if there < partitions.len() { there } else { partitions.len() };
            let partitions = partitions.iter().copied().take(count).collect();
            topics.push(TopicPartitions { topic: topic.clone(), partitions });
        }
    }
    topics
}
