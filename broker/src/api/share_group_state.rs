//! The share coordinator's own APIs, asked by leaders of partitions and by group coordinators:
//! InitializeShareGroupState 0, ReadShareGroupState 0, WriteShareGroupState 0 and 1,
//! DeleteShareGroupState 0, ReadShareGroupStateSummary 0 and 1.
//!
//! Each partition of a request is a call of its own, as each may be kept in another partition of
//! `__share_group_state`. Version 1 knows how many records are done (KIP-1226). Deliberately absent:
//! a check that the caller is a broker, until there is an authorizer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, join_all};
use kafka_protocol::messages::ApiKey;
use uuid::Uuid;

use super::share_acknowledge::Nothing;
use super::{Answer, Api, Client, Reply, Unreadable, encode};
use crate::broker::Broker;
use crate::coordinator::share::records::{ShareKey, StateBatch};
use crate::coordinator::share::shard::{self, Call, Changes, What};
use crate::error::{ErrorCode, Refusal};
use crate::wire::message::Message;
use crate::wire::share::{
    DeleteStateRequest, DonePartition, DoneTopic, InitializeStateRequest, ReadStateRequest,
    ReadStateResponse, StateDoneResponse, StateOfPartition, StateOfTopic, StateSummaryResponse,
    SummaryOfPartition, SummaryOfTopic, WriteStateRequest,
};

pub const INITIALIZE: Api =
    Api::new(ApiKey::InitializeShareGroupState, 0..=0).handled_by(|broker, client, body| {
        Box::pin(handle::<InitializeStateRequest>(broker, client, body))
    });
pub const READ: Api = Api::new(ApiKey::ReadShareGroupState, 0..=0)
    .handled_by(|broker, client, body| Box::pin(handle::<ReadStateRequest>(broker, client, body)));
pub const WRITE: Api = Api::new(ApiKey::WriteShareGroupState, 0..=1)
    .handled_by(|broker, client, body| Box::pin(handle::<WriteStateRequest>(broker, client, body)));
pub const DELETE: Api =
    Api::new(ApiKey::DeleteShareGroupState, 0..=0).handled_by(|broker, client, body| {
        Box::pin(handle::<DeleteStateRequest>(broker, client, body))
    });
pub const SUMMARIZE: Api = Api::new(ApiKey::ReadShareGroupStateSummary, 0..=1)
    .handled_by(|broker, client, body| Box::pin(handle::<Summaries>(broker, client, body)));

/// A request as calls about single partitions, and their answers as a response.
trait Batched: Sized + Send {
    fn read(body: &[u8], version: i16) -> Result<Self, crate::wire::message::Malformed>;
    fn into_calls(self) -> (String, Vec<(Uuid, i32, What)>);
    fn respond(answers: Vec<(Uuid, i32, shard::Answer)>, version: i16) -> BytesMut;
}

async fn handle<R: Batched>(
    broker: &Arc<Broker>,
    client: &Client,
    body: Bytes,
) -> Result<Answer, Unreadable> {
    let version = client.version;
    let request = R::read(&body, version);
    let request = request.map_err(|error| Unreadable(format!("{:?}: {error}", client.api)))?;
    let (group, calls) = request.into_calls();
    let mut answers = Vec::with_capacity(calls.len());
    // As Kafka: nothing is said of a group without a name.
    for (topic_id, partition, what) in calls.into_iter().filter(|_| !group.is_empty()) {
        let key = ShareKey { group: group.clone(), topic_id, partition };
        let kept_under = key.coordinator_key();
        let answer = broker.share_coordinator.call(&kept_under, Call { key, what }).await;
        answers.push(async move { (topic_id, partition, answer.await) });
    }
    let chunks = async move { vec![R::respond(join_all(answers).await, version).freeze()] };
    let answer: BoxFuture<'static, _> = Box::pin(chunks);
    encode(client, Reply::<Nothing>::LaterEncoded(answer))
}

fn error<T>(result: &Result<T, Refusal>) -> (i16, Option<String>) {
    match result {
        Ok(_) => (0, None),
        Err(refusal) => (refusal.code.code(), Some(refusal.message.clone())),
    }
}

fn unexpected() -> Refusal {
    ErrorCode::UnknownServerError.into()
}

/// Neighbours of one topic belong together.
fn by_topic<T>(answers: Vec<(Uuid, T)>) -> Vec<(Uuid, Vec<T>)> {
    let mut topics: Vec<(Uuid, Vec<T>)> = Vec::new();
    for (topic_id, answer) in answers {
        match topics.iter_mut().find(|(id, _)| *id == topic_id) {
            Some((_, partitions)) => partitions.push(answer),
            None => topics.push((topic_id, vec![answer])),
        }
    }
    topics
}

fn respond_done(answers: Vec<(Uuid, i32, shard::Answer)>, version: i16) -> BytesMut {
    let one = |(topic_id, partition, answer)| {
        let result = match answer {
            shard::Answer::Done(result) => result,
            _ => Err(unexpected()),
        };
        let (error_code, error_message) = error(&result);
        (topic_id, DonePartition { partition, error_code, error_message })
    };
    let topics = by_topic(answers.into_iter().map(one).collect());
    let done = |(topic_id, partitions)| DoneTopic { topic_id, partitions };
    let mut out = BytesMut::new();
    StateDoneResponse { results: topics.into_iter().map(done).collect() }.encode(version, &mut out);
    out
}

