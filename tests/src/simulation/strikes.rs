//! Carries out the faults of a scenario when their time comes, and starts what has ended again.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use ottla_broker::broker::Broker;
use ottla_broker::controller::lifecycle::Stage as Service;
use ottla_broker::env::Random;
use ottla_broker::env::simulated::Machine;
use ottla_broker::env::simulated::network::{self, Down};

use super::faults::{Act, Cut, Fault};
use super::node::{Ended, Node};
use super::scenario::{CONTROLLERS, host};
use super::trace::Trace;
use super::workload::World;

/// The host on which all clients run.
pub const CLIENTS: &str = "clients";

/// Before a process that gave up is started again, as a kubelet would.
const BACK_OFF: Duration = Duration::from_secs(1);
/// A process that is asked to stop is killed after so long, as a kubelet would.
const GRACE: Duration = Duration::from_secs(30);
/// A rolling restart goes on without a node that has not come back by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the loop that strikes and the clients tell each other.
#[derive(Default)]
pub struct Stage {
    pub load_began: Cell<Option<Duration>>,
    pub faults_over: Cell<bool>,
}

/// What is to be done at a later time.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Later {
    Start(usize),
    Kill(usize),
    Join(usize),
    FastLink(usize, usize),
    NoLoss,
    FastDisk(usize),
    RoomOnDisk(usize),
}

/// A pair of hosts, and what happens to what one sends to the other.
#[derive(Debug, Clone)]
struct Broken {
    id: usize,
    from: String,
    to: String,
    both: bool,
    held: bool,
}

struct Roll {
    next: usize,
    down: Duration,
    since: Duration,
}

pub struct Strikes {
    pending: Vec<Fault>,
    later: Vec<(Duration, Later)>,
    /// Nodes whose process does not run, or has been asked to stop.
    down: BTreeSet<usize>,
    roll: Option<Roll>,
    broken: Vec<Broken>,
    cuts: usize,
    nodes: Vec<Rc<Node>>,
    voters_are_complete: Rc<Cell<bool>>,
    dedicated: bool,
    dynamic: bool,
    latency_ms: u64,
    disk_ms: (u64, u64),
    stage: Rc<Stage>,
    random: Random,
    trace: Trace,
}

impl Strikes {
    pub fn new(world: &World, stage: Rc<Stage>) -> Self {
        let scenario = &world.scenario;
        let mut pending = scenario.faults.clone();
        pending.reverse();
        Self {
            pending,
            later: Vec::new(),
            down: BTreeSet::new(),
            roll: None,
            broken: Vec::new(),
            cuts: 0,
            nodes: world.nodes.to_vec(),
            voters_are_complete: world.voters_are_complete.clone(),
            dedicated: scenario.quorum.dedicated,
            dynamic: scenario.quorum.dynamic,
            latency_ms: scenario.latency_ms.1,
            disk_ms: scenario.disk_ms,
            stage,
            random: Random::from_seed(scenario.seed ^ 0xdead),
            trace: world.trace.clone(),
        }
    }

    /// Called after every step. An error is a node that ended without a reason.
    pub fn strike(&mut self, sim: &mut turmoil::Sim<'_>) -> Result<(), String> {
        let now = sim.elapsed();
        self.bury(sim, now)?;
        let Some(began) = self.stage.load_began.get() else { return Ok(()) };
        while let Some((_, later)) = self.later.pop_if(|(at, _)| *at <= now) {
            self.do_later(sim, &later);
        }
        let since = now.saturating_sub(began);
        while let Some(fault) = self.pending.pop_if(|fault| fault.at <= since) {
            self.trace.note(&format!("FAULT {:?}", fault.act));
            self.act(sim, now, fault.act);
        }
        self.go_on_rolling(now);
        let over = self.pending.is_empty()
            && self.later.is_empty()
            && self.roll.is_none()
            && self.down.is_empty();
        self.stage.faults_over.set(over);
        Ok(())
    }

    fn plan(&mut self, at: Duration, later: Later) {
        self.later.push((at, later));
        // The first to be due is last; equals in the order in which they were planned.
        self.later.sort_by(|(a, _), (b, _)| b.cmp(a));
    }

