//! The requests of share groups (KIP-932), between clients and brokers and among brokers.
//!
//! `kafka-protocol` knows some of them in older versions only; here they are as Kafka 4.3 has them.
//! The answer to ShareFetch, which carries records, is in `share_fetch_response`.

use uuid::Uuid;

use crate::types::{LeaderEpoch, Offset};

crate::message! {
    /// ShareFetch, key 78.
    pub struct ShareFetchRequest (1, 2, flexible 0) {
        group: Option<String> [from 0],
        member: Option<String> [from 0],
        session_epoch: i32 [from 0],
        max_wait_ms: i32 [from 0],
        min_bytes: i32 [from 0],
        max_bytes: i32 [from 0, default i32::MAX],
        max_records: i32 [from 1],
        batch_size: i32 [from 1],
        acquire_mode: i8 [from 2],
        is_renew: bool [from 2],
        topics: Vec<AcknowledgeTopic> [from 0],
        forgotten: Vec<ForgottenTopic> [from 0],
    }
    pub struct ForgottenTopic {
        topic_id: Uuid [from 0],
        partitions: Vec<i32> [from 0],
    }

    /// ShareAcknowledge, key 79.
    pub struct ShareAcknowledgeRequest (1, 2, flexible 0) {
        group: Option<String> [from 0],
        member: Option<String> [from 0],
        session_epoch: i32 [from 0],
        is_renew: bool [from 2],
        topics: Vec<AcknowledgeTopic> [from 0],
    }
    pub struct AcknowledgeTopic {
        topic_id: Uuid [from 0],
        partitions: Vec<AcknowledgePartition> [from 0],
    }
    pub struct AcknowledgePartition {
        index: i32 [from 0],
        batches: Vec<AcknowledgementBatch> [from 0],
    }
    pub struct AcknowledgementBatch {
        first: Offset [from 0],
        last: Offset [from 0],
        types: Vec<i8> [from 0],
    }

    pub struct ShareAcknowledgeResponse (1, 2, flexible 0) {
        throttle_time_ms: i32 [from 0],
        error_code: i16 [from 0],
        error_message: Option<String> [from 0],
        lock_timeout_ms: i32 [from 2],
        topics: Vec<AcknowledgedTopic> [from 0],
        endpoints: Vec<NodeEndpoint> [from 0],
    }
    pub struct AcknowledgedTopic {
        topic_id: Uuid [from 0],
        partitions: Vec<AcknowledgedPartition> [from 0],
    }
    pub struct AcknowledgedPartition {
        index: i32 [from 0],
        error_code: i16 [from 0],
        error_message: Option<String> [from 0],
        leader: Leader [from 0],
    }
    pub struct Leader {
        id: i32 [from 0],
        epoch: LeaderEpoch [from 0],
    }
    pub struct NodeEndpoint {
        id: i32 [from 0],
        host: String [from 0],
        port: i32 [from 0],
        rack: Option<String> [from 0],
    }

    /// InitializeShareGroupState, key 83.
    pub struct InitializeStateRequest (0, 0, flexible 0) {
        group: String [from 0],
        topics: Vec<InitializeStateTopic> [from 0],
    }
    pub struct InitializeStateTopic {
        topic_id: Uuid [from 0],
        partitions: Vec<InitializeStatePartition> [from 0],
    }
    pub struct InitializeStatePartition {
        partition: i32 [from 0],
        state_epoch: i32 [from 0],
        start: Offset [from 0],
    }

    /// ReadShareGroupState, key 84, and ReadShareGroupStateSummary, key 87.
    pub struct ReadStateRequest (0, 1, flexible 0) {
        group: String [from 0],
        topics: Vec<ReadStateTopic> [from 0],
    }
    pub struct ReadStateTopic {
        topic_id: Uuid [from 0],
        partitions: Vec<ReadStatePartition> [from 0],
    }
    pub struct ReadStatePartition {
        partition: i32 [from 0],
        leader_epoch: LeaderEpoch [from 0],
    }
    pub struct ReadStateResponse (0, 0, flexible 0) {
        results: Vec<StateOfTopic> [from 0],
    }
    pub struct StateOfTopic {
        topic_id: Uuid [from 0],
        partitions: Vec<StateOfPartition> [from 0],
    }
    pub struct StateOfPartition {
        partition: i32 [from 0],
        error_code: i16 [from 0],
        error_message: Option<String> [from 0],
        state_epoch: i32 [from 0],
        start: Offset [from 0],
        batches: Vec<StateBatch> [from 0],
    }
    pub struct StateBatch {
        first: Offset [from 0],
        last: Offset [from 0],
        state: i8 [from 0],
        deliveries: i16 [from 0],
    }
    pub struct StateSummaryResponse (0, 1, flexible 0) {
        results: Vec<SummaryOfTopic> [from 0],
    }
    pub struct SummaryOfTopic {
        topic_id: Uuid [from 0],
        partitions: Vec<SummaryOfPartition> [from 0],
    }
    pub struct SummaryOfPartition {
        partition: i32 [from 0],
        error_code: i16 [from 0],
        error_message: Option<String> [from 0],
        state_epoch: i32 [from 0],
        leader_epoch: LeaderEpoch [from 0],
        start: Offset [from 0],
        done: i32 [from 1, default -1],
    }

    /// WriteShareGroupState, key 85.
    pub struct WriteStateRequest (0, 1, flexible 0) {
        group: String [from 0],
        topics: Vec<WriteStateTopic> [from 0],
    }
    pub struct WriteStateTopic {
        topic_id: Uuid [from 0],
        partitions: Vec<WriteStatePartition> [from 0],
    }
    pub struct WriteStatePartition {
        partition: i32 [from 0],
        state_epoch: i32 [from 0],
        leader_epoch: LeaderEpoch [from 0],
        start: Offset [from 0],
        done: i32 [from 1, default -1],
        batches: Vec<StateBatch> [from 0],
    }

    /// The answer to DescribeShareGroupOffsets, key 90. `kafka-protocol` has no lag.
    pub struct DescribedOffsetsResponse (0, 1, flexible 0) {
        throttle_time_ms: i32 [from 0],
        groups: Vec<DescribedGroup> [from 0],
    }
    pub struct DescribedGroup {
        group: String [from 0],
        topics: Vec<DescribedTopic> [from 0],
        error_code: i16 [from 0],
        error_message: Option<String> [from 0],
    }
    pub struct DescribedTopic {
        topic: String [from 0],
        topic_id: Uuid [from 0],
        partitions: Vec<DescribedPartition> [from 0],
    }
    pub struct DescribedPartition {
        partition: i32 [from 0],
        start: Offset [from 0],
        leader_epoch: LeaderEpoch [from 0],
        lag: i64 [from 1, default -1],
        error_code: i16 [from 0],
        error_message: Option<String> [from 0],
    }

    /// DeleteShareGroupState, key 86.
    pub struct DeleteStateRequest (0, 0, flexible 0) {
        group: String [from 0],
        topics: Vec<DeleteStateTopic> [from 0],
    }
    pub struct DeleteStateTopic {
        topic_id: Uuid [from 0],
        partitions: Vec<DeleteStatePartition> [from 0],
    }
    pub struct DeleteStatePartition {
        partition: i32 [from 0],
    }

    /// The answer to an initialization, a write or a deletion of state.
    pub struct StateDoneResponse (0, 1, flexible 0) {
        results: Vec<DoneTopic> [from 0],
    }
    pub struct DoneTopic {
        topic_id: Uuid [from 0],
        partitions: Vec<DonePartition> [from 0],
    }
    pub struct DonePartition {
        partition: i32 [from 0],
        error_code: i16 [from 0],
        error_message: Option<String> [from 0],
    }
}

impl Copy for StateBatch {}
