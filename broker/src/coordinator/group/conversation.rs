//! Conversations with a coordinator shard, as text: `tests/scripts/groups/*.script`.
//!
//! A block of commands, `---`, what came of each, an empty line. Time stands still but for
//! `advance`. Member ids are shortened to `CLIENT#NUMBER`. To write the results anew, run the tests
//! with `UPDATE_SCRIPTS=1`, and read the difference.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, OffsetCommitRequest,
    OffsetDeleteRequest, ProducerId, SyncGroupRequest, TopicName, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::call::{Asked, Call, TxnOffsetCommit};
use super::classic::{Continuation, JoinCall, Slot, Timer, append_error};
use super::effects::{Answer, Effects, TimerChange, Token};
use super::kind::Group;
use super::offsets::Write;
use super::records::Record;
use super::settings::GroupSettings;
use super::shard::Shard;
use crate::controller::Image;
use crate::error::ErrorCode;
use crate::types::Millis;

/// What a step may look at; a macro, because the shard is borrowed apart.
macro_rules! context {
    ($it:expr) => {
        super::shard::Context { settings: &$it.settings, now: $it.now, image: &$it.image }
    };
}

/// What becomes of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    Commits,
    Holds,
    Refuses(ErrorCode),
}

enum Waiting {
    Group(String, Continuation),
    Answer(Token, Answer),
}

/// A shard with a clock, timers and a log, that writes down what it says.
pub struct Conversation {
    pub shard: Shard,
    pub settings: GroupSettings,
    pub image: Image,
    pub now: Millis,
    pub log: Log,
    pub said: String,
    /// Tokens that are not answered yet, with who waits for what.
    pub open: BTreeMap<Token, (String, Asked)>,
    /// What each consumer was told to own, with topic ids.
    pub assigned: BTreeMap<String, super::modern::Partitions>,
    /// Consumers that are fenced forget all.
    pub forgets: bool,
    pub crew: super::conversation_streams::Crew,
    /// What is in the log, with the writes that put it there.
    pub records: Vec<(Write, Record)>,
    timers: BTreeMap<(String, Slot), (Millis, u64, Timer)>,
    waiting: Vec<(Write, Waiting)>,
    /// What each client knows: its member id and generation.
    pub clients: BTreeMap<String, (String, i32)>,
    tokens: Token,
    ids: u128,
}

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A consumer's subscription, version 0.
pub fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![0, 0];
    bytes.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        bytes.extend((topic.len() as i16).to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend((-1i32).to_be_bytes());
    bytes.into()
}

impl Conversation {
    pub fn new() -> Self {
        Self {
            shard: Shard::default(),
            settings: GroupSettings::default(),
            image: Image::empty("cluster"),
            now: 0,
            log: Log::Commits,
            said: String::new(),
            open: BTreeMap::new(),
            assigned: BTreeMap::new(),
            forgets: false,
            crew: super::conversation_streams::Crew::default(),
            records: Vec::new(),
            timers: BTreeMap::new(),
            waiting: Vec::new(),
            clients: BTreeMap::new(),
            tokens: 0,
            ids: 0,
        }
    }

    fn say(&mut self, line: impl AsRef<str>) {
        let zeros = "-00000000-0000-4000-8000-";
        let mut line = line.as_ref().to_owned();
        while let Some(at) = line.find(zeros) {
            let digits = at + zeros.len();
            let number = line[digits..digits + 12].trim_start_matches('0').to_owned();
            line.replace_range(at..digits + 12, &format!("#{number}"));
        }
        let _ = writeln!(self.said, "{line}");
    }

    pub fn call(&mut self, who: &str, call: Call) {
        self.tokens += 1;
        let token = self.tokens;
        let asked = call.asked();
        self.open.insert(token, (who.to_owned(), asked.clone()));
        let call = call.with_token(token);
        let effects = self.shard.handle(token, call, &asked, &context!(self));
        self.perform(effects);
    }

