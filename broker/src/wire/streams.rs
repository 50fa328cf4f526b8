//! Messages about streams groups (KIP-1071), which `kafka-protocol` does not have:
//! StreamsGroupHeartbeat and StreamsGroupDescribe, version 0, and the shapes that they share with
//! the records of `__consumer_offsets`.

use bytes::BytesMut;

use super::message::{Field, Malformed, Message as _};

/// A struct, or null: a byte that is negative for null, and the struct unless it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrNull<T>(pub Option<T>);

impl<T> Default for OrNull<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Field> Field for OrNull<T> {
    fn put(&self, out: &mut BytesMut, version: i16, flexible: bool) {
        let Some(it) = &self.0 else { return (-1i8).put(out, version, flexible) };
        1i8.put(out, version, flexible);
        it.put(out, version, flexible);
    }

    fn take(input: &mut &[u8], version: i16, flexible: bool) -> Result<Self, Malformed> {
        if i8::take(input, version, flexible)? < 0 {
            return Ok(Self(None));
        }
        T::take(input, version, flexible).map(|it| Self(Some(it)))
    }
}

crate::message! {
    pub struct StreamsGroupHeartbeatRequest (0, 0, flexible 0) {
        group: String [from 0],
        member: String [from 0],
        /// 0 joins, -1 leaves.
        member_epoch: i32 [from 0],
        endpoint_epoch: i32 [from 0],
        instance_id: Option<String> [from 0],
        rack_id: Option<String> [from 0],
        rebalance_timeout_ms: i32 [from 0, default -1],
        topology: OrNull<Topology> [from 0],
        active: Option<Vec<TaskIds>> [from 0],
        standby: Option<Vec<TaskIds>> [from 0],
        warmup: Option<Vec<TaskIds>> [from 0],
        process_id: Option<String> [from 0],
        user_endpoint: OrNull<Endpoint> [from 0],
        client_tags: Option<Vec<KeyValue>> [from 0],
        task_offsets: Option<Vec<TaskOffset>> [from 0],
        task_end_offsets: Option<Vec<TaskOffset>> [from 0],
        shutdown_application: bool [from 0],
    }

    pub struct Topology {
        epoch: i32 [from 0],
        subtopologies: Vec<Subtopology> [from 0],
    }

    /// In requests and records alike.
    pub struct Subtopology {
        id: String [from 0],
        source_topics: Vec<String> [from 0],
        source_topic_regex: Vec<String> [from 0],
        changelogs: Vec<TopicInfo> [from 0],
        repartition_sinks: Vec<String> [from 0],
        repartition_sources: Vec<TopicInfo> [from 0],
        copartition_groups: Vec<CopartitionGroup> [from 0],
    }

    pub struct TopicInfo {
        name: String [from 0],
        /// 0 when the coordinator is to decide.
        partitions: i32 [from 0],
        /// 0 for the broker's default.
        replication_factor: i16 [from 0],
        configs: Vec<KeyValue> [from 0],
    }

    /// Indices into the lists of the subtopology.
    pub struct CopartitionGroup {
        source_topics: Vec<i16> [from 0],
        source_topic_regex: Vec<i16> [from 0],
        repartition_sources: Vec<i16> [from 0],
    }

    pub struct KeyValue {
        key: String [from 0],
        value: String [from 0],
    }

    pub struct Endpoint {
        host: String [from 0],
        port: u16 [from 0],
    }

    pub struct TaskIds {
        subtopology: String [from 0],
        partitions: Vec<i32> [from 0],
    }

    pub struct TaskOffset {
        subtopology: String [from 0],
        partition: i32 [from 0],
        offset: i64 [from 0],
    }

    pub struct StreamsGroupHeartbeatResponse (0, 0, flexible 0) {
        throttle_time_ms: i32 [from 0],
        error_code: i16 [from 0],
        error_message: Option<String> [from 0],
        member: String [from 0],
        member_epoch: i32 [from 0],
        heartbeat_interval_ms: i32 [from 0],
        acceptable_recovery_lag: i32 [from 0],
        task_offset_interval_ms: i32 [from 0],
        status: Option<Vec<Status>> [from 0, default Some(Vec::new())],
        active: Option<Vec<TaskIds>> [from 0],
        standby: Option<Vec<TaskIds>> [from 0],
        warmup: Option<Vec<TaskIds>> [from 0],
        endpoint_epoch: i32 [from 0],
        partitions_by_endpoint: Option<Vec<EndpointPartitions>> [from 0],
    }

    pub struct Status {
        code: i8 [from 0],
        detail: String [from 0],
    }

    pub struct EndpointPartitions {
        endpoint: Endpoint [from 0],
        active: Vec<TopicPartitions> [from 0],
        standby: Vec<TopicPartitions> [from 0],
    }

    pub struct TopicPartitions {
        topic: String [from 0],
        partitions: Vec<i32> [from 0],
    }

    pub struct StreamsGroupDescribeRequest (0, 0, flexible 0) {
        groups: Vec<String> [from 0],
        include_authorized_operations: bool [from 0],
    }

    pub struct StreamsGroupDescribeResponse (0, 0, flexible 0) {
        throttle_time_ms: i32 [from 0],
        groups: Vec<DescribedGroup> [from 0],
    }

    pub struct DescribedGroup {
        error_code: i16 [from 0],
        error_message: Option<String> [from 0],
        group: String [from 0],
        state: String [from 0],
        epoch: i32 [from 0],
        assignment_epoch: i32 [from 0],
        topology: OrNull<DescribedTopology> [from 0],
        members: Vec<DescribedMember> [from 0],
        authorized_operations: i32 [from 0, default i32::MIN],
    }

    pub struct DescribedTopology {
        epoch: i32 [from 0],
        subtopologies: Option<Vec<DescribedSubtopology>> [from 0],
    }

    pub struct DescribedSubtopology {
        id: String [from 0],
        source_topics: Vec<String> [from 0],
        repartition_sinks: Vec<String> [from 0],
        changelogs: Vec<TopicInfo> [from 0],
        repartition_sources: Vec<TopicInfo> [from 0],
    }

    pub struct DescribedMember {
        id: String [from 0],
        epoch: i32 [from 0],
        instance_id: Option<String> [from 0],
        rack_id: Option<String> [from 0],
        client_id: String [from 0],
        client_host: String [from 0],
        topology_epoch: i32 [from 0],
        process_id: String [from 0],
        user_endpoint: OrNull<Endpoint> [from 0],
        client_tags: Vec<KeyValue> [from 0],
        task_offsets: Vec<TaskOffset> [from 0],
        task_end_offsets: Vec<TaskOffset> [from 0],
        assignment: Assignment [from 0],
        target_assignment: Assignment [from 0],
        is_classic: bool [from 0],
    }

    pub struct Assignment {
        active: Vec<TaskIds> [from 0],
        standby: Vec<TaskIds> [from 0],
        warmup: Vec<TaskIds> [from 0],
    }
}

