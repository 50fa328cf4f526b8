//! A node's metadata: one task that follows the quorum and, while this node leads it, decides.
//!
//! Everything that touches the metadata log is done here, one thing at a time: what other replicas
//! ask and answer ([`Quorum`]), what is committed ([`Replica`]), and, on the active controller, the
//! queue `controller-events` of at most [`QUEUE`] decisions. Whatever waits in the queue is decided
//! together and synced once (group commit). A decision sees the image with all records before it,
//! committed or not ([`Core`]); its answer leaves when its records are committed. A node that does
//! not lead refuses decisions with NOT_CONTROLLER, and one that ceases to lead refuses all that
//! were not committed, and is back at the committed image.
//!
//! A fault of the disk ends the task: the node must stop.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::active::Active;
pub use super::active::Core;
use super::decision::Decision;
use super::link::Controllers;
use super::metadata::Metadata;
use super::replica::Replica;
use super::snapshots::Snapshotter;
use crate::config::Settings;
use crate::env::{self, Env};
use crate::error::{ErrorCode, Fault, Refusal};
use crate::raft::messages::{Event, ReplicaKey};
use crate::raft::peers::Heard;
use crate::raft::quorum::Opening;
use crate::raft::serve::Inbound;
use crate::raft::{Handle, Quorum, Status, founding, opening};
use crate::types::{BrokerEpoch, LeaderEpoch, NodeId, Offset};
use crate::wire::metadata::Record;

/// Decisions that may wait.
const QUEUE: usize = 1024;
/// Decisions that are synced together at most.
const GROUP: usize = 128;
/// The driver looks at the time at least so often.
const TICK: Duration = Duration::from_millis(500);

/// The handle on this node's part of the quorum, and on the controller while that is active here.
pub struct Controller {
    pub(super) node_id: NodeId,
    pub(super) env: Env,
    pub(super) metadata: Arc<Metadata>,
    pub(super) quorum: Handle,
    queue: mpsc::Sender<Job>,
    contacts: AtomicU64,
}

/// Decides within the driver's task; what it returns is called once the records are committed.
/// Dropped without that, whoever asked hears NOT_CONTROLLER.
pub(super) type Job = Box<dyn FnOnce(&mut Core, Instant) -> (Vec<Record>, Answer) + Send>;
pub(super) type Answer = Box<dyn FnOnce() + Send>;

/// A job that appends nothing and that nobody waits for.
pub(super) fn hint(hint: impl FnOnce(&mut Core, Instant) + Send + 'static) -> Job {
    Box::new(move |core, now| {
        hint(core, now);
        (Vec::new(), Box::new(|| ()))
    })
}

/// What a node's part of the quorum is started with.
pub struct Start<'a> {
    pub env: Env,
    pub settings: &'a Settings,
    pub cluster_id: &'a str,
    /// Of the metadata log directory.
    pub directory_id: Uuid,
    pub metadata: Arc<Metadata>,
    /// Told where the active controller is.
    pub controllers: watch::Sender<Controllers>,
    /// Ends the task.
    pub stop: CancellationToken,
    /// Called at most once: the task has ended because of this.
    pub on_fault: Box<dyn FnOnce(Fault) + Send>,
}

impl Controller {
    /// Opens the metadata log and takes part in the quorum. Who is the only voter leads it, and
    /// serves, when this returns.
    pub async fn start(start: Start<'_>) -> Result<Arc<Self>, Fault> {
        let (env, settings) = (start.env.clone(), start.settings.clone());
        let (cluster, directory) = (start.cluster_id.to_owned(), start.directory_id);
        let (quorum, handle, inbox, heard) = env
            .blocking({
                let env = env.clone();
                move || open(&env, &settings, &cluster, directory)
            })
            .await?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let controller = Arc::new(Self {
            node_id: start.settings.node_id,
            env: env.clone(),
            metadata: start.metadata.clone(),
            quorum: handle,
            queue,
            contacts: AtomicU64::default(),
        });
        let queue = controller.queue.downgrade();
        let (voters, log) = (controller.quorum.clone(), controller.quorum.log().clone());
        let mut snapshotter = Snapshotter::new(&env, start.settings, &log, &start.metadata);
        snapshotter.kraft = Box::new(move |end| voters.kraft_at(end));
        snapshotter.start(start.stop.clone());
        let began = env.clock.now();
        let opened_at = quorum.log().end_offset();
        let mut driver = Driver {
            replica: Replica::new(start.cluster_id, start.metadata),
            env: env.clone(),
            quorum,
            active: None,
            settings: start.settings.clone(),
            controllers: start.controllers,
            queue,
            began,
            opened_at,
        };
        let (stop, on_fault) = (start.stop, start.on_fault);
        let (begun, has_begun) = oneshot::channel();
        env.spawn_control(async move {
            let began = driver.begin().await;
            let goes_on = began.is_ok();
            // Nobody waits: this broker's start was given up.
            let _ = begun.send(began);
            if !goes_on {
                return;
            }
            if let Err(fault) = driver.run(Queues { jobs, inbox, heard }, stop).await {
                tracing::error!(%fault, "the metadata is no longer followed");
                on_fault(fault);
            }
        });
        has_begun
            .await
            .unwrap_or_else(|_| Err(Fault::Start("the controller did not begin".into())))?;
        Ok(controller)
    }

