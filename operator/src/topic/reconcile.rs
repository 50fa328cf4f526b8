//! One look at a `KafkaTopic`: make the topic in Kafka what the manifest says, or say why not.
//!
//! A finalizer lets the topic be deleted in Kafka before its resource goes. It never waits for a
//! cluster that is gone: without a KafkaCluster there is no topic to delete.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::controller::Action as Next;
use kube::runtime::finalizer::{Event, finalizer};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use super::owner::owner;
use super::plan::{Cannot, describe, plan};
use super::{ValidTopic, validate};
use crate::cluster::names::FIELD_MANAGER;
use crate::context::{Context, Error};
use crate::kafka::{Action, FoundTopic};
use crate::resources::{Finding, GROUP, KafkaCluster, KafkaTopic, KafkaTopicStatus, VERSION};

const FINALIZER: &str = "ottla.dev/topic";
/// `ottla.dev/on-delete: keep` on a KafkaTopic leaves the topic in Kafka when the resource goes.
const ON_DELETE: &str = "ottla.dev/on-delete";
const READY: &str = "Ready";
const SOON: Duration = Duration::from_secs(5);

/// One look.
pub async fn reconcile(topic: Arc<KafkaTopic>, context: Arc<Context>) -> Result<Next, Error> {
    let namespace = topic.namespace().unwrap_or_default();
    let api: Api<KafkaTopic> = Api::namespaced(context.client.clone(), &namespace);
    let Some(topic) = api.get_opt(&topic.name_any()).await? else {
        return Ok(Next::await_change());
    };
    let done = finalizer(&api, FINALIZER, Arc::new(topic), |event| async {
        match event {
            Event::Apply(topic) => Look::of(&topic, &context).apply().await,
            Event::Cleanup(topic) => Look::of(&topic, &context).clean_up().await,
        }
    });
    done.await.map_err(|error| match error {
        kube::runtime::finalizer::Error::ApplyFailed(error)
        | kube::runtime::finalizer::Error::CleanupFailed(error) => error,
        kube::runtime::finalizer::Error::AddFinalizer(error)
        | kube::runtime::finalizer::Error::RemoveFinalizer(error) => Error::Api(error),
        other => Error::Finalizer(other.to_string()),
    })
}

struct Look<'a> {
    topic: &'a KafkaTopic,
    context: &'a Context,
    about: ObjectReference,
    namespace: String,
}

/// What is known about the cluster of a topic.
enum Cluster {
    Gone,
    /// Why it cannot be asked now.
    NotReady(String),
    At {
        bootstrap: String,
        /// All its brokers serve: what it refuses now it will refuse later.
        whole: bool,
    },
}

impl<'a> Look<'a> {
    fn of(topic: &'a KafkaTopic, context: &'a Context) -> Self {
        let namespace = topic.namespace().unwrap_or_default();
        Self { topic, context, about: topic.object_ref(&()), namespace }
    }

    async fn apply(&self) -> Result<Next, Error> {
        let wanted = match validate(self.topic) {
            Ok(wanted) => wanted,
            Err(problems) => {
                self.not_ready("Invalid", problems.to_string(), None).await?;
                return Ok(Next::await_change());
            }
        };
        if let Some(owner) = self.other_owner(&wanted).await? {
            let message = format!("the topic {} is described by KafkaTopic {owner}", wanted.name);
            self.not_ready("NameTaken", message, None).await?;
            return Ok(Next::requeue(self.context.resync));
        }
        let (bootstrap, whole) = match self.cluster(&wanted.cluster).await? {
            Cluster::At { bootstrap, whole } => (bootstrap, whole),
            Cluster::Gone => {
                let message = format!("there is no KafkaCluster {}", wanted.cluster);
                self.not_ready("NoCluster", message, None).await?;
                return Ok(Next::requeue(self.context.resync));
            }
            Cluster::NotReady(message) => {
                self.not_ready("ClusterNotReady", message, None).await?;
                return Ok(Next::requeue(SOON));
            }
        };
        match self.bring_about(&wanted, &bootstrap).await {
            Ok((found, cannot)) => self.told(&wanted, found, cannot).await,
            Err(error) if error.is_retriable() || !whole => {
                self.not_ready("ClusterNotReady", error.to_string(), None).await?;
                Ok(Next::requeue(SOON))
            }
            Err(error) => {
                self.not_ready("Refused", error.to_string(), None).await?;
                Ok(Next::requeue(self.context.resync))
            }
        }
    }

    /// Takes the steps, and looks again.
    async fn bring_about(
        &self,
        wanted: &ValidTopic,
        bootstrap: &str,
    ) -> ottla_client::Result<(Option<FoundTopic>, Vec<Cannot>)> {
        let kafka = &self.context.kafka;
        let found = kafka.topic(bootstrap, &wanted.name).await?;
        let plan = plan(wanted, found.as_ref());
        if plan.actions.is_empty() {
            return Ok((found, plan.cannot));
        }
        for action in &plan.actions {
            kafka.act(bootstrap, &wanted.name, action).await?;
            let (reason, note) = describe(action, &wanted.name);
            self.context.tell(&self.about, reason, note).await;
        }
        Ok((kafka.topic(bootstrap, &wanted.name).await?, plan.cannot))
    }

