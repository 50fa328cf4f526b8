//! The active controller: decisions on the image with all records so far, committed or not.
//!
//! Each batch that was appended is kept, replayed, until it is committed: then the committed image
//! takes its state over and the answers that waited for it leave. When leadership is lost all of
//! this is dropped, and with it the answers, which refuses them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::contact::{self, Suspect};
use super::decision::{ConfigRules, TRANSACTION_FEATURE, TRANSACTION_VERSION, View};
use super::driver::{Answer, Job};
use super::image::Image;
use super::loader::Loader;
use super::replay::Delta;
use super::replica::{Replica, replay_all};
use super::rules::SettingsRules;
use super::sessions::Sessions;
use super::{brokers, leaders, transaction};
use crate::config::Settings;
use crate::env::{self, Env, Random, planted};
use crate::error::Fault;
use crate::raft::Quorum;
use crate::raft::batch::{self, Decoded, Entry, Place};
use crate::types::{LeaderEpoch, Offset};
use crate::wire::metadata::{
    BeginTransactionRecord, EndTransactionRecord, FeatureLevelRecord, METADATA_VERSION, Record,
};

/// Partitions that one pass of leader balancing moves at most.
const MAX_ELECTIONS: usize = 1000;

/// What a decision may look at and, for what is not a record, change.
pub struct Core {
    loader: Loader,
    pub sessions: Sessions,
    pub random: Random,
    rules: Arc<dyn ConfigRules>,
    balance: Option<Duration>,
    next_balance: Option<Instant>,
    /// Between looks for partitions that only an unclean election can help.
    unclean: Duration,
    next_unclean: Instant,
}

impl Core {
    pub fn view(&self) -> View<'_> {
        View { image: self.loader.image(), rules: &*self.rules }
    }

    /// Where the next record will be.
    pub(super) fn next_offset(&self) -> Offset {
        self.loader.next_offset()
    }

    /// The view together with the sessions, for decisions that need both.
    pub(super) fn parts(&mut self) -> (View<'_>, &mut Sessions) {
        (View { image: self.loader.image(), rules: &*self.rules }, &mut self.sessions)
    }
}

/// A batch that was appended and is not committed yet: the state after it.
struct Uncommitted {
    end: Offset,
    loader: Loader,
    published: Option<(Image, Delta)>,
}

pub struct Active {
    pub core: Core,
    env: Env,
    epoch: LeaderEpoch,
    uncommitted: VecDeque<Uncommitted>,
    /// Each with the end of the log that has to be committed before it leaves.
    answers: VecDeque<(Offset, Answer)>,
    appended: bool,
}

impl Active {
    pub fn new(env: &Env, settings: &Settings, epoch: LeaderEpoch, replica: &Replica) -> Self {
        let now = env.clock.now();
        let loader = replica.loader().clone();
        // Who was heard of when is known to nobody any more: everyone gets a full session.
        let mut sessions = Sessions::new(settings.broker_session_timeout);
        sessions.load(loader.image().brokers(), now);
        let interval = Duration::from_secs(settings.leader_imbalance_check_interval_secs.max(1));
        let balance = settings.auto_leader_rebalance.then_some(interval);
        let unclean = settings.unclean_leader_election_interval;
        let core = Core {
            loader,
            sessions,
            random: env.random.clone(),
            rules: Arc::new(SettingsRules(settings.clone())),
            balance,
            next_balance: balance.map(|interval| now + interval),
            unclean,
            next_unclean: now + unclean,
        };
        let (uncommitted, answers) = (VecDeque::new(), VecDeque::new());
        Self { core, env: env.clone(), epoch, uncommitted, answers, appended: false }
    }

    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Since the last time somebody asked.
    pub fn has_appended(&mut self) -> bool {
        std::mem::take(&mut self.appended)
    }

    /// The first records of an active controller.
    pub fn begin(&mut self, quorum: &mut Quorum) -> Result<(), Fault> {
        self.catch_up(quorum)?;
        if self.core.loader.in_transaction() {
            self.append(vec![transaction::abort()], quorum)?;
        }
        if self.core.loader.image().feature("metadata.version") == 0 {
            self.append(bootstrap(), quorum)?;
        }
        self.append(lowered(self.core.loader.image()), quorum)
    }

    pub fn process(&mut self, job: Job, quorum: &mut Quorum) -> Result<(), Fault> {
        let (records, answer) = job(&mut self.core, self.env.clock.now());
        self.append(records, quorum)?;
        if planted!(AnsweredBeforeCommit) {
            answer();
            return Ok(());
        }
        self.answers.push_back((quorum.log().end_offset(), answer));
        Ok(())
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let session = self.core.sessions.next_deadline(self.core.view());
        // A session is over only after its last instant.
        let session = session.map(|at| at + Duration::from_millis(1));
        session.into_iter().chain(self.core.next_balance).chain([self.core.next_unclean]).min()
    }

