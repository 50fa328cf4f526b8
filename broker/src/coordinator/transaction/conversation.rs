//! Conversations with a coordinator shard, as text: `tests/scripts/transactions/*.script`.
//!
//! A block of commands, `---`, what came of each, an empty line. Time stands still but for
//! `advance`. `c=ID:EPOCH` names a producer other than the one that the client was last given.
//! To write the results anew, run the tests with `UPDATE_SCRIPTS=1`, and read the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use super::TRANSACTION_FEATURE;
use super::call::{Answer, Call, Filter};
use super::records::Record;
use super::settings::TransactionSettings;
use super::shard::{Effects, Notice, Shard, Transition};
use super::state::{Producer, State, Transaction};
use crate::controller::{Delta, Image};
use crate::coordinator::runtime::{Context, CoordinatorShard, TimerChange, Token, Write};
use crate::error::ErrorCode;
use crate::types::{Millis, TopicPartition};
use crate::wire::metadata::FeatureLevelRecord;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    Commits,
    Holds,
    Refuses(ErrorCode),
}

enum Waiting {
    Shard(Vec<Transition>),
    Answer(Token, Answer),
}

/// A shard with a clock and a log, that writes down what it says.
pub struct Conversation {
    pub shard: Shard,
    pub settings: TransactionSettings,
    image: Image,
    pub now: Millis,
    pub log: Log,
    /// Whether markers are written as soon as they are asked for.
    pub marks: bool,
    pub said: String,
    /// Who waits for what.
    pub open: BTreeMap<Token, (String, Call)>,
    waiting: Vec<(Write, Waiting)>,
    retries: BTreeMap<String, Millis>,
    /// Whom each client was told to be.
    pub clients: BTreeMap<String, Producer>,
    /// What has been committed, as it stands in the log.
    pub stored: Vec<Record>,
    appended: Vec<(Write, Vec<Record>)>,
    markers: Vec<super::shard::Markers>,
    tokens: Token,
    next_id: i64,
}

impl Conversation {
    pub fn new(level: i16) -> Self {
        let mut image = Image::empty("test");
        let feature = FeatureLevelRecord { name: TRANSACTION_FEATURE.into(), feature_level: level };
        image.replay(&feature.into(), &mut Delta::default()).unwrap();
        Self {
            shard: Shard::new(3),
            settings: TransactionSettings::default(),
            image,
            now: 0,
            log: Log::Commits,
            marks: true,
            said: String::new(),
            open: BTreeMap::new(),
            waiting: Vec::new(),
            retries: BTreeMap::new(),
            clients: BTreeMap::new(),
            stored: Vec::new(),
            appended: Vec::new(),
            markers: Vec::new(),
            tokens: 0,
            next_id: 100,
        }
    }

    fn say(&mut self, line: impl AsRef<str>) {
        let _ = writeln!(self.said, "{}", line.as_ref());
    }

    fn step(&mut self, step: impl FnOnce(&mut Shard, &Context<'_, Shard>) -> Effects) {
        let context = Context { settings: &self.settings, now: self.now, image: &self.image };
        let effects = step(&mut self.shard, &context);
        self.perform(effects);
    }

    pub fn call(&mut self, who: &str, call: Call) {
        self.tokens += 1;
        let token = self.tokens;
        self.open.insert(token, (who.to_owned(), call.clone()));
        self.step(|shard, context| shard.handle(token, call, context));
    }

    fn perform(&mut self, effects: Effects) {
        for (id, change) in effects.timers {
            if let TimerChange::Set { after_ms, .. } = change {
                self.retries.insert(id, self.now + after_ms);
            }
        }
        for (token, answer) in effects.answers {
            self.answer(token, answer);
        }
        let write = self.shard.written();
        for record in &effects.records {
            self.say(format!("    log ← {}", described(record)));
        }
        let any = !effects.records.is_empty();
        if any {
            self.appended.push((write, effects.records));
        }
        let then = effects.then.map(|(_, then)| Waiting::Shard(then));
        let answer = effects.after_commit.map(|(token, answer)| Waiting::Answer(token, answer));
        self.waiting.extend(then.into_iter().chain(answer).map(|it| (write, it)));
        match self.log {
            Log::Holds => {}
            Log::Refuses(code) if any => {
                self.appended.pop();
                self.step(|shard, _| {
                    shard.take_back(write);
                    Effects::default()
                });
                self.settle(|at| at >= write, Err(code));
            }
            Log::Commits | Log::Refuses(_) => self.commit(),
        }
        for notice in effects.notices {
            self.notice(notice);
        }
        self.shard.check();
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Send(markers) => {
                let places: Vec<_> = markers.partitions.iter().map(ToString::to_string).collect();
                let (how, producer) = (how(markers.commit), markers.producer);
                self.say(format!(
                    "    {} {how}s as {}:{} in {}",
                    markers.transactional_id,
                    producer.id,
                    producer.epoch,
                    places.join(" ")
                ));
                self.markers.push(markers);
                if self.marks {
                    self.mark(&[]);
                }
            }
            Notice::Exhausted { transactional_id, producer } => {
                self.next_id += 1;
                let fresh = self.next_id;
                self.call("sweep", Call::Abort { transactional_id, producer, fresh });
            }
            Notice::Unloaded => self.say("    nothing is sent any more"),
        }
    }

