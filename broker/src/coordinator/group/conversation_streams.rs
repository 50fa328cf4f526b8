//! Conversations with streams groups, as text (see [`conversation`](super::conversation)).
//!
//! `app EPOCH SUBTOPOLOGY …` is the application that members bring; a subtopology is
//! `ID:PART,PART…`, where a part is a source topic, `>sink` and `<source` of a repartition topic
//! (`<source/3`: with 3 partitions), `+changelog`, or `*`: all that it reads is copartitioned.
//! `work A …` is a heartbeat of A: with `epoch=0` it joins, else what it was told last counts;
//! `owns=0-1,1-0s` says what it has (`s`: as a standby), `owns=all` what it was told, no `owns` says
//! nothing. `rest A` leaves, `crew` describes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::call::Call;
use super::conversation::{Conversation, Words, code, seconds};
use super::kind::Group;
use super::records::{CurrentTasks, Record, StreamsRecord};
use super::shard::Shard;
use super::streams::{Heartbeat, INVALID_TOPOLOGY, Memory, StreamsGroup, TaskSet, Tasks, ToCreate};
use crate::error::{ErrorCode, Refusal};
use crate::wire::streams::{
    Assignment, CopartitionGroup, DescribedGroup, Endpoint, KeyValue, OrNull,
    StreamsGroupHeartbeatRequest, StreamsGroupHeartbeatResponse, Subtopology, TaskIds, TopicInfo,
    Topology,
};

/// What the members of streams groups know.
#[derive(Default)]
pub struct Crew {
    pub app: Option<Topology>,
    /// What each was told to have.
    pub told: BTreeMap<String, TaskSet>,
    /// Internal topics are made as the coordinator says that they are missing.
    pub makes_topics: bool,
}

/// An application as in the command `app`.
pub fn app<'a>(epoch: i32, subtopologies: impl Iterator<Item = &'a str>) -> Topology {
    Topology { epoch, subtopologies: subtopologies.map(subtopology).collect() }
}

fn subtopology(text: &str) -> Subtopology {
    let (id, parts) = text.split_once(':').unwrap();
    let mut it = Subtopology { id: id.to_owned(), ..Subtopology::default() };
    for part in parts.split(',') {
        let (kind, name) = part.split_at(1);
        let (name, partitions) = name.split_once('/').unwrap_or((name, "0"));
        let topic = TopicInfo {
            name: name.to_owned(),
            partitions: partitions.parse().unwrap(),
            ..TopicInfo::default()
        };
        match kind {
            ">" => it.repartition_sinks.push(name.to_owned()),
            "<" => it.repartition_sources.push(topic),
            "+" => it.changelogs.push(topic),
            "*" => {
                let all = |len: usize| (0..len as i16).collect();
                it.copartition_groups.push(CopartitionGroup {
                    source_topics: all(it.source_topics.len()),
                    source_topic_regex: Vec::new(),
                    repartition_sources: all(it.repartition_sources.len()),
                });
            }
            _ => it.source_topics.push(part.to_owned()),
        }
    }
    it
}

fn tasks(tasks: &Tasks, mark: &str) -> Vec<String> {
    let each = tasks.iter().flat_map(|(id, its)| its.iter().map(move |it| (id, it)));
    each.map(|(id, it)| format!("{id}-{it}{mark}")).collect()
}

fn set(set: &TaskSet) -> String {
    [tasks(&set.active, ""), tasks(&set.standby, "s"), tasks(&set.warmup, "w")].concat().join(" ")
}

fn from_ids(ids: &[TaskIds]) -> Tasks {
    ids.iter().map(|it| (it.subtopology.clone(), it.partitions.iter().copied().collect())).collect()
}

fn to_ids(tasks: &Tasks) -> Vec<TaskIds> {
    let each = tasks.iter().map(|(id, its)| TaskIds {
        subtopology: id.clone(),
        partitions: its.iter().copied().collect(),
    });
    each.collect()
}