    async fn told(
        &self,
        wanted: &ValidTopic,
        found: Option<FoundTopic>,
        cannot: Vec<Cannot>,
    ) -> Result<Next, Error> {
        let Some(found) = found else {
            // Created, and the broker that we asked has not heard of it yet.
            let message = "the brokers are being told of the topic".to_owned();
            self.not_ready("Creating", message, None).await?;
            return Ok(Next::requeue(Duration::from_secs(1)));
        };
        if let Some(first) = cannot.first() {
            let all: Vec<_> = cannot.iter().map(|cannot| cannot.message.as_str()).collect();
            self.not_ready(first.reason, all.join("; "), Some(found)).await?;
            return Ok(Next::requeue(self.context.resync));
        }
        // A broker that answers from an older image of the metadata is asked again.
        let current = plan(wanted, Some(&found)).actions.is_empty();
        let finding = Finding::new(READY, true, "AsWanted", "the topic is as the manifest says");
        self.write(finding, Some(found)).await?;
        let again = if current { self.context.resync } else { Duration::from_secs(1) };
        Ok(Next::requeue(again))
    }

    async fn clean_up(&self) -> Result<Next, Error> {
        let name = self.topic.topic_name();
        let kept = self.topic.annotations().get(ON_DELETE).is_some_and(|value| value == "keep");
        if kept {
            let note = format!("the topic {name} stays in Kafka, as {ON_DELETE} says");
            self.context.tell(&self.about, "Kept", note).await;
            return Ok(Next::await_change());
        }
        let Ok(wanted) = validate(self.topic) else { return Ok(Next::await_change()) };
        if let Some(owner) = self.other_owner(&wanted).await? {
            let note = format!("the topic {name} stays: KafkaTopic {owner} describes it");
            self.context.tell(&self.about, "Kept", note).await;
            return Ok(Next::await_change());
        }
        let result = match self.cluster(&wanted.cluster).await? {
            Cluster::Gone => return Ok(Next::await_change()),
            Cluster::NotReady(why) => Err(why),
            Cluster::At { bootstrap, .. } => {
                let deleted = self.context.kafka.act(&bootstrap, &name, &Action::Delete).await;
                deleted.map_err(|error| error.to_string())
            }
        };
        match result {
            Ok(()) => {
                self.context.tell(&self.about, "Deleted", format!("{name} and its records")).await;
                Ok(Next::await_change())
            }
            Err(why) => {
                let message = format!(
                    "{name} cannot be deleted in Kafka now: {why}. This is tried again; deleting the \
                     KafkaCluster, or the annotation {ON_DELETE}=keep, ends the wait"
                );
                self.not_ready("DeletionWaits", message.clone(), None).await?;
                Err(Error::Waits(message))
            }
        }
    }

    async fn cluster(&self, name: &str) -> Result<Cluster, Error> {
        let api: Api<KafkaCluster> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let Some(cluster) = api.get_opt(name).await? else { return Ok(Cluster::Gone) };
        if cluster.metadata.deletion_timestamp.is_some() {
            return Ok(Cluster::Gone);
        }
        let status = cluster.status.unwrap_or_default();
        Ok(match status.bootstrap {
            Some(bootstrap) if status.ready_replicas > 0 => {
                Cluster::At { bootstrap, whole: status.conditions.is_true(READY) }
            }
            _ => Cluster::NotReady(format!("no broker of KafkaCluster {name} serves yet")),
        })
    }

    /// The resource that owns the topic of this one, when it is another one.
    async fn other_owner(&self, wanted: &ValidTopic) -> Result<Option<String>, Error> {
        let api: Api<KafkaTopic> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let of_cluster = ListParams::default().fields(&format!("spec.cluster={}", wanted.cluster));
        let all = api.list(&of_cluster).await?.items;
        Ok(owner(&all, &wanted.name).filter(|owner| *owner != self.topic.name_any()))
    }

    /// Says why the topic is not as it should be; with an Event when that is news.
    async fn not_ready(
        &self,
        reason: &'static str,
        message: String,
        found: Option<FoundTopic>,
    ) -> Result<(), Error> {
        let before = self.topic.status.as_ref().and_then(|status| status.conditions.get(READY));
        let patience = ["ClusterNotReady", "Creating"].contains(&reason);
        if !patience && before.is_none_or(|it| it.reason != reason || it.message != message) {
            self.context.warn(&self.about, reason, message.clone()).await;
        }
        self.write(Finding::new(READY, false, reason, message), found).await
    }

    /// Writes the status where it differs.
    async fn write(&self, finding: Finding, found: Option<FoundTopic>) -> Result<(), Error> {
        let before = self.topic.status.clone().unwrap_or_default();
        let generation = self.topic.metadata.generation;
        let mut status = KafkaTopicStatus {
            observed_generation: generation,
            topic_name: Some(self.topic.topic_name()),
            conditions: before.conditions.set(vec![finding], generation, Timestamp::now()),
            ..before.clone()
        };
        if let Some(found) = found {
            status.topic_id = Some(found.id);
            status.partitions = Some(found.partitions);
            status.replicas = Some(i32::from(found.replicas));
        }
        if status == before {
            return Ok(());
        }
        let api: Api<KafkaTopic> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let patch = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": KafkaTopic::kind(&()),
            "metadata": { "name": self.topic.name_any(), "uid": self.topic.uid() },
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch_status(&self.topic.name_any(), &params, &Patch::Apply(patch)).await?;
        Ok(())
    }
}
