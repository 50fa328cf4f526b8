//! Randomness: from the operating system, or from a seed.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use uuid::Uuid;

/// A shared source of random numbers. Not for secrets.
#[derive(Clone)]
pub struct Random(Arc<Mutex<StdRng>>);

impl Random {
    pub fn from_os() -> Self {
        Self(Arc::new(Mutex::new(StdRng::from_os_rng())))
    }

    pub fn from_seed(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    pub fn next_u64(&self) -> u64 {
        self.0.lock().next_u64()
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// A random (version 4) UUID, never one whose base64 form starts with a dash, which Kafka's
    /// tools would take for a flag.
    pub fn uuid(&self) -> Uuid {
        loop {
            let mut bytes = [0; 16];
            self.0.lock().fill_bytes(&mut bytes);
            let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
            // '-' is 62 in URL-safe base64: the first six bits 111110.
            if id.as_bytes()[0] >> 2 != 62 {
                return id;
            }
        }
    }
}
