//! What the operator measures of itself.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reconciled {
    kind: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

pub struct Metrics {
    registry: Registry,
    reconciles: Family<Reconciled, Counter>,
    seconds: Family<OfKind, Histogram, fn() -> Histogram>,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("ottla_operator");
        let reconciles = Family::default();
        registry.register(
            "reconciles",
            "Reconciles, by kind of resource and by how they ended",
            reconciles.clone(),
        );
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.005, 2.0, 13));
        let seconds = Family::new_with_constructor(histogram);
        registry.register_with_unit(
            "reconcile_duration",
            "How long reconciles took, by kind of resource",
            Unit::Seconds,
            seconds.clone(),
        );
        let leader = Gauge::default();
        registry.register("leader", "1 where this process is the one that acts", leader.clone());
        Self { registry, reconciles, seconds, leader }
    }
}

impl Metrics {
    pub fn reconciled(&self, kind: &'static str, worked: bool, took: Duration) {
        let result = if worked { "ok" } else { "error" };
        self.reconciles.get_or_create(&Reconciled { kind, result }).inc();
        self.seconds.get_or_create(&OfKind { kind }).observe(took.as_secs_f64());
    }

    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// In the text format of OpenMetrics.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n# EOF\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_in_the_text() {
        let metrics = Metrics::default();
        metrics.reconciled("KafkaTopic", true, Duration::from_millis(7));
        metrics.set_leader(true);
        let text = metrics.text();
        let line = r#"ottla_operator_reconciles_total{kind="KafkaTopic",result="ok"} 1"#;
        assert!(text.contains(line), "{text}");
        assert!(text.contains("ottla_operator_leader 1"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
