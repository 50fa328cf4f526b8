//! From a valid cluster to the objects that it is made of. Pure: same input, same output, byte for
//! byte, so that an unchanged resource never causes a write.

pub mod pod;
pub mod properties;
pub mod services;
pub mod settings;
pub mod stateful_set;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{ValidCluster, names};

/// Everything that a cluster is made of, in the order in which it is applied: what pods need comes
/// before what starts them.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    pub service_account: ServiceAccount,
    pub settings: ConfigMap,
    pub racks: Option<ConfigMap>,
    pub headless: Service,
    pub bootstrap: Service,
    pub disruption_budget: PodDisruptionBudget,
    pub stateful_set: StatefulSet,
}

/// A Kubernetes node and its zone.
pub type NodeZone = (String, String);

/// Builds all objects of `cluster`, whose Kafka id is `id`, with brokers of `image` unless the
/// manifest names another. `zones` is read only when the manifest asks for racks.
pub fn objects(cluster: &ValidCluster, id: &str, image: &str, zones: &[NodeZone]) -> Objects {
    Objects {
        service_account: service_account(cluster),
        settings: settings::settings(cluster, id),
        racks: cluster.spec.rack.is_some().then(|| settings::racks(cluster, zones)),
        headless: services::headless(cluster),
        bootstrap: services::bootstrap(cluster),
        disruption_budget: disruption_budget(cluster),
        stateful_set: stateful_set::stateful_set(cluster, id, image),
    }
}

/// An identity without rights: brokers ask nothing of the API server.
fn service_account(cluster: &ValidCluster) -> ServiceAccount {
    ServiceAccount {
        metadata: names::owned(cluster, names::service_account(&cluster.name)),
        automount_service_account_token: Some(false),
        ..Default::default()
    }
}

/// One broker at a time may be drained: with a copy on three and two needed, all stays writable.
fn disruption_budget(cluster: &ValidCluster) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: names::owned(cluster, names::disruption_budget(&cluster.name)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(names::selector(&cluster.name)),
                ..Default::default()
            }),
            // A broker that is not ready does not keep its node from being drained, as long as
            // all others are.
            unhealthy_pod_eviction_policy: Some("IfHealthyBudget".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::demo;
    use crate::resources::Rack;

    #[test]
    fn the_same_cluster_gives_the_same_bytes() {
        let mut cluster = demo();
        cluster.spec.rack = Some(Rack { topology_key: "zone".to_owned() });
        let zones = [("n1".to_owned(), "a".to_owned())];
        let bytes = || {
            let built = objects(&cluster.clone(), "id", "image", &zones);
            serde_json::to_string(&(
                &built.service_account,
                &built.settings,
                &built.racks,
                &built.headless,
                &built.bootstrap,
                &built.disruption_budget,
                &built.stateful_set,
            ))
            .unwrap()
        };
        assert_eq!(bytes(), bytes());
    }

    #[test]
    fn the_budget_lets_one_broker_go_at_a_time() {
        let spec = disruption_budget(&demo()).spec.unwrap();
        assert_eq!(spec.max_unavailable, Some(IntOrString::Int(1)));
        assert_eq!(spec.selector.unwrap().match_labels.unwrap()[names::CLUSTER_LABEL], "demo");
    }
}
