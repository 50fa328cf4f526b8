//! Consume, transform, produce: each input becomes one output, in a transaction that has the
//! group's offsets as well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::consume::{Committer, Consumer, Read};
use super::coordinators::OF_GROUPS;
use super::member::{Membership, fetch_offsets};
use super::transactor::{Transactor, Trouble};
use super::{RETRY, World};
use crate::simulation::history::{FinalLog, Place};
use crate::simulation::ledger::Ledger;
use crate::simulation::scenario::{GroupKind, INPUT, LEDGER, OUTPUT};

pub(super) const GROUP: &str = "pipeline";
const WORKERS: usize = 2;
/// Their transactional ids begin with this.
const ID: &str = "pipe";
const PATIENCE: Duration = Duration::from_secs(6);
/// In one batch.
const MOST_VALUES: usize = 15;
/// Longer than any pause: who pauses is thrown out of the group before.
const TIMEOUT_MS: i32 = 20_000;

/// A process that transforms.
struct Worker {
    world: World,
    id: String,
    instances: u64,
    transactor: Transactor,
    consumer: Consumer,
    count: u64,
    random: StdRng,
}

impl World {
    pub(super) fn start_pipeline(&self, kind: GroupKind) {
        for number in 0..WORKERS {
            tokio::task::spawn_local(self.clone().transform(kind, number));
        }
        tokio::task::spawn_local(self.clone().watch_offsets());
    }

    /// One worker, life after life, always with the same transactional id.
    async fn transform(self, kind: GroupKind, number: usize) {
        let id = format!("{ID}{number}");
        let (mut life, mut instances) = (0, 0);
        // In the end one is enough, and has the group for itself.
        while !(self.over.get() || self.calm.get() && number > 0) {
            life += 1;
            let who = format!("{id}.{life}");
            let member = Membership::new(self.clone(), kind, GROUP, INPUT, &who);
            let mut worker = Worker {
                id: id.clone(),
                instances,
                transactor: Transactor::new(self.clone(), &id, 0, TIMEOUT_MS),
                consumer: Consumer::new(member, Committer::Transactions),
                count: 0,
                random: self.random(&format!("worker {who}")),
                world: self.clone(),
            };
            worker.run().await;
            instances = worker.instances;
            if self.over.get() || self.calm.get() || worker.random.random_bool(0.3) {
                worker.consumer.member.leave().await;
            } else {
                worker.consumer.crash();
            }
            sleep(Duration::from_millis(worker.random.random_range(20..1_500))).await;
        }
    }

    /// Offsets of transactions that are open, or were aborted, are nobody's to see.
    async fn watch_offsets(self) {
        let mut random = self.random("watch offsets");
        let mut connection = None;
        while !self.over.get() {
            sleep(Duration::from_millis(random.random_range(50..400))).await;
            if connection.is_none() {
                connection = self.coordinator_of(GROUP, OF_GROUPS, &mut random).await.ok();
            }
            let Some(open) = &mut connection else { continue };
            let places = self.places.borrow().clone();
            let ours = places.iter().filter(|(topic, _)| topic == INPUT);
            let partitions: BTreeSet<i32> = ours.map(|(_, partition)| *partition).collect();
            let found = fetch_offsets(open, GROUP, INPUT, &partitions, None, false).await;
            let Ok(Ok(found)) = found else {
                connection = None;
                continue;
            };
            for (partition, offset) in found {
                let history = self.history.borrow();
                let may_be = history.ledger.may_be_committed(partition, offset);
                drop(history);
                if !may_be {
                    self.violate(format!(
                        "dirty: the pipeline's offset {partition}@{offset} is visible, and no \
                         transaction that holds it was to be committed"
                    ));
                }
            }
        }
    }

    /// Judges what was written in transactions, once all is quiet.
    pub async fn check_ledgers(
        &self,
        logs: &BTreeMap<Place, FinalLog>,
        end: Instant,
    ) -> Result<(), String> {
        let mut found = BTreeMap::new();
        for name in [LEDGER, OUTPUT] {
            let partitions = self.scenario.ledger(name).map_or(0, |topic| topic.partitions);
            for place in (0..partitions).map(|partition| (name.to_owned(), partition)) {
                let records = self.all_committed(&place, end).await?;
                found.insert(place, records);
            }
        }
        self.history.borrow().ledger.verdict(&found)?;
        if self.scenario.extras.pipeline.is_none() {
            return Ok(());
        }
        let inputs: BTreeMap<i32, BTreeSet<i64>> = logs
            .iter()
            .filter(|((topic, _), _)| topic == INPUT)
            .map(|((_, partition), log)| (*partition, log.records.keys().copied().collect()))
            .collect();
        let mut seen = BTreeMap::new();
        for ((_, _), outputs) in found.iter().filter(|((topic, _), _)| topic == OUTPUT) {
            Ledger::each_once(&inputs, outputs, &mut seen)?;
        }
        for (partition, offsets) in &inputs {
            for offset in offsets {
                if !seen.contains_key(&(*partition, *offset)) {
                    return Err(format!("lost: input {partition}@{offset} has no output"));
                }
            }
        }
        Ok(())
    }
}

