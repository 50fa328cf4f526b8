//! Which resource owns a topic when several describe it: the oldest.

use kube::ResourceExt;

use crate::resources::KafkaTopic;

/// The name of the resource, of those in `all`, that owns the topic `name`. The first that was
/// created owns it; of two of the same second the one whose name comes first.
pub fn owner(all: &[KafkaTopic], name: &str) -> Option<String> {
    all.iter()
        .filter(|topic| topic.topic_name() == name)
        .min_by_key(|topic| (topic.creation_timestamp(), topic.name_any()))
        .map(ResourceExt::name_any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn topic(name: &str, topic_name: &str, created: &str) -> KafkaTopic {
        serde_json::from_value(json!({
            "apiVersion": "ottla.dev/v1alpha1",
            "kind": "KafkaTopic",
            "metadata": { "name": name, "creationTimestamp": created },
            "spec": { "cluster": "demo", "topicName": topic_name },
        }))
        .unwrap()
    }

    #[test]
    fn the_oldest_resource_owns_a_topic() {
        let all = [
            topic("a", "orders", "2026-01-02T00:00:00Z"),
            topic("b", "orders", "2026-01-01T00:00:00Z"),
            topic("c", "clicks", "2025-01-01T00:00:00Z"),
        ];
        assert_eq!(owner(&all, "orders").as_deref(), Some("b"));
        assert_eq!(owner(&all, "clicks").as_deref(), Some("c"));
        assert_eq!(owner(&all, "other"), None);
    }

    #[test]
    fn of_two_of_the_same_second_the_first_name_owns() {
        let at = "2026-01-01T00:00:00Z";
        assert_eq!(owner(&[topic("b", "t", at), topic("a", "t", at)], "t").as_deref(), Some("a"));
    }
}
