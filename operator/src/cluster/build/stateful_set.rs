//! The StatefulSet of a cluster's brokers, with their volumes.

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
use crate::cluster::{ValidCluster, names};

/// The StatefulSet of the brokers.
pub fn stateful_set(cluster: &ValidCluster, id: &str, image: &str) -> StatefulSet {
    StatefulSet {
        metadata: names::owned(cluster, names::broker_set(&cluster.name)),
        spec: Some(StatefulSetSpec {
            replicas: Some(cluster.spec.replicas),
            service_name: Some(names::headless(&cluster.name)),
            // A quorum must be able to start from nothing.
            pod_management_policy: Some("Parallel".to_owned()),
            // The operator decides when a broker restarts, never the StatefulSet.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..Default::default()
            }),
            persistent_volume_claim_retention_policy: Some(retention(cluster)),
            selector: LabelSelector {
                match_labels: Some(names::selector(&cluster.name)),
                ..Default::default()
            },
            template: pod::template(cluster, id, image),
            volume_claim_templates: Some(vec![claim(cluster, id)]),
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

/// The volume of a broker. It carries the id of its Kafka cluster, by which a cluster that is
/// created anew knows its own.
fn claim(cluster: &ValidCluster, id: &str) -> PersistentVolumeClaim {
    let annotations = [(names::CLUSTER_ID_ANNOTATION.to_owned(), id.to_owned())];
    let size = Quantity(cluster.spec.storage.size.clone());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(names::VOLUME.to_owned()),
            labels: Some(names::labels(&cluster.name)),
            annotations: Some(BTreeMap::from(annotations)),
            ..Default::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: cluster.spec.storage.class.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::demo;

    fn spec(cluster: &ValidCluster) -> StatefulSetSpec {
        stateful_set(cluster, "id", "image").spec.unwrap()
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
    fn a_volume_knows_its_cluster() {
        let claim = spec(&demo()).volume_claim_templates.unwrap().remove(0);
        assert_eq!(claim.metadata.annotations.unwrap()[names::CLUSTER_ID_ANNOTATION], "id");
        assert_eq!(claim.metadata.name.as_deref(), Some("data"));
    }
}
