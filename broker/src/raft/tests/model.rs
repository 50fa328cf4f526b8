//! Every order of events in a small scope: three voters, two epochs, one write, one crash.
//!
//! The model drives the shipped roles. Time is not counted: a deadline passes when the model says
//! so, and all others are then ahead again. Pre-votes are delivered at once: they change nobody's
//! vote or epoch. A message that is never delivered is a lost one.

use stateright::{Checker, Model, Property};

use super::world::{Message, World};
use crate::raft::messages::{At, Event};
use crate::types::NodeId;

const NOW: At = At { now: 0, random: 0 };
const LATER: At = At { now: 1 << 40, random: 0 };

#[derive(Clone)]
struct Quorum {
    epochs: i32,
    ticks: u8,
    writes: u8,
    crashes: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    world: World,
    ticks: u8,
    writes: u8,
    crashes: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Deliver(Message),
    Tick(NodeId),
    Write(NodeId),
    Crash(NodeId),
}

impl Model for Quorum {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut world = World::new(&[0, 1, 2], &[0, 1, 2]);
        forget_time(&mut world);
        vec![State { world, ticks: 0, writes: 0, crashes: 0 }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(state.world.messages.iter().cloned().map(Action::Deliver));
        for id in &state.world.ids {
            // Two candidates are enough for all that can go wrong between them.
            if state.ticks < self.ticks && *id < 2 {
                actions.push(Action::Tick(*id));
            }
            if state.writes < self.writes && state.world.leads(*id) {
                actions.push(Action::Write(*id));
            }
            if state.crashes < self.crashes && state.world.nodes[id].disk.voted.is_some() {
                actions.push(Action::Crash(*id));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Deliver(message) => {
                state.world.deliver(&message, NOW);
            }
            Action::Tick(id) => {
                state.ticks += 1;
                state.world.step(id, Event::Tick, LATER);
            }
            Action::Write(id) => {
                state.writes += 1;
                state.world.append(id, 1 + id as u8, NOW);
            }
            Action::Crash(id) => {
                state.crashes += 1;
                state.world.restart(id, 0b111);
            }
        }
        ask_first(&mut state.world);
        forget_time(&mut state.world);
        forget_messages(&mut state.world);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("safe", |_, state: &State| state.world.violation.is_none()),
            Property::sometimes("a write is committed", |_, state: &State| {
                state.world.committed.iter().any(|entry| (1..90).contains(&entry.what))
            }),
            Property::sometimes("a second epoch is led", |_, state: &State| {
                state.world.leaders.len() > 1
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.world.nodes.values().all(|node| node.raft.epoch() <= self.epochs)
    }
}

fn ask_first(world: &mut World) {
    forget_time(world);
    loop {
        let next = world.messages.iter().find(|message| message.is_pre_vote()).cloned();
        let Some(message) = next else { return };
        world.deliver(&message, NOW);
        forget_time(world);
    }
}

fn forget_time(world: &mut World) {
    for node in world.nodes.values_mut() {
        node.raft.forget_time(LATER.now / 2);
    }
}

/// Messages that no replica would act on: a lost one is the same as a late one.
fn forget_messages(world: &mut World) {
    let nodes = &world.nodes;
    world
        .messages
        .retain(|message| nodes.get(&message.to).is_some_and(|node| message.is_of_use(&node.raft)));
}

/// Checks all that can happen in a scope: (epochs, deadlines that pass, writes, crashes).
fn check(scope: (i32, u8, u8, u8)) {
    let (epochs, ticks, writes, crashes) = scope;
    let quorum = Quorum { epochs, ticks, writes, crashes };
    let checker = quorum.checker().threads(1).spawn_bfs().join();
    println!("{scope:?}: {} states, depth {}", checker.unique_state_count(), checker.max_depth());
    checker.assert_no_discovery("safe");
    if writes > 0 {
        checker.assert_any_discovery("a write is committed");
    }
    if epochs > 1 && ticks > 1 {
        checker.assert_any_discovery("a second epoch is led");
    }
}

#[test]
fn no_order_of_events_breaks_an_election() {
    check((1, 2, 1, 0));
}

#[test]
fn no_order_of_events_breaks_two_elections_in_a_row() {
    check((2, 2, 0, 0));
}

/// `cargo test -p ottla-broker --release --lib -- --ignored raft::tests::model`.
#[test]
#[ignore = "minutes: run by hand, no layer runs it"]
fn no_order_of_events_breaks_the_quorum_in_a_larger_scope() {
    check((2, 2, 1, 1));
    check((3, 3, 1, 1));
}
