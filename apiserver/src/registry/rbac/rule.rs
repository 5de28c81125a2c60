//! The rules of roles.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::view::view;
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};

use crate::registry::declared::{Findings, changed};
use crate::registry::read::at;

/// The rules of a role; `namespaced` roles cannot speak of URLs that are no resources.
pub fn validate_rules(new: &Value, old: Option<&Value>, namespaced: bool) -> Findings {
    let rules: Vec<PolicyRule> = match at(new, "/rules") {
        Value::Null => Vec::new(),
        rules => view(rules),
    };
    let declared_speaks = changed(at(new, "/rules"), old.map(|old| at(old, "/rules")));
    let mut findings = Findings::default();
    let path = Path::new("rules");
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        if rule.verbs.is_empty() {
            let verbs = path.child("verbs");
            if declared_speaks {
                findings.declared.push(Error::required(&verbs, ""));
            } else {
                findings.written.push(Error::required(&verbs, "verbs must contain at least one value"));
            }
        }
        findings.written.extend(validate_rule(rule, namespaced, &path));
    }
    findings
}

fn validate_rule(rule: &PolicyRule, namespaced: bool, path: &Path<'_>) -> ErrorList {
    fn items(list: &Option<Vec<String>>) -> &[String] {
        list.as_deref().unwrap_or_default()
    }
    let (groups, resources, urls) = (items(&rule.api_groups), items(&rule.resources), items(&rule.non_resource_urls));
    let mut errors = ErrorList::new();
    if !urls.is_empty() {
        let path = path.child("nonResourceURLs");
        if namespaced {
            errors.push(Error::invalid(&path, json!(urls), "namespaced rules cannot apply to non-resource URLs"));
        }
        if !groups.is_empty() || !resources.is_empty() || !items(&rule.resource_names).is_empty() {
            errors.push(Error::invalid(&path, json!(urls), "rules cannot apply to both regular resources and non-resource URLs"));
        }
        return errors;
    }
    if groups.is_empty() {
        errors.push(Error::required(&path.child("apiGroups"), "resource rules must supply at least one api group"));
    }
    if resources.is_empty() {
        errors.push(Error::required(&path.child("resources"), "resource rules must supply at least one resource"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: Value, namespaced: bool) -> Vec<String> {
        validate_rules(&json!({"rules": [rule]}), None, namespaced).into_errors().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rule_names_verbs_and_resources() {
        assert!(check(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}), true).is_empty());
        assert_eq!(
            check(json!({"verbs": []}), true),
            [
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
                "rules[0].verbs: Required value",
            ]
        );
    }

    #[test]
    fn urls_are_for_cluster_roles_alone() {
        let rule = json!({"verbs": ["get"], "nonResourceURLs": ["/x"]});
        assert!(check(rule.clone(), false).is_empty());
        assert_eq!(
            check(rule, true),
            [r#"rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs"#]
        );
    }
}
