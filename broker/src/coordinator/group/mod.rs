//! Groups of all kinds and their committed offsets.

pub mod assignor;
pub mod call;
pub mod classic;
pub mod consumer;
#[cfg(test)]
mod conversation;
#[cfg(test)]
mod conversation_consumer;
#[cfg(test)]
mod conversation_streams;
mod describe;

pub mod effects;
mod expiry;
mod hosted;
pub mod kind;
pub mod modern;
pub mod offsets;
#[cfg(test)]
mod properties;
pub mod records;
mod requests;
pub mod settings;
pub mod shard;
pub mod share;
mod share_requests;
pub mod streams;
mod streams_requests;
pub mod timeline;
pub mod timers;
mod transactional;
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
