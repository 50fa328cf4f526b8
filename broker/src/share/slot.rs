//! One share partition of this broker: the pure part, what waits for it, and its stage.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::partition::{SharePartition, Token};
use crate::coordinator::share::records::ShareKey;
use crate::error::Refusal;
use crate::replica::Partition;
use crate::replica::watchers::Watchers;
use crate::types::{LeaderEpoch, Millis};

pub(super) struct Slot {
    pub key: ShareKey,
    pub partition: Arc<Partition>,
    /// In which this broker leads the partition.
    pub epoch: LeaderEpoch,
    pub inner: Mutex<Inner>,
    /// Woken when a fetch that waits may find something.
    pub changed: Watchers,
}

pub(super) struct Inner {
    pub stage: Stage,
    waiting: BTreeMap<Token, oneshot::Sender<Result<(), Refusal>>>,
    next_token: Token,
    /// When the clock is to look at it.
    pub due: Option<Millis>,
    /// A fetch wanted its turn while another one had it.
    pub contended: bool,
}

pub(super) enum Stage {
    Loading,
    Active(Box<SharePartition>),
    /// Not served here any more, or never was; why.
    Gone(Refusal),
}

impl Slot {
    pub fn new(key: ShareKey, partition: Arc<Partition>, epoch: LeaderEpoch) -> Arc<Self> {
        let inner = Inner {
            stage: Stage::Loading,
            waiting: BTreeMap::new(),
            next_token: 0,
            due: None,
            contended: false,
        };
        Arc::new(Self {
            key,
            partition,
            epoch,
            inner: Mutex::new(inner),
            changed: Watchers::default(),
        })
    }
}

impl Inner {
    /// Somebody waits; the answer comes with the token.
    pub fn wait(&mut self) -> (Token, oneshot::Receiver<Result<(), Refusal>>) {
        let token = self.next_token;
        self.next_token += 1;
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(token, sender);
        (token, receiver)
    }

    pub fn answer(&mut self, token: Token, result: Result<(), Refusal>) {
        if let Some(sender) = self.waiting.remove(&token) {
            // Whoever asked may have gone.
            let _ = sender.send(result);
        }
    }
}
