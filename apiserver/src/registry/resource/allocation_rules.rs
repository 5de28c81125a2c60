//! What a scheduler allocates for a claim, when it does.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{resource_pool_name, uuid, validate_label_name};
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceAllocationConfiguration, DeviceRequestAllocationResult};

use super::claim_declared::declared_references;
use super::claim_rules::{MAX_CONFIGS, bounded, validate_references};
use super::config_rules::{Age, declared_config, validate_config};
use super::names::{RequestNames, declared_driver, validate_label};
use super::taint_rules::{declared_toleration, validate_toleration};
use crate::registry::core::node_selector;
use crate::registry::declared::max_items;

const MAX_RESULTS: usize = 32;
/// Those of the claim and those of its classes.
const MAX_ALL_CONFIGS: usize = 2 * MAX_CONFIGS;
const MAX_BINDING_CONDITIONS: usize = 4;
const SOURCES: [&str; 2] = ["FromClaim", "FromClass"];

/// What is written of an allocation.
pub fn validate_allocation(allocation: &AllocationResult, names: &RequestNames, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(devices) = &allocation.devices {
        let path = path.child("devices");
        let results_path = path.child("results");
        for (i, result) in bounded(devices.results.as_ref(), MAX_RESULTS).iter().enumerate() {
            errors.extend(validate_result(result, names, &results_path.index(i)));
        }
        let configs_path = path.child("config");
        for (i, config) in bounded(devices.config.as_ref(), MAX_ALL_CONFIGS).iter().enumerate() {
            let path = configs_path.index(i);
            errors.extend(validate_references(config.requests.as_ref(), names, &path.child("requests")));
            errors.extend(validate_config(config.opaque.as_ref(), Age::New, &path));
        }
    }
    if let Some(selector) = &allocation.node_selector {
        errors.extend(node_selector::validate(selector, false, &path.child("nodeSelector")));
    }
    errors
}

fn validate_result(result: &DeviceRequestAllocationResult, names: &RequestNames, path: &Path<'_>) -> ErrorList {
    let mut errors = names.validate_reference(&result.request, &path.child("request"));
    errors.extend(validate_label(&result.device, &path.child("device")));
    errors.extend(validate_binding(result.binding_conditions.as_ref(), result.binding_failure_conditions.as_ref(), path));
    let path = path.child("tolerations");
    for (i, toleration) in result.tolerations.iter().flatten().enumerate() {
        errors.extend(validate_toleration(toleration, &path.index(i)));
    }
    errors
}

/// What is declared of an allocation.
pub fn declared_allocation(allocation: &AllocationResult, path: &Path<'_>) -> ErrorList {
    let Some(devices) = &allocation.devices else { return ErrorList::new() };
    let mut errors = ErrorList::new();
    let path = path.child("devices");
    let (results, results_path) = (devices.results.as_deref().unwrap_or_default(), path.child("results"));
    match max_items(results, MAX_RESULTS, &results_path) {
        Some(error) => errors.push(error),
        None => errors.extend(results.iter().enumerate().flat_map(|(i, result)| declared_result(result, &results_path.index(i)))),
    }
    let (configs, configs_path) = (devices.config.as_deref().unwrap_or_default(), path.child("config"));
    match max_items(configs, MAX_ALL_CONFIGS, &configs_path) {
        Some(error) => errors.push(error),
        None => errors.extend(configs.iter().enumerate().flat_map(|(i, config)| declared_source(config, &configs_path.index(i)))),
    }
    errors
}

fn declared_result(result: &DeviceRequestAllocationResult, path: &Path<'_>) -> ErrorList {
    let mut errors = declared_driver(&result.driver, &path.child("driver"));
    let pool_path = path.child("pool");
    match result.pool.as_str() {
        "" => errors.push(Error::required(&pool_path, "")),
        pool => errors.extend(resource_pool_name(&pool_path, pool)),
    }
    let tolerations_path = path.child("tolerations");
    for (i, toleration) in result.tolerations.iter().flatten().enumerate() {
        errors.extend(declared_toleration(toleration, &tolerations_path.index(i)));
    }
    errors.extend(declared_binding(result.binding_conditions.as_ref(), result.binding_failure_conditions.as_ref(), path));
    errors.extend(result.share_id.iter().flat_map(|id| uuid(&path.child("shareID"), id)));
    errors
}

fn declared_source(config: &DeviceAllocationConfiguration, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let source_path = path.child("source");
    match config.source.as_str() {
        "" => errors.push(Error::required(&source_path, "")),
        known if SOURCES.contains(&known) => {}
        other => errors.push(Error::not_supported(&source_path, other, &SOURCES)),
    }
    errors.extend(declared_references(config.requests.as_ref(), &path.child("requests")));
    errors.extend(declared_config(config.opaque.as_ref(), path));
    errors
}