    fn act(&mut self, sim: &mut turmoil::Sim<'_>, now: Duration, act: Act) {
        match act {
            Act::Crash { nodes, power, down } => {
                for node in nodes {
                    self.crash(sim, now, node, power, down, |_, _| {});
                }
            }
            Act::Rot { node, down } => self.crash(sim, now, node, false, down, |it, machine| {
                let wanted = |path: &std::path::Path| {
                    let extension = path.extension().and_then(|it| it.to_str()).unwrap_or("");
                    ["index", "timeindex", "snapshot"].contains(&extension)
                };
                let rotten = machine.disk.rot(&it.random, wanted);
                it.trace.note(&format!("a bit flips in {rotten:?}"));
            }),
            Act::Wipe { node, down } => {
                if self.may_wipe(node) {
                    // Until the operator has seen to it, no second one.
                    self.voters_are_complete.set(node >= CONTROLLERS);
                    self.crash(sim, now, node, false, down, |_, machine| machine.disk.wipe());
                } else {
                    self.trace.note("not wiped: that would be more than one at a time");
                }
            }
            Act::Restart { node, down } => self.ask_to_stop(now, node, down),
            Act::Roll { down } => {
                if self.roll.is_none() {
                    self.roll = Some(Roll { next: 0, down, since: now });
                    self.ask_to_stop(now, 0, down);
                }
            }
            Act::Cut(cut) => self.cut(sim, now, &cut),
            Act::SlowLink { a, b, ms, lasts } => {
                sim.set_link_max_message_latency(host(a), host(b), Duration::from_millis(ms));
                self.plan(now + lasts, Later::FastLink(a, b));
            }
            Act::Loss { rate, lasts } => {
                sim.set_fail_rate(rate);
                network::set_lossy(true);
                self.plan(now + lasts, Later::NoLoss);
            }
            Act::SlowDisk { node, ms, lasts } => {
                self.nodes[node].machine.disk.set_latency_ms(self.disk_ms.0, ms);
                self.plan(now + lasts, Later::FastDisk(node));
            }
            Act::FullDisk { node, lasts } => {
                self.nodes[node].machine.disk.set_full(true);
                self.plan(now + lasts, Later::RoomOnDisk(node));
            }
            Act::FailingDisk { node, fails, times } => {
                self.nodes[node].machine.disk.fail(fails, times);
            }
            Act::ClockJump { node, ms } => self.nodes[node].machine.jump(ms),
        }
    }

    fn do_later(&mut self, sim: &mut turmoil::Sim<'_>, later: &Later) {
        self.trace.note(&format!("OVER {later:?}"));
        match *later {
            Later::Start(node) => {
                self.later.retain(|(_, other)| *other != Later::Kill(node));
                self.down.remove(&node);
                sim.bounce(host(node));
            }
            Later::Kill(node) => {
                sim.crash(host(node));
                self.nodes[node].is_dead(Down::Process);
                let now = sim.elapsed();
                self.plan(now + BACK_OFF, Later::Start(node));
            }
            Later::Join(id) => self.join(sim, id),
            Later::FastLink(a, b) => {
                let usual = Duration::from_millis(self.latency_ms);
                sim.set_link_max_message_latency(host(a), host(b), usual);
            }
            Later::NoLoss => {
                sim.set_fail_rate(0.0);
                network::set_lossy(false);
            }
            Later::FastDisk(node) => {
                let (least, most) = self.disk_ms;
                self.nodes[node].machine.disk.set_latency_ms(least, most);
            }
            Later::RoomOnDisk(node) => self.nodes[node].machine.disk.set_full(false),
        }
    }

    fn crash(
        &mut self,
        sim: &mut turmoil::Sim<'_>,
        now: Duration,
        node: usize,
        power: bool,
        down: Duration,
        then: impl FnOnce(&mut Self, &Machine),
    ) {
        let is_stopping = self.later.iter().any(|(_, later)| *later == Later::Kill(node));
        if self.down.contains(&node) && !is_stopping {
            return;
        }
        self.later.retain(|(_, later)| *later != Later::Kill(node));
        if power {
            // Nobody is left to say that the connections are closed.
            let everybody = (0..self.nodes.len()).map(host).chain([CLIENTS.to_owned()]);
            let others: Vec<_> = everybody.filter(|other| *other != host(node)).collect();
            let id = self.next_cut();
            for other in others {
                let (from, to) = (host(node), other);
                self.broken.push(Broken { id, from, to, both: true, held: false });
            }
            self.apply_cuts(sim);
            self.plan(now + down, Later::Join(id));
        }
        sim.crash(host(node));
        self.nodes[node].is_dead(if power { Down::Machine } else { Down::Process });
        let machine = self.nodes[node].machine.clone();
        if power {
            machine.disk.lose_power(&self.random);
        }
        then(self, &machine);
        self.down.insert(node);
        self.plan(now + down, Later::Start(node));
    }

    fn ask_to_stop(&mut self, now: Duration, node: usize, down: Duration) {
        if self.down.insert(node) {
            self.nodes[node].ask_to_stop();
            self.plan(now + GRACE + down, Later::Kill(node));
        }
    }

