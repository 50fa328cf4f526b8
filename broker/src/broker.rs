//! Starts a broker, wires its parts together, and shuts it down.
//!
//! The order of a start: identity, ports, log directories, controller (on the node that has it), the
//! metadata of the cluster, which says which logs are opened, and only then the door for clients. A stop goes the other way
//! round: leaderships first, so that clients hardly notice.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};
use uuid::Uuid;

use crate::api::auto_create::AutoCreate;
use crate::api::streams_topics::StreamsTopics;
use crate::config::Settings;
use crate::controller::lifecycle::{Join, Lifecycle, Stage};
use crate::controller::{
    Controller, ControllerLink, Controllers, Image, Metadata, Start, registration,
};
use crate::coordinator::group::settings::GroupSettings;
use crate::coordinator::runtime::{self as coordinator, Groups, Transactions};
use crate::coordinator::share::settings::ShareSettings;
use crate::coordinator::topic::{InternalTopic, Maker, TopicCreator};
use crate::coordinator::transaction::markers::{MarkerQueue, MarkerSender};
use crate::coordinator::transaction::settings::TransactionSettings;
use crate::env::{self, Env};
use crate::error::{ErrorCode, Fault};
use crate::log::{LogDirOptions, LogDirs, TailCache};
use crate::net::http::{self, Probe};
use crate::net::{Bound, Metrics, Server};
use crate::replica::peers::Peers;
use crate::replica::{self, Partitions};
use crate::share::Shares;
use crate::share::persister::{Routed, ShareCoordinator};

/// Records that readers are likely to ask for again, in memory.
const TAIL_CACHE_BYTES: usize = 64 * 1024 * 1024;
/// How long a stopping broker waits until its leaderships have moved.
const CONTROLLED_SHUTDOWN: Duration = Duration::from_secs(15);

/// All parts of a running node.
pub struct Broker {
    pub env: Env,
    pub settings: Settings,
    /// The cluster as this node knows it.
    pub image: Arc<ArcSwap<Image>>,
    pub partitions: Arc<Partitions>,
    pub groups: Arc<Groups>,
    pub transactions: Arc<Transactions>,
    pub share_coordinator: Arc<ShareCoordinator>,
    pub shares: Arc<Shares>,
    /// On a node with the controller role.
    pub controller: Option<Arc<Controller>>,
    /// To the active controller, wherever it is.
    pub link: Arc<ControllerLink>,
    /// Topics that clients named and that are being created.
    pub auto_create: AutoCreate,
    pub streams_topics: StreamsTopics,
    pub log_dirs: Arc<LogDirs>,
    pub lifecycle: Arc<Lifecycle>,
    running: Running,
}

/// What is only needed to end.
struct Running {
    server: Mutex<Option<Arc<Server>>>,
    /// This node's replica of the metadata log.
    replica: Arc<Controller>,
    stop: CancellationToken,
    fault: Fatal,
    /// The log directories that went offline.
    offline: watch::Sender<Vec<Uuid>>,
    /// The ends of transactions that are to be told.
    markers: Arc<MarkerQueue>,
}

/// The first fault that ends this node.
#[derive(Clone)]
struct Fatal(watch::Sender<Option<Arc<Fault>>>);

impl Fatal {
    fn raise(&self, fault: Fault) {
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| Arc::new(fault));
            is_first
        });
    }

    fn handler(&self) -> Box<dyn FnOnce(Fault) + Send> {
        let fatal = self.clone();
        Box::new(move |fault| fatal.raise(fault))
    }
}

impl Broker {
    /// Starts a node; returns once its listeners are open and it has joined its cluster, or with
    /// the fault that keeps it from that. Clients are served from when it is unfenced.
    pub async fn start(env: Env, settings: Settings) -> Result<Arc<Self>, Fault> {
        let span = info_span!("node", id = settings.node_id);
        Self::begin(env, settings).instrument(span).await
    }

