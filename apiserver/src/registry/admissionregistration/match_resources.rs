//! What a policy or a binding looks at.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{LabelSelectorOptions, is_valid_path_segment_name, validate_label_selector};
use k8s_openapi::api::admissionregistration::v1::{MatchResources, NamedRuleWithOperations, RuleWithOperations};

use super::rule::validate_rule_with_operations;

const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
/// There is nothing to change in what is deleted.
const MUTATING_OPERATIONS: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];

/// Selectors, rules and exclusions.
pub fn validate_match_resources(resources: &MatchResources, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let policy_path = path.child("matchPolicy");
    match resources.match_policy.as_deref() {
        None => errors.push(Error::required(&policy_path, "")),
        Some(policy) if MATCH_POLICIES.contains(&policy) => {}
        Some(policy) => errors.push(Error::not_supported(&policy_path, policy, &MATCH_POLICIES)),
    }
    for (field, selector) in [("namespaceSelector", &resources.namespace_selector), ("objectSelector", &resources.object_selector)] {
        let path = path.child(field);
        match selector {
            None => errors.push(Error::required(&path, "")),
            Some(selector) => errors.extend(validate_label_selector(selector, LabelSelectorOptions::default(), &path)),
        }
    }
    for (field, rules) in [("resourceRules", &resources.resource_rules), ("excludeResourceRules", &resources.exclude_resource_rules)] {
        let path = path.child(field);
        for (i, rule) in rules.iter().flatten().enumerate() {
            errors.extend(validate_named_rule(rule, &path.index(i)));
        }
    }
    errors
}

fn validate_named_rule(rule: &NamedRuleWithOperations, path: &Path<'_>) -> ErrorList {
    let names = rule.resource_names.as_deref().unwrap_or_default();
    let names_path = path.child("resourceNames");
    let mut errors = ErrorList::new();
    for (i, name) in names.iter().enumerate() {
        let path = names_path.index(i);
        errors.extend(is_valid_path_segment_name(name).into_iter().map(|message| Error::invalid(&path, name.as_str(), message)));
        if names[..i].contains(name) {
            errors.push(Error::duplicate(&path, name.as_str()));
        }
    }
    let unnamed = RuleWithOperations {
        api_groups: rule.api_groups.clone(),
        api_versions: rule.api_versions.clone(),
        operations: rule.operations.clone(),
        resources: rule.resources.clone(),
        scope: rule.scope.clone(),
    };
    errors.extend(validate_rule_with_operations(&unnamed, path));
    errors
}

/// The operations of rules that change objects. Every error stands at the list, whichever rule it is about.
pub fn validate_mutating_operations(resources: &MatchResources, path: &Path<'_>) -> ErrorList {
    let path = path.child("resourceRules.operations");
    let operations = resources.resource_rules.iter().flatten().flat_map(|rule| rule.operations.iter().flatten());
    let refused = operations.filter(|operation| !MUTATING_OPERATIONS.contains(&operation.as_str()));
    refused.map(|operation| Error::not_supported(&path, operation.as_str(), &MUTATING_OPERATIONS)).collect()
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::json;

    use super::*;

    #[test]
    fn names_stand_once_and_nothing_that_is_deleted_is_changed() {
        let rule =
            json!({"resourceNames": ["a", "a"], "operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        let resources: MatchResources =
            view(&json!({"matchPolicy": "Exact", "namespaceSelector": {}, "objectSelector": {}, "resourceRules": [rule]}));
        let path = Path::new("m");
        let texts = |errors: ErrorList| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(validate_match_resources(&resources, &path)), [r#"m.resourceRules[0].resourceNames[1]: Duplicate value: "a""#]);
        assert_eq!(
            texts(validate_mutating_operations(&resources, &path)),
            [r#"m.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE""#]
        );
    }
}
