//! HorizontalPodAutoscalers as autoscaling/v1 and as autoscaling/v2, the stored form.
//!
//! v1 knows one CPU target. Everything else of an autoscaler travels in annotations on v1 objects, so that a v1 client
//! that writes back what it read loses nothing; on v2 objects these annotations never appear.

use serde_json::{Map, Value, json};

use super::DEFAULT_CPU_UTILIZATION;
use super::defaults::{cpu_utilization, default_behavior};
use super::metric_conversion::{self, Malformed};
use crate::registry::read::{at, int_at, list_at};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const ROUND_TRIP: [&str; 6] = [
    METRICS,
    BEHAVIOR,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
    CURRENT_METRICS,
    CONDITIONS,
];

/// An autoscaling/v1 object of a canonical autoscaling/v2 one.
pub fn to_v1(mut v2: Value) -> Value {
    // What was written as v1 is defaulted as v2 when it is read.
    if let Some(spec) = v2.get_mut("spec").and_then(Value::as_object_mut) {
        default_behavior(spec);
    }
    let v2 = &v2;
    let mut object = without_round_trip_annotations(v2, "autoscaling/v1");
    let metrics = list_at(v2, "/spec/metrics");
    let current = list_at(v2, "/status/currentMetrics");
    let conditions = list_at(v2, "/status/conditions");
    let others: Vec<Value> = metrics.iter().filter(|m| cpu_target(m).is_none()).map(metric_conversion::spec_to_v1).collect();
    if !others.is_empty() {
        annotate(&mut object, METRICS, &Value::Array(others));
    }
    if !current.is_empty() {
        // Those that v1 can express are kept as well: v1 has no place for their raw value.
        annotate(&mut object, CURRENT_METRICS, &current.iter().map(metric_conversion::status_to_v1).collect());
    }
    let behavior = at(v2, "/spec/behavior");
    if !behavior.is_null() {
        annotate(&mut object, BEHAVIOR, &behavior_to_internal(behavior));
    }
    if !conditions.is_empty() {
        annotate(&mut object, CONDITIONS, &conditions.iter().map(condition).collect());
    }
    object.insert("spec".to_owned(), spec_to_v1(v2, metrics));
    object.insert("status".to_owned(), status_to_v1(v2, current));
    Value::Object(object)
}

/// An autoscaling/v2 object of a defaulted autoscaling/v1 one. What annotations say that is not well-formed is ignored.
pub fn to_v2(v1: Value) -> Value {
    let v1 = &v1;
    let annotations = at(v1, "/metadata/annotations");
    let mut object = without_round_trip_annotations(v1, "autoscaling/v2");
    let cpu = at(v1, "/spec/targetCPUUtilizationPercentage").as_i64().map(cpu_utilization);
    let mut metrics = annotated_list(annotations, METRICS, metric_conversion::spec_to_v2).unwrap_or_default();
    metrics.extend(cpu);
    if metrics.is_empty() {
        metrics.push(cpu_utilization(DEFAULT_CPU_UTILIZATION));
    }
    let mut spec = Map::new();
    for field in ["scaleTargetRef", "minReplicas", "maxReplicas"] {
        copy(at(v1, "/spec"), &mut spec, field);
    }
    spec.insert("metrics".to_owned(), Value::Array(metrics));
    if let Some(behavior) = annotated(annotations, BEHAVIOR).and_then(|b| behavior_from_internal(&b).ok().flatten()) {
        spec.insert("behavior".to_owned(), behavior);
    }

    let mut status = Map::new();
    copy(at(v1, "/status"), &mut status, "observedGeneration");
    copy(at(v1, "/status"), &mut status, "lastScaleTime");
    let current = int_at(v1, "/status/currentReplicas");
    if current != 0 {
        status.insert("currentReplicas".to_owned(), current.into());
    }
    status.insert("desiredReplicas".to_owned(), int_at(v1, "/status/desiredReplicas").into());
    let utilization = at(v1, "/status/currentCPUUtilizationPercentage").as_i64();
    let from_percentage = utilization
        .map(|share| json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": share}}}]))
        .unwrap_or_default();
    let from_annotation = annotated_list(annotations, CURRENT_METRICS, metric_conversion::status_to_v2).map(Value::Array);
    status.insert("currentMetrics".to_owned(), from_annotation.unwrap_or(from_percentage));
    if let Some(conditions) = annotated_list(annotations, CONDITIONS, read_condition)
        && !conditions.is_empty()
    {
        status.insert("conditions".to_owned(), Value::Array(conditions));
    }
    object.insert("spec".to_owned(), Value::Object(spec));
    object.insert("status".to_owned(), Value::Object(status));
    Value::Object(object)
}

/// Removes the annotations that only v1 objects have; what upstream does to every v2 object that it reads.
pub fn drop_round_trip_annotations(object: &mut Map<String, Value>) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    for key in ROUND_TRIP {
        annotations.shift_remove(key);
    }
    if annotations.is_empty() {
        metadata.shift_remove("annotations");
    }
}