impl Batched for InitializeStateRequest {
    fn read(mut body: &[u8], version: i16) -> Result<Self, crate::wire::message::Malformed> {
        Self::decode(&mut body, version)
    }

    fn into_calls(self) -> (String, Vec<(Uuid, i32, What)>) {
        let calls = self.topics.into_iter().flat_map(|topic| {
            topic.partitions.into_iter().map(move |it| {
                let what = What::Initialize { state_epoch: it.state_epoch, start: it.start };
                (topic.topic_id, it.partition, what)
            })
        });
        (self.group, calls.collect())
    }

    fn respond(answers: Vec<(Uuid, i32, shard::Answer)>, version: i16) -> BytesMut {
        respond_done(answers, version)
    }
}

impl Batched for DeleteStateRequest {
    fn read(mut body: &[u8], version: i16) -> Result<Self, crate::wire::message::Malformed> {
        Self::decode(&mut body, version)
    }

    fn into_calls(self) -> (String, Vec<(Uuid, i32, What)>) {
        let calls = self.topics.into_iter().flat_map(|topic| {
            let topic_id = topic.topic_id;
            topic.partitions.into_iter().map(move |it| (topic_id, it.partition, What::Delete))
        });
        (self.group, calls.collect())
    }

    fn respond(answers: Vec<(Uuid, i32, shard::Answer)>, version: i16) -> BytesMut {
        respond_done(answers, version)
    }
}

impl Batched for WriteStateRequest {
    fn read(mut body: &[u8], version: i16) -> Result<Self, crate::wire::message::Malformed> {
        Self::decode(&mut body, version)
    }

    fn into_calls(self) -> (String, Vec<(Uuid, i32, What)>) {
        let calls = self.topics.into_iter().flat_map(|topic| {
            let topic_id = topic.topic_id;
            topic.partitions.into_iter().map(move |it| {
                let changes = Changes {
                    state_epoch: it.state_epoch,
                    leader_epoch: it.leader_epoch,
                    start: it.start,
                    done: it.done,
                    batches: it.batches.into_iter().map(StateBatch::from).collect(),
                };
                (topic_id, it.partition, What::Write(changes))
            })
        });
        (self.group, calls.collect())
    }

    fn respond(answers: Vec<(Uuid, i32, shard::Answer)>, version: i16) -> BytesMut {
        respond_done(answers, version)
    }
}

impl Batched for ReadStateRequest {
    fn read(mut body: &[u8], version: i16) -> Result<Self, crate::wire::message::Malformed> {
        Self::decode(&mut body, version)
    }

    fn into_calls(self) -> (String, Vec<(Uuid, i32, What)>) {
        let calls = self.topics.into_iter().flat_map(|topic| {
            let topic_id = topic.topic_id;
            topic.partitions.into_iter().map(move |it| {
                (topic_id, it.partition, What::Read { leader_epoch: it.leader_epoch })
            })
        });
        (self.group, calls.collect())
    }

    fn respond(answers: Vec<(Uuid, i32, shard::Answer)>, version: i16) -> BytesMut {
        let one = |(topic_id, partition, answer)| {
            let result = match answer {
                shard::Answer::Read(result) => result,
                _ => Err(unexpected()),
            };
            let (error_code, error_message) = error(&result);
            let blank =
                StateOfPartition { partition, error_code, error_message, ..Default::default() };
            let state = result.map_or(blank.clone(), |state| StateOfPartition {
                state_epoch: state.state_epoch,
                start: state.start,
                batches: state.batches.into_iter().map(Into::into).collect(),
                ..blank
            });
            (topic_id, state)
        };
        let topics = by_topic(answers.into_iter().map(one).collect());
        let states = |(topic_id, partitions)| StateOfTopic { topic_id, partitions };
        let mut out = BytesMut::new();
        let results = topics.into_iter().map(states).collect();
        ReadStateResponse { results }.encode(version, &mut out);
        out
    }
}

/// ReadShareGroupStateSummary asks as ReadShareGroupState does, for less.
struct Summaries(ReadStateRequest);

impl Batched for Summaries {
    fn read(mut body: &[u8], version: i16) -> Result<Self, crate::wire::message::Malformed> {
        ReadStateRequest::decode(&mut body, version).map(Self)
    }

    fn into_calls(self) -> (String, Vec<(Uuid, i32, What)>) {
        let (group, calls) = self.0.into_calls();
        let summarize = |(topic_id, partition, _)| (topic_id, partition, What::Summarize);
        (group, calls.into_iter().map(summarize).collect())
    }

    fn respond(answers: Vec<(Uuid, i32, shard::Answer)>, version: i16) -> BytesMut {
        let one = |(topic_id, partition, answer)| {
            let result = match answer {
                shard::Answer::Summary(result) => result,
                _ => Err(unexpected()),
            };
            let (error_code, error_message) = error(&result);
            let blank =
                SummaryOfPartition { partition, error_code, error_message, ..Default::default() };
            let summary = result.map_or(blank.clone(), |summary| SummaryOfPartition {
                state_epoch: summary.state_epoch,
                leader_epoch: summary.leader_epoch,
                start: summary.start,
                done: summary.done,
                ..blank
            });
            (topic_id, summary)
        };
        let topics = by_topic(answers.into_iter().map(one).collect());
        let summaries = |(topic_id, partitions)| SummaryOfTopic { topic_id, partitions };
        let mut out = BytesMut::new();
        let results = topics.into_iter().map(summaries).collect();
        StateSummaryResponse { results }.encode(version, &mut out);
        out
    }
}