    async fn begin(env: Env, settings: Settings) -> Result<Arc<Self>, Fault> {
        let begun = env.clock.now();
        let fault = Fatal(watch::Sender::new(None));
        let stop = CancellationToken::new();
        // The ports are watched from where those of the controller are served.
        let doors = Doors::open(env.clone(), settings.clone(), stop.clone());
        let doors = env.spawn_control(doors).await.expect("opening ports does not panic")?;
        let cluster_id = crate::identity::cluster_id(&env, &settings).await?;
        let log_dirs = open_log_dirs(&env, &settings, &cluster_id).await?;
        let metadata = Metadata::new(&cluster_id);
        let controllers = watch::Sender::new(Controllers::of(&settings));
        let link_to =
            |purpose| ControllerLink::to(&env, &settings, purpose, controllers.subscribe());
        let link = link_to("requests");
        let lifecycle_link = link_to("lifecycle");
        let registration_link = link_to("registration");
        let replica = Controller::start(Start {
            env: env.clone(),
            settings: &settings,
            cluster_id: &cluster_id,
            directory_id: log_dirs.metadata_id(),
            metadata: metadata.clone(),
            controllers,
            stop: stop.clone(),
            on_fault: fault.handler(),
        })
        .await?;
        let (offline, offline_seen) = watch::channel(Vec::new());
        // Before the logs are open: what the process before this one led is others' from then on.
        let lifecycle = if settings.roles.broker {
            Lifecycle::start(Join {
                env: env.clone(),
                settings: &settings,
                cluster_id: &cluster_id,
                directories: log_dirs.ids(),
                offline: offline_seen,
                clean_shutdown_epoch: log_dirs.clean_shutdown_epoch(),
                metadata: metadata.clone(),
                link: lifecycle_link,
                stop: stop.clone(),
                on_fault: fault.handler(),
            })
        } else {
            Lifecycle::idle()
        };
        log_dirs.start().await.inspect_err(|_| stop.cancel())?;
        let logs = log_dirs.unopened().len();
        info!(logs, took = ?env.clock.now().duration_since(begun), "log directories are open");
        if settings.roles.controller {
            let (metadata, stop) = (metadata.clone(), stop.clone());
            registration::keep_registered(&env, &settings, registration_link, metadata, stop);
        }
        let partitions = Partitions::start(replica::Start {
            env: env.clone(),
            settings: &settings,
            log_dirs: log_dirs.clone(),
            image: metadata.shared(),
            link: link.clone(),
            membership: lifecycle.membership(),
        });
        let groups = Groups::start(coordinator::Start {
            env: env.clone(),
            settings: GroupSettings::of(&settings),
            log: partitions.clone(),
            image: metadata.shared(),
            topic: Maker::new(InternalTopic::offsets(&settings), link.clone()),
            notify: Box::new(|_, _, notice| match notice {}),
        });
        partitions.listen(groups.clone());
        let transactions = start_transactions(&env, &settings, &partitions, &metadata, &link);
        partitions.listen(transactions.coordinator.clone());
        let pruned = partitions.clone();
        let share_coordinator = ShareCoordinator::start(coordinator::Start {
            env: env.clone(),
            settings: ShareSettings::of(&settings),
            log: partitions.clone(),
            image: metadata.shared(),
            topic: Maker::new(InternalTopic::share_state(&settings), link.clone()),
            notify: Box::new(move |partition, epoch, prune| {
                prune.carry_out(&pruned, partition, epoch)
            }),
        });
        partitions.listen(share_coordinator.clone());
        let persister = Routed::new(partitions.context.clone(), share_coordinator.clone());
        let shares = Shares::start(partitions.clone(), Arc::new(persister));
        partitions.listen(shares.clone());
        metadata.listen(partitions.clone());
        metadata.listen(groups.clone());
        metadata.listen(share_coordinator.clone());
        metadata.start(stop.clone());
        let broker = Arc::new(Self {
            image: metadata.shared(),
            auto_create: AutoCreate::default(),
            streams_topics: StreamsTopics::default(),
            controller: settings.roles.controller.then(|| replica.clone()),
            running: Running {
                server: Mutex::default(),
                replica,
                stop,
                fault,
                offline,
                markers: transactions.markers,
            },
            env,
            settings,
            partitions,
            groups,
            transactions: transactions.coordinator,
            share_coordinator,
            shares,
            link,
            log_dirs,
            lifecycle,
        });
        broker.join(doors);
        Ok(broker)
    }

