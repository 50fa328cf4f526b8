//! A member of a consumer group, by the classic protocol or by that of KIP-848, one call at a time.
//!
//! It beats when its owner polls it, as slowly as that may be. What it is told goes into the
//! history, which judges it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, GroupId, OffsetCommitRequest, OffsetFetchRequest,
};
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::coordinators::OF_GROUPS;
use super::{RETRY, World, name, text};
use crate::simulation::scenario::{GroupKind, HEARTBEAT};
use crate::simulation::wire::Connection;

/// A partition's offset that an open transaction is about to change.
const UNSTABLE: i16 = 88;
/// A member that does not say so is never asked to give up anything sooner.
const REBALANCE_TIMEOUT_MS: i32 = 60_000;

pub(super) struct Membership {
    pub world: World,
    pub kind: GroupKind,
    pub group: String,
    pub topic: String,
    /// The client, in this life.
    pub who: String,
    /// As the coordinator knows it.
    pub id: String,
    /// Or the generation.
    pub epoch: i32,
    pub assigned: BTreeSet<i32>,
    /// Counts how often it came in anew: positions of before are worth nothing.
    pub entries: u64,
    pub(super) joined: bool,
    /// It is in the midst of something, and gives nothing up now.
    pub(super) busy: bool,
    /// An answer was lost since the last good one.
    lost: bool,
    alive_at: Duration,
    next_beat: Instant,
    topic_id: Uuid,
    pub(super) counted: i32,
    pub(super) connection: Option<Connection>,
    pub(super) random: StdRng,
}

pub(super) fn virtual_now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

impl Membership {
    pub fn new(world: World, kind: GroupKind, group: &str, topic: &str, who: &str) -> Self {
        let random = world.random(&format!("{group} {who}"));
        let id = if kind == GroupKind::Consumer { who.to_owned() } else { String::new() };
        Self {
            world,
            kind,
            group: group.to_owned(),
            topic: topic.to_owned(),
            who: who.to_owned(),
            id,
            epoch: -1,
            assigned: BTreeSet::new(),
            entries: 0,
            joined: false,
            busy: false,
            lost: false,
            alive_at: Duration::ZERO,
            next_beat: Instant::now(),
            topic_id: Uuid::nil(),
            counted: 0,
            connection: None,
            random,
        }
    }

    pub(super) fn note(&self, what: &str) {
        self.world.trace.note(&format!("{} of {} {what}", self.who, self.group));
    }

    pub fn partitions(&self) -> i32 {
        let places = self.world.places.borrow();
        places.iter().filter(|(topic, _)| *topic == self.topic).count() as i32
    }

    /// Joins, or beats when it is time to.
    pub async fn poll(&mut self) {
        if self.connection.is_none() {
            let found = self.world.coordinator_of(&self.group, OF_GROUPS, &mut self.random).await;
            match found {
                Ok(connection) => self.connection = Some(connection),
                Err(_) => return sleep(RETRY).await,
            }
        }
        let grown = self.kind == GroupKind::Classic && self.counted != self.partitions();
        if self.joined && !grown && Instant::now() < self.next_beat {
            return;
        }
        self.next_beat = Instant::now() + HEARTBEAT;
        let done = match (self.kind, self.joined && !grown) {
            (GroupKind::Classic, true) => self.classic_beat().await,
            (GroupKind::Classic, false) => self.rejoin().await,
            (GroupKind::Consumer, _) => self.consumer_beat().await,
        };
        if let Err(error) = done {
            self.note(&format!("unknown: {error}"));
            self.lost = true;
            self.connection = None;
        }
        if !self.joined || self.connection.is_none() {
            sleep(RETRY).await;
        }
    }

    /// Beats if it is time to, and hears no more of the answer than that it is still a member.
    pub async fn keep_alive(&mut self) {
        if self.joined && self.connection.is_some() && Instant::now() >= self.next_beat {
            self.next_beat = Instant::now() + HEARTBEAT;
            self.busy = true;
            let done = match self.kind {
                GroupKind::Classic => self.classic_beat().await,
                GroupKind::Consumer => self.consumer_beat().await,
            };
            self.busy = false;
            if done.is_err() {
                self.lost = true;
                self.connection = None;
            }
        }
    }

    /// It has given up all, and says it with its next word.
    pub(super) fn give_up(&mut self) {
        self.world.history.borrow_mut().groups.released(&self.group, &self.who, &BTreeSet::new());
        self.assigned.clear();
        self.joined = false;
        self.next_beat = Instant::now();
    }

