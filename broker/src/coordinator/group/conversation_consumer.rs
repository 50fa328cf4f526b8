//! Conversations with consumer groups, as text (see [`conversation`](super::conversation)).
//!
//! `topic t partitions=4 [rack]` creates a topic or gives it more partitions. `alive A …` is a
//! heartbeat of A: with `epoch=0` it joins, else what it was told last counts; `owns=t-0,t-1` says
//! what it owns, `owns=all` what it was told, no `owns` says nothing.

use std::fmt::Write as _;

use kafka_protocol::messages::consumer_group_describe_response::{Assignment, DescribedGroup};
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId, TopicName,
};
use uuid::Uuid;

use super::call::Call;
use super::consumer::{ConsumerGroup, HeartbeatCall, MigrationPolicy};
use super::conversation::{Conversation, Words, code, seconds, text};
use super::kind::Group;
use super::modern::{Partitions, Refresh};
use super::records::{ConsumerRecord, CurrentTopic, Record};
use super::shard::Shard;
use crate::controller::Delta;
use crate::error::ErrorCode;
use crate::wire::metadata::{PartitionRecord, RegisterBrokerRecord, TopicRecord};

/// Topic ids are numbers that show which topic it is: the letters of its name.
pub fn topic_id(name: &str) -> Uuid {
    Uuid::from_u128(name.bytes().fold(0, |id, byte| id << 8 | u128::from(byte)))
}

fn topic_name(id: Uuid) -> String {
    let bytes = id.as_u128().to_be_bytes();
    String::from_utf8_lossy(&bytes).trim_start_matches('\0').to_owned()
}

fn partitions(of: &Partitions) -> String {
    let each = of.iter().flat_map(|(topic, its)| its.iter().map(move |it| (topic, it)));
    each.map(|(topic, it)| format!("{}-{it}", topic_name(*topic))).collect::<Vec<_>>().join(" ")
}

impl Conversation {
    pub fn consumer_command(&mut self, words: &Words<'_>) {
        let client = words.plain.get(1).copied().unwrap_or_default();
        match words.plain[0] {
            "topic" => self.create(client, words.number("partitions", 1), words.get("rack")),
            "interval" => {
                self.settings.consumer.assignment_interval.default = seconds(client) as i32
            }
            "cmax" => self.settings.consumer.max_size = client.parse().unwrap(),
            "policy" => self.settings.consumer.migration_policy = MigrationPolicy::of(client),
            "who" => {
                let group = GroupId(text(words.get("group").unwrap_or("g")));
                self.call("someone", Call::ConsumerDescribe { groups: vec![group] });
            }
            "again" => {
                self.check_load();
            }
            _ => {
                let call = self.consumer_call(client, words);
                self.call(client, call);
            }
        }
    }

    pub fn create(&mut self, name: &str, partitions: i32, rack: Option<&str>) {
        let (topic_id, before) =
            (topic_id(name), self.image.topic(name).map(|it| it.partitions.len()));
        let mut replay = |record| self.image.replay(&record, &mut Delta::default()).unwrap();
        if let Some(rack) = rack {
            let rack = Some(rack.to_owned());
            replay(RegisterBrokerRecord { broker_id: 1, rack, ..Default::default() }.into());
        }
        if before.is_none() {
            replay(TopicRecord { name: name.to_owned(), topic_id }.into());
        }
        for partition_id in before.unwrap_or(0) as i32..partitions {
            let (replicas, isr) = (vec![1], vec![1]);
            let record = PartitionRecord {
                topic_id,
                partition_id,
                replicas,
                isr,
                leader: 1,
                ..Default::default()
            };
            replay(record.into());
        }
        self.image.offset += 1;
        let created = before.is_none().then_some(self.image.offset);
        self.shard.topics_changed(std::iter::once(name), created);
    }