    /// The epoch of the quorum, as this node knows it.
    pub fn epoch(&self) -> LeaderEpoch {
        self.quorum.status().borrow().epoch
    }

    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// This node's replica of the metadata log.
    pub fn quorum(&self) -> &Handle {
        &self.quorum
    }

    /// This node leads the quorum.
    pub fn leads(&self) -> bool {
        self.quorum.status().borrow().leads
    }

    /// All below is committed, as far as this node knows.
    pub fn high_watermark(&self) -> Offset {
        self.quorum.status().borrow().high_watermark
    }

    /// Has something decided, and waits until it is committed.
    pub async fn decide<R: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Core, Instant) -> Result<Decision<R>, Refusal> + Send + 'static,
    ) -> Result<R, Refusal> {
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move |core, now| {
            let (records, result) = match decide(core, now) {
                Ok(decision) => (decision.records, Ok(decision.response)),
                Err(refusal) => (Vec::new(), Err(refusal)),
            };
            let answer: Answer = Box::new(move || {
                // Whoever asked may have gone; what was decided stays decided.
                let _ = sender.send(result);
            });
            (records, answer)
        });
        self.queue.send(job).await.map_err(|_| not_controller())?;
        answer.await.map_err(|_| not_controller())?
    }

    /// A decision that cannot be refused as a whole.
    pub async fn decide_each<R: Send + 'static>(
        &self,
        decide: impl FnOnce(&Core) -> Decision<R> + Send + 'static,
    ) -> Result<R, Refusal> {
        self.decide(move |core, _| Ok(decide(core))).await
    }

    /// A connection over which a broker heartbeats has closed. May be lost when the queue is full:
    /// the session ends in any case.
    pub(super) fn note_closed(&self, contact: u64) {
        let _ = self.queue.try_send(hint(move |core, now| core.sessions.closed(contact, now)));
    }

    pub(super) fn next_contact(&self) -> u64 {
        self.contacts.fetch_add(1, Ordering::Relaxed)
    }
}

fn not_controller() -> Refusal {
    Refusal::new(ErrorCode::NotController, "This is not the correct controller for this cluster.")
}

type Opened = (Quorum, Handle, mpsc::Receiver<Inbound>, mpsc::Receiver<Heard>);

/// Founds the cluster if that is allowed and nothing is there, and opens the log. Blocks.
fn open(env: &Env, settings: &Settings, cluster: &str, directory: Uuid) -> Result<Opened, Fault> {
    let me = ReplicaKey::new(settings.node_id, directory);
    let dir = &settings.metadata_log_dir;
    let fixed = !settings.quorum.voters.is_empty();
    if settings.quorum_founding && settings.roles.controller && !fixed {
        if opening::is_empty(env, dir)? {
            tracing::info!(cluster, voter = opening::name(me), "founding a cluster");
            founding::write(env, &folder(dir), &opening::founders(settings, me))?;
        } else {
            tracing::info!("this node has metadata: the permission to found a cluster is spent");
        }
    }
    Quorum::open(&Opening { env, settings, cluster, me })
}

/// Where the metadata log lies in `dir`.
pub fn folder(dir: &Path) -> std::path::PathBuf {
    dir.join(crate::raft::log::FOLDER)
}

struct Queues {
    jobs: mpsc::Receiver<Job>,
    inbox: mpsc::Receiver<Inbound>,
    heard: mpsc::Receiver<Heard>,
}

/// Whether a registration is of the process before the one that opened the log at `opened_at`.
fn ended_with(registration: BrokerEpoch, opened_at: Offset) -> bool {
    registration < opened_at
}

struct Driver {
    env: Env,
    settings: Settings,
    quorum: Quorum,
    /// What is committed.
    replica: Replica,
    /// While this node leads, and has committed a record of its epoch.
    active: Option<Active>,
    controllers: watch::Sender<Controllers>,
    /// For what a probe finds out.
    queue: mpsc::WeakSender<Job>,
    began: Instant,
    /// Where the log ended when this process opened it: what it registered itself lies behind.
    opened_at: Offset,
}

impl Driver {
    async fn begin(&mut self) -> Result<(), Fault> {
        self.quorum.step(Event::Tick).await?;
        self.lead_or_follow().await?;
        self.tell_where();
        Ok(())
    }

