//! Membership in a classic group: join, sync, heartbeat, commit, leave.
//!
//! Subscription and assignment are written as Java's consumers write them, so that a group may mix
//! both. The heartbeat task only reports: whether to join again is decided at the next poll, by the
//! consumer. A caller that stops polling for `max_poll_interval` stops the heartbeats and loses
//! its place, as it should.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as AssignedTopic;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, HeartbeatRequest, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::assignor::{Assignor, Candidate};
use super::{ConsumerOptions, Subscription};
use crate::client::Backoff;
use crate::names::{group_id, str_bytes, topic_name};
use crate::{Client, Error, ErrorCode, Result, TopicPartition};

/// Of the subscription and assignment: 1 has owned partitions, which eager members leave empty.
const PROTOCOL_VERSION: i16 = 1;

pub(super) struct Membership {
    client: Client,
    options: Arc<ConsumerOptions>,
    group: String,
    subscription: Subscription,
    /// Partition count of each subscribed topic, as of the last look.
    topics: BTreeMap<String, i32>,
    next_look: Instant,
    shared: Arc<Shared>,
    heartbeat: Option<AbortHandle>,
}

/// What the heartbeat task and the consumer both see.
struct Shared {
    state: Mutex<State>,
    rejoin: Arc<Notify>,
}

#[derive(Default, Clone)]
struct State {
    member_id: String,
    generation: i32,
    joined: bool,
    rejoin: bool,
    last_poll: Option<Instant>,
}

impl Membership {
    pub(super) fn new(
        client: Client,
        options: Arc<ConsumerOptions>,
        group: String,
        subscription: Subscription,
    ) -> Self {
        let state = State { generation: -1, ..State::default() };
        Self {
            client,
            options,
            group,
            subscription,
            topics: BTreeMap::new(),
            next_look: Instant::now(),
            shared: Arc::new(Shared { state: Mutex::new(state), rejoin: Arc::new(Notify::new()) }),
            heartbeat: None,
        }
    }

    pub(super) fn polled(&self) {
        self.shared.state.lock().last_poll = Some(Instant::now());
    }

    pub(super) fn is_member(&self) -> bool {
        self.shared.state.lock().joined
    }

    /// Notified when a rebalance wants this member.
    pub(super) fn rejoin_signal(&self) -> Arc<Notify> {
        self.shared.rejoin.clone()
    }

    /// Looks whether topics changed, and says whether to join (again).
    pub(super) async fn needs_join(&mut self) -> Result<bool> {
        if Instant::now() >= self.next_look {
            match self.look_at_topics().await {
                Ok(changed) => {
                    if changed {
                        self.shared.state.lock().rejoin = true;
                    }
                }
                Err(error) if error.is_retriable() => {
                    self.next_look = Instant::now() + std::time::Duration::from_millis(200);
                }
                Err(error) => return Err(error),
            }
        }
        let state = self.shared.state.lock();
        Ok(!state.joined || state.rejoin)
    }

    async fn look_at_topics(&mut self) -> Result<bool> {
        let found = match &self.subscription {
            Subscription::Matching(matches) => {
                let answer = self.client.metadata(None).await?;
                let names = answer
                    .topics
                    .into_iter()
                    .filter(|topic| !topic.is_internal && topic.error_code == 0);
                let counts = names.map(|topic| {
                    (topic.name.map(|n| n.to_string()).unwrap_or_default(), topic.partitions.len())
                });
                counts
                    .filter(|(name, _)| matches(name))
                    .map(|(name, count)| (name, count as i32))
                    .collect()
            }
            Subscription::Topics(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let answer = self
                    .client
                    .metadata_creating(Some(&names), self.options.allow_auto_create_topics)
                    .await?;
                let mut found = BTreeMap::new();
                for topic in answer.topics {
                    let name = topic.name.map(|name| name.to_string()).unwrap_or_default();
                    match ErrorCode::try_from_code(topic.error_code) {
                        None => drop(found.insert(name, topic.partitions.len() as i32)),
                        Some(code) if code.is_retriable() => {
                            tracing::warn!("topic {name}: {code:?}");
                        }
                        Some(code) => {
                            return Err(Error::kafka(
                                code,
                                Some(&format!("cannot subscribe to {name}: {code:?}")),
                            ));
                        }
                    }
                }
                found
            }
        };
        let missing =
            matches!(&self.subscription, Subscription::Topics(names) if names.len() > found.len());
        let age = if missing {
            std::time::Duration::from_millis(500)
        } else {
            self.options.metadata_max_age
        };
        self.next_look = Instant::now() + age;
        let changed = found != self.topics;
        self.topics = found;
        Ok(changed)
    }

