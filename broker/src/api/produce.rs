//! Produce: appends record batches to partitions that this broker leads.
//!
//! Versions 3 to 13; 0 to 2 are advertised, because librdkafka turns compression off without them
//! (KAFKA-18659), and refused. `acks=all` is answered once all in-sync replicas have the records
//! durably, `acks=1` once they are in the leader's log, `acks=0` never: a failure closes the
//! connection. A request that is appended has taken its place: the next one of the connection
//! starts while it waits. With the first batch of a transaction its coordinator is asked beforehand
//! (KIP-890): whether the partition was added, or, from version 12 on, to add it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::produce_request::PartitionProduceData;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse,
    TopicProduceResponse,
};
use kafka_protocol::messages::{ApiKey, BrokerId, ProduceRequest, ProduceResponse};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::metadata::is_internal;
use super::{Api, Client, Reply, handler};
use crate::broker::Broker;
use crate::controller::image::Image;
use crate::env::Env;
use crate::error::{ErrorCode, Refusal};
use crate::log::{Appending, Origin};
use crate::replica::Partitions;
use crate::replica::partition::ANY_EPOCH;
use crate::replica::read::is_about_leader;
use crate::replica::ticket::Ticket;
use crate::replica::verification::{Supports, Verified, Writer};
use crate::types::{NodeId, Offset, TopicPartition};
use crate::wire::records::{BatchView, Compression, RecordsError};

pub const API: Api =
    Api::new(ApiKey::Produce, 3..=13).advertised_from(0).handled_by(handler!(handle));

/// The client id with which Kafka lets a client write to internal topics.
const ADMIN_CLIENT: &str = "__admin_client";
/// From this version on topics are named by id.
const BY_ID: i16 = 13;
/// From this version on a refused producer is told who leads (KIP-951).
const WITH_LEADER: i16 = 10;
/// From this version on a refused producer is told which records are at fault (KIP-467).
const WITH_RECORDS: i16 = 8;
/// From this version on zstd may be used.
const WITH_ZSTD: i16 = 7;
/// From this version on a producer may be told TRANSACTION_ABORTABLE.
const WITH_ABORTABLE: i16 = 11;
/// From this version on a transaction gains the partition by this very request (KIP-890).
const ADDS_PARTITIONS: i16 = 12;

async fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: ProduceRequest,
) -> Reply<ProduceResponse> {
    let acks = request.acks;
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let producing = Producing {
        partitions: &broker.partitions,
        image: broker.image.load_full(),
        version: client.version,
        acks,
        internal_too: client.id.as_deref() == Some(ADMIN_CLIENT),
        listener: client.connection.listener.clone(),
    };
    let verified = producing.verify(&request).await;
    let topics = producing.append_all(request, &verified);
    if acks == 0 {
        let failed = topics.iter().flat_map(|topic| &topic.partitions);
        return if failed.clone().any(|it| it.outcome.is_err()) {
            Reply::Close
        } else {
            Reply::None
        };
    }
    let answering = Answering {
        env: broker.env.clone(),
        image: producing.image,
        version: client.version,
        listener: producing.listener,
    };
    if acks == 1 {
        return Reply::Now(answering.answer(topics, None).await);
    }
    Reply::later(async move { answering.answer(topics, Some(timeout)).await })
}

/// A topic of the request, named as the client named it.
struct Topic {
    shell: TopicProduceResponse,
    partitions: Vec<Placed>,
}

struct Placed {
    index: i32,
    outcome: Result<Ticket, Refusal>,
    /// Who leads, as far as known, when it is not this broker.
    leader: Option<LeaderIdAndEpoch>,
    /// Where the log begins, when a refusal tells it.
    start_offset: Offset,
}

struct Producing<'a> {
    partitions: &'a Arc<Partitions>,
    image: Arc<Image>,
    version: i16,
    acks: i16,
    internal_too: bool,
    listener: Arc<str>,
}

/// What is known of the request's transaction before anything is appended.
enum Transaction {
    /// Partitions that needed no verification are not in it.
    Verified(BTreeMap<TopicPartition, Verified>),
    /// Nothing of the request is appended.
    Refused(Refusal),
}

