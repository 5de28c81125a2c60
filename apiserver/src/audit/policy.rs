//! The audit policy (`audit.k8s.io/v1` Policy): which requests are told of, and how much of each.
//!
//! Pure: reads a text, checks it in upstream's words, decides by the first rule that fits.

use apimachinery::field::{self, ErrorList, Path};
use apimachinery::validation::name_is_dns_subdomain;
use apimachinery::yaml;
use serde::Deserialize;
use serde_json::Value;

use super::event::{Level, Stage};
use crate::filters::authentication::User;
use crate::filters::request_info::RequestInfo;

const API_VERSION: &str = "audit.k8s.io/v1";

/// What is told of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
}

/// A policy that has been checked.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<(Given, Rule)>,
    otherwise: Rule,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    rules: Vec<Given>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

/// A rule as the file has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Given {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

const FIELDS: [&str; 6] = ["kind", "apiVersion", "metadata", "rules", "omitStages", "omitManagedFields"];
const RULE_FIELDS: [&str; 9] =
    ["level", "users", "userGroups", "verbs", "resources", "namespaces", "nonResourceURLs", "omitStages", "omitManagedFields"];

impl Policy {
    /// Reads YAML or JSON. Fields that nobody knows are warned of and left out, as upstream does.
    pub fn parse(text: &[u8]) -> Result<Policy, String> {
        let mut value = yaml::parse(text).map_err(|error| format!("failed decoding: {error}"))?.value;
        without_nulls(&mut value);
        check_kind(&value, text)?;
        warn_of_unknown(&value);
        let file: File = serde_json::from_value(value).map_err(|error| format!("failed decoding: {error}"))?;
        let errors = file.validate();
        if !errors.is_empty() {
            return Err(field::aggregate(&errors));
        }
        if file.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".to_owned());
        }
        Ok(file.settled())
    }

    /// What is told of a request. `user` is `None` for those whom nobody knows.
    pub fn evaluate(&self, user: Option<&User>, info: &RequestInfo) -> &Rule {
        self.rules.iter().find(|(given, _)| given.matches(user, info)).map_or(&self.otherwise, |(_, rule)| rule)
    }
}

/// A null is what is not there.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

fn check_kind(value: &Value, text: &[u8]) -> Result<(), String> {
    let member = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("");
    let (kind, api_version) = (member("kind"), member("apiVersion"));
    let shown = || String::from_utf8_lossy(text).into_owned();
    if kind.is_empty() {
        return Err(format!("failed decoding: Object 'Kind' is missing in '{}'", shown()));
    }
    if api_version.is_empty() {
        return Err(format!("failed decoding: Object 'apiVersion' is missing in '{}'", shown()));
    }
    if (kind, api_version) == ("Policy", API_VERSION) {
        return Ok(());
    }
    let (kind, version) = (field::quote(kind), field::quote(api_version));
    Err(format!("failed decoding: no kind {kind} is registered for version {version} in scheme \"pkg/audit/scheme.go:30\""))
}

fn warn_of_unknown(value: &Value) {
    let warn = |place: &str, value: &Value, known: &[&str]| {
        for name in value.as_object().into_iter().flat_map(serde_json::Map::keys).filter(|name| !known.contains(&name.as_str())) {
            tracing::warn!("Audit policy contains errors, falling back to lenient decoding: unknown field \"{place}{name}\"");
        }
    };
    warn("", value, &FIELDS);
    for (at, rule) in value.get("rules").and_then(Value::as_array).into_iter().flatten().enumerate() {
        warn(&format!("rules[{at}]."), rule, &RULE_FIELDS);
        for (of, resources) in rule.get("resources").and_then(Value::as_array).into_iter().flatten().enumerate() {
            warn(&format!("rules[{at}].resources[{of}]."), resources, &["group", "resources", "resourceNames"]);
        }
    }
}

fn validate_stages(stages: &[String], path: &Path<'_>) -> ErrorList {
    let unknown = stages.iter().enumerate().filter(|(_, stage)| Stage::parse(stage).is_none());
    let allowed = || format!("allowed stages are {}", Stage::ALL.map(Stage::as_str).join(","));
    unknown.map(|(at, stage)| field::Error::invalid(&path.index(at), stage.as_str(), allowed())).collect()
}

