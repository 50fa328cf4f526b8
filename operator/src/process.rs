//! The operator as a process: leads or waits to lead, watches, and stops without leaving anything
//! half done.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{Lookup, ObjectRef};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::cluster::names::{CLUSTER_LABEL, FIELD_MANAGER};
use crate::context::{Context, Error, in_words};
use crate::kafka::Brokers;
use crate::leader::Election;
use crate::resources::{KafkaCluster, KafkaTopic};
use crate::server::{self, Health};
use crate::{cluster, topic};

/// How the operator runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The one namespace to look after; all of them unless set.
    pub namespace: Option<String>,
    /// The image of brokers whose manifest names none.
    pub image: String,
    /// Where probes and metrics are served.
    pub listen: SocketAddr,
    /// Who this process is among several: the name of its pod.
    pub identity: String,
    /// The namespace of the Lease; none for a single operator that needs no election.
    pub lease_namespace: Option<String>,
    /// How long until a resource that is as it should be is looked at again.
    pub resync: Duration,
}

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("no way to the API server: {0}")]
    Config(String),
    #[error("the API server: {0}")]
    Api(String),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{0} is not installed: apply the CustomResourceDefinitions first (`ottla crds`)")]
    NoCrds(String),
    #[error("another operator leads now")]
    LostLease,
}

/// Runs until `stop` is cancelled or the operator cannot go on.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Failure> {
    let client = Client::try_default().await.map_err(|error| Failure::Config(error.to_string()))?;
    let health = Health::default();
    let served = server::serve(options.listen, health.clone())
        .await
        .map_err(|source| Failure::Listen { address: options.listen, source })?;
    let version = client.apiserver_version().await.map_err(|it| Failure::Api(in_words(&it)))?;
    check_crds(&client, &options).await?;
    health.ready.store(true, Ordering::Relaxed);
    tracing::info!(
        kubernetes = version.git_version,
        listen = %options.listen,
        namespace = options.namespace.as_deref().unwrap_or("all"),
        "the operator runs"
    );
    let work = lead(&client, &options, &health, stop);
    futures::pin_mut!(work, served);
    tokio::select! {
        biased;
        ended = work => ended,
        ended = served => Err(Failure::Listen {
            address: options.listen,
            source: ended.err().unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into()),
        }),
    }
}

/// A watch of a kind that is not there would only retry for ever: say so at once.
async fn check_crds(client: &Client, options: &Options) -> Result<(), Failure> {
    check::<KafkaCluster>(client, options).await?;
    check::<KafkaTopic>(client, options).await
}

async fn check<K>(client: &Client, options: &Options) -> Result<(), Failure>
where
    K: Watched,
{
    let one = kube::api::ListParams::default().limit(1);
    match api::<K>(client, options).list(&one).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            Err(Failure::NoCrds(K::kind(&()).into_owned()))
        }
        Err(error) => Err(Failure::Api(in_words(&error))),
    }
}

async fn lead(
    client: &Client,
    options: &Options,
    health: &Health,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let Some(namespace) = &options.lease_namespace else {
        health.metrics.set_leader(true);
        work(client, options, health, stop).await;
        return Ok(());
    };
    let election = Election {
        leases: Api::namespaced(client.clone(), namespace),
        name: FIELD_MANAGER.to_owned(),
        identity: options.identity.clone(),
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        () = election.win() => {}
    }
    tracing::info!("{} leads", options.identity);
    health.metrics.set_leader(true);
    let work = work(client, options, health, stop);
    tokio::select! {
        biased;
        // Ends at once, in the middle of whatever it does: every step may be repeated.
        () = election.hold() => Err(Failure::LostLease),
        () = work => {
            election.release().await;
            Ok(())
        }
    }
}

/// Watches and reconciles until `stop`, and lets what has begun come to its end.
async fn work(client: &Client, options: &Options, health: &Health, stop: CancellationToken) {
    let reporter =
        Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some(options.identity.clone()) };
    let context = Arc::new(Context {
        client: client.clone(),
        kafka: Arc::new(Brokers),
        recorder: Recorder::new(client.clone(), reporter),
        metrics: Arc::clone(&health.metrics),
        image: options.image.clone(),
        resync: options.resync,
        failures: Mutex::new(BTreeMap::new()),
    });
    let clusters = clusters(client, options, stop.clone(), Arc::clone(&context));
    let topics = topics(client, options, stop, context);
    futures::join!(clusters, topics);
    tracing::info!("the operator has stopped");
}

