//! Node selectors as volumes carry them: the rules of their terms, and which old label keys may become new ones.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_valid_label_value, name_is_dns_subdomain, validate_label_name};
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use serde_json::{Value, json};

/// Labels of nodes that have been renamed or dropped, and what is said about them.
const DEPRECATED_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    ("failure-domain.beta.kubernetes.io/region", "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// The beta keys that may be replaced in place, and by what.
const BETA_TO_GA: &[(&str, &str)] = &[
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// What is said about a node label that should no longer be used.
pub fn deprecated_label(key: &str) -> Option<&'static str> {
    DEPRECATED_LABELS.iter().find(|(label, _)| *label == key).map(|(_, message)| *message)
}

/// A warning for each deprecated label that the term selects by.
pub fn warnings_for_term(term: &NodeSelectorTerm, path: &Path<'_>) -> Vec<String> {
    let path = path.child("matchExpressions");
    let expressions = term.match_expressions.iter().flatten().enumerate();
    let warn = |(i, expression): (usize, &NodeSelectorRequirement)| {
        let message = deprecated_label(&expression.key)?;
        Some(format!("{}: {} is {message}", path.index(i).child("key"), expression.key))
    };
    expressions.filter_map(warn).collect()
}

/// Whether some value that is selected by could be no label's.
pub fn has_invalid_label_value(selector: &NodeSelector) -> bool {
    let expressions = selector.node_selector_terms.iter().flat_map(|term| term.match_expressions.iter().flatten());
    expressions.flat_map(|expression| expression.values.iter().flatten()).any(|value| !is_valid_label_value(value).is_empty())
}

/// A selector has terms, and each is well formed.
pub fn validate(selector: &NodeSelector, allow_invalid_values: bool, path: &Path<'_>) -> ErrorList {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        return vec![Error::required(&path, "must have at least one node selector term")];
    }
    let terms = selector.node_selector_terms.iter().enumerate();
    terms.flat_map(|(i, term)| validate_term(term, allow_invalid_values, &path.index(i))).collect()
}

/// Each requirement of a term is well formed.
pub fn validate_term(term: &NodeSelectorTerm, allow_invalid_values: bool, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let expressions = path.child("matchExpressions");
    for (i, requirement) in term.match_expressions.iter().flatten().enumerate() {
        errors.extend(validate_expression(requirement, allow_invalid_values, &expressions.index(i)));
    }
    let fields = path.child("matchFields");
    for (i, requirement) in term.match_fields.iter().flatten().enumerate() {
        errors.extend(validate_field(requirement, &fields.index(i)));
    }
    errors
}

fn validate_expression(requirement: &NodeSelectorRequirement, allow_invalid_values: bool, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let values = requirement.values.as_deref().unwrap_or_default();
    let values_path = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(Error::required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.push(Error::forbidden(&values_path, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.push(Error::required(&values_path, "must be specified single value when `operator` is 'Lt' or 'Gt'"));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    errors.extend(validate_label_name(&requirement.key, &path.child("key")));
    if !allow_invalid_values {
        for (i, value) in values.iter().enumerate() {
            let messages = is_valid_label_value(value).into_iter();
            errors.extend(messages.map(|message| Error::invalid(&values_path.index(i), value.as_str(), message)));
        }
    }
    errors
}

fn validate_field(requirement: &NodeSelectorRequirement, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(Error::required(&path.child("values"), why));
        }
        "In" | "NotIn" => {}
        other => errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    if requirement.key != "metadata.name" {
        errors.push(Error::invalid(&path.child("key"), requirement.key.as_str(), "not a valid field selector key"));
        return errors;
    }
    let path = path.child("values");
    for (i, value) in values.iter().enumerate() {
        let messages = name_is_dns_subdomain(value, false).into_iter();
        errors.extend(messages.map(|message| Error::invalid(&path.index(i), value.as_str(), message)));
    }
    errors
}

/// Whether the selectors are the same, a beta key having become its successor at most.
pub fn same_but_for_renamed_labels(new: &NodeSelector, old: &NodeSelector) -> bool {
    let requirements = |new: Option<&Vec<NodeSelectorRequirement>>, old: Option<&Vec<NodeSelectorRequirement>>| {
        let (new, old) = (new.map_or(&[][..], Vec::as_slice), old.map_or(&[][..], Vec::as_slice));
        new.len() == old.len() && new.iter().zip(old).all(|(new, old)| same_requirement(new, old))
    };
    let (new, old) = (&new.node_selector_terms, &old.node_selector_terms);
    new.len() == old.len()
        && new.iter().zip(old).all(|(new, old)| {
            requirements(new.match_expressions.as_ref(), old.match_expressions.as_ref())
                && requirements(new.match_fields.as_ref(), old.match_fields.as_ref())
        })
}

fn same_requirement(new: &NodeSelectorRequirement, old: &NodeSelectorRequirement) -> bool {
    let same_key = new.key == old.key || BETA_TO_GA.contains(&(old.key.as_str(), new.key.as_str()));
    same_key && new.operator == old.operator && new.values.as_deref().unwrap_or_default() == old.values.as_deref().unwrap_or_default()
}

/// The selector as upstream's messages show it: its internal type has no JSON names.
pub fn as_go_prints(selector: &NodeSelector) -> Value {
    let requirements = |list: Option<&Vec<NodeSelectorRequirement>>| {
        list.map(|list| list.iter().map(|r| json!({"Key": r.key, "Operator": r.operator, "Values": r.values})).collect::<Vec<_>>())
    };
    let term = |term: &NodeSelectorTerm| json!({"MatchExpressions": requirements(term.match_expressions.as_ref()), "MatchFields": requirements(term.match_fields.as_ref())});
    let terms: Vec<Value> = selector.node_selector_terms.iter().map(term).collect();
    json!({"NodeSelectorTerms": if terms.is_empty() { Value::Null } else { terms.into() }})
}
