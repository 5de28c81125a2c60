//! What the pod's endpoints set and keep, and which rules they apply.

use apimachinery::field::{ErrorList, Path};
use apimachinery::validation::{get_warnings_for_ip, is_dns1123_label};
use apimachinery::view::view;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use super::app_armor::{app_armor_warnings, set_app_armor_profiles};
use super::conditions::{self, Condition};
use super::gates::drop_disabled_pod_fields;
pub use super::gates::drop_disabled_template_fields;
use super::label_keys::merge_label_keys;
use super::levels::default_pod_level_resources;
use super::semantic::same;
use super::validation::{self, Options};
use super::{qos, warnings};
use crate::registry::read::{at, list_at, str_at};
use crate::registry::strategy::{generation, keep_field, keep_metadata, keep_status, set_field, set_generation};
use crate::registry::{Cx, Strategy, UpdateStrategy};

pub(super) struct PodStrategy;
pub(super) struct StatusStrategy;
pub(super) struct EphemeralContainersStrategy;
pub(super) struct ResizeStrategy;

impl UpdateStrategy for PodStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        keep_pod_level_resources(new, old);
        drop_disabled_pod_fields(new, Some(old));
        update_generation(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validation::validate_pod_update(new, old)
    }
}

/// What is to be said of a new pod.
fn warnings_of(new: &Value, pod: &Pod) -> Vec<String> {
    let mut all = app_armor_warnings(new);
    let problems = is_dns1123_label(str_at(new, "/metadata/name"));
    if !problems.is_empty() {
        all.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            problems.join(" ")
        ));
    }
    all.extend(warnings::warnings_for_pod(pod));
    all
}

impl Strategy for PodStrategy {
    fn prepare_for_create(&self, cx: &Cx<'_>, new: &mut Value) {
        set_generation(new, 1);
        set_field(new, "status", json!({"phase": "Pending"}));
        drop_disabled_pod_fields(new, None);
        if !list_at(new, "/spec/schedulingGates").is_empty() {
            let condition = Condition {
                kind: "PodScheduled",
                status: "False",
                reason: "SchedulingGated",
                message: "Scheduling is blocked due to non-empty scheduling gates",
            };
            conditions::set(new, &condition, cx.now);
        }
        merge_label_keys(new);
        set_app_armor_profiles(new);
        default_pod_level_resources(new);
        let class = qos::of_value(at(new, "/spec"));
        if let Some(status) = new.get_mut("status") {
            set_field(status, "qosClass", class);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validation::validate_pod_create(&view(new), &Options::for_pod(None))
    }

    /// Reads the pod once for both.
    fn check_new(&self, _cx: &Cx<'_>, new: &Value, metadata: ErrorList) -> (ErrorList, Vec<String>) {
        let pod: Pod = view(new);
        let mut errors = metadata;
        errors.extend(validation::validate_pod_create(&pod, &Options::for_pod(None)));
        let warnings = if errors.is_empty() { warnings_of(new, &pod) } else { Vec::new() };
        (errors, warnings)
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings_of(new, &view(new))
    }

    fn grace_period_seconds(&self, _cx: &Cx<'_>, pod: &Value, requested: Option<i64>) -> Option<i64> {
        let ended = matches!(str_at(pod, "/status/phase"), "Failed" | "Succeeded");
        if ended || str_at(pod, "/spec/nodeName").is_empty() {
            return Some(0);
        }
        let period = requested.or_else(|| at(pod, "/spec/terminationGracePeriodSeconds").as_i64()).unwrap_or(0);
        // Upstream treats negative periods as one second.
        Some(if period < 0 { 1 } else { period })
    }
}

impl UpdateStrategy for StatusStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_field(new, old, "spec");
        if let (Some(metadata), Some(before)) = (new.get_mut("metadata"), old.get("metadata")) {
            keep_field(metadata, before, "deletionTimestamp");
            keep_field(metadata, before, "ownerReferences");
        }
        let before = at(old, "/status");
        if let Some(object) = new.as_object_mut() {
            let status = object.entry("status").or_insert_with(|| Value::Object(Map::new()));
            for field in ["qosClass", "resourceClaimStatuses", "extendedResourceClaimStatus", "nodeAllocatableResourceClaimStatuses"] {
                let unset = status.get(field).is_none_or(|v| v.is_null() || v.as_str() == Some(""));
                if unset {
                    keep_field(status, before, field);
                }
            }
            keep_observed_generations(status, before);
        }
        drop_disabled_pod_fields(new, Some(old));
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validation::validate_pod_status_update(new, old)
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        let status = Path::new("status");
        let mut all = Vec::new();
        for (field, pointer) in [("podIPs", "/status/podIPs"), ("hostIPs", "/status/hostIPs")] {
            let path = status.child(field);
            for (i, ip) in list_at(new, pointer).iter().enumerate() {
                all.extend(get_warnings_for_ip(&path.index(i).child("ip"), str_at(ip, "/ip")));
            }
        }
        all
    }
}

