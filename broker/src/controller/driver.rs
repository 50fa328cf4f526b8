//! The active controller: one task, one bounded queue, one decision at a time.
//!
//! Whatever waits in the queue is decided together and synced once (group commit). A decision sees
//! the image with all records before it, committed or not; its answer leaves only when its records
//! are durable, and so is the image that brokers see. The queue `controller-events` holds
//! [`QUEUE`] decisions; whoever finds it full waits.
//!
//! Single voter: synced is committed. A fault of the disk ends the controller: the node must stop.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::contact::{self, Suspect};
use super::decision::{ConfigRules, Decision, View};
use super::fetch::Observers;
use super::image::Image;
use super::loader::Loader;
use super::metadata::Metadata;
use super::rules::SettingsRules;
use super::{brokers, election};
use crate::config::Settings;
use crate::env::{self, Env, Random};
use crate::error::{ErrorCode, Fault, Refusal};
use crate::raft::MetadataLog;
use crate::raft::batch::{self, Decoded, Entry, Place};
use crate::raft::state::QuorumState;
use crate::types::{LeaderEpoch, NodeId, Offset};
use crate::wire::metadata::control::{ChangeVoter, Control, LeaderChange};
use crate::wire::metadata::{
    BeginTransactionRecord, EndPoint, EndTransactionRecord, FeatureLevelRecord, FeatureRange,
    METADATA_VERSION, Record, RegisterControllerRecord,
};

/// Decisions that may wait.
const QUEUE: usize = 1024;
/// Decisions that are synced together at most.
const GROUP: usize = 128;
/// The driver looks at the time at least so often.
const TICK: Duration = Duration::from_millis(500);
/// Partitions that one pass of leader balancing moves at most.
const MAX_ELECTIONS: usize = 1000;

/// The handle on the active controller.
pub struct Controller {
    pub(super) node_id: NodeId,
    pub(super) cluster_id: Arc<str>,
    pub(super) epoch: LeaderEpoch,
    pub(super) directory_id: Uuid,
    pub(super) log: Arc<MetadataLog>,
    pub(super) high_watermark: watch::Receiver<Offset>,
    pub(super) observers: Mutex<Observers>,
    pub(super) env: Env,
    pub(super) metadata: Arc<Metadata>,
    queue: mpsc::Sender<Job>,
    contacts: AtomicU64,
}

/// Decides within the controller's task; what it returns is called once the records are durable.
pub(super) type Job = Box<dyn FnOnce(&mut Core, Instant) -> (Vec<Record>, Answer) + Send>;
type Answer = Box<dyn FnOnce() + Send>;

/// A job that appends nothing and that nobody waits for.
pub(super) fn hint(hint: impl FnOnce(&mut Core, Instant) + Send + 'static) -> Job {
    Box::new(move |core, now| {
        hint(core, now);
        (Vec::new(), Box::new(|| ()))
    })
}

/// What a decision may look at and, for what is not a record, change.
pub struct Core {
    loader: Loader,
    pub sessions: brokers::Sessions,
    pub random: Random,
    rules: Arc<dyn ConfigRules>,
    balance: Option<Duration>,
    next_balance: Option<Instant>,
}

impl Core {
    /// Where the next record will be.
    pub(super) fn next_offset(&self) -> Offset {
        self.loader.next_offset()
    }

    pub fn view(&self) -> View<'_> {
        View { image: self.loader.image(), rules: &*self.rules }
    }

    /// The view together with the sessions, for decisions that need both.
    pub(super) fn parts(&mut self) -> (View<'_>, &mut brokers::Sessions) {
        (View { image: self.loader.image(), rules: &*self.rules }, &mut self.sessions)
    }
}

/// What the controller is started with.
pub struct Start<'a> {
    pub env: Env,
    pub settings: &'a Settings,
    pub cluster_id: &'a str,
    /// Of the metadata log directory.
    pub directory_id: Uuid,
    pub metadata: Arc<Metadata>,
    /// Ends the controller's task.
    pub stop: CancellationToken,
    /// Called at most once: the controller has ended because of this.
    pub on_fault: Box<dyn FnOnce(Fault) + Send>,
}

