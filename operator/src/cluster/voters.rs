//! The voters of a cluster in Kubernetes: records that it is founded, and takes one step of
//! [`quorum::decide`] per look.
//!
//! Order matters: that the permission to found is spent is on the volumes and in the status before
//! the settings without it are applied, and a second node gets a vote only in a look that applied
//! such settings. So however often the operator is killed, nobody who may still found a cluster
//! is ever one of two voters.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use ottla_client::Quorum;
use serde_json::json;

use super::reconcile::Look;
use super::{Layout, ValidCluster, names, status};
use crate::context::Error;
use crate::quorum::{self, Change, Decision};
use crate::resources::{CONTROLLER_PORT, KafkaCluster};

pub(super) struct Care<'a> {
    pub look: &'a Look<'a>,
    pub cluster: &'a KafkaCluster,
    pub settled: &'a ValidCluster,
    pub pods: &'a [Pod],
}

/// What was found and done.
pub(super) struct Cared {
    /// In the leader's words, or why nobody leads.
    pub quorum: Result<Quorum, String>,
    /// Whether the permission to found the cluster is spent.
    pub founded: bool,
    /// Whether a step was taken, so that the next one can be looked for.
    pub moved: bool,
}

impl Care<'_> {
    pub async fn care(
        &self,
        founded: bool,
        claims: &[PersistentVolumeClaim],
    ) -> Result<Cared, Error> {
        let controllers = status::controllers(self.settled, self.pods);
        let kafka = &self.look.context.kafka;
        let quorum = if controllers.is_empty() {
            Err("no controller leads: none of their pods runs".to_owned())
        } else {
            kafka.quorum(&controllers).await.map_err(|error| error.to_string())
        };
        let mut cared = Cared { quorum, founded, moved: false };
        let Ok(quorum) = &cared.quorum else { return Ok(cared) };
        if self.settled.layout == Layout::Static {
            return Ok(cared);
        }
        self.mark(claims).await?;
        if !founded {
            self.record_founding().await?;
            return Ok(Cared { founded: true, moved: true, ..cared });
        }
        if let Decision::Change(change) = quorum::decide(self.settled.layout.voters(), quorum) {
            cared.moved = self.change(&controllers, &change).await;
        }
        Ok(cared)
    }

    /// A resource that is made anew over these volumes must know that their cluster was founded.
    async fn mark(&self, claims: &[PersistentVolumeClaim]) -> Result<(), Error> {
        let namespace = &self.settled.namespace;
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.look.context.client.clone(), namespace);
        let bare = claims.iter().filter(|claim| {
            claim.metadata.deletion_timestamp.is_none()
                && !claim.annotations().contains_key(names::FOUNDED_ANNOTATION)
        });
        for claim in bare {
            let name = claim.name_any();
            let patch = json!({ "metadata": {
                // The uid: the mark is never put on a namesake that was made since.
                "uid": claim.uid(),
                "annotations": { names::FOUNDED_ANNOTATION: "true" },
            }});
            match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {}
                // Gone or replaced since it was read: the next look sees what is there now.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(source) => {
                    let object = format!("PersistentVolumeClaim {name}");
                    return Err(Error::Apply { object, source });
                }
            }
        }
        Ok(())
    }

    async fn record_founding(&self) -> Result<(), Error> {
        let mut status = self.cluster.status.clone().unwrap_or_default();
        status.quorum.get_or_insert_default().founded = true;
        self.look.write(self.cluster, &status).await?;
        let note = format!(
            "{} has founded the cluster; nothing will ever found it again",
            names::pod(&self.settled.name, self.settled.layout.founder())
        );
        self.look.context.tell(&self.look.about, "QuorumFounded", note).await;
        Ok(())
    }

    /// Whether the change was made. One that was not is no failure of the look: the leader may have
    /// changed, and the next look decides anew.
    async fn change(&self, controllers: &str, change: &Change) -> bool {
        let (Change::Add { id, .. } | Change::Remove { id, .. }) = change;
        let endpoint = quorum::endpoint(names::host(self.settled, *id), CONTROLLER_PORT);
        let (context, about) = (self.look.context, &self.look.about);
        match context.kafka.change_voter(controllers, change, endpoint).await {
            Ok(()) => {
                context.tell(about, change.reason(), change.to_string()).await;
                true
            }
            Err(error) => {
                let note = format!("the vote of node {id} was not changed: {error}");
                context.warn(about, "VoterNotChanged", note).await;
                false
            }
        }
    }
}
