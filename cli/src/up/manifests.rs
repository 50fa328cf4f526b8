//! Manifest files → checked clusters and topics: the same checks as the operator's.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use ottla_operator::resources::{KafkaCluster, KafkaTopic};
use ottla_operator::{cluster, topic};
use serde::Deserialize;

use super::plan::TopicPlan;

/// What the files ask for.
#[derive(Debug, PartialEq)]
pub struct Manifests {
    pub clusters: Vec<cluster::ValidCluster>,
    topics: Vec<topic::ValidTopic>,
}

/// The files' texts, in the order given.
pub fn read(files: &[PathBuf]) -> Result<Vec<(PathBuf, String)>, String> {
    files
        .iter()
        .map(|file| match fs::read_to_string(file) {
            Ok(text) => Ok((file.clone(), text)),
            Err(error) => Err(format!("{} cannot be read: {error}", file.display())),
        })
        .collect()
}

impl Manifests {
    /// An error names the file, the document in it and the field.
    pub fn parse(texts: &[(PathBuf, String)]) -> Result<Self, String> {
        let mut manifests = Self { clusters: Vec::new(), topics: Vec::new() };
        for (file, text) in texts {
            for (at, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
                manifests
                    .take(document)
                    .map_err(|error| format!("{}, document {}: {error}", file.display(), at + 1))?;
            }
        }
        manifests.check_together()?;
        Ok(manifests)
    }

    fn take(&mut self, document: serde_yaml::Deserializer<'_>) -> Result<(), String> {
        let value = serde_yaml::Value::deserialize(document).map_err(|error| error.to_string())?;
        if value.is_null() {
            return Ok(());
        }
        let word = |key: &str| value.get(key).and_then(|word| word.as_str()).unwrap_or_default();
        let version = word("apiVersion");
        match (version, word("kind")) {
            ("ottla.dev/v1alpha1", "KafkaCluster") => {
                let cluster: KafkaCluster = strictly(value)?;
                self.clusters.push(cluster::validate(&cluster).map_err(|error| error.to_string())?);
            }
            ("ottla.dev/v1alpha1", "KafkaTopic") => {
                let topic: KafkaTopic = strictly(value)?;
                self.topics.push(topic::validate(&topic).map_err(|error| error.to_string())?);
            }
            (_, "") => return Err("has no kind: expected KafkaCluster or KafkaTopic".to_owned()),
            (_, kind @ ("KafkaCluster" | "KafkaTopic")) => {
                return Err(format!(
                    "{kind} has apiVersion {version:?}: expected ottla.dev/v1alpha1"
                ));
            }
            // Namespaces, Deployments and the like are for Kubernetes alone.
            (_, kind) => super::say!("{kind} is not for `ottla up`: left out"),
        }
        Ok(())
    }

    fn check_together(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        for cluster in &self.clusters {
            if !names.insert(cluster.name.as_str()) {
                return Err(format!("there are two KafkaClusters named {:?}", cluster.name));
            }
        }
        if names.is_empty() {
            return Err("there is no KafkaCluster in the files".to_owned());
        }
        let mut topics = BTreeSet::new();
        for topic in &self.topics {
            if !names.contains(topic.cluster.as_str()) {
                return Err(format!(
                    "KafkaTopic {:?}: spec.cluster: there is no KafkaCluster {:?} in the files",
                    topic.name, topic.cluster
                ));
            }
            if !topics.insert((&topic.cluster, &topic.name)) {
                return Err(format!(
                    "two KafkaTopics of cluster {:?} have the name {:?}",
                    topic.cluster, topic.name
                ));
            }
        }
        for topic in &self.topics {
            let cluster = self.clusters.iter().find(|cluster| cluster.name == topic.cluster);
            let brokers = cluster.map_or(0, |cluster| cluster.spec.replicas);
            if topic.replicas.is_some_and(|replicas| i32::from(replicas) > brokers) {
                return Err(format!(
                    "KafkaTopic {:?}: spec.replicas is higher than the {brokers} brokers of {:?}",
                    topic.name, topic.cluster
                ));
            }
        }
        Ok(())
    }

    pub fn topics_of(&self, cluster: &str) -> Vec<TopicPlan> {
        let topics = self.topics.iter().filter(|topic| topic.cluster == cluster);
        topics.cloned().collect()
    }
}

/// A field that nothing reads is a mistake, most likely a misspelt one: as strict as the API server.
fn strictly<T: serde::de::DeserializeOwned>(value: serde_yaml::Value) -> Result<T, String> {
    let mut unknown = Vec::new();
    let read = serde_ignored::deserialize(value, |path| {
        let path = path.to_string();
        // What says of which kind the resource is was read before.
        if path != "apiVersion" && path != "kind" {
            unknown.push(path);
        }
    });
    let read = read.map_err(|error| error.to_string())?;
    match unknown.first() {
        None => Ok(read),
        Some(field) => Err(format!("{field}: there is no such field")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "{apiVersion: ottla.dev/v1alpha1, kind: KafkaCluster, \
                           metadata: {name: demo}, spec: {storage: {size: 1Gi}}}";

    fn parse(text: &str) -> Result<Manifests, String> {
        Manifests::parse(&[(PathBuf::from("m.yaml"), text.to_owned())])
    }

    fn topic(spec: &str) -> String {
        format!(
            "{CLUSTER}\n---\n{{apiVersion: ottla.dev/v1alpha1, kind: KafkaTopic, \
             metadata: {{name: orders}}, spec: {{{spec}}}}}"
        )
    }

    #[test]
    fn clusters_and_their_topics_are_found_in_all_documents() {
        let manifests = parse(&topic("cluster: demo, partitions: 2")).unwrap();
        assert_eq!(manifests.clusters[0].name, "demo");
        assert_eq!(manifests.topics_of("demo")[0].partitions, 2);
        assert!(manifests.topics_of("other").is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_with_the_file_and_the_field() {
        let table = [
            ("a: [".to_owned(), "m.yaml, document 1"),
            ("kind: ''".to_owned(), "has no kind"),
            (String::new(), "no KafkaCluster"),
            (CLUSTER.replace("v1alpha1", "v9"), "expected ottla.dev/v1alpha1"),
            (CLUSTER.replace("1Gi", "much"), "spec.storage.size"),
            (format!("{CLUSTER}\n---\n{CLUSTER}"), "two KafkaClusters"),
            (topic("cluster: other"), "spec.cluster"),
            (topic("cluster: demo, replicas: 4"), "spec.replicas"),
            (topic("cluster: demo, partitions: 0"), "spec.partitions"),
            (topic("cluster: demo, partitons: 3"), "partitons"),
        ];
        for (text, expected) in table {
            let error = parse(&text).expect_err(expected);
            assert!(error.contains(expected), "{error:?} does not say {expected:?}");
        }
    }
}
