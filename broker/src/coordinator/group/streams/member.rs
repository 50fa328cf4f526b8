//! A member of a streams group: what it says of itself, its epoch and what it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::tasks::{Held, to_record};
use crate::coordinator::group::records::{StreamsCurrentValue, StreamsMemberValue};
use crate::wire::streams::{Endpoint, KeyValue, OrNull};

/// The member epoch of a member that leaves.
pub const LEAVE: i32 = -1;

/// That of a static member that will be back, which streams groups do not have yet.
pub const LEAVE_STATIC: i32 = -2;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemberState {
    #[default]
    Stable,
    /// It must give up tasks.
    UnrevokedTasks,
    /// Others still hold some of what it shall have.
    UnreleasedTasks,
    /// Written by a Kafka to come.
    Unknown(i8),
}

impl MemberState {
    fn of(number: i8) -> Self {
        match number {
            1 => Self::Stable,
            2 => Self::UnrevokedTasks,
            3 => Self::UnreleasedTasks,
            other => Self::Unknown(other),
        }
    }

    fn number(self) -> i8 {
        match self {
            Self::Stable => 1,
            Self::UnrevokedTasks => 2,
            Self::UnreleasedTasks => 3,
            Self::Unknown(other) => other,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub id: Arc<str>,
    pub epoch: i32,
    pub previous_epoch: i32,
    pub state: MemberState,
    pub instance_id: Option<String>,
    pub rack_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub topology_epoch: i32,
    /// Members of one process share its state directory.
    pub process_id: String,
    pub user_endpoint: Option<Endpoint>,
    pub client_tags: BTreeMap<String, String>,
    pub held: Held,
    /// What it was told to give up, and has not yet.
    pub revoking: Held,
}

impl Member {
    pub fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            epoch: 0,
            previous_epoch: 0,
            state: MemberState::Stable,
            instance_id: None,
            rack_id: None,
            client_id: String::new(),
            client_host: String::new(),
            rebalance_timeout_ms: -1,
            topology_epoch: -1,
            process_id: String::new(),
            user_endpoint: None,
            client_tags: BTreeMap::new(),
            held: Held::default(),
            revoking: Held::default(),
        }
    }

    pub fn is_reconciled_to(&self, target_epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == target_epoch
    }

    pub fn described_by(&mut self, value: StreamsMemberValue) {
        self.instance_id = value.instance_id;
        self.rack_id = value.rack_id;
        self.client_id = value.client_id;
        self.client_host = value.client_host;
        self.rebalance_timeout_ms = value.rebalance_timeout_ms;
        self.topology_epoch = value.topology_epoch;
        self.process_id = value.process_id;
        self.user_endpoint = value.user_endpoint.0;
        self.client_tags = value.client_tags.into_iter().map(|it| (it.key, it.value)).collect();
    }

    pub fn assigned_by(&mut self, value: StreamsCurrentValue) {
        let epoch = value.member_epoch;
        self.epoch = epoch;
        self.previous_epoch = value.previous_member_epoch;
        self.state = MemberState::of(value.state);
        self.held = Held::from_record(value.active, value.standby, value.warmup, epoch);
        self.revoking = Held::from_record(
            value.revoking_active,
            value.revoking_standby,
            value.revoking_warmup,
            epoch,
        );
    }

    pub fn to_value(&self) -> StreamsMemberValue {
        StreamsMemberValue {
            instance_id: self.instance_id.clone(),
            rack_id: self.rack_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            topology_epoch: self.topology_epoch,
            process_id: self.process_id.clone(),
            user_endpoint: OrNull(self.user_endpoint.clone()),
            client_tags: pairs(&self.client_tags),
        }
    }

    pub fn to_current(&self) -> StreamsCurrentValue {
        StreamsCurrentValue {
            member_epoch: self.epoch,
            previous_member_epoch: self.previous_epoch,
            state: self.state.number(),
            active: self.held.active_record(),
            standby: to_record(&self.held.standby),
            warmup: to_record(&self.held.warmup),
            revoking_active: self.revoking.active_record(),
            revoking_standby: to_record(&self.revoking.standby),
            revoking_warmup: to_record(&self.revoking.warmup),
        }
    }
}

pub fn pairs(map: &BTreeMap<String, String>) -> Vec<KeyValue> {
    let each = map.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() });
    each.collect()
}
