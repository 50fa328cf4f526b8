//! Is this a topic that Kafka can have? The same rules as in the CustomResourceDefinition.

use std::collections::BTreeMap;

use kube::ResourceExt;

use crate::cluster::validate::is_setting_name;
use crate::problem::{Findings, Problems};
use crate::resources::KafkaTopic;

/// A topic whose manifest has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidTopic {
    /// The name of the KafkaCluster.
    pub cluster: String,
    /// The name in Kafka.
    pub name: String,
    pub partitions: i32,
    /// The cluster's default unless set.
    pub replicas: Option<i16>,
    /// The settings of the manifest, as text.
    pub config: BTreeMap<String, String>,
}

/// Checks `topic`; all that is wrong with it is in the error.
pub fn validate(topic: &KafkaTopic) -> Result<ValidTopic, Problems> {
    let mut findings = Findings::default();
    let spec = &topic.spec;
    findings.refuse_if(spec.cluster.is_empty(), "spec.cluster", "must name a KafkaCluster");
    check_name(&mut findings, topic);
    findings.refuse_if(
        !(1..=100_000).contains(&spec.partitions),
        "spec.partitions",
        "must be between 1 and 100000",
    );
    let replicas = spec.replicas.map(i16::try_from).transpose().ok().flatten();
    findings.refuse_if(
        spec.replicas.is_some() && replicas.is_none_or(|count| count < 1),
        "spec.replicas",
        "must be between 1 and 32767",
    );
    for name in spec.config.not_scalar() {
        findings.push(format!("spec.config.{name}"), "must be text, a number or a boolean");
    }
    for name in spec.config.0.keys().filter(|name| !is_setting_name(name)) {
        let field = format!("spec.config.{name}");
        findings.push(field, "is a name that no setting of Kafka can have");
    }
    findings.or_problems(ValidTopic {
        cluster: spec.cluster.clone(),
        name: topic.topic_name(),
        partitions: spec.partitions,
        replicas,
        config: spec.config.entries(),
    })
}

fn check_name(findings: &mut Findings, topic: &KafkaTopic) {
    let name = topic.topic_name();
    let field = if topic.spec.topic_name.is_some() { "spec.topicName" } else { "metadata.name" };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fits =
        (1..=249).contains(&name.len()) && name != "." && name != ".." && name.chars().all(allowed);
    findings.refuse_if(
        !fits,
        field,
        "must be 1 to 249 letters, digits, '.', '_' and '-', and neither '.' nor '..'",
    );
    findings.refuse_if(
        name.starts_with("__"),
        field,
        "begins with '__', which Kafka keeps for its internal topics",
    );
    findings.refuse_if(topic.name_any().is_empty(), "metadata.name", "is missing");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(spec: &str) -> KafkaTopic {
        serde_yaml::from_str(&format!(
            "{{apiVersion: ottla.dev/v1alpha1, kind: KafkaTopic, metadata: {{name: orders}}, spec: {{{spec}}}}}"
        ))
        .unwrap()
    }

    #[test]
    fn a_topic_is_named_as_its_resource_unless_told() {
        assert_eq!(validate(&topic("cluster: demo")).unwrap().name, "orders");
        let named = validate(&topic("cluster: demo, topicName: Orders_2")).unwrap();
        assert_eq!((named.name.as_str(), named.partitions, named.replicas), ("Orders_2", 1, None));
    }

    #[test]
    fn settings_are_text_whatever_yaml_made_of_them() {
        let valid = validate(&topic(
            "cluster: demo, config: {retention.ms: 1000, preallocate: false, cleanup.policy: compact}",
        ));
        let config = valid.unwrap().config;
        assert_eq!(config["retention.ms"], "1000");
        assert_eq!(config["preallocate"], "false");
        assert_eq!(config["cleanup.policy"], "compact");
    }

    #[test]
    fn a_wrong_manifest_is_refused_with_the_field_that_is_wrong() {
        let table = [
            ("cluster: ''", "spec.cluster"),
            ("cluster: demo, topicName: 'a b'", "spec.topicName"),
            ("cluster: demo, topicName: '..'", "spec.topicName"),
            ("cluster: demo, topicName: __mine", "spec.topicName"),
            ("cluster: demo, partitions: 0", "spec.partitions"),
            ("cluster: demo, replicas: 0", "spec.replicas"),
            ("cluster: demo, replicas: 40000", "spec.replicas"),
            ("cluster: demo, config: {a: {b: c}}", "spec.config.a"),
        ];
        for (spec, field) in table {
            let Problems(problems) = validate(&topic(spec)).expect_err(spec);
            assert_eq!(problems.iter().map(|p| p.field.as_str()).collect::<Vec<_>>(), [field]);
        }
    }
}
