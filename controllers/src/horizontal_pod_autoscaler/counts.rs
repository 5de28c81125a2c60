//! What is counted of autoscalers, see [`crate::metrics`]. Decides nothing.

use std::cmp::Ordering;
use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::MetricSpec;

use super::Error;
use crate::metrics;

/// The kinds of metrics that the API has.
const KINDS: [&str; 5] = ["Object", "Pods", "Resource", "ContainerResource", "External"];

/// What follows from so many replicas and as many that are wanted, as the label has it.
fn action(current: i32, wanted: i32) -> &'static str {
    match wanted.cmp(&current) {
        Ordering::Greater => "scale_up",
        Ordering::Less => "scale_down",
        Ordering::Equal => "none",
    }
}

/// An autoscaler was looked at: from how many replicas to how many it came.
pub fn reconciled(result: &Result<(i32, i32), Error>, time: Duration) {
    let labels = match result {
        Ok((current, desired)) => [action(*current, *desired), "none"],
        Err(_) => ["none", "internal"],
    };
    metrics::AUTOSCALER_SYNCS.with(&labels).inc();
    metrics::AUTOSCALER_DURATION.with(&labels).observe_time(time);
}

/// A metric was asked for, and proposes so many replicas if it is known.
pub fn measured(metric: &MetricSpec, current: i32, proposed: Option<i32>, time: Duration) {
    let kind = KINDS.iter().find(|kind| **kind == metric.type_);
    let error = match (proposed, kind) {
        (Some(_), _) => "none",
        (None, Some(_)) => "internal",
        (None, None) => "spec",
    };
    let labels = [proposed.map_or("none", |proposed| action(current, proposed)), error, kind.unwrap_or(&"")];
    metrics::AUTOSCALER_METRICS.with(&labels).inc();
    metrics::AUTOSCALER_METRIC_DURATION.with(&labels).observe_time(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_counted_by_what_it_asks_for() {
        let metric = |kind: &str| MetricSpec { type_: kind.to_owned(), ..MetricSpec::default() };
        let count = |labels: [&str; 3]| metrics::AUTOSCALER_METRICS.with(&labels).get();
        let cases = [
            ("Pods", 2, Some(5), ["scale_up", "none", "Pods"]),
            ("External", 2, Some(1), ["scale_down", "none", "External"]),
            ("Object", 2, Some(2), ["none", "none", "Object"]),
            ("Resource", 2, None, ["none", "internal", "Resource"]),
            ("Nonsense", 2, None, ["none", "spec", ""]),
        ];
        for (kind, current, proposed, labels) in cases {
            let before = count(labels);
            measured(&metric(kind), current, proposed, Duration::ZERO);
            assert_eq!(count(labels), before + 1, "{kind}");
        }
    }
}
