//! The kinds of groups that share a name space: one name, one kind at a time.
//!
//! A kind that comes later gets a variant here, a folder of its own, its records
//! ([`records`](super::records)) and timers ([`timers`](super::timers)); [`modern`](super::modern)
//! holds what it can build on. What a request means for each kind is decided in
//! [`requests`](super::requests).

use kafka_protocol::protocol::StrBytes;

use super::classic::{self, ClassicGroup, Step};
use super::consumer::{self, ConsumerGroup};
use super::effects::{Effects, TimerChange};
use super::modern::Refresh;
use super::records::Record;
use super::settings::GroupSettings;
use super::share::ShareGroup;
use super::streams::{self, StreamsGroup};
use super::timers::{Slot, Timer};
use crate::controller::Image;
use crate::error::ErrorCode;
use crate::types::Millis;

#[derive(Debug, Clone)]
pub enum Group {
    Classic(Box<ClassicGroup>),
    Consumer(Box<ConsumerGroup>),
    Share(Box<ShareGroup>),
    Streams(Box<StreamsGroup>),
}

impl Group {
    pub fn classic(group: ClassicGroup) -> Self {
        Self::Classic(Box::new(group))
    }

    /// Kafka's name of the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Classic(_) => "classic",
            Self::Consumer(_) => "consumer",
            Self::Share(_) => "share",
            Self::Streams(_) => "streams",
        }
    }

    pub fn state_name(&self) -> &'static str {
        match self {
            Self::Classic(group) => group.state.name(),
            Self::Consumer(group) => group.state().name(),
            Self::Share(group) => group.state_name(),
            Self::Streams(group) => group.state_name(),
        }
    }

    /// The name by which ListGroups filters, in any case: Kafka's own for one state of one kind.
    pub fn state_filter(&self) -> &'static str {
        match self.state_name() {
            "NotReady" => "not_ready",
            name => name,
        }
    }

    pub fn protocol_type(&self) -> StrBytes {
        match self {
            Self::Classic(group) => {
                let name = group.protocol_type.clone();
                name.map(StrBytes::from_string).unwrap_or_default()
            }
            Self::Consumer(_) => StrBytes::from_static_str(classic::CONSUMER),
            Self::Share(_) | Self::Streams(_) => StrBytes::from_static_str(self.kind()),
        }
    }

    pub fn as_classic(&self) -> Option<&ClassicGroup> {
        match self {
            Self::Classic(group) => Some(group),
            Self::Consumer(_) | Self::Share(_) | Self::Streams(_) => None,
        }
    }

    pub fn as_consumer(&self) -> Option<&ConsumerGroup> {
        match self {
            Self::Consumer(group) => Some(group),
            Self::Classic(_) | Self::Share(_) | Self::Streams(_) => None,
        }
    }

    pub fn as_consumer_mut(&mut self) -> Option<&mut ConsumerGroup> {
        match self {
            Self::Consumer(group) => Some(group),
            Self::Classic(_) | Self::Share(_) | Self::Streams(_) => None,
        }
    }

    pub fn as_share(&self) -> Option<&ShareGroup> {
        match self {
            Self::Share(group) => Some(group),
            Self::Classic(_) | Self::Consumer(_) | Self::Streams(_) => None,
        }
    }

    pub fn as_share_mut(&mut self) -> Option<&mut ShareGroup> {
        match self {
            Self::Share(group) => Some(group),
            Self::Classic(_) | Self::Consumer(_) | Self::Streams(_) => None,
        }
    }

    pub fn as_streams_mut(&mut self) -> Option<&mut StreamsGroup> {
        match self {
            Self::Streams(group) => Some(group),
            Self::Classic(_) | Self::Consumer(_) | Self::Share(_) => None,
        }
    }

    /// Looks at the cluster at the next heartbeat, where the kind of group does.
    pub fn topics_changed<'a>(&mut self, mut topics: impl Iterator<Item = &'a str>) {
        match self {
            Self::Classic(_) => {}
            Self::Consumer(group) => {
                if topics.any(|topic| group.topics.contains(topic)) {
                    group.topics_changed();
                }
            }
            Self::Share(group) => {
                if topics.any(|topic| group.topics.contains(topic)) {
                    group.topics_changed();
                }
            }
            Self::Streams(group) => {
                if topics.any(|topic| group.requires(topic)) {
                    group.topics_changed();
                }
            }
        }
    }

    pub fn set_refresh(&mut self, refresh: Refresh) {
        match self {
            Self::Classic(_) => {}
            Self::Streams(group) => group.memory.refresh = refresh,
            Self::Consumer(group) => group.refresh = refresh,
            Self::Share(group) => group.refresh = refresh,
        }
    }

    /// Whether a member reads `topic`, or might.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match self {
            Self::Classic(group) => group.is_subscribed_to(topic),
            Self::Consumer(group) => group.topics.contains(topic),
            Self::Share(group) => group.topics.contains(topic),
            Self::Streams(group) => group.is_subscribed_to(topic),
        }
    }

    /// From when on an offset committed at `committed` counts as unused; `None`: it is in use.
    pub fn unused_since(&self, committed: Millis) -> Option<Millis> {
        match self {
            Self::Classic(group) => group.unused_since(committed),
            Self::Consumer(group) => group.unused_since(committed),
            Self::Streams(group) => Some(group.unused_since(committed)),
            // It has no offsets of this kind.
            Self::Share(_) => None,
        }
    }

    /// Refuses the deletion of offsets while their use cannot be told.
    pub fn validate_offset_delete(&self) -> Result<(), ErrorCode> {
        match self {
            Self::Classic(group) => group.validate_offset_delete(),
            Self::Consumer(_) | Self::Streams(_) => Ok(()),
            Self::Share(_) => Err(ErrorCode::GroupIdNotFound),
        }
    }

    pub fn validate_delete(&self) -> Result<(), ErrorCode> {
        match self {
            Self::Classic(group) => group.validate_delete(),
            Self::Consumer(group) if group.is_empty() => Ok(()),
            Self::Share(group) if group.is_empty() => Ok(()),
            Self::Streams(group) if group.is_empty() => Ok(()),
            Self::Consumer(_) | Self::Share(_) | Self::Streams(_) => Err(ErrorCode::NonEmptyGroup),
        }
    }

    /// The records that delete the group.
    pub fn tombstones(&self, id: &str) -> Vec<Record> {
        match self {
            Self::Classic(_) => vec![Record::group(id, None)],
            Self::Consumer(group) => {
                group.tombstones(None).into_iter().map(Record::Consumer).collect()
            }
            Self::Share(group) => group.tombstones().into_iter().map(Record::Share).collect(),
            Self::Streams(group) => group.tombstones().into_iter().map(Record::Streams).collect(),
        }
    }

    /// Stops all timers, for a group that is no more.
    pub fn cancel_timers(&self, effects: &mut Effects) {
        match self {
            Self::Classic(group) => group.cancel_timers(effects),
            Self::Consumer(group) => {
                let of_members = group.members().flat_map(|member| {
                    [Slot::Session, Slot::Rebalance, Slot::Rejoin, Slot::Resync]
                        .map(|slot| slot(member.id.to_string()))
                });
                for slot in of_members.chain([Slot::Patterns]) {
                    effects.timers.push((group.id.to_string(), TimerChange::Cancel(slot)));
                }
            }
            Self::Share(group) => {
                for member in group.members() {
                    let slot = Slot::Session(member.id.to_string());
                    effects.timers.push((group.id.to_string(), TimerChange::Cancel(slot)));
                }
            }
            Self::Streams(group) => {
                let of_members = group.members().flat_map(|member| {
                    [Slot::Session, Slot::Rebalance].map(|slot| slot(member.id.to_string()))
                });
                for slot in of_members.chain([Slot::Delay]) {
                    effects.timers.push((group.id.to_string(), TimerChange::Cancel(slot)));
                }
            }
        }
    }

    /// Whether it goes by itself when it is empty and has no offsets.
    pub fn goes_when_empty(&self) -> bool {
        // Its records say of which partitions state is kept, which outlives its members.
        !matches!(self, Self::Share(_))
    }

    /// The group is there: its members' sessions begin anew.
    pub fn loaded(&mut self, image: &Image, step: &mut Step<'_>) {
        match self {
            Self::Classic(group) => group.loaded(step),
            Self::Consumer(group) => loaded(group, step.settings, image, step.effects),
            Self::Share(group) => {
                let after_ms = i64::from(step.settings.share_session_ms(image, &group.id));
                for member in group.members() {
                    let id = member.id.to_string();
                    let (slot, timer) = (Slot::Session(id.clone()), Timer::Session { member: id });
                    let change = TimerChange::Set { slot, after_ms, timer };
                    step.effects.timers.push((group.id.to_string(), change));
                }
            }
            Self::Streams(group) => loaded_streams(group, step.settings, image, step.effects),
        }
    }

    /// The group ends here: whoever waits within it is told `code`.
    pub fn unload(&mut self, code: ErrorCode, step: &mut Step<'_>) {
        match self {
            Self::Classic(group) => group.unload(code, step),
            // Nobody waits in these groups: all are answered at once.
            Self::Consumer(_) | Self::Share(_) | Self::Streams(_) => {}
        }
    }
}

