//! storage.k8s.io/v1 StorageClass.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{FIELD_IMMUTABLE, name_is_dns_subdomain, validate_label_name};
use apimachinery::view::view;
use k8s_openapi::api::core::v1::{TopologySelectorLabelRequirement, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Map, Value};

use super::parameters;
use crate::registry::core::node_selector::deprecated_label;
use crate::registry::defaulting::set_if_unset;
use crate::registry::printer::{self, AGE, NAME};
use crate::registry::read::{at, bool_at, str_at};
use crate::registry::{ALL_VERBS, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

const TYPE: &str = "io.k8s.api.storage.v1.StorageClass";
const DEFAULT_ANNOTATIONS: [&str; 2] = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const RECLAIM_POLICIES: [&str; 2] = ["Delete", "Retain"];
const BINDING_MODES: [&str; 2] = ["Immediate", "WaitForFirstConsumer"];

pub static RESOURCE: Definition = Definition {
    group: "storage.k8s.io",
    version: "v1",
    plural: "storageclasses",
    singular: "storageclass",
    kind: "StorageClass",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &["sc"],
    categories: &[],
    schema: TYPE,
    name: name_is_dns_subdomain,
    strategy: &ClassStrategy,
    subresources: &[],
    selectable: &[],
    printer: Printer {
        columns: &[
            NAME,
            printer::text("Provisioner", Description::Field(TYPE, "provisioner")),
            printer::text("ReclaimPolicy", Description::Field(TYPE, "reclaimPolicy")),
            printer::text("VolumeBindingMode", Description::Field(TYPE, "volumeBindingMode")),
            printer::text("AllowVolumeExpansion", Description::Field(TYPE, "allowVolumeExpansion")),
            AGE,
        ],
        cells: |object, now| {
            let or = |pointer: &str, default: &str| Value::from(at(object, pointer).as_str().unwrap_or(default));
            vec![
                printer::name(object),
                str_at(object, "/provisioner").into(),
                or("/reclaimPolicy", "Delete"),
                or("/volumeBindingMode", "Immediate"),
                bool_at(object, "/allowVolumeExpansion").into(),
                printer::object_age(object, now),
            ]
        },
    },
    reset_fields: &[],
};

/// Which of the classes claims without a class get: of those that say so the youngest, then the first by name.
/// A table of a list marks it ` (default)` behind its name.
pub fn effective_default<'a>(classes: impl IntoIterator<Item = &'a Value>) -> Option<&'a str> {
    let is_default = |class: &&Value| {
        let annotations = at(class, "/metadata/annotations");
        DEFAULT_ANNOTATIONS.iter().any(|key| annotations.get(key).is_some_and(|value| value == "true"))
    };
    // Timestamps are of one form, so that they compare as text.
    let rank = |class: &&Value| {
        (str_at(class, "/metadata/creationTimestamp").to_owned(), std::cmp::Reverse(str_at(class, "/metadata/name").to_owned()))
    };
    classes.into_iter().filter(is_default).max_by_key(rank).map(|class| str_at(class, "/metadata/name"))
}

/// Volumes of a class go with their claims and are bound at once.
pub fn default_class(class: &mut Map<String, Value>) {
    set_if_unset(class, "reclaimPolicy", "Delete");
    set_if_unset(class, "volumeBindingMode", "Immediate");
}

struct ClassStrategy;

impl UpdateStrategy for ClassStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    /// The errors of declared rules (what is required, what never changes) come last, in the order of the fields.
    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = validate(&view(new));
        let changed = |field: &str| {
            let filled = |class: &'_ Value| class.get(field).filter(|value| value.as_object().is_none_or(|map| !map.is_empty())).cloned();
            filled(new) != filled(old)
        };
        match missing_provisioner(new) {
            Some(missing) if changed("provisioner") => errors.push(missing),
            Some(missing) => errors.insert(0, missing),
            None => {}
        }
        for field in ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"] {
            if changed(field) {
                errors.push(Error::invalid(&Path::new(field), Value::Null, FIELD_IMMUTABLE));
            }
        }
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        warnings(&view(new))
    }
}

impl Strategy for ClassStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let mut errors = validate(&view(new));
        errors.extend(missing_provisioner(new));
        errors
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings(&view(new))
    }
}

fn missing_provisioner(class: &Value) -> Option<Error> {
    str_at(class, "/provisioner").is_empty().then(|| Error::required(&Path::new("provisioner"), ""))
}

fn validate(class: &StorageClass) -> ErrorList {
    let mut errors = parameters::validate_provisioner(&class.provisioner, &Path::new("provisioner"));
    errors.extend(parameters::validate(class.parameters.as_ref(), true, &Path::new("parameters")));
    if let Some(policy) = class.reclaim_policy.as_deref().filter(|policy| !policy.is_empty() && !RECLAIM_POLICIES.contains(policy)) {
        errors.push(Error::not_supported(&Path::new("reclaimPolicy"), policy, &RECLAIM_POLICIES));
    }
    let path = Path::new("volumeBindingMode");
    match class.volume_binding_mode.as_deref() {
        None => errors.push(Error::required(&path, "")),
        Some(mode) if !BINDING_MODES.contains(&mode) => errors.push(Error::not_supported(&path, mode, &BINDING_MODES)),
        Some(_) => {}
    }
    errors.extend(validate_topologies(class.allowed_topologies.as_deref().unwrap_or_default()));
    errors
}

