//! Several replicas and the messages between them, without bytes, threads or a clock.
//!
//! A log is a list of entries; what a leader sends is their encoding. Effects are carried out at
//! once, in order, as the driver does it; a crash may come between any two events.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use uuid::Uuid;

use crate::raft::messages::{
    Answer, At, Effect, Election, Event, FetchAnswer, FetchId, FetchRequest, Fetched, Known,
    LogEnd, LogView, ReplicaKey, Request, VoteRequest,
};
use crate::raft::node::{Identity, Raft, Timeouts};
use crate::raft::roles::Role;
use crate::raft::voters::{BEFORE_THE_LOG, History, Voter, VoterSet};
use crate::types::{LeaderEpoch, NodeId, Offset};
use crate::wire::metadata::control::Control;

pub const LEADER_CHANGE: u8 = 0;
const KRAFT_VERSION: u8 = 99;
/// Plus the ids of the voters as bits.
const VOTERS: u8 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    pub epoch: LeaderEpoch,
    pub what: u8,
}

/// All entries, of which those before `start` are known by a snapshot only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Log {
    pub entries: Vec<Entry>,
    pub start: usize,
}

impl LogView for Log {
    fn end(&self) -> LogEnd {
        let epoch = self.entries.last().map_or(0, |entry| entry.epoch);
        LogEnd { epoch, offset: self.entries.len() as Offset }
    }

    fn end_of_epoch(&self, epoch: LeaderEpoch) -> LogEnd {
        let end = self.entries.partition_point(|entry| entry.epoch <= epoch);
        if end <= self.start && self.start > 0 {
            // As a log does that has lost its beginning.
            return LogEnd { epoch, offset: self.start as Offset };
        }
        let epoch = end.checked_sub(1).map_or(0, |last| self.entries[last].epoch);
        LogEnd { epoch, offset: end as Offset }
    }

    fn start_offset(&self) -> Offset {
        self.start as Offset
    }

    fn snapshot(&self) -> Option<LogEnd> {
        let epoch = self.entries[self.start.checked_sub(1)?].epoch;
        Some(LogEnd { epoch, offset: self.start as Offset })
    }

