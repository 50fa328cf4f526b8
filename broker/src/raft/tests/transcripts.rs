//! Conversations of the roles, as a person reads them: `scripts/*.script`.
//!
//! A block is commands, a line of dashes, and what came of them. Run with `UPDATE_SCRIPTS=1` to
//! write the answers anew; a difference is a change of behaviour. Commands: `nodes IDS voters IDS`,
//! `tick ID` (its next deadline passes), `deliver` (all messages, until none is left), `deliver A
//! B` (only between these), `drop`, `write ID`, `snapshot ID`, `restart ID`, `died ID` (its followers see it),
//! `resign ID`, `add LEADER ID`, `remove LEADER ID`, `wait MS`.

use std::fmt::Write as _;
use std::path::Path;

use super::world::{Message, Payload, World, voter};
use crate::raft::messages::{At, Event, FetchAnswer, Request};
use crate::types::NodeId;

struct Stage {
    world: World,
    now: i64,
    told: String,
}

impl Stage {
    fn at(&self) -> At {
        At { now: self.now, random: 3 }
    }

    fn command(&mut self, line: &str) {
        let words: Vec<_> = line.split_whitespace().collect();
        let id = |at: usize| words[at].parse::<NodeId>().unwrap();
        let list = |at: usize| -> Vec<NodeId> {
            words[at].split(',').map(|id| id.parse().unwrap()).collect()
        };
        let at = self.at();
        match words[0] {
            "nodes" => self.world = World::new(&list(1), &list(3)),
            "wait" => self.now += words[1].parse::<i64>().unwrap(),
            "tick" => {
                // An observer has no deadline, only a pause between two fetches.
                let deadline = self.world.nodes[&id(1)].raft.role().deadline();
                self.now =
                    if deadline == i64::MAX { self.now + 60 } else { self.now.max(deadline) };
                self.world.step(id(1), Event::Tick, self.at());
            }
            "deliver" if words.len() == 1 => self.deliver(|_| true),
            "deliver" => {
                let pair = [id(1), id(2)];
                self.deliver(|it| pair.contains(&it.from) && pair.contains(&it.to));
            }
            "drop" => self.world.messages.clear(),
            "write" => self.world.append(id(1), 7, at),
            "snapshot" => self.world.snapshot(id(1)),
            "restart" => self.world.restart(id(1), 0b111),
            "died" => self.died(id(1)),
            "resign" => {
                self.world.step(id(1), Event::Resign, at);
            }
            "add" | "remove" => self.change(words[0], id(1), id(2)),
            other => panic!("{other}"),
        }
    }

    fn change(&mut self, what: &str, leader: NodeId, other: NodeId) {
        let at = self.at();
        let node = self.world.nodes.get_mut(&leader).unwrap();
        let change = match what {
            "add" => node.raft.add_voter(voter(other), &node.log, at),
            _ => node.raft.remove_voter(voter(other).key, &node.log),
        };
        match change {
            Ok((effects, offset)) => {
                writeln!(self.told, "voters change at {offset}").unwrap();
                self.world.carry_out(leader, effects, at);
            }
            Err(refusal) => writeln!(self.told, "{refusal}").unwrap(),
        }
    }

    /// Whoever fetches from `dead` finds that nobody listens there.
    fn died(&mut self, dead: NodeId) {
        let fetches: Vec<_> = self.world.messages.iter().filter(|it| it.to == dead).collect();
        let fetches: Vec<_> = fetches
            .into_iter()
            .filter_map(|it| match &it.payload {
                Payload::Fetch(id, _) => Some((it.from, *id)),
                _ => None,
            })
            .collect();
        self.world.messages.retain(|it| it.to != dead && it.from != dead);
        for (from, id) in fetches {
            self.world.step(from, Event::LeaderDied(id), self.at());
        }
    }

    fn deliver(&mut self, wanted: impl Fn(&Message) -> bool) {
        for _ in 0..200 {
            let messages: Vec<_> = self.world.messages.iter().cloned().collect();
            let mut any = false;
            for message in messages.iter().filter(|it| wanted(it)) {
                if !self.world.messages.contains(message) {
                    continue;
                }
                if self.world.deliver(message, self.at()) {
                    any = true;
                    self.tell(message);
                }
            }
            if !any {
                return;
            }
        }
    }

