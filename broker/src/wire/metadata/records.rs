//! The fields of each metadata record, by version: facts of Kafka 4.3.1's `common/metadata/*.json`.

use bytes::Bytes;
use uuid::Uuid;

use crate::message;

message! {
    /// A broker has registered; it is fenced until it has caught up.
    pub struct RegisterBrokerRecord (0, 4, flexible 0) {
        broker_id: i32 [from 0],
        is_migrating_zk_broker: bool [from 2],
        incarnation_id: Uuid [from 0],
        broker_epoch: i64 [from 0],
        end_points: Vec<EndPoint> [from 0],
        features: Vec<FeatureRange> [from 0],
        rack: Option<String> [from 0],
        fenced: bool [from 0, default true],
        in_controlled_shutdown: bool [from 1],
        log_dirs: Vec<Uuid> [from 3, tag 0],
        /// `None` until the broker says so in a heartbeat.
        cordoned_log_dirs: Option<Vec<Uuid>> [from 4, tag 1],
    }

    /// Where a broker or a controller listens.
    pub struct EndPoint {
        name: String [from 0],
        host: String [from 0],
        port: u16 [from 0],
        security_protocol: i16 [from 0],
    }

    /// The levels of a feature that a node supports.
    pub struct FeatureRange {
        name: String [from 0],
        min_supported_version: i16 [from 0],
        max_supported_version: i16 [from 0],
    }

    pub struct UnregisterBrokerRecord (0, 0, flexible 0) {
        broker_id: i32 [from 0],
        broker_epoch: i64 [from 0],
    }

    pub struct TopicRecord (0, 0, flexible 0) {
        name: String [from 0],
        topic_id: Uuid [from 0],
    }

    /// A partition and all that is known of it.
    pub struct PartitionRecord (0, 2, flexible 0) {
        partition_id: i32 [from 0, default -1],
        topic_id: Uuid [from 0],
        /// In preferred order.
        replicas: Vec<i32> [from 0],
        isr: Vec<i32> [from 0],
        removing_replicas: Vec<i32> [from 0],
        adding_replicas: Vec<i32> [from 0],
        leader: i32 [from 0, default -1],
        /// 1 while it recovers from an unclean election.
        leader_recovery_state: i8 [from 0, tag 0],
        leader_epoch: i32 [from 0, default -1],
        partition_epoch: i32 [from 0, default -1],
        /// Of each replica, in the order of `replicas`.
        directories: Vec<Uuid> [from 1],
        eligible_leader_replicas: Option<Vec<i32>> [from 2, tag 1],
        last_known_elr: Option<Vec<i32>> [from 2, tag 2],
    }

    /// A value, or none for "remove", of one configuration key.
    pub struct ConfigRecord (0, 0, flexible 0) {
        resource_type: i8 [from 0],
        resource_name: String [from 0],
        name: String [from 0],
        value: Option<String> [from 0],
    }

    /// What has changed of a partition; the partition epoch grows by one, and so does the leader
    /// epoch when a leader is given.
    pub struct PartitionChangeRecord (0, 2, flexible 0) {
        partition_id: i32 [from 0, default -1],
        topic_id: Uuid [from 0],
        isr: Option<Vec<i32>> [from 0, tag 0],
        /// -2: unchanged, -1: none.
        leader: i32 [from 0, tag 1, default -2],
        replicas: Option<Vec<i32>> [from 0, tag 2],
        removing_replicas: Option<Vec<i32>> [from 0, tag 3],
        adding_replicas: Option<Vec<i32>> [from 0, tag 4],
        /// -1: unchanged.
        leader_recovery_state: i8 [from 0, tag 5, default -1],
        eligible_leader_replicas: Option<Vec<i32>> [from 2, tag 6],
        last_known_elr: Option<Vec<i32>> [from 2, tag 7],
        directories: Option<Vec<Uuid>> [from 1, tag 8],
    }

    pub struct FenceBrokerRecord (0, 0, flexible 0) {
        id: i32 [from 0],
        epoch: i64 [from 0],
    }

    pub struct UnfenceBrokerRecord (0, 0, flexible 0) {
        id: i32 [from 0],
        epoch: i64 [from 0],
    }

    pub struct RemoveTopicRecord (0, 0, flexible 0) {
        topic_id: Uuid [from 0],
    }

    pub struct DelegationTokenRecord (0, 0, flexible 0) {
        owner: String [from 0],
        requester: String [from 0],
        renewers: Vec<String> [from 0],
        issue_timestamp: i64 [from 0],
        max_timestamp: i64 [from 0],
        expiration_timestamp: i64 [from 0],
        token_id: String [from 0],
    }

    pub struct RemoveDelegationTokenRecord (0, 0, flexible 0) {
        token_id: String [from 0],
    }

    pub struct UserScramCredentialRecord (0, 0, flexible 0) {
        name: String [from 0],
        mechanism: i8 [from 0],
        salt: Bytes [from 0],
        stored_key: Bytes [from 0],
        server_key: Bytes [from 0],
        iterations: i32 [from 0],
    }

    pub struct RemoveUserScramCredentialRecord (0, 0, flexible 0) {
        name: String [from 0],
        mechanism: i8 [from 0],
    }

    /// The finalized level of a feature; 0 means that it is off.
    pub struct FeatureLevelRecord (0, 0, flexible 0) {
        name: String [from 0],
        feature_level: i16 [from 0],
    }

    pub struct ClientQuotaRecord (0, 0, flexible 0) {
        entity: Vec<QuotaEntity> [from 0],
        key: String [from 0],
        value: f64 [from 0],
        remove: bool [from 0],
    }

    pub struct QuotaEntity {
        entity_type: String [from 0],
        /// `None` is the default entity of its type.
        entity_name: Option<String> [from 0],
    }

    /// A block of producer ids was given to a broker.
    pub struct ProducerIdsRecord (0, 0, flexible 0) {
        broker_id: i32 [from 0],
        broker_epoch: i64 [from 0, default -1],
        next_producer_id: i64 [from 0],
    }

    pub struct BrokerRegistrationChangeRecord (0, 3, flexible 0) {
        broker_id: i32 [from 0],
        broker_epoch: i64 [from 0],
        /// -1: now unfenced, 0: unchanged, 1: now fenced.
        fenced: i8 [from 0, tag 0],
        /// 1: now in controlled shutdown.
        in_controlled_shutdown: i8 [from 1, tag 1],
        log_dirs: Vec<Uuid> [from 2, tag 2],
        cordoned_log_dirs: Option<Vec<Uuid>> [from 3, tag 3],
    }

    pub struct AccessControlEntryRecord (0, 0, flexible 0) {
        id: Uuid [from 0],
        resource_type: i8 [from 0],
        resource_name: String [from 0],
        pattern_type: i8 [from 0],
        principal: String [from 0],
        host: String [from 0],
        operation: i8 [from 0],
        permission_type: i8 [from 0],
    }

    pub struct RemoveAccessControlEntryRecord (0, 0, flexible 0) {
        id: Uuid [from 0],
    }

    /// Moves the high watermark, and so the lag of observers, on in quiet times.
    pub struct NoOpRecord (0, 0, flexible 0) {}

    pub struct BeginTransactionRecord (0, 0, flexible 0) {
        name: Option<String> [from 0, tag 0],
    }

    pub struct EndTransactionRecord (0, 0, flexible 0) {}

    pub struct AbortTransactionRecord (0, 0, flexible 0) {
        reason: Option<String> [from 0, tag 0],
    }

    pub struct RegisterControllerRecord (0, 0, flexible 0) {
        controller_id: i32 [from 0],
        incarnation_id: Uuid [from 0],
        zk_migration_ready: bool [from 0],
        end_points: Vec<EndPoint> [from 0],
        features: Vec<FeatureRange> [from 0],
    }

    /// Forgets the eligible leader replicas of a topic, or with an empty name, of all.
    pub struct ClearElrRecord (0, 0, flexible 0) {
        topic_name: String [from 0],
    }
}
