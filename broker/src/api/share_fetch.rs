//! ShareFetch: what a member acknowledges, and new records for it (KIP-932).
//!
//! Versions 1 and 2; from 2 a member may ask for not a record more than its limit (KIP-1206) and
//! renew its locks (KIP-1222), which reads nothing. The work is in `share::fetch`; here sessions,
//! acknowledgements and records come together. Deliberately absent: permissions and quotas.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::messages::ApiKey;

use super::share_acknowledge::{self as acknowledge, Acknowledged};
use super::{Answer, Api, Client, Reply, Unreadable, encode};
use crate::broker::Broker;
use crate::error::{ErrorCode, Refusal};
use crate::share::fetch::{self, Fetched, Outcome, ShareFetch};
use crate::share::partition::Mode;
use crate::share::sessions::{Begun, FINAL_EPOCH, SessionKey, TopicIdPartition};
use crate::wire::message::Message as _;
use crate::wire::share::ShareFetchRequest;
use crate::wire::share_fetch_response::{self, PartitionData, ShareFetchResponse};

pub const API: Api = Api::new(ApiKey::ShareFetch, 1..=2).handled_by(read_and_handle);

fn read_and_handle<'a>(
    broker: &'a Arc<Broker>,
    client: &'a Client,
    body: Bytes,
) -> BoxFuture<'a, Result<Answer, Unreadable>> {
    Box::pin(async move {
        let request = ShareFetchRequest::decode(&mut &body[..], client.version);
        let request = request.map_err(|error| Unreadable(format!("ShareFetch: {error}")))?;
        let answer = handle(broker, client, request);
        let chunks = async move { share_fetch_response::encode(answer.await) };
        encode(client, Reply::<acknowledge::Nothing>::LaterEncoded(Box::pin(chunks)))
    })
}

fn refused(refusal: Refusal) -> ShareFetchResponse {
    ShareFetchResponse {
        error_code: refusal.code.code(),
        error_message: Some(refusal.message),
        ..ShareFetchResponse::default()
    }
}

/// What is told of a request that renews locks and wants records, too.
fn check_renewal(request: &ShareFetchRequest) -> Result<(), Refusal> {
    let mut wrong = String::new();
    for (name, value) in [
        ("maxBytes", request.max_bytes),
        ("minBytes", request.min_bytes),
        ("maxRecords", request.max_records),
        ("maxWaitMs", request.max_wait_ms),
    ] {
        if value != 0 {
            wrong.push_str(name);
            wrong.push_str(" must be set to 0, ");
        }
    }
    if !request.is_renew || wrong.is_empty() {
        return Ok(());
    }
    wrong.push_str("if isRenewAck is true.");
    Err(Refusal::new(ErrorCode::InvalidRequest, wrong))
}

/// Takes the request's place in its session, starts its acknowledgements, and then reads.
fn handle(
    broker: &Arc<Broker>,
    client: &Client,
    request: ShareFetchRequest,
) -> impl Future<Output = ShareFetchResponse> + Send + use<> {
    let begun = begin(broker, client, &request);
    let (broker, client) = (broker.clone(), client.clone());
    async move {
        let (key, begun, acknowledged) = match begun {
            Ok(begun) => begun,
            Err(refusal) => {
                if refusal.code == ErrorCode::ShareSessionLimitReached {
                    // Whoever has no session would ask again at once.
                    broker.env.clock.sleep(millis(request.max_wait_ms)).await;
                }
                return refused(refusal);
            }
        };
        let outcome = if request.is_renew {
            Vec::new()
        } else {
            read(&broker, &key, &request, begun.partitions.clone()).await
        };
        let acknowledged = acknowledged.await;
        let response = respond(&broker, &client, &key, &begun, outcome, acknowledged);
        if request.session_epoch == FINAL_EPOCH {
            broker.shares.end_session(&key);
        }
        response
    }
}

