//! Fetch: reads partitions for consumers and followers, and waits while there is too little.
//!
//! A request that finds less than `min_bytes` registers with all its partitions and is woken by
//! their appends (followers) or high watermarks (consumers); only its deadline is a timer.
//! Invariants: a consumer sees nothing past the high watermark (or the last stable offset); the
//! first batch found is returned whole, however large; what a follower's fetch says of the
//! follower counts once, when the request arrives. Records are the log's own bytes, not copied.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint,
    PartitionData,
};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ProducerId, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::Notify;
use uuid::Uuid;

use super::leader::ReplicaFetch;
use super::partition::Partition;
use super::partitions::Partitions;
use super::sessions::{Asked, Fetch, Told};
use crate::controller::image::Image;
use crate::env::{Env, planted};
use crate::error::ErrorCode;
use crate::log::{self, ReadError};
use crate::types::{BrokerEpoch, LeaderEpoch, NodeId, Offset};
use crate::wire::records::Batches;

/// From this version on topics are named by id.
const BY_ID: i16 = 13;
/// From this version on a refused fetcher is told the leader's address.
const WITH_ENDPOINTS: i16 = 16;
/// From this version on consumers may read from followers (KIP-392).
const FROM_FOLLOWERS: i16 = 11;

/// A partition as a request names it: by name, or by id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Named {
    pub name: TopicName,
    pub id: Uuid,
    pub partition: i32,
}

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    Consumer { read_committed: bool, may_follow: bool },
    Replica { id: NodeId, epoch: BrokerEpoch },
}

impl Reader {
    fn of(request: &FetchRequest, version: i16) -> Self {
        let state = &request.replica_state;
        let (id, epoch) = match version {
            15.. => (state.replica_id.0, state.replica_epoch),
            _ => (request.replica_id.0, -1),
        };
        if id >= 0 {
            return Self::Replica { id, epoch };
        }
        Self::Consumer {
            read_committed: request.isolation_level == 1,
            may_follow: version >= FROM_FOLLOWERS,
        }
    }
}

/// What a read of one partition came to.
struct Found {
    data: PartitionData,
    bytes: usize,
    /// To be told at once: an error, or where the logs part.
    urgent: bool,
}

/// One Fetch request on its way.
pub struct Serving {
    partitions: Arc<Partitions>,
    version: i16,
    reader: Reader,
    fetch: Fetch<Named>,
    min_bytes: usize,
    max_bytes: usize,
    max_wait: Duration,
    /// Whose endpoints a refused fetcher is told.
    listener: Arc<str>,
}

/// Answers a Fetch, after at most its `max_wait`.
pub async fn serve(
    partitions: Arc<Partitions>,
    request: FetchRequest,
    version: i16,
    listener: Arc<str>,
) -> FetchResponse {
    match Serving::begin(partitions, request, version, listener) {
        Ok(serving) => serving.run().await,
        Err(code) => FetchResponse::default().with_error_code(code.code()),
    }
}