    fn tell(&mut self, message: &Message) {
        let Message { from, to, payload } = message;
        let said = match payload {
            Payload::Request(Request::Vote(it)) => {
                let kind = if it.pre_vote { "pre-vote" } else { "vote" };
                format!("asks for its {kind} in epoch {}, log {}", it.epoch, end(it.end))
            }
            Payload::Request(Request::Begin(it)) => format!("leads epoch {}", it.epoch),
            Payload::Request(Request::End(it)) => {
                format!("leads epoch {} no more; next {:?}", it.epoch, it.preferred)
            }
            Payload::Fetch(_, it) => format!("fetches at {} in epoch {}", end(it.end), it.epoch),
            Payload::Voted(_, known, granted) => {
                format!("{} (epoch {})", if *granted { "granted" } else { "refused" }, known.epoch)
            }
            Payload::Told(known) => match known.error {
                None => format!("understood (epoch {})", known.epoch),
                Some(error) => format!("{error:?} (epoch {})", known.epoch),
            },
            Payload::Fetched(_, it) => fetched(it),
            Payload::Load(_, at) => format!("wants the snapshot of {}", end(*at)),
            Payload::Loaded(_, entries) if entries.is_empty() => "has no such snapshot".to_owned(),
            Payload::Loaded(_, entries) => format!("a snapshot of {} records", entries.len()),
        };
        writeln!(self.told, "{from} → {to}: {said}").unwrap();
    }

    fn roles(&mut self) {
        for (id, node) in &self.world.nodes {
            let raft = &node.raft;
            let leader = raft.leader().map_or("nobody".to_owned(), |id| id.to_string());
            writeln!(
                self.told,
                "{id}: {} of {leader} in epoch {}, log {}, committed {}",
                raft.role().name(),
                raft.epoch(),
                end(crate::raft::messages::LogView::end(&node.log)),
                raft.high_watermark()
            )
            .unwrap();
        }
        assert_eq!(self.world.violation, None);
    }
}

fn end(end: crate::raft::messages::LogEnd) -> String {
    format!("{}/{}", end.offset, end.epoch)
}

fn fetched(it: &FetchAnswer) -> String {
    let mark = it.high_watermark.unwrap_or(-1);
    match (it.known.error, it.diverging.or(it.snapshot)) {
        (None, Some(at)) if it.snapshot.is_some() => format!("start at snapshot {}", end(at)),
        (Some(error), _) => {
            format!("{error:?} (leader {:?}, epoch {})", it.known.leader, it.known.epoch)
        }
        (None, Some(at)) => format!("parted at {}", end(at)),
        (None, None) => format!("{} records, committed {mark}", it.records.len() / 5),
    }
}

fn play(script: &str) -> String {
    let mut stage = Stage { world: World::new(&[0], &[0]), now: 0, told: String::new() };
    let mut out = String::new();
    let mut answering = false;
    for line in script.lines() {
        match line {
            "---" => answering = true,
            "" => answering = false,
            _ if answering => continue,
            comment if comment.starts_with('#') => {}
            command => {
                stage.command(command);
            }
        }
        if !answering || line == "---" {
            out.push_str(line);
            out.push('\n');
        }
        if line == "---" {
            stage.roles();
            out.push_str(&stage.told);
            stage.told.clear();
        }
    }
    out
}

#[test]
fn the_conversations_are_as_they_were_written_down() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raft/tests/scripts");
    let env = crate::env::real::env();
    let scripts = env.disk.list(&dir).unwrap();
    assert!(scripts.len() >= 5);
    for entry in scripts {
        let path = dir.join(&entry.name);
        let script = String::from_utf8(env.disk.read(&path).unwrap()).unwrap();
        let played = play(&script);
        if std::env::var_os("UPDATE_SCRIPTS").is_some() {
            env.disk.write_atomically(&path, played.as_bytes()).unwrap();
        } else {
            assert_eq!(played, script, "{}", entry.name);
        }
    }
}