    /// Clears away the processes that ended by themselves.
    fn bury(&mut self, sim: &mut turmoil::Sim<'_>, now: Duration) -> Result<(), String> {
        for node in self.nodes.clone() {
            let Some(ended) = node.ended.borrow_mut().take() else { continue };
            let refused = node.machine.disk.refused() > node.refused_before.get();
            let number = node.number;
            self.trace.note(&format!("node {number} ended: {ended:?}"));
            let again = match ended {
                Ended::Stopped => Duration::from_millis(100),
                Ended::Gave(_) if refused => BACK_OFF,
                Ended::Gave(why) => return Err(format!("gave up: node {number}: {why}")),
            };
            self.later.retain(|(_, later)| *later != Later::Kill(number));
            sim.crash(host(number));
            node.is_dead(Down::Process);
            self.down.insert(number);
            self.plan(now + again, Later::Start(number));
        }
        Ok(())
    }

    fn go_on_rolling(&mut self, now: Duration) {
        let Some(roll) = &self.roll else { return };
        let (node, down) = (roll.next, roll.down);
        let in_service = !self.down.contains(&node)
            && self.nodes[node].broker().is_some_and(|it| self.is_in_service(node, &it));
        if !in_service && now < roll.since + GRACE + PATIENCE {
            return;
        }
        if node + 1 == self.nodes.len() {
            self.roll = None;
            return;
        }
        self.roll = Some(Roll { next: node + 1, down, since: now });
        self.ask_to_stop(now, node + 1, down);
    }

    /// A broker of which the controller knows that it is there again; or a node that is none.
    fn is_in_service(&self, node: usize, broker: &Broker) -> bool {
        self.dedicated && node < CONTROLLERS
            || *broker.lifecycle.stage().borrow() == Service::Unfenced
    }

    fn next_cut(&mut self) -> usize {
        self.cuts += 1;
        self.cuts
    }

    fn cut(&mut self, sim: &mut turmoil::Sim<'_>, now: Duration, cut: &Cut) {
        let id = self.next_cut();
        let others = cut.to.iter().map(|to| host(*to));
        let others: Vec<_> = others.chain(cut.clients.then(|| CLIENTS.to_owned())).collect();
        for from in &cut.from {
            for to in &others {
                let (from, to) = (host(*from), to.clone());
                self.broken.push(Broken { id, from, to, both: cut.both, held: cut.held });
            }
        }
        self.apply_cuts(sim);
        self.plan(now + cut.lasts, Later::Join(id));
    }

    fn join(&mut self, sim: &turmoil::Sim<'_>, id: usize) {
        let (joined, left): (Vec<_>, Vec<_>) = self.broken.drain(..).partition(|it| it.id == id);
        self.broken = left;
        for pair in joined {
            sim.release(&*pair.from, &*pair.to);
        }
        self.apply_cuts(sim);
    }

    fn apply_cuts(&self, sim: &turmoil::Sim<'_>) {
        for Broken { from, to, both, held, .. } in &self.broken {
            match (held, both) {
                (true, _) => sim.hold(&**from, &**to),
                (false, true) => sim.partition(&**from, &**to),
                (false, false) => sim.partition_oneway(&**from, &**to),
            }
        }
        let there = self.broken.iter().map(|it| (it.from.clone(), it.to.clone()));
        let back = self.broken.iter().filter(|it| it.both);
        let back = back.map(|it| (it.to.clone(), it.from.clone()));
        network::set_cuts(there.chain(back).collect());
    }

    /// Of a quorum in which a voter is known by its id alone, no voter's disk may be replaced. Else
    /// one at a time; the disk of a controller that is no broker whatever else is going on.
    fn may_wipe(&self, node: usize) -> bool {
        let voter = node < CONTROLLERS;
        let allowed = self.voters_are_complete.get() && (self.dynamic || !voter);
        let down = self.down.contains(&node);
        allowed && !down && ((self.dedicated && voter) || self.all_is_well())
    }

    /// Every node is up and every partition has all its replicas in sync.
    fn all_is_well(&self) -> bool {
        self.down.is_empty()
            && self.broken.is_empty()
            && self.nodes.iter().all(|node| {
                node.broker().is_some_and(|broker| {
                    // Else the image may be of before a crash that nobody has noticed yet.
                    let serves = self.is_in_service(node.number, &broker);
                    let image = broker.image.load_full();
                    let mut partitions = image.topics().flat_map(|it| it.partitions.values());
                    serves
                        && partitions.all(|it| it.isr.len() == it.replicas.len())
                        && image.brokers().all(|it| !it.fenced)
                })
            })
    }
}
