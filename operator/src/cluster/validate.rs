//! Is this a cluster that can run? What the rules of the CustomResourceDefinition refuse at the API
//! server is refused here too, because `ottla up` has none and a definition may be older than we are.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;

use super::layout::Layout;
use crate::problem::{Findings, Problems};
use crate::resources::{
    BROKER_COUNTS, CONTROLLER_PORT, Config, ControllersMode, HEALTH_PORT, KafkaCluster,
    KafkaClusterSpec, Listener, NOT_YET, REPLICATION_PORT, Resources, SET_BY_THE_OPERATOR,
};

/// A cluster whose manifest has been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidCluster {
    pub name: String,
    /// `default` where a file names none.
    pub namespace: String,
    /// Of the resource; empty for `ottla up`.
    pub uid: String,
    pub spec: KafkaClusterSpec,
    /// The settings of the manifest, as text.
    pub config: BTreeMap<String, String>,
    /// Who votes.
    pub layout: Layout,
}

impl ValidCluster {
    /// The node ids of the brokers.
    pub fn node_ids(&self) -> impl Iterator<Item = i32> + use<> {
        0..self.spec.replicas
    }

    /// The node ids of brokers and dedicated controllers.
    pub fn all_ids(&self) -> impl Iterator<Item = i32> + use<> {
        self.node_ids().chain(self.layout.dedicated())
    }
}

/// What these begin is the operator's to set, or is not there yet.
const OUR_PREFIXES: [&str; 2] = ["controller.quorum.", "ottla."];
const NOT_YET_PREFIXES: [&str; 5] =
    ["ssl.", "sasl.", "authorizer.", "listener.name.", "remote.log."];

/// Checks `cluster`; all that is wrong with it is in the error.
pub fn validate(cluster: &KafkaCluster) -> Result<ValidCluster, Problems> {
    let mut findings = Findings::default();
    let (name, spec) = (cluster.name_any(), &cluster.spec);
    check_name(&mut findings, &name);
    findings.refuse_if(
        !(1..=100).contains(&spec.replicas),
        "spec.replicas",
        "must be between 1 and 100",
    );
    check_quantity(&mut findings, "spec.storage.size", &spec.storage.size);
    check_config(&mut findings, &spec.config, spec.replicas);
    check_listeners(&mut findings, &spec.listeners);
    check_controllers(&mut findings, spec);
    check_resources(&mut findings, "spec.resources", spec.resources.as_ref());
    check_pod(&mut findings, spec);
    findings.or_problems(ValidCluster {
        name,
        namespace: cluster.namespace().unwrap_or_else(|| "default".to_owned()),
        uid: cluster.uid().unwrap_or_default(),
        config: spec.config.entries(),
        layout: Layout::new(&spec.controllers, spec.replicas),
        spec: spec.clone(),
    })
}

fn check_name(findings: &mut Findings, name: &str) {
    let fits = name.len() <= 40
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    findings.refuse_if(
        !fits,
        "metadata.name",
        "must begin with a letter, hold only a-z, 0-9 and '-', and be at most 40 characters long: \
         names of services and pods are made of it",
    );
}

fn check_config(findings: &mut Findings, config: &Config, replicas: i32) {
    for name in config.not_scalar() {
        let field = format!("spec.config.{name}");
        findings.push(field, "must be text, a number or a boolean");
    }
    for name in config.0.keys() {
        let field = format!("spec.config.{name}");
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        if SET_BY_THE_OPERATOR.contains(&name.as_str()) || begins(&OUR_PREFIXES) {
            findings.push(field, "is set by the operator and cannot be set here");
        } else if NOT_YET.contains(&name.as_str()) || begins(&NOT_YET_PREFIXES) {
            findings.push(field, "TLS, SASL, ACLs and tiered storage are not supported yet");
        } else if !is_setting_name(name) {
            findings.push(field, "is a name that no setting of Kafka can have");
        }
    }
    for name in BROKER_COUNTS {
        let Some(text) = config.get(name) else { continue };
        let field = format!("spec.config.{name}");
        match text.parse::<i32>() {
            Ok(count) if (1..=replicas).contains(&count) => {}
            Ok(count) if count > replicas => {
                findings.push(field, format!("is {count}, but there are only {replicas} brokers"));
            }
            _ => findings.push(field, format!("must be a number from 1 to {replicas}")),
        }
    }
}

