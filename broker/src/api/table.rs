//! The table of all APIs: what is not in it is neither served nor advertised.

use std::sync::LazyLock;

use super::{
    Api, Scope, add_offsets_to_txn, add_partitions_to_txn, add_raft_voter, allocate_producer_ids,
    alter_configs, alter_partition, alter_partition_reassignments, alter_replica_log_dirs,
    api_versions, assign_replicas_to_dirs, begin_quorum_epoch, broker_heartbeat,
    broker_registration, consumer_group_describe, consumer_group_heartbeat,
    controller_registration, create_partitions, create_topics, delete_groups, delete_records,
    delete_topics, describe_cluster, describe_configs, describe_groups, describe_log_dirs,
    describe_producers, describe_quorum, describe_topic_partitions, describe_transactions,
    elect_leaders, end_quorum_epoch, end_txn, envelope, fetch, fetch_metadata, fetch_snapshot,
    find_coordinator, forwarded, heartbeat, incremental_alter_configs, init_producer_id,
    join_group, leave_group, list_config_resources, list_groups, list_offsets,
    list_partition_reassignments, list_transactions, metadata, offset_commit, offset_delete,
    offset_fetch, offset_for_leader_epoch, produce, remove_raft_voter, share_acknowledge,
    share_fetch, share_group_describe, share_group_heartbeat, share_group_offsets,
    share_group_state, streams_group_describe, streams_group_heartbeat, sync_group,
    txn_offset_commit, unregister_broker, update_features, update_raft_voter, vote,
    write_txn_markers,
};

/// One line for each API.
const ALL: &[Api] = &[
    forwarded::ALTER_CONFIGS,
    forwarded::CREATE_PARTITIONS,
    forwarded::CREATE_TOPICS,
    forwarded::DELETE_TOPICS,
    forwarded::DESCRIBE_QUORUM,
    forwarded::ELECT_LEADERS,
    forwarded::ALTER_PARTITION_REASSIGNMENTS,
    forwarded::INCREMENTAL_ALTER_CONFIGS,
    forwarded::ADD_RAFT_VOTER,
    forwarded::REMOVE_RAFT_VOTER,
    add_raft_voter::API,
    forwarded::LIST_PARTITION_REASSIGNMENTS,
    forwarded::UNREGISTER_BROKER,
    forwarded::UPDATE_FEATURES,
    allocate_producer_ids::API,
    begin_quorum_epoch::API,
    controller_registration::API,
    end_quorum_epoch::API,
    remove_raft_voter::API,
    update_raft_voter::API,
    vote::API,
    alter_configs::API,
    alter_partition::API,
    alter_partition_reassignments::API,
    alter_replica_log_dirs::API,
    api_versions::API,
    assign_replicas_to_dirs::API,
    broker_heartbeat::API,
    broker_registration::API,
    consumer_group_describe::API,
    consumer_group_heartbeat::API,
    create_partitions::API,
    create_topics::API,
    delete_groups::API,
    delete_topics::API,
    describe_cluster::API,
    describe_configs::API,
    describe_groups::API,
    describe_quorum::API,
    describe_topic_partitions::API,
    elect_leaders::API,
    envelope::API,
    fetch_metadata::API,
    fetch_snapshot::API,
    find_coordinator::API,
    heartbeat::API,
    incremental_alter_configs::API,
    join_group::API,
    leave_group::API,
    list_config_resources::API,
    list_groups::API,
    list_partition_reassignments::API,
    metadata::API,
    offset_commit::API,
    offset_delete::API,
    offset_fetch::API,
    streams_group_describe::API,
    streams_group_heartbeat::API,
    sync_group::API,
    unregister_broker::API,
    update_features::API,
    produce::API,
    fetch::API,
    list_offsets::API,
    init_producer_id::API,
    offset_for_leader_epoch::API,
    delete_records::API,
    describe_log_dirs::API,
    describe_producers::API,
    add_offsets_to_txn::API,
    add_partitions_to_txn::API,
    describe_transactions::API,
    end_txn::API,
    list_transactions::API,
    txn_offset_commit::API,
    write_txn_markers::API,
    share_acknowledge::API,
    share_fetch::API,
    share_group_describe::API,
    share_group_heartbeat::API,
    share_group_offsets::ALTER,
    share_group_offsets::DELETE,
    share_group_offsets::DESCRIBE,
    share_group_state::DELETE,
    share_group_state::INITIALIZE,
    share_group_state::READ,
    share_group_state::SUMMARIZE,
    share_group_state::WRITE,
];

/// All APIs of a kind of listener, in order of their keys.
pub fn apis(scope: Scope) -> &'static [Api] {
    static TABLES: LazyLock<[Vec<Api>; 2]> = LazyLock::new(|| {
        [Scope::Broker, Scope::Controller].map(|scope| {
            let mut apis: Vec<Api> = ALL.iter().copied().filter(|api| api.is_in(scope)).collect();
            apis.sort_by_key(|api| api.key);
            apis
        })
    });
    &TABLES[scope as usize]
}

/// The API with `key`, if that kind of listener serves it.
pub fn find(scope: Scope, key: i16) -> Option<&'static Api> {
    let apis = apis(scope);
    apis.binary_search_by_key(&key, |api| api.key.number()).ok().map(|at| &apis[at])
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;

    use super::*;

    #[test]
    fn no_listener_serves_an_api_twice_or_a_version_that_cannot_be_decoded() {
        for scope in [Scope::Broker, Scope::Controller] {
            let apis = apis(scope);
            assert!(apis.windows(2).all(|pair| pair[0].key < pair[1].key));
            for api in apis {
                // All messages of an API that the library does not know are our own.
                let Some(key) = api.key.known() else { continue };
                let known = key.valid_versions();
                // Version 2 of the heartbeat is read as version 1; markers and share groups have schemas
                // of our own.
                let own = [
                    ApiKey::BrokerHeartbeat,
                    ApiKey::WriteTxnMarkers,
                    ApiKey::ShareFetch,
                    ApiKey::ShareAcknowledge,
                    ApiKey::WriteShareGroupState,
                    ApiKey::ReadShareGroupStateSummary,
                    ApiKey::DescribeShareGroupOffsets,
                ];
                let more = i16::from(own.contains(&key));
                assert!(known.min <= api.min && api.max <= known.max + more, "{api:?}");
            }
        }
    }
}
