//! Consumer groups of the classic protocol and their committed offsets.

pub mod call;
pub mod classic;
#[cfg(test)]
mod conversation;
mod describe;

pub mod effects;
mod hosted;
pub mod offsets;
#[cfg(test)]
mod properties;
pub mod records;
pub mod settings;
pub mod shard;
#[cfg(test)]
mod versions;

pub use super::runtime::partition_of;

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
