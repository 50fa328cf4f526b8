//! StreamsGroupDescribe: what readers may know of a streams group.

use super::member::pairs;
use super::tasks::{TaskSet, plain, to_ids};
use super::{Member, StreamsGroup};
use crate::wire::streams::{Assignment, DescribedGroup, DescribedMember, OrNull};

impl StreamsGroup {
    pub fn describe(&self) -> DescribedGroup {
        let configured = self.memory.configured.as_ref().filter(|it| it.is_ready());
        let topology = match configured {
            Some(configured) => Some(configured.describe()),
            None => self.topology.as_ref().map(|it| it.describe()),
        };
        DescribedGroup {
            group: self.id.to_string(),
            state: self.state_name().to_owned(),
            epoch: self.epoch,
            assignment_epoch: self.target.epoch,
            topology: OrNull(topology),
            members: self.members().map(|member| self.described(member)).collect(),
            ..DescribedGroup::default()
        }
    }

    fn described(&self, member: &Member) -> DescribedMember {
        let target = self.target.of(&member.id).cloned().unwrap_or_default();
        let held = TaskSet {
            active: plain(&member.held.active),
            standby: member.held.standby.clone(),
            warmup: member.held.warmup.clone(),
        };
        DescribedMember {
            id: member.id.to_string(),
            epoch: member.epoch,
            instance_id: member.instance_id.clone(),
            rack_id: member.rack_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            topology_epoch: member.topology_epoch,
            process_id: member.process_id.clone(),
            user_endpoint: OrNull(member.user_endpoint.clone()),
            client_tags: pairs(&member.client_tags),
            assignment: assignment(&held),
            target_assignment: assignment(&target),
            ..DescribedMember::default()
        }
    }
}

fn assignment(tasks: &TaskSet) -> Assignment {
    Assignment {
        active: to_ids(&tasks.active),
        standby: to_ids(&tasks.standby),
        warmup: to_ids(&tasks.warmup),
    }
}