impl Serving {
    fn begin(
        partitions: Arc<Partitions>,
        request: FetchRequest,
        version: i16,
        listener: Arc<str>,
    ) -> Result<Self, ErrorCode> {
        let reader = Reader::of(&request, version);
        let forgotten: Vec<Named> = request
            .forgotten_topics_data
            .iter()
            .flat_map(|topic| {
                let named = |partition: &i32| Named {
                    name: topic.topic.clone(),
                    id: topic.topic_id,
                    partition: *partition,
                };
                topic.partitions.iter().map(named).collect::<Vec<_>>()
            })
            .collect();
        let mut named = Vec::new();
        for topic in &request.topics {
            for asked in &topic.partitions {
                let (name, id) = (topic.topic.clone(), topic.topic_id);
                named.push((Named { name, id, partition: asked.partition }, Asked::from(asked)));
            }
        }
        let epoch = if version >= 7 { request.session_epoch } else { -1 };
        let fetch = partitions.sessions.lock().begin(
            (request.session_id, epoch),
            named,
            &forgotten,
            matches!(reader, Reader::Replica { .. }),
            partitions.context.env.clock.now(),
        )?;
        let most = partitions.context.settings.fetch_max_bytes.min(request.max_bytes);
        Ok(Self {
            version,
            reader,
            fetch,
            min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
            max_bytes: usize::try_from(most).unwrap_or(0),
            max_wait: Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)),
            partitions,
            listener,
        })
    }

    async fn run(self) -> FetchResponse {
        let clock = self.partitions.context.env.clock.clone();
        let deadline = clock.now() + self.max_wait;
        let waiter = Arc::new(Notify::new());
        let mut registered = false;
        let mut first = true;
        loop {
            let found = self.read_all(first).await;
            first = false;
            let enough = found.iter().map(|it| it.bytes).sum::<usize>() >= self.min_bytes
                || found.is_empty()
                || found.iter().any(|it| it.urgent)
                || clock.now() >= deadline;
            if enough {
                return self.answer(found);
            }
            if !registered {
                // What happened since the read is found by reading once more.
                self.register(&waiter);
                registered = true;
                continue;
            }
            tokio::select! {
                biased;
                () = waiter.notified() => registered = false,
                () = clock.sleep_until(deadline) => {}
            }
        }
    }

    fn register(&self, waiter: &Arc<Notify>) {
        let image = self.partitions.image();
        for (named, _) in &self.fetch.partitions {
            let Ok(partition) = self.find(&image, named) else { continue };
            match self.reader {
                Reader::Replica { .. } => partition.on_append.add(waiter),
                Reader::Consumer { .. } => partition.on_commit.add(waiter),
            }
        }
    }

    async fn read_all(&self, first: bool) -> Vec<Found> {
        let image = self.partitions.image();
        let mut left = self.max_bytes;
        let mut all = Vec::with_capacity(self.fetch.partitions.len());
        let mut nothing_yet = true;
        for (named, asked) in &self.fetch.partitions {
            let limit = left.min(usize::try_from(asked.max_bytes).unwrap_or(0));
            let found = match self.find(&image, named) {
                Ok(partition) => {
                    self.read(&partition, named, asked, limit, nothing_yet, first).await
                }
                Err(code) => Err(code),
            };
            let found = found.unwrap_or_else(|code| self.refused(&image, named, code));
            left = left.saturating_sub(found.bytes);
            nothing_yet &= found.bytes == 0;
            all.push(found);
        }
        all
    }

    fn find(&self, image: &Image, named: &Named) -> Result<Arc<Partition>, ErrorCode> {
        if self.version < BY_ID {
            return self.partitions.find(&named.name, named.partition);
        }
        let topic = image.topic_by_id(named.id).ok_or(ErrorCode::UnknownTopicId)?;
        let partition = self.partitions.find(&topic.name, named.partition)?;
        if partition.topic_id == named.id {
            Ok(partition)
        } else {
            Err(ErrorCode::InconsistentTopicId)
        }
    }

    async fn read(
        &self,
        partition: &Arc<Partition>,
        named: &Named,
        asked: &Asked,
        limit: usize,
        at_least_one: bool,
        first: bool,
    ) -> Result<Found, ErrorCode> {
        let known = asked.current_leader_epoch;
        match self.reader {
            Reader::Consumer { may_follow: true, .. } => partition.check_replica(known)?,
            _ => partition.check_leader(known)?,
        }
        let log = partition.log();
        let data = PartitionData::default()
            .with_partition_index(named.partition)
            .with_high_watermark(partition.high_watermark())
            .with_last_stable_offset(partition.last_stable_offset())
            .with_log_start_offset(log.start_offset())
            .with_records(Some(Bytes::new()))
            .with_aborted_transactions(self.reads_committed().then(Vec::new));
        if asked.last_fetched_epoch >= 0
            && let Some(diverging) =
                diverges(partition, asked.last_fetched_epoch, asked.fetch_offset)?
        {
            let data = data.with_diverging_epoch(diverging);
            return Ok(Found { data, bytes: 0, urgent: true });
        }
        if let (Reader::Replica { id, epoch }, true) = (self.reader, first) {
            let (offset, log_start) = (asked.fetch_offset, asked.log_start_offset);
            if !(log.start_offset()..=log.end_offset()).contains(&offset) {
                return Err(ErrorCode::OffsetOutOfRange);
            }
            partition.on_fetch(ReplicaFetch {
                replica: id,
                broker_epoch: epoch,
                offset,
                log_start,
            })?;
        }
        let stable = partition.last_stable_offset();
        let up_to = match self.reader {
            Reader::Replica { .. } => log.end_offset(),
            Reader::Consumer { read_committed: true, .. } => stable,
            Reader::Consumer { .. } if planted!(ConsumerReadsUncommitted) => log.end_offset(),
            Reader::Consumer { .. } => partition.high_watermark(),
        };
        let records =
            self.read_log(partition, asked.fetch_offset, limit, up_to, at_least_one).await;
        let records = records.map_err(|error| unreadable(partition, error))?;
        let bytes = records.len();
        // The fetch may have moved it, and a replica should hear of that.
        let mut data = data.with_high_watermark(partition.high_watermark());
        if self.reads_committed() {
            data.last_stable_offset = stable;
            data.aborted_transactions =
                Some(self.aborted(partition, asked.fetch_offset, &records).await?);
        }
        Ok(Found { data: data.with_records(Some(records)), bytes, urgent: false })
    }

    fn reads_committed(&self) -> bool {
        matches!(self.reader, Reader::Consumer { read_committed: true, .. })
    }

    /// The aborted transactions that a consumer of `records`, read from `from` on, has to skip.
    async fn aborted(
        &self,
        partition: &Partition,
        from: Offset,
        records: &[u8],
    ) -> Result<Vec<AbortedTransaction>, ErrorCode> {
        let env = &self.partitions.context.env;
        let found = aborted(env, partition, from, records).await;
        let found = found.map_err(|error| unreadable(partition, error))?;
        let told = |it: &log::AbortedTransaction| {
            AbortedTransaction::default()
                .with_producer_id(ProducerId(it.producer_id))
                .with_first_offset(it.first_offset)
        };
        Ok(found.iter().map(told).collect())
    }

    async fn read_log(
        &self,
        partition: &Partition,
        from: Offset,
        limit: usize,
        up_to: Offset,
        at_least_one: bool,
    ) -> Result<Bytes, ReadError> {
        if let Some(records) = partition.log().read(from, limit, up_to, at_least_one)? {
            return Ok(records);
        }
        let log = partition.log();
        let read = move || log.read_cold(from, limit, up_to, at_least_one);
        self.partitions.context.env.blocking(read).await
    }

    /// A partition's part of the answer when it is refused.
    fn refused(&self, image: &Image, named: &Named, code: ErrorCode) -> Found {
        let mut data = PartitionData::default()
            .with_partition_index(named.partition)
            .with_error_code(code.code())
            .with_high_watermark(-1)
            .with_last_stable_offset(-1)
            .with_log_start_offset(-1)
            .with_records(Some(Bytes::new()))
            // Kafka answers what it does not know without a look at a log: empty there, else null.
            .with_aborted_transactions(match code {
                ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId => Some(Vec::new()),
                _ => None,
            });
        if self.version >= WITH_ENDPOINTS && is_about_leader(code) {
            let topic = image.topic_by_id(named.id);
            let known = topic.and_then(|topic| topic.partitions.get(&named.partition));
            if let Some(known) = known {
                data = data.with_current_leader(
                    LeaderIdAndEpoch::default()
                        .with_leader_id(BrokerId(known.leader))
                        .with_leader_epoch(known.leader_epoch),
                );
            }
        }
        Found { data, bytes: 0, urgent: true }
    }

    fn answer(&self, found: Vec<Found>) -> FetchResponse {
        let mut topics: Vec<FetchableTopicResponse> = Vec::new();
        let mut leaders: Vec<NodeId> = Vec::new();
        let mut sessions = self.partitions.sessions.lock();
        for ((named, _), found) in self.fetch.partitions.iter().zip(found) {
            if !self.tell(&mut sessions, named, &found) {
                continue;
            }
            let leader = found.data.current_leader.leader_id.0;
            if leader >= 0 && !leaders.contains(&leader) {
                leaders.push(leader);
            }
            match topics.last_mut() {
                Some(topic) if topic.topic == named.name && topic.topic_id == named.id => {
                    topic.partitions.push(found.data);
                }
                _ => topics.push(
                    FetchableTopicResponse::default()
                        .with_topic(named.name.clone())
                        .with_topic_id(named.id)
                        .with_partitions(vec![found.data]),
                ),
            }
        }
        FetchResponse::default()
            .with_session_id(self.fetch.session_id)
            .with_responses(topics)
            .with_node_endpoints(endpoints(&self.partitions.image(), &leaders, &self.listener))
    }

    /// Whether the session's client needs to hear of this partition.
    fn tell(
        &self,
        sessions: &mut super::sessions::Sessions<Named>,
        named: &Named,
        found: &Found,
    ) -> bool {
        let session = self.fetch.session_id;
        if session == 0 {
            return true;
        }
        let told = Told {
            high_watermark: found.data.high_watermark,
            log_start_offset: found.data.log_start_offset,
        };
        let news = sessions.tell(session, named, told);
        if found.urgent {
            sessions.failed(session, named);
        }
        if found.bytes > 0 {
            sessions.served(session, named);
        }
        !self.fetch.incremental || news || found.urgent || found.bytes > 0
    }
}

