//! The rules of flow schemas: whose requests, for what.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{name_is_dns_label, name_is_dns_subdomain};
use k8s_openapi::api::flowcontrol::v1::{
    NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule, ServiceAccountSubject, Subject,
};
use serde_json::json;

const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const SUBJECT_KINDS: [&str; 3] = ["Group", "ServiceAccount", "User"];

/// Subjects, and rules for resources or for other URLs.
pub fn validate_rule(rule: &PolicyRulesWithSubjects, path: &Path<'_>) -> ErrorList {
    let (subjects_path, resource_path, url_path) = (path.child("subjects"), path.child("resourceRules"), path.child("nonResourceRules"));
    let mut errors = ErrorList::new();
    for (i, subject) in rule.subjects.iter().enumerate() {
        errors.extend(validate_subject(subject, &subjects_path.index(i)));
    }
    if rule.subjects.is_empty() {
        errors.push(Error::required(&subjects_path, "subjects must contain at least one value"));
    }
    let resource_rules = rule.resource_rules.as_deref().unwrap_or_default();
    let url_rules = rule.non_resource_rules.as_deref().unwrap_or_default();
    if resource_rules.is_empty() && url_rules.is_empty() {
        errors.push(Error::required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    for (i, rule) in resource_rules.iter().enumerate() {
        errors.extend(validate_resource_rule(rule, &resource_path.index(i)));
    }
    for (i, rule) in url_rules.iter().enumerate() {
        errors.extend(validate_url_rule(rule, &url_path.index(i)));
    }
    errors
}

/// A subject has the member of its kind and no other.
fn validate_subject(subject: &Subject, path: &Path<'_>) -> ErrorList {
    let members = [
        ("ServiceAccount", "serviceAccount", subject.service_account.is_some()),
        ("User", "user", subject.user.is_some()),
        ("Group", "group", subject.group.is_some()),
    ];
    let Some((kind, field, is_set)) = members.iter().find(|(kind, ..)| *kind == subject.kind) else {
        return vec![Error::not_supported(&path.child("kind"), subject.kind.as_str(), &SUBJECT_KINDS)];
    };
    let member_path = path.child(field);
    let mut errors = match (&subject.service_account, &subject.user, &subject.group) {
        _ if !is_set => vec![Error::required(&member_path, format!("{field} is required when subject kind is '{kind}'"))],
        (Some(account), ..) if *kind == "ServiceAccount" => validate_account(account, &member_path),
        (_, Some(user), _) if *kind == "User" => require_name(&user.name, &member_path),
        (_, _, Some(group)) => require_name(&group.name, &member_path),
        _ => ErrorList::new(),
    };
    for (other, field, is_set) in members {
        if is_set && other != *kind {
            errors.push(Error::forbidden(&path.child(field), format!("{field} is forbidden when subject kind is not '{other}'")));
        }
    }
    errors
}

fn require_name(name: &str, path: &Path<'_>) -> ErrorList {
    if name.is_empty() { vec![Error::required(&path.child("name"), "")] } else { ErrorList::new() }
}

fn validate_account(account: &ServiceAccountSubject, path: &Path<'_>) -> ErrorList {
    let (name, namespace) = (account.name.as_str(), account.namespace.as_str());
    let (name_path, namespace_path) = (path.child("name"), path.child("namespace"));
    let mut errors = require_name(name, path);
    if !matches!(name, "" | "*") {
        errors.extend(name_is_dns_subdomain(name, false).into_iter().map(|message| Error::invalid(&name_path, name, message)));
    }
    if namespace.is_empty() {
        errors.push(Error::required(&namespace_path, "must specify namespace for service account"));
    } else {
        errors.extend(name_is_dns_label(namespace, false).into_iter().map(|message| Error::invalid(&namespace_path, namespace, message)));
    }
    errors
}

fn has_wildcard(items: &[String]) -> bool {
    items.iter().any(|item| item == "*")
}

fn validate_verbs(verbs: &[String], path: &Path<'_>) -> Option<Error> {
    if verbs.is_empty() {
        return Some(Error::required(path, "verbs must contain at least one value"));
    }
    if has_wildcard(verbs) {
        return (verbs.len() > 1).then(|| Error::invalid(path, json!(verbs), "if '*' is present, must not specify other verbs"));
    }
    let known = verbs.iter().all(|verb| VERBS.contains(&verb.as_str()));
    (!known).then(|| Error::not_supported(path, json!(verbs), &VERBS))
}

fn validate_resource_rule(rule: &ResourcePolicyRule, path: &Path<'_>) -> ErrorList {
    let mut errors: ErrorList = validate_verbs(&rule.verbs, &path.child("verbs")).into_iter().collect();
    for (field, items, one, others) in
        [("apiGroups", &rule.api_groups, "api group", "api groups"), ("resources", &rule.resources, "resource", "resources")]
    {
        let path = path.child(field);
        if items.is_empty() {
            errors.push(Error::required(&path, format!("resource rules must supply at least one {one}")));
        } else if items.len() > 1 && has_wildcard(items) {
            errors.push(Error::invalid(&path, json!(items), format!("if '*' is present, must not specify other {others}")));
        }
    }
    let namespaces = rule.namespaces.as_deref().unwrap_or_default();
    let path = path.child("namespaces");
    if namespaces.is_empty() && rule.cluster_scope != Some(true) {
        errors.push(Error::required(&path, "resource rules that are not cluster scoped must supply at least one namespace"));
    } else if has_wildcard(namespaces) {
        if namespaces.len() > 1 {
            errors.push(Error::invalid(&path, json!(namespaces), "if '*' is present, must not specify other namespaces"));
        }
    } else {
        for (i, namespace) in namespaces.iter().enumerate() {
            for message in name_is_dns_label(namespace, false) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {message}");
                errors.push(Error::invalid(&path.index(i), namespace.as_str(), detail));
            }
        }
    }
    errors
}

fn validate_url_rule(rule: &NonResourcePolicyRule, path: &Path<'_>) -> ErrorList {
    let mut errors: ErrorList = validate_verbs(&rule.verbs, &path.child("verbs")).into_iter().collect();
    let (urls, path) = (&rule.non_resource_urls, path.child("nonResourceURLs"));
    if urls.is_empty() {
        errors.push(Error::required(&path, "nonResourceURLs must contain at least one value"));
    } else if has_wildcard(urls) {
        if urls.len() > 1 {
            errors.push(Error::invalid(&path, json!(urls), "if '*' is present, must not specify other non-resource URLs"));
        }
    } else {
        for (i, url) in urls.iter().enumerate() {
            errors.extend(problem_of_url(url).map(|problem| Error::invalid(&path.index(i), url.as_str(), problem)));
        }
    }
    errors
}

/// A URL's path; it may end in `/*`.
fn problem_of_url(url: &str) -> Option<&'static str> {
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ => match url.matches('*').count() {
            0 => None,
            1 if url.ends_with("/*") => None,
            _ => Some("wildcard can only do suffix matching"),
        },
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::Value;

    use super::*;

    fn check(rule: Value) -> Vec<String> {
        validate_rule(&view(&rule), &Path::new("r")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_subject_has_the_member_of_its_kind() {
        let with = |subject: Value| check(json!({"subjects": [subject], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}));
        assert!(with(json!({"kind": "Group", "group": {"name": "g"}})).is_empty());
        assert_eq!(
            with(json!({"kind": "User", "group": {"name": "g"}})),
            [
                "r.subjects[0].user: Required value: user is required when subject kind is 'User'",
                "r.subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
            ]
        );
        assert_eq!(
            with(json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*"}})),
            ["r.subjects[0].serviceAccount.namespace: Required value: must specify namespace for service account"]
        );
        assert_eq!(
            with(json!({"kind": "x"})),
            [r#"r.subjects[0].kind: Unsupported value: "x": supported values: "Group", "ServiceAccount", "User""#]
        );
    }

    #[test]
    fn a_rule_is_about_something() {
        assert_eq!(
            check(json!({})),
            [
                "r.subjects: Required value: subjects must contain at least one value",
                "r: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ]
        );
        let group = json!([{"kind": "Group", "group": {"name": "g"}}]);
        let errors = check(json!({"subjects": group, "resourceRules": [{"verbs": ["fly"], "apiGroups": ["*", "a"], "resources": []}]}));
        assert!(errors[0].starts_with(r#"r.resourceRules[0].verbs: Unsupported value: ["fly"]: supported values: "create", "#));
        assert_eq!(
            errors[1],
            r#"r.resourceRules[0].apiGroups: Invalid value: ["*","a"]: if '*' is present, must not specify other api groups"#
        );
        assert_eq!(errors.len(), 4);
    }

    #[test]
    fn urls_match_by_suffix_alone() {
        for (url, problem) in [
            ("/a/*", None),
            ("a", Some("must start with slash")),
            ("/a*", Some("wildcard can only do suffix matching")),
            ("/*/a", Some("wildcard can only do suffix matching")),
            ("/a//b", Some("must not contain double slash")),
        ] {
            assert_eq!(problem_of_url(url), problem, "{url}");
        }
    }
}
