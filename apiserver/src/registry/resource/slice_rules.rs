//! Slices: the pool and the nodes that devices belong to, and counters that devices share.

use std::collections::BTreeMap;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{FIELD_IMMUTABLE, name_is_dns_subdomain, short_name};
use k8s_openapi::api::resource::v1::{Counter, CounterSet, Device, ResourcePool, ResourceSliceSpec};
use serde_json::Value;

use super::claim_rules::bounded;
use super::device_rules::{declared_device, validate_device};
use super::names::{validate_driver, validate_pool};
use super::view_at;
use crate::registry::core::node_selector;
use crate::registry::declared::{Findings, changed, max_items, unique, written};
use crate::registry::read::at;

const MAX_DEVICES: usize = 128;
/// Of devices with taints or counters.
const MAX_ADVANCED_DEVICES: usize = 64;
const MAX_COUNTER_SETS: usize = 8;
pub const MAX_COUNTERS: usize = 32;

/// A slice, and how it differs from the stored one.
pub fn validate_slice(slice: &Value, old: Option<&Value>) -> ErrorList {
    let spec: ResourceSliceSpec = view_at(slice, "/spec");
    let before: Option<ResourceSliceSpec> = old.map(|old| view_at(old, "/spec"));
    let path = Path::new("spec");
    let mut findings = Findings::default();
    let errors = &mut findings.written;
    errors.extend(validate_driver(&spec.driver, &path.child("driver")));
    errors.extend(validate_resource_pool(&spec.pool, &path.child("pool")));
    if let Some(before) = &before {
        errors.extend(validate_identity(&spec, before, &path));
    }
    errors.extend(validate_nodes(&spec, &path));
    let present = |field: &str| !at(at(slice, "/spec"), field).is_null();
    if present("/sharedCounters") && present("/devices") {
        errors.push(Error::invalid(&path, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    errors.extend(validate_devices(&spec, before.as_ref(), &path.child("devices")));
    let sets_path = path.child("sharedCounters");
    for (i, set) in bounded(spec.shared_counters.as_ref(), MAX_COUNTER_SETS).iter().enumerate() {
        errors.extend(validate_counters(&set.counters, &sets_path.index(i).child("counters")));
    }

    let is_new = |field: &str| changed(at(slice, field), old.map(|old| at(old, field)));
    if is_new("/spec/devices") {
        let devices_path = path.child("devices");
        for (i, device) in spec.devices.iter().flatten().enumerate() {
            findings.declared.extend(declared_device(device, &devices_path.index(i)));
        }
    }
    if is_new("/spec/sharedCounters") {
        findings.declared.extend(declared_counter_sets(spec.shared_counters.as_deref().unwrap_or_default(), &sets_path));
    }
    findings.into_errors()
}

fn validate_resource_pool(pool: &ResourcePool, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_pool(&pool.name, &path.child("name"));
    if pool.resource_slice_count <= 0 {
        let detail = "must be greater than zero";
        errors.push(Error::invalid(&path.child("resourceSliceCount"), pool.resource_slice_count, detail));
    }
    if pool.generation < 0 {
        errors.push(Error::invalid(&path.child("generation"), pool.generation, "must be greater than or equal to zero"));
    }
    errors
}

/// A slice stays in its pool, with its driver and on its node.
fn validate_identity(spec: &ResourceSliceSpec, old: &ResourceSliceSpec, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if spec.pool.name != old.pool.name {
        errors.push(Error::invalid(&path.child("pool").child("name"), spec.pool.name.as_str(), FIELD_IMMUTABLE));
    }
    if spec.driver != old.driver {
        errors.push(Error::invalid(&path.child("driver"), spec.driver.as_str(), FIELD_IMMUTABLE));
    }
    if spec.node_name != old.node_name {
        errors.push(Error::invalid(&path.child("nodeName"), serde_json::json!(spec.node_name), FIELD_IMMUTABLE));
    }
    errors
}

/// A name that a node can have.
pub fn validate_node_name(name: &str, path: &Path<'_>) -> ErrorList {
    name_is_dns_subdomain(name, false).into_iter().map(|message| Error::invalid(path, name, message)).collect()
}

fn validate_nodes(spec: &ResourceSliceSpec, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut set = Vec::new();
    match spec.node_name.as_deref() {
        None => {}
        Some("") => {
            errors.push(Error::invalid(&path.child("nodeName"), "", "must be either unset or set to a non-empty string"));
        }
        Some(name) => {
            set.push("`nodeName`");
            errors.extend(validate_node_name(name, &path.child("nodeName")));
        }
    }
    if let Some(selector) = &spec.node_selector {
        let path = path.child("nodeSelector");
        set.push("`nodeSelector`");
        errors.extend(node_selector::validate(selector, false, &path));
        if selector.node_selector_terms.len() != 1 {
            let shown = node_selector::as_go_prints(selector);
            let terms = match at(&shown, "/NodeSelectorTerms") {
                Value::Array(terms) if terms.is_empty() => Value::Null,
                terms => terms.clone(),
            };
            errors.push(Error::invalid(&path.child("nodeSelectorTerms"), terms, "must have exactly one node selector term"));
        }
    }
    for (field, name, value) in
        [("allNodes", "`allNodes`", spec.all_nodes), ("perDeviceNodeSelection", "`perDeviceNodeSelection`", spec.per_device_node_selection)]
    {
        match value {
            None => {}
            Some(true) => set.push(name),
            Some(false) => errors.push(Error::invalid(&path.child(field), false, "must be either unset or set to true")),
        }
    }
    let rule = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match set.as_slice() {
        [] => errors.push(Error::required(path, rule)),
        [_] => {}
        several => {
            errors.push(Error::invalid(path, format!("{{{}}}", several.join(", ")), format!("{rule}, but multiple fields are set")));
        }
    }
    errors
}

fn validate_devices(spec: &ResourceSliceSpec, old: Option<&ResourceSliceSpec>, path: &Path<'_>) -> ErrorList {
    let devices = spec.devices.as_deref().unwrap_or_default();
    let advanced = |device: &Device| [device.taints.as_ref().map(Vec::len), device.consumes_counters.as_ref().map(Vec::len)];
    let any_advanced = devices.iter().flat_map(advanced).flatten().any(|len| len > 0);
    let max = if any_advanced { MAX_ADVANCED_DEVICES } else { MAX_DEVICES };
    if let Some(error) = max_items(devices, max, path) {
        return vec![error];
    }
    let stored: BTreeMap<&str, &Device> =
        old.and_then(|old| old.devices.as_ref()).into_iter().flatten().rev().map(|device| (device.name.as_str(), device)).collect();
    let per_device = spec.per_device_node_selection == Some(true);
    let mut errors = ErrorList::new();
    for (i, device) in devices.iter().enumerate() {
        errors.extend(validate_device(device, stored.get(device.name.as_str()).copied(), per_device, &path.index(i)));
    }
    errors.extend(unique(devices, |device| device.name.clone(), |device| device.name.as_str().into(), path));
    errors
}

/// What is written of counters: that there are not too many. Any quantity will do.
pub fn validate_counters(counters: &BTreeMap<String, Counter>, path: &Path<'_>) -> Option<Error> {
    (counters.len() > MAX_COUNTERS).then(|| Error::too_many(path, counters.len(), MAX_COUNTERS))
}

/// What is declared of a set of counters: its name, under `field`, and theirs.
pub fn declared_counters(field: &str, set: &str, counters: &BTreeMap<String, Counter>, path: &Path<'_>) -> ErrorList {
    let (set_path, path) = (path.child(field), path.child("counters"));
    let mut errors = match set {
        "" => vec![Error::required(&set_path, "")],
        set => short_name(&set_path, set),
    };
    if counters.is_empty() {
        errors.push(Error::required(&path, ""));
    }
    errors.extend(counters.keys().flat_map(|name| short_name(&path, name)));
    errors
}

fn declared_counter_sets(sets: &[CounterSet], path: &Path<'_>) -> ErrorList {
    if let Some(error) = max_items(sets, MAX_COUNTER_SETS, path) {
        return vec![error];
    }
    let mut errors = unique(sets, |set| set.name.clone(), |set| written("io.k8s.api.resource.v1.CounterSet", set), path);
    for (i, set) in sets.iter().enumerate() {
        errors.extend(declared_counters("name", &set.name, &set.counters, &path.index(i)));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(more: Value) -> Value {
        let mut spec = json!({"driver": "d.io", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "spec": spec })
    }

    fn check(slice: &Value, old: Option<&Value>) -> Vec<String> {
        validate_slice(slice, old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_slice_is_on_one_kind_of_nodes() {
        assert_eq!(check(&slice(json!({"nodeName": "n"})), None), [""; 0]);
        let rule = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
        assert_eq!(check(&slice(json!({})), None), [format!("spec: Required value: {rule}")]);
        assert_eq!(
            check(&slice(json!({"nodeName": "n", "allNodes": true})), None),
            [format!(r#"spec: Invalid value: "{{`nodeName`, `allNodes`}}": {rule}, but multiple fields are set"#)]
        );
        assert_eq!(check(&slice(json!({"nodeName": "n", "allNodes": false})), None).len(), 1);
    }

    #[test]
    fn a_slice_stays_where_it_is() {
        let old = slice(json!({"nodeName": "n"}));
        assert_eq!(check(&slice(json!({"nodeName": "m"})), Some(&old)), [r#"spec.nodeName: Invalid value: "m": field is immutable"#]);
    }

    #[test]
    fn devices_and_counters_are_bounded_and_named() {
        let devices = |count: usize, more: Value| {
            let device = |i: usize| {
                let mut device = json!({"name": format!("d{i}")});
                device.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                device
            };
            slice(json!({"allNodes": true, "devices": (0..count).map(device).collect::<Vec<_>>()}))
        };
        assert_eq!(check(&devices(128, json!({})), None), [""; 0]);
        assert_eq!(check(&devices(129, json!({})), None), ["spec.devices: Too many: 129: must have at most 128 items"]);
        let tainted = json!({"taints": [{"key": "a", "effect": "None"}]});
        assert_eq!(check(&devices(65, tainted), None), ["spec.devices: Too many: 65: must have at most 64 items"]);
        assert_eq!(check(&devices(2, json!({"name": "a"})), None), [r#"spec.devices[1]: Duplicate value: "a""#]);
        let sets = slice(
            json!({"allNodes": true, "sharedCounters": [{"name": "s", "counters": {"A": {"value": "1"}}}, {"name": "s", "counters": {}}]}),
        );
        let errors = check(&sets, None);
        assert_eq!(errors[0], r#"spec.sharedCounters[1]: Duplicate value: {"name":"s"}"#);
        assert!(errors[1].starts_with(r#"spec.sharedCounters[0].counters: Invalid value: "A": "#));
        assert_eq!(errors[2..], ["spec.sharedCounters[1].counters: Required value"]);
    }
}
