//! The protocol of a partition's leader and followers, checked exhaustively in a small scope.
//!
//! The roles are the shipped ones, [`Leader`](super::leader::Leader) and
//! [`Follower`](super::follower::Follower). Around them the least that makes a
//! protocol of it: logs whose records are an epoch and a number, syncs, crashes that lose what was
//! not synced, a controller that fences, elects from the ISR and decides about proposals, and
//! messages that come late or never. Scope: three replicas, one record, two elections, and a crash or
//! three changes of the ISR.
//!
//! Deliberately absent: retention, unclean elections, wiped disks, time beyond "late".

mod log;
mod state;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::leader::Rules;
use crate::controller::image::PartitionImage;
use crate::env::simulated::Bug;
use crate::types::{LeaderEpoch, Millis};
use log::Log;
use state::{Node, Role, State};

const REPLICAS: usize = 3;
const RULES: Rules = Rules { min_insync_replicas: 1, lag_time_max: 1_000 };
/// When every replica that is not at the end lags.
const LATE: Millis = 10_000;

/// The model gets somewhere.
const REACHED: &str = "all is committed, the last of it after an election";

/// How much may happen.
#[derive(Clone, Copy)]
struct Scope {
    records: u8,
    elections: LeaderEpoch,
    crashes: u8,
    /// Partition epochs: fencings, elections and ISRs.
    changes: i32,
    bug: Option<Bug>,
}

/// 2.6 million states.
const CRASHES: Scope = Scope { records: 1, elections: 2, crashes: 1, changes: 2, bug: None };

/// 8.7 million states; with one change more they are too many.
const ISR_CHANGES: Scope = Scope { crashes: 0, changes: 3, ..CRASHES };

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Append(usize),
    Sync(usize),
    Crash(usize),
    Restart(usize),
    Fence(usize),
    Unfence(usize),
    Image(usize),
    Fetch(usize),
    Answer(usize),
    Lose(usize),
    Tick(usize),
    Decide(usize),
    Accepted(usize),
}