    fn perform(&mut self, effects: Effects) {
        for (group, change) in effects.timers {
            match change {
                TimerChange::Set { slot, after_ms, timer } => {
                    self.tokens += 1;
                    let at = (self.now + after_ms, self.tokens, timer);
                    self.timers.insert((group, slot), at);
                }
                TimerChange::SetIfAbsent { slot, after_ms, timer } => {
                    self.tokens += 1;
                    let at = (self.now + after_ms, self.tokens, timer);
                    self.timers.entry((group, slot)).or_insert(at);
                }
                TimerChange::Cancel(slot) => {
                    self.timers.remove(&(group, slot));
                }
            }
        }
        for (token, answer) in effects.answers {
            self.answer(token, answer);
        }
        let write = self.shard.written();
        let of = effects.transaction.map(|it| format!(" (producer {})", it.producer_id));
        for record in &effects.records {
            let line = described(record);
            self.say(format!("    log ← {line}{}", of.as_deref().unwrap_or_default()));
        }
        self.records.extend(effects.records.iter().map(|record| (write, record.clone())));
        let then = effects.then.map(|(group, then)| Waiting::Group(group, then));
        let answer = effects.after_commit.map(|(token, answer)| Waiting::Answer(token, answer));
        self.waiting.extend(then.into_iter().chain(answer).map(|it| (write, it)));
        match self.log {
            Log::Holds => {}
            Log::Refuses(code) if !effects.records.is_empty() => {
                self.records.retain(|(at, _)| *at < write);
                let undone = self.shard.take_back(write, code, &context!(self));
                self.perform(undone);
                self.settle(|at| at >= write, Err(code));
            }
            Log::Commits | Log::Refuses(_) => self.commit(),
        }
        self.check();
    }

    /// All that was written is committed.
    pub fn commit(&mut self) {
        let write = self.shard.written();
        self.shard.commit_up_to(write);
        self.settle(|at| at <= write, Ok(()));
    }

