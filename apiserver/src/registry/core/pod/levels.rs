//! Resources of the pod as a whole: what is filled in from those of its containers when a pod states some of them.

use std::collections::BTreeSet;

use apimachinery::quantity::Quantity;
use apimachinery::view::view;
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Map, Value};

use super::access::any_container;
use super::aggregate::{Amounts, container_limits, container_requests};
use super::validation::{is_huge_pages, is_pod_level};
use crate::registry::core::resource::{is_overcommit_allowed, quantity};

/// Completes `spec.resources` of a pod that states some of its own requests or limits.
pub(super) fn default_pod_level_resources(pod: &mut Value) {
    let Some(value) = pod.get_mut("spec") else { return };
    let Some(resources) = value.get("resources").and_then(Value::as_object) else { return };
    let mut limits = list(resources, "limits");
    let mut requests = list(resources, "requests");
    if limits.is_empty() && requests.is_empty() {
        return;
    }
    let spec: PodSpec = view(value);
    let Some(resources) = value.get_mut("resources").and_then(Value::as_object_mut) else { return };
    let total_limits = container_limits(&spec);
    for (name, total) in &total_limits {
        if is_huge_pages(name) && !requests.contains_key(name) {
            limits.entry(name.clone()).or_insert_with(|| total.canonical().into());
        }
    }
    for (name, total) in container_requests(&spec) {
        if is_pod_level(&name) && is_overcommit_allowed(&name) {
            requests.entry(name).or_insert_with(|| total.canonical().into());
        }
    }
    for (name, limit) in &limits {
        if is_pod_level(name) {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
    limit_what_all_limit(&spec, &total_limits, &requests, &mut limits);
    for (field, amounts) in [("limits", limits), ("requests", requests)] {
        if !amounts.is_empty() {
            resources.insert(field.to_owned(), Value::Object(amounts));
        }
    }
}

/// What every container limits, the pod limits: to their sum, or to its own request if that is more.
fn limit_what_all_limit(spec: &PodSpec, totals: &Amounts, requests: &Map<String, Value>, limits: &mut Map<String, Value>) {
    let candidates: BTreeSet<&String> = requests.keys().filter(|name| is_pod_level(name) && !limits.contains_key(*name)).collect();
    for name in candidates {
        let unlimited = any_container(spec, &|c| !c.resources.iter().flat_map(|r| &r.limits).any(|list| list.contains_key(name)));
        let Some(total) = totals.get(name).filter(|_| !unlimited) else { continue };
        let request = amount(requests.get(name));
        limits.insert(name.clone(), (if request > *total { request } else { total.clone() }).canonical().into());
    }
}

fn list(resources: &Map<String, Value>, field: &str) -> Map<String, Value> {
    resources.get(field).and_then(Value::as_object).cloned().unwrap_or_default()
}

fn amount(value: Option<&Value>) -> Quantity {
    value.and_then(Value::as_str).map(quantity).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_resources_are_completed_from_its_containers() {
        let container = |limits: Value, requests: Value| json!({"name": "c", "resources": {"limits": limits, "requests": requests}});
        let cases = [
            (
                json!({"limits": {"cpu": "2"}, "requests": {"memory": "1Gi"}}),
                vec![container(json!({}), json!({}))],
                json!({"limits": {"cpu": "2"}, "requests": {"memory": "1Gi", "cpu": "2"}}),
            ),
            (
                json!({"requests": {"cpu": "1"}}),
                vec![container(json!({"cpu": "2"}), json!({"cpu": "100m"})), container(json!({"cpu": "1"}), json!({"memory": "1Mi"}))],
                json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "3"}}),
            ),
            (json!({}), vec![container(json!({"cpu": "1"}), json!({"cpu": "1"}))], json!({})),
        ];
        for (resources, containers, want) in cases {
            let mut pod = json!({"spec": {"containers": containers, "resources": resources}});
            default_pod_level_resources(&mut pod);
            assert_eq!(pod["spec"]["resources"], want);
        }
    }
}
