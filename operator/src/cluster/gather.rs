//! Everything that a reconcile of a cluster must know before it decides anything.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, PersistentVolumeClaim, Pod, Service, ServiceAccount,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, ObjectMeta};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::build::NodeZone;
use super::identity::Known;
use super::layout::FIRST_CONTROLLER;
use super::settle::running_layout;
use super::{Pool, ValidCluster, names};

/// What is there of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Gathered {
    pub set: Option<StatefulSet>,
    pub claims: Vec<PersistentVolumeClaim>,
    pub zones: Vec<NodeZone>,
    /// The metadata of every object that goes by one of our names, by kind and name.
    pub present: BTreeMap<String, ObjectMeta>,
}

/// Reads all of it. Nothing is written.
pub async fn gather(client: &Client, cluster: &ValidCluster) -> kube::Result<Gathered> {
    let (name, namespace) = (cluster.name.as_str(), cluster.namespace.as_str());
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let set = sets.get_opt(&names::pool(name, Pool::Brokers)).await?;
    let layout = set.as_ref().map_or(cluster.layout, running_layout);
    let mut present = BTreeMap::new();
    let mut look = Look { client, namespace, present: &mut present };
    look.at::<ServiceAccount>(&names::service_account(name)).await?;
    look.at::<ConfigMap>(&names::racks(name)).await?;
    look.at::<Service>(&names::bootstrap(name)).await?;
    look.pool(Pool::Brokers, name).await?;
    if !layout.dedicated().is_empty() {
        look.pool(Pool::Controllers, name).await?;
    }
    let claims = claims(client, cluster).await?;
    let zones = match &cluster.spec.rack {
        Some(rack) => zones(client, &rack.topology_key).await?,
        None => vec![],
    };
    Ok(Gathered { set, claims, zones, present })
}

/// The pods of a cluster, by their labels and their exact names.
pub async fn pods(client: &Client, cluster: &ValidCluster) -> kube::Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &cluster.namespace);
    let mut pods = api.list(&of_cluster(&cluster.name)).await?.items;
    let own: Vec<_> = cluster.all_ids().map(|id| names::pod(&cluster.name, id)).collect();
    pods.retain(|pod| own.contains(&pod.name_any()));
    Ok(pods)
}

/// The volume claims of a cluster. The name decides, not a label alone: a label can be on anything.
async fn claims(
    client: &Client,
    cluster: &ValidCluster,
) -> kube::Result<Vec<PersistentVolumeClaim>> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &cluster.namespace);
    let mut claims = api.list(&of_cluster(&cluster.name)).await?.items;
    let prefixes = [0, FIRST_CONTROLLER].map(|id| names::claim(&cluster.name, id));
    let prefixes = prefixes.each_ref().map(|first| first.trim_end_matches('0'));
    claims.retain(|claim| {
        let name = claim.name_any();
        let ordinal = |prefix: &&str| name.strip_prefix(*prefix)?.parse::<u16>().ok();
        prefixes.iter().any(|prefix| ordinal(prefix).is_some())
    });
    Ok(claims)
}

fn of_cluster(name: &str) -> ListParams {
    ListParams::default().labels(&format!("{}={name}", names::CLUSTER_LABEL))
}

async fn zones(client: &Client, topology_key: &str) -> kube::Result<Vec<NodeZone>> {
    let nodes = Api::<Node>::all(client.clone()).list_metadata(&ListParams::default()).await?;
    let zone = |node: &ObjectMeta| node.labels.as_ref()?.get(topology_key).cloned();
    let mut zones: Vec<_> = nodes
        .items
        .iter()
        .filter_map(|node| Some((node.metadata.name.clone()?, zone(&node.metadata)?)))
        .collect();
    zones.sort();
    Ok(zones)
}

struct Look<'a> {
    client: &'a Client,
    namespace: &'a str,
    present: &'a mut BTreeMap<String, ObjectMeta>,
}

impl Look<'_> {
    async fn pool(&mut self, pool: Pool, cluster: &str) -> kube::Result<()> {
        let name = names::pool(cluster, pool);
        self.at::<ConfigMap>(&name).await?;
        self.at::<Service>(&names::headless(cluster, pool)).await?;
        self.at::<PodDisruptionBudget>(&name).await?;
        self.at::<StatefulSet>(&name).await
    }

    async fn at<K>(&mut self, name: &str) -> kube::Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        if let Some(found) = api.get_metadata_opt(name).await? {
            self.present.insert(label::<K>(name), found.metadata);
        }
        Ok(())
    }
}

/// How an object is called in events and conditions.
pub fn label<K: Resource<DynamicType = ()>>(name: &str) -> String {
    format!("{} {name}", K::kind(&()))
}

impl Gathered {
    /// What is known of the Kafka id.
    pub fn known_id(&self, status: Option<String>) -> Known {
        let id = |claim: &PersistentVolumeClaim| {
            Some((claim.name_any(), claim.annotations().get(names::CLUSTER_ID_ANNOTATION)?.clone()))
        };
        Known { status, claims: self.claims.iter().filter_map(id).collect() }
    }

    /// Whether a volume says that its cluster was founded.
    pub fn founded(&self) -> bool {
        let marked = |claim: &PersistentVolumeClaim| {
            claim.annotations().contains_key(names::FOUNDED_ANNOTATION)
        };
        self.claims.iter().any(marked)
    }

