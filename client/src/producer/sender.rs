//! The producer's one task: batches by partition, requests by broker, retries, deadlines.
//!
//! Invariant: of each partition at most one batch is in flight, and it is the oldest; the next is
//! stamped with its sequence numbers only when that one is delivered or given up. When the fate of a
//! stamped batch stays unknown, the producer asks for a new id: sequence numbers have no holes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

use super::request::{ask_producer_id, produce};
use super::{Acks, Delivered, ProducerOptions};
use crate::records::{NewRecord, Stamp, encode};
use crate::{Client, Error, ErrorCode, Result, TopicPartition};

pub(super) enum Command {
    Send(TopicPartition, Queued),
    Flush(oneshot::Sender<()>),
}

pub(super) struct Queued {
    pub(super) record: NewRecord,
    pub(super) size: usize,
    pub(super) done: oneshot::Sender<Result<Delivered>>,
    /// The room it takes in the producer's buffer, given back when it is delivered.
    pub(super) _room: OwnedSemaphorePermit,
}

struct Batch {
    id: u64,
    queued: Vec<Queued>,
    size: usize,
    created: Instant,
    attempts: u32,
    stamp: Option<Stamp>,
    bytes: Option<Bytes>,
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<Batch>,
    in_flight: bool,
    next_sequence: i32,
    not_before: Option<Instant>,
}

/// What came back, or why nothing did.
enum Event {
    Produced(Vec<(TopicPartition, Batch)>, Result<Vec<(TopicPartition, PartitionProduceResponse)>>),
    ProducerId(Result<(i64, i16)>),
    Metadata,
}

enum Identity {
    NotNeeded,
    Wanted,
    Asking,
    Known(i64, i16),
}

pub(super) struct Sender {
    client: Client,
    options: Arc<ProducerOptions>,
    queues: BTreeMap<TopicPartition, Queue>,
    work: FuturesUnordered<BoxFuture<'static, Event>>,
    identity: Identity,
    asking_metadata: bool,
    outstanding: BTreeSet<u64>,
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    next_batch: u64,
    closing: bool,
}

