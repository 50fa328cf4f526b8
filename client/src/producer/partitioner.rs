//! Which partition a record goes to, when nobody says: Java's answer, so that mixed producers agree.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The partition of a keyed record: murmur2, sign bit off, modulo.
pub fn partition_for_key(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & 0x7FFF_FFFF) as i32 % partitions
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5BD1_E995;
    let mut hash = 0x9747_B28C ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (at, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

/// Records without a key stay on one partition for a batch's worth of bytes, then move at random.
#[derive(Default)]
pub(super) struct Sticky(BTreeMap<String, (i32, usize)>);

impl Sticky {
    pub(super) fn next(
        &mut self,
        topic: &str,
        partitions: i32,
        size: usize,
        batch_size: usize,
    ) -> i32 {
        let fresh = || StdRng::from_os_rng().random_range(0..partitions);
        let (partition, bytes) = self.0.entry(topic.to_owned()).or_insert_with(|| (fresh(), 0));
        if *bytes >= batch_size || *partition >= partitions {
            (*partition, *bytes) = (fresh(), 0);
        }
        *bytes += size;
        *partition
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_hashes_as_java_does() {
        let table: [(&[u8], i32); 7] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
            (b"", 275_646_681),
        ];
        for (key, hash) in table {
            assert_eq!(murmur2(key) as i32, hash, "{}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn records_without_a_key_stay_together_for_a_batch() {
        let mut sticky = Sticky::default();
        let first = sticky.next("t", 1000, 100, 1000);
        for _ in 0..9 {
            assert_eq!(sticky.next("t", 1000, 100, 1000), first);
        }
        let later: Vec<i32> = (0..50).map(|_| sticky.next("t", 1000, 1000, 1000)).collect();
        assert!(later.iter().any(|partition| *partition != first));
        assert!(sticky.next("t", 1, 100, 1000) == 0, "a topic that shrank");
    }
}
