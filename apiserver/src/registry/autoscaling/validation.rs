//! The rules of HorizontalPodAutoscalers, on the stored form.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::quantity::Quantity;
use apimachinery::validation::{is_dns1123_label, is_valid_path_segment_name, validate_nonnegative_field};
use apimachinery::view::view;
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, ExternalMetricSource, HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec, MetricTarget, ObjectMetricSource, PodsMetricSource,
};
use serde_json::Value;

use crate::registry::core::resource;
use crate::registry::read::{at, int_at, list_at, optional_int_at};

const MAX_PERIOD_SECONDS: i32 = 1800;
const MAX_STABILIZATION_WINDOW_SECONDS: i32 = 3600;
const METRIC_TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

/// What a reference may lack.
#[derive(Clone, Copy)]
struct ReferenceRules {
    empty_group: bool,
    invalid_version: bool,
}

/// The rules of a new autoscaler, or of a changed one.
pub fn validate(new: &Value, old: Option<&Value>) -> ErrorList {
    let after = spec_of(new);
    let before = old.map(spec_of);
    let reference = &after.scale_target_ref;
    let same_target = before
        .as_ref()
        .is_some_and(|b| b.scale_target_ref.api_version == reference.api_version && b.scale_target_ref.kind == reference.kind);
    let target = ReferenceRules { empty_group: !same_target && reference.kind == "ReplicationController", invalid_version: same_target };
    let strict = ReferenceRules { empty_group: true, invalid_version: false };
    let bad_described = |metric: &MetricSpec| {
        metric.type_ == "Object" && metric.object.as_ref().is_some_and(|o| api_version_problem(&o.described_object, strict).is_some())
    };
    let described = ReferenceRules { invalid_version: before.iter().flat_map(|b| b.metrics.iter().flatten()).any(bad_described), ..strict };
    validate_spec(&after, before.as_ref(), target, described, &Path::new("spec"))
}

/// The rules of a status.
pub fn validate_status(new: &Value) -> ErrorList {
    let path = Path::new("status");
    let conditions = path.child("conditions");
    let mut errors = Vec::new();
    for (i, condition) in list_at(new, "/status/conditions").iter().enumerate() {
        if let Some(generation) = optional_int_at(condition, "/observedGeneration") {
            errors.extend(validate_nonnegative_field(generation, &conditions.index(i).child("observedGeneration")));
        }
    }
    for count in ["currentReplicas", "desiredReplicas"] {
        errors.extend(validate_nonnegative_field(int_at(at(new, "/status"), &format!("/{count}")), &path.child(count)));
    }
    errors
}

fn spec_of(object: &Value) -> HorizontalPodAutoscalerSpec {
    let autoscaler: HorizontalPodAutoscaler = view(object);
    autoscaler.spec
}

fn validate_spec(
    spec: &HorizontalPodAutoscalerSpec,
    before: Option<&HorizontalPodAutoscalerSpec>,
    target: ReferenceRules,
    described: ReferenceRules,
    path: &Path<'_>,
) -> ErrorList {
    let (mut errors, mut declared) = (Vec::new(), Vec::new());
    let (min_path, max_path) = (path.child("minReplicas"), path.child("maxReplicas"));
    // The declared rules on both numbers replace the written ones when the number is new.
    if let Some(min) = spec.min_replicas
        && min < 0
    {
        let into = if before.is_some_and(|b| b.min_replicas == Some(min)) { &mut errors } else { &mut declared };
        into.push(Error::invalid(&min_path, min, "must be greater than or equal to 0"));
    }
    let max_unchanged = before.is_some_and(|b| b.max_replicas == spec.max_replicas);
    match (spec.max_replicas, max_unchanged) {
        (0, true) => errors.push(Error::required(&max_path, "must be set and greater than 0")),
        (0, false) => declared.push(Error::required(&max_path, "")),
        (max @ ..0, unchanged) => {
            let into = if unchanged { &mut errors } else { &mut declared };
            into.push(Error::invalid(&max_path, max, "must be greater than or equal to 1"));
        }
        _ => {}
    }
    if spec.min_replicas.is_some_and(|min| spec.max_replicas < min) {
        errors.push(Error::invalid(&max_path, spec.max_replicas, "must be greater than or equal to `minReplicas`"));
    }
    errors.extend(validate_reference(&spec.scale_target_ref, target, &path.child("scaleTargetRef")));
    errors.extend(validate_metrics(spec, described, &path.child("metrics")));
    if let Some(behavior) = &spec.behavior {
        let behavior_path = path.child("behavior");
        for (direction, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
            if let Some(rules) = rules {
                errors.extend(validate_scaling_rules(rules, &behavior_path.child(direction)));
            }
        }
    }
    errors.extend(declared);
    errors
}

