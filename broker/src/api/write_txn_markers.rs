//! WriteTxnMarkers: the coordinator of a transaction ends it in the partitions that this broker
//! leads.
//!
//! Versions 1 and 2; from 2 on a marker says the version of the transactions protocol, by which its
//! epoch is judged (KIP-890, KIP-1228). All markers are appended before any is waited for; the
//! answer comes when they are committed, as with acks=all, or after `request.timeout.ms`.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use kafka_protocol::messages::ApiKey;
use tokio::time::Instant;

use super::{Answer, Api, Client, Unreadable};
use crate::broker::Broker;
use crate::coordinator::runtime::{GROUP_METADATA_TOPIC, Groups, TransactionEnd};
use crate::error::ErrorCode;
use crate::replica::Partitions;
use crate::replica::ticket::Ticket;
use crate::types::TopicPartition;
use crate::wire::message::Message as _;
use crate::wire::records::EndTransactionMarker;
use crate::wire::txn_markers::{
    Marker, MarkerPartitionResult, MarkerResult, MarkerTopicResult, MarkersWritten, WriteMarkers,
};

pub const API: Api = Api::new(ApiKey::WriteTxnMarkers, 1..=2).handled_by(read_and_handle);

fn read_and_handle<'a>(
    broker: &'a Arc<Broker>,
    client: &'a Client,
    body: Bytes,
) -> BoxFuture<'a, Result<Answer, Unreadable>> {
    let version = client.version;
    Box::pin(async move {
        let request = WriteMarkers::decode(&mut &body[..], version)
            .map_err(|error| Unreadable(format!("WriteTxnMarkers: {error}")))?;
        let deadline = broker.env.clock.now() + broker.settings.request_timeout;
        let written = write(&broker.partitions, Some(&broker.groups), request, deadline).await;
        Ok(Answer::Later(Box::pin(async move {
            let mut body = BytesMut::new();
            written.await.encode(version, &mut body);
            Ok(vec![body.freeze()])
        })))
    })
}

/// Appends the markers, those among offsets by way of the group coordinator; what is returned
/// resolves when they are committed, or at `deadline`.
pub async fn write(
    partitions: &Partitions,
    groups: Option<&Groups>,
    request: WriteMarkers,
    deadline: Instant,
) -> impl Future<Output = MarkersWritten> + Send + use<> {
    settle_all(place_all(partitions, groups, request).await, deadline)
}

/// A marker in the log, or why it is not there.
struct Placed {
    producer_id: i64,
    at: TopicPartition,
    outcome: Result<Committed, ErrorCode>,
}

/// Resolves once the marker is committed.
type Committed = BoxFuture<'static, Result<(), ErrorCode>>;

async fn place_all(
    partitions: &Partitions,
    groups: Option<&Groups>,
    request: WriteMarkers,
) -> Vec<Placed> {
    let mut placed = Vec::new();
    for marker in request.markers {
        for topic in &marker.topics {
            for index in &topic.partitions {
                let at = TopicPartition::new(&*topic.name, *index);
                let outcome = match groups.filter(|_| &*at.topic == GROUP_METADATA_TOPIC) {
                    Some(groups) => Ok(place_among_offsets(groups, &marker, at.partition).await),
                    None => place(partitions, &marker, &at),
                };
                placed.push(Placed { producer_id: marker.producer_id, at, outcome });
            }
        }
    }
    placed
}

fn place(
    partitions: &Partitions,
    marker: &Marker,
    at: &TopicPartition,
) -> Result<Committed, ErrorCode> {
    let here = partitions.get(&at.topic, at.partition);
    let partition = here.ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let producer = (marker.producer_id, marker.producer_epoch);
    let end = EndTransactionMarker {
        committed: marker.committed,
        coordinator_epoch: marker.coordinator_epoch,
    };
    let appended = partition.append_marker(producer, end, marker.transaction_version);
    let committed =
        |ticket: Ticket| -> Committed { Box::pin(async move { ticket.committed().await }) };
    appended.map(committed).map_err(|refusal| {
        tracing::debug!(partition = %at, ?marker, %refusal, "a marker is refused");
        refusal.code
    })
}

/// Among the offsets of groups their coordinator writes the marker, and makes the offsets true.
async fn place_among_offsets(groups: &Groups, marker: &Marker, partition: i32) -> Committed {
    let end = TransactionEnd {
        producer_id: marker.producer_id,
        producer_epoch: marker.producer_epoch,
        coordinator_epoch: marker.coordinator_epoch,
        committed: marker.committed,
        transaction_version: marker.transaction_version,
    };
    let ended = groups.end_transaction(partition, end).await;
    Box::pin(async move {
        ended.await.map_err(|code| match code {
            // To who sends markers a group's coordinator is a leader.
            ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator => ErrorCode::NotLeaderOrFollower,
            other => other,
        })
    })
}

/// Results by producer: a coordinator that ends two transactions of one reads one entry.
async fn settle_all(placed: Vec<Placed>, deadline: Instant) -> MarkersWritten {
    let mut results: BTreeMap<i64, BTreeMap<Arc<str>, Vec<MarkerPartitionResult>>> =
        BTreeMap::new();
    for Placed { producer_id, at, outcome } in placed {
        let outcome = match outcome {
            Ok(committed) => match tokio::time::timeout_at(deadline, committed).await {
                Ok(committed) => committed,
                Err(_) => Err(ErrorCode::RequestTimedOut),
            },
            Err(code) => Err(code),
        };
        let error_code = outcome.err().map_or(0, |code| code.code());
        let result = MarkerPartitionResult { index: at.partition, error_code };
        results.entry(producer_id).or_default().entry(at.topic).or_default().push(result);
    }
    let topic = |(name, partitions): (Arc<str>, _)| MarkerTopicResult {
        name: name.to_string(),
        partitions,
    };
    let markers = results.into_iter().map(|(producer_id, topics)| MarkerResult {
        producer_id,
        topics: topics.into_iter().map(topic).collect(),
    });
    MarkersWritten { markers: markers.collect() }
}
