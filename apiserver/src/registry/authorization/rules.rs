//! The rules of access reviews: what is asked about, and of whom.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{LabelSelectorOptions, validate_label_selector_requirement};
use apimachinery::view::view;
use k8s_openapi::api::authorization::v1::ResourceAttributes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::FieldSelectorRequirement;
use serde_json::Value;

use crate::registry::go_struct::{Form, Shape, show};
use crate::registry::read::{at, list_at, str_at};

/// Which review it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Subject,
    SelfSubject,
    Local,
}

/// A newer client may ask with operators that are not known here.
const OPTIONS: LabelSelectorOptions =
    LabelSelectorOptions { allow_invalid_label_value_in_selector: false, allow_unknown_operator_in_requirement: true };

static NON_RESOURCE: Shape = Shape(&[("Path", "path", Form::Text), ("Verb", "verb", Form::Text)]);

/// A review as a whole.
pub fn validate(review: &Value, kind: Kind) -> ErrorList {
    let (resource, other) = (at(review, "/spec/resourceAttributes"), at(review, "/spec/nonResourceAttributes"));
    let path = Path::new("spec");
    let shown = || if other.is_null() { Value::Null } else { show(other, &NON_RESOURCE) };
    let mut errors = ErrorList::new();
    if resource.is_null() == other.is_null() {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(Error::invalid(&path, shown(), detail));
    }
    if kind != Kind::SelfSubject && str_at(review, "/spec/user").is_empty() && list_at(review, "/spec/groups").is_empty() {
        errors.push(Error::invalid(&path.child("user"), "", "at least one of user or group must be specified"));
    }
    if !resource.is_null() {
        errors.extend(validate_resource(&view(resource), &path.child("resourceAttributes")));
    }
    errors.extend(validate_metadata(at(review, "/metadata"), kind));
    if kind == Kind::Local {
        let namespace = str_at(resource, "/namespace");
        if !resource.is_null() && namespace != str_at(review, "/metadata/namespace") {
            let path = Path::new("spec.resourceAttributes.namespace");
            errors.push(Error::invalid(&path, namespace, "must match metadata.namespace"));
        }
        if !other.is_null() {
            errors.push(Error::invalid(&path.child("nonResourceAttributes"), shown(), "disallowed on this kind of request"));
        }
    }
    errors
}

/// A question has no metadata but what the server itself has put there.
fn validate_metadata(metadata: &Value, kind: Kind) -> Option<Error> {
    let allowed: &[&str] = if kind == Kind::Local { &["managedFields", "namespace"] } else { &["managedFields"] };
    let mut fields = metadata.as_object().into_iter().flatten();
    let empty = fields.all(|(field, value)| value.is_null() || allowed.contains(&field.as_str()));
    let detail = if kind == Kind::Local { "must be empty except for namespace" } else { "must be empty" };
    (!empty).then(|| Error::invalid(&Path::new("metadata"), metadata.clone(), detail))
}

fn validate_resource(attributes: &ResourceAttributes, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(selector) = &attributes.field_selector {
        let path = path.child("fieldSelector");
        let requirements = selector.requirements.as_deref().unwrap_or_default();
        errors.extend(validate_forms(selector.raw_selector.as_deref().unwrap_or(""), requirements.is_empty(), &path));
        let path = path.child("requirements");
        for (i, requirement) in requirements.iter().enumerate() {
            errors.extend(validate_field_requirement(requirement, &path.index(i)));
        }
    }
    if let Some(selector) = &attributes.label_selector {
        let path = path.child("labelSelector");
        let requirements = selector.requirements.as_deref().unwrap_or_default();
        errors.extend(validate_forms(selector.raw_selector.as_deref().unwrap_or(""), requirements.is_empty(), &path));
        let path = path.child("requirements");
        for (i, requirement) in requirements.iter().enumerate() {
            errors.extend(validate_label_selector_requirement(requirement, OPTIONS, &path.index(i)));
        }
    }
    errors
}

/// A selector is text or requirements.
fn validate_forms(raw: &str, no_requirements: bool, path: &Path<'_>) -> Option<Error> {
    match (raw, no_requirements) {
        ("", true) => {
            let detail = format!("when {path} is specified, requirements or rawSelector is required");
            Some(Error::required(&path.child("requirements"), detail))
        }
        ("", false) | (_, true) => None,
        (raw, false) => Some(Error::invalid(&path.child("rawSelector"), raw, "may not specified at the same time as requirements")),
    }
}

fn validate_field_requirement(requirement: &FieldSelectorRequirement, path: &Path<'_>) -> ErrorList {
    let has_values = requirement.values.as_ref().is_some_and(|values| !values.is_empty());
    let values_path = path.child("values");
    let mut errors = ErrorList::new();
    if requirement.key.is_empty() {
        errors.push(Error::required(&path.child("key"), "must be specified"));
    }
    match requirement.operator.as_str() {
        "In" | "NotIn" if !has_values => {
            errors.push(Error::required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if has_values => {
            errors.push(Error::forbidden(&values_path, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
        }
        _ => {}
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(review: Value, kind: Kind) -> Vec<String> {
        validate(&review, kind).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_review_asks_about_one_thing_of_someone() {
        let list_pods = json!({"verb": "list", "resource": "pods"});
        assert!(check(json!({"spec": {"resourceAttributes": list_pods}}), Kind::SelfSubject).is_empty());
        assert_eq!(
            check(json!({"spec": {"resourceAttributes": list_pods, "nonResourceAttributes": {"path": "/", "verb": "get"}}}), Kind::Subject),
            [
                r#"spec: Invalid value: {"Path":"/","Verb":"get"}: exactly one of nonResourceAttributes or resourceAttributes must be specified"#,
                r#"spec.user: Invalid value: "": at least one of user or group must be specified"#,
            ]
        );
        assert_eq!(
            check(json!({"spec": {}}), Kind::SelfSubject),
            ["spec: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified"]
        );
    }

    #[test]
    fn a_local_review_stays_in_its_namespace() {
        let metadata = json!({"namespace": "n", "managedFields": [{}]});
        assert_eq!(
            check(json!({"metadata": metadata, "spec": {"user": "u", "resourceAttributes": {"namespace": "other"}}}), Kind::Local),
            [r#"spec.resourceAttributes.namespace: Invalid value: "other": must match metadata.namespace"#]
        );
        assert_eq!(
            check(json!({"metadata": metadata, "spec": {"user": "u", "nonResourceAttributes": {"path": "/", "verb": "get"}}}), Kind::Local),
            [r#"spec.nonResourceAttributes: Invalid value: {"Path":"/","Verb":"get"}: disallowed on this kind of request"#]
        );
        assert_eq!(
            check(json!({"metadata": {"name": "x"}, "spec": {"user": "u", "resourceAttributes": {}}}), Kind::Subject),
            [r#"metadata: Invalid value: {"name":"x"}: must be empty"#]
        );
    }

    #[test]
    fn selectors_are_text_or_requirements() {
        let with = |selector: Value| check(json!({"spec": {"resourceAttributes": {"fieldSelector": selector}}}), Kind::SelfSubject);
        assert_eq!(
            with(json!({})),
            [
                "spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required"
            ]
        );
        assert_eq!(
            with(json!({"rawSelector": "a=b", "requirements": [{"operator": "In"}]})),
            [
                r#"spec.resourceAttributes.fieldSelector.rawSelector: Invalid value: "a=b": may not specified at the same time as requirements"#,
                "spec.resourceAttributes.fieldSelector.requirements[0].key: Required value: must be specified",
                "spec.resourceAttributes.fieldSelector.requirements[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ]
        );
    }
}