    /// Opens the doors.
    fn join(self: &Arc<Self>, doors: Doors) {
        let server = Arc::new(Server::new(self.clone(), doors.metrics));
        doors.state.send_replace(Some(self.lifecycle.clone()));
        // The controller must answer before any broker can join. Everyone else waits in the ports'
        // backlogs until this broker is in service: one that has not caught up would call topics
        // unknown and the cluster empty, and clients believe that.
        let listeners = &self.settings.listeners;
        let (first, later): (Vec<_>, Vec<_>) = doors
            .listeners
            .into_iter()
            .partition(|it| listeners.is_controller(&it.endpoint.listener));
        for bound in first {
            server.serve(bound);
        }
        *self.running.server.lock() = Some(server.clone());
        env::spawn(self.clone().serve_in_service(server, later).in_current_span());
        self.lifecycle.set_ready();
        if self.settings.roles.broker {
            env::spawn(self.clone().once_in_service().in_current_span());
        }
        env::spawn(self.clone().watch_disks().in_current_span());
    }

    async fn serve_in_service(self: Arc<Self>, server: Arc<Server>, listeners: Vec<Bound>) {
        tokio::select! {
            biased;
            () = self.running.stop.cancelled() => {}
            () = self.lifecycle.unfenced() => listeners.into_iter().for_each(|it| server.serve(it)),
        }
    }

    /// Creates the topics of `KAFKA_CREATE_TOPICS`, once there are brokers to hold them.
    async fn once_in_service(self: Arc<Self>) {
        self.lifecycle.unfenced().await;
        info!("in service");
        for topic in self.settings.create_topics.clone() {
            let mut request = CreatableTopic::default()
                .with_name(kafka_protocol::messages::TopicName(topic.name.clone().into()))
                .with_num_partitions(topic.partitions)
                .with_replication_factor(topic.replicas);
            if let Some(policy) = &topic.cleanup_policy {
                request.configs.push(
                    kafka_protocol::messages::create_topics_request::CreatableTopicConfig::default(
                    )
                    .with_name("cleanup.policy".to_owned().into())
                    .with_value(Some(policy.clone().into())),
                );
            }
            loop {
                match self.link.create(request.clone()).await {
                    Ok(()) => info!(topic = topic.name, "created"),
                    Err(refusal) if refusal.code == ErrorCode::TopicAlreadyExists => {}
                    // The other brokers are on their way.
                    Err(refusal) if refusal.code == ErrorCode::InvalidReplicationFactor => {
                        self.env.clock.sleep(Duration::from_millis(500)).await;
                        continue;
                    }
                    Err(refusal) => warn!(topic = topic.name, %refusal, "not created"),
                }
                break;
            }
        }
    }

    /// Goes on with the log directories that are left when one goes offline; ends this node when
    /// there is none, or not that of the metadata log.
    async fn watch_disks(self: Arc<Self>) {
        loop {
            let known = self.running.offline.borrow().clone();
            let dir = tokio::select! {
                biased;
                () = self.running.stop.cancelled() => return,
                dir = self.log_dirs.gone_offline(&known) => dir,
            };
            if let Some(why) = self.log_dirs.why_unusable() {
                return self.running.fault.raise(Fault::Start(why));
            }
            let (partitions, failed) = (self.partitions.clone(), dir.clone());
            self.env.blocking(move || partitions.on_offline(&failed)).await;
            self.running.offline.send_modify(|offline| offline.push(dir.directory_id()));
        }
    }

    /// The kraft.version of the quorum, as far as this node knows.
    pub fn kraft_version(&self) -> i16 {
        self.running.replica.quorum().kraft_version()
    }

    /// Waits for a fault that ends this node by itself.
    pub async fn ended(&self) -> Result<(), Arc<Fault>> {
        let mut fault = self.running.fault.0.subscribe();
        match fault.wait_for(Option::is_some).await.ok().and_then(|first| (*first).clone()) {
            Some(first) => Err(first),
            None => Ok(()),
        }
    }

    /// Moves the leaderships away, answers what is under way, and closes the logs.
    pub async fn shut_down(&self) {
        if self.settings.controlled_shutdown && !self.lifecycle.shut_down(CONTROLLED_SHUTDOWN).await
        {
            warn!("stopping although the controller has not let go of this broker");
        }
        self.running.replica.quorum().resign().await;
        let server = self.running.server.lock().take();
        if let Some(server) = &server {
            server.stop_accepting();
        }
        self.groups.shut_down().await;
        self.transactions.shut_down().await;
        self.running.markers.stop();
        self.shares.shut_down().await;
        self.share_coordinator.shut_down().await;
        if let Some(server) = server {
            server.shut_down().await;
        }
        self.partitions.shut_down().await;
        self.running.stop.cancel();
        if let Err(fault) = self.log_dirs.shut_down_cleanly(self.lifecycle.broker_epoch()).await {
            warn!(%fault, "the logs were not closed cleanly");
        }
    }
}