impl Sender {
    pub(super) fn new(client: Client, options: Arc<ProducerOptions>) -> Self {
        let identity = if options.idempotent { Identity::Wanted } else { Identity::NotNeeded };
        Self {
            client,
            options,
            queues: BTreeMap::new(),
            work: FuturesUnordered::new(),
            identity,
            asking_metadata: false,
            outstanding: BTreeSet::new(),
            flushes: Vec::new(),
            next_batch: 0,
            closing: false,
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while !(self.closing && self.outstanding.is_empty()) {
            let wake = self.drain();
            tokio::select! {
                biased;
                Some(event) = self.work.next(), if !self.work.is_empty() => self.on_event(event),
                command = commands.recv(), if !self.closing => match command {
                    None => self.closing = true,
                    Some(command) => {
                        self.on_command(command);
                        // Take what else is waiting before a batch is sent off with one record.
                        while let Ok(more) = commands.try_recv() {
                            self.on_command(more);
                        }
                    }
                },
                () = tokio::time::sleep_until(wake) => {}
            }
            self.answer_flushes();
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Flush(done) => self.flushes.push((self.next_batch, done)),
            Command::Send(at, queued) => self.append(at, queued),
        }
    }

    fn append(&mut self, at: TopicPartition, queued: Queued) {
        let queue = self.queues.entry(at).or_default();
        let open = queue.batches.back_mut().filter(|batch| {
            batch.stamp.is_none()
                && batch.attempts == 0
                && batch.size + queued.size <= self.options.batch_size
        });
        // A flush promises what came before it, so what comes after starts a batch of its own.
        let flushed_up_to = self.flushes.last().map_or(0, |(id, _)| *id);
        if let Some(batch) = open.filter(|batch| batch.id >= flushed_up_to) {
            batch.size += queued.size;
            batch.queued.push(queued);
        } else {
            let id = self.next_batch;
            self.next_batch += 1;
            self.outstanding.insert(id);
            queue.batches.push_back(Batch {
                id,
                size: queued.size,
                queued: vec![queued],
                created: Instant::now(),
                attempts: 0,
                stamp: None,
                bytes: None,
            });
        }
    }

    fn answer_flushes(&mut self) {
        let oldest = self.outstanding.first().copied().unwrap_or(u64::MAX);
        for at in (0..self.flushes.len()).rev() {
            if self.flushes[at].0 <= oldest {
                let (_, done) = self.flushes.swap_remove(at);
                let _ = done.send(());
            }
        }
    }

    /// Sends every batch whose time has come; gives the time at which to look again.
    fn drain(&mut self) -> Instant {
        let now = Instant::now();
        let mut wake = now + Duration::from_hours(1);
        self.expire(now);
        let mut ready: Vec<TopicPartition> = Vec::new();
        let urgent = self.closing || !self.flushes.is_empty();
        for (at, queue) in &self.queues {
            let Some(batch) = queue.batches.front().filter(|_| !queue.in_flight) else { continue };
            let full = queue.batches.len() > 1 || batch.size >= self.options.batch_size;
            let lingered = if full || urgent { now } else { batch.created + self.options.linger };
            let due = lingered.max(queue.not_before.unwrap_or(lingered));
            if due <= now {
                ready.push(at.clone());
            } else {
                wake = wake.min(due);
            }
            wake = wake.min(batch.created + self.options.delivery_timeout);
        }
        if ready.is_empty() || !self.identified() {
            return wake;
        }
        self.send_ready(ready);
        wake
    }

    /// Whether batches can be stamped; starts the question for a producer id if not.
    fn identified(&mut self) -> bool {
        match self.identity {
            Identity::NotNeeded | Identity::Known(..) => true,
            Identity::Asking => false,
            Identity::Wanted => {
                self.identity = Identity::Asking;
                let client = self.client.clone();
                self.work.push(Box::pin(async move {
                    Event::ProducerId(ask_producer_id(&client).await)
                }));
                false
            }
        }
    }

    fn send_ready(&mut self, ready: Vec<TopicPartition>) {
        let mut by_leader: BTreeMap<i32, Vec<(TopicPartition, Batch)>> = BTreeMap::new();
        for at in ready {
            let Some(leader) = self.client.known_leader(&at) else {
                self.ask_metadata();
                continue;
            };
            let Some(queue) = self.queues.get_mut(&at) else { continue };
            let Some(mut batch) = queue.batches.pop_front() else { continue };
            if let (None, Identity::Known(producer_id, epoch)) = (batch.stamp, &self.identity) {
                batch.stamp = Some(Stamp {
                    producer_id: *producer_id,
                    epoch: *epoch,
                    sequence: queue.next_sequence,
                });
                queue.next_sequence = add_sequence(queue.next_sequence, batch.queued.len());
            }
            if batch.bytes.is_none() {
                let records: Vec<NewRecord> =
                    batch.queued.iter().map(|one| one.record.clone()).collect();
                match encode(&records, self.options.compression, batch.stamp) {
                    Ok(bytes) => batch.bytes = Some(bytes),
                    Err(error) => {
                        self.fail(batch, &error);
                        continue;
                    }
                }
            }
            queue.in_flight = true;
            by_leader.entry(leader).or_default().push((at, batch));
        }
        for (leader, batches) in by_leader {
            let mut request = Vec::new();
            let mut size = 0;
            for (at, batch) in batches {
                let adds = batch.bytes.as_ref().map_or(0, Bytes::len);
                if size > 0 && size + adds > self.options.max_request_size {
                    self.produce(leader, std::mem::take(&mut request));
                    size = 0;
                }
                size += adds;
                request.push((at, batch));
            }
            self.produce(leader, request);
        }
    }

    fn produce(&mut self, leader: i32, batches: Vec<(TopicPartition, Batch)>) {
        let (client, options) = (self.client.clone(), self.options.clone());
        self.work.push(Box::pin(async move {
            let records: Vec<_> =
                batches.iter().map(|(at, batch)| (at, batch.bytes.clone())).collect();
            let result = produce(&client, &options, leader, records).await;
            Event::Produced(batches, result)
        }));
    }

    fn ask_metadata(&mut self) {
        if std::mem::replace(&mut self.asking_metadata, true) {
            return;
        }
        let names: BTreeSet<Arc<str>> = self.queues.keys().map(|at| at.topic.clone()).collect();
        let (client, pause) = (self.client.clone(), self.options.retry_backoff);
        self.work.push(Box::pin(async move {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            if let Err(error) = client.metadata(Some(&names)).await {
                tracing::debug!(%error, "no metadata for the producer yet");
            }
            tokio::time::sleep(pause).await;
            Event::Metadata
        }));
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Metadata => self.asking_metadata = false,
            Event::ProducerId(Ok((id, epoch))) => self.identity = Identity::Known(id, epoch),
            Event::ProducerId(Err(error)) => {
                self.identity = Identity::Wanted;
                if error.is_retriable() {
                    let later = Instant::now() + self.options.retry_backoff;
                    self.queues.values_mut().for_each(|queue| queue.not_before = Some(later));
                } else {
                    self.fail_all(&error);
                }
            }
            Event::Produced(batches, Err(error)) => {
                for (at, batch) in batches {
                    self.on_failure(&at, batch, error.clone());
                }
            }
            Event::Produced(batches, Ok(mut answers)) => {
                for (at, batch) in batches {
                    match answers.iter().position(|(answered, _)| *answered == at) {
                        Some(found) => {
                            let (_, answer) = answers.swap_remove(found);
                            self.on_answer(&at, batch, &answer);
                        }
                        None if self.options.acks == Acks::None => self.deliver(&at, batch, -1, -1),
                        None => {
                            let words =
                                format!("the broker's answer to Produce says nothing about {at}");
                            self.on_failure(&at, batch, Error::Protocol(words));
                        }
                    }
                }
            }
        }
    }

