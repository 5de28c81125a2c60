//! One device of a slice.

use apimachinery::field::{Error, ErrorList, Path};
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute};

use super::allocation_rules::{declared_binding, validate_binding};
use super::capacity_rules::validate_capacity;
use super::claim_rules::bounded;
use super::names::{shortened, validate_label, validate_qualified};
use super::slice_rules::{declared_counters, validate_counters, validate_node_name};
use super::taint_rules::{declared_taint, validate_taint};
use crate::registry::core::node_selector;
use crate::registry::declared::{max_items, unique, written};

const MAX_ATTRIBUTES_AND_CAPACITIES: usize = 32;
const MAX_ATTRIBUTE_VALUE: usize = 64;
const MAX_TAINTS: usize = 16;
const MAX_CONSUMED_SETS: usize = 2;

/// What is written of a device. What is unchanged since it was stored may break rules that came later.
pub fn validate_device(device: &Device, old: Option<&Device>, per_device: bool, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_label(&device.name, &path.child("name"));
    let count = device.attributes.as_ref().map_or(0, |map| map.len()) + device.capacity.as_ref().map_or(0, |map| map.len());
    if count > MAX_ATTRIBUTES_AND_CAPACITIES {
        let detail = format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES_AND_CAPACITIES}");
        errors.push(Error::invalid(path, count, detail));
    }
    let attributes_path = path.child("attributes");
    for (name, attribute) in device.attributes.iter().flatten() {
        errors.extend(validate_qualified(name, &attributes_path));
        errors.extend(validate_attribute(attribute, &attributes_path.key(&shortened(name))));
    }
    if old.is_none_or(|old| old.capacity != device.capacity) {
        let path = path.child("capacity");
        let shared = device.allow_multiple_allocations == Some(true);
        for (name, capacity) in device.capacity.iter().flatten() {
            errors.extend(validate_qualified(name, &path));
            errors.extend(validate_capacity(capacity, shared, &path.key(&shortened(name))));
        }
    }
    if old.is_none_or(|old| old.taints != device.taints) {
        let (taints, path) = (device.taints.as_deref().unwrap_or_default(), path.child("taints"));
        match max_items(taints, MAX_TAINTS, &path) {
            Some(error) => errors.push(error),
            None => errors.extend(taints.iter().enumerate().flat_map(|(i, taint)| validate_taint(taint, &path.index(i)))),
        }
    }
    let consumed_path = path.child("consumesCounters");
    for (i, consumed) in bounded(device.consumes_counters.as_ref(), MAX_CONSUMED_SETS).iter().enumerate() {
        errors.extend(validate_counters(&consumed.counters, &consumed_path.index(i).child("counters")));
    }
    errors.extend(validate_nodes(device, per_device, path));
    errors.extend(validate_binding(device.binding_conditions.as_ref(), device.binding_failure_conditions.as_ref(), path));
    errors
}

fn validate_nodes(device: &Device, per_device: bool, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if !per_device {
        if device.node_name.is_some() || device.node_selector.is_some() || device.all_nodes.is_some() {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the \
                          ResourceSlice spec";
            errors.push(Error::invalid(path, serde_json::Value::Null, detail));
        }
        return errors;
    }
    let mut set = Vec::new();
    match device.node_name.as_deref() {
        None => {}
        Some("") => errors.push(Error::invalid(&path.child("nodeName"), "", "must not be empty")),
        Some(name) => {
            set.push("`nodeName`");
            errors.extend(validate_node_name(name, &path.child("nodeName")));
        }
    }
    if let Some(selector) = &device.node_selector {
        set.push("`nodeSelector`");
        errors.extend(node_selector::validate(selector, false, &path.child("nodeSelector")));
    }
    match device.all_nodes {
        None => {}
        Some(true) => set.push("`allNodes`"),
        Some(false) => errors.push(Error::invalid(&path.child("allNodes"), false, "must be either unset or set to true")),
    }
    let rule = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the \
                ResourceSlice spec";
    match set.as_slice() {
        [] => errors.push(Error::required(path, rule)),
        [_] => {}
        several => errors.push(Error::invalid(path, format!("{{{}}}", several.join(", ")), rule)),
    }
    errors
}

/// Lists of values are dropped before this, and so are not looked at.
fn validate_attribute(attribute: &DeviceAttribute, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if attribute.string.as_ref().is_some_and(|text| text.len() > MAX_ATTRIBUTE_VALUE) {
        errors.push(Error::too_long(&path.child("string"), MAX_ATTRIBUTE_VALUE));
    }
    if let Some(version) = &attribute.version {
        let path = path.child("version");
        if !is_semver(version) {
            errors.push(Error::invalid(&path, version.as_str(), "must be a string compatible with semver.org spec 2.0.0"));
        }
        if version.len() > MAX_ATTRIBUTE_VALUE {
            errors.push(Error::too_long(&path, MAX_ATTRIBUTE_VALUE));
        }
    }
    errors
}

