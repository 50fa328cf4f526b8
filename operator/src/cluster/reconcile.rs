//! One look at a `KafkaCluster`: gather → validate → build → apply → status.
//!
//! The resource is read anew at the start, because a cache may lack the id that the last look gave
//! it. The id is in the status before anything is built with it, and that the permission to found
//! the cluster is spent is in the status before a second node can get a vote. Whatever stops a look
//! leaves what runs as it is.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::build::{self, Nodes, Objects, With};
use super::gather::{self, Gathered, InTheWay, label};
use super::identity::{self, Identity};
use super::settle::{Refused, settle};
use super::status::{self, Seen};
use super::voters;
use super::{Layout, Pool, ValidCluster, names, validate};
use crate::context::{Context, Error, in_words};
use crate::resources::{Finding, GROUP, KafkaCluster, KafkaClusterStatus, QuorumStatus, VERSION};

/// How soon to look again at a cluster that is not ready: brokers tell Kubernetes when they are, so
/// this is only for what nothing tells.
const SOON: Duration = Duration::from_secs(2);
/// How soon to look again after a step that has a next one.
const AT_ONCE: Duration = Duration::from_millis(200);

/// One look.
pub async fn reconcile(cluster: Arc<KafkaCluster>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let api: Api<KafkaCluster> = Api::namespaced(context.client.clone(), &namespace);
    let Some(cluster) = api.get_opt(&cluster.name_any()).await? else {
        return Ok(Action::await_change());
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        // Kubernetes deletes what the cluster owns. The volumes follow storage.deleteClaim.
        return Ok(Action::await_change());
    }
    let look = Look { context: &context, api: &api, about: cluster.object_ref(&()) };
    let (found, moved) = match Box::pin(look.at(&cluster)).await {
        Ok(found) => found,
        Err(Error::Apply { object, source }) => {
            let message = format!("{object}: {}", in_words(&source));
            look.finish(&cluster, blocked(&cluster, "ApplyFailed", message, false)).await?;
            return Err(Error::Apply { object, source });
        }
        Err(error) => return Err(error),
    };
    let ready = found.conditions.is_true(status::READY);
    look.finish(&cluster, found).await?;
    Ok(Action::requeue(match (moved, ready) {
        (true, _) => AT_ONCE,
        (false, true) => context.resync,
        (false, false) => SOON,
    }))
}

pub(super) struct Look<'a> {
    pub(super) context: &'a Context,
    pub(super) api: &'a Api<KafkaCluster>,
    pub(super) about: ObjectReference,
}

