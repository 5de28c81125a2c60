//! Claims for devices: what is written of them.

use apimachinery::field::{Error, ErrorList, Path};
use k8s_openapi::api::resource::v1::{DeviceClaim, DeviceConstraint, DeviceRequest, DeviceSubRequest, DeviceToleration};

use super::config_rules::{Age, validate_config, validate_selectors};
use super::names::{RequestNames, validate_class, validate_label};
use super::taint_rules::validate_toleration;

pub const MAX_REQUESTS: usize = 32;
pub const MAX_CONSTRAINTS: usize = 32;
pub const MAX_CONFIGS: usize = 32;
pub const MAX_ALTERNATIVES: usize = 8;

/// Items to look into: those of a list that is not too long.
pub fn bounded<T>(items: Option<&Vec<T>>, max: usize) -> &[T] {
    items.map_or(&[][..], Vec::as_slice).get(..).filter(|items| items.len() <= max).unwrap_or_default()
}

/// Requests, constraints and configuration.
pub fn validate_claim(claim: &DeviceClaim, path: &Path<'_>) -> ErrorList {
    let names = RequestNames::of(claim);
    let mut errors = ErrorList::new();
    let requests = path.child("requests");
    for (i, request) in bounded(claim.requests.as_ref(), MAX_REQUESTS).iter().enumerate() {
        errors.extend(validate_request(request, &requests.index(i)));
    }
    let constraints = path.child("constraints");
    for (i, constraint) in bounded(claim.constraints.as_ref(), MAX_CONSTRAINTS).iter().enumerate() {
        errors.extend(validate_constraint(constraint, &names, &constraints.index(i)));
    }
    let configs = path.child("config");
    for (i, config) in bounded(claim.config.as_ref(), MAX_CONFIGS).iter().enumerate() {
        let path = configs.index(i);
        errors.extend(validate_references(config.requests.as_ref(), &names, &path.child("requests")));
        errors.extend(validate_config(config.opaque.as_ref(), Age::New, &path));
    }
    errors
}

/// Names of requests in this claim.
pub fn validate_references(requests: Option<&Vec<String>>, names: &RequestNames, path: &Path<'_>) -> ErrorList {
    let requests = bounded(requests, MAX_REQUESTS).iter().enumerate();
    requests.flat_map(|(i, name)| names.validate_reference(name, &path.index(i))).collect()
}

fn validate_request(request: &DeviceRequest, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_label(&request.name, &path.child("name"));
    let alternatives = request.first_available.as_ref().filter(|alternatives| !alternatives.is_empty());
    match (&request.exactly, alternatives) {
        (None, None) => errors.push(Error::required(path, "exactly one of `exactly` or `firstAvailable` is required")),
        (Some(_), Some(_)) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(Error::invalid(path, serde_json::Value::Null, detail));
        }
        (None, alternatives) => {
            let path = path.child("firstAvailable");
            for (i, alternative) in bounded(alternatives, MAX_ALTERNATIVES).iter().enumerate() {
                errors.extend(validate_alternative(alternative, &path.index(i)));
            }
        }
        (Some(exactly), None) => {
            let path = path.child("exactly");
            errors.extend(validate_class(&exactly.device_class_name, &path.child("deviceClassName")));
            let selectors = exactly.selectors.as_deref().unwrap_or_default();
            errors.extend(validate_selectors(selectors, Age::New, &path.child("selectors")));
            errors.extend(validate_count(exactly.allocation_mode.as_deref(), exactly.count, &path));
            errors.extend(validate_tolerations(exactly.tolerations.as_deref(), &path));
        }
    }
    errors
}

/// The class of an alternative is declared.
fn validate_alternative(alternative: &DeviceSubRequest, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_label(&alternative.name, &path.child("name"));
    let selectors = alternative.selectors.as_deref().unwrap_or_default();
    errors.extend(validate_selectors(selectors, Age::New, &path.child("selectors")));
    errors.extend(validate_count(alternative.allocation_mode.as_deref(), alternative.count, path));
    errors.extend(validate_tolerations(alternative.tolerations.as_deref(), path));
    errors
}

