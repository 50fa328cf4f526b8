//! What all partitions of a broker share: who it is, the image, the time, ISR changes on their way.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::leader::{Brokers, Proposal};
use crate::config::Settings;
use crate::controller::image::{BrokerImage, Image};
use crate::controller::lifecycle::Membership;
use crate::env::Env;
use crate::types::{BrokerEpoch, Millis, NodeId};

/// ISRs that are to be proposed; the newest per partition, so bounded by the partitions.
pub type Proposals = BTreeMap<(Uuid, i32), Proposal>;
/// In which directories replicas lie; the newest per partition.
pub type Assignments = BTreeMap<(Uuid, i32), Uuid>;

pub struct Context {
    pub me: NodeId,
    pub env: Env,
    pub settings: Settings,
    pub image: Arc<ArcSwap<Image>>,
    pub membership: Membership,
    started: Instant,
    proposals: Mutex<Proposals>,
    /// Told when there is something to propose.
    pub proposed: Notify,
    assignments: Mutex<Assignments>,
    /// Told when the controller is to hear of a directory.
    pub assigned: Notify,
}

impl Context {
    pub fn new(
        env: Env,
        settings: Settings,
        image: Arc<ArcSwap<Image>>,
        membership: Membership,
    ) -> Arc<Self> {
        Arc::new(Self {
            me: settings.node_id,
            started: env.clock.now(),
            env,
            settings,
            image,
            membership,
            proposals: Mutex::default(),
            proposed: Notify::new(),
            assignments: Mutex::default(),
            assigned: Notify::new(),
        })
    }

    /// Milliseconds since the start: the time of the pure roles.
    pub fn now(&self) -> Millis {
        self.env.clock.now().saturating_duration_since(self.started).as_millis() as Millis
    }

    pub fn broker_epoch(&self) -> BrokerEpoch {
        *self.membership.epoch.borrow()
    }

    /// Whether this broker may have been fenced without its knowledge: no controller has answered it
    /// for a session.
    pub fn may_be_fenced(&self) -> bool {
        let heard = *self.membership.heard.borrow();
        let session = self.settings.broker_session_timeout;
        heard.is_some_and(|at| self.env.clock.now().saturating_duration_since(at) >= session)
    }

    pub fn lag_time_max(&self) -> Millis {
        self.settings.replica_lag_time_max.as_millis() as Millis
    }

    pub fn propose(&self, topic: Uuid, partition: i32, proposal: Proposal) {
        self.proposals.lock().insert((topic, partition), proposal);
        self.proposed.notify_one();
    }

    /// The controller is to be told that the replica here lies in `directory`.
    pub fn assign(&self, topic: Uuid, partition: i32, directory: Uuid) {
        self.assignments.lock().insert((topic, partition), directory);
        self.assigned.notify_one();
    }

    /// At most `count`.
    pub fn take_assignments(&self, count: usize) -> Assignments {
        let mut all = self.assignments.lock();
        let mut taken = std::mem::take(&mut *all);
        if let Some(first_left) = taken.keys().nth(count).copied() {
            *all = taken.split_off(&first_left);
        }
        taken
    }

    /// What was taken, unless there is something newer to tell.
    pub fn assign_again(&self, assignments: Assignments) {
        let mut all = self.assignments.lock();
        for (key, directory) in assignments {
            all.entry(key).or_insert(directory);
        }
    }

    pub fn take_proposals(&self) -> Proposals {
        std::mem::take(&mut *self.proposals.lock())
    }
}

impl Brokers for Image {
    fn active(&self, id: NodeId) -> Option<BrokerEpoch> {
        self.broker(id).filter(|broker| BrokerImage::is_active(broker)).map(|broker| broker.epoch)
    }
}
