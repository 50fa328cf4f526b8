//! The pod of a node: as little as a broker or a controller needs, under the restricted Pod Security Standard.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource,
    HTTPGetAction, ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements, SeccompProfile, SecurityContext, TopologySpreadConstraint, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::settings::{LOG_DIR, fingerprint};
use crate::cluster::{Pool, ValidCluster, names};
use crate::resources::{CONTROLLER_PORT, HEALTH_PORT, PodTemplate, REPLICATION_PORT};

/// The user of the image, and the group of the volumes.
const USER: i64 = 65_532;
/// Long enough to hand over every partition and close every log.
const GRACE_SECONDS: i64 = 120;
const SETTINGS_DIR: &str = "/etc/ottla/settings";
const RACKS_DIR: &str = "/etc/ottla/racks";
/// The image has a volume here: mounted elsewhere, each pod would get an empty one besides.
const VOLUME_DIR: &str = "/data";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The template of all pods of a pool.
pub fn template(cluster: &ValidCluster, pool: Pool, id: &str, image: &str) -> PodTemplateSpec {
    let extra = cluster.spec.pod_template.clone().unwrap_or_default();
    let mut labels = extra.labels.clone();
    labels.extend(names::labels(&cluster.name, pool));
    let mut annotations = extra.annotations.clone();
    annotations.insert(names::SETTINGS_ANNOTATION.to_owned(), fingerprint(cluster, pool, id));
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations),
            ..Default::default()
        }),
        spec: Some(pod(cluster, pool, extra, image)),
    }
}

fn pod(cluster: &ValidCluster, pool: Pool, extra: PodTemplate, image: &str) -> PodSpec {
    PodSpec {
        containers: vec![container(cluster, pool, image)],
        volumes: Some(volumes(cluster, pool)),
        service_account_name: Some(names::service_account(&cluster.name)),
        automount_service_account_token: Some(false),
        // A broker's own KAFKA_* settings would be drowned in one variable per service and port.
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(
            extra.termination_grace_period_seconds.unwrap_or(GRACE_SECONDS),
        ),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            // Walking through all files of a big volume at each start would take minutes.
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        topology_spread_constraints: Some(spread(cluster, pool)),
        affinity: extra.affinity,
        node_selector: given(extra.node_selector, BTreeMap::is_empty),
        tolerations: given(extra.tolerations, Vec::is_empty),
        priority_class_name: extra.priority_class_name,
        image_pull_secrets: given(extra.image_pull_secrets, Vec::is_empty),
        ..Default::default()
    }
}

fn given<T>(value: T, is_empty: impl Fn(&T) -> bool) -> Option<T> {
    if is_empty(&value) { None } else { Some(value) }
}

fn container(cluster: &ValidCluster, pool: Pool, image: &str) -> Container {
    let (args, mounts) = (args(cluster), mounts(cluster));
    let resources = match pool {
        Pool::Brokers => cluster.spec.resources.clone(),
        Pool::Controllers => cluster.spec.controllers.resources.clone(),
    };
    let resources = resources.map(|resources| ResourceRequirements {
        requests: given(resources.requests, BTreeMap::is_empty),
        limits: given(resources.limits, BTreeMap::is_empty),
        ..Default::default()
    });
    Container {
        name: pool.name().to_owned(),
        image: Some(cluster.spec.image.clone().unwrap_or_else(|| image.to_owned())),
        args: Some(args),
        env: Some(environment(cluster)),
        ports: Some(ports(cluster, pool)),
        volume_mounts: Some(mounts),
        resources,
        // Alive is not ready: a broker that recovers its log, for however long, is alive.
        startup_probe: Some(probe("/healthz", 1, 120)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        readiness_probe: Some(probe("/readyz", 1, 3)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Kubernetes fills in the variables: each broker reads the settings of its own name.
fn args(cluster: &ValidCluster) -> Vec<String> {
    let mut args = vec![
        "broker".to_owned(),
        "--config".to_owned(),
        format!("{SETTINGS_DIR}/$(POD_NAME).properties"),
    ];
    if cluster.spec.rack.is_some() {
        args.push("--rack-file".to_owned());
        args.push(format!("{RACKS_DIR}/$(NODE_NAME)"));
    }
    args
}

fn environment(cluster: &ValidCluster) -> Vec<EnvVar> {
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let value = |name: &str, value: String| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        ..Default::default()
    };
    let port = cluster.spec.listeners.first().map_or(crate::resources::CLIENT_PORT, |l| l.port);
    vec![
        field("POD_NAME", "metadata.name"),
        field("NODE_NAME", "spec.nodeName"),
        // What the kafka-*.sh tools connect to when they are run in this pod.
        value("OTTLA_BOOTSTRAP", format!("localhost:{port}")),
        // The image sets this for people who run it by hand, and it wins over the file.
        value("KAFKA_LOG_DIRS", LOG_DIR.to_owned()),
    ]
}

fn ports(cluster: &ValidCluster, pool: Pool) -> Vec<ContainerPort> {
    let port = |name: &str, number: i32| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..Default::default()
    };
    let mut ports = Vec::new();
    if pool == Pool::Brokers {
        let clients = cluster.spec.listeners.iter();
        ports.extend(clients.map(|listener| port(&listener.name, listener.port)));
        ports.push(port("replication", REPLICATION_PORT));
    }
    ports.extend([port("controller", CONTROLLER_PORT), port("health", HEALTH_PORT)]);
    ports
}

fn mounts(cluster: &ValidCluster) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..Default::default()
    };
    let mut mounts =
        vec![mount(names::VOLUME, VOLUME_DIR, false), mount("settings", SETTINGS_DIR, true)];
    if cluster.spec.rack.is_some() {
        mounts.push(mount("racks", RACKS_DIR, true));
    }
    mounts
}