fn validate_reference(reference: &CrossVersionObjectReference, rules: ReferenceRules, path: &Path<'_>) -> ErrorList {
    let mut errors = Vec::new();
    for (field, value) in [("kind", &reference.kind), ("name", &reference.name)] {
        errors.extend(validate_segment(value, "", &path.child(field)));
    }
    if let Some(problem) = api_version_problem(reference, rules) {
        let version = reference.api_version.as_deref().unwrap_or("");
        errors.push(Error::invalid(&path.child("apiVersion"), version, problem));
    }
    errors
}

fn validate_segment(value: &str, required: &str, path: &Path<'_>) -> ErrorList {
    if value.is_empty() {
        return vec![Error::required(path, required)];
    }
    is_valid_path_segment_name(value).into_iter().map(|message| Error::invalid(path, value, message)).collect()
}

fn api_version_problem(reference: &CrossVersionObjectReference, rules: ReferenceRules) -> Option<String> {
    if rules.invalid_version {
        return None;
    }
    let version = reference.api_version.as_deref().unwrap_or("");
    let group = match version.split('/').collect::<Vec<_>>().as_slice() {
        [_] => "",
        [group, _] => group,
        _ => return Some(format!("unexpected GroupVersion string: {version}")),
    };
    (group.is_empty() && !rules.empty_group).then(|| "apiVersion must specify API group".to_owned())
}

fn validate_metrics(spec: &HorizontalPodAutoscalerSpec, described: ReferenceRules, path: &Path<'_>) -> ErrorList {
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    let mut errors: ErrorList =
        metrics.iter().enumerate().flat_map(|(i, metric)| validate_metric(metric, described, &path.index(i))).collect();
    let counted_without_pods = |metric: &MetricSpec| metric.type_ == "Object" || metric.type_ == "External";
    if spec.min_replicas == Some(0) && !metrics.iter().any(counted_without_pods) {
        errors.push(Error::forbidden(path, "must specify at least one Object or External metric to support scaling to zero replicas"));
    }
    errors
}

/// The sources that a metric has, in the order in which they are looked at.
fn sources(metric: &MetricSpec) -> [(&'static str, &'static str, bool); 5] {
    [
        ("object", "Object", metric.object.is_some()),
        ("external", "External", metric.external.is_some()),
        ("pods", "Pods", metric.pods.is_some()),
        ("resource", "Resource", metric.resource.is_some()),
        ("containerResource", "ContainerResource", metric.container_resource.is_some()),
    ]
}

fn validate_metric(metric: &MetricSpec, described: ReferenceRules, path: &Path<'_>) -> ErrorList {
    let type_path = path.child("type");
    let kind = metric.type_.as_str();
    let known = METRIC_TYPES.contains(&kind);
    let mut errors = Vec::new();
    if kind.is_empty() {
        errors.push(Error::required(&type_path, "must specify a metric source type"));
    }
    if !known {
        errors.push(Error::not_supported(&type_path, kind, &METRIC_TYPES));
    }
    let present: Vec<(&str, &str)> = sources(metric).into_iter().filter(|(_, _, set)| *set).map(|(field, kind, _)| (field, kind)).collect();
    if let Some((field, _)) = present.first() {
        errors.extend(validate_source(metric, field, described, &path.child(field)));
    }
    match sources(metric).into_iter().find(|(_, name, _)| *name == kind) {
        Some((field, _, false)) => {
            errors.push(Error::required(&path.child(field), "must populate information for the given metric source"))
        }
        Some(_) => {}
        // Upstream says so twice.
        None => errors.push(Error::not_supported(&type_path, kind, &METRIC_TYPES)),
    }
    if present.len() != 1 {
        let others = present.iter().filter(|(_, name)| *name != kind);
        errors.extend(others.map(|(field, _)| Error::forbidden(&path.child(field), "must populate the given metric source only")));
    }
    errors
}

fn validate_source(metric: &MetricSpec, field: &str, described: ReferenceRules, path: &Path<'_>) -> ErrorList {
    match field {
        "object" => metric.object.as_ref().map(|source| validate_object(source, described, path)),
        "external" => metric.external.as_ref().map(|source| validate_external(source, path)),
        "pods" => metric.pods.as_ref().map(|source| validate_pods(source, path)),
        "resource" => metric.resource.as_ref().map(|source| {
            let mut errors = Vec::new();
            if source.name.is_empty() {
                errors.push(Error::required(&path.child("name"), "must specify a resource name"));
            }
            errors.extend(validate_resource_target(&source.target, &path.child("target")));
            errors
        }),
        _ => metric.container_resource.as_ref().map(|source| {
            let (name_path, container_path) = (path.child("name"), path.child("container"));
            let mut errors = match source.name.as_str() {
                "" => vec![Error::required(&name_path, "must specify a resource name")],
                name => resource::validate_container_name(name, &name_path),
            };
            match source.container.as_str() {
                "" => errors.push(Error::required(&container_path, "must specify a container")),
                name => errors.extend(is_dns1123_label(name).into_iter().map(|m| Error::invalid(&container_path, name, m))),
            }
            errors.extend(validate_resource_target(&source.target, &path.child("target")));
            errors
        }),
    }
    .unwrap_or_default()
}

