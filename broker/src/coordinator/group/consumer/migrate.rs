//! From the classic protocol to this one and back, while members stay.
//!
//! Upgrade: the first heartbeat to a classic group turns it into a consumer group whose members all
//! speak the classic protocol, each in the epoch that was its generation. Downgrade: when the last
//! member that speaks the consumer protocol goes, those that stay are a classic group again.

use bytes::Bytes;

use super::member::{Member, Owned, partitions};
use super::protocol::{read_assignment, read_subscription, version, write_assignment};
use super::{ConsumerGroup, MemberState};
use crate::controller::Image;
use crate::coordinator::group::classic::{self, CONSUMER, ClassicGroup};
use crate::coordinator::group::modern::{Partitions, metadata_hash};
use crate::coordinator::group::records::{
    ClassicMember, ClassicProtocol, ConsumerRecord, EpochValue, TargetMemberValue, TargetTopic,
    TargetValue,
};
use crate::coordinator::group::settings::GroupSettings;
use crate::error::{ErrorCode, Refusal};
use crate::types::Millis;

/// `group.consumer.migration.policy`. Groups without members may always move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationPolicy {
    Bidirectional,
    Upgrade,
    Downgrade,
    Disabled,
}

impl MigrationPolicy {
    pub fn of(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "upgrade" => Self::Upgrade,
            "downgrade" => Self::Downgrade,
            "disabled" => Self::Disabled,
            _ => Self::Bidirectional,
        }
    }

    pub fn may_upgrade(self) -> bool {
        matches!(self, Self::Bidirectional | Self::Upgrade)
    }

    pub fn may_downgrade(self) -> bool {
        matches!(self, Self::Bidirectional | Self::Downgrade)
    }
}

impl ConsumerGroup {
    /// The group that a classic one with members becomes.
    pub fn from_classic(
        classic: &ClassicGroup,
        settings: &GroupSettings,
        image: &Image,
    ) -> Result<Self, Refusal> {
        let refuse = |why: &str| {
            let id = &classic.id;
            let message =
                format!("Cannot upgrade classic group {id} to consumer group because {why}.");
            tracing::info!("{message}");
            Refusal::new(ErrorCode::GroupIdNotFound, message)
        };
        if !settings.consumer.migration_policy.may_upgrade() {
            return Err(refuse("online upgrade is disabled"));
        }
        if classic.protocol_type.as_deref() != Some(CONSUMER) {
            return Err(refuse("the group does not use the consumer embedded protocol"));
        }
        if classic.members.len() > settings.consumer.max_size {
            return Err(refuse("the group size exceeds the consumer group maximum size"));
        }
        let mut group = Self::new(&classic.id);
        group.epoch = classic.generation;
        group.target.epoch = classic.generation;
        for member in classic.members.iter() {
            let (member, assigned) = from_classic(member, classic, image).map_err(refuse)?;
            group.target.set(&member.id, assigned);
            group.note(&member);
            group.members.insert(member.id.clone(), member.into());
        }
        group.metadata_hash = metadata_hash(group.topics.names(), image);
        Ok(group)
    }

    /// The records that make the group as it is.
    pub fn records(&self) -> Vec<ConsumerRecord> {
        let mut records: Vec<_> = self.members().map(|member| member.record(&self.id)).collect();
        let (epoch, metadata_hash) = (self.epoch, self.metadata_hash);
        records.push(ConsumerRecord::Epoch(self.key(), Some(EpochValue { epoch, metadata_hash })));
        records.extend(self.members().map(|member| {
            let target = self.target.of(&member.id).cloned().unwrap_or_default();
            let topics = target.iter().map(|(topic, its)| TargetTopic {
                topic_id: *topic,
                partitions: its.iter().copied().collect(),
            });
            let value = TargetMemberValue { topic_partitions: topics.collect() };
            ConsumerRecord::TargetMember(self.member_key(&member.id), Some(value))
        }));
        let value = TargetValue {
            assignment_epoch: self.target.epoch,
            assignment_timestamp: self.target.computed_at,
        };
        records.push(ConsumerRecord::Target(self.key(), Some(value)));
        records.extend(self.members().map(|member| member.current_record(&self.id)));
        records
    }