impl Producing<'_> {
    /// Asks the coordinator of the request's transaction, if it has one.
    async fn verify(&self, request: &ProduceRequest) -> Transaction {
        let nothing = Transaction::Verified(BTreeMap::new());
        let mut producers = Vec::new();
        let mut appends = Vec::new();
        for topic in &request.topic_data {
            for data in &topic.partition_data {
                let batch = data.records.as_deref().map(BatchView::first);
                let Some(Ok(batch)) = batch.filter(is_transactional) else { continue };
                if request.transactional_id.is_none() {
                    return Transaction::Refused(
                        ErrorCode::TransactionalIdAuthorizationFailed.into(),
                    );
                }
                let producer = (batch.producer_id(), batch.producer_epoch());
                if !producers.contains(&producer) {
                    producers.push(producer);
                }
                let here = self
                    .name(&topic.name, topic.topic_id)
                    .and_then(|name| self.partitions.as_leader(&name, data.index, ANY_EPOCH));
                // What is not led here is refused where it would be appended.
                appends.extend(here.ok().map(|partition| (partition, batch.base_sequence())));
            }
        }
        let (Some(id), Some(producer)) = (&request.transactional_id, producers.first()) else {
            return nothing;
        };
        if producers.len() > 1 {
            return Transaction::Refused(Refusal::new(
                ErrorCode::InvalidProducerIdMapping,
                "Transactional records contained more than one producer ID",
            ));
        }
        let supports = match self.version {
            ADDS_PARTITIONS.. => Supports::Adding,
            WITH_ABORTABLE => Supports::Abortable,
            _ => Supports::OldErrors,
        };
        let transactional_id = id.0.clone();
        let writer = Writer { transactional_id, id: producer.0, epoch: producer.1, supports };
        Transaction::Verified(self.partitions.verifier.verify(&writer, &appends).await)
    }

    fn append_all(&self, request: ProduceRequest, transaction: &Transaction) -> Vec<Topic> {
        let mut topics = Vec::with_capacity(request.topic_data.len());
        for topic in request.topic_data {
            let shell = TopicProduceResponse::default()
                .with_name(topic.name.clone())
                .with_topic_id(topic.topic_id);
            let name = self.name(&topic.name, topic.topic_id);
            let place = |data: PartitionProduceData| {
                let index = data.index;
                let mut start_offset = -1;
                let appended = name
                    .clone()
                    .map_err(Refusal::from)
                    .and_then(|name| self.append(&name, data, transaction, &mut start_offset));
                let leader = match &appended {
                    Err(refusal) if is_about_leader(refusal.code) => {
                        name.as_deref().ok().and_then(|name| self.leader(name, index))
                    }
                    _ => None,
                };
                Placed { index, outcome: appended, leader, start_offset }
            };
            let partitions = topic.partition_data.into_iter().map(place).collect();
            topics.push(Topic { shell, partitions });
        }
        topics
    }

    fn name(&self, name: &str, id: Uuid) -> Result<Arc<str>, ErrorCode> {
        if self.version < BY_ID {
            return Ok(name.into());
        }
        let topic = self.image.topic_by_id(id).ok_or(ErrorCode::UnknownTopicId)?;
        Ok(topic.name.clone())
    }

    fn append(
        &self,
        topic: &str,
        data: PartitionProduceData,
        transaction: &Transaction,
        start_offset: &mut Offset,
    ) -> Result<Ticket, Refusal> {
        let verified = match transaction {
            Transaction::Refused(refusal) => return Err(refusal.clone()),
            Transaction::Verified(verified) => verified,
        };
        if !(-1..=1).contains(&self.acks) {
            return Err(ErrorCode::InvalidRequiredAcks.into());
        }
        let records = data.records.unwrap_or_default();
        self.check(&records)?;
        if is_internal(topic) && !self.internal_too {
            let message = format!("Cannot append to internal topic {topic}");
            return Err(Refusal::new(ErrorCode::InvalidTopicException, message));
        }
        let partition = self.partitions.as_leader(topic, data.index, ANY_EPOCH)?;
        let guard = match verified.get(&partition.id) {
            Some(verified) => verified.clone()?,
            None => None,
        };
        let appending = Appending::verified(Origin::Client, guard);
        let appended = partition.append(records, self.acks == -1, ANY_EPOCH, appending);
        appended.inspect_err(|refusal| {
            if tells_start_offset(refusal.code) {
                *start_offset = partition.log().start_offset();
            }
        })
    }

    /// Exactly one batch, of a kind that this version may carry.
    fn check(&self, records: &Bytes) -> Result<(), Refusal> {
        let batch = BatchView::first(records).map_err(|error| match error {
            // Kafka finds no batch at all in bytes that end before their first one does.
            RecordsError::Incomplete => Refusal::new(
                ErrorCode::InvalidRecord,
                format!(
                    "Produce requests with version {} must have at least one record batch per \
                     partition",
                    self.version
                ),
            ),
            other => other.into(),
        })?;
        if batch.size() != records.len() {
            return Err(Refusal::new(
                ErrorCode::InvalidRecord,
                format!(
                    "Produce requests with version {} are only allowed to contain exactly one \
                     record batch per partition",
                    self.version
                ),
            ));
        }
        if batch.compression()? == Compression::Zstd && self.version < WITH_ZSTD {
            return Err(Refusal::new(
                ErrorCode::UnsupportedCompressionType,
                format!("zstd is not allowed in Produce version {}", self.version),
            ));
        }
        Ok(())
    }

    fn leader(&self, topic: &str, index: i32) -> Option<LeaderIdAndEpoch> {
        let known = self.image.partition(topic, index)?;
        let leader = LeaderIdAndEpoch::default();
        Some(leader.with_leader_id(BrokerId(known.leader)).with_leader_epoch(known.leader_epoch))
    }
}