    fn wanted(&self) -> Vec<String> {
        match &self.subscription {
            Subscription::Topics(names) => names.clone(),
            Subscription::Matching(_) => self.topics.keys().cloned().collect(),
        }
    }

    /// Joins and syncs, again while the group is in flux; `None` when the deadline passes first.
    pub(super) async fn join(&mut self, deadline: Instant) -> Result<Option<Vec<TopicPartition>>> {
        if let Some(heartbeat) = self.heartbeat.take() {
            heartbeat.abort();
        }
        let mut backoff = Backoff::until(self.options.max_poll_interval);
        loop {
            let error = match self.try_join().await {
                Ok(assigned) => {
                    self.start_heartbeat();
                    return Ok(Some(assigned));
                }
                Err(error) => error,
            };
            match error.code() {
                Some(ErrorCode::MemberIdRequired | ErrorCode::RebalanceInProgress) => continue,
                Some(ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration) => {
                    let mut state = self.shared.state.lock();
                    state.joined = false;
                    if error.code() == Some(ErrorCode::UnknownMemberId) {
                        state.member_id.clear();
                    }
                }
                Some(code) if !code.is_retriable() => return Err(error),
                None if !error.is_retriable() => return Err(error),
                _ => self.client.forget_coordinator(&self.group),
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            if !backoff.wait().await {
                return Err(error);
            }
        }
    }

    async fn try_join(&mut self) -> Result<Vec<TopicPartition>> {
        let member_id = self.shared.state.lock().member_id.clone();
        let subscription = encode_subscription(&self.wanted())?;
        let protocols = self.options.assignors.iter().map(|assignor| {
            JoinGroupRequestProtocol::default()
                .with_name(str_bytes(assignor.name()))
                .with_metadata(subscription.clone())
        });
        let request = JoinGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_session_timeout_ms(self.options.session_timeout.as_millis() as i32)
            .with_rebalance_timeout_ms(self.options.max_poll_interval.as_millis() as i32)
            .with_member_id(str_bytes(&member_id))
            .with_group_instance_id(self.options.group_instance_id.as_deref().map(str_bytes))
            .with_protocol_type(str_bytes("consumer"))
            .with_protocols(protocols.collect());
        let coordinator = self.client.coordinator(&self.group).await?;
        let connection = self.client.to_broker(coordinator).await?;
        // The broker answers when all members have joined, or the rebalance timeout passes.
        let patience = self.options.max_poll_interval + std::time::Duration::from_secs(5);
        let joined = connection.send_for(&request, patience).await?.answer().await?;
        if !joined.member_id.is_empty() {
            self.shared.state.lock().member_id = joined.member_id.to_string();
        }
        Error::check(joined.error_code, None)?;
        let assignments = if joined.leader == joined.member_id && !joined.skip_assignment {
            self.decide(&joined).await?
        } else {
            Vec::new()
        };
        let request = SyncGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_generation_id(joined.generation_id)
            .with_member_id(joined.member_id.clone())
            .with_group_instance_id(self.options.group_instance_id.as_deref().map(str_bytes))
            .with_protocol_type(Some(str_bytes("consumer")))
            .with_protocol_name(joined.protocol_name.clone())
            .with_assignments(assignments);
        let synced = connection.send_for(&request, patience).await?.answer().await?;
        Error::check(synced.error_code, None)?;
        let mut state = self.shared.state.lock();
        state.generation = joined.generation_id;
        state.joined = true;
        state.rejoin = false;
        drop(state);
        crate::admin::decode_assignment(&synced.assignment)
    }

    /// The leader's part: reads who wants what, and deals the partitions out.
    async fn decide(
        &mut self,
        joined: &JoinGroupResponse,
    ) -> Result<Vec<SyncGroupRequestAssignment>> {
        let chosen = joined.protocol_name.as_deref().unwrap_or_default();
        let assignor = Assignor::by_name(chosen).ok_or_else(|| {
            Error::Protocol(format!(
                "the group chose the assignor {chosen:?}, which nobody offered"
            ))
        })?;
        let mut members = Vec::new();
        for member in &joined.members {
            members.push(Candidate {
                id: member.member_id.to_string(),
                instance_id: member.group_instance_id.as_ref().map(ToString::to_string),
                topics: decode_subscription(&member.metadata)?,
            });
        }
        let wanted: BTreeSet<&str> =
            members.iter().flat_map(|member| member.topics.iter().map(String::as_str)).collect();
        let wanted: Vec<&str> = wanted.into_iter().collect();
        let answer = self.client.metadata(Some(&wanted)).await?;
        let topics =
            answer.topics.into_iter().filter(|topic| topic.error_code == 0).filter_map(|topic| {
                let count = topic.partitions.len() as i32;
                topic.name.map(|name| (name.to_string(), count))
            });
        let assignments = assignor.assign(&topics.collect(), &members);
        assignments
            .into_iter()
            .map(|(member, partitions)| {
                Ok(SyncGroupRequestAssignment::default()
                    .with_member_id(str_bytes(&member))
                    .with_assignment(encode_assignment(&partitions)?))
            })
            .collect()
    }

    fn start_heartbeat(&mut self) {
        let state = self.shared.state.lock().clone();
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(&self.group))
            .with_generation_id(state.generation)
            .with_member_id(str_bytes(&state.member_id))
            .with_group_instance_id(self.options.group_instance_id.as_deref().map(str_bytes));
        let beat = heartbeat(
            self.client.clone(),
            self.options.clone(),
            self.group.clone(),
            self.shared.clone(),
            request,
        );
        self.heartbeat = Some(tokio::spawn(beat).abort_handle());
    }