fn parse_tasks(text: &str) -> TaskSet {
    let mut owned = TaskSet::default();
    for place in text.split(',').filter(|it| *it != "nothing") {
        let (place, role) = match place.strip_suffix('s') {
            Some(place) => (place, &mut owned.standby),
            None => (place, &mut owned.active),
        };
        let (id, partition) = place.rsplit_once('-').unwrap();
        role.entry(id.to_owned()).or_default().insert(partition.parse().unwrap());
    }
    owned
}

impl Conversation {
    pub fn streams_command(&mut self, words: &Words<'_>) {
        let client = words.plain.get(1).copied().unwrap_or_default();
        match words.plain[0] {
            "app" => {
                self.crew.app =
                    Some(app(client.parse().unwrap(), words.plain[2..].iter().copied()));
            }
            "patience" => {
                self.settings.streams.initial_rebalance_delay.default = seconds(client) as i32;
            }
            "pause" => self.settings.streams.assignment_interval.default = seconds(client) as i32,
            "standbys" => {
                self.settings.streams.standby_replicas.default = client.parse().unwrap();
            }
            "smax" => self.settings.streams.max_size = client.parse().unwrap(),
            "crew" => {
                let groups = vec![words.get("group").unwrap_or("g").to_owned()];
                self.call("someone", Call::StreamsDescribe { groups });
            }
            _ => {
                let call = self.streams_call(client, words);
                self.call(client, call);
            }
        }
    }

    pub fn streams_call(&mut self, client: &str, words: &Words<'_>) -> Call {
        let known = self.clients.get(client).map_or(0, |(_, epoch)| *epoch);
        let epoch = match words.plain[0] {
            "rest" => words.number("epoch", -1),
            _ => words.number("epoch", known),
        };
        let owned = match words.get("owns") {
            _ if epoch == 0 => Some(TaskSet::default()),
            None => None,
            Some("all") => Some(self.crew.told.get(client).cloned().unwrap_or_default()),
            Some(all) => Some(parse_tasks(all)),
        };
        let said = |role: fn(&TaskSet) -> &Tasks| owned.as_ref().map(|it| to_ids(role(it)));
        let endpoint = words.get("endpoint").map(|it| {
            let (host, port) = it.split_once(':').unwrap();
            Endpoint { host: host.to_owned(), port: port.parse().unwrap() }
        });
        let process = words.get("process").or((epoch == 0).then_some(client));
        let timeout = match words.get("rebalance") {
            None if epoch != 0 => -1,
            _ => words.seconds("rebalance", 60),
        };
        let tags = words.get("tag").map(|it| vec![KeyValue { key: it.into(), value: it.into() }]);
        let request = StreamsGroupHeartbeatRequest {
            group: words.get("group").unwrap_or("g").to_owned(),
            member: client.to_owned(),
            member_epoch: epoch,
            endpoint_epoch: words.number("knows", 0),
            rack_id: words.get("rack").map(str::to_owned),
            rebalance_timeout_ms: timeout,
            topology: OrNull(self.crew.app.clone().filter(|_| epoch == 0)),
            active: said(|it| &it.active),
            standby: said(|it| &it.standby),
            warmup: said(|it| &it.warmup),
            process_id: process.map(str::to_owned),
            user_endpoint: OrNull(endpoint),
            client_tags: tags,
            shutdown_application: words.plain.contains(&"shutdown"),
            ..StreamsGroupHeartbeatRequest::default()
        };
        Call::StreamsHeartbeat(Box::new(Heartbeat {
            client_id: client.to_owned(),
            client_host: "/127.0.0.1".into(),
            request,
        }))
    }

    /// A broker that loads what is in the log has the same streams groups, but for what they
    /// remember.
    pub fn check_streams_load(&self) {
        let mut loaded = Shard::default();
        for (_, record) in &self.records {
            // As it comes out of the log.
            let (key, value) = record.encode().unwrap();
            loaded.load(Record::decode(&key, value.as_deref()).unwrap());
        }
        let groups = |shard: &Shard| {
            let groups = shard.groups().filter_map(|group| match group {
                Group::Streams(group) => Some((**group).clone()),
                _ => None,
            });
            let forget = |mut it: StreamsGroup| {
                it.memory = Memory::default();
                it
            };
            groups.map(forget).collect::<Vec<_>>()
        };
        assert_eq!(groups(&loaded), groups(&self.shard));
    }

