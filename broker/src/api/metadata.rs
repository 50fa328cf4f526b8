//! Metadata: the brokers, and where a topic's partitions are, as one listener sees them.
//!
//! Versions 0 to 13. From 10 a topic has its id, from 12 it may be asked for by id. Reads the image
//! only; a topic that is missing is created through the controller when client and broker both
//! allow it, and answered UNKNOWN_TOPIC_OR_PARTITION until it is there, as Kafka does. A broker
//! without the asked listener is left out; a leader without it is LISTENER_NOT_FOUND from 6 on.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{ApiKey, BrokerId, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::{Api, Client, Reply, auto_create, handler};
use crate::broker::Broker;
use crate::controller::topics::check_name;
use crate::controller::{Endpoint, Image, PartitionImage, TopicImage};
use crate::error::ErrorCode;
use crate::types::{NO_LEADER, NodeId};

pub const API: Api = Api::new(ApiKey::Metadata, 0..=13).handled_by(handler!(handle));

/// All operations that a topic knows, as bits: without an authorizer everyone may do them.
pub(super) const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// All operations that a cluster knows.
pub(super) const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: MetadataRequest,
) -> Reply<MetadataResponse> {
    let image = broker.image.load_full();
    let view = View { image: &image, listener: &client.connection.listener };
    let version = client.version;
    let (topics, missing) = match asked(&request, version) {
        Err(code) => {
            let topics = refuse_all(request.topics.as_deref().unwrap_or_default(), code);
            // From version 13 on the answer as a whole has an error, too.
            let whole = if version < 13 { 0 } else { code.code() };
            let refusal = MetadataResponse::default().with_cluster_id(None).with_error_code(whole);
            return Reply::Now(refusal.with_topics(topics));
        }
        Ok(Asked::All) => {
            (image.topics().map(|topic| view.topic(topic, version)).collect(), Vec::new())
        }
        Ok(Asked::Ids(ids)) => {
            (ids.into_iter().map(|id| view.topic_by_id(id, version)).collect(), Vec::new())
        }
        Ok(Asked::Names(names)) => view.topics_by_name(&names, version),
    };
    if request.allow_auto_topic_creation && broker.settings.auto_create_topics {
        auto_create::create(broker, missing);
    }
    let operations = |asked: bool, all: i32| if asked { all } else { i32::MIN };
    let for_topic = request.include_topic_authorized_operations && version >= 8;
    let of_topic = operations(for_topic, TOPIC_OPERATIONS);
    let topics = topics.into_iter().map(|topic| match topic.error_code {
        0 => topic.with_topic_authorized_operations(of_topic),
        _ => topic,
    });
    let for_cluster = request.include_cluster_authorized_operations && (8..=10).contains(&version);
    Reply::Now(
        MetadataResponse::default()
            .with_brokers(view.brokers())
            .with_cluster_id(Some(text(&image.cluster_id)))
            .with_controller_id(BrokerId(any_broker(broker, &image)))
            .with_topics(topics.collect())
            .with_cluster_authorized_operations(operations(for_cluster, CLUSTER_OPERATIONS)),
    )
}

/// What a request asks for.
enum Asked {
    All,
    Names(Vec<TopicName>),
    Ids(BTreeSet<Uuid>),
}

fn asked(request: &MetadataRequest, version: i16) -> Result<Asked, ErrorCode> {
    let Some(topics) = &request.topics else { return Ok(Asked::All) };
    if version == 0 && topics.is_empty() {
        return Ok(Asked::All);
    }
    if version < 12 && topics.iter().any(|t| t.name.is_none() || !t.topic_id.is_nil()) {
        return Err(ErrorCode::InvalidRequest);
    }
    let ids: BTreeSet<Uuid> =
        topics.iter().map(|topic| topic.topic_id).filter(|id| !id.is_nil()).collect();
    if !ids.is_empty() {
        return Ok(Asked::Ids(ids));
    }
    // Neither name nor id: Kafka has no better word for it.
    if topics.iter().any(|topic| topic.name.is_none()) {
        return Err(ErrorCode::UnknownServerError);
    }
    let mut seen = BTreeSet::new();
    let names = topics.iter().filter_map(|topic| topic.name.clone());
    Ok(Asked::Names(names.filter(|name| seen.insert(name.clone())).collect()))
}

fn refuse_all(topics: &[MetadataRequestTopic], code: ErrorCode) -> Vec<MetadataResponseTopic> {
    let refuse = |topic: &MetadataRequestTopic| {
        MetadataResponseTopic::default()
            .with_error_code(code.code())
            .with_name(Some(topic.name.clone().unwrap_or_default()))
            .with_topic_id(topic.topic_id)
    };
    topics.iter().map(refuse).collect()
}

/// The image as the clients of one listener see it.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub image: &'a Image,
    pub listener: &'a str,
}

/// What is told of a partition beside the image's own words.
pub(super) struct PartitionView {
    pub error: Option<ErrorCode>,
    pub leader: NodeId,
    pub offline: Vec<BrokerId>,
}

