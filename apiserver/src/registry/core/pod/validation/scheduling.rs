//! Where a pod may run: tolerations, node and pod affinity, gates, groups, preemption.

use std::collections::BTreeSet;

use apimachinery::field::{Error, ErrorList, Path, quote};
use apimachinery::validation::{
    LabelSelectorOptions, is_decimal_integer, is_dns1123_label, is_qualified_name, is_valid_label_value, name_is_dns_subdomain,
    validate_label_name, validate_label_selector,
};
use k8s_openapi::api::core::v1::{
    Affinity, PodAffinityTerm, PodReadinessGate, PodSchedulingGate, PodSchedulingGroup, Toleration, WeightedPodAffinityTerm,
};
use serde_json::Value;

use super::containers::validate_choice;
use super::invalid_all;
use super::options::Options;
use super::spread::match_label_keys_errors;
use crate::registry::core::node_selector;
use crate::registry::core::pod::access::{items, text};

const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const WEIGHT: &str = "must be in the range 1-100";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Tolerations of anything but an existing pod.
pub fn validate_tolerations(tolerations: &[Toleration], path: &Path<'_>) -> ErrorList {
    validate_tolerations_with(tolerations, path, &Options::default())
}

pub(super) fn validate_tolerations_with(tolerations: &[Toleration], path: &Path<'_>, opts: &Options) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, toleration) in tolerations.iter().enumerate() {
        let path = path.index(i);
        let (key, operator, effect) = (text(&toleration.key), text(&toleration.operator), text(&toleration.effect));
        if !key.is_empty() {
            errors.extend(validate_label_name(key, &path.child("key")));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(Error::invalid(&path.child("operator"), operator, detail));
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(Error::invalid(&path.child("effect"), effect, detail));
        }
        errors.extend(validate_toleration_value(operator, text(&toleration.value), &path, opts));
        if !effect.is_empty() {
            errors.extend(validate_choice(effect, TAINT_EFFECTS, &path.child("effect")));
        }
    }
    errors
}

fn validate_toleration_value(operator: &str, value: &str, path: &Path<'_>, opts: &Options) -> ErrorList {
    let operator_path = path.child("operator");
    match operator {
        "Equal" | "" => {
            let problems = is_valid_label_value(value);
            if problems.is_empty() {
                return ErrorList::new();
            }
            vec![Error::invalid(&operator_path, value, problems.join(";"))]
        }
        "Exists" if value.is_empty() => ErrorList::new(),
        "Exists" => vec![Error::invalid(&operator_path, value, "value must be empty when `operator` is 'Exists'")],
        "Lt" | "Gt" if opts.allow_toleration_comparison => {
            let path = path.child("value");
            let mut errors = invalid_all(&path, value, is_decimal_integer(value));
            if let Some(problem) = parse_int_problem(value) {
                errors.push(Error::invalid(&path, value, problem));
            }
            errors
        }
        "Lt" | "Gt" => vec![Error::not_supported(&operator_path, operator, &["Equal", "Exists", "Lt", "Gt"])],
        _ => vec![Error::not_supported(&operator_path, operator, &["Equal", "Exists"])],
    }
}

/// How Go's strconv words that a text is no 64-bit integer.
fn parse_int_problem(value: &str) -> Option<String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let why = match value.parse::<i64>() {
        Ok(_) => return None,
        Err(e) if matches!(e.kind(), PosOverflow | NegOverflow) => "value out of range",
        Err(_) => "invalid syntax",
    };
    Some(format!("strconv.ParseInt: parsing {}: {why}", quote(value)))
}