fn volumes(cluster: &ValidCluster, pool: Pool) -> Vec<Volume> {
    let config_map = |name: &str, map: String| Volume {
        name: name.to_owned(),
        config_map: Some(ConfigMapVolumeSource { name: map, ..Default::default() }),
        ..Default::default()
    };
    let mut volumes = vec![config_map("settings", names::pool(&cluster.name, pool))];
    if cluster.spec.rack.is_some() {
        volumes.push(config_map("racks", names::racks(&cluster.name)));
    }
    volumes
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("health".to_owned()),
            ..Default::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Default::default()
    }
}

/// Evenly over nodes and zones, as far as there are any: a cluster on one node is still a cluster.
fn spread(cluster: &ValidCluster, pool: Pool) -> Vec<TopologySpreadConstraint> {
    let over = |key: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some(names::selector(&cluster.name, pool)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let zone = cluster.spec.rack.as_ref().map_or(ZONE, |rack| rack.topology_key.as_str());
    vec![over("kubernetes.io/hostname"), over(zone)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::demo;
    use crate::resources::Rack;

    fn built(cluster: &ValidCluster) -> (PodTemplateSpec, Container) {
        let template = template(cluster, Pool::Brokers, "id", "ottla:test");
        let container = template.spec.clone().unwrap().containers.remove(0);
        (template, container)
    }

    #[test]
    fn a_pod_meets_the_restricted_standard() {
        let (template, container) = built(&demo());
        let pod = template.spec.unwrap().security_context.unwrap();
        assert_eq!(pod.run_as_non_root, Some(true));
        assert_eq!(pod.seccomp_profile.unwrap().type_, "RuntimeDefault");
        let own = container.security_context.unwrap();
        assert_eq!(own.allow_privilege_escalation, Some(false));
        assert_eq!(own.read_only_root_filesystem, Some(true));
        assert_eq!(own.capabilities.unwrap().drop.unwrap(), ["ALL"]);
    }

    #[test]
    fn alive_is_asked_apart_from_ready_and_never_at_a_client_port() {
        let (_, container) = built(&demo());
        let asked = |probe: Option<Probe>| {
            let get = probe.unwrap().http_get.unwrap();
            assert_eq!(get.port, IntOrString::String("health".to_owned()));
            get.path.unwrap()
        };
        assert_eq!(asked(container.startup_probe), "/healthz");
        assert_eq!(asked(container.liveness_probe), "/healthz");
        assert_eq!(asked(container.readiness_probe), "/readyz");
    }

    #[test]
    fn the_log_directory_is_on_the_volume_whatever_the_image_says() {
        let (_, container) = built(&demo());
        let volume = &container.volume_mounts.unwrap()[0];
        assert_eq!((volume.name.as_str(), volume.mount_path.as_str()), ("data", "/data"));
        let env = container.env.unwrap();
        let log_dirs = env.iter().find(|variable| variable.name == "KAFKA_LOG_DIRS").unwrap();
        assert!(log_dirs.value.as_ref().unwrap().starts_with("/data/"));
    }

    #[test]
    fn what_the_manifest_adds_does_not_replace_what_is_ours() {
        let mut cluster = demo();
        let mut extra =
            PodTemplate { termination_grace_period_seconds: Some(7), ..Default::default() };
        extra.labels.insert("team".to_owned(), "shop".to_owned());
        extra.annotations.insert("note".to_owned(), "x".to_owned());
        cluster.spec.pod_template = Some(extra);
        cluster.spec.image = Some("mine:1".to_owned());
        let (template, container) = built(&cluster);
        let metadata = template.metadata.unwrap();
        assert_eq!(metadata.labels.as_ref().unwrap()["team"], "shop");
        assert_eq!(metadata.labels.as_ref().unwrap()[names::CLUSTER_LABEL], "demo");
        assert!(metadata.annotations.unwrap().contains_key(names::SETTINGS_ANNOTATION));
        assert_eq!(template.spec.unwrap().termination_grace_period_seconds, Some(7));
        assert_eq!(container.image.as_deref(), Some("mine:1"));
    }

    #[test]
    fn a_rack_is_read_from_a_file_of_the_nodes_name() {
        let mut cluster = demo();
        assert!(!built(&cluster).1.args.unwrap().contains(&"--rack-file".to_owned()));
        cluster.spec.rack = Some(Rack { topology_key: "zone".to_owned() });
        let (template, container) = built(&cluster);
        assert!(container.args.unwrap().contains(&"/etc/ottla/racks/$(NODE_NAME)".to_owned()));
        let spread = template.spec.unwrap().topology_spread_constraints.unwrap();
        assert_eq!(spread[1].topology_key, "zone");
    }
}