    fn settle(&mut self, which: impl Fn(Write) -> bool, result: Result<(), ErrorCode>) {
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(at, _)| which(*at));
        self.waiting = later;
        for (_, waiting) in now {
            match (waiting, result) {
                (Waiting::Answer(token, answer), Ok(())) => self.answer(token, answer),
                (Waiting::Answer(token, _), Err(code)) => {
                    // Whoever waited in a group that is gone was answered with it.
                    let Some((_, asked)) = self.open.get(&token) else { continue };
                    let answer = asked.refuse(append_error(code));
                    self.answer(token, answer);
                }
                (Waiting::Group(group, then), result) => {
                    let effects = self.shard.stored(&group, then, result, &context!(self));
                    self.perform(effects);
                }
            }
        }
    }

    fn answer(&mut self, token: Token, answer: Answer) {
        // As in the runtime, a second answer to the same request goes nowhere.
        let Some((who, _)) = self.open.remove(&token) else { return };
        if let Answer::Join(join) = &answer
            && !join.member_id.is_empty()
            && matches!(join.error_code, 0 | 79)
        {
            self.clients.insert(who.clone(), (join.member_id.to_string(), join.generation_id));
        }
        if let Answer::ConsumerHeartbeat(alive) = &answer {
            self.heard(&who, alive);
        }
        if let Answer::StreamsHeartbeat(alive) = &answer {
            self.streams_heard(&who, alive);
        }
        self.say(format!("{who} ← {}", shown(&answer)));
    }

    pub fn advance(&mut self, time: Millis) {
        let until = self.now + time;
        loop {
            let next = self.timers.iter().min_by_key(|(_, (at, order, _))| (*at, *order));
            let Some((key, (at, ..))) = next.filter(|(_, (at, ..))| *at <= until) else { break };
            self.now = *at;
            let key = key.clone();
            if let Some((_, _, timer)) = self.timers.remove(&key) {
                let effects = self.shard.expire(&key.0, timer, &context!(self));
                self.perform(effects);
            }
        }
        self.now = until;
    }

    fn check(&self) {
        for group in self.shard.groups() {
            match group {
                Group::Classic(group) => group.check(),
                Group::Consumer(group) => group.check(),
                Group::Streams(group) => group.check(),
                // Tested without a conversation.
                Group::Share(_) => {}
            }
        }
    }

    pub fn member(&self, client: &str) -> (StrBytes, i32) {
        let (id, generation) = self.clients.get(client).cloned().unwrap_or((String::new(), -1));
        (StrBytes::from_string(id), generation)
    }

    pub fn join_call(&mut self, client: &str, words: &Words<'_>) -> Call {
        self.ids += 1;
        let number = Uuid::from_u128(0x4000_8000_0000_0000_0000 + self.ids);
        let protocols = words.get("protocols").unwrap_or("range").split(',').map(|name| {
            let topics: Vec<_> = words.get("topics").unwrap_or("t").split(',').collect();
            JoinGroupRequestProtocol::default()
                .with_name(text(name))
                .with_metadata(subscription(&topics))
        });
        let id = words.get("id").map(text).unwrap_or(self.member(client).0);
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(words.get("group").unwrap_or("g"))))
            .with_member_id(id)
            .with_group_instance_id(words.get("instance").map(text))
            .with_session_timeout_ms(words.seconds("session", 10))
            .with_rebalance_timeout_ms(words.seconds("rebalance", 60))
            .with_protocol_type(text(words.get("type").unwrap_or("consumer")))
            .with_protocols(protocols.collect());
        Call::Join(Box::new(JoinCall {
            token: 0,
            version: words.get("v").map_or(9, |version| version.parse().unwrap()),
            client_id: client.to_owned(),
            client_host: "/127.0.0.1".into(),
            new_id: number,
            request,
        }))
    }

    pub fn sync_call(&mut self, client: &str, words: &Words<'_>) -> Call {
        let (id, generation) = self.member(client);
        let given = words.get("assign").into_iter().flat_map(|all| all.split(','));
        let assignments = given.map(|one| {
            let (client, assignment) = one.split_once(':').unwrap();
            SyncGroupRequestAssignment::default()
                .with_member_id(self.member(client).0)
                .with_assignment(Bytes::copy_from_slice(assignment.as_bytes()))
        });
        let assignments = assignments.collect();
        Call::Sync(
            SyncGroupRequest::default()
                .with_group_id(GroupId(text(words.get("group").unwrap_or("g"))))
                .with_member_id(words.get("id").map_or(id, text))
                .with_group_instance_id(words.get("instance").map(text))
                .with_generation_id(words.number("generation", generation))
                .with_protocol_type(words.get("type").map(text))
                .with_protocol_name(words.get("protocol").map(text))
                .with_assignments(assignments),
        )
    }

    pub fn command(&mut self, line: &str) {
        let words = Words::of(line);
        let group = GroupId(text(words.get("group").unwrap_or("g")));
        let client = words.plain.get(1).copied().unwrap_or_default();
        let (id, generation) = self.member(client);
        let id = words.get("id").map_or(id, text);
        let generation = words.number("generation", generation);
        let instance = words.get("instance").map(text);
        let topics: BTreeMap<&str, Vec<(i32, i64)>> = words.offsets();
        match words.plain[0] {
            "join" => {
                let call = self.join_call(client, &words);
                self.call(client, call);
            }
            "sync" => {
                let call = self.sync_call(client, &words);
                self.call(client, call);
            }
            "heartbeat" => self.call(
                client,
                Call::Heartbeat(
                    HeartbeatRequest::default()
                        .with_group_id(group)
                        .with_member_id(id)
                        .with_group_instance_id(instance)
                        .with_generation_id(generation),
                ),
            ),
            "leave" => {
                let members = words.plain[1..].iter().map(|client| {
                    MemberIdentity::default()
                        .with_member_id(words.get("id").map(text).unwrap_or(self.member(client).0))
                        .with_group_instance_id(instance.clone())
                });
                let request = LeaveGroupRequest::default().with_members(members.collect());
                self.call(client, Call::Leave(request.with_group_id(group)));
            }
            "commit" => {
                let topics = topics.into_iter().map(|(topic, partitions)| {
                    let partitions = partitions.into_iter().map(|(partition, offset)| {
                        OffsetCommitRequestPartition::default()
                            .with_partition_index(partition)
                            .with_committed_offset(offset)
                            .with_committed_metadata(words.get("metadata").map(text))
                    });
                    OffsetCommitRequestTopic::default()
                        .with_name(TopicName(text(topic)))
                        .with_partitions(partitions.collect())
                });
                let retention = words.get("retention").map(seconds);
                let request = OffsetCommitRequest::default()
                    .with_group_id(group)
                    .with_member_id(id)
                    .with_group_instance_id(instance)
                    .with_generation_id_or_member_epoch(generation)
                    .with_retention_time_ms(retention.unwrap_or(-1))
                    .with_topics(topics.collect());
                let version = words.number("v", 9) as i16;
                self.call(client, Call::OffsetCommit { request, version });
            }
            "txn-commit" => {
                let topics = topics.into_iter().map(|(topic, partitions)| {
                    let partitions = partitions.into_iter().map(|(partition, offset)| {
                        TxnOffsetCommitRequestPartition::default()
                            .with_partition_index(partition)
                            .with_committed_offset(offset)
                    });
                    TxnOffsetCommitRequestTopic::default()
                        .with_name(TopicName(text(topic)))
                        .with_partitions(partitions.collect())
                });
                let request = TxnOffsetCommitRequest::default()
                    .with_group_id(group)
                    .with_member_id(id)
                    .with_group_instance_id(instance)
                    .with_generation_id(generation)
                    .with_producer_id(ProducerId(i64::from(words.number("producer", 7))))
                    .with_topics(topics.collect());
                let call = TxnOffsetCommit { request, guard: None };
                self.call(client, Call::TxnOffsetCommit(Box::new(call)));
            }
            "end" => {
                let producer = i64::from(words.number("producer", 7));
                let committed = client == "commit";
                self.say(format!("    log ← producer {producer} {client}s"));
                self.shard.end_transaction(producer, committed);
                if self.log == Log::Commits {
                    self.commit();
                }
            }
            "fetch" => {
                let topics = topics.into_iter().map(|(topic, partitions)| {
                    OffsetFetchRequestTopics::default()
                        .with_name(TopicName(text(topic)))
                        .with_partition_indexes(partitions.into_iter().map(|it| it.0).collect())
                });
                let topics: Vec<_> = topics.collect();
                let topics = (!topics.is_empty()).then_some(topics);
                let group = OffsetFetchRequestGroup::default()
                    .with_group_id(group)
                    .with_topics(topics)
                    .with_member_id(words.get("member").map(text))
                    .with_member_epoch(words.number("epoch", -1));
                let require_stable = words.plain.contains(&"stable");
                self.call("someone", Call::OffsetFetch { group, require_stable });
            }
            "forget" => {
                let topics = topics.into_iter().map(|(topic, partitions)| {
                    let partitions = partitions.into_iter().map(|(partition, _)| {
                        OffsetDeleteRequestPartition::default().with_partition_index(partition)
                    });
                    OffsetDeleteRequestTopic::default()
                        .with_name(TopicName(text(topic)))
                        .with_partitions(partitions.collect())
                });
                let request = OffsetDeleteRequest::default().with_group_id(group);
                let request = request.with_topics(topics.collect());
                self.call("someone", Call::OffsetDelete(request));
            }
            "delete" => self.call("someone", Call::Delete { groups: vec![group] }),
            "list" => {
                let filter = |name| words.get(name).into_iter().map(str::to_owned).collect();
                let (states, types) = (filter("state"), filter("type"));
                self.call("someone", Call::List { states, types });
            }
            "describe" => {
                let version = words.number("v", 6) as i16;
                self.call("someone", Call::Describe { groups: vec![group], version });
            }
            "advance" => self.advance(seconds(client)),
            "expire" => {
                let effects = self.shard.expire_offsets(&context!(self));
                self.perform(effects);
            }
            "drop" => {
                let topic = [(client.to_owned(), Uuid::nil())];
                let effects = self.shard.topics_deleted(&topic);
                self.perform(effects);
            }
            "unload" => {
                let effects = self.shard.unload(&context!(self));
                self.perform(effects);
            }
            "log" => match client {
                "commits" => {
                    self.log = Log::Commits;
                    self.commit();
                }
                "holds" => self.log = Log::Holds,
                "refuses" => self.log = Log::Refuses(ErrorCode::NotEnoughReplicas),
                other => panic!("the log neither commits nor holds nor refuses: {other}"),
            },
            "alive" | "bye" | "topic" | "who" | "interval" | "policy" | "cmax" | "again" => {
                self.consumer_command(&words);
            }
            "app" | "work" | "rest" | "crew" | "patience" | "pause" | "standbys" | "smax" => {
                self.streams_command(&words);
            }
            "reload" => self.check_streams_load(),
            "max" => self.settings.max_size = client.parse().unwrap(),
            "delay" => self.settings.initial_rebalance_delay_ms = seconds(client) as i32,
            other => panic!("unknown command {other}"),
        }
    }
}