type Beginning = (SessionKey, Begun, BoxFuture<'static, Acknowledged>);

fn begin(
    broker: &Arc<Broker>,
    client: &Client,
    request: &ShareFetchRequest,
) -> Result<Beginning, Refusal> {
    let key = acknowledge::session_key(broker, request.group.as_ref(), request.member.as_ref())?;
    if client.version >= 2 {
        check_renewal(request)?;
    }
    let named: Vec<TopicIdPartition> = request
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|it| (topic.topic_id, it.index)))
        .collect();
    let forgotten: Vec<TopicIdPartition> = request
        .forgotten
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|it| (topic.topic_id, *it)))
        .collect();
    let mut all = request.topics.iter().flat_map(|topic| &topic.partitions);
    let acknowledges = all.any(|partition| !partition.batches.is_empty());
    let (connection, epoch) = (&client.connection, request.session_epoch);
    let begun = broker.shares.sessions.lock().begin(
        &key,
        epoch,
        &named,
        &forgotten,
        acknowledges,
        connection.number,
    )?;
    let number = connection.number;
    connection.attached.once(|| broker.shares.on_close(number), |_| ());
    let acknowledged = if acknowledges {
        acknowledge::start(broker, client, &key, &request.topics, request.is_renew)
    } else {
        Box::pin(std::future::ready(Acknowledged::new()))
    };
    Ok((key, begun, acknowledged))
}

fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

async fn read(
    broker: &Arc<Broker>,
    key: &SessionKey,
    request: &ShareFetchRequest,
    mut partitions: Vec<TopicIdPartition>,
) -> Outcome {
    if !partitions.is_empty() {
        // Each gets to be the first one in turn.
        let by = usize::try_from(request.session_epoch).unwrap_or(0) % partitions.len();
        partitions.rotate_left(by);
    }
    let most = broker.settings.fetch_max_bytes.min(request.max_bytes);
    let ask = ShareFetch {
        group: key.0.clone(),
        member: key.1.clone(),
        partitions,
        mode: if request.acquire_mode == 1 { Mode::RecordLimit } else { Mode::BatchOptimized },
        batch_size: i64::from(request.batch_size),
        max_records: i64::from(request.max_records),
        min_bytes: usize::try_from(request.min_bytes.min(most)).unwrap_or(0),
        max_bytes: usize::try_from(most).unwrap_or(0),
        max_wait: millis(request.max_wait_ms),
    };
    fetch::serve(&broker.shares, ask).await
}

fn respond(
    broker: &Broker,
    client: &Client,
    key: &SessionKey,
    begun: &Begun,
    outcome: Outcome,
    mut acknowledged: Acknowledged,
) -> ShareFetchResponse {
    let mut answers: BTreeMap<TopicIdPartition, PartitionData> = BTreeMap::new();
    let mut leaders = acknowledge::Leaders::of(broker, client);
    let mut sessions = broker.shares.sessions.lock();
    for (at, fetched) in outcome {
        let (has_records, failed) = match &fetched {
            Ok(fetched) => (!fetched.records.is_empty(), false),
            Err(_) => (false, true),
        };
        let tells = sessions.tells(key, &at, has_records, failed);
        if tells || !begun.incremental {
            answers.insert(at, partition_data(at, fetched, &mut leaders));
        }
    }
    drop(sessions);
    for (at, result) in std::mem::take(&mut acknowledged) {
        let data = answers
            .entry(at)
            .or_insert_with(|| PartitionData { index: at.1, ..PartitionData::default() });
        if let Err(refusal) = result {
            data.acknowledge_error_code = refusal.code.code();
            data.acknowledge_error_message = Some(refusal.message);
        }
    }
    let mut topics: Vec<(uuid::Uuid, Vec<PartitionData>)> = Vec::new();
    for ((topic_id, _), data) in answers {
        match topics.last_mut() {
            Some((last, partitions)) if *last == topic_id => partitions.push(data),
            _ => topics.push((topic_id, vec![data])),
        }
    }
    ShareFetchResponse {
        lock_timeout_ms: acknowledge::lock_ms(broker, &key.0),
        topics,
        endpoints: leaders.endpoints(),
        ..ShareFetchResponse::default()
    }
}

fn partition_data(
    at: TopicIdPartition,
    fetched: Result<Fetched, Refusal>,
    leaders: &mut acknowledge::Leaders<'_>,
) -> PartitionData {
    let data = PartitionData { index: at.1, ..PartitionData::default() };
    match fetched {
        Ok(Fetched { records, acquired }) => {
            let acquired = acquired.into_iter().map(|it| (it.first, it.last, it.deliveries));
            PartitionData { records, acquired: acquired.collect(), ..data }
        }
        // Kafka tells the code of what failed, and no message.
        Err(refusal) => {
            let leader = leaders.of_refused(at, refusal.code);
            PartitionData { error_code: refusal.code.code(), leader, ..data }
        }
    }
}
