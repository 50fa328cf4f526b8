//! Asks the transaction coordinator whether a producer's transaction has the partitions that it
//! writes to, before the first batch is appended (KIP-890).
//!
//! A client of transactions of version 2 leaves it to this question to add them. The coordinator is
//! the leader of a partition of `__transaction_state`; there is one connection to each broker that
//! is one. What cannot be asked now is refused so that every client tries again.
//!
//! Deliberately absent: collecting the questions of several producers into one request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, ProducerId, TopicName, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use parking_lot::RwLock;

use super::context::Context;
use super::partition::Partition;
use super::peers::Peers;
use crate::error::{ErrorCode, Refusal};
use crate::log::Guard;
use crate::net::peer::PeerError;
use crate::types::{NO_LEADER, NodeId, TopicPartition};
use crate::wire::records::NO_SEQUENCE;

/// The internal topic of transactions.
const STATE_TOPIC: &str = crate::coordinator::transaction::TRANSACTION_STATE_TOPIC;
/// The first version of AddPartitionsToTxn that brokers ask with.
const FOR_BROKERS: i16 = 4;

/// What the client of the request that is being verified understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Supports {
    /// No word for a transaction that has to be aborted.
    OldErrors,
    /// TRANSACTION_ABORTABLE.
    Abortable,
    /// Transactions of version 2: the partition is added here.
    Adding,
}

/// Who writes to which transaction.
#[derive(Debug, Clone)]
pub struct Writer {
    pub transactional_id: StrBytes,
    pub id: i64,
    pub epoch: i16,
    pub supports: Supports,
}

/// What came out for one partition: what to show with the append, or why there is none.
pub type Verified = Result<Option<Guard>, Refusal>;

/// Why a coordinator did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence {
    /// It is too old to be asked: the append goes ahead.
    CannotTell,
    Failed(String),
}

/// How coordinators are reached.
#[async_trait]
pub trait Coordinators: Send + Sync {
    async fn ask(
        &self,
        coordinator: NodeId,
        request: AddPartitionsToTxnRequest,
    ) -> Result<AddPartitionsToTxnResponse, Silence>;
}

pub struct Verifier {
    context: Arc<Context>,
    coordinators: RwLock<Arc<dyn Coordinators>>,
}

impl Verifier {
    pub fn new(context: Arc<Context>) -> Self {
        let over_network = OverNetwork::new(context.clone());
        Self { context, coordinators: RwLock::new(Arc::new(over_network)) }
    }

    #[cfg(test)]
    pub fn ask_instead(&self, coordinators: Arc<dyn Coordinators>) {
        *self.coordinators.write() = coordinators;
    }

    /// Verifies each partition that `writer` wants to append to, where its first batch has the
    /// sequence given. A coordinator that is busy with the last transaction is asked again.
    pub async fn verify(
        &self,
        writer: &Writer,
        appends: &[(Arc<Partition>, i32)],
    ) -> BTreeMap<TopicPartition, Verified> {
        self.verify_and_tell(writer, appends, told).await
    }

    /// As [`Verifier::verify`], for the offsets of a group: its coordinator says what is wrong in
    /// the words of coordinators.
    pub async fn verify_offsets(&self, writer: &Writer, partition: Arc<Partition>) -> Verified {
        let id = partition.id.clone();
        let appends = [(partition, NO_SEQUENCE)];
        let mut verified = self.verify_and_tell(writer, &appends, told_with_offsets).await;
        verified.remove(&id).unwrap_or(Ok(None))
    }

    async fn verify_and_tell(
        &self,
        writer: &Writer,
        appends: &[(Arc<Partition>, i32)],
        told: Told,
    ) -> BTreeMap<TopicPartition, Verified> {
        let settings = &self.context.settings;
        let clock = &self.context.env.clock;
        let backoff = settings.add_partitions_retry_backoff;
        let patience = settings.add_partitions_retry_backoff_max.min(settings.request_timeout);
        let until = clock.now() + patience;
        loop {
            let verified = self.verify_once(writer, appends, told).await;
            let busy = |it: &Verified| {
                it.as_ref().is_err_and(|it| it.code == ErrorCode::ConcurrentTransactions)
            };
            let again = writer.supports == Supports::Adding && verified.values().any(busy);
            if !again || clock.now() >= until {
                return verified;
            }
            clock.sleep(backoff).await;
        }
    }

    async fn verify_once(
        &self,
        writer: &Writer,
        appends: &[(Arc<Partition>, i32)],
        told: Told,
    ) -> BTreeMap<TopicPartition, Verified> {
        let mut verified = BTreeMap::new();
        let mut asked: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        let bumps = writer.supports == Supports::Adding;
        for (partition, sequence) in appends {
            let begun = partition.start_verification((writer.id, writer.epoch), *sequence, bumps);
            if matches!(begun, Ok(Some(_))) {
                asked.entry(&partition.id.topic).or_default().push(partition.id.partition);
            }
            verified.insert(partition.id.clone(), begun);
        }
        if asked.is_empty() {
            return verified;
        }
        let refused = self.refused(writer, &asked).await;
        for (id, outcome) in &mut verified {
            if matches!(outcome, Ok(Some(_)))
                && let Some(code) = refused.get(id)
            {
                tracing::debug!(partition = %id, ?code, "a transaction could not be verified");
                *outcome = Err(told(*code, writer.supports));
            }
        }
        verified
    }