pub(super) fn validate_affinity(affinity: &Affinity, path: &Path<'_>, opts: &Options) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(selector) = &node.required_during_scheduling_ignored_during_execution {
            let allow_invalid = opts.allow_invalid_label_value_in_required_node_affinity;
            errors.extend(node_selector::validate(selector, allow_invalid, &path.child(REQUIRED)));
        }
        let path = path.child(PREFERRED);
        for (i, term) in items(&node.preferred_during_scheduling_ignored_during_execution).iter().enumerate() {
            let path = path.index(i);
            errors.extend(validate_weight(term.weight, &path));
            errors.extend(node_selector::validate_term(&term.preference, true, &path.child("preference")));
        }
    }
    if let Some(pod) = &affinity.pod_affinity {
        let required = items(&pod.required_during_scheduling_ignored_during_execution);
        let preferred = items(&pod.preferred_during_scheduling_ignored_during_execution);
        errors.extend(validate_pod_terms(required, preferred, &path.child("podAffinity"), opts));
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        let required = items(&pod.required_during_scheduling_ignored_during_execution);
        let preferred = items(&pod.preferred_during_scheduling_ignored_during_execution);
        errors.extend(validate_pod_terms(required, preferred, &path.child("podAntiAffinity"), opts));
    }
    errors
}

fn validate_weight(weight: i32, path: &Path<'_>) -> Option<Error> {
    (!(1..=100).contains(&weight)).then(|| Error::invalid(&path.child("weight"), weight, WEIGHT))
}

fn validate_pod_terms(required: &[PodAffinityTerm], preferred: &[WeightedPodAffinityTerm], path: &Path<'_>, opts: &Options) -> ErrorList {
    let (required_path, preferred_path) = (path.child(REQUIRED), path.child(PREFERRED));
    let mut errors = ErrorList::new();
    for (i, term) in required.iter().enumerate() {
        errors.extend(validate_pod_affinity_term(term, &required_path.index(i), opts));
    }
    for (i, weighted) in preferred.iter().enumerate() {
        let path = preferred_path.index(i);
        errors.extend(validate_weight(weighted.weight, &path));
        errors.extend(validate_pod_affinity_term(&weighted.pod_affinity_term, &path.child("podAffinityTerm"), opts));
    }
    errors
}

fn validate_pod_affinity_term(term: &PodAffinityTerm, path: &Path<'_>, opts: &Options) -> ErrorList {
    let options = LabelSelectorOptions {
        allow_invalid_label_value_in_selector: opts.allow_invalid_label_value_in_selector,
        ..LabelSelectorOptions::default()
    };
    let mut errors = ErrorList::new();
    for (name, selector) in [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)] {
        if let Some(selector) = selector {
            errors.extend(validate_label_selector(selector, options, &path.child(name)));
        }
    }
    for namespace in items(&term.namespaces) {
        errors.extend(invalid_all(&path.child("namespace"), namespace.as_str(), is_dns1123_label(namespace)));
    }
    let (same, other) = (items(&term.match_label_keys), items(&term.mismatch_label_keys));
    errors.extend(match_label_keys_errors(path, same, other, term.label_selector.as_ref()));
    let topology_key = path.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.push(Error::required(&topology_key, "can not be empty"));
    }
    errors.extend(validate_label_name(&term.topology_key, &topology_key));
    errors
}

pub(super) fn validate_readiness_gates(gates: &[PodReadinessGate], path: &Path<'_>) -> ErrorList {
    let check = |(i, gate): (usize, &PodReadinessGate)| {
        let kind = gate.condition_type.as_str();
        invalid_all(&path.index(i).child("conditionType"), kind, is_qualified_name(kind))
    };
    gates.iter().enumerate().flat_map(check).collect()
}

pub(super) fn validate_scheduling_gates(gates: &[PodSchedulingGate], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (i, gate) in gates.iter().enumerate() {
        errors.extend(invalid_all(&path.index(i), gate.name.as_str(), is_qualified_name(&gate.name)));
        if !seen.insert(&gate.name) {
            errors.push(Error::duplicate(&path.index(i), gate.name.as_str()));
        }
    }
    errors
}

pub(super) fn validate_scheduling_group(group: &PodSchedulingGroup, path: &Path<'_>) -> ErrorList {
    let path = path.child("podGroupName");
    match &group.pod_group_name {
        Some(name) => invalid_all(&path, name.as_str(), name_is_dns_subdomain(name, false)),
        None => vec![Error::invalid(&path, Value::Null, "must specify one of: `podGroupName`")],
    }
}

/// `PreemptLowerPriority` or `Never`.
pub fn validate_preemption_policy(policy: &str, path: &Path<'_>) -> ErrorList {
    validate_choice(policy, &["PreemptLowerPriority", "Never"], path)
}
