//! All that the broker asks of the machine: clock, disk, network, randomness, blocking work.
//!
//! Two implementations: [`real`], and `simulated` (feature `simulation`), in which one seed decides
//! everything. Nothing outside this module touches the operating system; clippy's disallowed
//! methods and types enforce that. Rules that keep a run replayable: every `select!` is `biased`,
//! no map with a random seed is iterated, tasks start with [`spawn`] and [`Env::spawn_control`] only.

mod clock;
pub mod disk;
pub mod network;
mod random;
pub mod real;
#[cfg(feature = "simulation")]
pub mod simulated;

use std::future::Future;
use std::sync::Arc;

pub use clock::Clock;
pub use disk::{Disk, DiskFile};
pub use network::{Io, Listener, Network, Stream};
pub use random::Random;
use tokio::runtime::Handle;

/// The world of one node. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    pub clock: Clock,
    pub disk: Arc<dyn Disk>,
    pub net: Arc<dyn Network>,
    pub random: Random,
    blocking: Blocking,
    /// Where [`Env::spawn_control`] starts tasks, if not where it is called.
    control: Option<Handle>,
}

/// Where work runs that may wait for the disk.
#[derive(Clone)]
pub enum Blocking {
    /// On tokio's pool of blocking threads.
    Pool,
    /// At once, on the calling task.
    Inline,
    /// In one step, after as long as the simulated disk takes.
    #[cfg(feature = "simulation")]
    Simulated(simulated::SimulatedDisk),
}

impl Env {
    pub fn new(
        clock: Clock,
        disk: Arc<dyn Disk>,
        net: Arc<dyn Network>,
        random: Random,
        blocking: Blocking,
    ) -> Self {
        Self { clock, disk, net, random, blocking, control: None }
    }

    /// Gives the control plane a runtime of its own.
    #[must_use]
    pub fn with_control(mut self, runtime: Handle) -> Self {
        self.control = Some(runtime);
        self
    }

    /// Starts a task of the control plane: heartbeats, the quorum, and who serves them. A write to
    /// a page cache that is full of unwritten pages holds up the thread it runs on; where the control
    /// plane has threads of its own, a busy broker is not taken for a dead one. What such a task
    /// starts, runs there, too.
    pub fn spawn_control<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match &self.control {
            Some(runtime) => runtime.spawn(task),
            None => tokio::spawn(task),
        }
    }

    /// Runs `work`, which may wait for the disk, without holding up a task of the runtime.
    pub async fn blocking<T, F>(&self, work: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        match &self.blocking {
            Blocking::Pool => real::blocking(work).await,
            Blocking::Inline => work(),
            #[cfg(feature = "simulation")]
            Blocking::Simulated(disk) => disk.blocking(work).await,
        }
    }
}

/// `planted!(Name)`: whether that bug of [`simulated::Bug`] is planted here; in a build without the
/// feature `simulation`, the constant `false`.
macro_rules! planted {
    ($bug:ident) => {{
        #[cfg(feature = "simulation")]
        {
            $crate::env::simulated::planted($crate::env::simulated::Bug::$bug)
        }
        #[cfg(not(feature = "simulation"))]
        {
            false
        }
    }};
}
pub(crate) use planted;

/// Starts a task on the current runtime; under simulation that is the node's own, so that a crash
/// of the node ends it.
pub fn spawn<F>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(task)
}