    /// The partitions that the coordinator does not agree to.
    async fn refused(
        &self,
        writer: &Writer,
        asked: &BTreeMap<&str, Vec<i32>>,
    ) -> BTreeMap<TopicPartition, ErrorCode> {
        let all = |code| {
            let ids = asked.iter().flat_map(|(topic, partitions)| {
                partitions.iter().map(|partition| TopicPartition::new(*topic, *partition))
            });
            ids.map(|id| (id, code)).collect()
        };
        let Some(coordinator) = self.coordinator(&writer.transactional_id) else {
            return all(ErrorCode::CoordinatorNotAvailable);
        };
        let coordinators = self.coordinators.read().clone();
        let response = match coordinators.ask(coordinator, question(writer, asked)).await {
            Ok(response) => response,
            Err(Silence::CannotTell) => return BTreeMap::new(),
            Err(Silence::Failed(why)) => {
                tracing::debug!(coordinator, why, "the coordinator of a transaction is away");
                return all(ErrorCode::NetworkException);
            }
        };
        match ErrorCode::try_from_code(response.error_code) {
            None => {}
            // That brokers may not ask is not for the client to hear.
            Some(ErrorCode::ClusterAuthorizationFailed) => return all(ErrorCode::InvalidTxnState),
            Some(code) => return all(code),
        }
        let mut refused = BTreeMap::new();
        for topic in response.results_by_transaction.iter().flat_map(|it| &it.topic_results) {
            for partition in &topic.results_by_partition {
                if let Some(code) = ErrorCode::try_from_code(partition.partition_error_code) {
                    let id = TopicPartition::new(topic.name.as_str(), partition.partition_index);
                    refused.insert(id, code);
                }
            }
        }
        refused
    }

    /// The leader of the transactional id's partition of the state topic.
    fn coordinator(&self, transactional_id: &str) -> Option<NodeId> {
        let image = self.context.image.load();
        let topic = image.topic(STATE_TOPIC)?;
        let count = i32::try_from(topic.partitions.len()).ok()?;
        let partition = crate::coordinator::group::partition_of(transactional_id, count);
        let leader = topic.partitions.get(&partition)?.leader;
        (leader != NO_LEADER).then_some(leader)
    }
}

fn question(writer: &Writer, asked: &BTreeMap<&str, Vec<i32>>) -> AddPartitionsToTxnRequest {
    let topic = |(name, partitions): (&&str, &Vec<i32>)| {
        AddPartitionsToTxnTopic::default()
            .with_name(TopicName(StrBytes::from_string((*name).to_owned())))
            .with_partitions(partitions.clone())
    };
    let transaction = AddPartitionsToTxnTransaction::default()
        .with_transactional_id(TransactionalId(writer.transactional_id.clone()))
        .with_producer_id(ProducerId(writer.id))
        .with_producer_epoch(writer.epoch)
        .with_verify_only(writer.supports != Supports::Adding)
        .with_topics(asked.iter().map(topic).collect());
    AddPartitionsToTxnRequest::default().with_transactions(vec![transaction])
}

/// What a client is told when the coordinator of its transaction says something.
type Told = fn(ErrorCode, Supports) -> Refusal;

/// What a group's coordinator tells. A client that does not expect NETWORK_EXCEPTION tries again
/// after COORDINATOR_LOAD_IN_PROGRESS, without looking for another coordinator.
fn told_with_offsets(code: ErrorCode, supports: Supports) -> Refusal {
    use ErrorCode as E;
    let code = match code {
        E::ProducerFenced => E::InvalidProducerEpoch,
        E::TransactionAbortable if supports < Supports::Abortable => E::InvalidTxnState,
        E::NetworkException => E::CoordinatorLoadInProgress,
        other => other,
    };
    code.into()
}

/// What a producer is told when the coordinator says `code`.
fn told(code: ErrorCode, supports: Supports) -> Refusal {
    use ErrorCode as E;
    let code = match code {
        // Producers know this one better.
        E::ProducerFenced => E::InvalidProducerEpoch,
        E::TransactionAbortable if supports < Supports::Abortable => E::InvalidTxnState,
        other => other,
    };
    match code {
        E::InvalidTxnState => Refusal::new(code, "Partition was not added to the transaction"),
        // Common right after a commit, and clients of version 2 know what to do.
        E::ConcurrentTransactions if supports == Supports::Adding => code.into(),
        // Older clients would not try again after these.
        E::ConcurrentTransactions
        | E::NetworkException
        | E::CoordinatorLoadInProgress
        | E::CoordinatorNotAvailable
        | E::NotCoordinator => Refusal::new(
            E::NotEnoughReplicas,
            format!(
                "Unable to verify the partition has been added to the transaction. Underlying \
                 error: {code:?}"
            ),
        ),
        other => other.into(),
    }
}

/// Coordinators on other brokers.
struct OverNetwork {
    peers: Peers,
    timeout: Duration,
}

impl OverNetwork {
    fn new(context: Arc<Context>) -> Self {
        let timeout = context.settings.request_timeout;
        let client_id = format!("AddPartitionsToTxnSenderThread-{}", context.me);
        Self { peers: Peers::new(context, client_id), timeout }
    }
}

#[async_trait]
impl Coordinators for OverNetwork {
    async fn ask(
        &self,
        coordinator: NodeId,
        request: AddPartitionsToTxnRequest,
    ) -> Result<AddPartitionsToTxnResponse, Silence> {
        let peer = self.peers.get(coordinator).await.map_err(Silence::Failed)?;
        let version = match peer.version_of::<AddPartitionsToTxnRequest>() {
            Ok(version) if version >= FOR_BROKERS => version,
            Ok(_) | Err(PeerError::Unsupported(..)) => return Err(Silence::CannotTell),
            Err(error) => return Err(Silence::Failed(error.to_string())),
        };
        let answer = peer.call_at(version, request, self.timeout).await;
        answer.map_err(|error| Silence::Failed(error.to_string()))
    }
}