/// `kind`, the other `apiVersion`, and the metadata without the annotations that only v1 objects have.
fn without_round_trip_annotations(object: &Value, api_version: &str) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("kind".to_owned(), "HorizontalPodAutoscaler".into());
    out.insert("apiVersion".to_owned(), api_version.into());
    let metadata = object.get("metadata").filter(|m| !m.is_null()).cloned();
    out.insert("metadata".to_owned(), metadata.unwrap_or_else(|| Value::Object(Map::new())));
    drop_round_trip_annotations(&mut out);
    out
}

fn annotate(object: &mut Map<String, Value>, key: &str, value: &Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(key.to_owned(), value.to_string().into());
        annotations.sort_keys();
    }
}

fn annotated(annotations: &Value, key: &str) -> Option<Value> {
    annotations.get(key).and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok())
}

/// `None` where the annotation is absent or any item of it is malformed; JSON null is an empty list.
fn annotated_list(annotations: &Value, key: &str, read: fn(&Value) -> Result<Value, Malformed>) -> Option<Vec<Value>> {
    match annotated(annotations, key)? {
        Value::Array(items) => items.iter().map(read).collect::<Result<Vec<_>, _>>().ok(),
        Value::Null => Some(Vec::new()),
        _ => None,
    }
}

fn copy(from: &Value, to: &mut Map<String, Value>, field: &str) {
    if let Some(value) = from.get(field).filter(|v| !v.is_null()) {
        to.insert(field.to_owned(), value.clone());
    }
}

/// The share that a metric of v2 aims at, if it is one that v1 can express.
fn cpu_target(metric: &Value) -> Option<i64> {
    let is_cpu = at(metric, "/type") == "Resource" && at(metric, "/resource/name") == "cpu";
    at(metric, "/resource/target/averageUtilization").as_i64().filter(|_| is_cpu)
}

fn spec_to_v1(v2: &Value, metrics: &[Value]) -> Value {
    let mut spec = Map::new();
    for field in ["scaleTargetRef", "minReplicas", "maxReplicas"] {
        copy(at(v2, "/spec"), &mut spec, field);
    }
    if let Some(share) = metrics.iter().find_map(cpu_target) {
        spec.insert("targetCPUUtilizationPercentage".to_owned(), share.into());
    }
    Value::Object(spec)
}

fn status_to_v1(v2: &Value, current: &[Value]) -> Value {
    let mut status = Map::new();
    copy(at(v2, "/status"), &mut status, "observedGeneration");
    copy(at(v2, "/status"), &mut status, "lastScaleTime");
    for field in ["currentReplicas", "desiredReplicas"] {
        status.insert(field.to_owned(), int_at(v2, &format!("/status/{field}")).into());
    }
    let is_cpu = |m: &&Value| at(m, "/type") == "Resource" && at(m, "/resource/name") == "cpu";
    // The last one counts.
    let mut shares = current.iter().filter(is_cpu).filter_map(|m| at(m, "/resource/current/averageUtilization").as_i64());
    if let Some(share) = shares.next_back() {
        status.insert("currentCPUUtilizationPercentage".to_owned(), share.into());
    }
    Value::Object(status)
}