/// `1.2.3-alpha.1+build.2`: numbers without leading zeros, then dotted identifiers.
fn is_semver(version: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    let identifier = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let (rest, build) = version.split_once('+').map_or((version, None), |(rest, build)| (rest, Some(build)));
    let (core, release) = rest.split_once('-').map_or((rest, None), |(core, release)| (core, Some(release)));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && release.is_none_or(|release| {
            release.split('.').all(|part| identifier(part) && (number(part) || part.bytes().any(|b| !b.is_ascii_digit())))
        })
        && build.is_none_or(|build| build.split('.').all(identifier))
}

/// What is declared of a device.
pub fn declared_device(device: &Device, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let attributes_path = path.child("attributes");
    for (name, attribute) in device.attributes.iter().flatten() {
        errors.extend(declared_attribute(attribute, &attributes_path.key(name)));
    }
    let (consumed, consumed_path) = (device.consumes_counters.as_deref().unwrap_or_default(), path.child("consumesCounters"));
    match max_items(consumed, MAX_CONSUMED_SETS, &consumed_path) {
        Some(error) => errors.push(error),
        None => {
            errors.extend(unique(
                consumed,
                |set| set.counter_set.clone(),
                |set| written("io.k8s.api.resource.v1.DeviceCounterConsumption", set),
                &consumed_path,
            ));
            for (i, set) in consumed.iter().enumerate() {
                errors.extend(declared_counters("counterSet", &set.counter_set, &set.counters, &consumed_path.index(i)));
            }
        }
    }
    let taints_path = path.child("taints");
    errors.extend(device.taints.iter().flatten().enumerate().filter_map(|(i, taint)| declared_taint(taint, &taints_path.index(i))));
    errors.extend(declared_binding(device.binding_conditions.as_ref(), device.binding_failure_conditions.as_ref(), path));
    errors
}

/// An attribute has one value.
fn declared_attribute(attribute: &DeviceAttribute, path: &Path<'_>) -> Option<Error> {
    const MEMBERS: &str = "`int`, `bool`, `string`, `version`, `ints`, `bools`, `strings`, `versions`";
    let set: Vec<&str> = [
        attribute.int.is_some().then_some("int"),
        attribute.bool.is_some().then_some("bool"),
        attribute.string.is_some().then_some("string"),
        attribute.version.is_some().then_some("version"),
    ]
    .into_iter()
    .flatten()
    .collect();
    match set.as_slice() {
        [] => Some(Error::invalid(path, "", format!("must specify one of: {MEMBERS}"))),
        [_] => None,
        several => Some(Error::invalid(path, format!("{{{}}}", several.join(", ")), format!("must specify exactly one of: {MEMBERS}"))),
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::{Value, json};

    use super::*;

    fn check(device: Value, per_device: bool) -> Vec<String> {
        let (device, path) = (view(&device), Path::new("d"));
        let mut errors = validate_device(&device, None, per_device, &path);
        errors.extend(declared_device(&device, &path));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn attributes_have_one_value() {
        let attributes = json!({"name": "a", "attributes": {
            "a": {"int": 1}, "d.io/b": {"bool": false}, "c": {"version": "1.2.3-a.1+b"}}, "capacity": {"m": {"value": "1Gi"}}});
        assert_eq!(check(attributes, false), [""; 0]);
        let members = "`int`, `bool`, `string`, `version`, `ints`, `bools`, `strings`, `versions`";
        assert_eq!(
            check(json!({"name": "a", "attributes": {"a": {}, "b": {"int": 1, "string": "x"}, "c": {"version": "01.2.3"}}}), false),
            [
                r#"d.attributes[c].version: Invalid value: "01.2.3": must be a string compatible with semver.org spec 2.0.0"#.to_owned(),
                format!(r#"d.attributes[a]: Invalid value: "": must specify one of: {members}"#),
                format!(r#"d.attributes[b]: Invalid value: "{{int, string}}": must specify exactly one of: {members}"#),
            ]
        );
        let many: serde_json::Map<String, Value> = (0..33).map(|i| (format!("a{i}"), json!({"int": i}))).collect();
        assert_eq!(
            check(json!({"name": "a", "attributes": many}), false),
            ["d: Invalid value: 33: the total number of attributes and capacities must not exceed 32"]
        );
    }

    #[test]
    fn versions_have_three_numbers() {
        for good in ["0.0.0", "1.2.3-0a.1", "1.2.3+001", "1.2.3-a-b+c"] {
            assert!(is_semver(good), "{good}");
        }
        for bad in ["", "1.2", "1.2.3-", "1.2.3-01", "1.2.3+", "v1.2.3", "1.2.3+a+b"] {
            assert!(!is_semver(bad), "{bad}");
        }
    }

    #[test]
    fn devices_name_their_nodes_where_the_slice_says_so() {
        assert_eq!(check(json!({"name": "a", "nodeName": "n"}), true), [""; 0]);
        assert!(check(json!({"name": "a", "nodeName": "n"}), false)[0].starts_with("d: Invalid value: null: `nodeName`, "));
        assert!(check(json!({"name": "a"}), true)[0].starts_with("d: Required value: exactly one of "));
        let both = check(json!({"name": "a", "nodeName": "n", "allNodes": true}), true);
        assert!(both[0].starts_with(r#"d: Invalid value: "{`nodeName`, `allNodes`}": exactly one of"#));
    }
}