    /// A call that was sent at `sent` was answered well. A coordinator that has not heard yet that it
    /// was deposed answers too, here as with Kafka; its word binds nobody else.
    pub(super) fn heard(&mut self, sent: Duration) {
        let host = self.connection.as_ref().map_or("", |it| &it.host);
        if !self.world.coordinates(&self.group, host) {
            return;
        }
        (self.alive_at, self.lost) = (sent, false);
        let patience = self.world.scenario.session();
        let mut history = self.world.history.borrow_mut();
        history.groups.alive(&self.group, &self.who, sent, patience);
    }

    /// What it is assigned, by a call that was sent at `sent`.
    pub(super) fn take(&mut self, sent: Duration, assigned: BTreeSet<i32>, generation: i32) {
        self.note(&format!("owns {assigned:?} in {}", self.epoch));
        let mut history = self.world.history.borrow_mut();
        let (groups, now) = (&mut history.groups, virtual_now());
        let given = if now < sent + self.world.scenario.session() {
            groups.assigned(&self.group, &self.who, generation, &assigned, now)
        } else {
            groups.assigned_late(&self.group, &self.who, &assigned);
            Ok(())
        };
        drop(history);
        if let Err(what) = given {
            self.world.violate(what);
        }
        self.assigned = assigned;
    }

    /// Its membership is gone: is that right?
    pub(super) fn cast_out(&mut self, code: i16) {
        let sound = self.joined && !self.lost;
        if sound && virtual_now() < self.alive_at + self.world.scenario.session() {
            let (who, group, at) = (&self.who, &self.group, self.alive_at);
            let epoch = self.epoch;
            self.world.violate(format!(
                "member: {who} of {group} was heard at {at:?} in {epoch}, and is refused with {code}"
            ));
        }
    }

    async fn consumer_beat(&mut self) -> io::Result<()> {
        if self.topic_id.is_nil() {
            let found = self.world.metadata(Some(&[&self.topic]), &mut self.random).await?;
            self.topic_id = found.topics.first().map(|it| it.topic_id).unwrap_or_default();
        }
        let owned = TopicPartitions::default()
            .with_topic_id(self.topic_id)
            .with_partitions(self.assigned.iter().copied().collect());
        let owned = if self.assigned.is_empty() { vec![] } else { vec![owned] };
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_member_id(text(&self.id))
            .with_member_epoch(if self.joined { self.epoch } else { 0 })
            .with_rebalance_timeout_ms(REBALANCE_TIMEOUT_MS)
            .with_subscribed_topic_names(Some(vec![name(&self.topic)]))
            .with_topic_partitions(Some(owned));
        self.world.history.borrow_mut().groups.released(&self.group, &self.who, &self.assigned);
        let sent = virtual_now();
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let answer = connection.call(&request, 1).await?;
        match answer.error_code {
            0 => {
                if !self.joined {
                    (self.joined, self.entries) = (true, self.entries + 1);
                }
                self.epoch = answer.member_epoch;
                self.heard(sent);
                if let Some(assignment) = answer.assignment {
                    let partitions =
                        assignment.topic_partitions.iter().flat_map(|it| &it.partitions);
                    let assigned = partitions.copied().collect();
                    if assigned != self.assigned && !self.busy {
                        self.take(sent, assigned, -1);
                        self.next_beat = Instant::now();
                    }
                }
            }
            // UNKNOWN_MEMBER_ID, GROUP_ID_NOT_FOUND, FENCED_MEMBER_EPOCH
            code @ (25 | 69 | 110) => {
                self.note(&format!("is out: {code}"));
                self.cast_out(code);
                self.give_up();
            }
            code => {
                self.note(&format!("beat refused: {code}"));
                self.lost = true;
                self.connection = None;
            }
        }
        Ok(())
    }

    /// Says goodbye, if it can.
    pub async fn leave(mut self) {
        let joined = self.joined;
        self.give_up();
        if !joined || self.connection.is_none() {
            return;
        }
        let left = match self.kind {
            GroupKind::Classic => self.classic_leave().await,
            GroupKind::Consumer => {
                let request = ConsumerGroupHeartbeatRequest::default()
                    .with_group_id(GroupId(text(&self.group)))
                    .with_member_id(text(&self.id))
                    .with_member_epoch(-1);
                let Some(connection) = &mut self.connection else { return };
                connection.call(&request, 1).await.map(|answer| answer.error_code)
            }
        };
        self.note(&format!("left: {:?}", left.map_err(|error| error.to_string())));
    }

