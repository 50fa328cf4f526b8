//! The image that this node acts on, and those who must hear of its changes.
//!
//! Whoever replays the log (the controller itself on a node that has it, else the follower)
//! publishes here; one task hands each new image to the listeners, in order, one at a time. What
//! is published while they work is merged: they may skip images, never changes. A listener may
//! take its time (it may open logs): only this node's view waits for it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::image::Image;
use super::replay::Delta;
use crate::env;
use crate::types::Offset;

/// Somebody who acts on changes of the cluster.
#[async_trait]
pub trait Listener: Send + Sync {
    async fn on_image(&self, old: &Arc<Image>, new: &Arc<Image>, delta: &Delta);
}

pub struct Metadata {
    current: Arc<ArcSwap<Image>>,
    pending: Mutex<Option<(Image, Delta)>>,
    wake: Notify,
    /// The offset of the last image that all listeners have dealt with.
    applied: watch::Sender<Offset>,
    listeners: Mutex<Vec<Arc<dyn Listener>>>,
}

impl Metadata {
    pub fn new(cluster_id: &str) -> Arc<Self> {
        Arc::new(Self {
            current: Arc::new(ArcSwap::from_pointee(Image::empty(cluster_id))),
            pending: Mutex::new(None),
            wake: Notify::new(),
            applied: watch::Sender::new(-1),
            listeners: Mutex::new(Vec::new()),
        })
    }

    /// The current image.
    pub fn image(&self) -> Arc<Image> {
        self.current.load_full()
    }

    /// For those that keep the swap itself.
    pub fn shared(&self) -> Arc<ArcSwap<Image>> {
        self.current.clone()
    }

    /// How far this node has acted on the metadata log.
    pub fn applied(&self) -> watch::Receiver<Offset> {
        self.applied.subscribe()
    }

    /// Adds a listener; it is first called with the next change. Add all before [`Self::start`].
    pub fn listen(&self, listener: Arc<dyn Listener>) {
        self.listeners.lock().push(listener);
    }

    /// A new image, with what changed since the one published before.
    pub(super) fn publish(&self, image: Image, delta: Delta) {
        let mut pending = self.pending.lock();
        let delta = match pending.take() {
            Some((_, earlier)) => earlier.then(delta, &image),
            None => delta,
        };
        *pending = Some((image, delta));
        drop(pending);
        self.wake.notify_one();
    }

    /// Starts handing images to the listeners.
    pub fn start(self: &Arc<Self>, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
        let metadata = self.clone();
        env::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = metadata.wake.notified() => metadata.hand_over().await,
                }
            }
        })
    }

    async fn hand_over(&self) {
        let Some((image, delta)) = self.pending.lock().take() else { return };
        let old = self.image();
        let new = Arc::new(image);
        self.current.store(new.clone());
        let listeners = self.listeners.lock().clone();
        for listener in listeners {
            listener.on_image(&old, &new, &delta).await;
        }
        self.applied.send_replace(new.offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Seen(Mutex<Vec<(Offset, Offset, usize)>>);

    #[async_trait]
    impl Listener for Seen {
        async fn on_image(&self, old: &Arc<Image>, new: &Arc<Image>, delta: &Delta) {
            self.0.lock().push((old.offset, new.offset, delta.brokers.len()));
        }
    }

    #[tokio::test]
    async fn listeners_may_skip_images_but_never_changes() {
        let metadata = Metadata::new("test");
        let seen = Arc::new(Seen(Mutex::default()));
        metadata.listen(seen.clone());
        for offset in 0..3 {
            let mut image = Image::empty("test");
            image.offset = offset;
            let brokers = [offset as i32].into();
            metadata.publish(image, Delta { brokers, ..Delta::default() });
        }
        let stop = CancellationToken::new();
        let task = metadata.start(stop.clone());
        metadata.applied().wait_for(|offset| *offset == 2).await.unwrap();
        assert_eq!(*seen.0.lock(), [(-1, 2, 3)]);
        stop.cancel();
        task.await.unwrap();
    }
}