impl StreamsGroupHeartbeatResponse {
    /// An answer that says no more than why there is none.
    pub fn refused(error_code: i16, error_message: Option<String>) -> Self {
        Self { error_code, error_message, ..Self::default() }
    }

    pub fn to_body(&self) -> bytes::Bytes {
        self.to_bytes(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::bounds;

    fn full() -> StreamsGroupHeartbeatRequest {
        let topic = TopicInfo {
            name: "log".into(),
            partitions: 3,
            replication_factor: 2,
            configs: vec![KeyValue { key: "k".into(), value: "v".into() }],
        };
        let tasks = || Some(vec![TaskIds { subtopology: "0".into(), partitions: vec![0, 1] }]);
        StreamsGroupHeartbeatRequest {
            group: "g".into(),
            member: "m".into(),
            topology: OrNull(Some(Topology {
                epoch: 4,
                subtopologies: vec![Subtopology {
                    id: "0".into(),
                    source_topics: vec!["in".into()],
                    changelogs: vec![topic.clone()],
                    repartition_sources: vec![topic],
                    copartition_groups: vec![CopartitionGroup {
                        source_topics: vec![0],
                        ..CopartitionGroup::default()
                    }],
                    ..Subtopology::default()
                }],
            })),
            active: tasks(),
            standby: tasks(),
            user_endpoint: OrNull(Some(Endpoint { host: "h".into(), port: 65_535 })),
            shutdown_application: true,
            ..StreamsGroupHeartbeatRequest::default()
        }
    }

    #[test]
    fn a_heartbeat_reads_back_and_has_the_shape_that_the_table_of_requests_gives_it() {
        for request in [full(), StreamsGroupHeartbeatRequest::default()] {
            let bytes = request.to_bytes(0);
            assert_eq!(bounds::extent(88, 0, &bytes), Ok(bytes.len()));
            assert_eq!(StreamsGroupHeartbeatRequest::decode(&mut &bytes[..], 0), Ok(request));
        }
    }

    #[test]
    fn a_request_to_describe_has_the_shape_that_the_table_of_requests_gives_it() {
        let request = StreamsGroupDescribeRequest {
            groups: vec!["g".into(), "h".into()],
            include_authorized_operations: true,
        };
        let bytes = request.to_bytes(0);
        assert_eq!(bounds::extent(89, 0, &bytes), Ok(bytes.len()));
    }
}
