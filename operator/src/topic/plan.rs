//! From what a topic is to what it should be: which steps, and which wishes cannot be met.

use std::collections::BTreeMap;

use super::ValidTopic;
use crate::kafka::{Action, FoundTopic};

/// What to do, and what cannot be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub cannot: Vec<Cannot>,
}

/// A wish of the manifest that cannot be met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cannot {
    pub reason: &'static str,
    pub message: String,
}

/// Plans the steps from `found` to `wanted`.
pub fn plan(wanted: &ValidTopic, found: Option<&FoundTopic>) -> Plan {
    let Some(found) = found else {
        let create = Action::Create {
            partitions: wanted.partitions,
            replicas: wanted.replicas,
            config: wanted.config.clone(),
        };
        return Plan { actions: vec![create], cannot: vec![] };
    };
    let mut plan = Plan::default();
    if wanted.partitions > found.partitions {
        plan.actions.push(Action::AddPartitions { total: wanted.partitions });
    } else if wanted.partitions < found.partitions {
        plan.cannot.push(Cannot {
            reason: "CannotRemovePartitions",
            message: format!(
                "spec.partitions is {}, but the topic has {}: partitions can be added, never \
                 removed",
                wanted.partitions, found.partitions
            ),
        });
    }
    if let Some(replicas) = wanted.replicas.filter(|replicas| *replicas != found.replicas) {
        plan.cannot.push(Cannot {
            reason: "CannotChangeReplicas",
            message: format!(
                "spec.replicas is {replicas}, but the topic has {}: moving replicas is not \
                 supported yet",
                found.replicas
            ),
        });
    }
    let changes = config_changes(&wanted.config, &found.config);
    if !changes.is_empty() {
        plan.actions.push(Action::SetConfig(changes));
    }
    plan
}

fn config_changes(
    wanted: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
) -> BTreeMap<String, Option<String>> {
    let set = wanted
        .iter()
        .filter(|(name, value)| found.get(*name) != Some(*value))
        .map(|(name, value)| (name.clone(), Some(value.clone())));
    let reset = found
        .keys()
        .filter(|name| !wanted.contains_key(*name) && !is_of_a_tool(name))
        .map(|name| (name.clone(), None));
    set.chain(reset).collect()
}

/// Set by a tool while it moves replicas, and taken away by it: not drift.
fn is_of_a_tool(name: &str) -> bool {
    name.ends_with(".replication.throttled.replicas")
}

/// What a step does, for an Event.
pub fn describe(action: &Action, topic: &str) -> (&'static str, String) {
    match action {
        Action::Create { partitions, replicas, .. } => {
            let replicas =
                replicas.map_or_else(|| "the default number of".to_owned(), |n| n.to_string());
            ("Created", format!("{topic}: {partitions} partitions, {replicas} replicas each"))
        }
        Action::AddPartitions { total } => {
            ("PartitionsAdded", format!("{topic} now has {total} partitions"))
        }
        Action::SetConfig(changes) => {
            let one = |(name, value): (&String, &Option<String>)| match value {
                Some(value) => format!("{name}={value}"),
                None => format!("{name} back to its default"),
            };
            let all: Vec<_> = changes.iter().map(one).collect();
            ("ConfigChanged", format!("{topic}: {}", all.join(", ")))
        }
        Action::Delete => ("Deleted", format!("{topic} and its records")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn wanted(partitions: i32, replicas: Option<i16>, config: &[(&str, &str)]) -> ValidTopic {
        ValidTopic {
            cluster: "demo".to_owned(),
            name: "orders".to_owned(),
            partitions,
            replicas,
            config: map(config),
        }
    }

    fn found(partitions: i32, replicas: i16, config: &[(&str, &str)]) -> FoundTopic {
        FoundTopic { id: "id".to_owned(), partitions, replicas, config: map(config) }
    }

    #[test]
    fn a_missing_topic_is_created_as_its_manifest_says() {
        let plan = plan(&wanted(3, None, &[("retention.ms", "1")]), None);
        let config = map(&[("retention.ms", "1")]);
        assert_eq!(plan.actions, [Action::Create { partitions: 3, replicas: None, config }]);
    }

    #[test]
    fn a_topic_that_is_as_it_should_be_is_left_alone() {
        let wanted = wanted(3, Some(2), &[("a", "1")]);
        assert_eq!(plan(&wanted, Some(&found(3, 2, &[("a", "1")]))), Plan::default());
        let default_replicas = ValidTopic { replicas: None, ..wanted };
        assert_eq!(plan(&default_replicas, Some(&found(3, 1, &[("a", "1")]))), Plan::default());
    }

    #[test]
    fn partitions_are_added_and_never_removed() {
        let grown = plan(&wanted(5, None, &[]), Some(&found(3, 2, &[])));
        assert_eq!(grown.actions, [Action::AddPartitions { total: 5 }]);
        let shrunk = plan(&wanted(2, None, &[]), Some(&found(3, 2, &[])));
        assert_eq!((shrunk.actions.len(), shrunk.cannot[0].reason), (0, "CannotRemovePartitions"));
    }

    #[test]
    fn what_cannot_be_met_does_not_keep_the_rest_from_being_done() {
        let plan = plan(&wanted(2, Some(3), &[("a", "2")]), Some(&found(3, 2, &[])));
        let reasons: Vec<_> = plan.cannot.iter().map(|cannot| cannot.reason).collect();
        assert_eq!(reasons, ["CannotRemovePartitions", "CannotChangeReplicas"]);
        assert_eq!(plan.actions.len(), 1);
    }

    #[test]
    fn drift_of_settings_is_brought_back_but_a_tools_throttle_is_not_drift() {
        let own = [("a", "2"), ("stray", "9"), ("leader.replication.throttled.replicas", "*")];
        let plan = plan(&wanted(3, None, &[("a", "1"), ("b", "x")]), Some(&found(3, 2, &own)));
        let expected = BTreeMap::from([
            ("a".to_owned(), Some("1".to_owned())),
            ("b".to_owned(), Some("x".to_owned())),
            ("stray".to_owned(), None),
        ]);
        assert_eq!(plan.actions, [Action::SetConfig(expected)]);
    }
}