    fn on_answer(&mut self, at: &TopicPartition, batch: Batch, answer: &PartitionProduceResponse) {
        match ErrorCode::try_from_code(answer.error_code) {
            // A duplicate is a retry whose first attempt was written after all.
            None | Some(ErrorCode::DuplicateSequenceNumber) => {
                self.deliver(at, batch, answer.base_offset, answer.log_append_time_ms);
            }
            Some(ErrorCode::MessageTooLarge) if batch.queued.len() > 1 => self.split(at, batch),
            Some(code) => {
                let words = answer.error_message.as_deref().map(str::to_owned);
                let words = answer
                    .record_errors
                    .first()
                    .and_then(|first| first.batch_index_error_message.as_deref().map(str::to_owned))
                    .or(words);
                self.on_failure(at, batch, Error::kafka(code, words.as_deref()));
            }
        }
    }

    fn deliver(&mut self, at: &TopicPartition, batch: Batch, base_offset: i64, append_time: i64) {
        self.outstanding.remove(&batch.id);
        if let Some(queue) = self.queues.get_mut(at) {
            queue.in_flight = false;
            queue.not_before = None;
        }
        for (index, queued) in batch.queued.into_iter().enumerate() {
            let offset = if base_offset < 0 { -1 } else { base_offset + index as i64 };
            let timestamp = if append_time >= 0 { append_time } else { queued.record.timestamp };
            let _ = queued.done.send(Ok(Delivered { at: at.clone(), offset, timestamp }));
        }
    }

