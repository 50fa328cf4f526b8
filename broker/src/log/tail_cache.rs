//! The newest bytes of the logs of a directory, kept as they were appended, so that a reader that
//! keeps up needs no disk and no copy.
//!
//! One budget of bytes for the whole directory; when it is used up, the oldest append of all logs
//! is forgotten first; so it is at the largest number of entries. Losing an entry is never wrong: the reader goes to the disk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};

use crate::types::Offset;
use crate::wire::records::{BatchView, Batches};

/// What an entry costs beyond its bytes, about.
const OVERHEAD: usize = 128;
/// Bounds the list of the order, which keeps the entries of truncated and deleted logs for a while.
const MOST_ENTRIES: usize = 1 << 20;

/// The budget and the order of eviction, shared by the logs of one directory.
pub struct TailCache {
    budget: usize,
    used: AtomicUsize,
    order: Mutex<VecDeque<(Weak<Chunks>, u64)>>,
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub evicted: AtomicU64,
}

struct Chunk {
    number: u64,
    base: Offset,
    /// One past the last offset.
    end: Offset,
    bytes: Bytes,
}

impl Chunk {
    fn cost(&self) -> usize {
        self.bytes.len() + OVERHEAD
    }
}

/// What one log has in the cache: an unbroken run of offsets up to its end.
type Chunks = RwLock<(u64, VecDeque<Chunk>)>;

/// One log's handle.
pub(super) struct Tail {
    cache: Arc<TailCache>,
    chunks: Arc<Chunks>,
}

impl TailCache {
    pub fn new(budget: usize) -> Arc<Self> {
        Arc::new(Self {
            budget,
            used: AtomicUsize::new(0),
            order: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        })
    }
    pub fn budget(&self) -> usize {
        self.budget
    }
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
    pub(super) fn tail(self: &Arc<Self>) -> Tail {
        Tail { cache: self.clone(), chunks: Arc::default() }
    }