impl UpdateStrategy for EphemeralContainersStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        let containers = new.pointer_mut("/spec/ephemeralContainers").map(Value::take);
        keep_field(new, old, "spec");
        keep_status(new, old);
        keep_metadata(new, old);
        if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
            put(spec, "ephemeralContainers", containers);
        }
        drop_disabled_pod_fields(new, Some(old));
        update_generation(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validation::validate_ephemeral_containers_update(new, old)
    }
}

impl UpdateStrategy for ResizeStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_resources(new, old);
        keep_pod_level_resources(new, old);
        default_pod_level_resources(new);
        drop_disabled_pod_fields(new, Some(old));
        update_generation(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validation::validate_pod_resize(new, old)
    }
}

/// Sets the field, or removes it.
fn put(map: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value.filter(|v| !v.is_null()) {
        Some(value) => {
            map.insert(field.to_owned(), value);
        }
        None => {
            map.shift_remove(field);
        }
    }
}

/// One more whenever the spec means something else.
fn update_generation(new: &mut Value, old: &Value) {
    let changed = !same(at(new, "/spec"), at(old, "/spec"));
    set_generation(new, generation(old) + i64::from(changed));
}

/// A client that does not know the pod's own resources does not remove them.
fn keep_pod_level_resources(new: &mut Value, old: &Value) {
    if at(new, "/spec/resources").is_null()
        && let Some(before) = old.pointer("/spec/resources")
        && let Some(spec) = new.get_mut("spec")
    {
        set_field(spec, "resources", before.clone());
    }
}

/// Takes everything from the old pod but the resources of the pod and those, with their resize policies, of its containers.
/// Where containers have come, gone or moved, all stays as it is, for validation to refuse.
fn keep_all_but_resources(new: &mut Value, old: &Value) {
    let lists = ["containers", "initContainers"];
    let list = |pod: &Value, name: &str| at(pod, "/spec").get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    if lists.iter().any(|name| list(new, name).len() != list(old, name).len()) {
        return;
    }
    let merged = lists.map(|name| resized_containers(list(new, name), list(old, name)));
    let resources = new.pointer_mut("/spec/resources").map(Value::take);
    keep_field(new, old, "spec");
    keep_status(new, old);
    keep_metadata(new, old);
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    put(spec, "resources", resources);
    for (name, containers) in lists.iter().zip(merged) {
        put(spec, name, (!containers.is_empty()).then_some(Value::Array(containers)));
    }
}

fn resized_containers(new: Vec<Value>, old: Vec<Value>) -> Vec<Value> {
    if new.iter().zip(&old).any(|(new, old)| new.get("name") != old.get("name")) {
        return new;
    }
    let merge = |(new, mut old): (Value, Value)| {
        if let Some(container) = old.as_object_mut() {
            for field in ["resources", "resizePolicy"] {
                put(container, field, new.get(field).cloned());
            }
        }
        old
    };
    new.into_iter().zip(old).map(merge).collect()
}