/// The transaction coordinator, and the queue of what it sends.
struct StartedTransactions {
    coordinator: Arc<Transactions>,
    markers: Arc<MarkerQueue>,
}

fn start_transactions(
    env: &Env,
    settings: &Settings,
    partitions: &Arc<Partitions>,
    metadata: &Metadata,
    link: &Arc<ControllerLink>,
) -> StartedTransactions {
    let markers = Arc::new(MarkerQueue::default());
    let queue = markers.clone();
    let coordinator = Transactions::start(coordinator::Start {
        env: env.clone(),
        settings: TransactionSettings::of(settings),
        log: partitions.clone(),
        image: metadata.shared(),
        topic: Maker::new(InternalTopic::transactions(settings), link.clone()),
        notify: Box::new(move |partition, epoch, notice| queue.take(partition, epoch, notice)),
    });
    let ids = partitions.clone();
    let fresh_ids = move || -> BoxFuture<'static, _> {
        let ids = ids.clone();
        Box::pin(async move { ids.producer_ids.next().await })
    };
    MarkerSender {
        env: env.clone(),
        settings: settings.clone(),
        image: metadata.shared(),
        peers: Peers::new(
            partitions.context.clone(),
            format!("TxnMarkerSenderThread-{}", settings.node_id),
        ),
        queue: markers.clone(),
        coordinator: Arc::downgrade(&coordinator),
        fresh_ids: Box::new(fresh_ids),
    }
    .start();
    StartedTransactions { coordinator, markers }
}

async fn open_log_dirs(
    env: &Env,
    settings: &Settings,
    cluster_id: &str,
) -> Result<Arc<LogDirs>, Fault> {
    let options = LogDirOptions {
        path: PathBuf::new(),
        cluster_id: cluster_id.to_owned(),
        node_id: settings.node_id,
        tail_cache: TailCache::new(TAIL_CACHE_BYTES),
        checkpoint_every: settings.log_flush_offset_checkpoint_interval.as_millis() as i64,
        expire_every: settings.producer_id_expiration_check_interval.as_millis() as i64,
        reserve_bytes: settings.log_reserve_bytes,
    };
    let (paths, metadata) = (settings.log_dirs.clone(), settings.metadata_log_dir.clone());
    let opening = env.clone();
    env.blocking(move || LogDirs::open(&opening, &paths, &metadata, &options)).await
}

/// Everything that listens: the ports for clients and nodes, bound but not yet served, and the
/// door for probes, served from the first moment.
struct Doors {
    listeners: Vec<Bound>,
    metrics: Arc<Metrics>,
    state: watch::Sender<Option<Arc<Lifecycle>>>,
}

impl Doors {
    async fn open(env: Env, settings: Settings, stop: CancellationToken) -> Result<Self, Fault> {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let (state, lifecycle) = watch::channel(None);
        if let Some((host, port)) = &settings.health {
            let listener = env.net.listen(host, *port).await.map_err(|error| {
                Fault::Start(format!("ottla.health.listener {host}:{port}: {error}"))
            })?;
            let probe = Arc::new(Probes { lifecycle, registry });
            let serving = http::serve(env.clone(), listener, probe);
            env.spawn_control(async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    Err(error) = serving => {
                        warn!(%error, "the probes are no longer served");
                    }
                }
            });
        }
        let mut listeners = Vec::new();
        for endpoint in &settings.listeners.all {
            listeners.push(Bound::bind(&env, endpoint).await?);
        }
        Ok(Self { listeners, metrics, state })
    }
}

struct Probes {
    lifecycle: watch::Receiver<Option<Arc<Lifecycle>>>,
    registry: Registry,
}

impl Probe for Probes {
    /// A broker that opens its logs, for however long, is alive.
    fn alive(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        match self.lifecycle.borrow().as_ref().map(|lifecycle| *lifecycle.stage().borrow()) {
            Some(Stage::Unfenced) => Ok(()),
            Some(Stage::Registering) => Err("not registered with the controller yet".to_owned()),
            Some(Stage::Fenced) => Err("fenced: catching up with the cluster".to_owned()),
            Some(Stage::ShuttingDown | Stage::ShutDown) => Err("shutting down".to_owned()),
            None => Err("opening the logs".to_owned()),
        }
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