    /// Fences who was not heard of, and moves leaders home when it is time for that.
    pub fn on_time(&mut self, quorum: &mut Quorum) -> Result<(), Fault> {
        let now = self.env.clock.now();
        for id in self.core.sessions.stale(self.core.view(), now) {
            tracing::info!(broker = id, "fencing a broker whose session has ended");
            self.append(brokers::fence(self.core.view(), id), quorum)?;
        }
        if let Some(interval) = self.core.balance
            && self.core.next_balance.is_some_and(|at| at <= now)
        {
            let records = leaders::balance(self.core.view(), MAX_ELECTIONS);
            // There may be more than one pass is allowed to move.
            let pause = if records.len() < MAX_ELECTIONS { interval } else { Duration::ZERO };
            self.core.next_balance = Some(now + pause);
            self.append(records, quorum)?;
        }
        if self.core.next_unclean <= now {
            let records = leaders::unclean(self.core.view(), MAX_ELECTIONS);
            let more = records.len() == MAX_ELECTIONS;
            self.core.next_unclean = now + if more { Duration::ZERO } else { self.core.unclean };
            self.append(records, quorum)?;
        }
        Ok(())
    }

    /// Looks for the processes of brokers that may be dead. Brokers listen to each other on
    /// `listener`.
    pub fn probe_suspects(&mut self, listener: &str, queue: &mpsc::WeakSender<Job>) {
        for id in self.core.sessions.take_suspects() {
            let broker = self.core.view().image.broker(id).filter(|broker| !broker.fenced);
            let Some((broker, at)) = broker.and_then(|it| Some((it, it.endpoint(listener)?)))
            else {
                continue;
            };
            let (epoch, host, port) = (broker.epoch, at.host.clone(), at.port);
            let suspect = Suspect { id, epoch, host, port };
            env::spawn(contact::probe(self.env.clone(), suspect, queue.clone()));
        }
    }

    /// Appends the records of one decision, which become true together, and replays them.
    fn append(&mut self, records: Vec<Record>, quorum: &mut Quorum) -> Result<(), Fault> {
        if records.iter().any(permits_unclean_elections) {
            self.core.next_unclean = self.env.clock.now();
        }
        let mut batches = transaction::batches(records).into_iter();
        batches.try_for_each(|batch| self.append_batch(batch, quorum))
    }

    fn append_batch(&mut self, records: Vec<Record>, quorum: &mut Quorum) -> Result<(), Fault> {
        let offset = self.core.loader.next_offset();
        let place = Place { offset, epoch: self.epoch, now: self.env.clock.wall_ms() };
        quorum.append(&batch::of_records(&records, place))?;
        self.appended = true;
        let last_offset = offset + records.len() as Offset - 1;
        let entries = (offset..).zip(records.into_iter().map(Entry::Record)).collect();
        let (epoch, timestamp) = (self.epoch, place.now);
        let decoded = Decoded { epoch, last_offset, timestamp, entries };
        self.core.loader.replay(&decoded).map_err(|error| Fault::Corrupt {
            path: quorum.log().folder().to_path_buf(),
            what: error.to_string(),
        })?;
        self.keep();
        Ok(())
    }

    /// Replays what the quorum itself has appended: changes of the voters.
    pub fn catch_up(&mut self, quorum: &Quorum) -> Result<(), Fault> {
        let leads = quorum.leads() && quorum.raft().epoch() == self.epoch;
        if leads && self.core.loader.next_offset() < quorum.log().end_offset() {
            replay_all(&mut self.core.loader, quorum.log())?;
            self.keep();
        }
        Ok(())
    }

    fn keep(&mut self) {
        let published = self.core.loader.publish();
        let (end, loader) = (self.core.loader.next_offset(), self.core.loader.clone());
        self.uncommitted.push_back(Uncommitted { end, loader, published });
    }

    /// All below `high_watermark` is committed: it becomes this node's image, and is answered.
    pub fn commit(&mut self, high_watermark: Offset, replica: &mut Replica) {
        while let Some(it) = self.uncommitted.pop_front_if(|it| it.end <= high_watermark) {
            replica.commit(it.loader, it.published);
        }
        while let Some((_, answer)) = self.answers.pop_front_if(|(end, _)| *end <= high_watermark) {
            answer();
        }
    }
}

/// Whoever permits them waits for one.
fn permits_unclean_elections(record: &Record) -> bool {
    matches!(record, Record::Config(config) if config.name == "unclean.leader.election.enable")
}

/// The first records of a new cluster: only features that are really built are finalized.
fn bootstrap() -> Vec<Record> {
    vec![
        BeginTransactionRecord { name: Some("Bootstrap records".into()) }.into(),
        FeatureLevelRecord { name: "metadata.version".into(), feature_level: METADATA_VERSION }
            .into(),
        FeatureLevelRecord { name: TRANSACTION_FEATURE.into(), feature_level: TRANSACTION_VERSION }
            .into(),
        FeatureLevelRecord { name: "group.version".into(), feature_level: 1 }.into(),
        FeatureLevelRecord { name: "share.version".into(), feature_level: 1 }.into(),
        FeatureLevelRecord { name: "streams.version".into(), feature_level: 1 }.into(),
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