/// Unknown modes are declared.
fn validate_count(mode: Option<&str>, count: Option<i64>, path: &Path<'_>) -> Option<Error> {
    let (count, path) = (count.unwrap_or(0), path.child("count"));
    match mode {
        Some("All") if count != 0 => Some(Error::invalid(&path, count, "must not be specified when allocationMode is 'All'")),
        Some("ExactCount") if count <= 0 => Some(Error::invalid(&path, count, "must be greater than zero")),
        _ => None,
    }
}

fn validate_tolerations(tolerations: Option<&[DeviceToleration]>, path: &Path<'_>) -> ErrorList {
    let path = path.child("tolerations");
    tolerations.unwrap_or_default().iter().enumerate().flat_map(|(i, toleration)| validate_toleration(toleration, &path.index(i))).collect()
}

/// The attribute's name is declared.
fn validate_constraint(constraint: &DeviceConstraint, names: &RequestNames, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_references(constraint.requests.as_ref(), names, &path.child("requests"));
    if constraint.match_attribute.is_none() && constraint.distinct_attribute.is_none() {
        let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
        errors.push(Error::required(path, detail));
    }
    errors
}

/// A template's metadata is labels and annotations.
pub fn validate_template_metadata(metadata: &serde_json::Value, path: &Path<'_>) -> ErrorList {
    use apimachinery::validation::{validate_annotations, validate_labels};
    use apimachinery::view::view;

    let map = |field: &str| match metadata.get(field) {
        Some(entries) if entries.is_object() => view(entries),
        _ => std::collections::BTreeMap::new(),
    };
    let mut errors = validate_annotations(&map("annotations"), &path.child("annotations"));
    errors.extend(validate_labels(&map("labels"), &path.child("labels")));
    // A field's path is its Go name with the first letter in lower case.
    let others = [
        ("name", "name"),
        ("generateName", "generateName"),
        ("namespace", "namespace"),
        ("selfLink", "selfLink"),
        ("uid", "uID"),
        ("resourceVersion", "resourceVersion"),
        ("generation", "generation"),
        ("creationTimestamp", "creationTimestamp"),
        ("deletionTimestamp", "deletionTimestamp"),
        ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
        ("ownerReferences", "ownerReferences"),
        ("finalizers", "finalizers"),
        ("managedFields", "managedFields"),
    ];
    let set = others.iter().filter(|(field, _)| metadata.get(field).is_some_and(|value| !value.is_null()));
    errors.extend(set.map(|(_, shown)| Error::forbidden(&path.child(shown), "cannot be set")));
    errors
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::{Value, json};

    use super::*;

    fn check(claim: Value) -> Vec<String> {
        validate_claim(&view(&claim), &Path::new("d")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_is_for_one_thing_or_a_list_of_choices() {
        let exactly = json!({"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1});
        assert!(check(json!({"requests": [{"name": "r", "exactly": exactly}]})).is_empty());
        assert_eq!(
            check(json!({"requests": [{"name": "r"}, {"name": "s", "exactly": exactly, "firstAvailable": [{}]}]})),
            [
                "d.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "d.requests[1]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            ]
        );
        assert_eq!(
            check(json!({"requests": [{"name": "r", "exactly": {"allocationMode": "All", "count": 2}}]})),
            [
                "d.requests[0].exactly.deviceClassName: Required value",
                "d.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
            ]
        );
    }

    #[test]
    fn constraints_are_about_requests_and_an_attribute() {
        let errors = check(json!({"constraints": [{"requests": ["x"]}]}));
        assert!(errors[0].starts_with(r#"d.constraints[0].requests[0]: Invalid value: "x": must be the name of a request"#));
        assert!(errors[1].starts_with(r#"d.constraints[0]: Required value: exactly one of "matchAttribute" or "distinctAttribute""#));
    }

    #[test]
    fn templates_have_labels_and_annotations_alone() {
        let errors = validate_template_metadata(&json!({"name": "a", "uid": "u", "labels": {"a": "b"}}), &Path::new("m"));
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["m.name: Forbidden: cannot be set", "m.uID: Forbidden: cannot be set"]);
    }
}
