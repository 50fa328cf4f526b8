//! The way from a share partition to the coordinator that keeps its state: on this broker, or over
//! the network to the one that leads the partition of `__share_group_state`.
//!
//! One connection per broker. What fails in a way that passes (no coordinator yet, one that is
//! loading, a connection that broke) is tried again for [`PATIENCE`]; after that the refusal goes to
//! whoever asked. A write that was lost on the way is safe to repeat: states only go forward.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kafka_protocol::messages::ApiKey;

use crate::coordinator::runtime::Coordinator;
use crate::coordinator::share::SHARE_STATE_TOPIC;
use crate::coordinator::share::records::StateBatch;
use crate::coordinator::share::shard::{Answer, Call, Shard, State, Summary, What};
use crate::error::{ErrorCode, Refusal};
use crate::replica::context::Context;
use crate::replica::peers::Peers;
use crate::wire::message::Message;
use crate::wire::share as wire;

/// How long one call is tried.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The share coordinator of this broker.
pub type ShareCoordinator = Coordinator<Shard>;

/// Whoever keeps the state of share partitions.
#[async_trait]
pub trait Persister: Send + Sync + 'static {
    async fn call(&self, call: Call) -> Answer;
}

pub struct Routed {
    context: Arc<Context>,
    coordinator: Arc<ShareCoordinator>,
    peers: Peers,
}

impl Routed {
    pub fn new(context: Arc<Context>, coordinator: Arc<ShareCoordinator>) -> Self {
        let client_id = format!("broker-{}-share", context.me);
        Self { peers: Peers::new(context.clone(), client_id), context, coordinator }
    }

    async fn try_call(&self, call: &Call) -> Result<Answer, Refusal> {
        let not_available = || Refusal::from(ErrorCode::CoordinatorNotAvailable);
        let image = self.context.image.load_full();
        let Some(topic) = image.topic(SHARE_STATE_TOPIC) else {
            self.coordinator.topic.make();
            return Err(not_available());
        };
        let partition = call.key.kept_in(topic.partitions.len() as i32);
        let leader = topic.partitions.get(&partition).map(|it| it.leader);
        let leader = leader.filter(|leader| *leader >= 0).ok_or_else(not_available)?;
        if leader == self.context.me {
            return Ok(self.coordinator.call_partition(partition, call.clone()).await.await);
        }
        let unreachable = |why| Refusal::new(ErrorCode::CoordinatorNotAvailable, why);
        let peer = self.peers.get(leader).await.map_err(unreachable)?;
        let (key, version, body) = encode(call);
        let answer = peer.call_raw(key as i16, version, vec![body], CALL_TIMEOUT).await;
        let answer = answer.map_err(|error| {
            self.peers.forget(leader);
            unreachable(error.to_string())
        })?;
        decode(call, &answer)
    }
}