impl Controller {
    /// Opens the metadata log, becomes leader in a new epoch, and starts to decide.
    pub async fn start(start: Start<'_>) -> Result<Arc<Self>, Fault> {
        let (env, settings) = (start.env.clone(), start.settings.clone());
        let (cluster_id, directory) = (start.cluster_id.to_owned(), start.directory_id);
        let opened = env
            .blocking({
                let env = env.clone();
                move || open(&env, &settings, &cluster_id, directory)
            })
            .await?;
        let Opened { log, mut loader, epoch } = opened;
        let log = Arc::new(log);
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (committed, high_watermark) = watch::channel(log.end_offset());
        if let Some((image, delta)) = loader.publish() {
            start.metadata.publish(image, delta);
        }
        let now = env.clock.now();
        let mut sessions = brokers::Sessions::new(start.settings.broker_session_timeout);
        sessions.load(loader.image().brokers(), now);
        if start.settings.roles.broker {
            // The broker of this node ended with the process before this one, and leads nothing
            // from now on: others take over at once.
            sessions.end(start.settings.node_id, now);
        }
        let balance = start.settings.auto_leader_rebalance.then(|| {
            Duration::from_secs(start.settings.leader_imbalance_check_interval_secs.max(1))
        });
        let core = Core {
            loader,
            sessions,
            random: env.random.clone(),
            rules: Arc::new(SettingsRules(start.settings.clone())),
            balance,
            next_balance: balance.map(|interval| now + interval),
        };
        let driver = Driver {
            env: env.clone(),
            core,
            log: log.clone(),
            epoch,
            committed,
            metadata: start.metadata.clone(),
            answers: Vec::new(),
            queue: queue.downgrade(),
            listener: start.settings.listeners.inter_broker.clone(),
        };
        let stop = start.stop;
        let on_fault = start.on_fault;
        env::spawn(async move {
            if let Err(fault) = driver.run(jobs, stop).await {
                tracing::error!(%fault, "the controller has ended");
                on_fault(fault);
            }
        });
        Ok(Arc::new(Self {
            node_id: start.settings.node_id,
            cluster_id: start.cluster_id.into(),
            epoch,
            directory_id: directory,
            log,
            high_watermark,
            observers: Mutex::default(),
            env,
            metadata: start.metadata,
            queue,
            contacts: AtomicU64::default(),
        }))
    }

    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// Has something decided, and waits until it is durable.
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
        let gone = || Refusal::new(ErrorCode::NotController, "The controller is shutting down.");
        self.queue.send(job).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
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

struct Driver {
    env: Env,
    core: Core,
    log: Arc<MetadataLog>,
    epoch: LeaderEpoch,
    committed: watch::Sender<Offset>,
    metadata: Arc<Metadata>,
    /// To be given once what was appended is durable.
    answers: Vec<Answer>,
    /// For what a probe finds out.
    queue: mpsc::WeakSender<Job>,
    /// Brokers listen to each other there.
    listener: String,
}

impl Driver {
    async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Job>,
        stop: CancellationToken,
    ) -> Result<(), Fault> {
        self.probe_suspects();
        loop {
            let asleep = self.env.clock.now();
            let tick = asleep + TICK;
            let wake = self.next_deadline().map_or(tick, |deadline| deadline.min(tick));
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                job = jobs.recv() => {
                    let Some(job) = job else { return Ok(()) };
                    self.process(job)?;
                    for _ in 1..GROUP {
                        match jobs.try_recv() {
                            Ok(job) => self.process(job)?,
                            Err(_) => break,
                        }
                    }
                }
                () = self.env.clock.sleep_until(wake) => {}
            }
            let late = self.env.clock.now().saturating_duration_since(wake);
            if late > TICK {
                // This node stood still; that others were silent meanwhile proves nothing.
                tracing::warn!(?late, "the controller was held up; sessions are extended");
                self.core.sessions.extend(late);
            }
            self.on_time()?;
            self.commit().await?;
            self.probe_suspects();
        }
    }

    fn process(&mut self, job: Job) -> Result<(), Fault> {
        let (records, answer) = job(&mut self.core, self.env.clock.now());
        self.append(records)?;
        self.answers.push(answer);
        Ok(())
    }

    fn next_deadline(&self) -> Option<Instant> {
        let session = self.core.sessions.next_deadline(self.core.view());
        // A session is over only after its last instant.
        let session = session.map(|at| at + Duration::from_millis(1));
        session.into_iter().chain(self.core.next_balance).min()
    }

    /// Fences who was not heard of, and moves leaders home when it is time for that.
    fn on_time(&mut self) -> Result<(), Fault> {
        let now = self.env.clock.now();
        for id in self.core.sessions.stale(self.core.view(), now) {
            tracing::info!(broker = id, "fencing a broker whose session has ended");
            self.append(brokers::fence(self.core.view(), id))?;
        }
        if let Some(interval) = self.core.balance
            && self.core.next_balance.is_some_and(|at| at <= now)
        {
            self.core.next_balance = Some(now + interval);
            self.append(election::balance(self.core.view(), MAX_ELECTIONS))?;
        }
        Ok(())
    }

    /// Looks for the processes of brokers that may be dead.
    fn probe_suspects(&mut self) {
        for id in self.core.sessions.take_suspects() {
            let broker = self.core.view().image.broker(id).filter(|broker| !broker.fenced);
            let Some((broker, at)) = broker.and_then(|it| Some((it, it.endpoint(&self.listener)?)))
            else {
                continue;
            };
            let (epoch, host, port) = (broker.epoch, at.host.clone(), at.port);
            let suspect = Suspect { id, epoch, host, port };
            env::spawn(contact::probe(self.env.clone(), suspect, self.queue.clone()));
        }
    }

    /// Appends the records of one decision as one batch, and replays them.
    fn append(&mut self, records: Vec<Record>) -> Result<(), Fault> {
        if records.is_empty() {
            return Ok(());
        }
        let offset = self.core.loader.next_offset();
        let place = Place { offset, epoch: self.epoch, now: self.env.clock.wall_ms() };
        self.log.append(&batch::of_records(&records, place))?;
        let last_offset = offset + records.len() as Offset - 1;
        let entries = (offset..).zip(records.into_iter().map(Entry::Record)).collect();
        replay(
            &mut self.core.loader,
            &self.log,
            Decoded { epoch: self.epoch, last_offset, entries },
        )
    }

    /// Makes all that was appended durable, shows it to the brokers, and gives the answers.
    async fn commit(&mut self) -> Result<(), Fault> {
        if *self.committed.borrow() < self.log.end_offset() {
            let log = self.log.clone();
            let end = self.env.blocking(move || log.sync()).await?;
            if let Some((image, delta)) = self.core.loader.publish() {
                self.metadata.publish(image, delta);
            }
            self.committed.send_replace(end);
        }
        for answer in self.answers.drain(..) {
            answer();
        }
        Ok(())
    }
}

