//! Conversations between the replicas of one partition, as text: `tests/scripts/replica/*.script`.
//!
//! The roles are those that are shipped; around them a log per broker, of which only the epoch of
//! each record is kept, a clock that stands still but for `advance`, and a controller that says yes
//! or no when told to. A block of commands, `---`, what came of each, an empty line. To write the
//! results anew, run the tests with `UPDATE_SCRIPTS=1`, and read the difference.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::follower::{self, Answer, Follower, FollowerLog};
use super::leader::{self, Brokers, Leader, Proposal, ReplicaFetch, Rules};
use crate::controller::image::PartitionImage;
use crate::error::ErrorCode;
use crate::types::{BrokerEpoch, LeaderEpoch, Millis, NodeId, Offset};

/// One broker's copy: the epoch of each record.
#[derive(Default)]
struct Copy {
    records: Vec<LeaderEpoch>,
    synced: Offset,
    high_watermark: Offset,
    follows: Option<Follower>,
}

impl FollowerLog for Copy {
    fn log_start(&self) -> Offset {
        0
    }

    fn log_end(&self) -> Offset {
        self.records.len() as Offset
    }

    fn end_of_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let last = self.records.iter().rposition(|it| *it <= epoch)?;
        Some((self.records[last], last as Offset + 1))
    }
}

impl Copy {
    /// As `0-2:e1 3:e2`.
    fn text(&self) -> String {
        let mut parts = Vec::new();
        let mut from = 0;
        for run in self.records.chunk_by(|a, b| a == b) {
            let to = from + run.len() - 1;
            let range = if from == to { from.to_string() } else { format!("{from}-{to}") };
            parts.push(format!("{range}:e{}", run[0]));
            from = to + 1;
        }
        if parts.is_empty() { "nothing".to_owned() } else { parts.join(" ") }
    }
}

/// Who is in service; the epoch of a registration is 100 more than the id.
struct InService(Vec<NodeId>);

impl Brokers for InService {
    fn active(&self, id: NodeId) -> Option<BrokerEpoch> {
        self.0.contains(&id).then(|| i64::from(id) + 100)
    }
}

struct Conversation {
    copies: BTreeMap<NodeId, Copy>,
    image: PartitionImage,
    leader: Option<Leader>,
    proposed: Option<Proposal>,
    brokers: InService,
    rules: Rules,
    now: Millis,
    said: String,
}

fn ids(text: &str) -> Vec<NodeId> {
    text.split(',').map(|id| id.parse().unwrap()).collect()
}