    fn forget(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn evict(&self) {
        loop {
            let mut order = self.order.lock();
            if self.used() <= self.budget && order.len() <= MOST_ENTRIES {
                return;
            }
            let Some((chunks, number)) = order.pop_front() else { return };
            drop(order);
            let Some(chunks) = chunks.upgrade() else { continue };
            let mut chunks = chunks.write();
            while chunks.1.front().is_some_and(|chunk| chunk.number <= number) {
                if let Some(chunk) = chunks.1.pop_front() {
                    self.forget(chunk.cost());
                    self.evicted.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Tail {
    /// Adds what was appended at the end of the log.
    pub(super) fn push(&self, base: Offset, end: Offset, bytes: Bytes) {
        if bytes.len() + OVERHEAD > self.cache.budget {
            self.clear();
            return;
        }
        let number = {
            let mut chunks = self.chunks.write();
            chunks.0 += 1;
            let number = chunks.0;
            let chunk = Chunk { number, base, end, bytes };
            self.cache.used.fetch_add(chunk.cost(), Ordering::Relaxed);
            chunks.1.push_back(chunk);
            number
        };
        self.cache.order.lock().push_back((Arc::downgrade(&self.chunks), number));
        self.cache.evict();
    }

    pub(super) fn clear(&self) {
        let mut chunks = self.chunks.write();
        for chunk in chunks.1.drain(..) {
            self.cache.forget(chunk.cost());
        }
    }

    /// The whole batches from the one that holds `from` on: at most `max` bytes, but the first in
    /// any case if `at_least_one`, and none that reaches `up_to`. `None`: not here.
    pub(super) fn read(
        &self,
        from: Offset,
        max: usize,
        up_to: Offset,
        at_least_one: bool,
    ) -> Option<Bytes> {
        let parts = self.collect(from, max, up_to, at_least_one);
        let counter = if parts.is_some() { &self.cache.hits } else { &self.cache.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut parts = parts?;
        if parts.len() <= 1 {
            return Some(parts.pop().unwrap_or_default());
        }
        let mut joined = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
        for part in parts {
            joined.extend_from_slice(&part);
        }
        Some(joined.freeze())
    }

    fn collect(
        &self,
        from: Offset,
        max: usize,
        up_to: Offset,
        at_least_one: bool,
    ) -> Option<Vec<Bytes>> {
        let chunks = self.chunks.read();
        let first = chunks.1.partition_point(|chunk| chunk.end <= from);
        if chunks.1.get(first)?.base > from {
            return None;
        }
        let mut parts = Vec::new();
        let mut taken = 0;
        for chunk in chunks.1.range(first..) {
            let skipped = skip_to(&chunk.bytes, from);
            let rest = &chunk.bytes[skipped..];
            let fits = fitting(rest, max.saturating_sub(taken), up_to, at_least_one && taken == 0);
            if fits > 0 {
                parts.push(chunk.bytes.slice(skipped..skipped + fits));
                taken += fits;
            }
            if fits < rest.len() || taken >= max {
                break;
            }
        }
        Some(parts)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Where the first batch lies that ends at or after `from`.
pub(super) fn skip_to(bytes: &[u8], from: Offset) -> usize {
    Batches::new(bytes)
        .map_while(Result::ok)
        .take_while(|batch| batch.last_offset() < from)
        .map(|batch| batch.size())
        .sum()
}

/// How many bytes of whole batches there are within `max` and below `up_to`.
pub(super) fn fitting(bytes: &[u8], max: usize, up_to: Offset, at_least_one: bool) -> usize {
    let mut taken = 0;
    let allowed = |batch: &BatchView<'_>| batch.last_offset() < up_to;
    for batch in Batches::new(bytes).map_while(Result::ok).take_while(allowed) {
        if taken + batch.size() > max && !(at_least_one && taken == 0) {
            break;
        }
        taken += batch.size();
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::records::BatchBuilder;

    fn batch(base: Offset, count: i64) -> Bytes {
        let mut builder = BatchBuilder::new().base_offset(base);
        for _ in 0..count {
            builder.push(0, None, Some(b"12345"));
        }
        builder.build()
    }

    #[test]
    fn reads_whole_batches_within_the_limits() {
        let cache = TailCache::new(1 << 20);
        let tail = cache.tail();
        for n in 0..4 {
            tail.push(10 + n * 2, 12 + n * 2, batch(10 + n * 2, 2));
        }
        let size = batch(10, 2).len();
        let offsets = |bytes: Bytes| -> Vec<_> {
            Batches::new(&bytes).map(|batch| batch.unwrap().base_offset()).collect()
        };
        assert_eq!(tail.read(9, 1000, 99, true), None);
        assert_eq!(tail.read(18, 1000, 99, true), None);
        assert_eq!(offsets(tail.read(10, 10_000, 99, true).unwrap()), [10, 12, 14, 16]);
        assert_eq!(offsets(tail.read(13, 10_000, 99, true).unwrap()), [12, 14, 16]);
        assert_eq!(offsets(tail.read(10, size * 2, 99, true).unwrap()), [10, 12]);
        assert_eq!(offsets(tail.read(10, 10_000, 14, true).unwrap()), [10, 12]);
        assert_eq!(offsets(tail.read(10, 1, 99, true).unwrap()), [10]);
        assert_eq!(offsets(tail.read(10, 1, 99, false).unwrap()), [0; 0]);
    }

    #[test]
    fn the_oldest_of_all_logs_is_forgotten_first() {
        let size = batch(0, 1).len() + OVERHEAD;
        let cache = TailCache::new(size * 3);
        let (one, two) = (cache.tail(), cache.tail());
        one.push(0, 1, batch(0, 1));
        two.push(0, 1, batch(0, 1));
        one.push(1, 2, batch(1, 1));
        two.push(1, 2, batch(1, 1));
        assert!(one.read(0, 1000, 99, true).is_none() && one.read(1, 1000, 99, true).is_some());
        assert!(two.read(0, 1000, 99, true).is_some());
        assert_eq!(cache.used(), size * 3);
        drop(one);
        two.clear();
        assert_eq!(cache.used(), 0);
    }
}
