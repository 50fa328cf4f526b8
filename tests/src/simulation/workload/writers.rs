//! Transactional producers that write to several partitions. They commit, abort, take too long, and
//! are replaced; some go on all the same.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::World;
use super::transactor::{Transactor, Trouble};
use crate::simulation::history::Place;
use crate::simulation::scenario::LEDGER;

/// So long one call of a transaction may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(6);
/// A transaction time-out that is never reached.
const LONG_MS: i32 = 60_000;
/// How many transactional ids there are.
pub(super) const WRITERS: usize = 2;

fn millis(random: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.random_range(from..to))
}

impl World {
    fn ledger_places(&self) -> Vec<Place> {
        let partitions = self.scenario.ledger(LEDGER).map_or(0, |topic| topic.partitions);
        (0..partitions).map(|partition| (LEDGER.to_owned(), partition)).collect()
    }

    /// One transactional id, instance after instance.
    pub(super) async fn write_transactions(self, number: usize, end: Instant) {
        let id = format!("w{number}");
        let mut random = self.random(&format!("writer {id}"));
        let mut instance = 0;
        while Instant::now() < end {
            instance += 1;
            let timeout_ms = if random.random_bool(0.3) { 1_500 } else { LONG_MS };
            let mut writer = Transactor::new(self.clone(), &id, instance, timeout_ms);
            if !writer.init(end).await {
                return;
            }
            let mut count = 0;
            for _ in 0..random.random_range(1..12) {
                count += 1;
                let name = format!("{id}.{instance}.{count}");
                let done = self.write_one(&mut writer, &name, &mut random, end).await;
                if done.is_err() || Instant::now() >= end {
                    break;
                }
                sleep(millis(&mut random, 0, self.scenario.pause_ms.max(1))).await;
            }
            if random.random_bool(0.5) {
                self.start(self.clone().go_on_as_zombie(writer, end));
            }
            if random.random_bool(0.3) {
                sleep(millis(&mut random, 100, 2_000)).await;
            }
        }
    }

    /// One transaction, with its end.
    async fn write_one(
        &self,
        writer: &mut Transactor,
        txn: &str,
        random: &mut StdRng,
        end: Instant,
    ) -> Result<(), Trouble> {
        let commit = random.random_bool(0.7);
        let written = self.fill(writer, txn, random).await;
        if written == Err(Trouble::Fenced) {
            return written;
        }
        if random.random_bool(0.1) {
            // The process dies within its transaction, or takes its time.
            if random.random_bool(0.5) || Instant::now() >= end {
                return Err(Trouble::Unknown);
            }
            sleep(millis(random, 500, 4_000)).await;
        }
        let commit = commit && written.is_ok();
        let late = (!commit && random.random_bool(0.5)).then(|| writer.shadow());
        let txn = writer.open.clone().unwrap_or_default();
        writer.end(&txn, commit, PATIENCE * 3).await?;
        if let Some(late) = late {
            self.start(self.clone().send_late(late, format!("{txn}late")));
        }
        Ok(())
    }

    /// Writes to some of the partitions.
    async fn fill(
        &self,
        writer: &mut Transactor,
        txn: &str,
        random: &mut StdRng,
    ) -> Result<(), Trouble> {
        let places = self.ledger_places();
        let txn = writer.begin(txn);
        for _ in 0..random.random_range(1..=4) {
            let place = &places[random.random_range(0..places.len())];
            let values = writer.values(&txn, random.random_range(1..=2));
            writer.produce(&txn, place, &values, PATIENCE).await?;
            if random.random_bool(0.2) {
                sleep(millis(random, 10, 400)).await;
            }
        }
        Ok(())
    }

    /// What was sent before a transaction was aborted, and comes after it: it may come to nothing,
    /// and hold nobody up.
    async fn send_late(self, mut writer: Transactor, txn: String) {
        let mut random = self.random(&txn);
        sleep(millis(&mut random, 0, 500)).await;
        let places = self.ledger_places();
        let place = places[random.random_range(0..places.len())].clone();
        let ledger = |world: &Self| {
            let ledger = &mut world.history.borrow_mut().ledger;
            ledger.begin(&txn, &writer.id, writer.instance);
            ledger.aborted(&txn);
        };
        ledger(&self);
        writer.produce_late(&place, &[format!("{txn}:0")]).await;
    }

    /// An instance that was given up, and does not know it.
    async fn go_on_as_zombie(self, mut zombie: Transactor, end: Instant) {
        let mut random = self.random(&format!("zombie {}.{}", zombie.id, zombie.instance));
        for number in 0..4 {
            sleep(millis(&mut random, 50, 900)).await;
            if Instant::now() >= end {
                return;
            }
            let txn = format!("{}.{}.z{number}", zombie.id, zombie.instance);
            let commit = random.random_bool(0.8);
            let filled = self.fill(&mut zombie, &txn, &mut random).await;
            if filled == Err(Trouble::Fenced) && random.random_bool(0.5) {
                return;
            }
            // Whether it has been fenced or not: it asks.
            let txn = zombie.open.clone().unwrap_or_default();
            if zombie.end(&txn, commit, PATIENCE).await.is_err() {
                return;
            }
        }
    }
}