    /// An object under one of our names that is not ours, or what is left of a former cluster of
    /// the same name. The second goes by itself; the first needs a person.
    pub fn in_the_way(&self, cluster: &ValidCluster) -> Option<InTheWay> {
        let mut left = None;
        for (label, found) in &self.present {
            let owner =
                found.owner_references.iter().flatten().find(|it| it.controller == Some(true));
            match owner {
                Some(owner) if owner.uid == cluster.uid && found.deletion_timestamp.is_none() => {}
                Some(owner) if owner.kind == "KafkaCluster" && owner.name == cluster.name => {
                    left = Some(InTheWay::Left(label.clone()));
                }
                _ => return Some(InTheWay::Foreign(label.clone())),
            }
        }
        // A claim that was to go with its StatefulSet must be gone before a new node binds it.
        let going = |claim: &&PersistentVolumeClaim| {
            let owners = claim.owner_references();
            let owner = owners.iter().find(|owner| owner.kind == "StatefulSet");
            let set = |name: &str| self.present.get(&label::<StatefulSet>(name))?.uid.as_ref();
            // One that goes while its set is there is a disk that somebody replaces.
            claim.metadata.deletion_timestamp.is_some() && self.set.is_none()
                || owner.is_some_and(|owner| Some(&owner.uid) != set(&owner.name))
        };
        let claim = self.claims.iter().find(going).map(ResourceExt::name_any);
        left.or(claim.map(|claim| InTheWay::Left(label::<PersistentVolumeClaim>(&claim))))
    }
}

/// Why a cluster's objects cannot be applied now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InTheWay {
    /// Of a former cluster of the same name; it is being deleted.
    Left(String),
    /// Somebody else's.
    Foreign(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::demo;
    use serde_json::json;

    fn gathered(owner: &serde_json::Value) -> Gathered {
        let metadata = json!({ "name": "demo-brokers", "ownerReferences": [owner] });
        let metadata = serde_json::from_value(metadata).unwrap();
        let present = BTreeMap::from([("Service demo-brokers".to_owned(), metadata)]);
        Gathered { present, ..Gathered::default() }
    }

    fn owner(kind: &str, uid: &str) -> serde_json::Value {
        json!({ "apiVersion": "v1", "kind": kind, "name": "demo", "uid": uid, "controller": true })
    }

    #[test]
    fn own_objects_are_not_in_the_way() {
        assert_eq!(gathered(&owner("KafkaCluster", "u-1")).in_the_way(&demo()), None);
    }

    #[test]
    fn what_is_left_of_a_former_cluster_is_waited_for() {
        let left = Some(InTheWay::Left("Service demo-brokers".to_owned()));
        assert_eq!(gathered(&owner("KafkaCluster", "u-0")).in_the_way(&demo()), left);
    }

    #[test]
    fn what_belongs_to_somebody_else_is_never_taken() {
        let foreign = Some(InTheWay::Foreign("Service demo-brokers".to_owned()));
        assert_eq!(gathered(&owner("Deployment", "u-9")).in_the_way(&demo()), foreign);
    }

    #[test]
    fn a_volume_that_goes_with_its_former_set_is_waited_for() {
        let claim = json!({ "metadata": { "name": "data-demo-broker-0", "ownerReferences": [
            { "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "demo-broker", "uid": "s-0" },
        ]}});
        let claims = vec![serde_json::from_value(claim).unwrap()];
        let gathered = Gathered { claims, ..Gathered::default() };
        let left = InTheWay::Left("PersistentVolumeClaim data-demo-broker-0".to_owned());
        assert_eq!(gathered.in_the_way(&demo()), Some(left));
    }

    #[test]
    fn a_disk_that_is_replaced_is_not_in_the_way_of_its_own_cluster() {
        let claim = json!({ "metadata": {
            "name": "data-demo-broker-0", "deletionTimestamp": "2026-01-01T00:00:00Z",
        }});
        let claims: Vec<PersistentVolumeClaim> = vec![serde_json::from_value(claim).unwrap()];
        let set = Some(StatefulSet::default());
        let replaced = Gathered { claims: claims.clone(), set, ..Gathered::default() };
        assert_eq!(replaced.in_the_way(&demo()), None);
        let former = Gathered { claims, ..Gathered::default() };
        assert!(matches!(former.in_the_way(&demo()), Some(InTheWay::Left(_))));
    }

    #[test]
    fn a_kept_volume_says_whether_its_cluster_was_founded() {
        let claim = |annotation: &str| {
            let claim = json!({ "metadata": {
                "name": "data-demo-broker-0", "annotations": { annotation: "true" },
            }});
            Gathered { claims: vec![serde_json::from_value(claim).unwrap()], ..Gathered::default() }
        };
        assert!(claim(names::FOUNDED_ANNOTATION).founded());
        assert!(!claim("other").founded());
    }

    #[test]
    fn a_kept_volume_gives_its_id() {
        let claim = json!({ "metadata": {
            "name": "data-demo-broker-0", "annotations": { "ottla.dev/cluster-id": "A" },
        }});
        let claims = vec![serde_json::from_value(claim).unwrap()];
        let gathered = Gathered { claims, ..Gathered::default() };
        assert_eq!(gathered.in_the_way(&demo()), None);
        let known = gathered.known_id(None);
        assert_eq!(known.claims, [("data-demo-broker-0".to_owned(), "A".to_owned())]);
    }
}
