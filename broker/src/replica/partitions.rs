//! All partitions on this broker, and how a new image changes them.
//!
//! Invariants: a partition exists here from the image that names this broker among its replicas
//! until the one that no longer does. No image counts before the first one that holds this run's
//! own registration: a broker that starts replays history, in which its topics do not exist yet or
//! have other ids, and acting on that would delete data. From then on, what lies on the disk
//! without being in the image is stray and set aside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::context::Context;
use super::leader::Rules;
use super::log_config;
use super::moves::Moves;
use super::partition::Partition;
use super::producer_ids::ProducerIds;
use super::read::Named;
use super::remote::{Leaders, OverNetwork, ToController};
use super::sessions::Sessions;
use super::tasks;
use super::verification::Verifier;
use crate::config::Settings;
use crate::controller::ControllerLink;
use crate::controller::image::{Image, PartitionImage, ResourceType, TopicImage};
use crate::controller::lifecycle::Membership;
use crate::controller::metadata::Listener;
use crate::controller::replay::Delta;
use crate::env::{Env, planted};
use crate::error::{ErrorCode, Fault};
use crate::log::LogDirs;
use crate::types::{LeaderEpoch, Millis, NodeId, TopicPartition};

/// Hears which partitions this broker leads.
pub trait LeadershipListener: Send + Sync {
    fn on_leadership(&self, gained: &[(TopicPartition, LeaderEpoch)], lost: &[TopicPartition]);
}

type Topics = BTreeMap<Arc<str>, BTreeMap<i32, Arc<Partition>>>;

/// What a broker's partitions stand on.
pub struct Start<'a> {
    pub env: Env,
    pub settings: &'a Settings,
    /// Started.
    pub log_dirs: Arc<LogDirs>,
    pub image: Arc<ArcSwap<Image>>,
    pub link: Arc<ControllerLink>,
    pub membership: Membership,
}

/// The partitions of this broker. Shared by all connections.
pub struct Partitions {
    me: Weak<Partitions>,
    pub producer_ids: ProducerIds,
    pub verifier: Verifier,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    pub context: Arc<Context>,
    pub dirs: Arc<LogDirs>,
    /// Replicas on their way from one directory to another.
    pub moves: Moves,
    pub sessions: Mutex<Sessions<Named>>,
    all: RwLock<Topics>,
    listeners: Mutex<Vec<Arc<dyn LeadershipListener>>>,
    /// Whether the images are of today; held while one is applied.
    pub(super) current: Mutex<bool>,
    /// What should be here and cannot be used, and whether only for lack of space.
    pub(super) offline: RwLock<BTreeMap<TopicPartition, bool>>,
    /// Told when there is other or more to fetch.
    pub refetch: tokio::sync::Notify,
}

impl Partitions {
    /// The images bring roles, and say which logs are opened.
    pub fn start(start: Start<'_>) -> Arc<Self> {
        let Start { env, settings, log_dirs, image, link, membership } = start;
        let context = Context::new(env, settings.clone(), image, membership);
        let leaders = Arc::new(OverNetwork::new(context.clone()));
        let partitions = Self::new(context, log_dirs, link.clone());
        partitions.run(link, leaders);
        partitions
    }

    /// Starts the tasks.
    pub fn run(self: &Arc<Self>, controller: Arc<dyn ToController>, leaders: Arc<dyn Leaders>) {
        let tasks = tasks::start(self, controller, leaders, &self.stop);
        self.tasks.lock().extend(tasks);
    }

