//! API priority and fairness: which FlowSchema a request belongs to, and which priority level that names.
//!
//! Classification only (KEP-1040): schemas are tried by matching precedence, then by name; the first whose rules match wins.
//! Queuing is not here yet: every request that is classified is dispatched at once.

use http::HeaderValue;

use crate::filters::authentication::User;
use crate::filters::request_info::RequestInfo;

/// The configured flow schemas, ready to match.
#[derive(Default)]
pub struct FlowControl {
    schemas: arc_swap::ArcSwap<Vec<Schema>>,
}

/// A FlowSchema, resolved.
pub struct Schema {
    pub precedence: i64,
    pub name: String,
    pub uid: HeaderValue,
    pub level_uid: HeaderValue,
    pub rules: Vec<Rule>,
}

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
    fn matches(&self, user: &User, request: &RequestInfo) -> bool {
        let subject = has(&self.users, &user.name)
            || user.groups.iter().any(|g| has(&self.groups, g))
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

fn matches_url(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

impl ResourceRule {
    fn matches(&self, request: &RequestInfo) -> bool {
        let resource = if request.subresource.is_empty() { request.resource.clone() } else { format!("{}/{}", request.resource, request.subresource) };
        let place = if request.namespace.is_empty() { self.cluster_scope } else { has(&self.namespaces, &request.namespace) };
        place && has(&self.verbs, &request.verb) && has(&self.api_groups, &request.group) && has(&self.resources, &resource)
    }
}

impl FlowControl {
    /// Replaces the schemas. They are tried in order of precedence, then of name.
    pub fn replace(&self, mut schemas: Vec<Schema>) {
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        self.schemas.store(std::sync::Arc::new(schemas));
    }

    /// The uids of the matching FlowSchema and of its priority level, as response headers tell them. `None` only while no
    /// schema is known.
    pub fn classify(&self, user: &User, request: &RequestInfo) -> Option<(HeaderValue, HeaderValue)> {
        let schemas = self.schemas.load();
        schemas.iter().find(|s| s.rules.iter().any(|r| r.matches(user, request))).map(|s| (s.uid.clone(), s.level_uid.clone()))
    }
}