impl File {
    fn validate(&self) -> ErrorList {
        let mut errors = validate_stages(&self.omit_stages, &Path::new("omitStages"));
        let rules = Path::new("rules");
        for (at, rule) in self.rules.iter().enumerate() {
            errors.extend(rule.validate(&rules.index(at)));
        }
        errors
    }

    fn settled(self) -> Policy {
        let stages = |names: &[String]| names.iter().filter_map(|name| Stage::parse(name)).collect::<Vec<_>>();
        let everywhere = stages(&self.omit_stages);
        let omit_managed_fields = self.omit_managed_fields;
        let settle = |given: Given| {
            let omit_stages = everywhere.iter().copied().chain(stages(&given.omit_stages)).collect();
            let omit_managed_fields = given.omit_managed_fields.unwrap_or(omit_managed_fields);
            let rule = Rule { level: Level::parse(&given.level).unwrap_or(Level::None), omit_stages, omit_managed_fields };
            (given, rule)
        };
        let rules = self.rules.into_iter().map(settle).collect();
        Policy { rules, otherwise: Rule { level: Level::None, omit_stages: everywhere, omit_managed_fields } }
    }
}

impl Given {
    fn validate(&self, path: &Path<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let level = path.child("level");
        match self.level.as_str() {
            "" => errors.push(field::Error::required(&level, "")),
            known if Level::parse(known).is_some() => {}
            other => errors.push(field::Error::not_supported(&level, other, &Level::ALL.map(Level::as_str))),
        }
        let urls = path.child("nonResourceURLs");
        for (at, url) in self.non_resource_urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            let at = urls.index(at);
            if !url.starts_with('/') {
                errors.push(field::Error::invalid(&at, url.as_str(), "non-resource URL rules must begin with a '/' character"));
            }
            if url.char_indices().any(|(place, c)| c == '*' && place + 1 < url.len()) {
                let why = "non-resource URL wildcards '*' must be the final character of the rule";
                errors.push(field::Error::invalid(&at, url.as_str(), why));
            }
        }
        let resources = path.child("resources");
        for group in &self.resources {
            if !group.group.is_empty() && group.group != "*" {
                let wrong = name_is_dns_subdomain(&group.group, false);
                if !wrong.is_empty() {
                    errors.push(field::Error::invalid(&resources.child("group"), group.group.as_str(), wrong.join(",")));
                }
            }
            if !group.resource_names.is_empty() && group.resources.is_empty() {
                let why = "using resourceNames requires at least one resource";
                errors.push(field::Error::invalid(&resources.child("resourceNames"), group.resource_names.clone(), why));
            }
        }
        errors.extend(validate_stages(&self.omit_stages, &path.child("omitStages")));
        if !self.non_resource_urls.is_empty() && !(self.resources.is_empty() && self.namespaces.is_empty()) {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(field::Error::invalid(&urls, self.non_resource_urls.clone(), why));
        }
        errors
    }

    fn matches(&self, user: Option<&User>, info: &RequestInfo) -> bool {
        let has = |list: &[String], text: &str| list.iter().any(|item| item == text);
        if !self.users.is_empty() && !user.is_some_and(|user| has(&self.users, &user.name)) {
            return false;
        }
        if !self.user_groups.is_empty() && !user.is_some_and(|user| user.groups.iter().any(|group| has(&self.user_groups, group))) {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, &info.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource
                && (self.namespaces.is_empty() || has(&self.namespaces, &info.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|group| group.matches(info)));
        }
        if !self.non_resource_urls.is_empty() {
            return !info.is_resource && self.non_resource_urls.iter().any(|url| path_matches(&info.path, url));
        }
        true
    }
}