/// `3s` or `250ms`.
pub fn seconds(text: &str) -> Millis {
    match text.strip_suffix("ms") {
        Some(ms) => ms.parse().unwrap(),
        None => text.strip_suffix('s').unwrap().parse::<Millis>().unwrap() * 1_000,
    }
}

/// A command: plain words, and `name=value`.
pub struct Words<'a> {
    pub plain: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    pub fn of(line: &'a str) -> Self {
        let (named, plain): (Vec<_>, Vec<_>) =
            line.split_whitespace().partition(|word| word.contains('='));
        let named = named.into_iter().filter_map(|word| word.split_once('=')).collect();
        Self { plain, named }
    }

    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.named.get(name).copied()
    }

    pub fn number(&self, name: &str, default: i32) -> i32 {
        self.get(name).map_or(default, |number| number.parse().unwrap())
    }

    pub fn seconds(&self, name: &str, default: i32) -> i32 {
        self.get(name).map_or(default * 1_000, |text| seconds(text) as i32)
    }

    /// `topic-0=5`, or `topic-0` alone.
    pub fn offsets(&self) -> BTreeMap<&'a str, Vec<(i32, i64)>> {
        let mut topics: BTreeMap<&str, Vec<(i32, i64)>> = BTreeMap::new();
        let plain = self.plain.iter().skip(1).map(|place| (*place, "-1"));
        for (place, offset) in self.named.iter().map(|(place, at)| (*place, *at)).chain(plain) {
            if let Some((topic, partition)) = place.rsplit_once('-')
                && let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse())
            {
                topics.entry(topic).or_default().push((partition, offset));
            }
        }
        topics
    }
}

