//! Conditions: what `kubectl wait` waits for and `kubectl describe` shows.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The conditions of a resource, one per type, in a fixed order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Conditions(pub Vec<Condition>);

/// What a reconcile found out about one condition; when it turned so is added by
/// [`Conditions::set`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub condition: &'static str,
    /// Yes, no, or not known.
    pub holds: Option<bool>,
    /// One word in CamelCase, for programs.
    pub reason: &'static str,
    /// For people: what is so, and what to do when it is wrong.
    pub message: String,
}

impl Finding {
    pub fn new(
        condition: &'static str,
        holds: impl Into<Option<bool>>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { condition, holds: holds.into(), reason, message: message.into() }
    }
}

impl Conditions {
    pub fn get(&self, condition: &str) -> Option<&Condition> {
        self.0.iter().find(|known| known.type_ == condition)
    }

    pub fn is_true(&self, condition: &str) -> bool {
        self.get(condition).is_some_and(|known| known.status == "True")
    }

    /// Replaces all conditions by `findings`. The time of the last transition moves only where the
    /// status does, so that an unchanged finding is an unchanged condition.
    #[must_use]
    pub fn set(&self, findings: Vec<Finding>, generation: Option<i64>, now: Timestamp) -> Self {
        Self(findings.into_iter().map(|finding| self.turned(finding, generation, now)).collect())
    }

    fn turned(&self, finding: Finding, generation: Option<i64>, now: Timestamp) -> Condition {
        let status = match finding.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let since = self.get(finding.condition).filter(|known| known.status == status);
        // The API server keeps whole seconds; more would look like a change at the next read.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Condition {
            type_: finding.condition.to_owned(),
            status: status.to_owned(),
            reason: finding.reason.to_owned(),
            message: finding.message,
            observed_generation: generation,
            last_transition_time: since
                .map_or(Time(now), |known| known.last_transition_time.clone()),
        }
    }
}

impl JsonSchema for Conditions {
    fn schema_name() -> Cow<'static, str> {
        "Conditions".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<Condition>();
        json_schema!({
            "type": "array",
            "description": "What holds for this resource now.",
            "items": item,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let finding = |holds: bool, message: &str| vec![Finding::new("Ready", holds, "R", message)];
        let first = Conditions::default().set(finding(false, "a"), Some(1), at(1));
        let second = first.set(finding(false, "b"), Some(2), at(2));
        assert_eq!(second.get("Ready").unwrap().last_transition_time, Time(at(1)));
        assert_eq!(second.get("Ready").unwrap().message, "b");
        let third = second.set(finding(true, "b"), Some(2), at(3));
        assert_eq!(third.get("Ready").unwrap().last_transition_time, Time(at(3)));
        assert!(third.is_true("Ready"));
    }
}
