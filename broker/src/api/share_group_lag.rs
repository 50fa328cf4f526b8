//! How far a share group is behind in a partition: what its leader has, less where the group starts
//! and what it is done with behind that (KIP-1226).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, ListOffsetsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::list_offsets;
use crate::broker::Broker;
use crate::error::ErrorCode;
use crate::types::{NodeId, Offset, TopicPartition};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Partitions by their name and index.
type Ends = BTreeMap<TopicPartition, Result<Offset, ErrorCode>>;

/// The high watermark of each partition, from its leader.
pub async fn ends(broker: &Arc<Broker>, partitions: Vec<TopicPartition>) -> Ends {
    let image = broker.image.load_full();
    let mut by_leader: BTreeMap<NodeId, Vec<TopicPartition>> = BTreeMap::new();
    for at in partitions {
        let found = image.topic(&at.topic).and_then(|topic| topic.partitions.get(&at.partition));
        by_leader.entry(found.map_or(-1, |it| it.leader)).or_default().push(at);
    }
    let asked = by_leader.into_iter().map(|(leader, its)| of_leader(broker, leader, its));
    join_all(asked).await.into_iter().flatten().collect()
}

async fn of_leader(broker: &Arc<Broker>, leader: NodeId, partitions: Vec<TopicPartition>) -> Ends {
    let request = request(&partitions);
    let answered = match leader {
        ..0 => Err(ErrorCode::LeaderNotAvailable),
        leader if leader == broker.partitions.context.me => {
            let here = broker.partitions.clone();
            let version = *list_offsets::API.advertised().end();
            let answer = move || list_offsets::answer(&here, &request, version);
            Ok(broker.env.blocking(answer).await)
        }
        leader => over_network(broker, leader, request).await,
    };
    let answered = answered.map(|answer| by_partition(&answer));
    let end = |at: &TopicPartition| match &answered {
        Ok(ends) => ends.get(at).copied().unwrap_or(Err(ErrorCode::UnknownServerError)),
        Err(code) => Err(*code),
    };
    partitions.iter().map(|at| (at.clone(), end(at))).collect()
}

async fn over_network(
    broker: &Broker,
    leader: NodeId,
    request: ListOffsetsRequest,
) -> Result<ListOffsetsResponse, ErrorCode> {
    let failed = |why: String| {
        tracing::warn!(leader, why, "the ends of partitions cannot be asked for");
        ErrorCode::LeaderNotAvailable
    };
    let peer = broker.shares.leaders.get(leader).await.map_err(failed)?;
    peer.call(request, TIMEOUT).await.map_err(|error| {
        broker.shares.leaders.forget(leader);
        failed(error.to_string())
    })
}

fn request(partitions: &[TopicPartition]) -> ListOffsetsRequest {
    let mut topics: BTreeMap<Arc<str>, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for at in partitions {
        let asked = ListOffsetsPartition::default()
            .with_partition_index(at.partition)
            .with_timestamp(list_offsets::LATEST);
        topics.entry(at.topic.clone()).or_default().push(asked);
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        ListOffsetsTopic::default()
            .with_name(TopicName(StrBytes::from_string(name.to_string())))
            .with_partitions(partitions)
    });
    ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(topics.collect())
}

fn by_partition(answer: &ListOffsetsResponse) -> Ends {
    let topics = answer.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(move |it| {
            let at = TopicPartition::new(topic.name.as_str(), it.partition_index);
            let code = ErrorCode::try_from_code(it.error_code);
            (at, code.map_or(Ok(it.offset), Err))
        })
    });
    topics.collect()
}
