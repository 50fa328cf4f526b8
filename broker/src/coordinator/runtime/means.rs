//! What a driver works with.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Notify;
use super::shard::{Context, CoordinatorShard};
use super::state_log::StateLog;
use crate::controller::Image;
use crate::env::Env;

pub(super) struct Means<S: CoordinatorShard> {
    pub env: Env,
    pub settings: S::Settings,
    pub log: Arc<dyn StateLog>,
    pub image: Arc<ArcSwap<Image>>,
    pub notify: Notify<S>,
}

impl<S: CoordinatorShard> Means<S> {
    /// Lets a shard take a step, now.
    pub fn step<T>(&self, step: impl FnOnce(&Context<'_, S>) -> T) -> T {
        let image = self.image.load();
        let now = self.env.clock.wall_ms();
        step(&Context { settings: &self.settings, now, image: &image })
    }
}