impl Model for Scope {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let truth = PartitionImage {
            replicas: vec![0, 1, 2],
            directories: Vec::new(),
            isr: vec![0, 1, 2],
            adding: Vec::new(),
            removing: Vec::new(),
            elr: Vec::new(),
            last_known_elr: Vec::new(),
            leader: 0,
            recovering: false,
            leader_epoch: 0,
            partition_epoch: 0,
        };
        let node = Node {
            up: true,
            log: Log::default(),
            high_watermark: 0,
            role: Role::Idle(-1),
            active: [true; REPLICAS],
            coming: None,
            proposal: None,
            accepted: None,
        };
        let mut state = State {
            nodes: vec![node; REPLICAS],
            truth,
            active: [true; REPLICAS],
            written: 0,
            crashes: 0,
            committed: Vec::new(),
            contradicted: false,
        };
        (0..REPLICAS).for_each(|id| state.take_image(id));
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let elections_left = state.truth.leader_epoch < self.elections;
        for (id, node) in state.nodes.iter().enumerate() {
            if !node.up {
                if elections_left || !state.active[id] {
                    actions.push(Action::Restart(id));
                }
                continue;
            }
            let leads = matches!(node.role, Role::Leader(_));
            if leads && state.written < self.records {
                actions.push(Action::Append(id));
            }
            if node.log.synced < node.log.end() {
                actions.push(Action::Sync(id));
            }
            if state.crashes < self.crashes {
                actions.push(Action::Crash(id));
            }
            if state.active[id] && elections_left {
                actions.push(Action::Fence(id));
            }
            if !state.active[id] && elections_left {
                actions.push(Action::Unfence(id));
            }
            actions.push(Action::Image(id));
            if node.coming.is_some() {
                actions.extend([Action::Answer(id), Action::Lose(id)]);
            } else {
                actions.push(Action::Fetch(id));
            }
            if leads {
                actions.push(Action::Tick(id));
            }
            if node.proposal.is_some() {
                actions.push(Action::Decide(id));
            }
            if node.accepted.is_some() {
                actions.push(Action::Accepted(id));
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        crate::env::simulated::plant(self.bug);
        let mut state = before.clone();
        match action {
            Action::Append(id) => {
                let record = (node_epoch(&state.nodes[id]), state.written);
                state.written += 1;
                state.nodes[id].log.append(record);
                let end = state.nodes[id].log.end();
                state.leader(id, |leader, _| {
                    leader.on_append(end);
                    Vec::new()
                });
            }
            Action::Sync(id) => {
                let end = state.nodes[id].log.end();
                state.nodes[id].log.synced = end;
                state.leader(id, |leader, active| leader.on_synced(end, active, 0));
            }
            Action::Crash(id) => {
                state.crashes += 1;
                let node = &mut state.nodes[id];
                let synced = node.log.synced;
                node.log.truncate(synced);
                node.up = false;
                node.high_watermark = 0;
                node.role = Role::Idle(-1);
                (node.coming, node.proposal, node.accepted) = (None, None, None);
            }
            Action::Restart(id) => {
                // It registers anew, and so is out of service for a moment at least.
                if state.active[id] {
                    state.fence(id);
                }
                state.nodes[id].up = true;
            }
            Action::Fence(id) => state.fence(id),
            Action::Unfence(id) => {
                state.active[id] = true;
                state.elect();
                state.truth.partition_epoch += 1;
            }
            Action::Image(id) => state.take_image(id),
            Action::Fetch(id) => state.fetch(id)?,
            Action::Answer(id) => state.take_answer(id),
            Action::Lose(id) => state.nodes[id].coming = None,
            Action::Tick(id) => state.leader(id, |leader, active| leader.on_tick(active, LATE)),
            Action::Decide(id) => state.decide(id)?,
            Action::Accepted(id) => {
                let (epoch, isr, partition_epoch) = state.nodes[id].accepted.take()?;
                state.leader(id, |leader, active| {
                    leader.on_isr_accepted(epoch, &isr, partition_epoch, active, LATE)
                });
            }
        }
        (state != *before).then_some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.truth.partition_epoch <= self.changes
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no two leaders commit different records", |_, state: &State| {
                !state.contradicted
            }),
            Property::always("who leads has all that is committed", |_, state: &State| {
                let newest = state.truth.leader_epoch;
                state.nodes.iter().all(|node| {
                    !matches!(&node.role, Role::Leader(leader) if leader.epoch == newest)
                        || node.log.records.starts_with(&state.committed)
                })
            }),
            Property::always("a high watermark lies within the log", |_, state: &State| {
                state.nodes.iter().all(|node| node.high_watermark <= node.log.end())
            }),
            Property::sometimes(REACHED, |scope, state: &State| {
                state.committed.len() == usize::from(scope.records)
                    && state.committed.last().is_some_and(|it| it.0 > 0)
            }),
        ]
    }
}

fn node_epoch(node: &Node) -> LeaderEpoch {
    match &node.role {
        Role::Idle(epoch) => *epoch,
        Role::Leader(leader) => leader.epoch,
        Role::Follower(follower) => follower.epoch,
    }
}

impl Scope {
    fn check(self) -> impl Checker<Self> {
        self.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join()
    }
}

/// Whatever the order of events, the roles lose nothing. Returns what was looked at.
///
/// # Panics
/// When a property does not hold; tells the events that lead there.
pub fn check_roles() -> Vec<String> {
    let checked = |scope: Scope| {
        let checker = scope.check();
        checker.assert_properties();
        format!("{} states, {} steps deep", checker.unique_state_count(), checker.max_depth())
    };
    [CRASHES, ISR_CHANGES].map(checked).into()
}

/// The model can fail, too: bugs planted in the roles contradict it. Returns what each leads to.
///
/// # Panics
/// When one is not found.
pub fn check_planted_bugs() -> Vec<String> {
    let found = |bug: Bug| {
        let checker = Scope { bug: Some(bug), changes: 4, ..ISR_CHANGES }.check();
        let discoveries = checker.discoveries();
        let mut contradicted = discoveries.keys().filter(|name| **name != REACHED);
        let first = contradicted.next();
        let first = first.unwrap_or_else(|| panic!("{} is not found", bug.name()));
        format!("{}: not so after {} states: {first}", bug.name(), checker.unique_state_count())
    };
    [Bug::HighWatermarkByMajority, Bug::IsrExpandsWithoutLogEndCheck].map(found).into()
}