/// `*`, the path itself, or what begins with what stands before a final `*`.
fn path_matches(path: &str, rule: &str) -> bool {
    rule == "*" || rule == path || (rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*')))
}

impl GroupResources {
    fn matches(&self, info: &RequestInfo) -> bool {
        if self.group != info.group && self.group != "*" {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.contains(&info.name) {
            return false;
        }
        self.resources.iter().any(|rule| resource_matches(rule, &info.resource, &info.subresource))
    }
}

/// `*`, `resource`, `resource/subresource`, `*/subresource` or `resource/*`.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((of, "*")) if of == resource => true,
        Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
        Some((of, sub)) => of == resource && !subresource.is_empty() && sub == subresource,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn policy(rules: &str) -> Result<Policy, String> {
        Policy::parse(format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}").as_bytes())
    }

    fn level(policy: &Policy, user: &str, method: Method, target: &str) -> Level {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let user = User { name: user.to_owned(), groups: vec![format!("{user}s")], ..User::default() };
        policy.evaluate(Some(&user), &RequestInfo::parse(&method, path, query)).level
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = policy(
            r#"
rules:
- {level: None, users: [quiet]}
- {level: Request, userGroups: [alices], verbs: [create]}
- level: RequestResponse
  resources: [{group: "", resources: [secrets, pods/exec, "*/log"], resourceNames: [a, ""]}]
- {level: Request, namespaces: [prod]}
- {level: None, nonResourceURLs: [/healthz, "/readyz*"]}
- {level: Metadata, resources: [{group: "apps"}, {group: "", resources: ["nodes/*"]}]}
"#,
        )
        .unwrap();
        for (user, method, target, expect) in [
            ("quiet", Method::POST, "/api/v1/namespaces/prod/pods", Level::None),
            ("alice", Method::POST, "/api/v1/namespaces/x/pods", Level::Request),
            ("alice", Method::GET, "/api/v1/namespaces/x/secrets/a", Level::RequestResponse),
            ("alice", Method::GET, "/api/v1/namespaces/x/secrets/b", Level::None),
            ("alice", Method::GET, "/api/v1/namespaces/x/pods/a/exec", Level::RequestResponse),
            ("alice", Method::GET, "/api/v1/namespaces/x/pods/a/log", Level::RequestResponse),
            ("alice", Method::GET, "/api/v1/namespaces/x/pods/a", Level::None),
            ("bob", Method::DELETE, "/api/v1/namespaces/prod/pods/a", Level::Request),
            ("bob", Method::GET, "/readyz/etcd", Level::None),
            ("bob", Method::GET, "/apis/apps/v1/deployments", Level::Metadata),
            ("bob", Method::GET, "/api/v1/nodes/n/status", Level::Metadata),
            ("bob", Method::GET, "/api/v1/nodes/n", Level::Metadata),
            ("bob", Method::GET, "/version", Level::None),
        ] {
            assert_eq!(level(&policy, user, method, target), expect, "{user} {target}");
        }
    }

    #[test]
    fn stages_of_the_policy_and_of_the_rule_are_left_out() {
        let policy = policy("omitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n- level: Metadata\n  omitStages: [Panic]\n  omitManagedFields: false\n").unwrap();
        let rule = policy.evaluate(None, &RequestInfo::default());
        assert_eq!(rule.omit_stages, [Stage::RequestReceived, Stage::Panic]);
        assert!(!rule.omit_managed_fields);
    }

    #[test]
    fn errors_are_told_in_upstreams_words() {
        for (rules, expect) in [
            ("rules: []", "loaded illegal policy with 0 rules"),
            ("rules:\n- {}", "rules[0].level: Required value"),
            (
                "rules:\n- level: Everything",
                r#"rules[0].level: Unsupported value: "Everything": supported values: "None", "Metadata", "Request", "RequestResponse""#,
            ),
            (
                "rules:\n- {level: None, nonResourceURLs: [healthz]}",
                r#"rules[0].nonResourceURLs[0]: Invalid value: "healthz": non-resource URL rules must begin with a '/' character"#,
            ),
            (
                "omitStages: [Later]\nrules:\n- level: None",
                r#"omitStages[0]: Invalid value: "Later": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic"#,
            ),
            (
                "rules:\n- {level: None, resources: [{resourceNames: [a]}]}",
                r#"rules[0].resources.resourceNames: Invalid value: ["a"]: using resourceNames requires at least one resource"#,
            ),
        ] {
            assert_eq!(policy(rules).unwrap_err(), expect);
        }
        let old = Policy::parse(b"apiVersion: audit.k8s.io/v1beta1\nkind: Policy\n").unwrap_err();
        assert!(old.contains(r#"no kind "Policy" is registered for version "audit.k8s.io/v1beta1""#), "{old}");
    }
}