    fn oldest_epoch(&self) -> LeaderEpoch {
        self.snapshot().map_or(0, |it| it.epoch)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    pub raft: Raft,
    pub log: Log,
    pub disk: Election,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payload {
    Request(Request),
    Fetch(FetchId, FetchRequest),
    Voted(VoteRequest, Known, bool),
    Told(Known),
    Fetched(FetchId, FetchAnswer),
    Load(FetchId, LogEnd),
    /// What the snapshot stands for; nothing when there is no such snapshot.
    Loaded(FetchId, Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Message {
    pub from: NodeId,
    pub to: NodeId,
    pub payload: Payload,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub nodes: BTreeMap<NodeId, Node>,
    pub messages: BTreeSet<Message>,
    /// Whom anybody has seen lead an epoch.
    pub leaders: BTreeMap<LeaderEpoch, NodeId>,
    /// What anybody has believed to be committed.
    pub committed: Vec<Entry>,
    pub violation: Option<&'static str>,
    /// How often a log was started at a snapshot of another node.
    pub loads: usize,
    /// Whose fetches go nowhere in particular ask this node.
    pub ids: Vec<NodeId>,
}

pub fn directory(id: NodeId) -> Uuid {
    Uuid::from_u128(1000 + id as u128)
}

pub fn voter(id: NodeId) -> Voter {
    Voter { key: ReplicaKey::new(id, directory(id)), endpoints: Vec::new(), versions: (0, 1) }
}

fn set(bits: u8) -> VoterSet {
    VoterSet::of((0..5).filter(|id| bits & (1 << id) != 0).map(voter))
}

fn bits(voters: &VoterSet) -> u8 {
    voters.iter().map(|voter| 1 << voter.key.id).sum()
}

impl World {
    /// `voters` vote from the start; `ids` are all nodes.
    pub fn new(ids: &[NodeId], voters: &[NodeId]) -> Self {
        let mut world = Self {
            nodes: BTreeMap::new(),
            messages: BTreeSet::new(),
            leaders: BTreeMap::new(),
            committed: Vec::new(),
            violation: None,
            loads: 0,
            ids: ids.to_vec(),
        };
        let founding = voters.iter().map(|id| 1 << id).sum();
        for id in ids {
            let node = start(*id, Log::default(), Election::default(), founding);
            world.nodes.insert(*id, node);
        }
        world
    }

    pub fn step(&mut self, id: NodeId, event: Event, at: At) -> Option<Answer> {
        let node = self.nodes.get_mut(&id)?;
        let effects = node.raft.step(event, &node.log, at);
        self.carry_out(id, effects, at)
    }

    pub fn carry_out(&mut self, id: NodeId, effects: Vec<Effect>, at: At) -> Option<Answer> {
        let mut answer = None;
        let mut effects = std::collections::VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            let node = self.nodes.get_mut(&id)?;
            let mut written = true;
            match effect {
                Effect::Append(controls) => {
                    let epoch = node.raft.epoch();
                    node.log
                        .entries
                        .extend(controls.iter().map(|it| Entry { epoch, what: code(it) }));
                }
                Effect::Replicate(bytes) => {
                    for chunk in bytes.chunks(5) {
                        let epoch = i32::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
                        let offset = node.log.entries.len() as Offset;
                        node.log.entries.push(Entry { epoch, what: chunk[4] });
                        note(&mut node.raft, offset, chunk[4]);
                    }
                }
                Effect::Truncate(offset) => {
                    if (offset as usize) < node.log.start {
                        self.violation = Some("what a snapshot stands for is cut");
                    }
                    node.log.entries.truncate(offset as usize);
                    if (offset as usize) < self.committed.len()
                        && node.raft.high_watermark() > offset
                    {
                        self.violation = Some("what was committed is cut");
                    }
                }
                other => {
                    written = false;
                    answer = self.effect(id, other).or(answer);
                }
            }
            let node = self.nodes.get_mut(&id)?;
            if written {
                effects.extend(node.raft.step(Event::Synced, &node.log, at));
            }
        }
        self.check();
        answer
    }

    fn effect(&mut self, id: NodeId, effect: Effect) -> Option<Answer> {
        let mut send = |to: NodeId, payload: Payload| {
            self.messages.insert(Message { from: id, to, payload });
        };
        match effect {
            Effect::Persist(election) => self.nodes.get_mut(&id)?.disk = election,
            Effect::Send(to, request) => send(to.id, Payload::Request(request)),
            Effect::Fetch(fetch) => {
                let key = self.nodes[&id].raft.key();
                let request = FetchRequest { epoch: fetch.epoch, replica: key, end: fetch.end };
                let anybody = self.ids.iter().copied().filter(|other| *other != id);
                let to: Vec<_> = fetch.to.map_or_else(|| anybody.collect(), |to| vec![to]);
                for to in to {
                    send(to, Payload::Fetch(fetch, request));
                }
            }
            Effect::LoadSnapshot(fetch, end) => {
                send(fetch.to?, Payload::Load(fetch, end));
            }
            Effect::Answer(answer) => return Some(answer),
            Effect::Commit(_) => {}
            Effect::LeaderLostMetadata(_) => self.violation = Some("the leader lacks metadata"),
            Effect::Append(_) | Effect::Replicate(_) | Effect::Truncate(_) => {
                unreachable!("carried out before")
            }
        }
        None
    }

    /// Hands over a message; false when a fetch goes on waiting.
    pub fn deliver(&mut self, message: &Message, at: At) -> bool {
        let Message { from, to, payload } = message.clone();
        let key = self.nodes.get(&from).map_or(voter(from).key, |node| node.raft.key());
        let event = match payload.clone() {
            Payload::Request(Request::Vote(it)) => Event::Vote(it),
            Payload::Request(Request::Begin(it)) => Event::Begin(it),
            Payload::Request(Request::End(it)) => Event::End(it),
            Payload::Fetch(_, request) => Event::Fetch(request),
            Payload::Voted(request, known, granted) => {
                Event::Voted { from: key, request, known, granted }
            }
            Payload::Told(known) => Event::Told { from: key, known },
            Payload::Fetched(id, answer) => Event::Fetched(id, answer),
            Payload::Load(_, end) => {
                let epoch = self.nodes.get(&from).map_or(0, |node| node.raft.epoch());
                assert!(end.offset > 0, "nothing is no snapshot");
                Event::SnapshotAsked(key, epoch)
            }
            Payload::Loaded(id, entries) => self.load(to, id, entries),
        };
        let answer = self.step(to, event, at);
        let payload = match (payload, answer) {
            (Payload::Request(Request::Vote(it)), Some(Answer::Vote { known, granted })) => {
                Some(Payload::Voted(it, known, granted))
            }
            (Payload::Request(_), Some(Answer::Known(known))) => Some(Payload::Told(known)),
            (Payload::Fetch(id, request), Some(Answer::Fetch(fetched))) => {
                match self.fetched(to, from, &request, fetched) {
                    Some(answer) => Some(Payload::Fetched(id, answer)),
                    None => return false,
                }
            }
            (Payload::Load(id, end), _) => {
                let log = &self.nodes[&to].log;
                let held = &log.entries[..log.start.min(end.offset as usize)];
                let whole = log.snapshot() == Some(end);
                Some(Payload::Loaded(id, if whole { held.to_vec() } else { Vec::new() }))
            }
            _ => None,
        };
        self.messages.remove(message);
        if let Some(payload) = payload {
            self.messages.insert(Message { from: to, to: from, payload });
        }
        true
    }

    /// Starts a log at a snapshot that has arrived, if that is still wanted.
    fn load(&mut self, id: NodeId, fetch: FetchId, entries: Vec<Entry>) -> Event {
        let Some(node) = self.nodes.get_mut(&id) else { return Event::FetchFailed(fetch) };
        if entries.is_empty() || !node.raft.is_fetching(fetch) {
            return Event::FetchFailed(fetch);
        }
        let mut history = node.raft.voters().before_the_log();
        for (offset, entry) in (0..).zip(&entries) {
            replay(&mut history, offset, entry.what);
        }
        let start = entries.len();
        // A snapshot of what the log holds takes nothing away from it.
        if !node.log.entries.starts_with(&entries) {
            node.log.entries = entries;
        }
        node.log.start = start;
        node.raft.note_snapshot(start as Offset, history);
        self.loads += 1;
        Event::Loaded(fetch)
    }

    /// A node writes a snapshot of all that it knows to be committed, and trims its log.
    pub fn snapshot(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.log.start = node.log.start.max(node.raft.high_watermark() as usize);
    }

    /// What a fetch brings; nothing while there is nothing new.
    fn fetched(
        &self,
        leader: NodeId,
        follower: NodeId,
        request: &FetchRequest,
        fetched: Fetched,
    ) -> Option<FetchAnswer> {
        let node = &self.nodes[&leader];
        let known = Known { error: None, leader: node.raft.leader(), epoch: node.raft.epoch() };
        let mut answer = FetchAnswer {
            known,
            high_watermark: node.raft.high_watermark_to_tell(),
            diverging: None,
            snapshot: None,
            records: Bytes::new(),
        };
        match fetched {
            Fetched::Refused(known) => answer.known = known,
            Fetched::Diverging(end) => answer.diverging = Some(end),
            Fetched::Snapshot(end) => answer.snapshot = Some(end),
            Fetched::Read => {
                let from = request.end.offset as usize;
                assert!(from >= node.log.start, "what is read is in the log");
                let mut bytes = Vec::new();
                for entry in node.log.entries.iter().skip(from) {
                    bytes.extend(entry.epoch.to_be_bytes());
                    bytes.push(entry.what);
                }
                answer.records = bytes.into();
                let knows = self.nodes.get(&follower).map_or(0, |it| it.raft.high_watermark());
                let told = node.raft.high_watermark_to_tell();
                let epoch = self.nodes.get(&follower).map(|it| it.raft.epoch());
                assert!(
                    told.is_none_or(|it| it >= knows) || epoch != Some(answer.known.epoch),
                    "{leader} tells {follower} less than it knows"
                );
                let fresh = told.is_some_and(|it| it.min(request.end.offset) > knows);
                if answer.records.is_empty() && !fresh && self.follows(follower, leader) {
                    return None;
                }
            }
        }
        Some(answer)
    }

    fn follows(&self, follower: NodeId, leader: NodeId) -> bool {
        let node = self.nodes.get(&follower);
        node.is_some_and(
            |it| matches!(it.raft.role(), Role::Follower(f) if f.leader == leader && f.fetched),
        )
    }

    /// A leader's state machine writes something.
    pub fn append(&mut self, id: NodeId, what: u8, at: At) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let epoch = node.raft.epoch();
        node.log.entries.push(Entry { epoch, what });
        self.step(id, Event::Synced, at);
    }

    /// The process ends and starts again with what is on its disk.
    pub fn restart(&mut self, id: NodeId, founding: u8) {
        let Some(node) = self.nodes.remove(&id) else { return };
        self.nodes.insert(id, start(id, node.log, node.disk, founding));
    }

    pub fn leads(&self, id: NodeId) -> bool {
        self.nodes[&id].raft.role().leader().is_some()
    }

    /// Election safety, log matching, leader completeness, state machine safety.
    fn check(&mut self) {
        for (id, node) in &self.nodes {
            if let Role::Leader(_) = node.raft.role() {
                let first = *self.leaders.entry(node.raft.epoch()).or_insert(*id);
                if first != *id {
                    self.violation = Some("two leaders in one epoch");
                }
            }
            let mark = node.raft.high_watermark() as usize;
            if mark > node.log.entries.len() {
                self.violation = Some("committed beyond the log");
                continue;
            }
            for (at, entry) in node.log.entries[..mark].iter().enumerate() {
                match self.committed.get(at) {
                    None => self.committed.push(*entry),
                    Some(known) if known == entry => {}
                    Some(_) => self.violation = Some("two entries committed at one offset"),
                }
            }
        }
        for node in self.nodes.values() {
            let newest = self.leaders.keys().next_back() == Some(&node.raft.epoch());
            if let Role::Leader(_) = node.raft.role()
                && newest
                && !node.log.entries.starts_with(&self.committed)
            {
                self.violation = Some("a leader lacks what is committed");
            }
        }
        let logs: Vec<_> = self.nodes.values().map(|node| &node.log.entries).collect();
        for (a, b) in logs.iter().flat_map(|a| logs.iter().map(move |b| (a, b))) {
            let same = a.iter().zip(b.iter()).rposition(|(a, b)| a.epoch == b.epoch);
            if let Some(last) = same
                && a[..=last] != b[..=last]
            {
                self.violation = Some("logs agree on an epoch and not on what is before");
            }
        }
    }
}

fn start(id: NodeId, log: Log, disk: Election, founding: u8) -> Node {
    let identity = Identity {
        key: voter(id).key,
        may_vote: true,
        endpoints: Vec::new(),
        versions: (0, 1),
        timeouts: Timeouts { election: 1000, fetch: 2000, backoff_max: 1000 },
    };
    let mut history = History::fixed(VoterSet::default());
    for control in History::to_records(&set(founding), 1) {
        history.replay(BEFORE_THE_LOG, &control);
    }
    for (offset, entry) in (0..).zip(&log.entries) {
        replay(&mut history, offset, entry.what);
    }
    let at = At { now: 0, random: id as u64 * 311 };
    let mut raft = Raft::start(identity, disk, history.clone(), &log, at);
    if log.start > 0 {
        raft.note_snapshot(log.start as Offset, history);
    }
    Node { raft, log, disk }
}

fn code(control: &Control) -> u8 {
    match control {
        Control::Voters(record) => {
            let mut history = History::fixed(VoterSet::default());
            history.replay(0, &Control::Voters(record.clone()));
            VOTERS + bits(history.current())
        }
        Control::KRaftVersion(_) => KRAFT_VERSION,
        _ => LEADER_CHANGE,
    }
}

fn control(what: u8) -> Option<Control> {
    (what > VOTERS).then(|| set(what - VOTERS).to_record())
}

fn replay(history: &mut History, offset: Offset, what: u8) {
    if let Some(control) = control(what) {
        history.replay(offset, &control);
    }
}

fn note(raft: &mut Raft, offset: Offset, what: u8) {
    if let Some(control) = control(what) {
        raft.note_control(offset, &control);
    }
}

impl Message {
    pub fn is_pre_vote(&self) -> bool {
        match &self.payload {
            Payload::Request(Request::Vote(it)) | Payload::Voted(it, ..) => it.pre_vote,
            _ => false,
        }
    }

    /// Whether `raft` could still act on it.
    pub fn is_of_use(&self, raft: &Raft) -> bool {
        let newer = |epoch| epoch > raft.epoch();
        match &self.payload {
            Payload::Request(Request::Vote(it)) => {
                let taken = raft.voted.is_some_and(|voted| voted != it.candidate);
                newer(it.epoch) || it.epoch == raft.epoch() && (it.pre_vote || !taken)
            }
            Payload::Request(Request::Begin(it)) => {
                newer(it.epoch) || it.epoch == raft.epoch() && raft.leader().is_none()
            }
            Payload::Request(Request::End(it)) => newer(it.epoch),
            // To anybody but a leader it could only bring back news of a newer epoch.
            Payload::Fetch(id, request) => {
                id.to.is_some()
                    && (request.epoch == raft.epoch() && raft.role().leader().is_some()
                        || request.epoch < raft.epoch())
            }
            Payload::Voted(request, known, _) => {
                let awaited = match raft.role() {
                    Role::Prospective(_) => request.pre_vote,
                    Role::Candidate(_) => !request.pre_vote,
                    _ => false,
                };
                newer(known.epoch) || awaited && request.epoch == raft.epoch()
            }
            Payload::Told(known) => newer(known.epoch),
            Payload::Fetched(id, _) | Payload::Loaded(id, _) => raft.is_fetching(*id),
            Payload::Load(..) => true,
        }
    }
}
