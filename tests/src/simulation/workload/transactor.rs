//! The smallest transactional producer: transactions of version 2 (KIP-890), one call at a time.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    EndTxnRequest, GroupId, InitProducerIdRequest, ProduceRequest, TransactionalId,
    TxnOffsetCommitRequest,
};
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::coordinators::{OF_GROUPS, OF_TRANSACTIONS};
use super::member::Membership;
use super::{RETRY, World, name, now_ms, text};
use crate::simulation::history::Place;
use crate::simulation::wire::{Connection, Identity, batch};

/// Why something did not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Somebody else has the transactional id, or the transaction took too long.
    Fenced,
    /// This transaction has to be aborted.
    Abort,
    /// No answer in time: nobody knows.
    Unknown,
}

pub(super) struct Transactor {
    pub world: World,
    /// The transactional id, and which of its instances this is.
    pub id: String,
    pub instance: u64,
    timeout_ms: i32,
    /// The transaction that is not known to have ended.
    pub open: Option<String>,
    /// It holds records whose fate is not known, and must not be committed.
    pub must_abort: bool,
    /// The number of the next value.
    pub next: u64,
    producer: (i64, i16),
    sequences: BTreeMap<Place, i32>,
    connections: BTreeMap<Place, Connection>,
    coordinator: Option<Connection>,
    group: Option<Connection>,
    random: StdRng,
}

impl Transactor {
    pub fn new(world: World, id: &str, instance: u64, timeout_ms: i32) -> Self {
        let random = world.random(&format!("{id}.{instance}"));
        Self {
            world,
            id: id.to_owned(),
            instance,
            timeout_ms,
            open: None,
            must_abort: false,
            next: 0,
            producer: (-1, -1),
            sequences: BTreeMap::new(),
            connections: BTreeMap::new(),
            coordinator: None,
            group: None,
            random,
        }
    }

    /// As it is now, for somebody who sends what this one sent long ago.
    pub fn shadow(&self) -> Self {
        let mut shadow = Self::new(self.world.clone(), &self.id, self.instance, self.timeout_ms);
        (shadow.producer, shadow.sequences) = (self.producer, self.sequences.clone());
        shadow
    }

    /// Begins a transaction, or goes on with the one that is open.
    pub fn begin(&mut self, name: &str) -> String {
        if let Some(open) = &self.open {
            return open.clone();
        }
        (self.open, self.next, self.must_abort) = (Some(name.to_owned()), 0, false);
        self.world.history.borrow_mut().ledger.begin(name, &self.id, self.instance);
        name.to_owned()
    }

    /// The next values of the transaction.
    pub fn values(&mut self, txn: &str, count: u64) -> Vec<String> {
        let first = self.next;
        self.next += count;
        (first..self.next).map(|number| format!("{txn}:{number}")).collect()
    }

    fn note(&self, what: &str) {
        self.world.trace.note(&format!("{}.{} {what}", self.id, self.instance));
    }

    pub fn is_fenced(&self) -> bool {
        self.world.history.borrow().ledger.is_fenced(&self.id, self.instance)
    }

    /// A fenced producer was given what only the newest one may have.
    fn judge(&self, was_fenced: bool, what: &str) {
        if was_fenced {
            let (id, instance) = (&self.id, self.instance);
            let what = format!(
                "zombie: {what} of {id}.{instance} was accepted after its successor's InitProducerId"
            );
            self.world.violate(what);
        }
    }

    /// InitProducerId: fences the instances before this one.
    pub async fn init(&mut self, end: Instant) -> bool {
        while Instant::now() < end {
            match self.try_init().await {
                Ok(0) => {
                    self.note(&format!("is producer {:?}", self.producer));
                    let mut history = self.world.history.borrow_mut();
                    history.ledger.initialized(&self.id, self.instance);
                    return true;
                }
                Ok(code) => {
                    self.note(&format!("init refused: {code}"));
                    if !is_busy(code) {
                        self.coordinator = None;
                    }
                }
                Err(_) => self.coordinator = None,
            }
            sleep(RETRY).await;
        }
        false
    }