/// Whether `name` can be the name of a setting: of a broker or of a topic.
pub fn is_setting_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

fn check_listeners(findings: &mut Findings, listeners: &[Listener]) {
    findings.refuse_if(
        listeners.is_empty() || listeners.len() > 8,
        "spec.listeners",
        "must hold from 1 to 8 listeners",
    );
    let (mut names, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for (index, listener) in listeners.iter().enumerate() {
        let field = |part: &str| format!("spec.listeners[{index}].{part}");
        let name = listener.name.as_str();
        let fits = (1..=15).contains(&name.len())
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !fits {
            findings.push(field("name"), "must be 1 to 15 of a-z and 0-9, beginning with a letter");
        } else if ["controller", "replication", "health"].contains(&name) {
            findings.push(field("name"), "is taken by a listener of the brokers' own");
        } else if !names.insert(name) {
            findings.push(field("name"), format!("{name} is there twice"));
        }
        let port = listener.port;
        if !(1024..=65_535).contains(&port) {
            findings.push(field("port"), "must be between 1024 and 65535");
        } else if [HEALTH_PORT, REPLICATION_PORT, CONTROLLER_PORT].contains(&port) {
            findings.push(field("port"), "is taken by a listener of the brokers' own");
        } else if !ports.insert(port) {
            findings.push(field("port"), format!("{port} is used by another listener"));
        }
    }
}

fn check_controllers(findings: &mut Findings, spec: &KafkaClusterSpec) {
    let asked = &spec.controllers;
    let dedicated = asked.mode == ControllersMode::Dedicated;
    match asked.replicas {
        Some(count) if ![1, 3, 5].contains(&count) => findings.push(
            "spec.controllers.replicas",
            "must be 1, 3 or 5: an even number of voters survives no more losses than one less",
        ),
        Some(count) if count > spec.replicas && !dedicated => findings.push(
            "spec.controllers.replicas",
            format!(
                "is {count}, but there are only {} brokers, and only brokers vote unless \
                 controllers are dedicated",
                spec.replicas
            ),
        ),
        _ => {}
    }
    for (field, is_set) in
        [("storage", asked.storage.is_some()), ("resources", asked.resources.is_some())]
    {
        findings.refuse_if(
            is_set && !dedicated,
            &format!("spec.controllers.{field}"),
            "is of dedicated controllers: with mode combined the brokers' own is used",
        );
    }
    if let Some(storage) = &asked.storage {
        check_quantity(findings, "spec.controllers.storage.size", &storage.size);
    }
    check_resources(findings, "spec.controllers.resources", asked.resources.as_ref());
}

fn check_resources(findings: &mut Findings, field: &str, resources: Option<&Resources>) {
    let Some(resources) = resources else { return };
    for (kind, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        for (name, quantity) in quantities {
            check_quantity(findings, &format!("{field}.{kind}.{name}"), &quantity.0);
        }
    }
}

fn check_pod(findings: &mut Findings, spec: &KafkaClusterSpec) {
    let Some(pod) = &spec.pod_template else { return };
    let ours = |name: &&String| name.starts_with("ottla.dev/");
    for name in pod.labels.keys() {
        let wrong = ours(&name) || name.starts_with("app.kubernetes.io/");
        let field = format!("spec.podTemplate.labels.{name}");
        findings.refuse_if(wrong, &field, "is set by the operator and cannot be set here");
    }
    for name in pod.annotations.keys().filter(ours) {
        let field = format!("spec.podTemplate.annotations.{name}");
        findings.push(field, "is set by the operator and cannot be set here");
    }
}

fn check_quantity(findings: &mut Findings, field: &str, quantity: &str) {
    let wrong = !is_positive_quantity(quantity);
    findings.refuse_if(wrong, field, "must be a positive quantity such as 500m, 10 or 10Gi");
}

/// A quantity of Kubernetes above zero: a decimal number and a suffix.
fn is_positive_quantity(text: &str) -> bool {
    const SUFFIXES: [&str; 16] =
        ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let text = text.strip_prefix('+').unwrap_or(text);
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let exponent = suffix.strip_prefix(['e', 'E']).is_some_and(|n| n.parse::<i8>().is_ok());
    number.parse::<f64>().is_ok_and(|number| number > 0.0)
        && (SUFFIXES.contains(&suffix) || exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(spec: &str) -> KafkaCluster {
        serde_yaml::from_str(&format!(
            "{{apiVersion: ottla.dev/v1alpha1, kind: KafkaCluster, metadata: {{name: demo}}, spec: {{{spec}}}}}"
        ))
        .unwrap()
    }

    #[test]
    fn the_smallest_manifest_gets_kafkas_port_and_three_brokers() {
        let valid = validate(&cluster("storage: {size: 1Gi}")).unwrap();
        assert_eq!(valid.spec.replicas, 3);
        assert_eq!(valid.spec.listeners[0].port, 9092);
        assert_eq!(valid.namespace, "default");
        assert!(!valid.spec.storage.delete_claim);
    }

    #[test]
    fn a_wrong_manifest_is_refused_with_the_field_that_is_wrong() {
        let table = [
            ("storage: {size: big}", "spec.storage.size"),
            ("storage: {size: '0'}", "spec.storage.size"),
            ("storage: {size: 1Gi}, replicas: 0", "spec.replicas"),
            ("storage: {size: 1Gi}, config: {node.id: 7}", "spec.config.node.id"),
            (
                "storage: {size: 1Gi}, config: {ssl.cipher.suites: x}",
                "spec.config.ssl.cipher.suites",
            ),
            ("storage: {size: 1Gi}, config: {a: [b]}", "spec.config.a"),
            ("storage: {size: 1Gi}, config: {'a b': c}", "spec.config.a b"),
            (
                "storage: {size: 1Gi}, config: {min.insync.replicas: 4}",
                "spec.config.min.insync.replicas",
            ),
            (
                "storage: {size: 1Gi}, config: {min.insync.replicas: 0}",
                "spec.config.min.insync.replicas",
            ),
            ("storage: {size: 1Gi}, listeners: []", "spec.listeners"),
            ("storage: {size: 1Gi}, listeners: [{name: Plain}]", "spec.listeners[0].name"),
            ("storage: {size: 1Gi}, listeners: [{name: a, port: 9093}]", "spec.listeners[0].port"),
            ("storage: {size: 1Gi}, listeners: [{name: a}, {name: b}]", "spec.listeners[1].port"),
            ("storage: {size: 1Gi}, resources: {limits: {cpu: lots}}", "spec.resources.limits.cpu"),
            ("storage: {size: 1Gi}, controllers: {replicas: 2}", "spec.controllers.replicas"),
            ("storage: {size: 1Gi}, controllers: {replicas: 5}", "spec.controllers.replicas"),
            (
                "storage: {size: 1Gi}, controllers: {storage: {size: 1Gi}}",
                "spec.controllers.storage",
            ),
            (
                "storage: {size: 1Gi}, controllers: {mode: dedicated, storage: {size: x}}",
                "spec.controllers.storage.size",
            ),
            (
                "storage: {size: 1Gi}, podTemplate: {labels: {ottla.dev/cluster: x}}",
                "spec.podTemplate.labels.ottla.dev/cluster",
            ),
        ];
        for (spec, field) in table {
            let Problems(problems) = validate(&cluster(spec)).expect_err(spec);
            assert_eq!(problems.iter().map(|p| p.field.as_str()).collect::<Vec<_>>(), [field]);
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let wrong = cluster("storage: {size: big}, replicas: 0, listeners: []");
        assert_eq!(validate(&wrong).unwrap_err().0.len(), 3);
    }

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for good in ["1", "0.5", "500m", "1Gi", "1e3", "1E", "+2k"] {
            assert!(is_positive_quantity(good), "{good}");
        }
        for bad in ["", "0", "-1", "1gi", "Gi", "1 Gi", "1e", "ten"] {
            assert!(!is_positive_quantity(bad), "{bad}");
        }
    }
}