/// Writers that do not know observed generations do not remove them.
fn keep_observed_generations(status: &mut Value, before: &Value) {
    let unset = |v: &Value| v.get("observedGeneration").and_then(Value::as_i64).unwrap_or(0) == 0;
    if unset(status) {
        keep_field(status, before, "observedGeneration");
    }
    // With several conditions of a kind, the first unused one of the old object counts.
    let mut old: Vec<&Value> = list_at(before, "/conditions").iter().collect();
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(i) = old.iter().position(|c| c.get("type") == condition.get("type")) else { continue };
        let known = old.remove(i);
        if unset(condition) {
            keep_field(condition, known, "observedGeneration");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::core::tests::{cx, messages};

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"name": "p", "generation": 3, "labels": {"a": "b"}}, "spec": spec, "status": {"phase": "Running"}})
    }

    #[test]
    fn a_new_pod_is_pending() {
        let mut new = pod(json!({"containers": [{"name": "c"}], "schedulingGates": [{"name": "g"}]}));
        PodStrategy.prepare_for_create(&cx(), &mut new);
        assert_eq!(new["metadata"]["generation"], 1);
        assert_eq!(new["status"]["phase"], "Pending");
        assert_eq!(new["status"]["qosClass"], "BestEffort");
        assert_eq!(new["status"]["conditions"][0]["reason"], "SchedulingGated");
    }

    #[test]
    fn deletion_waits_only_for_pods_on_nodes() {
        let cases = [
            (json!({"nodeName": "n", "terminationGracePeriodSeconds": 30}), "Running", None, 30),
            (json!({"nodeName": "n", "terminationGracePeriodSeconds": 30}), "Running", Some(5), 5),
            (json!({"nodeName": "n", "terminationGracePeriodSeconds": -1}), "Running", None, 1),
            (json!({"terminationGracePeriodSeconds": 30}), "Pending", None, 0),
            (json!({"nodeName": "n", "terminationGracePeriodSeconds": 30}), "Succeeded", Some(9), 0),
        ];
        for (spec, phase, requested, want) in cases {
            let pod = json!({"spec": spec, "status": {"phase": phase}});
            assert_eq!(PodStrategy.grace_period_seconds(&cx(), &pod, requested), Some(want), "{pod} {requested:?}");
        }
    }

    #[test]
    fn a_status_update_keeps_what_it_does_not_know() {
        let old = json!({
            "metadata": {"name": "p", "ownerReferences": [{"uid": "u"}]},
            "spec": {"nodeName": "n"},
            "status": {"qosClass": "Burstable", "observedGeneration": 4, "conditions": [{"type": "Ready", "observedGeneration": 4}]},
        });
        let mut new = json!({
            "metadata": {"name": "p", "deletionTimestamp": "2020-01-01T00:00:00Z"},
            "spec": {},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        StatusStrategy.prepare_for_update(&cx(), &mut new, &old);
        let want = json!({
            "metadata": {"name": "p", "ownerReferences": [{"uid": "u"}]},
            "spec": {"nodeName": "n"},
            "status": {
                "phase": "Running",
                "qosClass": "Burstable",
                "observedGeneration": 4,
                "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 4}],
            },
        });
        assert_eq!(new, want);
    }

    #[test]
    fn a_resize_takes_resources_alone() {
        let spec = |cpu: &str, image: &str| json!({"containers": [{"name": "c", "image": image, "resources": {"requests": {"cpu": cpu}}}]});
        let old = pod(spec("1", "a"));
        let mut new = pod(spec("2", "b"));
        ResizeStrategy.prepare_for_update(&cx(), &mut new, &old);
        assert_eq!(new["spec"], spec("2", "a"));
        assert_eq!(new["metadata"]["generation"], 4);
    }

    #[test]
    fn ephemeral_containers_are_added_and_never_removed() {
        let old = pod(json!({"ephemeralContainers": [{"name": "e", "image": "a"}]}));
        let mut new = pod(json!({"nodeName": "other", "ephemeralContainers": []}));
        EphemeralContainersStrategy.prepare_for_update(&cx(), &mut new, &old);
        assert_eq!(new["spec"].get("nodeName"), None);
        let errors = messages(&EphemeralContainersStrategy.validate_update(&cx(), &new, &old));
        let refusal = "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n";
        assert!(errors.iter().any(|e| e == refusal), "{errors:?}");
    }
}
