//! Which offset is the newest of each key: a table of fixed-size entries, bounded in memory.
//!
//! Keys are held as 128 bits of their hash, so two keys that share it count as one; with a billion
//! keys the odds of that are one in 10^20. The table grows with its content up to its bound.

use std::hash::Hasher;

use crate::types::Offset;

/// Bytes of memory for one key.
pub(super) const ENTRY: usize = size_of::<Entry>();
const FIRST: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: (u64, u64),
    /// Negative: free.
    offset: Offset,
}

const FREE: Entry = Entry { key: (0, 0), offset: -1 };

pub(super) struct OffsetMap {
    entries: Vec<Entry>,
    used: usize,
    /// So many places at most, and so many keys, which are fewer.
    slots: usize,
    most: usize,
    /// The last offset that the table has seen; what lies behind is kept whatever its key.
    latest: Offset,
}

impl OffsetMap {
    /// Within `bytes` of memory, of which at most the part `load` is in use.
    pub(super) fn new(bytes: u64, load: f64) -> Self {
        let slots = usize::try_from(bytes / ENTRY as u64).unwrap_or(usize::MAX).max(2);
        let most = (slots as f64 * load.clamp(0.1, 0.95)) as usize;
        let most = most.clamp(1, slots - 1);
        Self { entries: Vec::new(), used: 0, slots, most, latest: -1 }
    }

    pub(super) fn latest(&self) -> Offset {
        self.latest
    }

    pub(super) fn saw(&mut self, offset: Offset) {
        self.latest = self.latest.max(offset);
    }

    /// `false`: the table is full, and was so before this key.
    pub(super) fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        if self.used >= self.most {
            return false;
        }
        if self.entries.len() < self.slots && (self.used + 1) * 4 > self.entries.len() * 3 {
            self.grow();
        }
        let key = hash(key);
        let at = find(&self.entries, key);
        self.used += usize::from(self.entries[at].offset < 0);
        self.entries[at] = Entry { key, offset };
        true
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Offset> {
        if self.entries.is_empty() {
            return None;
        }
        let found = self.entries[find(&self.entries, hash(key))].offset;
        (found >= 0).then_some(found)
    }

    fn grow(&mut self) {
        let new = (self.entries.len() * 2).max(FIRST).min(self.slots);
        let old = std::mem::replace(&mut self.entries, vec![FREE; new]);
        for entry in old.into_iter().filter(|entry| entry.offset >= 0) {
            let at = find(&self.entries, entry.key);
            self.entries[at] = entry;
        }
    }
}

/// Where the key is, or the free place that is its own. The table is never full.
fn find(entries: &[Entry], key: (u64, u64)) -> usize {
    let mut at = (key.0 % entries.len() as u64) as usize;
    while entries[at].offset >= 0 && entries[at].key != key {
        at = if at + 1 == entries.len() { 0 } else { at + 1 };
    }
    at
}

/// `SipHash` twice, always with the same seed.
fn hash(key: &[u8]) -> (u64, u64) {
    let half = |seed: u8| {
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write_u8(seed);
        hasher.write(key);
        hasher.finish()
    };
    (half(0), half(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_offset_of_each_key_is_found_and_the_bound_holds() {
        let mut map = OffsetMap::new(10_000 * ENTRY as u64, 0.9);
        let mut put = 0;
        for round in 0..3 {
            for n in 0..4000_i64 {
                assert!(map.put(&n.to_be_bytes(), round * 4000 + n));
                put += 1;
            }
        }
        assert_eq!((put, map.used), (12_000, 4000));
        for n in 0..4000_i64 {
            assert_eq!(map.get(&n.to_be_bytes()), Some(8000 + n));
        }
        assert_eq!(map.get(b"other"), None);
        let mut more = 4000_i64;
        while map.put(&more.to_be_bytes(), more) {
            more += 1;
        }
        assert_eq!(more, 9000);
        assert_eq!(map.entries.len(), 10_000);
        assert_eq!(map.get(&8999_i64.to_be_bytes()), Some(8999));
    }

    #[test]
    fn a_table_of_one_key_is_a_table() {
        let mut map = OffsetMap::new(1, 0.9);
        assert_eq!(map.get(b"a"), None);
        assert!(map.put(b"a", 5));
        assert!(!map.put(b"b", 6));
        assert_eq!((map.get(b"a"), map.get(b"b")), (Some(5), None));
    }
}
