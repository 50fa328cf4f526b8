//! WriteTxnMarkers: `kafka-protocol` knows version 1 only; its schema is here, for both ends.
//!
//! From version 2 on a marker says which version of the transactions protocol its coordinator
//! speaks (KIP-1228).

crate::message! {
    /// What a coordinator of transactions asks of leaders.
    pub struct WriteMarkers (1, 2, flexible 1) {
        markers: Vec<Marker> [from 1],
    }
    /// One transaction's end, for all partitions of one leader.
    pub struct Marker {
        producer_id: i64 [from 1],
        producer_epoch: i16 [from 1],
        /// Else it is aborted.
        committed: bool [from 1],
        topics: Vec<MarkerTopic> [from 1],
        coordinator_epoch: i32 [from 1],
        transaction_version: i8 [from 2],
    }
    /// The partitions of one topic.
    pub struct MarkerTopic {
        name: String [from 1],
        partitions: Vec<i32> [from 1],
    }

    /// The leader's answer.
    pub struct MarkersWritten (1, 2, flexible 1) {
        markers: Vec<MarkerResult> [from 1],
    }
    /// What became of one transaction's markers.
    pub struct MarkerResult {
        producer_id: i64 [from 1],
        topics: Vec<MarkerTopicResult> [from 1],
    }
    /// The same for one topic.
    pub struct MarkerTopicResult {
        name: String [from 1],
        partitions: Vec<MarkerPartitionResult> [from 1],
    }
    /// The same for one partition.
    pub struct MarkerPartitionResult {
        index: i32 [from 1],
        error_code: i16 [from 1],
    }
}