pub fn code(code: i16) -> String {
    match ErrorCode::try_from_code(code) {
        None => "ok".into(),
        Some(error) => format!("{error:?}"),
    }
}

fn shown(answer: &Answer) -> String {
    match answer {
        Answer::Join(join) if join.error_code != 0 => match join.member_id.as_str() {
            "" => format!("join: {}", code(join.error_code)),
            id => format!("join: {} ({id})", code(join.error_code)),
        },
        Answer::Join(join) => {
            let members = join.members.iter().map(|member| member.member_id.as_str());
            let members: Vec<_> = members.collect();
            let mut line = format!(
                "join: {}, generation {}, {}, leader {}",
                join.member_id.as_str(),
                join.generation_id,
                join.protocol_name.as_ref().map_or("-", |name| name.as_str()),
                join.leader.as_str(),
            );
            if !members.is_empty() {
                let _ = write!(line, ", members {}", members.join(" "));
            }
            if join.skip_assignment {
                line += ", skip the assignment";
            }
            line
        }
        Answer::Sync(sync) if sync.error_code != 0 => format!("sync: {}", code(sync.error_code)),
        Answer::Sync(sync) => {
            format!("sync: '{}'", sync.assignment.escape_ascii())
        }
        Answer::Heartbeat(heartbeat) => format!("heartbeat: {}", code(heartbeat.error_code)),
        Answer::ConsumerHeartbeat(alive) => super::conversation_consumer::alive(alive),
        Answer::ConsumerDescribe(groups) => super::conversation_consumer::groups(groups),
        Answer::ShareHeartbeat(answer) => format!("{answer:?}"),
        Answer::ShareStates(answer) => format!("{answer:?}"),
        Answer::ShareDescribe(groups) => format!("{groups:?}"),
        Answer::StreamsHeartbeat(answer) => super::conversation_streams::alive(answer),
        Answer::StreamsDescribe(groups) => super::conversation_streams::groups(groups),
        Answer::Leave(leave) => {
            let each = leave.members.iter().map(|member| {
                let instance = member.group_instance_id.as_ref().map(|id| format!(" ({id})"));
                let id = member.member_id.as_str();
                format!("{id}{} {}", instance.unwrap_or_default(), code(member.error_code))
            });
            let each: Vec<_> = each.collect();
            match leave.error_code {
                0 => format!("leave: {}", each.join(", ")),
                error => format!("leave: {}", code(error)),
            }
        }
        Answer::OffsetCommit(commit) => {
            let each = commit.topics.iter().flat_map(|topic| {
                topic.partitions.iter().map(|partition| {
                    let (name, index) = (topic.name.as_str(), partition.partition_index);
                    format!("{name}-{index} {}", code(partition.error_code))
                })
            });
            format!("commit: {}", each.collect::<Vec<_>>().join(", "))
        }
        Answer::TxnOffsetCommit(commit) => {
            let each = commit.topics.iter().flat_map(|topic| {
                topic.partitions.iter().map(|partition| {
                    let (name, index) = (topic.name.as_str(), partition.partition_index);
                    format!("{name}-{index} {}", code(partition.error_code))
                })
            });
            format!("commit in a transaction: {}", each.collect::<Vec<_>>().join(", "))
        }
        Answer::OffsetFetch(fetch) => {
            let each = fetch.topics.iter().flat_map(|topic| {
                topic.partitions.iter().map(|partition| {
                    let (name, index) = (topic.name.as_str(), partition.partition_index);
                    let metadata = partition.metadata.as_deref().unwrap_or_default();
                    let metadata = if metadata.is_empty() { "" } else { &format!(" {metadata}") };
                    if partition.error_code != 0 {
                        return format!("{name}-{index} {}", code(partition.error_code));
                    }
                    format!("{name}-{index}={}{metadata}", partition.committed_offset)
                })
            });
            let each: Vec<_> = each.collect();
            match fetch.error_code {
                0 => format!("fetch: {}", each.join(", ")),
                error => format!("fetch: {}", code(error)),
            }
        }
        Answer::OffsetDelete(delete) => {
            let each = delete.topics.iter().flat_map(|topic| {
                topic.partitions.iter().map(|partition| {
                    let (name, index) = (topic.name.as_str(), partition.partition_index);
                    format!("{name}-{index} {}", code(partition.error_code))
                })
            });
            let each: Vec<_> = each.collect();
            match delete.error_code {
                0 => format!("forget: {}", each.join(", ")),
                error => format!("forget: {}", code(error)),
            }
        }
        Answer::List(Err(error)) => format!("list: {error:?}"),
        Answer::List(Ok(groups)) => {
            let each = groups.iter().map(|group| {
                let (id, state) = (group.group_id.as_str(), group.group_state.as_str());
                format!("{id} '{}' {state} {}", group.protocol_type, group.group_type)
            });
            format!("list: {}", each.collect::<Vec<_>>().join(", "))
        }
        Answer::Describe(groups) => {
            let each = groups.iter().map(|group| {
                let members = group.members.iter().map(|member| {
                    let assignment = member.member_assignment.escape_ascii();
                    let told = member.member_metadata.len();
                    format!(" {} '{assignment}' ({told} bytes)", member.member_id.as_str())
                });
                format!(
                    "{} {} {} '{}' '{}'{}",
                    group.group_id.as_str(),
                    code(group.error_code),
                    group.group_state.as_str(),
                    group.protocol_type.as_str(),
                    group.protocol_data.as_str(),
                    members.collect::<String>()
                )
            });
            format!("describe: {}", each.collect::<Vec<_>>().join(", "))
        }
        Answer::Delete(results) => {
            let each =
                results.iter().map(|it| format!("{} {}", &*it.group_id, code(it.error_code)));
            format!("delete: {}", each.collect::<Vec<_>>().join(", "))
        }
    }
}