    pub(super) async fn commit(
        &mut self,
        offsets: &BTreeMap<TopicPartition, i64>,
        epochs: &BTreeMap<TopicPartition, i32>,
    ) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let state = self.shared.state.lock().clone();
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for (at, offset) in offsets {
            topics.entry(&at.topic).or_default().push(
                OffsetCommitRequestPartition::default()
                    .with_partition_index(at.partition)
                    .with_committed_offset(*offset)
                    .with_committed_leader_epoch(epochs.get(at).copied().unwrap_or(-1))
                    .with_committed_metadata(Some(str_bytes(""))),
            );
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            OffsetCommitRequestTopic::default()
                .with_name(topic_name(name))
                .with_partitions(partitions)
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(&self.group))
            .with_generation_id_or_member_epoch(state.generation)
            .with_member_id(str_bytes(&state.member_id))
            .with_group_instance_id(self.options.group_instance_id.as_deref().map(str_bytes))
            .with_retention_time_ms(-1)
            .with_topics(topics.collect());
        let answer = self
            .client
            .call_coordinator(&self.group, &request, |answer| {
                answer
                    .topics
                    .first()
                    .and_then(|topic| topic.partitions.first())
                    .map_or(0, |one| one.error_code)
            })
            .await?;
        for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            Error::check(partition.error_code, None)?;
        }
        Ok(())
    }

    /// Leaves, so that the others need not wait for the session timeout. Static members just stop.
    pub(super) async fn leave(mut self) -> Result<()> {
        if let Some(heartbeat) = self.heartbeat.take() {
            heartbeat.abort();
        }
        let state = self.shared.state.lock().clone();
        if state.member_id.is_empty() || self.options.group_instance_id.is_some() {
            return Ok(());
        }
        let coordinator = self.client.coordinator(&self.group).await?;
        let connection = self.client.to_broker(coordinator).await?;
        let request = LeaveGroupRequest::default().with_group_id(group_id(&self.group));
        let request = if connection.version_of::<LeaveGroupRequest>()? >= 3 {
            request.with_members(vec![
                MemberIdentity::default().with_member_id(str_bytes(&state.member_id)),
            ])
        } else {
            request.with_member_id(str_bytes(&state.member_id))
        };
        let answer = connection.call(&request).await?;
        match Error::check(answer.error_code, None) {
            Err(Error::Kafka { code: ErrorCode::UnknownMemberId, .. }) => Ok(()),
            other => other,
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(heartbeat) = self.heartbeat.take() {
            heartbeat.abort();
        }
    }
}

