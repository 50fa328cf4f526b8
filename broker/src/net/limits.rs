//! How many connections there may be: in all, and from one address.
//!
//! At `max.connections` the listeners for clients stop accepting until a connection ends; those
//! between nodes go on. A connection beyond its address's share is closed at once.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use crate::config::Settings;

pub struct Limits {
    max: usize,
    max_per_address: usize,
    overrides: FxHashMap<IpAddr, usize>,
    open: Mutex<Open>,
    closed: Notify,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_address: FxHashMap<IpAddr, usize>,
}

impl Limits {
    pub fn new(settings: &Settings) -> Arc<Self> {
        let number = |number: i32| usize::try_from(number).unwrap_or(0);
        Arc::new(Self {
            max: number(settings.max_connections),
            max_per_address: number(settings.max_connections_per_ip),
            overrides: settings.max_connections_by_address.iter().copied().collect(),
            open: Mutex::default(),
            closed: Notify::new(),
        })
    }

    /// Returns once there are fewer than `max.connections`.
    pub async fn has_room(&self) {
        loop {
            let closed = self.closed.notified();
            if self.open.lock().all < self.max {
                return;
            }
            closed.await;
        }
    }

    /// Counts a connection from `address` until the returned value is dropped; `None` when the
    /// address has its share already.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admitted> {
        let max = self.overrides.get(&address).copied().unwrap_or(self.max_per_address);
        let mut open = self.open.lock();
        let of_address = open.by_address.entry(address).or_default();
        if *of_address >= max {
            if *of_address == 0 {
                open.by_address.remove(&address);
            }
            return None;
        }
        *of_address += 1;
        open.all += 1;
        Some(Admitted { limits: self.clone(), address })
    }
}

/// A connection that counts.
pub struct Admitted {
    limits: Arc<Limits>,
    address: IpAddr,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.limits.open.lock();
        open.all -= 1;
        if let Some(of_address) = open.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                open.by_address.remove(&self.address);
            }
        }
        drop(open);
        self.limits.closed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_gets_its_share_and_all_together_theirs() {
        let settings = Settings::for_test(
            "max.connections=2\nmax.connections.per.ip=1\n\
             max.connections.per.ip.overrides=10.0.0.9:2,10.0.0.8:0",
        );
        let limits = Limits::new(&settings);
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let first = limits.admit(address(1)).unwrap();
        assert!(limits.admit(address(1)).is_none());
        assert!(limits.admit(address(8)).is_none());
        let _second = limits.admit(address(9)).unwrap();
        let waiting = limits.clone();
        let waiting = tokio::spawn(async move { waiting.has_room().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
        assert!(limits.admit(address(9)).is_some());
    }
}