fn described(record: &Record) -> String {
    match record {
        Record::Offset(key, None) => format!("no {}: {}-{}", key.group, key.topic, key.partition),
        Record::Offset(key, Some(value)) => {
            let expiry = match value.expire_timestamp {
                -1 => String::new(),
                at => format!(", expires at {at}"),
            };
            format!("{}: {}-{}={}{expiry}", key.group, key.topic, key.partition, value.offset)
        }
        Record::Group(key, None) => format!("no {}", key.group),
        Record::Group(key, Some(value)) => {
            let members = value.members.iter().map(|member| {
                format!(" {} '{}'", member.member_id, member.assignment.escape_ascii())
            });
            format!(
                "{}: '{}' generation {} {} leader {}{}",
                key.group,
                value.protocol_type,
                value.generation,
                value.protocol.as_deref().unwrap_or("-"),
                value.leader.as_deref().unwrap_or("-"),
                members.collect::<String>()
            )
        }
        Record::Consumer(record) => super::conversation_consumer::record(record),
        Record::Share(record) => format!("{record:?}"),
        Record::Streams(record) => super::conversation_streams::record(record),
        Record::Other(kind) => format!("type {kind}"),
    }
}

/// Runs the commands of a script and returns it with what came of them.
fn run(script: &str) -> String {
    let mut conversation = Conversation::new();
    let mut result = String::new();
    for block in script.split("\n\n") {
        let (commands, _) = block.split_once("\n---").unwrap_or((block, ""));
        let commands = commands.trim();
        for line in commands.lines().filter(|line| !line.starts_with('#')) {
            conversation.command(line);
        }
        let said = std::mem::take(&mut conversation.said);
        let only_comments = commands.lines().all(|line| line.starts_with('#'));
        let _ = if only_comments {
            writeln!(result, "{commands}\n")
        } else {
            writeln!(result, "{commands}\n---\n{said}")
        };
    }
    result.trim_end().to_owned() + "\n"
}

#[test]
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
fn all_conversations_go_as_they_are_written() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/scripts/groups");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let script = std::fs::read_to_string(&path).unwrap();
        let result = run(&script);
        if std::env::var_os("UPDATE_SCRIPTS").is_some() {
            std::fs::write(&path, &result).unwrap();
        } else {
            assert!(result == script, "{} goes otherwise:\n{result}", path.display());
        }
    }
}