type Term<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// Terms are well formed and differ from each other. Upstream starts with as many empty terms as there are terms, so that a term
/// without expressions repeats each of those.
fn validate_topologies(terms: &[TopologySelectorTerm]) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("allowedTopologies");
    let mut seen: Vec<Term<'_>> = vec![Term::new(); terms.len()];
    for (i, term) in terms.iter().enumerate() {
        let expressions = path.index(i);
        let expressions = expressions.child("matchLabelExpressions");
        let mut values = Term::new();
        for (j, expression) in term.match_label_expressions.iter().flatten().enumerate() {
            let path = expressions.index(j);
            errors.extend(validate_expression(expression, &path));
            if values.insert(&expression.key, expression.values.iter().map(String::as_str).collect()).is_some() {
                errors.push(Error::duplicate(&path.child("key"), expression.key.as_str()));
            }
        }
        let repeated = seen.iter().filter(|other| **other == values).count();
        errors.extend((0..repeated).map(|_| Error::duplicate(&expressions, "")));
        seen.push(values);
    }
    errors
}

fn validate_expression(expression: &TopologySelectorLabelRequirement, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let values = path.child("values");
    if expression.values.is_empty() {
        errors.push(Error::required(&values, ""));
    }
    let mut seen = BTreeSet::new();
    for (i, value) in expression.values.iter().enumerate() {
        if !seen.insert(value) {
            errors.push(Error::duplicate(&values.index(i), value.as_str()));
        }
    }
    errors.extend(validate_label_name(&expression.key, &path.child("key")));
    errors
}

fn warnings(class: &StorageClass) -> Vec<String> {
    let mut warnings = Vec::new();
    let path = Path::new("allowedTopologies");
    for (i, term) in class.allowed_topologies.iter().flatten().enumerate() {
        let expressions = path.index(i);
        let expressions = expressions.child("matchLabelExpressions");
        for (j, expression) in term.match_label_expressions.iter().flatten().enumerate() {
            if let Some(message) = deprecated_label(&expression.key) {
                warnings.push(format!("{}: {message}", expressions.index(j).child("key")));
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::core::tests::{cx, messages};

    fn class(fields: Value) -> Value {
        let mut class = json!({"metadata": {"name": "c"}, "provisioner": "a/b"});
        for (key, value) in fields.as_object().unwrap() {
            class[key] = value.clone();
        }
        default_class(class.as_object_mut().unwrap());
        class
    }

    #[test]
    fn declared_rules_are_told_last() {
        let empty = class(json!({"provisioner": "", "reclaimPolicy": "Recycle"}));
        assert_eq!(
            messages(&ClassStrategy.validate(&cx(), &empty)),
            ["reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"", "provisioner: Required value"]
        );
        let (old, new) = (class(json!({})), class(json!({"provisioner": "c/d", "parameters": {"a": "b"}, "allowVolumeExpansion": true})));
        assert_eq!(
            messages(&ClassStrategy.validate_update(&cx(), &new, &old)),
            ["provisioner: Invalid value: null: field is immutable", "parameters: Invalid value: null: field is immutable"]
        );
    }

    #[test]
    fn topologies_differ() {
        let term = json!({"matchLabelExpressions": [{"key": "zone", "values": ["a", "a"]}]});
        assert_eq!(
            messages(&ClassStrategy.validate(&cx(), &class(json!({"allowedTopologies": [term, term]})))),
            [
                "allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"",
                "allowedTopologies[1].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"",
                "allowedTopologies[1].matchLabelExpressions: Duplicate value: \"\"",
            ]
        );
    }

    #[test]
    fn the_youngest_default_counts() {
        let class = |name: &str, time: &str, default: &str| json!({"metadata": {"name": name, "creationTimestamp": time, "annotations": {"storageclass.kubernetes.io/is-default-class": default}}});
        let (old, young, younger) = ("2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z", "2022-01-01T00:00:00Z");
        let classes = [class("a", old, "true"), class("c", young, "true"), class("b", young, "true"), class("d", younger, "false")];
        assert_eq!(effective_default(&classes), Some("b"));
        assert_eq!(effective_default(&classes[3..]), None);
    }

    #[test]
    fn old_labels_are_warned_about() {
        let old = class(
            json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "failure-domain.beta.kubernetes.io/zone", "values": ["a"]}]}]}),
        );
        assert_eq!(
            ClassStrategy.warnings_on_create(&cx(), &old),
            ["allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"]
        );
    }
}
