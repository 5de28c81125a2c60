//! Claims for devices: what is declared at their types.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{long_name, resource_fully_qualified_name};
use k8s_openapi::api::resource::v1::{DeviceClaim, DeviceRequest, DeviceSelector, DeviceToleration};
use serde_json::Value;

use super::claim_rules::{MAX_ALTERNATIVES, MAX_CONFIGS, MAX_CONSTRAINTS, MAX_REQUESTS};
use super::config_rules::{MAX_SELECTORS, declared_config};
use super::taint_rules::declared_toleration;
use crate::registry::declared::{max_items, unique, written};

const MODES: [&str; 2] = ["All", "ExactCount"];

/// Requests, constraints and configuration.
pub fn declared_claim(claim: &DeviceClaim, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (requests, requests_path) = (claim.requests.as_deref().unwrap_or_default(), path.child("requests"));
    match max_items(requests, MAX_REQUESTS, &requests_path) {
        Some(error) => errors.push(error),
        None => {
            errors.extend(unique(
                requests,
                |request| request.name.clone(),
                |request| written("io.k8s.api.resource.v1.DeviceRequest", request),
                &requests_path,
            ));
            for (i, request) in requests.iter().enumerate() {
                errors.extend(declared_request(request, &requests_path.index(i)));
            }
        }
    }
    let (constraints, constraints_path) = (claim.constraints.as_deref().unwrap_or_default(), path.child("constraints"));
    match max_items(constraints, MAX_CONSTRAINTS, &constraints_path) {
        Some(error) => errors.push(error),
        None => {
            for (i, constraint) in constraints.iter().enumerate() {
                let path = constraints_path.index(i);
                errors.extend(declared_references(constraint.requests.as_ref(), &path.child("requests")));
                for (field, name) in
                    [("matchAttribute", &constraint.match_attribute), ("distinctAttribute", &constraint.distinct_attribute)]
                {
                    let path = path.child(field);
                    errors.extend(name.iter().flat_map(|name| resource_fully_qualified_name(&path, name)));
                }
            }
        }
    }
    let (configs, configs_path) = (claim.config.as_deref().unwrap_or_default(), path.child("config"));
    match max_items(configs, MAX_CONFIGS, &configs_path) {
        Some(error) => errors.push(error),
        None => {
            for (i, config) in configs.iter().enumerate() {
                let path = configs_path.index(i);
                errors.extend(declared_references(config.requests.as_ref(), &path.child("requests")));
                errors.extend(declared_config(config.opaque.as_ref(), &path));
            }
        }
    }
    errors
}

/// Names of requests: not too many, and none twice.
pub fn declared_references(requests: Option<&Vec<String>>, path: &Path<'_>) -> ErrorList {
    let requests = requests.map_or(&[][..], Vec::as_slice);
    match max_items(requests, MAX_REQUESTS, path) {
        Some(error) => vec![error],
        None => unique(requests, Clone::clone, |name| Value::from(name.as_str()), path),
    }
}

fn declared_request(request: &DeviceRequest, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(exactly) = &request.exactly {
        let mode = exactly.allocation_mode.as_deref();
        errors.extend(declared_choice(exactly.selectors.as_ref(), mode, exactly.tolerations.as_ref(), &path.child("exactly")));
    }
    let (alternatives, path) = (request.first_available.as_deref().unwrap_or_default(), path.child("firstAvailable"));
    if let Some(error) = max_items(alternatives, MAX_ALTERNATIVES, &path) {
        errors.push(error);
        return errors;
    }
    errors.extend(unique(
        alternatives,
        |alternative| alternative.name.clone(),
        |alternative| written("io.k8s.api.resource.v1.DeviceSubRequest", alternative),
        &path,
    ));
    for (i, alternative) in alternatives.iter().enumerate() {
        let path = path.index(i);
        let class_path = path.child("deviceClassName");
        match alternative.device_class_name.as_str() {
            "" => errors.push(Error::required(&class_path, "")),
            class => errors.extend(long_name(&class_path, class)),
        }
        let mode = alternative.allocation_mode.as_deref();
        errors.extend(declared_choice(alternative.selectors.as_ref(), mode, alternative.tolerations.as_ref(), &path));
    }
    errors
}

fn declared_choice(
    selectors: Option<&Vec<DeviceSelector>>,
    mode: Option<&str>,
    tolerations: Option<&Vec<DeviceToleration>>,
    path: &Path<'_>,
) -> ErrorList {
    let selectors = selectors.map_or(&[][..], Vec::as_slice);
    let mut errors: ErrorList = max_items(selectors, MAX_SELECTORS, &path.child("selectors")).into_iter().collect();
    if let Some(mode) = mode.filter(|mode| !mode.is_empty() && !MODES.contains(mode)) {
        errors.push(Error::not_supported(&path.child("allocationMode"), mode, &MODES));
    }
    let path = path.child("tolerations");
    for (i, toleration) in tolerations.into_iter().flatten().enumerate() {
        errors.extend(declared_toleration(toleration, &path.index(i)));
    }
    errors
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::json;

    use super::*;

    fn check(claim: Value) -> Vec<String> {
        declared_claim(&view(&claim), &Path::new("d")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lists_are_bounded_and_names_stand_once() {
        let request = |name: usize| json!({"name": name.to_string()});
        assert_eq!(
            check(json!({"requests": (0..33).map(request).collect::<Vec<_>>()})),
            ["d.requests: Too many: 33: must have at most 32 items"]
        );
        assert_eq!(check(json!({"requests": [request(1), request(1)]})), [r#"d.requests[1]: Duplicate value: {"name":"1"}"#]);
        assert_eq!(check(json!({"config": [{"requests": ["a", "a"]}]})), [r#"d.config[0].requests[1]: Duplicate value: "a""#]);
    }

    #[test]
    fn choices_have_a_class_and_a_known_mode() {
        assert_eq!(
            check(json!({"requests": [{"name": "r", "firstAvailable": [{"name": "a", "allocationMode": "Some", "tolerations": [{}]}]}]})),
            [
                "d.requests[0].firstAvailable[0].deviceClassName: Required value",
                r#"d.requests[0].firstAvailable[0].allocationMode: Unsupported value: "Some": supported values: "All", "ExactCount""#,
                "d.requests[0].firstAvailable[0].tolerations[0].operator: Required value",
            ]
        );
        assert_eq!(check(json!({"constraints": [{"matchAttribute": "a"}]})).len(), 1);
    }
}