fn loaded(group: &ConsumerGroup, settings: &GroupSettings, image: &Image, effects: &mut Effects) {
    let mut set = |slot, after_ms: i32, timer| {
        let change = TimerChange::Set { slot, after_ms: i64::from(after_ms), timer };
        effects.timers.push((group.id.to_string(), change));
    };
    let session_ms = settings.session_timeout_ms(image, &group.id);
    for member in group.members() {
        let id = member.id.to_string();
        let after_ms = member.classic_session_timeout_ms().unwrap_or(session_ms);
        set(Slot::Session(id.clone()), after_ms, Timer::Session { member: id.clone() });
        if member.state == consumer::MemberState::UnrevokedPartitions && !member.is_classic() {
            let timer = Timer::Rebalance { member: id.clone(), epoch: member.epoch };
            set(Slot::Rebalance(id), member.rebalance_timeout_ms, timer);
        }
    }
}

fn loaded_streams(
    group: &StreamsGroup,
    settings: &GroupSettings,
    image: &Image,
    effects: &mut Effects,
) {
    let mut change = |change| effects.timers.push((group.id.to_string(), change));
    let after_ms = i64::from(settings.streams_session_ms(image, &group.id));
    for member in group.members() {
        let id = member.id.to_string();
        let timer = Timer::Session { member: id.clone() };
        change(TimerChange::Set { slot: Slot::Session(id.clone()), after_ms, timer });
        if member.state == streams::MemberState::UnrevokedTasks {
            let timer = Timer::Rebalance { member: id.clone(), epoch: member.epoch };
            let after_ms = i64::from(member.rebalance_timeout_ms);
            change(TimerChange::Set { slot: Slot::Rebalance(id), after_ms, timer });
        }
    }
    // Only a group that was here before a write was taken back: it is not stored.
    if group.memory.is_delayed {
        let after_ms = settings.streams_initial_delay_ms(image, &group.id);
        change(TimerChange::SetIfAbsent { slot: Slot::Delay, after_ms, timer: Timer::Delay });
    }
}