    /// Whether the group is a classic one, and may be, once `leaving` are gone.
    pub fn may_downgrade_without(&self, leaving: &[&Member], settings: &GroupSettings) -> bool {
        let classic_leaving = leaving.iter().filter(|member| member.is_classic()).count();
        let staying = self.len() - leaving.len();
        staying > 0
            && self.classic_members - classic_leaving == staying
            && settings.consumer.migration_policy.may_downgrade()
            && staying <= settings.max_size
    }

    /// As [`Self::may_downgrade_without`], when a classic member takes the place of `replaced`.
    pub fn may_downgrade_by_replacing(&self, replaced: &Member, settings: &GroupSettings) -> bool {
        !replaced.is_classic()
            && self.classic_members + 1 == self.len()
            && settings.consumer.migration_policy.may_downgrade()
            && self.len() <= settings.max_size
    }

    /// The classic group of those who stay, with `joining` in the place of the static member that
    /// it replaces. Its assignment is the target of this group.
    pub fn to_classic(
        &self,
        leaving: &[&Member],
        joining: Option<&Member>,
        image: &Image,
        now: Millis,
    ) -> ClassicGroup {
        let replaced = joining.and_then(|it| self.static_id(it.instance_id.as_deref()));
        let stays = |member: &&Member| {
            !leaving.iter().any(|it| it.id == member.id) && Some(&member.id) != replaced
        };
        let mut group = ClassicGroup::new(&self.id, now);
        let joining = joining.map(|member| (member, replaced));
        let members = self.members().filter(stays).map(|member| (member, None)).chain(joining);
        let mut targets = Vec::new();
        for (member, replaced) in members {
            let target = self.target.of(replaced.unwrap_or(&member.id)).cloned();
            targets.push((member.id.to_string(), target.unwrap_or_default()));
            group.members.insert(to_classic(member));
        }
        group.take_over(self.epoch);
        for (id, target) in targets {
            let version = group
                .members
                .get(&id)
                .map_or(0, |member| version(&member.subscription(group.protocol.as_deref())));
            group.members.set_assignment(&id, write_assignment(&target, version, image));
        }
        group
    }
}

fn from_classic(
    member: &classic::Member,
    group: &ClassicGroup,
    image: &Image,
) -> Result<(Member, Partitions), &'static str> {
    let malformed = |_| "the embedded consumer protocol is malformed";
    // One that has never synced has none yet.
    let (assigned, has_data) = match member.assignment.is_empty() {
        true => (Partitions::new(), false),
        false => read_assignment(&member.assignment, image).map_err(malformed)?,
    };
    if has_data {
        return Err(
            "an unsupported custom assignor is in use. Please refer to the documentation or switch \
             to a default assignor before re-attempting the upgrade",
        );
    }
    let protocol = group.protocol.as_deref().or(member.protocols.first().map(|it| it.0.as_str()));
    let said = read_subscription(&member.subscription(protocol), image).map_err(malformed)?;
    let epoch = group.generation;
    let owned =
        assigned.iter().map(|(topic, its)| (*topic, its.iter().map(|it| (*it, epoch)).collect()));
    let protocols = member
        .protocols
        .iter()
        .map(|(name, metadata)| ClassicProtocol { name: name.clone(), metadata: metadata.clone() });
    let of = Member {
        epoch,
        previous_epoch: epoch,
        state: MemberState::Stable,
        instance_id: member.instance_id.clone(),
        rack_id: said.rack_id,
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        topics: said.topics,
        assigned: owned.collect::<Owned>(),
        classic: Some(ClassicMember {
            session_timeout_ms: member.session_timeout_ms,
            supported_protocols: protocols.collect(),
        }),
        ..Member::new(&member.id)
    };
    Ok((of, assigned))
}

fn to_classic(member: &Member) -> classic::Member {
    let classic = member.classic.clone().unwrap_or_default();
    let protocols = classic.supported_protocols.into_iter().map(|it| (it.name, it.metadata));
    classic::Member::standing(classic::Standing {
        id: member.id.to_string(),
        instance_id: member.instance_id.clone(),
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        session_timeout_ms: classic.session_timeout_ms,
        protocols: protocols.collect(),
        assignment: Bytes::new(),
    })
}

/// The assignment of a member of the classic protocol, as SyncGroup answers it.
pub(super) fn synced(member: &Member, image: &Image) -> Bytes {
    let protocols = member.classic.iter().flat_map(|classic| &classic.supported_protocols);
    let version = protocols.into_iter().next().map_or(0, |it| version(&it.metadata));
    write_assignment(&partitions(&member.assigned), version, image)
}
