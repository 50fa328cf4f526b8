//! A broker's life with the controller: register, catch up, serve, leave.
//!
//! Registered first, fenced. Heartbeats tell how far the metadata was read; once that is past the
//! registration and [`Lifecycle::set_ready`] was called, the broker is unfenced. A controlled
//! shutdown moves the leaderships away before the broker may stop. A registration that the
//! controller no longer knows is made anew.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::broker_registration_request::{Feature, Listener};
use kafka_protocol::messages::{
    BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerId, BrokerRegistrationRequest,
};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::brokers::supported_features;
use super::link::{ControllerLink, LinkError};
use super::metadata::Metadata;
use crate::config::Settings;
use crate::env::Env;
use crate::error::{ErrorCode, Fault};
use crate::types::BrokerEpoch;

/// Between heartbeats while the broker waits for the next step of its life.
const IMPATIENT: Duration = Duration::from_millis(50);

/// Where in its life the broker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Registering,
    /// Registered, and not in service: starting, or not heard of for too long.
    Fenced,
    Unfenced,
    /// Moves its leaderships away.
    ShuttingDown,
    /// May stop.
    ShutDown,
}

/// What a lifecycle is started with.
pub struct Join<'a> {
    pub env: Env,
    pub settings: &'a Settings,
    pub cluster_id: &'a str,
    /// Ids of this broker's log directories.
    pub directories: Vec<Uuid>,
    /// Those of them that have gone offline since.
    pub offline: watch::Receiver<Vec<Uuid>>,
    /// The broker epoch of the last process, if that closed its logs before it ended.
    pub clean_shutdown_epoch: Option<BrokerEpoch>,
    pub metadata: Arc<Metadata>,
    /// To the active controller, for heartbeats only: they must not wait behind anything.
    pub link: Arc<ControllerLink>,
    pub stop: CancellationToken,
    /// Called at most once: the controller will not have this broker.
    pub on_fault: Box<dyn FnOnce(Fault) + Send>,
}

pub struct Lifecycle {
    stage: watch::Receiver<Stage>,
    membership: Membership,
    wishes: watch::Sender<Wishes>,
    /// A node without the broker role has no life with the controller: nobody moves its stage.
    idle: Option<(watch::Sender<Stage>, watch::Sender<BrokerEpoch>)>,
}

/// What a broker knows of its own place in the cluster.
#[derive(Clone)]
pub struct Membership {
    /// The epoch of the registration; -1 before the first.
    pub epoch: watch::Receiver<BrokerEpoch>,
    /// When the last heartbeat that a controller answered was sent: none fences this broker for
    /// silence before a session has passed since.
    pub heard: watch::Receiver<Option<Instant>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Wishes {
    ready: bool,
    shut_down: bool,
}

impl Lifecycle {
    pub fn start(join: Join<'_>) -> Arc<Self> {
        let (stage, stage_seen) = watch::channel(Stage::Registering);
        let (epoch, epoch_seen) = watch::channel(-1);
        let (heard, heard_seen) = watch::channel(None);
        let (wishes, wished) = watch::channel(Wishes::default());
        let incarnation = join.env.random.uuid();
        let task = Task {
            registration: registration(&join, incarnation),
            link: join.link,
            interval: join.settings.broker_heartbeat_interval,
            session: join.settings.broker_session_timeout,
            patience: join.settings.initial_broker_registration_timeout,
            env: join.env.clone(),
            metadata: join.metadata,
            offline: join.offline,
            stage,
            epoch,
            heard,
            wished,
        };
        let (stop, on_fault) = (join.stop, join.on_fault);
        join.env.spawn_control(async move {
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                ended = task.run() => ended,
            };
            if let Err(fault) = ended {
                tracing::error!(%fault, "the broker cannot take part in the cluster");
                on_fault(fault);
            }
        });
        let membership = Membership { epoch: epoch_seen, heard: heard_seen };
        Arc::new(Self { stage: stage_seen, membership, wishes, idle: None })
    }

