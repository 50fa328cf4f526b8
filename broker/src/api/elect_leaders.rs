//! Somebody asks for elections: ElectLeaders, on the controller.
//!
//! Decided by the active controller, on its own listeners only.

use std::sync::Arc;

use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ApiKey, ElectLeadersRequest, ElectLeadersResponse};

use super::controller::{Refusable, answer};
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::driver::Core;
use crate::controller::leaders;
use crate::error::Refusal;

pub const API: Api =
    Api::new(ApiKey::ElectLeaders, 0..=2).on_controller().handled_by(handler!(handle));

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: ElectLeadersRequest,
) -> Reply<ElectLeadersResponse> {
    let elect = |core: &mut Core, request: &ElectLeadersRequest| {
        leaders::elect_leaders(core.view(), request)
    };
    Reply::Now(answer(broker, client, request, elect).await)
}

impl Refusable for ElectLeadersRequest {
    fn refuse(&self, version: i16, refusal: &Refusal) -> ElectLeadersResponse {
        let code = refusal.code.code();
        let refuse_partition = |index: &i32| {
            PartitionResult::default()
                .with_partition_id(*index)
                .with_error_code(code)
                .with_error_message(Some(refusal.message.clone().into()))
        };
        let refuse = |topic: &TopicPartitions| {
            ReplicaElectionResult::default()
                .with_topic(topic.topic.clone())
                .with_partition_result(topic.partitions.iter().map(refuse_partition).collect())
        };
        let topics = self.topic_partitions.iter().flatten();
        ElectLeadersResponse::default()
            // In version 0 only the partitions have a place for it.
            .with_error_code(if version >= 1 { code } else { 0 })
            .with_replica_election_results(topics.map(refuse).collect())
    }
}
