//! Consumer groups of the classic protocol and their committed offsets.

pub mod call;
pub mod classic;
#[cfg(test)]
mod conversation;
mod describe;

pub mod effects;
pub mod offsets;
#[cfg(test)]
mod properties;
pub mod records;
pub mod settings;
pub mod shard;
#[cfg(test)]
mod versions;

/// Which partition of `__consumer_offsets` keeps a group: Java's hash of the name, because every
/// broker and tool must find the same one.
pub fn partition_of(group: &str, partitions: i32) -> i32 {
    let hash = group
        .encode_utf16()
        .fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // Kafka clears the sign where `abs` would leave the smallest number negative.
    let positive = if hash == i32::MIN { 0 } else { hash.abs() };
    positive % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::partition_of;

    #[test]
    fn a_group_is_kept_where_java_finds_it() {
        // "polygenelubricants".hashCode() is the smallest int.
        assert_eq!(partition_of("polygenelubricants", 50), 0);
        assert_eq!(partition_of("console-consumer", 50), 40);
        assert_eq!(partition_of("", 50), 0);
    }
}