    /// The markers of these partitions, or of all, are written.
    pub fn mark(&mut self, only: &[&str]) {
        for markers in std::mem::take(&mut self.markers) {
            let (now, later): (Vec<_>, Vec<_>) = markers
                .partitions
                .iter()
                .cloned()
                .partition(|at| only.is_empty() || only.contains(&&*at.to_string()));
            let call = Call::Marked {
                transactional_id: markers.transactional_id.clone(),
                coordinator_epoch: 3,
                producer: markers.producer,
                partitions: now,
            };
            if !later.is_empty() {
                self.markers.push(super::shard::Markers { partitions: later, ..markers });
            }
            self.call("", call);
        }
    }

    /// All that was written is committed.
    pub fn commit(&mut self) {
        let write = self.shard.written();
        self.shard.commit_up_to(write);
        for (_, records) in std::mem::take(&mut self.appended) {
            self.stored.extend(records);
        }
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
                    self.answer(token, Answer::Refused(Shard::append_error(code)));
                }
                (Waiting::Shard(then), result) => {
                    self.step(|shard, context| shard.stored(then, result, context));
                }
            }
        }
    }

    fn answer(&mut self, token: Token, answer: Answer) {
        let (who, call) = self.open.remove(&token).expect("a call is answered once");
        if answer == Answer::NeedsProducerId {
            self.next_id += 1;
            let id = self.next_id;
            return self.call(&who, with_id(call, id));
        }
        if let (Answer::Producer(producer), Call::Init { .. } | Call::End { .. }) = (&answer, &call)
        {
            self.clients.insert(who.clone(), *producer);
        }
        if !who.is_empty() {
            self.say(format!("{who} ← {}", shown(&answer)));
        }
    }

    pub fn advance(&mut self, time: Millis) {
        self.now += time;
        let now = self.now;
        let due: Vec<_> =
            self.retries.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone()).collect();
        for id in due {
            self.retries.remove(&id);
            self.step(|shard, context| shard.retry(&id, context));
        }
    }

    pub fn sweep(&mut self) {
        self.step(Shard::sweep);
    }

    /// Another broker takes over what is committed.
    pub fn reload(&mut self) {
        self.step(|_, _| Effects { notices: vec![Notice::Unloaded], ..Effects::default() });
        self.shard = Shard::new(3);
        self.waiting.clear();
        self.appended.clear();
        self.open.clear();
        self.markers.clear();
        self.retries.clear();
        for record in self.stored.clone() {
            let (key, value) = record.encode();
            let read = Record::decode(&key, value.as_deref()).unwrap().unwrap();
            self.shard.load(read);
        }
        self.step(Shard::loaded);
    }

    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let get =
            |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let client = words.get(1).copied().unwrap_or_default();
        let transactional_id = get("id").unwrap_or("tx").to_owned();
        let named = get("c").map(|text| {
            let (id, epoch) = text.split_once(':').unwrap();
            Producer { id: id.parse().unwrap(), epoch: epoch.parse().unwrap() }
        });
        let known = self.clients.get(client).copied().unwrap_or(Producer { id: -1, epoch: -1 });
        let producer = named.unwrap_or(known);
        let version = get("v").map_or(2, |text| text.parse().unwrap());
        let places = || -> BTreeSet<TopicPartition> {
            words[2..].iter().filter(|word| !word.contains('=')).map(|word| place(word)).collect()
        };
        match words[0] {
            "init" => {
                let timeout_ms = get("timeout").map_or(60_000, |text| text.parse().unwrap());
                let expected = (named.is_some() || words.contains(&"again")).then_some(producer);
                let call = Call::Init { transactional_id, timeout_ms, expected, fresh: None };
                self.call(client, call);
            }
            "add" => {
                let partitions = places();
                self.call(client, Call::Add { transactional_id, producer, partitions, version });
            }
            "verify" => {
                let partitions = places();
                self.call(client, Call::Verify { transactional_id, producer, partitions });
            }
            "commit" | "abort" => {
                let commit = words[0] == "commit";
                let fresh = None;
                let call = Call::End { transactional_id, producer, commit, version, fresh };
                self.call(client, call);
            }
            "describe" => self.call("someone", Call::Describe { transactional_id }),
            "list" => {
                let states: BTreeSet<_> =
                    get("state").and_then(State::from_name).into_iter().collect();
                let filter = Filter {
                    any_state: get("state").is_none(),
                    states,
                    longer_than_ms: get("longer").map_or(-1, |text| text.parse().unwrap()),
                    pattern: get("pattern").map(|text| regex::Regex::new(text).unwrap()),
                    ..Filter::default()
                };
                self.call("someone", Call::List(filter));
            }
            "markers" if client == "wait" => self.marks = false,
            "markers" => {
                self.marks = words.len() == 2;
                self.mark(&words[2..]);
            }
            "log" => match client {
                "commits" => {
                    self.log = Log::Commits;
                    self.commit();
                }
                "holds" => self.log = Log::Holds,
                "refuses" => self.log = Log::Refuses(ErrorCode::NotEnoughReplicas),
                "times" => {
                    self.settle(|_| true, Err(ErrorCode::RequestTimedOut));
                }
                other => panic!("a log does not do this: {other}"),
            },
            "advance" => {
                self.advance(client.trim_end_matches('s').parse::<Millis>().unwrap() * 1_000)
            }
            "sweep" => self.sweep(),
            "reload" => self.reload(),
            "epoch" => self.set_epoch(client.parse().unwrap()),
            other => panic!("no such command: {other}"),
        }
    }

    /// As after many transactions.
    fn set_epoch(&mut self, epoch: i16) {
        let known = self.shard.known.get_mut("tx").unwrap();
        known.at.epoch = epoch;
        for producer in self.clients.values_mut() {
            producer.epoch = epoch;
        }
    }
}

