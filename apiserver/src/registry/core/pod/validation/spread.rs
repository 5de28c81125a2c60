//! Topology spread constraints, and the label keys that spreading and pod affinity merge into selectors.

use std::collections::BTreeSet;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{LabelSelectorOptions, validate_label_name, validate_label_selector, validate_positive_field};
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::options::Options;
use crate::registry::core::pod::access::items;

const ACTIONS: &[&str] = &["DoNotSchedule", "ScheduleAnyway"];
const NODE_POLICIES: &[&str] = &["Honor", "Ignore"];
const NO_SELECTOR: &str = "must not be specified when labelSelector is not set";
const IN_BOTH: &str = "exists in both matchLabelKeys and labelSelector";

pub(super) fn validate_topology_spread_constraints(constraints: &[TopologySpreadConstraint], path: &Path<'_>, opts: &Options) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, constraint) in constraints.iter().enumerate() {
        let path = path.index(i);
        let action = constraint.when_unsatisfiable.as_str();
        errors.extend(validate_positive_field(constraint.max_skew.into(), &path.child("maxSkew")));
        if constraint.topology_key.is_empty() {
            errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
        }
        if !ACTIONS.contains(&action) {
            errors.push(Error::not_supported(&path.child("whenUnsatisfiable"), action, ACTIONS));
        }
        let repeats = |later: &TopologySpreadConstraint| {
            later.topology_key == constraint.topology_key && later.when_unsatisfiable == constraint.when_unsatisfiable
        };
        if constraints.iter().skip(i + 1).any(repeats) {
            let pair = format!("{{{}, {action}}}", constraint.topology_key);
            errors.push(Error::duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), pair));
        }
        if let Some(domains) = constraint.min_domains {
            let path = path.child("minDomains");
            errors.extend(validate_positive_field(domains.into(), &path));
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(Error::invalid(&path, domains, detail));
            }
        }
        let policies = [("nodeAffinityPolicy", &constraint.node_affinity_policy), ("nodeTaintsPolicy", &constraint.node_taints_policy)];
        for (name, policy) in policies {
            if let Some(policy) = policy.as_deref().filter(|p| !NODE_POLICIES.contains(p)) {
                errors.push(Error::not_supported(&path.child(name), policy, NODE_POLICIES));
            }
        }
        let (keys, selector) = (items(&constraint.match_label_keys), constraint.label_selector.as_ref());
        if opts.old_violates_match_label_keys {
            errors.extend(unmerged_label_keys_errors(&path.child("matchLabelKeys"), keys, selector));
        } else {
            errors.extend(match_label_keys_errors(&path, keys, &[], selector));
        }
        if let Some(selector) = selector.filter(|_| !opts.allow_invalid_spread_label_selector) {
            errors.extend(validate_label_selector(selector, LabelSelectorOptions::default(), &path.child("labelSelector")));
        }
    }
    errors
}

/// Label keys that creation merges into the selector's expressions: a key may stand there once, from the merge.
pub(super) fn match_label_keys_errors(path: &Path<'_>, same: &[String], other: &[String], selector: Option<&LabelSelector>) -> ErrorList {
    let same_path = path.child("matchLabelKeys");
    let mut errors = label_keys_errors(&same_path, same, selector);
    errors.extend(label_keys_errors(&path.child("mismatchLabelKeys"), other, selector));
    if let Some(selector) = selector {
        let mut seen: BTreeSet<&str> = selector.match_labels.iter().flat_map(|labels| labels.keys()).map(String::as_str).collect();
        for expression in items(&selector.match_expressions) {
            let key = expression.key.as_str();
            // With a key listed twice, upstream names the last; it reports at the term, not at the list of keys.
            if let Some(i) = same.iter().rposition(|k| k == key)
                && seen.contains(key)
            {
                errors.push(Error::invalid(&path.index(i), key, IN_BOTH));
            }
            seen.insert(key);
        }
    }
    for (i, key) in same.iter().enumerate().filter(|(_, key)| other.contains(key)) {
        errors.push(Error::invalid(&same_path.index(i), key.as_str(), "exists in both matchLabelKeys and mismatchLabelKeys"));
    }
    errors
}

fn label_keys_errors(path: &Path<'_>, keys: &[String], selector: Option<&LabelSelector>) -> ErrorList {
    if keys.is_empty() {
        return ErrorList::new();
    }
    if selector.is_none() {
        return vec![Error::forbidden(path, NO_SELECTOR)];
    }
    keys.iter().enumerate().flat_map(|(i, key)| validate_label_name(key, &path.index(i))).collect()
}

/// Label keys of objects from before the merge: none of them stands in the selector.
fn unmerged_label_keys_errors(path: &Path<'_>, keys: &[String], selector: Option<&LabelSelector>) -> ErrorList {
    if keys.is_empty() {
        return ErrorList::new();
    }
    let mut errors = ErrorList::new();
    if selector.is_none() {
        errors.push(Error::forbidden(path, NO_SELECTOR));
    }
    let selected = |key: &str| {
        selector.is_some_and(|s| {
            s.match_labels.as_ref().is_some_and(|labels| labels.contains_key(key))
                || items(&s.match_expressions).iter().any(|e| e.key == key)
        })
    };
    for (i, key) in keys.iter().enumerate() {
        errors.extend(validate_label_name(key, &path.index(i)));
        if selected(key) {
            errors.push(Error::invalid(&path.index(i), key.as_str(), IN_BOTH));
        }
    }
    errors
}
