//! ShareAcknowledge: what a member has done with records that it acquired (KIP-932).
//!
//! Versions 1 and 2; from 2 locks may be renewed (KIP-1222) and the answer tells how long they
//! hold. Answered when the share coordinator has written the outcome. What ShareFetch shares with
//! it is here: sessions' names, acknowledgements, and where leaders are.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use kafka_protocol::messages::ApiKey;

use super::{Answer, Api, Client, Reply, Unreadable, encode};
use crate::broker::Broker;
use crate::controller::image::Image;
use crate::error::{ErrorCode, Refusal};
use crate::replica::read::is_about_leader;
use crate::share::partition::{AckBatch, AckType};
use crate::share::sessions::{FINAL_EPOCH, SessionKey, TopicIdPartition};
use crate::share::settings::GroupConfig;
use crate::types::NodeId;
use crate::wire::message::Message as _;
use crate::wire::share::{
    AcknowledgePartition, AcknowledgeTopic, AcknowledgedPartition, AcknowledgedTopic, Leader,
    NodeEndpoint, ShareAcknowledgeRequest, ShareAcknowledgeResponse,
};

pub const API: Api = Api::new(ApiKey::ShareAcknowledge, 1..=2).handled_by(read_and_handle);

/// The longest member id that Kafka takes.
const MAX_MEMBER_ID: usize = 36;

/// By partition: what came of its acknowledgements.
pub type Acknowledged = BTreeMap<TopicIdPartition, Result<(), Refusal>>;

/// Stands for a response type where the body is encoded already.
pub type Nothing = kafka_protocol::messages::ShareAcknowledgeResponse;

fn read_and_handle<'a>(
    broker: &'a Arc<Broker>,
    client: &'a Client,
    body: Bytes,
) -> BoxFuture<'a, Result<Answer, Unreadable>> {
    Box::pin(async move {
        let version = client.version;
        let request = ShareAcknowledgeRequest::decode(&mut &body[..], version);
        let request = request.map_err(|error| Unreadable(format!("ShareAcknowledge: {error}")))?;
        let answer = handle(broker, client, request);
        let chunks = async move {
            let mut out = BytesMut::new();
            answer.await.encode(version, &mut out);
            vec![out.freeze()]
        };
        encode(client, Reply::<Nothing>::LaterEncoded(Box::pin(chunks)))
    })
}

fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: ShareAcknowledgeRequest,
) -> impl Future<Output = ShareAcknowledgeResponse> + Send + use<> {
    let begun =
        session_key(broker, request.group.as_ref(), request.member.as_ref()).and_then(|key| {
            broker.shares.sessions.lock().acknowledge(&key, request.session_epoch)?;
            let acknowledged = start(broker, client, &key, &request.topics, request.is_renew);
            Ok((key, acknowledged))
        });
    let (broker, client) = (broker.clone(), client.clone());
    async move {
        let (key, acknowledged) = match begun {
            Ok(begun) => begun,
            Err(refusal) => {
                return ShareAcknowledgeResponse {
                    error_code: refusal.code.code(),
                    error_message: Some(refusal.message),
                    ..ShareAcknowledgeResponse::default()
                };
            }
        };
        let acknowledged = acknowledged.await;
        if request.session_epoch == FINAL_EPOCH {
            broker.shares.end_session(&key);
        }
        respond(&broker, &client, &key, acknowledged)
    }
}

/// Whose session it is, if the request names somebody.
pub(super) fn session_key(
    broker: &Broker,
    group: Option<&String>,
    member: Option<&String>,
) -> Result<SessionKey, Refusal> {
    if !broker.shares.is_enabled() {
        return Err(ErrorCode::UnsupportedVersion.into());
    }
    let invalid = |what: &str| {
        Refusal::new(ErrorCode::InvalidRequest, format!("Invalid {what} id in the request."))
    };
    let group = group.cloned().ok_or_else(|| invalid("group"))?;
    let fits = |id: &&String| !id.is_empty() && id.len() <= MAX_MEMBER_ID;
    let member = member.filter(fits).ok_or_else(|| invalid("member"))?;
    Ok((group, member.clone()))
}

/// How long the group's members keep what they acquire.
pub(super) fn lock_ms(broker: &Broker, group: &str) -> i32 {
    GroupConfig::of(&broker.image.load(), &broker.settings, group).lock_ms()
}