/// Beats until the group wants something from this member, then says so and ends.
async fn heartbeat(
    client: Client,
    options: Arc<ConsumerOptions>,
    group: String,
    shared: Arc<Shared>,
    request: HeartbeatRequest,
) {
    loop {
        tokio::time::sleep(options.heartbeat_interval).await;
        let last_poll = shared.state.lock().last_poll;
        if last_poll.is_some_and(|at| at.elapsed() > options.max_poll_interval) {
            tracing::warn!(
                "no poll for {} ms: leaving the rest to the group",
                options.max_poll_interval.as_millis()
            );
            shared.state.lock().rejoin = true;
            return;
        }
        let Err(error) = beat(&client, &group, &request).await else { continue };
        let mut state = shared.state.lock();
        match error.code() {
            Some(ErrorCode::UnknownMemberId) => state.member_id.clear(),
            Some(
                ErrorCode::RebalanceInProgress
                | ErrorCode::IllegalGeneration
                | ErrorCode::FencedInstanceId,
            ) => {}
            _ => {
                drop(state);
                client.forget_coordinator(&group);
                continue;
            }
        }
        state.rejoin = true;
        if error.code() != Some(ErrorCode::RebalanceInProgress) {
            state.joined = false;
        }
        drop(state);
        shared.rejoin.notify_one();
        return;
    }
}

async fn beat(client: &Client, group: &str, request: &HeartbeatRequest) -> Result<()> {
    let coordinator = client.coordinator(group).await?;
    let answer = client.to_broker(coordinator).await?.call(request).await?;
    Error::check(answer.error_code, None)
}

fn unwritable(error: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("the group's messages cannot carry this: {error}"))
}

fn encode_subscription(topics: &[String]) -> Result<Bytes> {
    let mut topics = topics.to_vec();
    topics.sort();
    let subscription = ConsumerProtocolSubscription::default()
        .with_topics(topics.iter().map(|name| str_bytes(name)).collect())
        .with_user_data(None);
    let mut out = BytesMut::new();
    out.put_i16(PROTOCOL_VERSION);
    subscription.encode(&mut out, PROTOCOL_VERSION).map_err(unwritable)?;
    Ok(out.freeze())
}

fn decode_subscription(bytes: &Bytes) -> Result<Vec<String>> {
    let unreadable =
        |why: String| Error::Protocol(format!("a member's subscription is unreadable: {why}"));
    let version = bytes.first_chunk::<2>().ok_or_else(|| unreadable("it is empty".into()))?;
    let version = i16::from_be_bytes(*version).clamp(0, 3);
    let mut body = bytes.slice(2..);
    let decoded = ConsumerProtocolSubscription::decode(&mut body, version)
        .map_err(|error| unreadable(error.to_string()))?;
    Ok(decoded.topics.iter().map(ToString::to_string).collect())
}

fn encode_assignment(partitions: &[TopicPartition]) -> Result<Bytes> {
    let topics = crate::admin::by_topic(partitions.iter()).into_iter().map(|(name, partitions)| {
        AssignedTopic::default().with_topic(topic_name(name)).with_partitions(partitions)
    });
    let assignment = ConsumerProtocolAssignment::default()
        .with_assigned_partitions(topics.collect())
        .with_user_data(None);
    let mut out = BytesMut::new();
    out.put_i16(PROTOCOL_VERSION);
    assignment.encode(&mut out, PROTOCOL_VERSION).map_err(unwritable)?;
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_has_the_bytes_that_java_writes() {
        let bytes = encode_subscription(&["t".into()]).expect("encodes");
        // version 1, one topic "t", null user data, no owned partitions
        assert_eq!(&bytes[..], b"\0\x01\0\0\0\x01\0\x01t\xff\xff\xff\xff\0\0\0\0");
        assert_eq!(decode_subscription(&bytes).expect("decodes"), ["t"]);
    }

    #[test]
    fn an_assignment_reads_back_and_none_is_empty() {
        let partitions = vec![
            TopicPartition::new("t", 0),
            TopicPartition::new("t", 2),
            TopicPartition::new("u", 1),
        ];
        let bytes = encode_assignment(&partitions).expect("encodes");
        assert_eq!(crate::admin::decode_assignment(&bytes).expect("decodes"), partitions);
        assert_eq!(crate::admin::decode_assignment(b"").expect("decodes"), []);
    }
}