/// Conditions that must hold, and must not, before a pod is bound: what is written of them.
pub fn validate_binding(conditions: Option<&Vec<String>>, failures: Option<&Vec<String>>, path: &Path<'_>) -> ErrorList {
    let all = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let (names, failed) = (all(conditions), all(failures));
    let (conditions_path, failures_path) = (path.child("bindingConditions"), path.child("bindingFailureConditions"));
    let mut errors = ErrorList::new();
    for (list, path) in [(conditions, &conditions_path), (failures, &failures_path)] {
        let items = bounded(list, MAX_BINDING_CONDITIONS).iter().enumerate();
        errors.extend(items.flat_map(|(i, name)| validate_label_name(name, &path.index(i))));
    }
    for (i, name) in names.iter().enumerate() {
        if names.iter().take(i).any(|earlier| earlier == name) {
            errors.push(Error::duplicate(&conditions_path.index(i), name.as_str()));
        }
    }
    for (i, name) in failed.iter().enumerate() {
        let path = failures_path.index(i);
        if failed.iter().take(i).any(|earlier| earlier == name) {
            errors.push(Error::duplicate(&path, name.as_str()));
        }
        if names.contains(name) {
            errors.push(Error::invalid(&path, name.as_str(), "bindingFailureConditions must not overlap with bindingConditions"));
        }
    }
    let alone = |path: &Path<'_>, shown: Option<&Vec<String>>, detail| Error::invalid(path, serde_json::json!(shown), detail);
    if names.is_empty() && !failed.is_empty() {
        errors.push(alone(&conditions_path, conditions, "bindingConditions are required to use bindingFailureConditions"));
    }
    if failed.is_empty() && !names.is_empty() {
        errors.push(alone(&failures_path, failures, "bindingFailureConditions are required to use bindingConditions"));
    }
    errors
}

/// What is declared of these conditions.
pub fn declared_binding(conditions: Option<&Vec<String>>, failures: Option<&Vec<String>>, path: &Path<'_>) -> ErrorList {
    let check = |list: Option<&Vec<String>>, field: &str| {
        max_items(list.map_or(&[][..], Vec::as_slice), MAX_BINDING_CONDITIONS, &path.child(field))
    };
    check(conditions, "bindingConditions").into_iter().chain(check(failures, "bindingFailureConditions")).collect()
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::{Value, json};

    use super::*;

    fn check(allocation: Value) -> Vec<String> {
        let names = RequestNames::of(&view(&json!({"requests": [{"name": "r"}]})));
        let (allocation, path) = (view(&allocation), Path::new("a"));
        let mut errors = validate_allocation(&allocation, &names, &path);
        errors.extend(declared_allocation(&allocation, &path));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn results_are_devices_for_requests() {
        let result = json!({"request": "r", "driver": "d.io", "pool": "p", "device": "a"});
        assert_eq!(check(json!({"devices": {"results": [result]}})), [""; 0]);
        let errors = check(json!({"devices": {"results": [{"request": "x", "device": "a", "shareID": "1"}]}}));
        assert!(errors[0].starts_with("a.devices.results[0].request: Invalid value"));
        assert_eq!(errors[1..3], ["a.devices.results[0].driver: Required value", "a.devices.results[0].pool: Required value"]);
        assert!(errors[3].starts_with("a.devices.results[0].shareID: Invalid value"));
    }

    #[test]
    fn configuration_has_a_source() {
        let config = |source: &str| json!({"devices": {"config": [{"source": source, "opaque": {"driver": "d.io", "parameters": {}}}]}});
        assert_eq!(check(config("FromClass")), [""; 0]);
        assert_eq!(
            check(config("x")),
            [r#"a.devices.config[0].source: Unsupported value: "x": supported values: "FromClaim", "FromClass""#]
        );
    }

    #[test]
    fn binding_wants_both_lists_and_no_name_twice() {
        let check = |conditions: &[&str], failures: &[&str]| -> Vec<String> {
            let list = |names: &[&str]| (!names.is_empty()).then(|| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
            let (conditions, failures) = (list(conditions), list(failures));
            validate_binding(conditions.as_ref(), failures.as_ref(), &Path::new("d")).iter().map(ToString::to_string).collect()
        };
        assert_eq!(check(&["a"], &["b"]), [""; 0]);
        assert_eq!(
            check(&["a"], &[]),
            ["d.bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions"]
        );
        assert_eq!(check(&["a", "a"], &["a"]).len(), 2);
    }
}