fn validate_object(source: &ObjectMetricSource, described: ReferenceRules, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_reference(&source.described_object, described, &path.child("describedObject"));
    errors.extend(validate_identifier(&source.metric, &path.child("metric")));
    let target_path = path.child("target");
    errors.extend(validate_target(&source.target, &target_path));
    if source.target.value.is_none() && source.target.average_value.is_none() {
        errors.push(Error::required(&target_path.child("averageValue"), "must set either a target value or averageValue"));
    }
    errors
}

fn validate_external(source: &ExternalMetricSource, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_identifier(&source.metric, &path.child("metric"));
    let target_path = path.child("target");
    errors.extend(validate_target(&source.target, &target_path));
    match (&source.target.value, &source.target.average_value) {
        (None, None) => {
            let detail = "must set either a target value for metric or a per-pod target";
            errors.push(Error::required(&target_path.child("averageValue"), detail));
        }
        (Some(_), Some(_)) => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errors.push(Error::forbidden(&target_path.child("value"), detail));
        }
        _ => {}
    }
    errors
}

fn validate_pods(source: &PodsMetricSource, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_identifier(&source.metric, &path.child("metric"));
    let target_path = path.child("target");
    errors.extend(validate_target(&source.target, &target_path));
    if source.target.average_value.is_none() {
        errors.push(Error::required(&target_path.child("averageValue"), "must specify a positive target averageValue"));
    }
    errors
}

fn validate_resource_target(target: &MetricTarget, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_target(target, path);
    match (target.average_utilization, &target.average_value) {
        (None, None) => {
            let detail = "must set either a target raw value or a target utilization";
            errors.push(Error::required(&path.child("averageUtilization"), detail));
        }
        (Some(_), Some(_)) => {
            let detail = "may not set both a target raw value and a target utilization";
            errors.push(Error::forbidden(&path.child("averageValue"), detail));
        }
        _ => {}
    }
    errors
}

fn validate_target(target: &MetricTarget, path: &Path<'_>) -> ErrorList {
    let mut errors = Vec::new();
    let kind = target.type_.as_str();
    let type_path = path.child("type");
    if kind.is_empty() {
        errors.push(Error::required(&type_path, "must specify a metric target type"));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        errors.push(Error::invalid(&type_path, kind, "must be either Utilization, Value, or AverageValue"));
    }
    for (field, value) in [("value", &target.value), ("averageValue", &target.average_value)] {
        if let Some(quantity) = value
            && sign(&quantity.0) <= 0
        {
            errors.push(Error::invalid(&path.child(field), quantity.0.as_str(), "must be positive"));
        }
    }
    if let Some(share) = target.average_utilization
        && share < 1
    {
        errors.push(Error::invalid(&path.child("averageUtilization"), share, "must be greater than 0"));
    }
    errors
}

/// -1, 0 or 1. The schema pass has checked the syntax.
fn sign(quantity: &str) -> i32 {
    Quantity::parse(quantity).map_or(0, |q| q.sign())
}

fn validate_identifier(metric: &MetricIdentifier, path: &Path<'_>) -> ErrorList {
    validate_segment(&metric.name, "must specify a metric name", &path.child("name"))
}

fn validate_scaling_rules(rules: &HPAScalingRules, path: &Path<'_>) -> ErrorList {
    const SELECT: [&str; 3] = ["Disabled", "Max", "Min"];
    let mut errors = Vec::new();
    if let Some(seconds) = rules.stabilization_window_seconds {
        let window = path.child("stabilizationWindowSeconds");
        if seconds < 0 {
            errors.push(Error::invalid(&window, seconds, "must be greater than or equal to zero"));
        }
        if seconds > MAX_STABILIZATION_WINDOW_SECONDS {
            let detail = format!("must be less than or equal to {MAX_STABILIZATION_WINDOW_SECONDS}");
            errors.push(Error::invalid(&window, seconds, detail));
        }
    }
    if let Some(select) = rules.select_policy.as_deref()
        && !SELECT.contains(&select)
    {
        errors.push(Error::not_supported(&path.child("selectPolicy"), select, &SELECT));
    }
    let policies = rules.policies.as_deref().unwrap_or_default();
    let policies_path = path.child("policies");
    if policies.is_empty() {
        errors.push(Error::required(&policies_path, "must specify at least one Policy"));
    }
    for (i, policy) in policies.iter().enumerate() {
        errors.extend(validate_scaling_policy(policy, &policies_path.index(i)));
    }
    if let Some(tolerance) = &rules.tolerance
        && sign(&tolerance.0) < 0
    {
        errors.push(Error::invalid(&path.child("tolerance"), tolerance.0.as_str(), "must be greater than or equal to 0"));
    }
    errors
}

