//! What the nodes and the controller have, and how they act on it.

use super::log::{Log, Record};
use super::{REPLICAS, RULES};
use crate::controller::image::PartitionImage;
use crate::error::ErrorCode;
use crate::replica::follower::{self, Answer, Follower};
use crate::replica::leader::{self, Brokers, Leader, Proposal, ReplicaFetch};
use crate::types::{BrokerEpoch, LeaderEpoch, NO_LEADER, NodeId, Offset};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Role {
    Idle(LeaderEpoch),
    Leader(Box<Leader>),
    Follower(Follower),
}

/// A leader's answer on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coming {
    pub epoch: LeaderEpoch,
    pub asked: Offset,
    pub high_watermark: Offset,
    pub diverging: Option<(LeaderEpoch, Offset)>,
    pub records: Vec<Record>,
}

impl Coming {
    fn answer(&self) -> Answer {
        let first = (!self.records.is_empty()).then_some(self.asked);
        Answer {
            error: None,
            high_watermark: self.high_watermark,
            log_start: 0,
            diverging: self.diverging,
            first_offset: first,
            next_offset: first.map_or(-1, |first| first + self.records.len() as Offset),
        }
    }
}

pub type Active = [bool; REPLICAS];

impl Brokers for Active {
    fn active(&self, id: NodeId) -> Option<BrokerEpoch> {
        self[id as usize].then_some(1)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    pub up: bool,
    pub log: Log,
    pub high_watermark: Offset,
    pub role: Role,
    /// Who is active by the image that this node has.
    pub active: Active,
    pub coming: Option<Coming>,
    pub proposal: Option<Proposal>,
    /// What the controller accepted and the leader has not heard yet.
    pub accepted: Option<(LeaderEpoch, Vec<NodeId>, i32)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub nodes: Vec<Node>,
    /// What the controller has decided.
    pub truth: PartitionImage,
    pub active: Active,
    pub written: u8,
    pub crashes: u8,
    /// What was below the high watermark of a leader.
    pub committed: Vec<Record>,
    /// Two leaders had different records there.
    pub contradicted: bool,
}

impl State {
    fn commit(&mut self, of: usize) {
        let node = &self.nodes[of];
        let below = &node.log.records[..node.high_watermark as usize];
        let both = below.len().min(self.committed.len());
        self.contradicted |= below[..both] != self.committed[..both];
        if below.len() > both {
            self.committed = below.to_vec();
        }
    }

    fn carry_out(&mut self, of: usize, effects: leader::Effects) {
        for effect in effects {
            match effect {
                leader::Effect::HighWatermark(offset) => {
                    let node = &mut self.nodes[of];
                    node.high_watermark = node.high_watermark.max(offset);
                    self.commit(of);
                }
                leader::Effect::ProposeIsr(proposal) => self.nodes[of].proposal = Some(proposal),
            }
        }
    }

    /// Has the leader `of` do something.
    pub fn leader(&mut self, of: usize, act: impl FnOnce(&mut Leader, &Active) -> leader::Effects) {
        let node = &mut self.nodes[of];
        let Role::Leader(leader) = &mut node.role else { return };
        let effects = act(leader, &node.active);
        self.carry_out(of, effects);
    }

    pub fn elect(&mut self) {
        let may_lead = |id: &NodeId| self.truth.isr.contains(id) && self.active[*id as usize];
        let stays = Some(self.truth.leader).filter(may_lead);
        let first = self.truth.replicas.iter().copied().find(may_lead);
        let leader = stays.or(first).unwrap_or(NO_LEADER);
        if leader != self.truth.leader {
            self.truth.leader = leader;
            self.truth.leader_epoch += 1;
        }
    }

    pub fn fence(&mut self, id: usize) {
        self.active[id] = false;
        if self.truth.isr.len() > 1 {
            self.truth.isr.retain(|member| *member != id as NodeId);
        }
        self.elect();
        self.truth.partition_epoch += 1;
    }