    /// What is committed for some partitions; -1 for nothing. `None`: not now.
    pub async fn committed(&mut self, partitions: &BTreeSet<i32>) -> Option<BTreeMap<i32, i64>> {
        let connection = self.connection.as_mut()?;
        let member = (self.kind == GroupKind::Consumer).then(|| (&*self.id, self.epoch));
        let found = fetch_offsets(connection, &self.group, &self.topic, partitions, member, true);
        match found.await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(code)) => {
                self.note(&format!("offsets refused: {code}"));
                if code != UNSTABLE {
                    self.next_beat = Instant::now();
                }
                if matches!(code, 14..=16) {
                    self.connection = None;
                }
                None
            }
            Err(_) => {
                self.connection = None;
                None
            }
        }
    }

    /// Commits, and tells the history. Returns whether all is committed.
    pub async fn commit(&mut self, offsets: &BTreeMap<i32, i64>) -> bool {
        let mut superseded = Vec::new();
        for (partition, offset) in offsets {
            let mut history = self.world.history.borrow_mut();
            history.groups.commit_asked(&self.group, *partition, *offset);
            if history.groups.is_superseded(&self.group, &self.who, *partition) {
                superseded.push(*partition);
            }
        }
        let partition = |(partition, offset): (&i32, &i64)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
        };
        let topic = OffsetCommitRequestTopic::default()
            .with_name(name(&self.topic))
            .with_partitions(offsets.iter().map(partition).collect());
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(&self.group)))
            .with_member_id(text(&self.id))
            .with_generation_id_or_member_epoch(self.epoch)
            .with_topics(vec![topic]);
        let Some(connection) = &mut self.connection else { return false };
        let Ok(answer) = connection.call(&request, 9).await else {
            self.connection = None;
            return false;
        };
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let mut all = true;
        for found in partitions {
            let (partition, code) = (found.partition_index, found.error_code);
            let offset = offsets.get(&partition).copied().unwrap_or(-1);
            self.note(&format!("commits {partition}@{offset} in {}: {code}", self.epoch));
            if code == 0 {
                self.accepted(partition, offset, superseded.contains(&partition));
                continue;
            }
            all = false;
            self.next_beat = Instant::now();
            if matches!(code, 14..=16) {
                self.connection = None;
            }
        }
        all
    }

    fn accepted(&self, partition: i32, offset: i64, superseded: bool) {
        let (who, group, epoch) = (&self.who, &self.group, self.epoch);
        if superseded {
            self.world.violate(format!(
                "fenced: {who} of {group} may commit {partition}@{offset} in {epoch}, although \
                 another has the partition"
            ));
        }
        let mut history = self.world.history.borrow_mut();
        history.groups.commit_acknowledged(group, partition, offset);
    }
}

/// Offsets of a group, -1 for none; or the first error. `member` is who asks.
pub(super) async fn fetch_offsets(
    connection: &mut Connection,
    group: &str,
    topic: &str,
    partitions: &BTreeSet<i32>,
    member: Option<(&str, i32)>,
    stable: bool,
) -> io::Result<Result<BTreeMap<i32, i64>, i16>> {
    let topic = OffsetFetchRequestTopics::default()
        .with_name(name(topic))
        .with_partition_indexes(partitions.iter().copied().collect());
    let asked = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(text(group)))
        .with_member_id(member.map(|(id, _)| text(id)))
        .with_member_epoch(member.map_or(-1, |(_, epoch)| epoch))
        .with_topics(Some(vec![topic]));
    let request =
        OffsetFetchRequest::default().with_groups(vec![asked]).with_require_stable(stable);
    let answer = connection.call(&request, 9).await?;
    let Some(group) = answer.groups.first() else {
        return Err(io::Error::other("an answer without the group"));
    };
    if group.error_code != 0 {
        return Ok(Err(group.error_code));
    }
    let mut found = BTreeMap::new();
    for partition in group.topics.iter().flat_map(|topic| &topic.partitions) {
        if partition.error_code != 0 {
            return Ok(Err(partition.error_code));
        }
        found.insert(partition.partition_index, partition.committed_offset);
    }
    Ok(Ok(found))
}