/// The annotation has the behavior in upstream's internal form: its field names, and nulls.
fn behavior_to_internal(behavior: &Value) -> Value {
    let rules = |rules: &Value| {
        if rules.is_null() {
            return Value::Null;
        }
        let policy =
            |p: &Value| json!({"Type": at(p, "/type"), "Value": int_at(p, "/value"), "PeriodSeconds": int_at(p, "/periodSeconds")});
        let policies = at(rules, "/policies").as_array().map(|all| all.iter().map(policy).collect::<Value>());
        json!({"StabilizationWindowSeconds": at(rules, "/stabilizationWindowSeconds"), "SelectPolicy": at(rules, "/selectPolicy"),
            "Policies": policies, "Tolerance": at(rules, "/tolerance")})
    };
    json!({"ScaleUp": rules(at(behavior, "/scaleUp")), "ScaleDown": rules(at(behavior, "/scaleDown"))})
}

/// `None` if the annotation says nothing. Names match in any case, as Go's decoder lets them.
fn behavior_from_internal(behavior: &Value) -> Result<Option<Value>, Malformed> {
    let mut out = Map::new();
    for (name, field) in [("ScaleUp", "scaleUp"), ("ScaleDown", "scaleDown")] {
        if let Some(rules) = member(behavior, name)? {
            out.insert(field.to_owned(), rules_from_internal(rules)?);
        }
    }
    Ok((!out.is_empty()).then_some(Value::Object(out)))
}

fn rules_from_internal(rules: &Value) -> Result<Value, Malformed> {
    let mut out = Map::new();
    if let Some(seconds) = member(rules, "StabilizationWindowSeconds")? {
        out.insert("stabilizationWindowSeconds".to_owned(), int32(seconds)?);
    }
    if let Some(select) = member(rules, "SelectPolicy")? {
        out.insert("selectPolicy".to_owned(), select.as_str().ok_or(Malformed)?.into());
    }
    if let Some(policies) = member(rules, "Policies")? {
        let read = |policy: &Value| -> Result<Value, Malformed> {
            let kind = member(policy, "Type")?.map_or(Ok(""), |v| v.as_str().ok_or(Malformed))?;
            let number = |name| member(policy, name)?.map_or(Ok(Value::from(0)), int32);
            Ok(json!({"type": kind, "value": number("Value")?, "periodSeconds": number("PeriodSeconds")?}))
        };
        let list: Vec<Value> = policies.as_array().ok_or(Malformed)?.iter().map(read).collect::<Result<_, _>>()?;
        out.insert("policies".to_owned(), Value::Array(list));
    }
    if let Some(tolerance) = member(rules, "Tolerance")? {
        let text = tolerance.as_str().map_or_else(|| tolerance.to_string(), str::to_owned);
        let quantity = apimachinery::quantity::Quantity::parse(&text).map_err(|_| Malformed)?;
        out.insert("tolerance".to_owned(), quantity.canonical().into());
    }
    Ok(Value::Object(out))
}

fn member<'a>(object: &'a Value, name: &str) -> Result<Option<&'a Value>, Malformed> {
    let fields = object.as_object().ok_or(Malformed)?;
    let exact = fields.get(name).or_else(|| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v));
    Ok(exact.filter(|v| !v.is_null()))
}

fn int32(value: &Value) -> Result<Value, Malformed> {
    value.as_i64().filter(|n| i32::try_from(*n).is_ok()).map(Value::from).ok_or(Malformed)
}