    /// Of a dedicated controller, which never registers as a broker.
    pub fn idle() -> Arc<Self> {
        let (stage, stage_seen) = watch::channel(Stage::Unfenced);
        let (epoch, epoch_seen) = watch::channel(-1);
        let wishes = watch::Sender::new(Wishes::default());
        let idle = Some((stage, epoch));
        let membership = Membership { epoch: epoch_seen, heard: watch::channel(None).1 };
        Arc::new(Self { stage: stage_seen, membership, wishes, idle })
    }

    /// The epoch of the registration; -1 before the first.
    pub fn broker_epoch(&self) -> BrokerEpoch {
        *self.membership.epoch.borrow()
    }

    pub fn membership(&self) -> Membership {
        self.membership.clone()
    }

    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.clone()
    }

    /// The broker can serve: it wants to be unfenced.
    pub fn set_ready(&self) {
        self.wishes.send_modify(|wishes| wishes.ready = true);
    }

    /// Waits until the broker is in service.
    pub async fn unfenced(&self) {
        let mut stage = self.stage.clone();
        if stage.wait_for(|stage| *stage == Stage::Unfenced).await.is_err() {
            // The task has ended with a fault, which was told where it belongs.
            std::future::pending::<()>().await;
        }
    }

    /// Moves all leaderships away; true when the controller has let the broker go, false when that
    /// took too long or no controller answers.
    pub async fn shut_down(&self, timeout: Duration) -> bool {
        if self.idle.is_some() {
            return true;
        }
        self.wishes.send_modify(|wishes| wishes.shut_down = true);
        let mut stage = self.stage.clone();
        let gone = stage.wait_for(|stage| *stage == Stage::ShutDown);
        matches!(tokio::time::timeout(timeout, gone).await, Ok(Ok(_)))
    }
}

fn registration(join: &Join<'_>, incarnation: Uuid) -> BrokerRegistrationRequest {
    let listener = |endpoint: &crate::config::Endpoint| {
        Listener::default()
            .with_name(endpoint.listener.clone().into())
            .with_host(endpoint.host.clone().into())
            .with_port(endpoint.port)
            .with_security_protocol(endpoint.protocol.id())
    };
    let feature = |(name, min, max): (&'static str, i16, i16)| {
        Feature::default()
            .with_name(StrBytes::from_static_str(name))
            .with_min_supported_version(min)
            .with_max_supported_version(max)
    };
    let settings = join.settings;
    BrokerRegistrationRequest::default()
        .with_broker_id(BrokerId(settings.node_id))
        .with_cluster_id(StrBytes::from_string(join.cluster_id.to_owned()))
        .with_incarnation_id(incarnation)
        .with_listeners(settings.listeners.advertised.iter().map(listener).collect())
        .with_features(supported_features().into_iter().map(feature).collect())
        .with_rack(settings.rack.clone().map(StrBytes::from_string))
        .with_log_dirs(join.directories.clone())
        .with_previous_broker_epoch(join.clean_shutdown_epoch.unwrap_or(-1))
}

struct Task {
    env: Env,
    link: Arc<ControllerLink>,
    registration: BrokerRegistrationRequest,
    interval: Duration,
    session: Duration,
    /// How long another process with our id may still be registered.
    patience: Duration,
    metadata: Arc<Metadata>,
    offline: watch::Receiver<Vec<Uuid>>,
    stage: watch::Sender<Stage>,
    epoch: watch::Sender<BrokerEpoch>,
    heard: watch::Sender<Option<Instant>>,
    wished: watch::Receiver<Wishes>,
}

impl Task {
    async fn run(mut self) -> Result<(), Fault> {
        self.register().await?;
        let mut applied = self.metadata.applied();
        loop {
            let wishes = *self.wished.borrow_and_update();
            let mut answered = false;
            let sent = self.env.clock.now();
            match self.heartbeat(wishes).await {
                Ok(response) => {
                    answered = true;
                    if response.error_code == 0 {
                        self.heard.send_replace(Some(sent));
                    }
                    self.follow(wishes, &response).await?;
                }
                Err(error) if wishes.shut_down => {
                    // As when a whole cluster stops: nobody is left who could take over.
                    tracing::info!(%error, "stopping without leave: no controller answers");
                    return Ok(());
                }
                Err(error) => tracing::warn!(%error, "a heartbeat was not answered"),
            }
            let stage = *self.stage.borrow();
            if stage == Stage::ShutDown {
                return Ok(());
            }
            let waits = stage == Stage::ShuttingDown || (stage == Stage::Fenced && wishes.ready);
            let pause = if waits { IMPATIENT.min(self.interval) } else { self.interval };
            tokio::select! {
                biased;
                _ = self.wished.changed() => {}
                Ok(()) = self.offline.changed() => {}
                _ = applied.changed(), if waits => {}
                // The controller takes that for a sign of death.
                () = self.link.closed(), if answered => {}
                // A new one may wait to hear of this broker.
                () = self.link.leader_changed() => {}
                () = self.env.clock.sleep(pause) => {}
            }
        }
    }