fn replay(loader: &mut Loader, log: &MetadataLog, batch: Decoded) -> Result<(), Fault> {
    loader.replay(&batch).map_err(|error| Fault::Corrupt {
        path: log.folder().to_path_buf(),
        what: error.to_string(),
    })
}

struct Opened {
    log: MetadataLog,
    loader: Loader,
    epoch: LeaderEpoch,
}

/// Opens the log, replays it, and writes the first records of a new epoch. Blocks.
fn open(
    env: &Env,
    settings: &Settings,
    cluster_id: &str,
    directory: Uuid,
) -> Result<Opened, Fault> {
    let log = MetadataLog::open(env, &settings.metadata_log_dir)?;
    let mut loader = Loader::new(Image::empty(cluster_id));
    replay_all(&log, &mut loader)?;
    let before = QuorumState::read(&*env.disk, log.folder())?;
    let epoch = before.map_or(0, |state| state.leader_epoch).max(log.last_epoch()).max(0) + 1;
    let node_id = settings.node_id;
    let state = QuorumState {
        leader_id: node_id,
        leader_epoch: epoch,
        voted_id: node_id,
        voted_directory: directory,
    };
    state.write(&*env.disk, log.folder())?;
    let empty = loader.next_offset() == 0;
    let mut place = Place { offset: loader.next_offset(), epoch, now: env.clock.wall_ms() };
    let voter = ChangeVoter { voter_id: node_id, voter_directory_id: Uuid::nil() };
    let change = Control::LeaderChange(LeaderChange {
        version: 0,
        leader_id: node_id,
        voters: vec![voter.clone()],
        granting_voters: vec![voter],
    });
    log.append(&batch::of_control(&change, place))?;
    place.offset += 1;
    if empty {
        let records = bootstrap();
        log.append(&batch::of_records(&records, place))?;
        place.offset += records.len() as Offset;
    }
    let mut records = lowered(loader.image());
    records.push(register_controller(env, settings));
    log.append(&batch::of_records(&records, place))?;
    log.sync()?;
    replay_all(&log, &mut loader)?;
    Ok(Opened { log, loader, epoch })
}

