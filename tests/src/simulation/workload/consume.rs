//! Members of a group that read a topic: they join, leave, crash and pause, and commit what they
//! have read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, sleep};

use super::committed::{Fetched, fetch_committed};
use super::coordinators::OF_GROUPS;
use super::member::{Membership, fetch_offsets};
use super::{Led, RETRY, World};
use crate::simulation::scenario::{GroupKind, INPUT};
use crate::simulation::wire::Connection;

const GROUP: &str = "members";
const MEMBERS: usize = 3;
/// What a fetch brings of a partition at most, unless one batch is larger.
const FETCH_BYTES: i32 = 1_500;
/// A pause of a consumer that has nothing to read.
const IDLE: Duration = Duration::from_millis(80);

/// Who commits the offsets, and so says what may be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Committer {
    Members,
    Transactions,
}

/// What a partition brought: offsets and values, and where to go on.
pub(super) type Read = BTreeMap<i32, (Vec<(i64, String)>, i64)>;

/// A member with its positions.
pub(super) struct Consumer {
    pub member: Membership,
    pub positions: BTreeMap<i32, i64>,
    committer: Committer,
    entries: u64,
    connections: BTreeMap<i32, (Connection, Led)>,
}

impl Consumer {
    pub fn new(member: Membership, committer: Committer) -> Self {
        let (positions, connections) = (BTreeMap::new(), BTreeMap::new());
        Self { member, positions, committer, entries: 0, connections }
    }

    /// Beats, and finds out where to read. Whether there is something to read.
    pub async fn is_ready(&mut self) -> bool {
        self.member.poll().await;
        if !self.member.joined {
            return false;
        }
        if self.entries != self.member.entries {
            self.entries = self.member.entries;
            self.positions.clear();
        }
        let assigned = self.member.assigned.clone();
        self.positions.retain(|partition, _| assigned.contains(partition));
        let new: BTreeSet<i32> =
            assigned.iter().copied().filter(|it| !self.positions.contains_key(it)).collect();
        if !new.is_empty() {
            let floors: BTreeMap<i32, i64> =
                new.iter().map(|partition| (*partition, self.floor(*partition))).collect();
            let Some(found) = self.member.committed(&new).await else {
                sleep(RETRY).await;
                return false;
            };
            for (partition, offset) in found {
                self.judge(partition, offset, floors.get(&partition).copied().unwrap_or(-1));
                self.positions.insert(partition, offset.max(0));
            }
        }
        if self.positions.is_empty() {
            sleep(IDLE).await;
        }
        !self.positions.is_empty()
    }

    fn floor(&self, partition: i32) -> i64 {
        let history = self.member.world.history.borrow();
        match self.committer {
            Committer::Members => history.groups.floor(&self.member.group, partition),
            Committer::Transactions => history.ledger.committed_offset(partition),
        }
    }

    fn judge(&self, partition: i32, offset: i64, floor: i64) {
        self.member.note(&format!("goes on with {partition}@{offset}"));
        let history = self.member.world.history.borrow();
        let judged = match self.committer {
            Committer::Members => {
                history.groups.found(&self.member.group, partition, offset, floor)
            }
            Committer::Transactions if offset < floor => Err(format!(
                "lost: transactions have committed {floor} for {partition}, and {offset} is found"
            )),
            Committer::Transactions if !history.ledger.may_be_committed(partition, offset) => {
                Err(format!("dirty: {partition}@{offset} was found, which nobody committed"))
            }
            Committer::Transactions => Ok(()),
        };
        drop(history);
        if let Err(what) = judged {
            self.member.world.violate(what);
        }
    }

    /// Some records of each partition.
    pub async fn read(&mut self) -> Read {
        let mut read = Read::new();
        for (partition, position) in self.positions.clone() {
            let place = (self.member.topic.clone(), partition);
            if !self.connections.contains_key(&partition) {
                let world = self.member.world.clone();
                let found = world.to_leader(&place, &mut self.member.random).await;
                let Some(found) = found else { continue };
                self.connections.insert(partition, found);
            }
            let Some((connection, led)) = self.connections.get_mut(&partition) else { continue };
            let fetched =
                fetch_committed(connection, &place, led.epoch, position, (0, FETCH_BYTES)).await;
            match fetched {
                Ok(Fetched { code: 0, records, next }) if next > position => {
                    read.insert(partition, (records, next));
                }
                Ok(Fetched { code: 0, .. }) => {}
                _ => {
                    self.connections.remove(&partition);
                }
            }
        }
        if read.is_empty() {
            sleep(IDLE).await;
        }
        read
    }