/// The transactions that were aborted among `records`, which were read from `from` on.
pub async fn aborted(
    env: &Env,
    partition: &Partition,
    from: Offset,
    records: &[u8],
) -> Result<Vec<log::AbortedTransaction>, ReadError> {
    let last = Batches::new(records).map_while(Result::ok).last();
    let Some(up_to) = last.map(|batch| batch.next_offset()) else { return Ok(Vec::new()) };
    let log = partition.log();
    match log.aborted(from, up_to) {
        Some(found) => Ok(found),
        None => env.blocking(move || log.aborted_cold(from, up_to)).await,
    }
}

/// The code for a reader; what the disk has to say is logged.
pub fn unreadable(partition: &Partition, error: ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Storage(why) => {
            tracing::error!(partition = %partition.id, why, "cannot be read");
            ErrorCode::KafkaStorageError
        }
    }
}

impl From<&FetchPartition> for Asked {
    fn from(asked: &FetchPartition) -> Self {
        Self {
            fetch_offset: asked.fetch_offset,
            max_bytes: asked.partition_max_bytes,
            current_leader_epoch: asked.current_leader_epoch,
            last_fetched_epoch: asked.last_fetched_epoch,
            log_start_offset: asked.log_start_offset,
        }
    }
}

/// Where the reader's log parts from ours, if it does.
fn diverges(
    partition: &Partition,
    last_epoch: LeaderEpoch,
    offset: Offset,
) -> Result<Option<EpochEndOffset>, ErrorCode> {
    let Some((epoch, end)) = partition.log().end_offset_for_epoch(last_epoch) else {
        return Err(ErrorCode::OffsetOutOfRange);
    };
    let ignored = [planted!(DivergenceNotChecked), planted!(TruncateToHighWatermark)];
    if ignored.contains(&true) {
        return Ok(None);
    }
    let parts = epoch < last_epoch || end < offset;
    Ok(parts.then(|| EpochEndOffset::default().with_epoch(epoch).with_end_offset(end)))
}

/// Whether a client that is told so wants to know who leads.
pub fn is_about_leader(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch)
}

fn endpoints(image: &Image, leaders: &[NodeId], listener: &str) -> Vec<NodeEndpoint> {
    let of = |id: &NodeId| {
        let broker = image.broker(*id)?;
        let endpoint = broker.endpoint(listener)?;
        Some(
            NodeEndpoint::default()
                .with_node_id(BrokerId(*id))
                .with_host(StrBytes::from_string(endpoint.host.to_string()))
                .with_port(endpoint.port.into())
                .with_rack(
                    broker.rack.as_ref().map(|rack| StrBytes::from_string(rack.to_string())),
                ),
        )
    };
    leaders.iter().filter_map(of).collect()
}
