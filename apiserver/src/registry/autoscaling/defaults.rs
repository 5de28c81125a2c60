//! Defaults of autoscaling that stand in no marker.

use serde_json::{Map, Value, json};

use super::{DEFAULT_CPU_UTILIZATION, conversion};
use crate::registry::defaulting::{Hook, existing, is_empty, is_unset, nested, set_if_unset};

pub static DEFAULTS: &[Hook] = &[
    ("io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler", autoscaler_v1),
    ("io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler", autoscaler_v2),
];

/// The rest of autoscaling/v1 is defaulted by its conversion, which sees the annotations: what an object says once read is
/// what is left of it after the way through the stored form.
fn autoscaler_v1(object: &mut Map<String, Value>) {
    if let Some(spec) = nested(object, "spec") {
        set_if_unset(spec, "minReplicas", 1);
    }
    if let Value::Object(read) = conversion::to_v1(conversion::to_v2(Value::Object(object.clone()))) {
        *object = read;
    }
}

fn autoscaler_v2(object: &mut Map<String, Value>) {
    conversion::drop_round_trip_annotations(object);
    let Some(spec) = nested(object, "spec") else { return };
    set_if_unset(spec, "minReplicas", 1);
    if is_empty(spec, "metrics") {
        spec.insert("metrics".to_owned(), json!([cpu_utilization(DEFAULT_CPU_UTILIZATION)]));
    }
    default_behavior(spec);
}

/// A behavior that is given at all says everything.
pub fn default_behavior(spec: &mut Map<String, Value>) {
    if let Some(behavior) = existing(spec, "behavior") {
        scaling_rules(behavior, "scaleUp", Some(0), json!([policy("Pods", 4), policy("Percent", 100)]));
        // How long to wait before scaling down is the controller's setting, so it has no default here.
        scaling_rules(behavior, "scaleDown", None, json!([policy("Percent", 100)]));
    }
}

/// The metric of an autoscaler that keeps CPU at a share of what is requested.
pub fn cpu_utilization(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn policy(kind: &str, value: i64) -> Value {
    json!({"type": kind, "value": value, "periodSeconds": 15})
}

fn scaling_rules(behavior: &mut Map<String, Value>, direction: &str, window: Option<i64>, policies: Value) {
    let Some(rules) = nested(behavior, direction) else { return };
    if let Some(seconds) = window {
        set_if_unset(rules, "stabilizationWindowSeconds", seconds);
    }
    set_if_unset(rules, "selectPolicy", "Max");
    if is_unset(rules, "policies") {
        rules.insert("policies".to_owned(), policies);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_autoscaler_aims_at_four_fifths_of_the_cpu() {
        let mut map = Map::new();
        autoscaler_v2(&mut map);
        assert_eq!(
            Value::Object(map),
            json!({"spec": {"minReplicas": 1, "metrics": [{"type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]}})
        );
    }

    #[test]
    fn a_behavior_is_filled_in_where_it_is_silent() {
        let Value::Object(mut map) = json!({"spec": {"behavior": {"scaleUp": {"selectPolicy": "Min"}}}}) else { panic!("an object") };
        autoscaler_v2(&mut map);
        assert_eq!(
            map["spec"]["behavior"],
            json!({"scaleUp": {"selectPolicy": "Min", "stabilizationWindowSeconds": 0, "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]},
                "scaleDown": {"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}})
        );
    }
}
