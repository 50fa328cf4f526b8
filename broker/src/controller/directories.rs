//! Which log directory of a broker a replica lies in: AssignReplicasToDirs, and directories that
//! fail or are cordoned, which brokers tell in their heartbeats (KIP-858, KIP-1066).
//!
//! A replica in a directory that is not online may neither lead nor be in the ISR. Three ids are
//! no directories but say why there is none. Deliberately absent: what a cordoned directory means
//! for placing new partitions (`placement` asks the image).

use kafka_protocol::messages::assign_replicas_to_dirs_request::TopicData;
use kafka_protocol::messages::assign_replicas_to_dirs_response::{
    DirectoryData, PartitionData, TopicData as TopicAnswer,
};
use kafka_protocol::messages::{
    AssignReplicasToDirsRequest, AssignReplicasToDirsResponse, BrokerHeartbeatRequest,
};
use uuid::Uuid;

use super::brokers::change;
use super::decision::{Decision, View};
use super::election::{self, Change};
use super::image::{BrokerImage, Image, PartitionImage};
use crate::error::{ErrorCode, Refusal};
use crate::types::NodeId;
use crate::wire::message::{Field, Malformed};
use crate::wire::metadata::Record;

/// From before brokers told of their directories.
pub const MIGRATING: Uuid = Uuid::from_u128(0);
/// The broker has not chosen one yet.
pub const UNASSIGNED: Uuid = Uuid::from_u128(1);
/// One that was offline when the broker told of it.
pub const LOST: Uuid = Uuid::from_u128(2);
/// Smaller ids are no directories.
pub const FIRST_FREE: u128 = 100;

/// Where a new replica will lie, as far as that is certain.
pub fn default_of(image: &Image, broker: NodeId) -> Uuid {
    match image.broker(broker).map(|broker| &broker.directories[..]) {
        Some([]) => MIGRATING,
        Some([only]) => *only,
        _ => UNASSIGNED,
    }
}

impl BrokerImage {
    /// Can a replica in `directory` be used, as far as the controller knows?
    pub fn is_online(&self, directory: Uuid) -> bool {
        match directory {
            MIGRATING | UNASSIGNED => true,
            LOST => false,
            other => self.directories.is_empty() || self.directories.contains(&other),
        }
    }
}

impl PartitionImage {
    /// Where the replica on `broker` lies; none when there is no such replica.
    pub fn directory(&self, broker: NodeId) -> Option<Uuid> {
        let at = self.replicas.iter().position(|id| *id == broker)?;
        Some(self.directories.get(at).copied().unwrap_or(MIGRATING))
    }
}

impl Image {
    /// Is the broker active, and its replica in a directory that is online?
    pub fn may_lead(&self, partition: &PartitionImage, id: NodeId) -> bool {
        self.is_active(id) && self.has_online(partition, id)
    }

    /// Is the broker's replica in a directory that is online? What is no replica yet will be.
    pub fn has_online(&self, partition: &PartitionImage, id: NodeId) -> bool {
        match (self.broker(id), partition.directory(id)) {
            (Some(broker), Some(directory)) => broker.is_online(directory),
            _ => true,
        }
    }
}

/// Writes down where a broker's replicas lie.
pub fn assign(
    view: View<'_>,
    request: &AssignReplicasToDirsRequest,
) -> Result<Decision<AssignReplicasToDirsResponse>, Refusal> {
    let id = request.broker_id.0;
    view.check_broker_epoch(id, request.broker_epoch)?;
    let mut records = Vec::new();
    let mut answers = Vec::new();
    for directory in &request.directories {
        let topics = directory.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|asked| {
                let index = asked.partition_index;
                let code = match assign_one(view, id, directory.id, topic, index) {
                    Ok(changes) => {
                        records.extend(changes);
                        0
                    }
                    Err(code) => code.code(),
                };
                PartitionData::default().with_partition_index(index).with_error_code(code)
            });
            TopicAnswer::default()
                .with_topic_id(topic.topic_id)
                .with_partitions(partitions.collect())
        });
        answers.push(DirectoryData::default().with_id(directory.id).with_topics(topics.collect()));
    }
    let response = AssignReplicasToDirsResponse::default().with_directories(answers);
    Ok(Decision::new(records, response))
}

fn assign_one(
    view: View<'_>,
    id: NodeId,
    directory: Uuid,
    topic: &TopicData,
    index: i32,
) -> Result<Option<Record>, ErrorCode> {
    let topic = view.image.topic_by_id(topic.topic_id).ok_or(ErrorCode::UnknownTopicId)?;
    let partition = topic.partitions.get(&index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let Some(at) = partition.replicas.iter().position(|replica| *replica == id) else {
        return Err(ErrorCode::NotLeaderOrFollower);
    };
    let online = view.image.broker(id).is_some_and(|broker| broker.is_online(directory));
    let mut change = if online {
        Change::new(view, topic, index, partition)
    } else {
        // It is gone already: the replica leaves with the same record.
        view.change(topic, index, partition).without(id)
    };
    change.assignment.directories.resize(partition.replicas.len(), MIGRATING);
    change.assignment.directories[at] = directory;
    // Of this replica the request knows better than the image.
    let may_lead = |other: NodeId| {
        if other == id {
            online && view.image.is_active(id)
        } else {
            view.image.may_lead(partition, other)
        }
    };
    Ok(change.build(may_lead).map(Record::from))
}

/// What a heartbeat says of the broker's directories.
pub fn on_heartbeat(
    view: View<'_>,
    request: &BrokerHeartbeatRequest,
) -> Result<Vec<Record>, Refusal> {
    let id = request.broker_id.0;
    let Some(broker) = view.image.broker(id) else { return Ok(Vec::new()) };
    let mut records = Vec::new();
    let is_offline = |directory: &&Uuid| request.offline_log_dirs.contains(directory);
    let failed: Vec<Uuid> = broker.directories.iter().filter(is_offline).copied().collect();
    if !failed.is_empty() {
        tracing::warn!(broker = id, ?failed, "log directories went offline");
        let lies_there = |partition: &PartitionImage| {
            partition.directory(id).is_some_and(|directory| failed.contains(&directory))
        };
        records.extend(election::remove_broker_where(view, id, lies_there));
        let left = broker.directories.iter().filter(|it| !is_offline(it)).copied().collect();
        records.push(change(view, id, |it| it.log_dirs = left));
    }
    if let Some(cordoned) = cordoned(request)? {
        let known = broker.cordoned_directories.as_ref();
        let same = known.is_some_and(|known| {
            known.len() == cordoned.len() && known.iter().all(|it| cordoned.contains(it))
        });
        if !same {
            records.push(change(view, id, |it| it.cordoned_log_dirs = Some(cordoned)));
        }
    }
    Ok(records)
}

/// The tag of the cordoned directories, which version 2 of the heartbeat has added.
pub const CORDONED_TAG: i32 = 1;

/// The cordoned directories of a heartbeat in version 2, which is decoded as version 1: they are
/// its only difference, and tagged, so they are kept as a field that is not known.
fn cordoned(request: &BrokerHeartbeatRequest) -> Result<Option<Vec<Uuid>>, Refusal> {
    let Some(bytes) = request.unknown_tagged_fields.get(&CORDONED_TAG) else { return Ok(None) };
    <Option<Vec<Uuid>> as Field>::take(&mut &bytes[..], 2, true).map_err(|malformed: Malformed| {
        Refusal::new(ErrorCode::InvalidRequest, malformed.to_string())
    })
}