impl View<'_> {
    fn endpoint(&self, id: NodeId) -> Option<&Endpoint> {
        self.image.broker(id)?.endpoint(self.listener)
    }

    fn is_offline(&self, partition: &PartitionImage, at: usize) -> bool {
        let id = partition.replicas[at];
        let Some(broker) = self.image.broker(id) else { return true };
        broker.fenced
            || broker.endpoint(self.listener).is_none()
            || partition.directories.get(at).is_some_and(|directory| {
                *directory == LOST_DIRECTORY
                    || !is_reserved(*directory)
                        && !broker.directories.is_empty()
                        && !broker.directories.contains(directory)
            })
    }

    pub fn partition(&self, partition: &PartitionImage) -> PartitionView {
        let known = self.endpoint(partition.leader).is_some();
        let error = match self.image.broker(partition.leader) {
            _ if known => None,
            None => Some(ErrorCode::LeaderNotAvailable),
            Some(_) => Some(ErrorCode::ListenerNotFound),
        };
        let offline = (0..partition.replicas.len()).filter(|at| self.is_offline(partition, *at));
        PartitionView {
            error,
            leader: if known { partition.leader } else { NO_LEADER },
            offline: offline.map(|at| BrokerId(partition.replicas[at])).collect(),
        }
    }

    fn described(
        &self,
        index: i32,
        partition: &PartitionImage,
        version: i16,
    ) -> MetadataResponsePartition {
        let view = self.partition(partition);
        // Version 0 tells of missing replicas by leaving them out, and of that by an error.
        let alive = |ids: &[NodeId]| -> Vec<BrokerId> {
            let shown = |id: &&NodeId| version > 0 || self.is_shown(**id);
            ids.iter().filter(shown).map(|id| BrokerId(*id)).collect()
        };
        let (replicas, isr) = (alive(&partition.replicas), alive(&partition.isr));
        let some_missing =
            replicas.len() < partition.replicas.len() || isr.len() < partition.isr.len();
        let error = match view.error {
            Some(ErrorCode::ListenerNotFound) if version < 6 => Some(ErrorCode::LeaderNotAvailable),
            None if some_missing => Some(ErrorCode::ReplicaNotAvailable),
            other => other,
        };
        MetadataResponsePartition::default()
            .with_error_code(error.map_or(0, |code| code.code()))
            .with_partition_index(index)
            .with_leader_id(BrokerId(view.leader))
            .with_leader_epoch(partition.leader_epoch)
            .with_replica_nodes(replicas)
            .with_isr_nodes(isr)
            .with_offline_replicas(view.offline)
    }

    fn is_shown(&self, id: NodeId) -> bool {
        self.endpoint(id).is_some() && self.image.broker(id).is_some_and(|broker| !broker.fenced)
    }

    fn topic(&self, topic: &TopicImage, version: i16) -> MetadataResponseTopic {
        let partitions = topic.partitions.iter();
        MetadataResponseTopic::default()
            .with_name(Some(TopicName(text(&topic.name))))
            .with_topic_id(topic.id)
            .with_is_internal(is_internal(&topic.name))
            .with_partitions(partitions.map(|(i, p)| self.described(*i, p, version)).collect())
    }

    fn topic_by_id(&self, id: Uuid, version: i16) -> MetadataResponseTopic {
        match self.image.topic_by_id(id) {
            Some(topic) => self.topic(topic, version),
            None => MetadataResponseTopic::default()
                .with_error_code(ErrorCode::UnknownTopicId.code())
                .with_name(None)
                .with_topic_id(id),
        }
    }

    /// The asked topics, and the names among them that could be created.
    fn topics_by_name(
        &self,
        names: &[TopicName],
        version: i16,
    ) -> (Vec<MetadataResponseTopic>, Vec<TopicName>) {
        let mut missing = Vec::new();
        let described = |name: &TopicName| {
            if let Some(topic) = self.image.topic(name) {
                return self.topic(topic, version);
            }
            let code = missing_topic(name);
            if code == ErrorCode::UnknownTopicOrPartition {
                missing.push(name.clone());
            }
            MetadataResponseTopic::default()
                .with_error_code(code.code())
                .with_name(Some(name.clone()))
                .with_is_internal(is_internal(name))
        };
        (names.iter().map(described).collect(), missing)
    }

    /// The brokers that are alive and have the listener.
    fn brokers(&self) -> Vec<MetadataResponseBroker> {
        let alive = self.image.brokers().filter(|broker| !broker.fenced);
        let described = alive.filter_map(|broker| {
            let endpoint = broker.endpoint(self.listener)?;
            Some(
                MetadataResponseBroker::default()
                    .with_node_id(BrokerId(broker.id))
                    .with_host(text(&endpoint.host))
                    .with_port(endpoint.port.into())
                    .with_rack(broker.rack.as_deref().map(text)),
            )
        });
        described.collect()
    }
}

/// Kafka's name for a directory that is gone.
const LOST_DIRECTORY: Uuid = Uuid::from_u128(2);