fn is_transactional(batch: &Result<BatchView<'_>, RecordsError>) -> bool {
    batch.as_ref().is_ok_and(|it| it.is_transactional() && it.has_producer_id())
}

struct Answering {
    env: Env,
    image: Arc<Image>,
    version: i16,
    listener: Arc<str>,
}

impl Answering {
    /// With a time-out: waits for the records to be committed.
    async fn answer(self, topics: Vec<Topic>, wait: Option<Duration>) -> ProduceResponse {
        let deadline = wait.map(|wait| self.env.clock.now() + wait);
        let mut responses = Vec::with_capacity(topics.len());
        let mut leaders: Vec<NodeId> = Vec::new();
        for topic in topics {
            let mut answers = Vec::with_capacity(topic.partitions.len());
            for placed in topic.partitions {
                let leader = placed.leader.clone();
                let answer = self.settle(placed, deadline).await;
                answers.push(match leader.filter(|_| self.version >= WITH_LEADER) {
                    Some(leader) => {
                        if !leaders.contains(&leader.leader_id.0) {
                            leaders.push(leader.leader_id.0);
                        }
                        answer.with_current_leader(leader)
                    }
                    None => answer,
                });
            }
            responses.push(topic.shell.with_partition_responses(answers));
        }
        let response = ProduceResponse::default().with_responses(responses);
        if leaders.is_empty() { response } else { self.with_endpoints(response, &leaders) }
    }

    async fn settle(
        &self,
        placed: Placed,
        deadline: Option<tokio::time::Instant>,
    ) -> PartitionProduceResponse {
        let answer = PartitionProduceResponse::default()
            .with_index(placed.index)
            .with_base_offset(-1)
            .with_log_append_time_ms(-1)
            .with_log_start_offset(-1);
        let ticket = match placed.outcome {
            Ok(ticket) => ticket,
            Err(refusal) => {
                let answer = answer.with_log_start_offset(self.start_offset(placed.start_offset));
                return refused(answer, refusal, self.version);
            }
        };
        let answer = answer
            .with_base_offset(ticket.appended.first_offset)
            .with_log_append_time_ms(ticket.appended.append_time)
            .with_log_start_offset(ticket.appended.start_offset);
        let Some(deadline) = deadline else { return answer };
        let committed = tokio::time::timeout_at(deadline, ticket.committed()).await;
        let code = match committed {
            Ok(Ok(())) => return answer,
            Ok(Err(code)) => code,
            Err(_) => ErrorCode::RequestTimedOut,
        };
        answer.with_error_code(code.code())
    }

    /// Before version 5 there is no place for it.
    fn start_offset(&self, offset: Offset) -> Offset {
        if self.version < 5 { -1 } else { offset }
    }

    fn with_endpoints(&self, response: ProduceResponse, leaders: &[NodeId]) -> ProduceResponse {
        let endpoint = |id: &NodeId| {
            let broker = self.image.broker(*id)?;
            let endpoint = broker.endpoint(&self.listener)?;
            let rack = broker.rack.as_ref().map(|rack| StrBytes::from_string(rack.to_string()));
            Some(
                NodeEndpoint::default()
                    .with_node_id(BrokerId(*id))
                    .with_host(StrBytes::from_string(endpoint.host.to_string()))
                    .with_port(endpoint.port.into())
                    .with_rack(rack),
            )
        };
        response.with_node_endpoints(leaders.iter().filter_map(endpoint).collect())
    }
}

/// Kafka tells where the log begins with what the log itself finds wrong, except for these.
fn tells_start_offset(code: ErrorCode) -> bool {
    !matches!(
        code,
        ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::NotLeaderOrFollower
            | ErrorCode::MessageTooLarge
            | ErrorCode::RecordListTooLarge
            | ErrorCode::CorruptMessage
            | ErrorCode::KafkaStorageError
    )
}

fn refused(
    answer: PartitionProduceResponse,
    refusal: Refusal,
    version: i16,
) -> PartitionProduceResponse {
    tracing::debug!(index = answer.index, %refusal, "produce refused");
    let of_record = |index: &i32| {
        BatchIndexAndErrorMessage::default()
            .with_batch_index(*index)
            .with_batch_index_error_message(Some(StrBytes::from_string(refusal.message.clone())))
    };
    let records = refusal.records.iter().filter(|_| version >= WITH_RECORDS).map(of_record);
    answer
        .with_record_errors(records.collect())
        .with_error_code(refusal.code.code())
        .with_error_message(Some(StrBytes::from_string(refusal.message)))
}