    fn on_failure(&mut self, at: &TopicPartition, mut batch: Batch, error: Error) {
        let Some(queue) = self.queues.get_mut(at) else { return };
        queue.in_flight = false;
        let expired = batch.created.elapsed() >= self.options.delivery_timeout;
        if error.is_retriable() && !expired && batch.attempts < self.options.retries {
            batch.attempts += 1;
            queue.not_before = Some(Instant::now() + self.options.retry_backoff);
            queue.batches.push_front(batch);
            self.client.forget_leader(at);
            return;
        }
        if batch.stamp.is_some() {
            self.renew_identity();
        }
        let error = if expired && error.is_retriable() {
            self.timed_out(at, &batch, Some(&error))
        } else {
            error
        };
        self.fail(batch, &error);
    }

    /// Two halves of a batch that the broker finds too large, with the sequence numbers that it had.
    fn split(&mut self, at: &TopicPartition, mut batch: Batch) {
        let second = batch.queued.split_off(batch.queued.len() / 2);
        let size = |queued: &[Queued]| queued.iter().map(|one| one.size).sum();
        let id = self.next_batch;
        self.next_batch += 1;
        self.outstanding.insert(id);
        let rest = Batch {
            id,
            size: size(&second),
            created: batch.created,
            attempts: 1, // closed: nothing is appended to it
            stamp: batch.stamp.map(|stamp| Stamp {
                sequence: add_sequence(stamp.sequence, batch.queued.len()),
                ..stamp
            }),
            bytes: None,
            queued: second,
        };
        batch.size = size(&batch.queued);
        batch.bytes = None;
        for (promised, _) in &mut self.flushes {
            if *promised > batch.id {
                *promised = self.next_batch;
            }
        }
        if let Some(queue) = self.queues.get_mut(at) {
            queue.in_flight = false;
            queue.batches.push_front(rest);
            queue.batches.push_front(batch);
        }
    }

    /// A new producer id for whatever is stamped from now on.
    fn renew_identity(&mut self) {
        if matches!(self.identity, Identity::Known(..)) {
            self.identity = Identity::Wanted;
            self.queues.values_mut().for_each(|queue| queue.next_sequence = 0);
        }
    }

    /// Gives up what waited longer than the delivery timeout, oldest first.
    fn expire(&mut self, now: Instant) {
        let mut expired = Vec::new();
        for (at, queue) in &mut self.queues {
            while queue
                .batches
                .front()
                .is_some_and(|batch| batch.created + self.options.delivery_timeout <= now)
            {
                expired.extend(queue.batches.pop_front().map(|batch| (at.clone(), batch)));
            }
        }
        for (at, batch) in expired {
            if batch.stamp.is_some() {
                self.renew_identity();
            }
            let error = self.timed_out(&at, &batch, None);
            self.fail(batch, &error);
        }
    }

    fn timed_out(&self, at: &TopicPartition, batch: &Batch, last: Option<&Error>) -> Error {
        let because = last.map(|error| format!(", last: {error}")).unwrap_or_default();
        let what =
            format!("{} record(s) for {at} could not be delivered{because}", batch.queued.len());
        Error::Timeout { what, after: self.options.delivery_timeout }
    }

    fn fail(&mut self, batch: Batch, error: &Error) {
        self.outstanding.remove(&batch.id);
        for queued in batch.queued {
            let _ = queued.done.send(Err(error.clone()));
        }
    }

    fn fail_all(&mut self, error: &Error) {
        let all: Vec<Batch> =
            self.queues.values_mut().flat_map(|queue| queue.batches.drain(..)).collect();
        for batch in all {
            self.fail(batch, error);
        }
    }
}

/// Sequence numbers go round after the largest positive number.
fn add_sequence(sequence: i32, count: usize) -> i32 {
    ((i64::from(sequence) + count as i64) % (i64::from(i32::MAX) + 1)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_go_round_to_zero() {
        assert_eq!(add_sequence(0, 5), 5);
        assert_eq!(add_sequence(i32::MAX, 1), 0);
        assert_eq!(add_sequence(i32::MAX - 1, 3), 1);
    }
}