#[async_trait]
impl Persister for Routed {
    async fn call(&self, call: Call) -> Answer {
        let clock = &self.context.env.clock;
        let deadline = clock.now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        loop {
            let answer = match self.try_call(&call).await {
                Ok(answer) => answer,
                Err(refusal) => call.what.asked().refuse(refusal),
            };
            let passes = code_of(&answer).is_some_and(|code| {
                use ErrorCode::{
                    CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator,
                };
                matches!(code, NotCoordinator | CoordinatorNotAvailable | CoordinatorLoadInProgress)
            });
            if !passes || clock.now() + pause > deadline {
                return answer;
            }
            tracing::debug!(key = ?call.key, code = ?code_of(&answer), "state is asked for again");
            clock.sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn code_of(answer: &Answer) -> Option<ErrorCode> {
    let refusal = match answer {
        Answer::Read(result) => result.as_ref().err(),
        Answer::Done(result) => result.as_ref().err(),
        Answer::Summary(result) => result.as_ref().err(),
    };
    refusal.map(|refusal| refusal.code)
}

fn encode(call: &Call) -> (ApiKey, i16, Bytes) {
    let (group, topic_id) = (call.key.group.clone(), call.key.topic_id);
    let partition = call.key.partition;
    let read = |leader_epoch| {
        let partitions = vec![wire::ReadStatePartition { partition, leader_epoch }];
        let topics = vec![wire::ReadStateTopic { topic_id, partitions }];
        wire::ReadStateRequest { group: group.clone(), topics }
    };
    match &call.what {
        What::Read { leader_epoch } => {
            (ApiKey::ReadShareGroupState, 0, read(*leader_epoch).to_bytes(0))
        }
        What::Summarize => (ApiKey::ReadShareGroupStateSummary, 1, read(-1).to_bytes(1)),
        What::Write(changes) => {
            let partitions = vec![wire::WriteStatePartition {
                partition,
                state_epoch: changes.state_epoch,
                leader_epoch: changes.leader_epoch,
                start: changes.start,
                done: changes.done,
                batches: changes.batches.iter().copied().map(wire::StateBatch::from).collect(),
            }];
            let topics = vec![wire::WriteStateTopic { topic_id, partitions }];
            let request = wire::WriteStateRequest { group: group.clone(), topics };
            (ApiKey::WriteShareGroupState, 1, request.to_bytes(1))
        }
        What::Initialize { state_epoch, start } => {
            let (state_epoch, start) = (*state_epoch, *start);
            let partitions = vec![wire::InitializeStatePartition { partition, state_epoch, start }];
            let topics = vec![wire::InitializeStateTopic { topic_id, partitions }];
            let request = wire::InitializeStateRequest { group: group.clone(), topics };
            (ApiKey::InitializeShareGroupState, 0, request.to_bytes(0))
        }
        What::Delete => {
            let partitions = vec![wire::DeleteStatePartition { partition }];
            let topics = vec![wire::DeleteStateTopic { topic_id, partitions }];
            let request = wire::DeleteStateRequest { group: group.clone(), topics };
            (ApiKey::DeleteShareGroupState, 0, request.to_bytes(0))
        }
    }
}

fn decode(call: &Call, mut body: &[u8]) -> Result<Answer, Refusal> {
    let body = &mut body;
    let unreadable = |error: &dyn std::fmt::Display| {
        Refusal::new(ErrorCode::UnknownServerError, error.to_string())
    };
    let nothing = || unreadable(&"an answer about something else");
    match &call.what {
        What::Read { .. } => {
            let response =
                wire::ReadStateResponse::decode(body, 0).map_err(|it| unreadable(&it))?;
            let mut all = response.results.into_iter().flat_map(|topic| topic.partitions);
            let it = all.next().ok_or_else(nothing)?;
            let (state_epoch, start) = (it.state_epoch, it.start);
            let batches = it.batches.into_iter().map(StateBatch::from).collect();
            let state = State { state_epoch, start, batches };
            Ok(Answer::Read(refused(it.error_code, it.error_message).map(|()| state)))
        }
        What::Summarize => {
            let response =
                wire::StateSummaryResponse::decode(body, 1).map_err(|it| unreadable(&it))?;
            let mut all = response.results.into_iter().flat_map(|topic| topic.partitions);
            let it = all.next().ok_or_else(nothing)?;
            let (state_epoch, leader_epoch) = (it.state_epoch, it.leader_epoch);
            let summary = Summary { state_epoch, leader_epoch, start: it.start, done: it.done };
            Ok(Answer::Summary(refused(it.error_code, it.error_message).map(|()| summary)))
        }
        What::Write(_) | What::Initialize { .. } | What::Delete => {
            let response =
                wire::StateDoneResponse::decode(body, 0).map_err(|it| unreadable(&it))?;
            let mut all = response.results.into_iter().flat_map(|topic| topic.partitions);
            let it = all.next().ok_or_else(nothing)?;
            Ok(Answer::Done(refused(it.error_code, it.error_message)))
        }
    }
}

fn refused(code: i16, message: Option<String>) -> Result<(), Refusal> {
    match ErrorCode::try_from_code(code) {
        None => Ok(()),
        Some(code) => {
            let message = message.unwrap_or_else(|| code.to_string());
            Err(Refusal::new(code, message))
        }
    }
}

impl From<StateBatch> for wire::StateBatch {
    fn from(it: StateBatch) -> Self {
        Self { first: it.first, last: it.last, state: it.state, deliveries: it.deliveries }
    }
}

impl From<wire::StateBatch> for StateBatch {
    fn from(it: wire::StateBatch) -> Self {
        Self { first: it.first, last: it.last, state: it.state, deliveries: it.deliveries }
    }
}