    pub fn consumer_call(&mut self, client: &str, words: &Words<'_>) -> Call {
        let known = self.clients.get(client).cloned();
        let epoch = match words.plain[0] {
            "bye" => words.number("epoch", -1),
            _ => words.number("epoch", known.as_ref().map_or(0, |(_, epoch)| *epoch)),
        };
        let list = |name: &str| {
            words
                .get(name)
                .map(|all| all.split(',').filter(|it| !it.is_empty()).collect::<Vec<_>>())
        };
        let topics =
            list("topics").or((epoch == 0 && words.get("regex").is_none()).then(|| vec!["t"]));
        let owned = match words.get("owns") {
            _ if epoch == 0 => Some(Partitions::new()),
            None => None,
            Some("all") => Some(self.assigned.get(client).cloned().unwrap_or_default()),
            Some(all) => {
                let mut owned = Partitions::new();
                for place in all.split(',').filter(|it| *it != "nothing") {
                    let (topic, partition) = place.rsplit_once('-').unwrap();
                    owned.entry(topic_id(topic)).or_default().insert(partition.parse().unwrap());
                }
                Some(owned)
            }
        };
        let said = owned.map(|owned| {
            let topic = owned.into_iter().map(|(topic, its)| {
                TopicPartitions::default()
                    .with_topic_id(topic)
                    .with_partitions(its.into_iter().collect())
            });
            topic.collect()
        });
        let timeout = match words.get("rebalance") {
            None if epoch != 0 => -1,
            _ => words.seconds("rebalance", 60),
        };
        let id = words
            .get("id")
            .map_or_else(|| known.map_or(client.to_owned(), |it| it.0), str::to_owned);
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text(words.get("group").unwrap_or("g"))))
            .with_member_id(text(&id))
            .with_member_epoch(epoch)
            .with_instance_id(words.get("instance").map(text))
            .with_rack_id(words.get("rack").map(text))
            .with_rebalance_timeout_ms(timeout)
            .with_subscribed_topic_names(
                topics.map(|topics| topics.into_iter().map(|it| TopicName(text(it))).collect()),
            )
            .with_subscribed_topic_regex(words.get("regex").map(text))
            .with_server_assignor(words.get("assignor").map(text))
            .with_topic_partitions(said);
        Call::ConsumerHeartbeat(Box::new(HeartbeatCall {
            client_id: client.to_owned(),
            client_host: "/127.0.0.1".into(),
            new_id: Uuid::nil(),
            request,
        }))
    }

    /// A broker that loads what is in the log has the same consumer groups.
    pub fn check_load(&self) {
        let mut loaded = Shard::default();
        for (_, record) in &self.records {
            // As it comes out of the log.
            let (key, value) = record.encode().unwrap();
            loaded.load(Record::decode(&key, value.as_deref()).unwrap());
        }
        let groups = |shard: &Shard| {
            let groups = shard.groups().filter_map(Group::as_consumer).cloned();
            let forget = |mut it: ConsumerGroup| {
                it.refresh = Refresh::default();
                it
            };
            groups.map(forget).collect::<Vec<_>>()
        };
        assert_eq!(groups(&loaded), groups(&self.shard));
    }

    /// A consumer remembers what it was told.
    pub fn heard(&mut self, who: &str, alive: &ConsumerGroupHeartbeatResponse) {
        if alive.error_code != 0 {
            let fenced = [ErrorCode::FencedMemberEpoch, ErrorCode::UnknownMemberId];
            if self.forgets && fenced.iter().any(|code| code.code() == alive.error_code) {
                self.clients.remove(who);
                self.assigned.remove(who);
            }
            return;
        }
        let id = alive.member_id.as_deref().unwrap_or_default().to_owned();
        match alive.member_epoch {
            epoch if epoch < 0 => {
                self.clients.remove(who);
                self.assigned.remove(who);
            }
            epoch => {
                self.clients.insert(who.to_owned(), (id, epoch));
            }
        }
        if let Some(assignment) = &alive.assignment {
            let topics = assignment.topic_partitions.iter();
            let topics = topics.map(|it| (it.topic_id, it.partitions.iter().copied().collect()));
            self.assigned.insert(who.to_owned(), topics.collect());
        }
    }
}

pub fn alive(alive: &ConsumerGroupHeartbeatResponse) -> String {
    if alive.error_code != 0 {
        let message = alive.error_message.as_deref().unwrap_or_default();
        return format!("alive: {} ({message})", code(alive.error_code));
    }
    let mut line = format!(
        "alive: {}, epoch {}",
        alive.member_id.as_deref().unwrap_or_default(),
        alive.member_epoch
    );
    if let Some(assignment) = &alive.assignment {
        let topics = assignment.topic_partitions.iter();
        let owned = topics.map(|it| (it.topic_id, it.partitions.iter().copied().collect()));
        let _ = write!(line, ", owns [{}]", partitions(&owned.collect()));
    }
    line
}

