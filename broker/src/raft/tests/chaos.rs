//! Many seeds: lost messages, messages in any order, crashes, voters that come and go, logs that are
//! trimmed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::world::{World, voter};
use crate::raft::messages::{At, Event};

struct Chaos {
    world: World,
    random: StdRng,
    now: i64,
}

impl Chaos {
    fn at(&mut self) -> At {
        At { now: self.now, random: self.random.random() }
    }

    /// One random thing happens. `kind`: no losses, crashes and changes any more.
    fn happen(&mut self, kind: bool) {
        self.now += self.random.random_range(0..10);
        let at = self.at();
        let ids = self.world.ids.clone();
        let id = ids[self.random.random_range(0..ids.len())];
        let messages: Vec<_> = self.world.messages.iter().cloned().collect();
        if self.world.nodes[&id].raft.deadline() <= self.now {
            self.world.step(id, Event::Tick, at);
        }
        let message = (!messages.is_empty())
            .then(|| messages[self.random.random_range(0..messages.len())].clone());
        match (self.random.random_range(0..100), message) {
            (0..5, _) if !kind => self.now += self.random.random_range(0..1500),
            (5..10, Some(message)) if !kind => {
                self.world.messages.remove(&message);
            }
            (10..12, _) if !kind => self.world.restart(id, 0b111),
            (12..14, _) if !kind => self.change_voters(id, at),
            (14..16, _) if !kind => {
                self.world.snapshot(id);
            }
            (16..22, _) if self.world.leads(id) => {
                let what = self.random.random_range(1..90);
                self.world.append(id, what, at);
            }
            (_, Some(message)) => {
                self.world.deliver(&message, at);
            }
            _ => {}
        }
    }

    fn change_voters(&mut self, leader: i32, at: At) {
        let ids = self.world.ids.clone();
        let other = ids[self.random.random_range(0..ids.len())];
        let add = self.random.random();
        let Some(node) = self.world.nodes.get_mut(&leader) else { return };
        let change = if add {
            node.raft.add_voter(voter(other), &node.log, at)
        } else if node.raft.voters().current().len() > 2 {
            node.raft.remove_voter(voter(other).key, &node.log)
        } else {
            return;
        };
        if let Ok((effects, _)) = change {
            self.world.carry_out(leader, effects, at);
        }
    }
}

#[test]
fn whatever_is_lost_or_reordered_nothing_committed_is_forgotten_and_the_quorum_comes_back() {
    let mut elections = 0;
    let mut committed = 0;
    let mut changes = 0;
    let mut loads = 0;
    for seed in 0..60 {
        let world = World::new(&[0, 1, 2, 3], &[0, 1, 2]);
        let mut chaos = Chaos { world, random: StdRng::seed_from_u64(seed), now: 0 };
        for _ in 0..1500 {
            chaos.happen(false);
            assert_eq!(chaos.world.violation, None, "seed {seed}");
        }
        let before = chaos.world.committed.len();
        let mut steps = 0;
        while chaos.world.committed.len() < before + 3 {
            chaos.happen(true);
            assert_eq!(chaos.world.violation, None, "seed {seed}");
            steps += 1;
            assert!(steps < 40_000, "seed {seed}: no quorum: {:#?}", chaos.world.nodes);
        }
        elections += chaos.world.leaders.len();
        committed += chaos.world.committed.len();
        changes += chaos.world.committed.iter().filter(|entry| entry.what > 100).count();
        loads += chaos.world.loads;
    }
    assert!(
        elections > 300 && committed > 1000 && changes > 50 && loads > 50,
        "{elections} {committed} {changes} {loads}"
    );
}