    /// As `Partition::apply`.
    pub fn take_image(&mut self, id: usize) {
        let (truth, active) = (self.truth.clone(), self.active);
        let node = &mut self.nodes[id];
        node.active = active;
        if truth.leader == id as NodeId {
            if matches!(&node.role, Role::Leader(leader) if leader.epoch == truth.leader_epoch) {
                self.leader(id, |leader, active| leader.on_image(&truth, active, 0));
                return;
            }
            let (end, synced) = (node.log.end(), node.log.synced);
            node.log.begin_epoch(truth.leader_epoch, end);
            let known = node.high_watermark;
            let me = id as NodeId;
            node.role =
                Role::Leader(Box::new(Leader::new(me, &truth, end, synced, known, RULES, 0)));
            node.proposal = None;
            node.accepted = None;
            self.leader(id, |leader, active| leader.on_synced(synced, active, 0));
        } else if truth.leader == NO_LEADER {
            node.role = Role::Idle(truth.leader_epoch);
        } else if !matches!(&node.role, Role::Follower(it) if it.epoch == truth.leader_epoch) {
            let known = node.high_watermark;
            node.role = Role::Follower(Follower::new(truth.leader, truth.leader_epoch, known));
        }
    }

    /// The follower asks and the leader answers; the answer is on its way.
    pub fn fetch(&mut self, id: usize) -> Option<()> {
        let node = &self.nodes[id];
        let Role::Follower(follower) = &node.role else { return None };
        let (by, epoch) = (follower.leader as usize, follower.epoch);
        let from = node.log.end();
        if node.log.synced < from || !self.nodes[by].up {
            return None;
        }
        let last = node.log.epochs.last().map(|(epoch, _)| *epoch).filter(|_| from > 0);
        if !matches!(&self.nodes[by].role, Role::Leader(leader) if leader.epoch == epoch) {
            return None;
        }
        let mut records = Vec::new();
        let there = last.map(|last| (last, self.nodes[by].log.end_of(last)));
        let diverging = match there {
            Some((last, Some((epoch, end)))) if epoch < last || end < from => Some((epoch, end)),
            Some((_, None)) => return None,
            _ => None,
        };
        if diverging.is_none() {
            if from > self.nodes[by].log.end() {
                return None;
            }
            let fetch = ReplicaFetch {
                replica: id as NodeId,
                broker_epoch: -1,
                offset: from,
                log_start: 0,
            };
            self.leader(by, |leader, active| leader.on_fetch(fetch, active, 0).unwrap_or_default());
            records = self.nodes[by].log.records[from as usize..].to_vec();
        }
        let high_watermark = self.nodes[by].high_watermark;
        let coming = Coming { epoch, asked: from, high_watermark, diverging, records };
        self.nodes[id].coming = Some(coming);
        Some(())
    }

    pub fn take_answer(&mut self, id: usize) {
        let node = &mut self.nodes[id];
        let Some(coming) = node.coming.take() else { return };
        let Role::Follower(follower) = &mut node.role else { return };
        let effects = follower.on_answer(coming.epoch, coming.asked, &coming.answer(), &node.log);
        for effect in effects {
            match effect {
                follower::Effect::Truncate(offset) => node.log.truncate(offset),
                follower::Effect::Append => {
                    coming.records.iter().for_each(|record| node.log.append(*record));
                }
                follower::Effect::HighWatermark(offset) => node.high_watermark = offset,
                _ => {}
            }
        }
    }

    /// The controller decides about a proposal; a refusal is heard at once.
    pub fn decide(&mut self, id: usize) -> Option<()> {
        let proposal = self.nodes[id].proposal.take()?;
        let members: Vec<NodeId> = proposal.isr.iter().map(|(id, _)| *id).collect();
        let refusal = if proposal.leader_epoch != self.truth.leader_epoch {
            Some(ErrorCode::FencedLeaderEpoch)
        } else if proposal.partition_epoch != self.truth.partition_epoch {
            Some(ErrorCode::InvalidUpdateVersion)
        } else if !members.iter().all(|id| self.active[*id as usize]) {
            Some(ErrorCode::IneligibleReplica)
        } else {
            None
        };
        if let Some(code) = refusal {
            if let Role::Leader(leader) = &mut self.nodes[id].role {
                leader.on_isr_refused(&proposal, code);
            }
            return Some(());
        }
        self.truth.isr = members;
        self.truth.partition_epoch += 1;
        let truth = &self.truth;
        self.nodes[id].accepted =
            Some((truth.leader_epoch, truth.isr.clone(), truth.partition_epoch));
        Some(())
    }
}