fn validate_scaling_policy(policy: &HPAScalingPolicy, path: &Path<'_>) -> ErrorList {
    const TYPES: [&str; 2] = ["Percent", "Pods"];
    let mut errors = Vec::new();
    if !TYPES.contains(&policy.type_.as_str()) {
        errors.push(Error::not_supported(&path.child("type"), policy.type_.as_str(), &TYPES));
    }
    if policy.value <= 0 {
        errors.push(Error::invalid(&path.child("value"), policy.value, "must be greater than zero"));
    }
    let period = path.child("periodSeconds");
    if policy.period_seconds <= 0 {
        errors.push(Error::invalid(&period, policy.period_seconds, "must be greater than zero"));
    }
    if policy.period_seconds > MAX_PERIOD_SECONDS {
        errors.push(Error::invalid(&period, policy.period_seconds, format!("must be less than or equal to {MAX_PERIOD_SECONDS}")));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: Value) -> Vec<String> {
        validate(&json!({"spec": spec}), None).iter().map(ToString::to_string).collect()
    }

    fn reference() -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"})
    }

    #[test]
    fn replicas_lie_between_their_bounds() {
        assert!(check(json!({"scaleTargetRef": reference(), "minReplicas": 1, "maxReplicas": 2})).is_empty());
        assert_eq!(
            check(json!({"scaleTargetRef": reference(), "minReplicas": -1, "maxReplicas": 0})),
            ["spec.minReplicas: Invalid value: -1: must be greater than or equal to 0", "spec.maxReplicas: Required value"]
        );
        assert_eq!(
            check(json!({"scaleTargetRef": reference(), "minReplicas": 0, "maxReplicas": 1})),
            ["spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas"]
        );
        assert_eq!(
            check(json!({"scaleTargetRef": reference(), "minReplicas": 3, "maxReplicas": 1})),
            ["spec.maxReplicas: Invalid value: 1: must be greater than or equal to `minReplicas`"]
        );
    }

    #[test]
    fn a_target_names_its_group_but_for_replication_controllers() {
        let target = |version: &str, kind: &str| {
            check(json!({"maxReplicas": 1, "scaleTargetRef": {"apiVersion": version, "kind": kind, "name": "x"}}))
        };
        assert!(target("v1", "ReplicationController").is_empty());
        assert_eq!(target("v1", "Pod"), ["spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group"]);
        assert_eq!(
            target("a/b/c", "Pod"),
            ["spec.scaleTargetRef.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c"]
        );
    }

    #[test]
    fn a_metric_has_the_source_that_its_type_names() {
        let metric = |metric: Value| check(json!({"scaleTargetRef": reference(), "maxReplicas": 1, "metrics": [metric]}));
        assert_eq!(
            metric(json!({"type": "Pods", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 0}}})),
            [
                "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
                "spec.metrics[0].pods: Required value: must populate information for the given metric source"
            ]
        );
        assert_eq!(metric(json!({"type": "x"})).len(), 2);
        assert_eq!(
            metric(json!({"type": "External", "external": {"metric": {"name": ""}, "target": {"type": "Value", "value": "0"}}})),
            [
                "spec.metrics[0].external.metric.name: Required value: must specify a metric name",
                "spec.metrics[0].external.target.value: Invalid value: \"0\": must be positive"
            ]
        );
    }

    #[test]
    fn scaling_policies_are_bounded() {
        let rules = |rules: Value| check(json!({"scaleTargetRef": reference(), "maxReplicas": 1, "behavior": {"scaleUp": rules}}));
        assert_eq!(
            rules(json!({"policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}], "tolerance": "-1"})),
            [
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
                "spec.behavior.scaleUp.tolerance: Invalid value: \"-1\": must be greater than or equal to 0"
            ]
        );
        assert_eq!(
            rules(json!({"selectPolicy": "Max"})),
            ["spec.behavior.scaleUp.policies: Required value: must specify at least one Policy"]
        );
    }
}
