//! Matching a request with the rules of a FlowSchema.

use crate::filters::authentication::User;
use crate::filters::request_info::RequestInfo;

/// `PolicyRulesWithSubjects`.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub users: Vec<String>,
    pub groups: Vec<String>,
    /// (namespace, name); the name may be `*`.
    pub service_accounts: Vec<(String, String)>,
    pub resource_rules: Vec<ResourceRule>,
    pub non_resource_rules: Vec<NonResourceRule>,
}

#[derive(Clone, Debug, Default)]
pub struct ResourceRule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub cluster_scope: bool,
    pub namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct NonResourceRule {
    pub verbs: Vec<String>,
    pub urls: Vec<String>,
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|v| v == "*" || v == value)
}

impl Rule {
    pub fn matches(&self, user: &User, request: &RequestInfo) -> bool {
        let subject = has(&self.users, &user.name)
            || self.groups.iter().any(|g| g == "*" || user.in_group(g))
            || self.service_accounts.iter().any(|(namespace, name)| matches_account(user, namespace, name));
        if !subject {
            return false;
        }
        if request.is_resource {
            self.resource_rules.iter().any(|r| r.matches(request))
        } else {
            self.non_resource_rules.iter().any(|r| has(&r.verbs, &request.verb) && r.urls.iter().any(|u| matches_url(u, &request.path)))
        }
    }
}

fn matches_account(user: &User, namespace: &str, name: &str) -> bool {
    let Some((user_namespace, user_name)) = user.name.strip_prefix("system:serviceaccount:").and_then(|r| r.split_once(':')) else {
        return false;
    };
    namespace == user_namespace && (name == "*" || name == user_name)
}

/// A pattern is the path itself, or a prefix of whole segments, whether or not it ends with `*`.
fn matches_url(pattern: &str, path: &str) -> bool {
    if pattern == "*" || pattern == path {
        return true;
    }
    let prefix = pattern.strip_suffix('*').unwrap_or(pattern);
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

impl ResourceRule {
    fn matches(&self, request: &RequestInfo) -> bool {
        let place = if request.namespace.is_empty() { self.cluster_scope } else { has(&self.namespaces, &request.namespace) };
        place && has(&self.verbs, &request.verb) && has(&self.api_groups, &request.group) && self.names(request)
    }

    /// Whether the rule names the request's `resource` or `resource/subresource`.
    fn names(&self, request: &RequestInfo) -> bool {
        self.resources.iter().any(|r| {
            r == "*"
                || match r.split_once('/') {
                    Some((resource, subresource)) => resource == request.resource && subresource == request.subresource,
                    None => *r == request.resource && request.subresource.is_empty(),
                }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_patterns_match_whole_segments() {
        for (pattern, path, expect) in [
            ("*", "/anything", true),
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/ping", true),
            ("/healthz", "/healthzz", false),
            ("/healthz/*", "/healthz/ping", true),
            ("/healthz/*", "/healthz", false),
        ] {
            assert_eq!(matches_url(pattern, path), expect, "{pattern} {path}");
        }
    }

    #[test]
    fn service_accounts_match_by_namespace_and_name() {
        let user = User { name: "system:serviceaccount:kube-system:a".into(), ..User::default() };
        assert!(matches_account(&user, "kube-system", "*") && matches_account(&user, "kube-system", "a"));
        assert!(!matches_account(&user, "kube", "*") && !matches_account(&user, "kube-system", "b"));
    }
}
