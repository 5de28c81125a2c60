//! The rules by which webhooks and policies say what they look at.

use std::collections::BTreeSet;

use apimachinery::field::{Error, ErrorList, Path};
use k8s_openapi::api::admissionregistration::v1::RuleWithOperations;
use serde_json::json;

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];

/// Operations, groups, versions, resources and scope.
pub fn validate_rule_with_operations(rule: &RuleWithOperations, path: &Path<'_>) -> ErrorList {
    let operations = rule.operations.as_deref().unwrap_or_default();
    let operations_path = path.child("operations");
    let mut errors = ErrorList::new();
    if operations.is_empty() {
        errors.push(Error::required(&operations_path, ""));
    }
    if operations.len() > 1 && has_wildcard(operations) {
        errors.push(Error::invalid(&operations_path, json!(operations), "if '*' is present, must not specify other operations"));
    }
    for (i, operation) in operations.iter().enumerate() {
        if !OPERATIONS.contains(&operation.as_str()) {
            errors.push(Error::not_supported(&operations_path.index(i), operation.as_str(), &OPERATIONS));
        }
    }
    errors.extend(validate_rule(rule, path));
    errors
}

fn validate_rule(rule: &RuleWithOperations, path: &Path<'_>) -> ErrorList {
    let (groups, versions) = (rule.api_groups.as_deref().unwrap_or_default(), rule.api_versions.as_deref().unwrap_or_default());
    let (groups_path, versions_path) = (path.child("apiGroups"), path.child("apiVersions"));
    let mut errors = ErrorList::new();
    if groups.is_empty() {
        errors.push(Error::required(&groups_path, ""));
    }
    if groups.len() > 1 && has_wildcard(groups) {
        errors.push(Error::invalid(&groups_path, json!(groups), "if '*' is present, must not specify other API groups"));
    }
    if versions.is_empty() {
        errors.push(Error::required(&versions_path, ""));
    }
    if versions.len() > 1 && has_wildcard(versions) {
        errors.push(Error::invalid(&versions_path, json!(versions), "if '*' is present, must not specify other API versions"));
    }
    for (i, version) in versions.iter().enumerate() {
        if version.is_empty() {
            errors.push(Error::required(&versions_path.index(i), ""));
        }
    }
    errors.extend(validate_resources(rule.resources.as_deref().unwrap_or_default(), &path.child("resources")));
    if let Some(scope) = rule.scope.as_deref().filter(|scope| !SCOPES.contains(scope)) {
        errors.push(Error::not_supported(&path.child("scope"), scope, &SCOPES));
    }
    errors
}

fn has_wildcard(items: &[String]) -> bool {
    items.iter().any(|item| item == "*")
}

/// `pods`, `pods/status`, `pods/*`, `*/scale`, `*` and `*/*`, none of which may contain another.
fn validate_resources(resources: &[String], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if resources.is_empty() {
        errors.push(Error::required(path, ""));
    }
    let (mut whole_resources, mut whole_subresources) = (BTreeSet::new(), BTreeSet::new());
    // Upstream remembers only whether the last name without a subresource was the wildcard.
    let mut last_is_plain = false;
    for (i, resource) in resources.iter().enumerate() {
        if resource.is_empty() {
            errors.push(Error::required(&path.index(i), ""));
            continue;
        }
        let Some((name, subresource)) = resource.split_once('/') else {
            last_is_plain = resource != "*";
            continue;
        };
        let mut refuse = |wildcard: String| {
            let detail = format!("if '{wildcard}' is present, must not specify {resource}");
            errors.push(Error::invalid(&path.index(i), resource.as_str(), detail));
        };
        if whole_resources.contains(name) {
            refuse(format!("{name}/*"));
        }
        if whole_subresources.contains(subresource) {
            refuse(format!("*/{subresource}"));
        }
        if subresource == "*" {
            whole_resources.insert(name);
        }
        if name == "*" {
            whole_subresources.insert(subresource);
        }
    }
    if resources.len() > 1 && resources.iter().any(|r| r == "*/*") {
        errors.push(Error::invalid(path, json!(resources), "if '*/*' is present, must not specify other resources"));
    }
    if has_wildcard(resources) && last_is_plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(Error::invalid(path, json!(resources), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::Value;

    use super::*;

    fn check(rule: Value) -> Vec<String> {
        validate_rule_with_operations(&view(&rule), &Path::new("r")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rule_says_what_it_looks_at() {
        assert!(
            check(json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"], "scope": "*"})).is_empty()
        );
        assert_eq!(
            check(json!({"operations": ["READ"], "scope": "x"})),
            [
                r#"r.operations[0]: Unsupported value: "READ": supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE""#,
                "r.apiGroups: Required value",
                "r.apiVersions: Required value",
                "r.resources: Required value",
                r#"r.scope: Unsupported value: "x": supported values: "*", "Cluster", "Namespaced""#,
            ]
        );
    }

    #[test]
    fn wildcards_stand_alone() {
        let with =
            |resources: Value| check(json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": resources}));
        assert!(with(json!(["pods", "pods/*", "*/scale"])).is_empty());
        assert_eq!(
            with(json!(["pods/*", "pods/log"])),
            [r#"r.resources[1]: Invalid value: "pods/log": if 'pods/*' is present, must not specify pods/log"#]
        );
        assert_eq!(
            with(json!(["*", "pods"])),
            [r#"r.resources: Invalid value: ["*","pods"]: if '*' is present, must not specify other resources without subresources"#]
        );
        assert_eq!(
            with(json!(["*/*", "a"])),
            [r#"r.resources: Invalid value: ["*/*","a"]: if '*/*' is present, must not specify other resources"#]
        );
    }
}