    /// A member remembers what it was told.
    pub fn streams_heard(
        &mut self,
        who: &str,
        answer: &Result<(StreamsGroupHeartbeatResponse, ToCreate), Refusal>,
    ) {
        let (alive, missing) = match answer {
            Ok(answer) => answer,
            Err(refusal) => {
                let fenced = [ErrorCode::FencedMemberEpoch, ErrorCode::UnknownMemberId];
                if self.forgets && fenced.contains(&refusal.code) {
                    self.clients.remove(who);
                    self.crew.told.remove(who);
                }
                return;
            }
        };
        if alive.member_epoch < 0 {
            self.clients.remove(who);
            self.crew.told.remove(who);
        } else {
            self.clients.insert(who.to_owned(), (alive.member.clone(), alive.member_epoch));
        }
        if let (Some(active), Some(standby), Some(warmup)) =
            (&alive.active, &alive.standby, &alive.warmup)
        {
            let told = TaskSet {
                active: from_ids(active),
                standby: from_ids(standby),
                warmup: from_ids(warmup),
            };
            self.crew.told.insert(who.to_owned(), told);
        }
        if self.crew.makes_topics {
            for (name, topic) in missing {
                self.create(name, topic.partitions, None);
            }
        }
    }
}

pub fn alive(answer: &Result<(StreamsGroupHeartbeatResponse, ToCreate), Refusal>) -> String {
    let (alive, missing) = match answer {
        Ok(answer) => answer,
        Err(refusal) => {
            let code = match refusal.code {
                INVALID_TOPOLOGY => "StreamsInvalidTopology".to_owned(),
                other => code(other.code()),
            };
            return format!("work: {code} ({})", refusal.message);
        }
    };
    let mut line = format!("work: {}, epoch {}", alive.member, alive.member_epoch);
    if let Some(active) = &alive.active {
        let told = TaskSet {
            active: from_ids(active),
            standby: from_ids(alive.standby.as_deref().unwrap_or_default()),
            warmup: from_ids(alive.warmup.as_deref().unwrap_or_default()),
        };
        let _ = write!(line, ", has [{}]", set(&told));
    }
    for status in alive.status.iter().flatten() {
        let _ = write!(line, ", status {} ({})", status.code, status.detail);
    }
    let missing: Vec<_> =
        missing.iter().map(|(name, topic)| format!("{name}/{}", topic.partitions)).collect();
    if !missing.is_empty() {
        let _ = write!(line, ", makes [{}]", missing.join(" "));
    }
    for it in alive.partitions_by_endpoint.iter().flatten() {
        let active: Vec<_> = it
            .active
            .iter()
            .map(|topic| format!("{}{:?}", topic.topic, topic.partitions))
            .collect();
        let (host, port) = (&it.endpoint.host, it.endpoint.port);
        let active = if active.is_empty() { "nothing".to_owned() } else { active.join(" ") };
        let _ = write!(line, ", {host}:{port} has {active}");
    }
    if alive.endpoint_epoch != 0 {
        let _ = write!(line, ", endpoints of {}", alive.endpoint_epoch);
    }
    line
}

fn assignment(of: &Assignment) -> String {
    set(&TaskSet {
        active: from_ids(&of.active),
        standby: from_ids(&of.standby),
        warmup: from_ids(&of.warmup),
    })
}