/// A condition is the same in both versions; its time is written even if it has none.
fn condition(condition: &Value) -> Value {
    let mut out = Map::new();
    for field in ["type", "status", "lastTransitionTime", "reason", "message", "observedGeneration"] {
        copy(condition, &mut out, field);
        if field == "lastTransitionTime" {
            out.entry(field).or_insert(Value::Null);
        }
    }
    Value::Object(out)
}

fn read_condition(value: &Value) -> Result<Value, Malformed> {
    let mut out = Map::new();
    for field in ["type", "status", "lastTransitionTime", "reason", "message"] {
        let text = member(value, field)?.map(|v| v.as_str().ok_or(Malformed)).transpose()?;
        match (field, text) {
            ("lastTransitionTime", Some(time)) => {
                let time: jiff::Timestamp = time.parse().map_err(|_| Malformed)?;
                out.insert(field.to_owned(), time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
            }
            ("lastTransitionTime", None) => {
                out.insert(field.to_owned(), Value::Null);
            }
            ("type" | "status", text) => {
                out.insert(field.to_owned(), text.unwrap_or("").into());
            }
            (_, Some(text)) if !text.is_empty() => {
                out.insert(field.to_owned(), text.into());
            }
            _ => {}
        }
    }
    if let Some(generation) = member(value, "observedGeneration")? {
        out.insert("observedGeneration".to_owned(), generation.as_i64().ok_or(Malformed)?.into());
    }
    Ok(Value::Object(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2() -> Value {
        json!({"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v2", "metadata": {"name": "h", "annotations": {"a": "b"}},
            "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}, "minReplicas": 1, "maxReplicas": 5,
                "metrics": [
                    {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}},
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}],
                "behavior": {"scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}], "tolerance": "100m"},
                    "scaleDown": {"selectPolicy": "Min", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}]}}},
            "status": {"desiredReplicas": 2, "currentMetrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "current": {"averageValue": "1", "averageUtilization": 30}}}],
                "conditions": [{"type": "AbleToScale", "status": "True", "lastTransitionTime": null, "reason": "r"}]}})
    }

    #[test]
    fn what_v1_cannot_say_travels_in_annotations() {
        let v1 = to_v1(v2());
        assert_eq!(
            v1["spec"],
            json!({"scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
            "minReplicas": 1, "maxReplicas": 5, "targetCPUUtilizationPercentage": 60})
        );
        assert_eq!(v1["status"], json!({"currentReplicas": 0, "desiredReplicas": 2, "currentCPUUtilizationPercentage": 30}));
        let annotations = &v1["metadata"]["annotations"];
        assert_eq!(annotations[METRICS], r#"[{"type":"Pods","pods":{"metricName":"m","targetAverageValue":"1"}}]"#);
        assert_eq!(
            annotations[BEHAVIOR],
            r#"{"ScaleUp":{"StabilizationWindowSeconds":0,"SelectPolicy":"Max","Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":15}],"Tolerance":"100m"},"ScaleDown":{"StabilizationWindowSeconds":null,"SelectPolicy":"Min","Policies":[{"Type":"Pods","Value":1,"PeriodSeconds":15}],"Tolerance":null}}"#
        );
        assert_eq!(annotations[CONDITIONS], r#"[{"type":"AbleToScale","status":"True","lastTransitionTime":null,"reason":"r"}]"#);
        assert_eq!(to_v2(v1), v2());
    }

    #[test]
    fn a_v1_object_without_a_target_gets_the_default_one() {
        let v1 = json!({"metadata": {"annotations": {METRICS: "nonsense", BEHAVIOR: "{\"ScaleUp\": 5}"}}, "spec": {"maxReplicas": 1}});
        let v2 = to_v2(v1);
        assert_eq!(v2["spec"], json!({"maxReplicas": 1, "metrics": [cpu_utilization(80)]}));
        assert_eq!(v2["metadata"], json!({}));
        assert_eq!(v2["status"], json!({"desiredReplicas": 0, "currentMetrics": null}));
    }
}