impl Worker {
    /// Until it crashes, leaves, or the test is over.
    async fn run(&mut self) {
        if !self.renew().await {
            return;
        }
        let ends_at =
            Instant::now() + Duration::from_millis(self.random.random_range(1_500..12_000));
        loop {
            let calm = self.world.calm.get();
            let is_last = self.id == format!("{ID}0");
            if self.world.over.get() || (Instant::now() > ends_at || calm) && !(calm && is_last) {
                return;
            }
            if !self.consumer.is_ready().await {
                continue;
            }
            let read = self.consumer.read().await;
            if read.is_empty() {
                continue;
            }
            match self.transaction(&read).await {
                Ok(()) => {}
                // It dies.
                Err(None) => return,
                Err(Some(trouble)) => {
                    self.consumer.positions.clear();
                    let open = self.transactor.open.clone();
                    let aborted = match open.filter(|_| trouble == Trouble::Abort) {
                        Some(open) => self.transactor.end(&open, false, PATIENCE).await.is_ok(),
                        None => false,
                    };
                    if !aborted && !self.renew().await {
                        return;
                    }
                }
            }
        }
    }

    /// A new instance of the producer, which fences the last one.
    async fn renew(&mut self) -> bool {
        self.instances += 1;
        self.transactor = Transactor::new(self.world.clone(), &self.id, self.instances, TIMEOUT_MS);
        self.transactor.init(Instant::now() + Duration::from_mins(3)).await
    }

    /// Whether something goes wrong with the process now; nothing does once the load is over.
    fn chance(&mut self, share: f64) -> bool {
        self.random.random_bool(share) && !self.world.calm.get()
    }

    /// `Err(None)`: the process dies within it.
    async fn transaction(&mut self, read: &Read) -> Result<(), Option<Trouble>> {
        self.count += 1;
        let name = format!("{}.{}.{}", self.id, self.instances, self.count);
        let txn = self.transactor.begin(&name);
        let partitions = self.world.scenario.ledger(OUTPUT).map_or(1, |topic| topic.partitions);
        let mut outputs: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for (partition, (records, _)) in read {
            for (offset, _) in records {
                let to = (offset % i64::from(partitions)) as i32;
                outputs.entry(to).or_default().push(format!("{txn}:{partition}@{offset}"));
            }
        }
        // A batch has to fit a segment.
        let batches = outputs
            .iter()
            .flat_map(|(to, values)| values.chunks(MOST_VALUES).map(move |values| (*to, values)));
        for (to, values) in batches {
            let place = (OUTPUT.to_owned(), to);
            self.transactor.produce(&txn, &place, values, PATIENCE).await.map_err(Some)?;
            self.consumer.member.keep_alive().await;
            if self.chance(0.01) {
                return Err(None);
            }
        }
        if self.chance(0.03) {
            let pause = self.random.random_range(0.5..2.0);
            sleep(self.world.scenario.session().mul_f64(pause)).await;
        }
        let offsets: BTreeMap<i32, i64> =
            read.iter().map(|(partition, (_, next))| (*partition, *next)).collect();
        self.commit_offsets(&txn, &offsets).await.map_err(Some)?;
        if self.chance(0.02) {
            return Err(None);
        }
        self.consumer.member.keep_alive().await;
        let commit = !self.chance(0.08);
        self.transactor.end(&txn, commit, PATIENCE * 2).await.map_err(Some)?;
        if commit {
            self.consumer.positions.extend(offsets);
        } else {
            sleep(RETRY).await;
        }
        Ok(())
    }

    async fn commit_offsets(
        &mut self,
        txn: &str,
        offsets: &BTreeMap<i32, i64>,
    ) -> Result<(), Trouble> {
        let member = &self.consumer.member;
        let superseded: Vec<i32> = {
            let history = self.world.history.borrow();
            let lost = |it: &&i32| history.groups.is_superseded(GROUP, &member.who, **it);
            offsets.keys().filter(lost).copied().collect()
        };
        self.transactor.commit_offsets(txn, member, offsets, PATIENCE).await?;
        if !superseded.is_empty() {
            let (who, epoch) = (&member.who, member.epoch);
            self.world.violate(format!(
                "fenced: {who} may put offsets of {superseded:?} into {txn} in {epoch}, although \
                 another has the partitions"
            ));
        }
        Ok(())
    }
}