    async fn coordinator(&mut self) -> io::Result<&mut Connection> {
        if self.coordinator.is_none() {
            let found = self.world.coordinator_of(&self.id, OF_TRANSACTIONS, &mut self.random);
            self.coordinator = Some(found.await?);
        }
        self.coordinator.as_mut().ok_or_else(|| io::Error::other("no coordinator"))
    }

    async fn try_init(&mut self) -> io::Result<i16> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(TransactionalId(text(&self.id))))
            .with_transaction_timeout_ms(self.timeout_ms)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let answer = self.coordinator().await?.call(&request, 5).await?;
        if answer.error_code == 0 {
            self.producer = (answer.producer_id.0, answer.producer_epoch);
            self.sequences.clear();
        }
        Ok(answer.error_code)
    }

    /// Writes one batch into the transaction `name`, again and again until its fate is known.
    pub async fn produce(
        &mut self,
        txn: &str,
        place: &Place,
        values: &[String],
        patience: Duration,
    ) -> Result<(), Trouble> {
        let done = self.insist_on(txn, place, values, patience).await;
        self.must_abort |= done.is_err();
        done
    }

    async fn insist_on(
        &mut self,
        txn: &str,
        place: &Place,
        values: &[String],
        patience: Duration,
    ) -> Result<(), Trouble> {
        let end = Instant::now() + patience;
        let sequence = *self.sequences.get(place).unwrap_or(&0);
        let (producer_id, epoch) = self.producer;
        let identity = Identity { producer_id, epoch, sequence, transactional: true };
        let records = batch(values, identity, now_ms());
        loop {
            let fenced = self.is_fenced();
            match self.try_produce(place, records.clone()).await {
                Ok(code) => {
                    self.note(&format!("{} to {place:?}: {code}", values.join(" ")));
                    match ResponseError::try_from_code(code) {
                        None | Some(ResponseError::DuplicateSequenceNumber) => {
                            self.judge(fenced, &format!("{values:?}"));
                            self.sequences.insert(place.clone(), sequence + values.len() as i32);
                            let mut history = self.world.history.borrow_mut();
                            history.ledger.acknowledged(txn, place, values);
                            return Ok(());
                        }
                        Some(error) => self.hear(error, place, fenced)?,
                    }
                }
                Err(error) => self.note(&format!("{} unknown: {error}", values.join(" "))),
            }
            self.connections.remove(place);
            if Instant::now() >= end {
                return Err(Trouble::Abort);
            }
            sleep(RETRY).await;
        }
    }

    /// Sends one batch once, and does not mind what becomes of it.
    pub async fn produce_late(&mut self, place: &Place, values: &[String]) {
        let sequence = *self.sequences.get(place).unwrap_or(&0);
        let (producer_id, epoch) = self.producer;
        let identity = Identity { producer_id, epoch, sequence, transactional: true };
        let sent = self.try_produce(place, batch(values, identity, now_ms())).await;
        self.note(&format!("{values:?} late: {:?}", sent.map_err(|error| error.to_string())));
    }

    /// What a produce request was refused with; `Ok`: again.
    fn hear(&self, error: ResponseError, place: &Place, fenced: bool) -> Result<(), Trouble> {
        match error {
            ResponseError::InvalidProducerEpoch | ResponseError::ProducerFenced => {
                Err(Trouble::Fenced)
            }
            ResponseError::InvalidTxnState | ResponseError::TransactionAbortable => {
                Err(Trouble::Abort)
            }
            ResponseError::OutOfOrderSequenceNumber
            | ResponseError::UnknownProducerId
            | ResponseError::InvalidProducerIdMapping
            | ResponseError::CorruptMessage
            | ResponseError::InvalidRecord
                if !fenced =>
            {
                let (id, instance) = (&self.id, self.instance);
                self.world.violate(format!("refused: {place:?} {id}.{instance}: {error:?}"));
                Err(Trouble::Abort)
            }
            _ => Ok(()),
        }
    }

    async fn try_produce(&mut self, place: &Place, records: bytes::Bytes) -> io::Result<i16> {
        if !self.connections.contains_key(place) {
            let found = self.world.to_leader(place, &mut self.random).await;
            let (connection, _) = found.ok_or_else(|| io::Error::other("no leader"))?;
            self.connections.insert(place.clone(), connection);
        }
        let connection =
            self.connections.get_mut(place).ok_or_else(|| io::Error::other("no leader"))?;
        let partition =
            PartitionProduceData::default().with_index(place.1).with_records(Some(records));
        let topic = TopicProduceData::default()
            .with_name(name(&place.0))
            .with_partition_data(vec![partition]);
        let request = ProduceRequest::default()
            .with_transactional_id(Some(TransactionalId(text(&self.id))))
            .with_acks(-1)
            .with_timeout_ms(3000)
            .with_topic_data(vec![topic]);
        let answer = connection.call(&request, 12).await?;
        let mut partitions = answer.responses.iter().flat_map(|it| &it.partition_responses);
        let partition = partitions.next();
        partition
            .map(|it| it.error_code)
            .ok_or_else(|| io::Error::other("an answer without the partition"))
    }

    /// Puts offsets of a group's member into the transaction.
    pub async fn commit_offsets(
        &mut self,
        txn: &str,
        member: &Membership,
        offsets: &BTreeMap<i32, i64>,
        patience: Duration,
    ) -> Result<(), Trouble> {
        let done = self.insist_on_offsets(txn, member, offsets, patience).await;
        self.must_abort |= done.is_err();
        done
    }

    async fn insist_on_offsets(
        &mut self,
        txn: &str,
        member: &Membership,
        offsets: &BTreeMap<i32, i64>,
        patience: Duration,
    ) -> Result<(), Trouble> {
        let end = Instant::now() + patience;
        loop {
            let fenced = self.is_fenced();
            match self.try_commit_offsets(member, offsets).await {
                Ok(0) => {
                    self.judge(fenced, "offsets");
                    self.note(&format!("{txn} has offsets {offsets:?}"));
                    let mut history = self.world.history.borrow_mut();
                    for (partition, offset) in offsets {
                        history.ledger.offset_acknowledged(txn, *partition, *offset);
                    }
                    return Ok(());
                }
                Ok(code) => {
                    self.note(&format!("offsets refused: {code}"));
                    match ResponseError::try_from_code(code) {
                        Some(
                            ResponseError::InvalidProducerEpoch | ResponseError::ProducerFenced,
                        ) => return Err(Trouble::Fenced),
                        Some(
                            ResponseError::CoordinatorNotAvailable
                            | ResponseError::CoordinatorLoadInProgress
                            | ResponseError::NotCoordinator
                            | ResponseError::ConcurrentTransactions
                            | ResponseError::NetworkException
                            | ResponseError::RequestTimedOut
                            | ResponseError::UnknownTopicOrPartition,
                        ) => {}
                        _ => return Err(Trouble::Abort),
                    }
                }
                Err(error) => self.note(&format!("offsets unknown: {error}")),
            }
            self.group = None;
            if Instant::now() >= end {
                return Err(Trouble::Abort);
            }
            sleep(RETRY).await;
        }
    }

    async fn try_commit_offsets(
        &mut self,
        member: &Membership,
        offsets: &BTreeMap<i32, i64>,
    ) -> io::Result<i16> {
        if self.group.is_none() {
            let found = self.world.coordinator_of(&member.group, OF_GROUPS, &mut self.random);
            self.group = Some(found.await?);
        }
        let connection = self.group.as_mut().ok_or_else(|| io::Error::other("no coordinator"))?;
        let partition = |(partition, offset): (&i32, &i64)| {
            TxnOffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
        };
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(name(&member.topic))
            .with_partitions(offsets.iter().map(partition).collect());
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(TransactionalId(text(&self.id)))
            .with_group_id(GroupId(text(&member.group)))
            .with_producer_id(self.producer.0.into())
            .with_producer_epoch(self.producer.1)
            .with_generation_id(member.epoch)
            .with_member_id(text(&member.id))
            .with_topics(vec![topic]);
        let answer = connection.call(&request, 5).await?;
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        Ok(partitions.map(|it| it.error_code).find(|code| *code != 0).unwrap_or(0))
    }

    /// Commits or aborts the transaction `name`.
    pub async fn end(
        &mut self,
        txn: &str,
        commit: bool,
        patience: Duration,
    ) -> Result<(), Trouble> {
        let end = Instant::now() + patience;
        let commit = commit && !self.must_abort;
        // While all attempts were answered, a refusal says that nothing was committed.
        let mut known = true;
        if commit {
            self.world.history.borrow_mut().ledger.commit_asked(txn);
        }
        loop {
            let fenced = self.is_fenced();
            match self.try_end(commit).await {
                Ok(0) => {
                    self.note(&format!("{txn} ends, commit: {commit}, now {:?}", self.producer));
                    if commit {
                        self.judge(fenced && known, "EndTxn");
                    }
                    (self.open, self.must_abort) = (None, false);
                    let ledger = &mut self.world.history.borrow_mut().ledger;
                    if commit {
                        ledger.committed(txn)
                    } else {
                        ledger.aborted(txn)
                    }
                    return Ok(());
                }
                Ok(code) => {
                    self.note(&format!("{txn} end refused: {code}"));
                    if let Some(trouble) = self.end_refused(code, txn, commit && known && !fenced) {
                        if known {
                            self.world.history.borrow_mut().ledger.aborted(txn);
                        }
                        return Err(trouble);
                    }
                    // What failed for this reason may have been written all the same.
                    known &= is_busy(code);
                }
                Err(error) => {
                    self.note(&format!("{txn} end unknown: {error}"));
                    known = false;
                    self.coordinator = None;
                }
            }
            if Instant::now() >= end {
                return Err(Trouble::Unknown);
            }
            sleep(RETRY).await;
        }
    }

    /// Whether an end was refused for good.
    fn end_refused(&mut self, code: i16, txn: &str, must_succeed: bool) -> Option<Trouble> {
        match ResponseError::try_from_code(code) {
            // In the epoch before: it took too long, and was aborted.
            Some(
                ResponseError::InvalidProducerEpoch
                | ResponseError::ProducerFenced
                | ResponseError::InvalidTxnState,
            ) => Some(Trouble::Fenced),
            Some(error @ ResponseError::InvalidProducerIdMapping) => {
                if must_succeed {
                    self.world.violate(format!("refused: {txn} cannot be committed: {error:?}"));
                }
                Some(Trouble::Fenced)
            }
            Some(ResponseError::TransactionAbortable) => Some(Trouble::Abort),
            _ => {
                if !is_busy(code) {
                    self.coordinator = None;
                }
                None
            }
        }
    }

    async fn try_end(&mut self, commit: bool) -> io::Result<i16> {
        let request = EndTxnRequest::default()
            .with_transactional_id(TransactionalId(text(&self.id)))
            .with_producer_id(self.producer.0.into())
            .with_producer_epoch(self.producer.1)
            .with_committed(commit);
        let answer = self.coordinator().await?.call(&request, 5).await?;
        if answer.error_code == 0 {
            self.producer = (answer.producer_id.0, answer.producer_epoch);
            self.sequences.clear();
        }
        Ok(answer.error_code)
    }
}

/// The coordinator is the right one, and busy.
fn is_busy(code: i16) -> bool {
    let busy = [ResponseError::ConcurrentTransactions, ResponseError::CoordinatorLoadInProgress];
    busy.iter().any(|error| error.code() == code)
}