    async fn run(mut self, mut queues: Queues, stop: CancellationToken) -> Result<(), Fault> {
        loop {
            let wake = self.next_deadline();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(inbound) = queues.inbox.recv() => self.quorum.serve(inbound).await?,
                Some(heard) = queues.heard.recv() => self.quorum.hear(heard).await?,
                job = queues.jobs.recv(), if self.takes_jobs() => {
                    let Some(job) = job else { return Ok(()) };
                    self.process(job)?;
                    for _ in 1..GROUP {
                        match queues.jobs.try_recv() {
                            Ok(job) => self.process(job)?,
                            Err(_) => break,
                        }
                    }
                }
                () = self.env.clock.sleep_until(wake) => {
                    self.quorum.step(Event::Tick).await?;
                }
            }
            let late = self.env.clock.now().saturating_duration_since(wake);
            if late > TICK
                && let Some(active) = &mut self.active
            {
                // This node stood still; that others were silent meanwhile proves nothing.
                tracing::warn!(?late, "the controller was held up; sessions are extended");
                active.core.sessions.extend(late);
            }
            self.settle().await?;
        }
    }

    fn next_deadline(&self) -> Instant {
        let tick = self.env.clock.now() + TICK;
        let active = self.active.as_ref().and_then(Active::next_deadline);
        [self.quorum.deadline(), active].into_iter().flatten().fold(tick, Instant::min)
    }

    /// A leader that is not active yet lets decisions wait; who does not lead refuses them.
    fn takes_jobs(&self) -> bool {
        self.active.is_some() || !self.quorum.leads()
    }

    fn process(&mut self, job: Job) -> Result<(), Fault> {
        match &mut self.active {
            Some(active) => active.process(job, &mut self.quorum),
            // Dropped: that refuses it.
            None => Ok(()),
        }
    }

    /// Brings everything in line with the quorum, after each thing that happened.
    async fn settle(&mut self) -> Result<(), Fault> {
        self.lead_or_follow().await?;
        if let Some(active) = &mut self.active {
            active.on_time(&mut self.quorum)?;
            if active.has_appended() {
                self.quorum.synced().await?;
            }
        }
        self.lead_or_follow().await?;
        if let Some(active) = &mut self.active {
            active.probe_suspects(&self.settings.listeners.inter_broker, &self.queue);
        }
        self.tell_where();
        self.tell_endpoints();
        Ok(())
    }

    async fn lead_or_follow(&mut self) -> Result<(), Fault> {
        let status = self.quorum.current();
        if let Some(active) = &mut self.active {
            active.catch_up(&self.quorum)?;
            active.commit(status.high_watermark, &mut self.replica);
            if !status.leads || status.epoch != active.epoch() {
                tracing::info!(epoch = active.epoch(), "no longer the active controller");
                self.active = None;
            }
        }
        if self.active.is_some() {
            return Ok(());
        }
        self.replica.replay(self.quorum.log(), status.high_watermark, &self.env).await?;
        self.replica.note_leader(status.leader);
        let Some(start) = self.quorum.epoch_start() else { return Ok(()) };
        if self.replica.next_offset() > start {
            self.activate(&status).await?;
        }
        Ok(())
    }

    async fn activate(&mut self, status: &Status) -> Result<(), Fault> {
        let now = self.env.clock.now();
        let restarted =
            now.saturating_duration_since(self.began) < self.settings.broker_session_timeout;
        let (dead, silent) = (self.quorum.raft().died(), self.quorum.raft().silent());
        let image = self.replica.loader().image();
        let own = image.broker(self.settings.node_id);
        let own = own.filter(|own| restarted && ended_with(own.epoch, self.opened_at));
        let own = own.map(|own| own.id);
        tracing::info!(epoch = status.epoch, "the active controller");
        let mut active = Active::new(&self.env, &self.settings, status.epoch, &self.replica);
        // The leader before was found dead, and the broker of this node, unless it has registered
        // anew, ended with the process before this one: neither leads anything from now on.
        for broker in dead.into_iter().chain(own) {
            active.core.sessions.end(broker, now);
        }
        // The machine of a leader that fell silent was given time enough before the election.
        if let Some(broker) = silent {
            active.core.sessions.doubt(broker, now + self.settings.broker_heartbeat_interval);
        }
        active.begin(&mut self.quorum)?;
        self.quorum.synced().await?;
        let committed = self.quorum.current().high_watermark;
        active.commit(committed, &mut self.replica);
        self.active = Some(active);
        Ok(())
    }

    fn tell_where(&self) {
        let status = self.quorum.current();
        self.controllers.send_if_modified(|controllers| {
            let changed = controllers.leader != status.address;
            controllers.leader = status.address;
            changed
        });
    }

    /// A voter that has moved tells the leader its new address.
    fn tell_endpoints(&mut self) {
        if let Some((epoch, at, voter)) = self.quorum.update_due() {
            let (env, cluster) = (self.env.clone(), self.quorum.cluster().to_owned());
            let timeout = self.settings.quorum_request_timeout;
            env::spawn(super::registration::update_voter(env, cluster, at, epoch, voter, timeout));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_registration_from_before_the_log_was_opened_is_of_a_dead_process() {
        // The epoch of a broker is the offset of its registration.
        assert!(ended_with(61, 62));
        assert!(!ended_with(62, 62));
        assert!(!ended_with(80, 62));
    }
}