    /// Ends the tasks, the last of which writes the high watermarks.
    pub async fn shut_down(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            // An error is a panic of the task, which has been reported.
            let _ = task.await;
        }
    }

    pub fn new(
        context: Arc<Context>,
        dirs: Arc<LogDirs>,
        controller: Arc<dyn ToController>,
    ) -> Arc<Self> {
        let (env, settings) = (&context.env, &context.settings);
        let slots = settings.max_incremental_fetch_session_cache_slots;
        let sessions = Sessions::new(usize::try_from(slots).unwrap_or(0), env.random.clone());
        let producer_ids = ProducerIds::new(context.clone(), controller);
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            producer_ids,
            verifier: Verifier::new(context.clone()),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
            context,
            dirs,
            moves: Moves::default(),
            sessions: Mutex::new(sessions),
            all: RwLock::default(),
            listeners: Mutex::default(),
            current: Mutex::new(false),
            offline: RwLock::default(),
            refetch: tokio::sync::Notify::new(),
        })
    }

    pub fn listen(&self, listener: Arc<dyn LeadershipListener>) {
        self.listeners.lock().push(listener);
    }

    pub fn image(&self) -> Arc<Image> {
        self.context.image.load_full()
    }

    /// By name; in order.
    pub fn all(&self) -> Vec<Arc<Partition>> {
        self.all.read().values().flat_map(|topic| topic.values().cloned()).collect()
    }

    pub fn get(&self, topic: &str, partition: i32) -> Option<Arc<Partition>> {
        self.all.read().get(topic)?.get(&partition).cloned()
    }

    /// The partition, if it is here; else what a client is told.
    pub fn find(&self, topic: &str, partition: i32) -> Result<Arc<Partition>, ErrorCode> {
        if let Some(found) = self.get(topic, partition) {
            return Ok(found);
        }
        if self.offline.read().contains_key(&TopicPartition::new(topic, partition)) {
            return Err(ErrorCode::KafkaStorageError);
        }
        match self.context.image.load().partition(topic, partition) {
            Some(_) => Err(ErrorCode::NotLeaderOrFollower),
            None => Err(ErrorCode::UnknownTopicOrPartition),
        }
    }

    /// The partition, if this broker leads it in the epoch that the client knows (-1: any).
    pub fn as_leader(
        &self,
        topic: &str,
        partition: i32,
        known: LeaderEpoch,
    ) -> Result<Arc<Partition>, ErrorCode> {
        let found = self.find(topic, partition)?;
        found.check_leader(known)?;
        Ok(found)
    }

    /// Does what a new image asks for. Blocking: creates, deletes and truncates.
    pub fn apply(&self, new: &Image, delta: &Delta) {
        let mut current = self.current.lock();
        if *current || planted!(HistoryDeletesData) {
            self.apply_delta(new, delta);
        } else if self.holds_registration(new) {
            *current = true;
            let everything = Delta::between(&Image::empty(&new.cluster_id), new);
            self.apply_delta(new, &everything);
        }
    }

    fn holds_registration(&self, image: &Image) -> bool {
        let epoch = self.context.broker_epoch();
        epoch >= 0 && image.broker(self.context.me).is_some_and(|me| me.epoch >= epoch)
    }

    /// The image may hold the registration before this broker has heard of its epoch.
    pub async fn apply_once_registered(&self) {
        let mut epoch = self.context.membership.epoch.clone();
        loop {
            if let Some(me) = self.me.upgrade() {
                me.apply_image(me.image(), Delta::default()).await;
            }
            if *self.current.lock() || epoch.changed().await.is_err() {
                return;
            }
        }
    }

    fn apply_delta(&self, new: &Image, delta: &Delta) {
        let (mut gained, mut lost) = (Vec::new(), Vec::new());
        for (name, id) in &delta.deleted {
            self.drop_topic(name, *id, &mut lost);
        }
        for changed in &delta.partitions {
            let Some(topic) = new.topic(&changed.topic) else { continue };
            let Some(image) = topic.partitions.get(&changed.partition) else { continue };
            self.apply_partition(new, topic, changed, image, &mut gained, &mut lost);
        }
        self.apply_configs(new, delta);
        self.set_aside_strays(new);
        self.tell(&gained, &lost);
        self.refetch.notify_one();
    }

    pub(super) fn tell(&self, gained: &[(TopicPartition, LeaderEpoch)], lost: &[TopicPartition]) {
        for listener in self.listeners.lock().iter() {
            listener.on_leadership(gained, lost);
        }
    }

    /// Blocking. Does once more what the image asks for `partitions`.
    pub(super) fn apply_again(&self, partitions: Vec<TopicPartition>) {
        let current = self.current.lock();
        if *current {
            let delta = Delta { partitions: partitions.into_iter().collect(), ..Delta::default() };
            self.apply_delta(&self.image(), &delta);
        }
    }

    /// Opens what `new` names, several logs at a time, and does what it asks for.
    pub(super) async fn apply_image(&self, new: Arc<Image>, delta: Delta) {
        let Some(me) = self.me.upgrade() else { return };
        let first = !*self.current.lock() && self.holds_registration(&new);
        if first {
            self.dirs.open_all(self.found_of(&new)).await;
        }
        self.context.env.blocking(move || me.apply(&new, &delta)).await;
    }

    fn apply_partition(
        &self,
        new: &Image,
        topic: &TopicImage,
        id: &TopicPartition,
        image: &PartitionImage,
        gained: &mut Vec<(TopicPartition, LeaderEpoch)>,
        lost: &mut Vec<TopicPartition>,
    ) {
        let me = self.context.me;
        let here = self.get(&id.topic, id.partition);
        if !image.replicas.contains(&me) {
            self.offline.write().remove(id);
            if let Some(here) = here {
                lost.push(id.clone());
                self.remove(&here);
            }
            return;
        }
        let was_leader = here.as_ref().is_some_and(|here| here.is_leader());
        let here = here.filter(|here| {
            let same = here.topic_id == topic.id;
            if !same {
                self.remove(here);
            }
            same
        });
        let partition = match here {
            Some(here) => here,
            None => match self.open(new, topic, id, image) {
                Ok(opened) => opened,
                Err(fault) => return self.failed(id, topic.id, &fault),
            },
        };
        let rules = self.rules(new, &id.topic);
        if partition.apply(image, new, rules) {
            tracing::info!(partition = %id, epoch = image.leader_epoch, "leads");
            gained.push((id.clone(), image.leader_epoch));
        } else if was_leader && image.leader != me {
            tracing::info!(partition = %id, leader = image.leader, "no longer leads");
            lost.push(id.clone());
        }
    }

    fn rules(&self, image: &Image, topic: &str) -> Rules {
        let settings = log_config::resolve(image, &self.context.settings, topic);
        Rules {
            min_insync_replicas: usize::try_from(settings.min_insync_replicas).unwrap_or(1),
            lag_time_max: self.context.lag_time_max(),
        }
    }

    pub(super) fn insert(&self, partition: &Arc<Partition>) {
        let id = &partition.id;
        self.offline.write().remove(id);
        let mut all = self.all.write();
        all.entry(id.topic.clone()).or_default().insert(id.partition, partition.clone());
    }

    pub(super) fn take_out(&self, id: &TopicPartition) {
        let mut all = self.all.write();
        if let Some(topic) = all.get_mut(&id.topic) {
            topic.remove(&id.partition);
            if topic.is_empty() {
                all.remove(&id.topic);
            }
        }
    }

    fn drop_topic(&self, name: &str, id: Uuid, lost: &mut Vec<TopicPartition>) {
        self.offline.write().retain(|offline, _| &*offline.topic != name);
        self.moves.forget_wishes_of(name);
        let of_topic: Vec<_> = match self.all.read().get(name) {
            Some(topic) => topic.values().filter(|it| it.topic_id == id).cloned().collect(),
            None => return,
        };
        for partition in of_topic {
            lost.push(partition.id.clone());
            self.remove(&partition);
        }
    }

    fn remove(&self, partition: &Partition) {
        let id = &partition.id;
        self.cancel_move(id);
        self.take_out(id);
        partition.retire();
        let deleted = self.dirs.online().try_fold(false, |any, dir| Ok(dir.delete(id)? || any));
        match deleted {
            Ok(_) => tracing::info!(partition = %id, "deleted"),
            Err(fault) => report(id, &fault),
        }
    }

    /// Settings of topics, and of brokers that topics fall back to, hold at once.
    fn apply_configs(&self, new: &Image, delta: &Delta) {
        let everywhere = delta.configs.iter().any(|(of, _)| *of == ResourceType::Broker);
        let topics: BTreeSet<Arc<str>> = if everywhere {
            self.all.read().keys().cloned().collect()
        } else {
            let of_topics = delta.configs.iter().filter(|(of, _)| *of == ResourceType::Topic);
            of_topics.map(|(_, name)| name.clone()).collect()
        };
        for name in topics {
            let partitions: Vec<_> = match self.all.read().get(&name) {
                Some(topic) => topic.values().cloned().collect(),
                None => continue,
            };
            let config = log_config::of_topic(new, &self.context.settings, &name);
            let rules = self.rules(new, &name);
            for partition in partitions {
                partition.log().set_config(config.clone());
                if let Some(image) = new.partition(&name, partition.id.partition) {
                    partition.apply(image, new, rules);
                }
            }
        }
    }

    /// By leader: what is to be fetched from it.
    pub fn followed(&self) -> BTreeMap<NodeId, Vec<(Arc<Partition>, LeaderEpoch)>> {
        let mut followed = BTreeMap::<_, Vec<_>>::new();
        for partition in self.all() {
            if let Some((leader, epoch)) = partition.follows() {
                followed.entry(leader).or_default().push((partition, epoch));
            }
        }
        followed
    }

    /// Blocking.
    pub fn checkpoint_high_watermarks(&self) -> Result<(), Fault> {
        let of = |id: &TopicPartition| Some(self.get(&id.topic, id.partition)?.high_watermark());
        self.dirs.write_high_watermarks(of)
    }

    /// Blocking. Deletes what retention allows.
    pub fn retain(&self, now: Millis) {
        for partition in self.all() {
            match partition.log().retain(now, partition.high_watermark()) {
                Ok(0) => {}
                Ok(bytes) => tracing::info!(partition = %partition.id, bytes, "retention"),
                Err(fault) => report(&partition.id, &fault),
            }
        }
    }
}

fn report(id: &TopicPartition, fault: &Fault) {
    tracing::error!(partition = %id, %fault, "partition failed");
}

#[async_trait]
impl Listener for Partitions {
    async fn on_image(&self, _: &Arc<Image>, new: &Arc<Image>, delta: &Delta) {
        self.apply_image(new.clone(), delta.clone()).await;
    }
}