fn with_id(call: Call, id: i64) -> Call {
    match call {
        Call::Init { transactional_id, timeout_ms, expected, .. } => {
            Call::Init { transactional_id, timeout_ms, expected, fresh: Some(id) }
        }
        Call::End { transactional_id, producer, commit, version, .. } => {
            Call::End { transactional_id, producer, commit, version, fresh: Some(id) }
        }
        other => panic!("needs no producer id: {other:?}"),
    }
}

pub fn place(text: &str) -> TopicPartition {
    let (topic, partition) = text.rsplit_once('-').unwrap();
    TopicPartition::new(topic, partition.parse().unwrap())
}

fn how(commit: bool) -> &'static str {
    if commit { "commit" } else { "abort" }
}

fn described(record: &Record) -> String {
    match &record.transaction {
        None => format!("{} is forgotten", record.transactional_id),
        Some((transaction, _)) => {
            format!("{}: {}", record.transactional_id, described_state(transaction))
        }
    }
}

fn described_state(it: &Transaction) -> String {
    let mut line = format!("{} {}:{}", it.state.name(), it.producer_id, it.epoch);
    if it.next_producer_id != -1 {
        let _ = write!(line, ", then {}", it.next_producer_id);
    }
    for at in &it.partitions {
        let _ = write!(line, " {at}");
    }
    line
}

fn shown(answer: &Answer) -> String {
    match answer {
        Answer::Done => "done".into(),
        Answer::Producer(it) => format!("{}:{}", it.id, it.epoch),
        Answer::Verified(all) => {
            let each =
                all.iter().map(|(at, is_in)| format!("{at} {}", if *is_in { "yes" } else { "no" }));
            each.collect::<Vec<_>>().join(", ")
        }
        Answer::Described(transaction) => described_state(transaction),
        Answer::Listed(all) => {
            let each = all.iter().map(|it| {
                format!("{} {} {}", it.transactional_id, it.producer_id, it.state.name())
            });
            format!("[{}]", each.collect::<Vec<_>>().join(", "))
        }
        Answer::NeedsProducerId => "needs an id".into(),
        Answer::Refused(code) => format!("{code:?}"),
    }
}

/// Runs the commands of a script and returns it with what came of them.
fn run(script: &str) -> String {
    let level = script.lines().next().and_then(|line| line.strip_prefix("# level "));
    let level = level.map_or(2, |text| text.parse().unwrap());
    let mut conversation = Conversation::new(level);
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
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/scripts/transactions");
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