impl Look<'_> {
    /// Does what can be done, and returns the status to write, and whether there is more to do at
    /// once.
    async fn at(&self, cluster: &KafkaCluster) -> Result<(KafkaClusterStatus, bool), Error> {
        let blocked =
            |reason, message, waits| Ok((blocked(cluster, reason, message, waits), false));
        let wanted = match validate(cluster) {
            Ok(wanted) => wanted,
            Err(problems) => return blocked("Invalid", problems.to_string(), false),
        };
        let gathered = gather::gather(&self.context.client, &wanted).await?;
        match gathered.in_the_way(&wanted) {
            None => {}
            Some(InTheWay::Left(object)) => {
                let message = format!("waiting for {object} of a former cluster to be deleted");
                return blocked("WaitingForFormerObjects", message, true);
            }
            Some(InTheWay::Foreign(object)) => {
                let message = format!(
                    "{object} is there and belongs to something else: delete or rename it, or give \
                     the cluster another name"
                );
                return blocked("NameTaken", message, false);
            }
        }
        let id = match self.identity(cluster, &gathered).await? {
            Ok(id) => id,
            Err(message) => return blocked("VolumesOfAnotherCluster", message, false),
        };
        let (settled, refused) = settle(wanted, gathered.set.as_ref());
        self.tell_refused(cluster, &refused).await;
        let founded = is_founded(cluster, &settled, &gathered);
        let with = With {
            id: &id,
            image: &self.context.image,
            founding: !founded,
            zones: &gathered.zones,
        };
        let objects = build::objects(&settled, with);
        let set = Box::pin(self.apply(&settled, objects, &gathered.present)).await?;
        let pods = gather::pods(&self.context.client, &settled).await?;
        let care = voters::Care { look: self, cluster, settled: &settled, pods: &pods };
        let cared = care.care(founded, &gathered.claims).await?;
        let found = Found { settled: &settled, id, set: &set, pods: &pods, refused: &refused };
        Ok((self.status(cluster, found, &cared).await, cared.moved))
    }

    /// The Kafka id, in the status before it is used; or why there can be none.
    async fn identity(
        &self,
        cluster: &KafkaCluster,
        gathered: &Gathered,
    ) -> Result<Result<String, String>, Error> {
        let in_status = cluster.status.as_ref().and_then(|status| status.cluster_id.clone());
        let (id, note) = match identity::identity(&gathered.known_id(in_status)) {
            Identity::Settled(id) => return Ok(Ok(id)),
            Identity::Contradiction(message) => return Ok(Err(message)),
            Identity::Found(id) => {
                let note = format!("volumes of Kafka cluster {id} are there and are used again");
                (id, note)
            }
            Identity::Unknown => {
                let id = identity::generate();
                (id.clone(), format!("this is Kafka cluster {id}"))
            }
        };
        let mut status = cluster.status.clone().unwrap_or_default();
        status.cluster_id = Some(id.clone());
        status
            .quorum
            .get_or_insert(QuorumStatus { founded: gathered.founded(), ..Default::default() });
        self.write(cluster, &status).await?;
        self.context.tell(&self.about, "ClusterIdSet", note).await;
        Ok(Ok(id))
    }

    async fn tell_refused(&self, cluster: &KafkaCluster, refused: &[Refused]) {
        let told = status::in_words(refused);
        let before = cluster.status.as_ref().and_then(|it| it.conditions.get(status::DEGRADED));
        if !refused.is_empty() && before.is_none_or(|condition| condition.message != told) {
            self.context.warn(&self.about, "ChangeNotSupported", told).await;
        }
    }

    /// Applies everything, and returns the StatefulSet as it is now.
    async fn apply(
        &self,
        cluster: &ValidCluster,
        objects: Objects,
        present: &BTreeMap<String, ObjectMeta>,
    ) -> Result<StatefulSet, Error> {
        let to = Target { look: self, namespace: &cluster.namespace, present };
        to.apply(objects.service_account).await?;
        if let Some(racks) = objects.racks {
            to.apply(racks).await?;
        }
        to.apply(objects.bootstrap).await?;
        if let Some(controllers) = objects.controllers {
            Box::pin(to.nodes(controllers)).await?;
        }
        Box::pin(to.nodes(objects.brokers)).await
    }

    async fn status(
        &self,
        cluster: &KafkaCluster,
        found: Found<'_>,
        cared: &voters::Cared,
    ) -> KafkaClusterStatus {
        let Found { settled, id, set, pods, refused } = found;
        let bootstrap = names::bootstrap_address(settled);
        let reachable = status::reachable(settled, pods);
        let answer = if reachable.is_empty() {
            Err("no broker is ready".to_owned())
        } else {
            self.context.kafka.cluster(&reachable).await.map_err(|error| error.to_string())
        };
        let answer = answer.and_then(|answer| {
            let same = answer.id == id;
            let other = || format!("{reachable} answers as Kafka cluster {}, not {id}", answer.id);
            if same { Ok(answer.clone()) } else { Err(other()) }
        });
        let copies = match &answer {
            Ok(_) => self.context.kafka.copies(&reachable).await.ok(),
            Err(_) => None,
        };
        let kafka = answer.as_ref().map_err(Clone::clone);
        let quorum = cared.quorum.as_ref().map_err(Clone::clone);
        let seen = Seen { pods, set, kafka, quorum, copies, now: Timestamp::now() };
        let brokers = status::brokers(settled, &seen);
        let findings = status::findings(settled, &brokers, &seen, refused);
        let before = cluster.status.as_ref().and_then(|status| status.quorum.as_ref());
        let selector = names::selector(&settled.name, Pool::Brokers);
        let selector: Vec<_> = selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let is_broker = |pod: &&Pod| brokers.iter().any(|it| it.pod == pod.name_any());
        let replicas = pods.iter().filter(is_broker).count();
        KafkaClusterStatus {
            cluster_id: Some(id),
            bootstrap: Some(bootstrap),
            replicas: i32::try_from(replicas).unwrap_or(i32::MAX),
            ready_replicas: brokers.iter().filter(|broker| status::serves(broker)).count() as i32,
            selector: Some(selector.join(",")),
            quorum: Some(status::quorum(&seen, cared.founded, before)),
            brokers,
            ..with(cluster, findings)
        }
    }

    /// Writes the status where it differs, and tells of a change in the conditions.
    async fn finish(&self, cluster: &KafkaCluster, found: KafkaClusterStatus) -> Result<(), Error> {
        let before = cluster.status.clone().unwrap_or_default();
        if before == found {
            return Ok(());
        }
        self.write(cluster, &found).await?;
        let conditions = [(status::READY, true), (status::QUORUM, true), (status::DEGRADED, false)];
        for (condition, good) in conditions {
            let (Some(now), was) =
                (found.conditions.get(condition), before.conditions.get(condition))
            else {
                continue;
            };
            let same = was.is_some_and(|was| was.status == now.status && was.reason == now.reason);
            // A cluster that was never ready, or never degraded, has no news.
            let news = was.is_some() || (now.status == "True");
            if same || !news || now.reason == "ChangeNotSupported" {
                continue;
            }
            let why = if now.message.is_empty() { &now.reason } else { &now.message };
            let note = format!("{condition} is {}: {why}", now.status);
            if (now.status == "True") == good {
                self.context.tell(&self.about, &now.reason, note).await;
            } else {
                self.context.warn(&self.about, &now.reason, note).await;
            }
        }
        Ok(())
    }

    pub(super) async fn write(
        &self,
        cluster: &KafkaCluster,
        status: &KafkaClusterStatus,
    ) -> Result<(), Error> {
        let patch = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": KafkaCluster::kind(&()),
            // The uid: a status is never written to a namesake that was created since.
            "metadata": { "name": cluster.name_any(), "uid": cluster.uid() },
            "status": status,
        });
        let params = PatchParams::apply(names::FIELD_MANAGER).force();
        self.api.patch_status(&cluster.name_any(), &params, &Patch::Apply(patch)).await?;
        Ok(())
    }
}

