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

use super::{Pool, ValidCluster, names};

/// Everything that a cluster is made of, in the order in which it is applied: what pods need comes
/// before what starts them.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    pub service_account: ServiceAccount,
    pub racks: Option<ConfigMap>,
    pub bootstrap: Service,
    /// Of the dedicated controllers, if there are any.
    pub controllers: Option<Nodes>,
    pub brokers: Nodes,
}

/// The objects of one pool.
#[derive(Debug, Clone, PartialEq)]
pub struct Nodes {
    pub settings: ConfigMap,
    pub headless: Service,
    pub disruption_budget: PodDisruptionBudget,
    pub stateful_set: StatefulSet,
}

/// A Kubernetes node and its zone.
pub type NodeZone = (String, String);

/// What a cluster is built with besides its manifest.
#[derive(Debug, Clone, Copy)]
pub struct With<'a> {
    /// The Kafka id.
    pub id: &'a str,
    /// The image of nodes, unless the manifest names another.
    pub image: &'a str,
    /// Whether the permission to found the cluster is still to be given.
    pub founding: bool,
    /// Read only when the manifest asks for racks.
    pub zones: &'a [NodeZone],
}

/// Builds all objects of `cluster`.
pub fn objects(cluster: &ValidCluster, with: With<'_>) -> Objects {
    let dedicated = !cluster.layout.dedicated().is_empty();
    Objects {
        service_account: service_account(cluster),
        racks: cluster.spec.rack.is_some().then(|| settings::racks(cluster, with.zones)),
        bootstrap: services::bootstrap(cluster),
        controllers: dedicated.then(|| nodes(cluster, Pool::Controllers, with)),
        brokers: nodes(cluster, Pool::Brokers, with),
    }
}

fn nodes(cluster: &ValidCluster, pool: Pool, with: With<'_>) -> Nodes {
    Nodes {
        settings: settings::settings(cluster, pool, with.id, with.founding),
        headless: services::headless(cluster, pool),
        disruption_budget: disruption_budget(cluster, pool),
        stateful_set: stateful_set::stateful_set(cluster, pool, with.id, with.image),
    }
}

/// An identity without rights: brokers ask nothing of the API server.
fn service_account(cluster: &ValidCluster) -> ServiceAccount {
    ServiceAccount {
        metadata: names::owned(cluster, Pool::Brokers, names::service_account(&cluster.name)),
        automount_service_account_token: Some(false),
        ..Default::default()
    }
}

/// One node of a pool at a time may be drained: with a copy on three and two needed, all stays
/// writable; and of three voters two go on.
fn disruption_budget(cluster: &ValidCluster, pool: Pool) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: names::owned(cluster, pool, names::pool(&cluster.name, pool)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(names::selector(&cluster.name, pool)),
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
    use crate::cluster::Layout;
    use crate::cluster::tests::demo;
    use crate::resources::Rack;

    #[test]
    fn the_same_cluster_gives_the_same_bytes() {
        let mut cluster = demo();
        cluster.spec.rack = Some(Rack { topology_key: "zone".to_owned() });
        cluster.layout = Layout::Dedicated { voters: 3 };
        let zones = [("n1".to_owned(), "a".to_owned())];
        let with = With { id: "id", image: "image", founding: true, zones: &zones };
        let bytes = || format!("{:?}", objects(&cluster.clone(), with));
        assert_eq!(bytes(), bytes());
    }

    #[test]
    fn controllers_have_objects_only_where_they_are_dedicated() {
        let with = With { id: "id", image: "image", founding: false, zones: &[] };
        assert_eq!(objects(&demo(), with).controllers, None);
        let dedicated = ValidCluster { layout: Layout::Dedicated { voters: 1 }, ..demo() };
        let controllers = objects(&dedicated, with).controllers.unwrap();
        let budget = controllers.disruption_budget.spec.unwrap().selector.unwrap();
        assert_eq!(budget.match_labels.unwrap()["app.kubernetes.io/component"], "controller");
        assert_eq!(controllers.headless.metadata.name.as_deref(), Some("demo-controllers"));
    }

    #[test]
    fn the_budget_lets_one_broker_go_at_a_time() {
        let spec = disruption_budget(&demo(), Pool::Brokers).spec.unwrap();
        assert_eq!(spec.max_unavailable, Some(IntOrString::Int(1)));
        assert_eq!(spec.selector.unwrap().match_labels.unwrap()[names::CLUSTER_LABEL], "demo");
    }
}