    /// Its process is gone.
    pub fn crash(mut self) {
        self.member.note("crashes");
        self.member.give_up();
    }
}

impl World {
    /// Until the whole test is over: what was there at the end of the load is read after it.
    pub(super) fn start_members(&self, kind: GroupKind) {
        for number in 0..MEMBERS {
            tokio::task::spawn_local(self.clone().be_member(kind, number));
        }
    }

    /// A client of the group, life after life.
    async fn be_member(self, kind: GroupKind, number: usize) {
        let mut random = self.random(&format!("member {number}"));
        let mut life = 0;
        while !self.over.get() {
            life += 1;
            let who = format!("m{number}.{life}");
            let member = Membership::new(self.clone(), kind, GROUP, INPUT, &who);
            let mut consumer = Consumer::new(member, Committer::Members);
            let mut committed = BTreeMap::new();
            let until = Instant::now() + Duration::from_millis(random.random_range(1_000..9_000));
            while !self.over.get() && (Instant::now() < until || self.calm.get()) {
                if !consumer.is_ready().await {
                    continue;
                }
                for (partition, (_, next)) in consumer.read().await {
                    consumer.positions.insert(partition, next);
                }
                if random.random_bool(0.03) && !self.calm.get() {
                    sleep(self.scenario.session().mul_f64(random.random_range(0.5..2.0))).await;
                }
                let positions = consumer.positions.clone();
                if random.random_bool(0.4) && positions != committed {
                    if consumer.member.commit(&positions).await {
                        committed = positions;
                    } else {
                        consumer.positions.clear();
                    }
                }
            }
            if self.over.get() || random.random_bool(0.5) {
                consumer.member.leave().await;
            } else {
                consumer.crash();
            }
            sleep(Duration::from_millis(random.random_range(50..1_500))).await;
        }
    }

    /// Once nothing strikes any more a group comes to the end of what there is.
    pub(super) async fn group_is_done(&self, group: &str, end: Instant) -> Result<(), String> {
        let mut random = self.random(&format!("end of {group}"));
        let mut last = None;
        while Instant::now() < end {
            match self.look_at_group(group, &mut random).await {
                Ok(None) => return Ok(()),
                Ok(found) => last = found,
                Err(_) => {}
            }
            sleep(RETRY).await;
        }
        Err(format!("stuck: {group} makes no progress after the last fault: {last:?}"))
    }

    /// Where the group is, and where the topic ends, unless it is there.
    async fn look_at_group(
        &self,
        group: &str,
        random: &mut rand::rngs::StdRng,
    ) -> std::io::Result<Option<String>> {
        let places = self.places.borrow().clone();
        let places: Vec<_> = places.into_iter().filter(|(topic, _)| topic == INPUT).collect();
        let partitions = places.iter().map(|(_, partition)| *partition).collect();
        let mut connection = self.coordinator_of(group, OF_GROUPS, random).await?;
        let found = fetch_offsets(&mut connection, group, INPUT, &partitions, None, true).await?;
        let found = match found {
            Ok(found) => found,
            Err(code) => return Ok(Some(format!("offsets are refused: {code}"))),
        };
        for place in places {
            let Some((mut connection, _)) = self.to_leader(&place, random).await else {
                return Ok(Some(format!("{place:?} has no leader")));
            };
            let ends = super::committed::end_of(&mut connection, &place, false).await?;
            let at = found.get(&place.1).copied().unwrap_or(-1);
            if at < ends {
                return Ok(Some(format!("it is at {at} of {place:?}, which ends at {ends}")));
            }
        }
        Ok(None)
    }

    /// Whatever groups are there have to come to the end.
    pub async fn groups_are_done(&self, end: Instant) -> Result<(), String> {
        if self.scenario.extras.members.is_some() {
            self.group_is_done(GROUP, end).await?;
        }
        if self.scenario.extras.pipeline.is_some() {
            self.group_is_done(super::pipeline::GROUP, end).await?;
        }
        Ok(())
    }
}