pub fn groups(groups: &[DescribedGroup]) -> String {
    let each = groups.iter().map(|group| {
        let (epoch, target) = (group.epoch, group.assignment_epoch);
        let mut line = format!(
            "{} {} {} epoch {epoch} assignment {target}",
            group.group,
            code(group.error_code),
            group.state,
        );
        if let Some(topology) = &group.topology.0 {
            let _ = write!(line, " topology {}", topology.epoch);
            for it in topology.subtopologies.iter().flatten() {
                let internal = it.changelogs.iter().chain(&it.repartition_sources);
                let internal: Vec<_> =
                    internal.map(|topic| format!("{}/{}", topic.name, topic.partitions)).collect();
                let _ = write!(line, " {}{:?}{internal:?}", it.id, it.source_topics);
            }
        }
        for member in &group.members {
            let (id, epoch) = (&member.id, member.epoch);
            let (has, of) = (assignment(&member.assignment), assignment(&member.target_assignment));
            let _ = write!(line, "; {id} epoch {epoch} has [{has}] of [{of}]");
        }
        line
    });
    format!("crew: {}", each.collect::<Vec<_>>().join(", "))
}

fn current(active: &[CurrentTasks], standby: &[CurrentTasks], warmup: &[CurrentTasks]) -> String {
    let mut all = Vec::new();
    for (tasks, mark) in [(active, ""), (standby, "s"), (warmup, "w")] {
        for it in tasks {
            let epochs = it.assignment_epochs.iter().flatten().map(Some);
            let epochs = epochs.chain(std::iter::repeat(None));
            for (partition, epoch) in it.partitions.iter().zip(epochs) {
                let since = epoch.map(|epoch| format!("@{epoch}")).unwrap_or_default();
                all.push(format!("{}-{partition}{mark}{since}", it.subtopology));
            }
        }
    }
    all.join(" ")
}

pub fn record(record: &StreamsRecord) -> String {
    let group = record.group();
    match record {
        StreamsRecord::Epoch(_, None) => format!("no group {group}"),
        StreamsRecord::Epoch(_, Some(it)) => {
            let hash = if it.metadata_hash == 0 { "no topics" } else { "topics" };
            let configs = it.last_assignment_configs.iter().flatten();
            let configs: Vec<_> = configs.map(|it| format!("{}={}", it.key, it.value)).collect();
            format!(
                "{group}: epoch {} with {hash}, topology {} is valid, {}",
                it.epoch,
                it.validated_topology_epoch,
                configs.join(" ")
            )
        }
        StreamsRecord::Member(key, None) => format!("{group}: no member {}", key.member),
        StreamsRecord::Member(key, Some(it)) => {
            format!("{group}: member {} of process {}", key.member, it.process_id)
        }
        StreamsRecord::Target(_, None) => format!("{group}: no target"),
        StreamsRecord::Target(_, Some(it)) => {
            format!("{group}: target of epoch {}", it.assignment_epoch)
        }
        StreamsRecord::TargetMember(key, None) => format!("{group}: no target of {}", key.member),
        StreamsRecord::TargetMember(key, Some(it)) => {
            let of = TaskSet {
                active: from_ids(&it.active),
                standby: from_ids(&it.standby),
                warmup: from_ids(&it.warmup),
            };
            format!("{group}: target of {} [{}]", key.member, set(&of))
        }
        StreamsRecord::Current(key, None) => format!("{group}: {} has nothing", key.member),
        StreamsRecord::Current(key, Some(it)) => {
            let state = ["", "stable", "unrevoked", "unreleased"][it.state as usize];
            let revoking = current(&it.revoking_active, &it.revoking_standby, &it.revoking_warmup);
            let revoking = match revoking.as_str() {
                "" => String::new(),
                some => format!(", gives up [{some}]"),
            };
            format!(
                "{group}: {} {state} in {} after {} has [{}]{revoking}",
                key.member,
                it.member_epoch,
                it.previous_member_epoch,
                current(&it.active, &it.standby, &it.warmup)
            )
        }
        StreamsRecord::Topology(_, None) => format!("{group}: no topology"),
        StreamsRecord::Topology(_, Some(it)) => {
            let ids: Vec<_> = it.subtopologies.iter().map(|it| it.id.as_str()).collect();
            format!("{group}: topology {} of [{}]", it.epoch, ids.join(" "))
        }
    }
}