/// Starts all acknowledgements of a request, in its order.
pub(super) fn start(
    broker: &Arc<Broker>,
    client: &Client,
    (group, member): &SessionKey,
    topics: &[AcknowledgeTopic],
    is_renew: bool,
) -> BoxFuture<'static, Acknowledged> {
    let image = broker.image.load();
    let mut decided = Acknowledged::new();
    let mut written = Vec::new();
    for topic in topics {
        let known = image.topic_by_id(topic.topic_id);
        for partition in &topic.partitions {
            let at = (topic.topic_id, partition.index);
            let acks = read_acks(partition, client.version >= 2, is_renew);
            let exists = known.map(|topic| topic.partitions.contains_key(&partition.index));
            match (exists, acks) {
                (None, _) => drop(decided.insert(at, Err(ErrorCode::UnknownTopicId.into()))),
                (_, Err(code)) => drop(decided.insert(at, Err(code.into()))),
                (Some(false), _) => {
                    decided.insert(at, Err(ErrorCode::UnknownTopicOrPartition.into()));
                }
                (Some(true), Ok(acks)) if acks.is_empty() => drop(decided.insert(at, Ok(()))),
                (Some(true), Ok(acks)) => {
                    written.push((at, broker.shares.acknowledge(group, member, at, &acks)));
                }
            }
        }
    }
    Box::pin(async move {
        for (at, result) in written {
            decided.insert(at, result.await);
        }
        decided
    })
}

/// What a member says of a partition, if that makes sense.
fn read_acks(
    partition: &AcknowledgePartition,
    may_renew: bool,
    is_renew: bool,
) -> Result<Vec<AckBatch>, ErrorCode> {
    let mut before = -1;
    let mut acks = Vec::with_capacity(partition.batches.len());
    for batch in &partition.batches {
        let (first, last, count) = (batch.first, batch.last, batch.types.len() as i64);
        let fits = match count {
            0 => false,
            1 => true,
            count => last.checked_sub(first) == Some(count - 1),
        };
        let types: Option<Vec<AckType>> = batch.types.iter().map(|it| AckType::of(*it)).collect();
        let types = types.ok_or(ErrorCode::InvalidRequest)?;
        let renews = types.contains(&AckType::Renew);
        if first > last || first < before || !fits || renews && !(may_renew && is_renew) {
            return Err(ErrorCode::InvalidRequest);
        }
        before = last;
        acks.push(AckBatch { first, last, types });
    }
    Ok(acks)
}

fn respond(
    broker: &Broker,
    client: &Client,
    key: &SessionKey,
    acknowledged: Acknowledged,
) -> ShareAcknowledgeResponse {
    let mut leaders = Leaders::of(broker, client);
    let mut topics: Vec<AcknowledgedTopic> = Vec::new();
    for (at, result) in acknowledged {
        let (topic_id, index) = at;
        let mut partition = AcknowledgedPartition { index, ..AcknowledgedPartition::default() };
        if let Err(refusal) = result {
            partition.leader = leaders.of_refused(at, refusal.code);
            partition.error_code = refusal.code.code();
            partition.error_message = Some(refusal.message);
        }
        match topics.last_mut() {
            Some(topic) if topic.topic_id == topic_id => topic.partitions.push(partition),
            _ => topics.push(AcknowledgedTopic { topic_id, partitions: vec![partition] }),
        }
    }
    ShareAcknowledgeResponse {
        lock_timeout_ms: lock_ms(broker, &key.0),
        topics,
        endpoints: leaders.endpoints(),
        ..ShareAcknowledgeResponse::default()
    }
}

/// Tells who was sent to the wrong broker where the leaders are.
pub(super) struct Leaders<'a> {
    image: Arc<Image>,
    client: &'a Client,
    told: Vec<NodeId>,
}

impl<'a> Leaders<'a> {
    pub fn of(broker: &Broker, client: &'a Client) -> Self {
        Self { image: broker.image.load_full(), client, told: Vec::new() }
    }

    pub fn of_refused(
        &mut self,
        (topic_id, partition): TopicIdPartition,
        code: ErrorCode,
    ) -> Leader {
        let topic = self.image.topic_by_id(topic_id).filter(|_| is_about_leader(code));
        let Some(known) = topic.and_then(|topic| topic.partitions.get(&partition)) else {
            return Leader::default();
        };
        if known.leader >= 0 && !self.told.contains(&known.leader) {
            self.told.push(known.leader);
        }
        Leader { id: known.leader, epoch: known.leader_epoch }
    }

    pub fn endpoints(self) -> Vec<NodeEndpoint> {
        let of = |id: &NodeId| {
            let broker = self.image.broker(*id)?;
            let endpoint = broker.endpoint(&self.client.connection.listener)?;
            Some(NodeEndpoint {
                id: *id,
                host: endpoint.host.to_string(),
                port: endpoint.port.into(),
                rack: broker.rack.as_ref().map(ToString::to_string),
            })
        };
        self.told.iter().filter_map(of).collect()
    }
}