    async fn register(&mut self) -> Result<(), Fault> {
        let deadline = self.env.clock.now() + self.patience;
        let mut told = String::new();
        loop {
            let offline = self.offline.borrow().clone();
            self.registration.log_dirs.retain(|directory| !offline.contains(directory));
            let error = match self.link.send(self.registration.clone()).await {
                Ok(response) if response.error_code == 0 => {
                    tracing::info!(epoch = response.broker_epoch, "registered");
                    self.registration.previous_broker_epoch = response.broker_epoch;
                    self.epoch.send_replace(response.broker_epoch);
                    self.stage.send_replace(Stage::Fenced);
                    return Ok(());
                }
                Ok(response) => self.refused(response.error_code, deadline)?,
                Err(error) => error.to_string(),
            };
            if error != told {
                tracing::info!(error, "not registered yet; trying again");
                told = error;
            }
            self.env.clock.sleep(IMPATIENT.min(self.interval)).await;
        }
    }

    /// What to wait for, or that waiting is in vain.
    fn refused(&self, code: i16, deadline: Instant) -> Result<String, Fault> {
        let id = self.registration.broker_id.0;
        let code = ErrorCode::try_from_code(code);
        let why = match code {
            Some(ErrorCode::DuplicateBrokerRegistration) => {
                let why = format!("another process is registered as broker {id}");
                if self.env.clock.now() < deadline {
                    return Ok(why);
                }
                format!("{why}; stop it, or give this one a node.id of its own")
            }
            Some(ErrorCode::InconsistentClusterId) => format!(
                "the controller's cluster id is not {}, which this broker's data belongs to",
                self.registration.cluster_id
            ),
            Some(
                code @ (ErrorCode::UnsupportedVersion
                | ErrorCode::InvalidRegistration
                | ErrorCode::BrokerIdNotRegistered),
            ) => format!("the controller refuses the registration of broker {id}: {code}"),
            other => return Ok(format!("the controller answered {other:?}")),
        };
        Err(Fault::Start(why))
    }

    async fn heartbeat(&self, wishes: Wishes) -> Result<BrokerHeartbeatResponse, LinkError> {
        let request = BrokerHeartbeatRequest::default()
            .with_broker_id(self.registration.broker_id)
            .with_broker_epoch(*self.epoch.borrow())
            .with_current_metadata_offset(*self.metadata.applied().borrow())
            .with_want_fence(!wishes.ready && !wishes.shut_down)
            .with_want_shut_down(wishes.shut_down)
            .with_offline_log_dirs(self.offline.borrow().clone());
        self.link.send_within(request, self.session).await
    }

    async fn follow(
        &mut self,
        wishes: Wishes,
        response: &BrokerHeartbeatResponse,
    ) -> Result<(), Fault> {
        match ErrorCode::try_from_code(response.error_code) {
            None => {}
            Some(ErrorCode::StaleBrokerEpoch) => {
                tracing::warn!("the controller does not know this registration; registering anew");
                return self.register().await;
            }
            Some(code) => {
                tracing::warn!(?code, "a heartbeat was refused");
                return Ok(());
            }
        }
        let stage = match response {
            it if it.should_shut_down => Stage::ShutDown,
            _ if wishes.shut_down => Stage::ShuttingDown,
            it if it.is_fenced => Stage::Fenced,
            _ => Stage::Unfenced,
        };
        self.stage.send_if_modified(|now| {
            let changed = *now != stage;
            if changed {
                tracing::info!(from = ?*now, to = ?stage, "broker lifecycle");
                *now = stage;
            }
            changed
        });
        Ok(())
    }
}