pub fn groups(groups: &[DescribedGroup]) -> String {
    let owned = |assignment: &Assignment| {
        let topics = assignment.topic_partitions.iter();
        partitions(
            &topics.map(|it| (it.topic_id, it.partitions.iter().copied().collect())).collect(),
        )
    };
    let each = groups.iter().map(|group| {
        let mut line = format!(
            "{} {} {} epoch {} assignment {} by {}",
            group.group_id.as_str(),
            code(group.error_code),
            group.group_state,
            group.group_epoch,
            group.assignment_epoch,
            group.assignor_name,
        );
        for member in &group.members {
            let kind = if member.member_type == 0 { " classic" } else { "" };
            let _ = write!(
                line,
                "; {}{kind} epoch {} owns [{}] of [{}]",
                member.member_id,
                member.member_epoch,
                owned(&member.assignment),
                owned(&member.target_assignment)
            );
        }
        line
    });
    format!("who: {}", each.collect::<Vec<_>>().join(", "))
}

fn owned(topics: &[CurrentTopic]) -> String {
    let each = topics.iter().flat_map(|topic| {
        let epochs = topic.assignment_epochs.iter().flatten();
        let name = topic_name(topic.topic_id);
        topic.partitions.iter().zip(epochs).map(move |(it, epoch)| format!("{name}-{it}@{epoch}"))
    });
    each.collect::<Vec<_>>().join(" ")
}

pub fn record(record: &ConsumerRecord) -> String {
    let group = record.group();
    match record {
        ConsumerRecord::Epoch(_, None) => format!("no group {group}"),
        ConsumerRecord::Epoch(_, Some(it)) => {
            let hash = if it.metadata_hash == 0 { "no topics" } else { "topics" };
            format!("{group}: epoch {} with {hash}", it.epoch)
        }
        ConsumerRecord::Metadata(_, there) => format!("{group}: old metadata {there}"),
        ConsumerRecord::Member(key, None) => format!("{group}: no member {}", key.member),
        ConsumerRecord::Member(key, Some(it)) => {
            let mut line =
                format!("{group}: member {} reads {:?}", key.member, it.subscribed_topic_names);
            if let Some(regex) = it.subscribed_topic_regex.as_deref().filter(|it| !it.is_empty()) {
                let _ = write!(line, " and {regex}");
            }
            if let Some(instance) = &it.instance_id {
                let _ = write!(line, " as {instance}");
            }
            if let Some(assignor) = &it.server_assignor {
                let _ = write!(line, " by {assignor}");
            }
            if it.classic.0.is_some() {
                line += " (classic)";
            }
            line
        }
        ConsumerRecord::Target(_, None) => format!("{group}: no target"),
        ConsumerRecord::Target(_, Some(it)) => {
            format!("{group}: target of epoch {}", it.assignment_epoch)
        }
        ConsumerRecord::TargetMember(key, None) => format!("{group}: no target of {}", key.member),
        ConsumerRecord::TargetMember(key, Some(it)) => {
            let topics = it.topic_partitions.iter();
            let owned = topics.map(|it| (it.topic_id, it.partitions.iter().copied().collect()));
            format!("{group}: target of {} [{}]", key.member, partitions(&owned.collect()))
        }
        ConsumerRecord::Current(key, None) => format!("{group}: {} owns nothing", key.member),
        ConsumerRecord::Current(key, Some(it)) => {
            let state = ["stable", "unrevoked", "unreleased"][it.state as usize];
            let revoking = match owned(&it.partitions_pending_revocation) {
                owned if owned.is_empty() => owned,
                owned => format!(", gives up [{owned}]"),
            };
            format!(
                "{group}: {} {state} in {} after {} owns [{}]{revoking}",
                key.member,
                it.member_epoch,
                it.previous_member_epoch,
                owned(&it.assigned_partitions)
            )
        }
        ConsumerRecord::Pattern(key, None) => format!("{group}: no pattern {}", key.pattern),
        ConsumerRecord::Pattern(key, Some(it)) => {
            format!("{group}: pattern {} matches {:?}", key.pattern, it.topics)
        }
    }
}
