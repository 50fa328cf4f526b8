//! The addresses of a cluster: one service by which brokers and clients find each broker, one by
//! which clients find any broker that serves.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::{Pool, ValidCluster, names};
use crate::resources::{CONTROLLER_PORT, HEALTH_PORT, REPLICATION_PORT};

/// Gives each node of a pool a name of its own. Names are there before brokers are ready, else brokers that
/// all start at once would never find each other and agree on a controller.
pub fn headless(cluster: &ValidCluster, pool: Pool) -> Service {
    let mut ports = Vec::new();
    if pool == Pool::Brokers {
        ports = client_ports(cluster);
        ports.push(port("replication", REPLICATION_PORT));
    }
    ports.push(port("controller", CONTROLLER_PORT));
    ports.push(port("health", HEALTH_PORT));
    Service {
        metadata: names::owned(cluster, pool, names::headless(&cluster.name, pool)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(names::selector(&cluster.name, pool)),
            ports: Some(ports),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Leads a new client to any broker that serves.
pub fn bootstrap(cluster: &ValidCluster) -> Service {
    Service {
        metadata: names::owned(cluster, Pool::Brokers, names::bootstrap(&cluster.name)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(names::selector(&cluster.name, Pool::Brokers)),
            ports: Some(client_ports(cluster)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn client_ports(cluster: &ValidCluster) -> Vec<ServicePort> {
    cluster.spec.listeners.iter().map(|listener| port(&listener.name, listener.port)).collect()
}

fn port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::demo;
    use crate::resources::{Listener, ListenerType};

    fn numbers(service: &Service) -> Vec<i32> {
        service.spec.as_ref().unwrap().ports.iter().flatten().map(|port| port.port).collect()
    }

    #[test]
    fn brokers_are_found_before_they_are_ready() {
        let service = headless(&demo(), Pool::Brokers);
        assert_eq!(service.spec.as_ref().unwrap().publish_not_ready_addresses, Some(true));
        assert_eq!(service.spec.as_ref().unwrap().cluster_ip.as_deref(), Some("None"));
        assert_eq!(numbers(&service), [9092, 9091, 9093, 8080]);
        let service = headless(&demo(), Pool::Controllers);
        assert_eq!(service.metadata.name.as_deref(), Some("demo-controllers"));
        assert_eq!(service.spec.as_ref().unwrap().publish_not_ready_addresses, Some(true));
        assert_eq!(numbers(&service), [9093, 8080]);
    }

    #[test]
    fn clients_are_led_only_to_brokers_that_serve_and_only_to_client_ports() {
        let mut cluster = demo();
        let type_ = ListenerType::Internal;
        cluster.spec.listeners.push(Listener { name: "second".to_owned(), port: 9095, type_ });
        let service = bootstrap(&cluster);
        assert_eq!(service.spec.as_ref().unwrap().publish_not_ready_addresses, None);
        assert_eq!(numbers(&service), [9092, 9095]);
    }
}
