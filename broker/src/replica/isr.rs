//! AlterPartition: the ISRs that leaders here want, taken to the controller.
//!
//! One task and one request at a time for all partitions of the broker; what is proposed meanwhile
//! goes with the next. Invariant: each proposal is answered to its leader, or sent again; a leader
//! has at most one on its way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::alter_partition_request::{BrokerState, PartitionData, TopicData};
use kafka_protocol::messages::alter_partition_response::PartitionData as Answer;
use kafka_protocol::messages::{AlterPartitionRequest, AlterPartitionResponse, BrokerId};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::context::Proposals;
use super::leader::Proposal;
use super::partitions::Partitions;
use super::remote::ToController;
use crate::error::ErrorCode;
use crate::types::NodeId;

/// Before a request that failed is sent again.
const BACK_OFF: Duration = Duration::from_millis(50);

pub async fn run(
    partitions: Arc<Partitions>,
    controller: Arc<dyn ToController>,
    stop: CancellationToken,
) {
    let context = partitions.context.clone();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = context.proposed.notified() => {}
        }
        let proposals = context.take_proposals();
        if proposals.is_empty() {
            continue;
        }
        let sent = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            sent = controller.alter_partition(request(&partitions, &proposals)) => sent,
        };
        let again = match sent {
            Ok(response) => settle(&partitions, &proposals, &response),
            Err(error) => {
                tracing::debug!(error, "AlterPartition failed; it is sent again");
                let unknown = |_: &(Uuid, i32)| Some(ErrorCode::RequestTimedOut);
                refuse(&partitions, &proposals, unknown)
            }
        };
        if again.is_empty() {
            continue;
        }
        for ((topic, partition), proposal) in again {
            context.propose(topic, partition, proposal);
        }
        context.env.clock.sleep(BACK_OFF).await;
    }
}

fn request(partitions: &Partitions, proposals: &Proposals) -> AlterPartitionRequest {
    let mut topics = BTreeMap::<Uuid, Vec<PartitionData>>::new();
    for ((topic, partition), proposal) in proposals {
        let isr = proposal.isr.iter().map(|(id, epoch)| {
            BrokerState::default().with_broker_id(BrokerId(*id)).with_broker_epoch(*epoch)
        });
        topics.entry(*topic).or_default().push(
            PartitionData::default()
                .with_partition_index(*partition)
                .with_leader_epoch(proposal.leader_epoch)
                .with_new_isr_with_epochs(isr.collect())
                .with_leader_recovery_state(i8::from(proposal.recovering))
                .with_partition_epoch(proposal.partition_epoch),
        );
    }
    let topics = topics
        .into_iter()
        .map(|(id, asked)| TopicData::default().with_topic_id(id).with_partitions(asked));
    let me = partitions.context.me;
    AlterPartitionRequest::default()
        .with_broker_id(BrokerId(me))
        .with_broker_epoch(partitions.context.broker_epoch())
        .with_topics(topics.collect())
}

/// Hands each leader its answer; returns what is to be sent again.
fn settle(
    partitions: &Partitions,
    proposals: &Proposals,
    response: &AlterPartitionResponse,
) -> Proposals {
    if let Some(code) = response.error_code.err() {
        tracing::debug!(?code, "AlterPartition was refused; it is sent again");
        return refuse(partitions, proposals, |_| Some(code));
    }
    let mut answers = BTreeMap::<(Uuid, i32), &Answer>::new();
    for topic in &response.topics {
        for answer in &topic.partitions {
            answers.insert((topic.topic_id, answer.partition_index), answer);
        }
    }
    refuse(partitions, proposals, |key| match answers.get(key) {
        None => Some(ErrorCode::RequestTimedOut),
        Some(answer) => {
            if let Some(code) = answer.error_code.err() {
                return Some(code);
            }
            let isr: Vec<NodeId> = answer.isr.iter().map(|id| id.0).collect();
            if let Some(partition) = by_id(partitions, key) {
                partition.on_isr_accepted(answer.leader_epoch, &isr, answer.partition_epoch);
            }
            None
        }
    })
}

fn refuse(
    partitions: &Partitions,
    proposals: &Proposals,
    why: impl Fn(&(Uuid, i32)) -> Option<ErrorCode>,
) -> Proposals {
    let mut again = Proposals::new();
    for (key, proposal) in proposals {
        let Some(code) = why(key) else { continue };
        let wanted = by_id(partitions, key)
            .is_some_and(|partition| partition.on_isr_refused(proposal, code));
        if wanted {
            again.insert(*key, Proposal::clone(proposal));
        }
    }
    again
}

fn by_id(partitions: &Partitions, key: &(Uuid, i32)) -> Option<Arc<super::Partition>> {
    let image = partitions.image();
    let topic = image.topic_by_id(key.0)?;
    partitions.get(&topic.name, key.1)
}
