//! The StatefulSets of a cluster, with their volumes: its brokers, and its dedicated controllers.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::pod;
use crate::cluster::layout::Layout;
use crate::cluster::{Pool, ValidCluster, names};

/// The volume of a dedicated controller that asks for none: metadata is small.
const CONTROLLER_VOLUME: &str = "1Gi";

/// The StatefulSet of a pool.
pub fn stateful_set(cluster: &ValidCluster, pool: Pool, id: &str, image: &str) -> StatefulSet {
    let mut metadata = names::owned(cluster, pool, names::pool(&cluster.name, pool));
    let replicas = match pool {
        Pool::Brokers => cluster.spec.replicas,
        Pool::Controllers => cluster.layout.dedicated().len() as i32,
    };
    if pool == Pool::Brokers && cluster.layout != Layout::Static {
        let layout = (names::LAYOUT_ANNOTATION.to_owned(), cluster.layout.to_string());
        metadata.annotations = Some(BTreeMap::from([layout]));
    }
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            service_name: Some(names::headless(&cluster.name, pool)),
            // A quorum must be able to start from nothing.
            pod_management_policy: Some("Parallel".to_owned()),
            // The operator decides when a broker restarts, never the StatefulSet.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..Default::default()
            }),
            persistent_volume_claim_retention_policy: Some(retention(cluster)),
            selector: LabelSelector {
                match_labels: Some(names::selector(&cluster.name, pool)),
                ..Default::default()
            },
            template: pod::template(cluster, pool, id, image),
            volume_claim_templates: Some(vec![claim(cluster, pool, id)]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What becomes of the volumes. Scaling never deletes one: that is for the operator, after the
/// broker has been drained.
fn retention(cluster: &ValidCluster) -> StatefulSetPersistentVolumeClaimRetentionPolicy {
    let deleted = if cluster.spec.storage.delete_claim { "Delete" } else { "Retain" };
    StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: Some(deleted.to_owned()),
        when_scaled: Some("Retain".to_owned()),
    }
}

/// The volume of a node. It carries the id of its Kafka cluster, by which a cluster that is
/// created anew knows its own.
fn claim(cluster: &ValidCluster, pool: Pool, id: &str) -> PersistentVolumeClaim {
    let annotations = [(names::CLUSTER_ID_ANNOTATION.to_owned(), id.to_owned())];
    let (size, class) = volume(cluster, pool);
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(names::VOLUME.to_owned()),
            labels: Some(names::labels(&cluster.name, pool)),
            annotations: Some(BTreeMap::from(annotations)),
            ..Default::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: class,
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size))])),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Size and class.
fn volume(cluster: &ValidCluster, pool: Pool) -> (String, Option<String>) {
    let brokers = &cluster.spec.storage;
    if pool == Pool::Brokers {
        return (brokers.size.clone(), brokers.class.clone());
    }
    let asked = cluster.spec.controllers.storage.as_ref();
    let size = asked.map_or_else(|| CONTROLLER_VOLUME.to_owned(), |it| it.size.clone());
    (size, asked.and_then(|it| it.class.clone()).or_else(|| brokers.class.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::demo;

    fn spec(cluster: &ValidCluster) -> StatefulSetSpec {
        stateful_set(cluster, Pool::Brokers, "id", "image").spec.unwrap()
    }

    #[test]
    fn all_brokers_start_at_once_and_none_is_restarted_by_kubernetes() {
        let spec = spec(&demo());
        assert_eq!(spec.pod_management_policy.as_deref(), Some("Parallel"));
        assert_eq!(spec.update_strategy.unwrap().type_.as_deref(), Some("OnDelete"));
        assert_eq!(spec.service_name.as_deref(), Some("demo-brokers"));
    }

    #[test]
    fn volumes_are_kept_unless_the_manifest_says_otherwise() {
        let policy = |cluster: &ValidCluster| {
            spec(cluster).persistent_volume_claim_retention_policy.unwrap().when_deleted.unwrap()
        };
        let mut cluster = demo();
        assert_eq!(policy(&cluster), "Retain");
        cluster.spec.storage.delete_claim = true;
        assert_eq!(policy(&cluster), "Delete");
    }

    #[test]
    fn dedicated_controllers_have_a_set_of_their_own() {
        let mut cluster = demo();
        cluster.layout = Layout::Dedicated { voters: 3 };
        cluster.spec.replicas = 5;
        cluster.spec.storage.class = Some("fast".to_owned());
        let set = stateful_set(&cluster, Pool::Controllers, "id", "image");
        assert_eq!(set.metadata.name.as_deref(), Some("demo-controller"));
        let spec = set.spec.unwrap();
        assert_eq!(spec.replicas, Some(3));
        let claim = spec.volume_claim_templates.unwrap().remove(0).spec.unwrap();
        assert_eq!(claim.storage_class_name.as_deref(), Some("fast"));
        assert_eq!(claim.resources.unwrap().requests.unwrap()["storage"].0, "1Gi");
    }

    #[test]
    fn the_set_of_the_brokers_says_who_votes() {
        let annotations = |cluster: &ValidCluster| {
            stateful_set(cluster, Pool::Brokers, "id", "image").metadata.annotations
        };
        assert_eq!(annotations(&demo()).unwrap()[names::LAYOUT_ANNOTATION], "combined-3");
        let earlier = ValidCluster { layout: Layout::Static, ..demo() };
        assert_eq!(annotations(&earlier), None);
    }

    #[test]
    fn a_volume_knows_its_cluster() {
        let claim = spec(&demo()).volume_claim_templates.unwrap().remove(0);
        assert_eq!(claim.metadata.annotations.unwrap()[names::CLUSTER_ID_ANNOTATION], "id");
        assert_eq!(claim.metadata.name.as_deref(), Some("data"));
    }
}