/// Replays what the loader has not seen yet.
pub(super) fn replay_all(log: &MetadataLog, loader: &mut Loader) -> Result<(), Fault> {
    const CHUNK: usize = 1 << 20;
    while loader.next_offset() < log.end_offset() {
        let bytes = log.read(loader.next_offset(), log.end_offset(), CHUNK)?;
        let corrupt = |what: String| Fault::Corrupt { path: log.folder().to_path_buf(), what };
        for decoded in batch::decode(&bytes).map_err(|error| corrupt(error.to_string()))? {
            replay(loader, log, decoded)?;
        }
    }
    Ok(())
}

/// The first records of a new cluster: only features that are really built are finalized.
fn bootstrap() -> Vec<Record> {
    vec![
        BeginTransactionRecord { name: Some("Bootstrap records".into()) }.into(),
        FeatureLevelRecord { name: "metadata.version".into(), feature_level: METADATA_VERSION }
            .into(),
        EndTransactionRecord {}.into(),
    ]
}

/// Features of a log that Kafka wrote, at levels that are not built here: from now on the cluster
/// does without them, as after a downgrade by `kafka-features.sh`.
fn lowered(image: &Image) -> Vec<Record> {
    let supported = brokers::supported_features();
    let highest = |name: &str| {
        supported.iter().find(|(known, ..)| *known == name).map_or(0, |(_, _, max)| *max)
    };
    let too_high = image
        .features()
        .filter(|(name, level)| *name != "metadata.version" && *level > highest(name));
    let lower = |(name, level): (&str, i16)| {
        let to = highest(name);
        tracing::warn!(feature = name, level, to, "lowered: this level is not supported yet");
        FeatureLevelRecord { name: name.into(), feature_level: to }.into()
    };
    too_high.map(lower).collect()
}

fn register_controller(env: &Env, settings: &Settings) -> Record {
    let end_point = |endpoint: &crate::config::Endpoint| EndPoint {
        name: endpoint.listener.clone(),
        host: if endpoint.host.is_empty() { "localhost".into() } else { endpoint.host.clone() },
        port: endpoint.port,
        security_protocol: endpoint.protocol.id(),
    };
    let feature = |(name, min, max): (&str, i16, i16)| FeatureRange {
        name: name.into(),
        min_supported_version: min,
        max_supported_version: max,
    };
    RegisterControllerRecord {
        controller_id: settings.node_id,
        incarnation_id: env.random.uuid(),
        zk_migration_ready: false,
        end_points: settings.listeners.of_controller().map(end_point).collect(),
        features: brokers::supported_features().into_iter().map(feature).collect(),
    }
    .into()
}

/// Where the metadata log lies in `dir`.
pub fn folder(dir: &Path) -> std::path::PathBuf {
    dir.join(crate::raft::log::FOLDER)
}