fn list(ids: &[NodeId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

impl Conversation {
    fn new() -> Self {
        let replicas = vec![1, 2, 3];
        let image = PartitionImage {
            directories: Vec::new(),
            isr: replicas.clone(),
            adding: Vec::new(),
            removing: Vec::new(),
            elr: Vec::new(),
            last_known_elr: Vec::new(),
            leader: -1,
            recovering: false,
            leader_epoch: 0,
            partition_epoch: 0,
            replicas: replicas.clone(),
        };
        Self {
            copies: replicas.iter().map(|id| (*id, Copy::default())).collect(),
            image,
            leader: None,
            proposed: None,
            brokers: InService(replicas),
            rules: Rules { min_insync_replicas: 1, lag_time_max: 30_000 },
            now: 0,
            said: String::new(),
        }
    }

    fn say(&mut self, line: impl AsRef<str>) {
        let _ = writeln!(self.said, "{}", line.as_ref());
    }

    fn leading(&mut self) -> &mut Leader {
        self.leader.as_mut().expect("nobody leads")
    }

    fn copy(&mut self, id: NodeId) -> &mut Copy {
        self.copies.get_mut(&id).expect("no such broker")
    }

    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["min", replicas] => self.rules.min_insync_replicas = replicas.parse().unwrap(),
            ["elect", id, isr] => self.elect(id.parse().unwrap(), ids(isr)),
            ["append", count] => self.append(count.parse().unwrap()),
            ["sync"] => self.sync(),
            ["fetch", id] => self.fetch(id.parse().unwrap()),
            ["advance", seconds] => {
                self.now += seconds.trim_end_matches('s').parse::<Millis>().unwrap() * 1000;
                let now = self.now;
                let effects = self.leader.as_mut().map(|it| it.on_tick(&self.brokers, now));
                self.led(effects.unwrap_or_default());
            }
            ["accept"] => self.accept(),
            ["refuse", code] => self.refuse(code),
            ["fence", id] => self.brokers.0.retain(|it| *it != id.parse::<NodeId>().unwrap()),
            ["unfence", id] => self.brokers.0.push(id.parse().unwrap()),
            ["logs"] => self.logs(),
            _ => panic!("no such command: {line}"),
        }
    }

    /// The image names a new leader: everyone takes up its role.
    fn elect(&mut self, id: NodeId, isr: Vec<NodeId>) {
        self.image.leader = id;
        self.image.isr = isr;
        self.image.leader_epoch += 1;
        self.image.partition_epoch += 1;
        self.proposed = None;
        let epoch = self.image.leader_epoch;
        for (other, copy) in &mut self.copies {
            let follower = Follower::new(id, epoch, copy.high_watermark);
            copy.follows = (*other != id).then_some(follower);
        }
        let (image, rules, now) = (self.image.clone(), self.rules, self.now);
        let copy = self.copy(id);
        let (end, synced, mark) = (copy.log_end(), copy.synced, copy.high_watermark);
        self.leader = Some(Leader::new(id, &image, end, synced, mark, rules, now));
        self.say(format!("{id} leads epoch {epoch} from {end}, high watermark {mark}"));
    }

    fn append(&mut self, count: usize) {
        let (id, epoch) = (self.image.leader, self.image.leader_epoch);
        if !self.leading().has_enough_replicas() {
            self.say("refused: NotEnoughReplicas");
            return;
        }
        let copy = self.copy(id);
        copy.records.extend(std::iter::repeat_n(epoch, count));
        let end = copy.log_end();
        self.leading().on_append(end);
        self.say(format!("{id} at {end}"));
    }

    fn sync(&mut self) {
        let id = self.image.leader;
        let copy = self.copy(id);
        copy.synced = copy.log_end();
        let (synced, now) = (copy.synced, self.now);
        let leader = self.leader.as_mut().expect("nobody leads");
        let effects = leader.on_synced(synced, &self.brokers, now);
        self.led(effects);
    }

    /// One round of a follower: it asks, is answered, appends or truncates, and syncs.
    fn fetch(&mut self, id: NodeId) {
        let leader_id = self.image.leader;
        let own = &self.copies[&id];
        let (from, last) = (own.log_end(), own.records.last().copied());
        let fetch = ReplicaFetch {
            replica: id,
            broker_epoch: i64::from(id) + 100,
            offset: from,
            log_start: 0,
        };
        self.say(format!("{id} fetches {from}"));
        let leads = &self.copies[&leader_id];
        let end = leads.log_end();
        let agreed = last.map_or(Some((0, 0)), |epoch| leads.end_of_epoch(epoch));
        let diverging = match (agreed, last) {
            (Some((epoch, end)), Some(last)) if epoch < last || end < from => Some((epoch, end)),
            (None, Some(_)) => Some((0, 0)),
            _ => None,
        };
        if diverging.is_none() {
            let leader = self.leader.as_mut().expect("nobody leads");
            let effects = leader.on_fetch(fetch, &self.brokers, self.now).expect("a replica");
            self.led(effects);
        }
        let answer = Answer {
            error: None,
            high_watermark: self.leading().high_watermark(),
            log_start: 0,
            diverging,
            first_offset: (diverging.is_none() && from < end).then_some(from),
            next_offset: end,
        };
        self.follow(id, from, &answer);
    }

    fn follow(&mut self, id: NodeId, from: Offset, answer: &Answer) {
        let (epoch, leader) = (self.image.leader_epoch, self.image.leader);
        let news = self.copies[&leader].records.clone();
        let copy = self.copy(id);
        let mut follows = copy.follows.take().expect("a follower");
        let effects = follows.on_answer(epoch, from, answer, copy);
        copy.follows = Some(follows);
        for effect in effects {
            let copy = self.copy(id);
            let said = match effect {
                follower::Effect::Append => {
                    copy.records.extend(&news[from as usize..]);
                    copy.synced = copy.log_end();
                    format!("    {id} appends {from}-{}", copy.synced - 1)
                }
                follower::Effect::Truncate(to) => {
                    copy.records.truncate(to as usize);
                    copy.synced = copy.synced.min(to);
                    format!("    {id} truncates to {to}")
                }
                follower::Effect::HighWatermark(mark) => {
                    copy.high_watermark = mark;
                    format!("    {id} knows high watermark {mark}")
                }
                other => format!("    {id}: {other:?}"),
            };
            self.say(said);
        }
    }

    /// What the leader wants done.
    fn led(&mut self, effects: leader::Effects) {
        for effect in effects {
            match effect {
                leader::Effect::HighWatermark(mark) => {
                    let id = self.image.leader;
                    self.copy(id).high_watermark = mark;
                    self.say(format!("    high watermark {mark}"));
                }
                leader::Effect::ProposeIsr(proposal) => {
                    let members: Vec<_> = proposal.isr.iter().map(|(id, _)| *id).collect();
                    self.say(format!("    {} proposes isr {}", self.image.leader, list(&members)));
                    self.proposed = Some(proposal);
                }
            }
        }
    }

    fn accept(&mut self) {
        let proposal = self.proposed.take().expect("nothing is proposed");
        self.image.isr = proposal.isr.iter().map(|(id, _)| *id).collect();
        self.image.partition_epoch += 1;
        let (isr, epoch) = (self.image.isr.clone(), self.image.partition_epoch);
        self.say(format!("controller: isr {} (partition epoch {epoch})", list(&isr)));
        let leader = self.leader.as_mut().expect("nobody leads");
        let effects =
            leader.on_isr_accepted(self.image.leader_epoch, &isr, epoch, &self.brokers, self.now);
        self.led(effects);
    }

    fn refuse(&mut self, code: &str) {
        let proposal = self.proposed.take().expect("nothing is proposed");
        let refusal = match code {
            "IneligibleReplica" => ErrorCode::IneligibleReplica,
            "NotController" => ErrorCode::NotController,
            "InvalidUpdateVersion" => ErrorCode::InvalidUpdateVersion,
            _ => panic!("no such code: {code}"),
        };
        let again = self.leading().on_isr_refused(&proposal, refusal);
        let sequel = match (again, self.leading().is_proposing()) {
            (true, _) => "sends it again",
            (false, true) => "waits for the image",
            (false, false) => "gives it up",
        };
        self.say(format!("{} {sequel}", self.image.leader));
        self.proposed = again.then_some(proposal);
    }

    fn logs(&mut self) {
        let lines: Vec<_> = self
            .copies
            .iter()
            .map(|(id, copy)| {
                format!("{id}: {}, high watermark {}", copy.text(), copy.high_watermark)
            })
            .collect();
        self.say(lines.join("\n"));
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
fn all_conversations_of_replicas_go_as_they_are_written() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/scripts/replica");
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