/// What a look has found out when it comes to write the status.
struct Found<'a> {
    settled: &'a ValidCluster,
    id: String,
    set: &'a StatefulSet,
    pods: &'a [Pod],
    refused: &'a [Refused],
}

/// Whether the permission to found the cluster is spent. What was made by an earlier version never
/// had one; and a resource that is made anew over volumes of a founded cluster gets none.
fn is_founded(cluster: &KafkaCluster, settled: &ValidCluster, gathered: &Gathered) -> bool {
    let recorded = cluster.status.as_ref().and_then(|status| status.quorum.as_ref());
    settled.layout == Layout::Static
        || gathered.founded()
        || recorded.is_some_and(|quorum| quorum.founded)
}

/// The status of a cluster that cannot be worked on now; everything else stays as it was.
fn blocked(
    cluster: &KafkaCluster,
    reason: &'static str,
    message: String,
    waits: bool,
) -> KafkaClusterStatus {
    let before = cluster.status.clone().unwrap_or_default();
    let findings = status::blocked(&before, reason, message, waits);
    let now = with(cluster, findings);
    KafkaClusterStatus {
        conditions: now.conditions,
        observed_generation: now.observed_generation,
        ..before
    }
}

fn with(cluster: &KafkaCluster, findings: Vec<Finding>) -> KafkaClusterStatus {
    let conditions = cluster.status.clone().unwrap_or_default().conditions;
    let generation = cluster.metadata.generation;
    KafkaClusterStatus {
        observed_generation: generation,
        conditions: conditions.set(findings, generation, Timestamp::now()),
        ..Default::default()
    }
}

struct Target<'a> {
    look: &'a Look<'a>,
    namespace: &'a str,
    present: &'a BTreeMap<String, ObjectMeta>,
}

impl Target<'_> {
    /// The objects of one pool; what pods need comes before what starts them.
    async fn nodes(&self, nodes: Nodes) -> Result<StatefulSet, Error> {
        self.apply(nodes.settings).await?;
        self.apply(nodes.headless).await?;
        self.apply(nodes.disruption_budget).await?;
        self.apply(nodes.stateful_set).await
    }

    /// Server-side apply: an object that is as it should be is not written. Tells of what changed.
    async fn apply<K>(&self, object: K) -> Result<K, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Serialize
            + DeserializeOwned
            + Debug,
    {
        let context = self.look.context;
        let api: Api<K> = Api::namespaced(context.client.clone(), self.namespace);
        let name = object.name_any();
        let label = label::<K>(&name);
        let params = PatchParams::apply(names::FIELD_MANAGER).force();
        let applied = api
            .patch(&name, &params, &Patch::Apply(&object))
            .await
            .map_err(|source| Error::Apply { object: label.clone(), source })?;
        match self.present.get(&label) {
            None => context.tell(&self.look.about, "Created", label).await,
            Some(before) if before.generation != applied.meta().generation => {
                context.tell(&self.look.about, "Updated", label).await;
            }
            // What has no generation shows a change by its version alone.
            Some(before)
                if before.generation.is_none()
                    && before.resource_version != applied.meta().resource_version =>
            {
                context.tell(&self.look.about, "Updated", label).await;
            }
            Some(_) => {}
        }
        Ok(applied)
    }
}

/// Tells which cluster a pod is of: namespace and name.
pub fn cluster_of<K: Resource>(object: &K) -> Option<(String, String)> {
    let name = object.meta().labels.as_ref()?.get(names::CLUSTER_LABEL)?.clone();
    Some((object.meta().namespace.clone()?, name))
}
