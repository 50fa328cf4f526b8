//! The producer: records in, batches out, in order per partition.
//!
//! `send` picks the partition and hands the record to one task, which gathers batches and keeps at
//! most one of each partition in flight. So a retry cannot overtake, and an idempotent producer's
//! sequence numbers follow by themselves. A record counts against `buffer_memory` from `send` until
//! its delivery; a full buffer makes `send` wait.
//!
//! Deliberately absent: transactions.

mod partitioner;
mod request;
mod sender;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::client::Backoff;
use crate::records::{Compression, Header, NewRecord, size_of};
use crate::{Client, Error, ErrorCode, Result, TopicPartition};

pub use partitioner::partition_for_key;

use partitioner::Sticky;
use sender::{Command, Queued, Sender};

/// Which replicas must hold a record before the broker answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    None,
    Leader,
    All,
}

impl Acks {
    pub(crate) fn number(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// Defaults are those of Kafka 4's producer.
#[derive(Debug, Clone)]
pub struct ProducerOptions {
    pub acks: Acks,
    /// Only with `Acks::All`: the broker drops what a retry wrote twice.
    pub idempotent: bool,
    pub compression: Compression,
    pub batch_size: usize,
    pub linger: Duration,
    pub retries: u32,
    pub retry_backoff: Duration,
    pub request_timeout: Duration,
    pub delivery_timeout: Duration,
    /// How long `send` may wait for metadata.
    pub max_block: Duration,
    pub max_request_size: usize,
    pub buffer_memory: usize,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            idempotent: true,
            compression: Compression::None,
            batch_size: 16 << 10,
            linger: Duration::from_millis(5),
            retries: u32::MAX,
            retry_backoff: Duration::from_millis(100),
            request_timeout: Duration::from_secs(30),
            delivery_timeout: Duration::from_mins(2),
            max_block: Duration::from_mins(1),
            max_request_size: 1 << 20,
            buffer_memory: 32 << 20,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProducerRecord {
    pub topic: String,
    pub partition: Option<i32>,
    /// Milliseconds since 1970; `None` is now.
    pub timestamp: Option<i64>,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
}

/// Where a record was written. With `Acks::None` the offset is -1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    pub at: TopicPartition,
    pub offset: i64,
    pub timestamp: i64,
}

/// The outcome of one `send`, once the broker acknowledged it or the producer gave up.
pub struct Delivery(oneshot::Receiver<Result<Delivered>>);

impl Delivery {
    pub async fn wait(self) -> Result<Delivered> {
        self.0.await.unwrap_or_else(|_| Err(closed()))
    }
}

fn closed() -> Error {
    Error::Invalid("the producer is closed".into())
}

pub struct Producer {
    client: Client,
    options: Arc<ProducerOptions>,
    commands: mpsc::Sender<Command>,
    buffer: Arc<Semaphore>,
    /// Partition count of each topic written to, and when it was learnt.
    topics: Mutex<BTreeMap<String, (i32, Instant)>>,
    sticky: Mutex<Sticky>,
}

/// After this long the partition count of a topic is asked again.
const METADATA_MAX_AGE: Duration = Duration::from_mins(5);

impl Producer {
    pub fn new(client: Client, mut options: ProducerOptions) -> Self {
        if options.acks != Acks::All {
            options.idempotent = false;
        }
        let options = Arc::new(options);
        let (commands, queue) = mpsc::channel(1024);
        tokio::spawn(Sender::new(client.clone(), options.clone()).run(queue));
        Self {
            client,
            buffer: Arc::new(Semaphore::new(options.buffer_memory)),
            options,
            commands,
            topics: Mutex::default(),
            sticky: Mutex::default(),
        }
    }

    /// Queues `record`. Waits for the topic's metadata and for room in the buffer, not for delivery.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery> {
        let new = NewRecord {
            timestamp: record.timestamp.unwrap_or_else(now),
            key: record.key,
            value: record.value,
            headers: record.headers,
        };
        let size = size_of(&new);
        if size > self.options.max_request_size {
            let words = format!(
                "The message is {size} bytes when serialized which is larger than {}, \
                 which is the value of the max.request.size configuration.",
                self.options.max_request_size
            );
            return Err(Error::kafka(ErrorCode::MessageTooLarge, Some(&words)));
        }
        let count = self.partition_count(&record.topic).await?;
        let partition = match (record.partition, &new.key) {
            (Some(asked), _) if (0..count).contains(&asked) => asked,
            (Some(asked), _) => {
                return Err(Error::Invalid(format!(
                    "partition {asked} of topic {} does not exist: it has 0 to {}",
                    record.topic,
                    count - 1
                )));
            }
            (None, Some(key)) => partition_for_key(key, count),
            (None, None) => {
                self.sticky.lock().next(&record.topic, count, size, self.options.batch_size)
            }
        };
        let permits = size.min(self.options.buffer_memory) as u32;
        let room = self.buffer.clone().acquire_many_owned(permits).await.map_err(|_| closed())?;
        let (done, delivery) = oneshot::channel();
        let at = TopicPartition::new(record.topic, partition);
        let queued = Queued { record: new, size, done, _room: room };
        self.commands.send(Command::Send(at, queued)).await.map_err(|_| closed())?;
        Ok(Delivery(delivery))
    }

    /// Waits until everything sent before is delivered or given up.
    pub async fn flush(&self) -> Result<()> {
        let (done, flushed) = oneshot::channel();
        self.commands.send(Command::Flush(done)).await.map_err(|_| closed())?;
        flushed.await.map_err(|_| closed())
    }

    /// Delivers what is queued, then ends.
    pub async fn close(self) -> Result<()> {
        self.flush().await
    }

    async fn partition_count(&self, topic: &str) -> Result<i32> {
        if let Some((count, learnt)) = self.topics.lock().get(topic)
            && learnt.elapsed() < METADATA_MAX_AGE
        {
            return Ok(*count);
        }
        let mut backoff = Backoff::until(self.options.max_block);
        loop {
            let failure = match self.ask_partition_count(topic).await {
                Ok(count) => {
                    self.topics.lock().insert(topic.to_owned(), (count, Instant::now()));
                    return Ok(count);
                }
                Err(error) => error,
            };
            if !failure.is_retriable() {
                return Err(failure);
            }
            if !backoff.wait().await {
                let what = format!("Topic {topic} not present in metadata ({failure})");
                return Err(Error::Timeout { what, after: self.options.max_block });
            }
        }
    }

    async fn ask_partition_count(&self, topic: &str) -> Result<i32> {
        let answer = self.client.metadata_creating(Some(&[topic]), true).await?;
        let found = answer
            .topics
            .first()
            .ok_or_else(|| Error::kafka(ErrorCode::UnknownTopicOrPartition, None))?;
        Error::check(found.error_code, None)?;
        match found.partitions.len() as i32 {
            0 => Err(Error::kafka(ErrorCode::LeaderNotAvailable, None)),
            count => Ok(count),
        }
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