/// Unassigned, lost or migrating: no directory that a broker could have.
fn is_reserved(directory: Uuid) -> bool {
    directory.as_u128() < 100
}

/// Why there is nothing to tell about a topic.
pub(super) fn missing_topic(name: &str) -> ErrorCode {
    match check_name(name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopicException,
    }
}

/// A KRaft broker names any broker that is alive as the controller: clients send it what the
/// controller decides, and it forwards that.
pub(super) fn any_broker(broker: &Broker, image: &Image) -> NodeId {
    let alive: Vec<NodeId> = image.brokers().filter(|b| !b.fenced).map(|b| b.id).collect();
    let at = broker.env.random.below(alive.len() as u64) as usize;
    alive.get(at).copied().unwrap_or(NO_LEADER)
}

pub(super) fn is_internal(topic: &str) -> bool {
    matches!(topic, "__consumer_offsets" | "__transaction_state" | "__share_group_state")
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{ORDERS, three_brokers};

    fn view<'a>(image: &'a Image, listener: &'a str) -> View<'a> {
        View { image, listener }
    }

    fn partitions(listener: &str, version: i16) -> Vec<String> {
        let image = three_brokers();
        let topic = view(&image, listener).topic(image.topic("orders").unwrap(), version);
        let ids = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
        let described = topic.partitions.iter().map(|p| {
            let error = ErrorCode::try_from_code(p.error_code);
            let (leader, offline) = (p.leader_id.0, ids(&p.offline_replicas));
            format!("{error:?} leader {leader} of {:?} offline {offline:?}", ids(&p.replica_nodes))
        });
        described.collect()
    }

    #[test]
    fn each_listener_sees_the_brokers_that_are_alive_and_have_it_with_its_own_addresses() {
        let image = three_brokers();
        let hosts = |listener| -> Vec<String> {
            let brokers = view(&image, listener).brokers();
            brokers.iter().map(|b| format!("{} {}", b.node_id.0, &*b.host)).collect()
        };
        assert_eq!(hosts("INSIDE"), ["1 inside-1", "2 inside-2"]);
        assert_eq!(hosts("OUTSIDE"), ["1 outside-1"]);
        assert_eq!(hosts("OTHER"), Vec::<String>::new());
    }

    #[test]
    fn a_leader_without_the_listener_is_an_error_that_depends_on_the_version() {
        assert_eq!(
            partitions("OUTSIDE", 6)[..2],
            [
                "None leader 1 of [1, 2] offline [2]",
                "Some(ListenerNotFound) leader -1 of [2, 1] offline [2]",
            ]
        );
        assert_eq!(
            partitions("OUTSIDE", 5)[1],
            "Some(LeaderNotAvailable) leader -1 of [2, 1] offline [2]"
        );
    }

    #[test]
    fn fenced_and_missing_replicas_are_offline_and_version_0_leaves_them_out() {
        assert_eq!(partitions("INSIDE", 13)[2], "None leader 3 of [3, 9] offline [3, 9]");
        assert_eq!(
            partitions("INSIDE", 0)[2],
            "Some(ReplicaNotAvailable) leader 3 of [] offline [3, 9]"
        );
    }

    #[test]
    fn topics_are_found_by_name_and_id_and_only_legal_missing_ones_can_be_created() {
        let image = three_brokers();
        let view = view(&image, "INSIDE");
        let names: Vec<_> =
            ["orders", "new", "a b"].iter().map(|name| TopicName(text(name))).collect();
        let (topics, missing) = view.topics_by_name(&names, 13);
        let codes: Vec<i16> = topics.iter().map(|topic| topic.error_code).collect();
        assert_eq!(codes, [0, 3, 17]);
        assert_eq!(missing, names[1..2]);
        assert_eq!(view.topic_by_id(ORDERS, 13).name, Some(TopicName(text("orders"))));
        let unknown = view.topic_by_id(Uuid::from_u128(6), 13);
        assert_eq!((unknown.error_code, unknown.name), (100, None));
    }

    #[test]
    fn no_topics_means_all_in_version_0_and_none_later() {
        let none = MetadataRequest::default().with_topics(Some(Vec::new()));
        assert!(matches!(asked(&none, 0), Ok(Asked::All)));
        assert!(matches!(asked(&none, 1), Ok(Asked::Names(names)) if names.is_empty()));
        let all = MetadataRequest::default().with_topics(None);
        assert!(matches!(asked(&all, 1), Ok(Asked::All)));
        let by_id = MetadataRequestTopic::default().with_topic_id(ORDERS).with_name(None);
        let by_id = MetadataRequest::default().with_topics(Some(vec![by_id]));
        assert!(matches!(asked(&by_id, 12), Ok(Asked::Ids(_))));
        assert!(matches!(asked(&by_id, 11), Err(ErrorCode::InvalidRequest)));
        let unnamed = MetadataRequestTopic::default().with_name(None);
        let unnamed = MetadataRequest::default().with_topics(Some(vec![unnamed]));
        assert!(matches!(asked(&unnamed, 12), Err(ErrorCode::UnknownServerError)));
    }
}