async fn clusters(
    client: &Client,
    options: &Options,
    stop: CancellationToken,
    context: Arc<Context>,
) {
    let all = watcher::Config::default;
    let of_a_cluster = || watcher::Config::default().labels(CLUSTER_LABEL);
    let cluster_of_pod = |pod: Pod| {
        let (namespace, name) = cluster::reconcile::cluster_of(&pod)?;
        Some(ObjectRef::<KafkaCluster>::new(&name).within(&namespace))
    };
    let stream = Controller::new(api::<KafkaCluster>(client, options), all())
        .owns(api::<StatefulSet>(client, options), of_a_cluster())
        .owns(api::<ConfigMap>(client, options), of_a_cluster())
        .owns(api::<Service>(client, options), of_a_cluster())
        .owns(api::<ServiceAccount>(client, options), of_a_cluster())
        .owns(api::<PodDisruptionBudget>(client, options), of_a_cluster())
        .watches(api::<Pod>(client, options), of_a_cluster(), cluster_of_pod)
        .graceful_shutdown_on(stop.cancelled_owned())
        .with_config(config())
        .run(
            |cluster, context| measured(cluster, context, cluster::reconcile::reconcile),
            after_failure,
            context,
        );
    drain(stream).await;
}

async fn topics(
    client: &Client,
    options: &Options,
    stop: CancellationToken,
    context: Arc<Context>,
) {
    let all = watcher::Config::default;
    let controller = Controller::new(api::<KafkaTopic>(client, options), all());
    let store = controller.store();
    let topics_of = move |cluster: KafkaCluster| {
        let topics = store.state().into_iter().filter(move |topic| {
            topic.metadata.namespace == cluster.metadata.namespace
                && topic.spec.cluster == cluster.name_any()
        });
        topics.map(|topic| topic.to_object_ref(())).collect::<Vec<_>>()
    };
    let stream = controller
        .watches(api::<KafkaCluster>(client, options), all(), topics_of)
        .graceful_shutdown_on(stop.cancelled_owned())
        .with_config(config())
        .run(
            |topic, context| measured(topic, context, topic::reconcile::reconcile),
            after_failure,
            context,
        );
    drain(stream).await;
}

/// Several changes at once are one look; and a bounded number of looks at a time.
fn config() -> controller::Config {
    controller::Config::default().debounce(Duration::from_millis(100)).concurrency(16)
}

async fn measured<K, F>(
    resource: Arc<K>,
    context: Arc<Context>,
    reconcile: impl FnOnce(Arc<K>, Arc<Context>) -> F,
) -> Result<Action, Error>
where
    K: Resource<DynamicType = ()>,
    F: Future<Output = Result<Action, Error>>,
{
    let (started, key) = (Instant::now(), key(&*resource));
    let done = reconcile(resource, Arc::clone(&context)).await;
    let kind = if K::kind(&()) == "KafkaTopic" { "KafkaTopic" } else { "KafkaCluster" };
    context.metrics.reconciled(kind, done.is_ok(), started.elapsed());
    if done.is_ok() {
        context.succeeded(&key);
    }
    done
}

fn after_failure<K>(resource: Arc<K>, error: &Error, context: Arc<Context>) -> Action
where
    K: Resource<DynamicType = ()>,
{
    let key = key(&*resource);
    let pause = context.pause_after_failure(key.clone());
    if matches!(error, Error::Waits(_)) {
        tracing::debug!(resource = key, "looked at again in {} s", pause.as_secs());
    } else {
        tracing::warn!(resource = key, "tried again in {} s: {error}", pause.as_secs());
    }
    Action::requeue(pause)
}

fn key<K: Resource<DynamicType = ()>>(resource: &K) -> String {
    let namespace = resource.meta().namespace.clone().unwrap_or_default();
    format!("{}/{namespace}/{}", K::kind(&()), resource.name_any())
}

async fn drain<K: Lookup, E, Q>(
    stream: impl Stream<Item = Result<(ObjectRef<K>, Action), controller::Error<E, Q>>>,
) where
    K::DynamicType: Debug + Clone + std::hash::Hash + Eq,
    E: std::error::Error + 'static,
    Q: std::error::Error + 'static,
{
    let each = stream.for_each(|result| {
        match result {
            Ok((object, _)) => tracing::debug!("looked at {object}"),
            // Deleted between two looks, or told already where it failed.
            Err(controller::Error::ObjectNotFound(_) | controller::Error::ReconcilerFailed(..)) => {
            }
            Err(error) => tracing::warn!("{error}"),
        }
        futures::future::ready(())
    });
    each.map(|()| ()).await;
}

/// What can be watched in one namespace or in all.
trait Watched:
    Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
    + Clone
    + DeserializeOwned
    + Debug
    + Send
    + Sync
    + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static
{
}

fn api<K: Watched>(client: &Client, options: &Options) -> Api<K> {
    match &options.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
