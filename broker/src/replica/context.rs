//! What all partitions of a broker share: who it is, the image, the time, ISR changes on their way.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::leader::{Brokers, Proposal};
use crate::config::Settings;
use crate::controller::image::{BrokerImage, Image};
use crate::env::Env;
use crate::types::{BrokerEpoch, Millis, NodeId};

/// ISRs that are to be proposed; the newest per partition, so bounded by the partitions.
pub type Proposals = BTreeMap<(Uuid, i32), Proposal>;

pub struct Context {
    pub me: NodeId,
    pub env: Env,
    pub settings: Settings,
    pub image: Arc<ArcSwap<Image>>,
    /// The epoch of this broker's registration.
    pub broker_epoch: watch::Receiver<BrokerEpoch>,
    started: Instant,
    proposals: Mutex<Proposals>,
    /// Told when there is something to propose.
    pub proposed: Notify,
}

impl Context {
    pub fn new(
        env: Env,
        settings: Settings,
        image: Arc<ArcSwap<Image>>,
        broker_epoch: watch::Receiver<BrokerEpoch>,
    ) -> Arc<Self> {
        Arc::new(Self {
            me: settings.node_id,
            started: env.clock.now(),
            env,
            settings,
            image,
            broker_epoch,
            proposals: Mutex::default(),
            proposed: Notify::new(),
        })
    }

    /// Milliseconds since the start: the time of the pure roles.
    pub fn now(&self) -> Millis {
        self.env.clock.now().saturating_duration_since(self.started).as_millis() as Millis
    }

    pub fn broker_epoch(&self) -> BrokerEpoch {
        *self.broker_epoch.borrow()
    }

    pub fn lag_time_max(&self) -> Millis {
        self.settings.replica_lag_time_max.as_millis() as Millis
    }

    pub fn propose(&self, topic: Uuid, partition: i32, proposal: Proposal) {
        self.proposals.lock().insert((topic, partition), proposal);
        self.proposed.notify_one();
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
