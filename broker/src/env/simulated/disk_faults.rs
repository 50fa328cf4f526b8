//! What a simulated disk does to those who use it: it takes its time, fails, and fills up.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::time::Duration;

use super::disk::SimulatedDisk;
use crate::env::random::Random;

/// Which calls answer with an I/O error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fails {
    Reads,
    Writes,
    /// The unsynced pages of the file are gone then.
    Syncs,
}

/// What is asked of the disk.
pub(super) enum Does {
    Read,
    Write { grows: bool },
    Sync,
    SyncNames,
}

/// What is wrong with a disk at the moment.
pub(super) struct Faults {
    random: Random,
    /// Milliseconds that each piece of blocking work takes: between these.
    latency_ms: (u64, u64),
    /// What fails, and how often still.
    fails: Option<(Fails, u32)>,
    full: bool,
    /// Somebody looks from outside, who meets no errors and causes none.
    observed: bool,
    /// Calls that were answered with an error.
    refused: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            random: Random::from_seed(0),
            latency_ms: (0, 0),
            fails: None,
            full: false,
            observed: false,
            refused: 0,
        }
    }
}

impl Faults {
    pub(super) fn random(&self) -> Random {
        self.random.clone()
    }

    pub(super) fn allow(&mut self, what: Does) -> io::Result<()> {
        if self.observed {
            return Ok(());
        }
        let error = match (what, self.fails) {
            (Does::Read, Some((Fails::Reads, left)))
            | (Does::Write { .. }, Some((Fails::Writes, left)))
            | (Does::Sync, Some((Fails::Syncs, left))) => {
                self.fails = self.fails.map(|(which, _)| (which, left - 1)).filter(|it| it.1 > 0);
                io::Error::other("simulated I/O error")
            }
            (Does::Write { grows: true }, _) if self.full => ErrorKind::StorageFull.into(),
            _ => return Ok(()),
        };
        self.refused += 1;
        Err(error)
    }
}

impl SimulatedDisk {
    /// An empty disk that draws its latencies from `seed`.
    pub fn with_seed(seed: u64) -> Self {
        let disk = Self::default();
        disk.faults.lock().random = Random::from_seed(seed);
        disk
    }

    /// From now on each piece of blocking work takes so many milliseconds.
    pub fn set_latency_ms(&self, least: u64, most: u64) {
        self.faults.lock().latency_ms = (least, most.max(least));
    }

    /// The next so many calls of that kind fail.
    pub fn fail(&self, which: Fails, times: u32) {
        self.faults.lock().fails = (times > 0).then_some((which, times));
    }

    /// From now on nothing can grow, or all can.
    pub fn set_full(&self, full: bool) {
        self.faults.lock().full = full;
    }

    /// Until what this returns is dropped, calls neither fail nor count as such.
    pub fn observe(&self) -> Observed {
        self.faults.lock().observed = true;
        Observed(self.clone())
    }

    /// How many calls were answered with an error so far.
    pub fn refused(&self) -> u64 {
        self.faults.lock().refused
    }

    /// Does `work` in one step, after as long as the disk takes for it. As on a real machine, the
    /// work is done even if nobody waits for it any more.
    pub(in crate::env) async fn blocking<T, F>(&self, work: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let delay = {
            let faults = self.faults.lock();
            let (least, most) = faults.latency_ms;
            least + faults.random.below(most - least + 1)
        };
        if delay == 0 {
            return work();
        }
        let later = async move {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            work()
        };
        finish(tokio::spawn(later)).await
    }
}

/// The disk is only looked at.
pub struct Observed(SimulatedDisk);

impl Drop for Observed {
    fn drop(&mut self) {
        self.0.faults.lock().observed = false;
    }
}

/// A panic of the work goes on in the caller.
async fn finish<T>(task: impl Future<Output = Result<T, tokio::task::JoinError>>) -> T {
    match task.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The node goes down: nobody polls this task again.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::path::Path;

    use super::*;
    use crate::env::disk::{Disk, Open};

    #[test]
    fn a_full_disk_takes_nothing_more_but_lets_delete_and_overwrite() {
        let disk = SimulatedDisk::new();
        let file = disk.open(Path::new("/f"), Open::CreateNew).unwrap();
        file.write_all_at(&[IoSlice::new(b"abc")], 0).unwrap();
        disk.set_full(true);
        file.write_all_at(&[IoSlice::new(b"x")], 2).unwrap();
        let refused = file.write_all_at(&[IoSlice::new(b"x")], 3).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        assert!(disk.open(Path::new("/g"), Open::CreateNew).is_err());
        disk.remove_file(Path::new("/f")).unwrap();
        assert_eq!(disk.refused(), 2);
    }

    #[test]
    fn after_a_failed_sync_a_second_one_succeeds_and_the_bytes_may_be_gone() {
        let mut lost = 0;
        for seed in 0..20 {
            let disk = SimulatedDisk::with_seed(seed);
            let file = disk.open(Path::new("/f"), Open::CreateNew).unwrap();
            file.write_all_at(&[IoSlice::new(b"abc")], 0).unwrap();
            disk.fail(Fails::Syncs, 1);
            file.sync().unwrap_err();
            file.sync().unwrap();
            lost += i32::from(disk.read(Path::new("/f")).unwrap() != b"abc");
        }
        assert!(lost > 5, "{lost}");
    }
}
