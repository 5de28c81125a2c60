//! One rule of a role: what it allows, what it covers, how it is told. Pure.

use std::collections::BTreeSet;

use apimachinery::field::quote;
use serde_json::{Value, json};

use crate::filters::request_info::RequestInfo;

/// A rule of rbac.authorization.k8s.io.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    pub verbs: Vec<Box<str>>,
    pub api_groups: Vec<Box<str>>,
    pub resources: Vec<Box<str>>,
    /// Empty for all.
    pub resource_names: Vec<Box<str>>,
    pub urls: Vec<Box<str>>,
}

fn has(list: &[Box<str>], text: &str) -> bool {
    list.iter().any(|item| **item == *text)
}

fn has_all(list: &[Box<str>], texts: &[Box<str>]) -> bool {
    texts.iter().all(|text| has(list, text))
}

impl Rule {
    /// Reads the rule as the API has it.
    pub fn parse(value: &Value) -> Rule {
        let list = |name: &str| {
            let items = value.get(name).and_then(Value::as_array);
            items.into_iter().flatten().filter_map(|v| v.as_str().map(Into::into)).collect()
        };
        Rule {
            verbs: list("verbs"),
            api_groups: list("apiGroups"),
            resources: list("resources"),
            resource_names: list("resourceNames"),
            urls: list("nonResourceURLs"),
        }
    }

    /// The rule as the API has it.
    pub fn to_value(&self) -> Value {
        let mut value = json!({ "verbs": self.verbs });
        let lists = [
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.urls),
        ];
        for (name, list) in lists {
            if !list.is_empty() {
                value[name] = json!(list);
            }
        }
        value
    }

    /// Whether the rule allows the request.
    pub fn allows(&self, request: &RequestInfo) -> bool {
        if !(has(&self.verbs, "*") || has(&self.verbs, &request.verb)) {
            return false;
        }
        if !request.is_resource {
            return self.urls.iter().any(|url| url_covers(url, &request.path));
        }
        (has(&self.api_groups, "*") || has(&self.api_groups, &request.group))
            && self.resources.iter().any(|r| resource_matches(r, &request.resource, &request.subresource))
            && (self.resource_names.is_empty() || has(&self.resource_names, &request.name))
    }

    /// The rule as rules of one verb, one group, one resource and at most one name each, or one verb and one URL.
    fn atoms(&self) -> Vec<Rule> {
        let one = |text: &str| vec![Box::<str>::from(text)];
        let mut atoms = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let atom = Rule { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Rule::default() };
                    if self.resource_names.is_empty() {
                        atoms.push(atom);
                    } else {
                        atoms.extend(self.resource_names.iter().map(|name| Rule { resource_names: one(name), ..atom.clone() }));
                    }
                }
            }
        }
        for url in &self.urls {
            atoms.extend(self.verbs.iter().map(|verb| Rule { verbs: one(verb), urls: one(url), ..Rule::default() }));
        }
        atoms
    }

    /// Whether whoever has this rule has the atom too.
    fn covers(&self, atom: &Rule) -> bool {
        let verbs = has(&self.verbs, "*") || has_all(&self.verbs, &atom.verbs);
        let groups = has(&self.api_groups, "*") || has_all(&self.api_groups, &atom.api_groups);
        let resources = has(&self.resources, "*")
            || atom.resources.iter().all(|wanted| {
                has(&self.resources, wanted) || wanted.split_once('/').is_some_and(|(_, sub)| has(&self.resources, &format!("*/{sub}")))
            });
        let urls = atom.urls.iter().all(|wanted| self.urls.iter().any(|own| url_covers(own, wanted)));
        let names =
            self.resource_names.is_empty() || (!atom.resource_names.is_empty() && has_all(&self.resource_names, &atom.resource_names));
        verbs && groups && resources && urls && names
    }

    /// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`: how a refused escalation names what is missing.
    fn told(&self) -> String {
        let list = |items: &[Box<str>]| items.iter().map(|i| quote(i)).collect::<Vec<_>>().join(" ");
        let parts: Vec<String> = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ]
        .into_iter()
        .filter(|(_, items)| !items.is_empty())
        .map(|(name, items)| format!("{name}:[{}]", list(items)))
        .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// `*`, an exact name, or `*/subresource`.
fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match pattern.split_once('/') {
        None => subresource.is_empty() && pattern == resource,
        Some((own, sub)) => !subresource.is_empty() && sub == subresource && (own == "*" || own == resource),
    }
}

/// The same path, or one that begins with what comes before a final `*`.
fn url_covers(pattern: &str, path: &str) -> bool {
    pattern == path || (pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*')))
}

/// What of `wanted` nobody with `owned` has, in the smallest pieces.
pub fn missing_atoms<'a>(owned: &[&Rule], wanted: impl Iterator<Item = &'a Rule>) -> Vec<Rule> {
    wanted.flat_map(Rule::atoms).filter(|atom| !owned.iter().any(|own| own.covers(atom))).collect()
}

/// What of `wanted` nobody with `owned` has, told as text: one line for each group and resource, sorted. Empty if nothing is missing.
pub fn missing<'a>(owned: &[&Rule], wanted: impl Iterator<Item = &'a Rule>) -> Vec<String> {
    let mut gathered: Vec<Rule> = Vec::new();
    for atom in missing_atoms(owned, wanted) {
        let same = |other: &&mut Rule| {
            (&other.api_groups, &other.resources, &other.resource_names) == (&atom.api_groups, &atom.resources, &atom.resource_names)
        };
        match gathered.iter_mut().filter(|_| atom.urls.is_empty()).find(same) {
            Some(other) => other.verbs.extend(atom.verbs),
            None => gathered.push(atom),
        }
    }
    gathered.iter().map(Rule::told).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let list = |text: &str| text.split(',').map(Into::into).collect();
        let names = if names.is_empty() { Vec::new() } else { list(names) };
        Rule { verbs: list(verbs), api_groups: list(groups), resources: list(resources), resource_names: names, urls: Vec::new() }
    }

    #[test]
    fn rules_allow_what_they_name() {
        let urls = Rule { verbs: vec!["get".into()], urls: vec!["/healthz".into(), "/api/*".into()], ..Rule::default() };
        for (rule, method, path, allowed) in [
            (rule("get,list", "", "pods", ""), Method::GET, "/api/v1/namespaces/a/pods/p", true),
            (rule("get,list", "", "pods", ""), Method::DELETE, "/api/v1/namespaces/a/pods/p", false),
            (rule("get", "", "pods", ""), Method::GET, "/api/v1/namespaces/a/pods/p/log", false),
            (rule("get", "", "pods/log", ""), Method::GET, "/api/v1/namespaces/a/pods/p/log", true),
            (rule("get", "", "*/log", ""), Method::GET, "/api/v1/namespaces/a/pods/p/log", true),
            (rule("*", "*", "*", ""), Method::GET, "/api/v1/namespaces/a/pods/p/log", true),
            (rule("*", "apps", "*", ""), Method::GET, "/api/v1/pods", false),
            (rule("get", "", "pods", "p"), Method::GET, "/api/v1/namespaces/a/pods/p", true),
            (rule("get", "", "pods", "q"), Method::GET, "/api/v1/namespaces/a/pods/p", false),
            (rule("*", "*", "*", ""), Method::GET, "/healthz", false),
            (urls.clone(), Method::GET, "/healthz", true),
            (urls.clone(), Method::GET, "/api/x", true),
            (urls, Method::GET, "/version", false),
        ] {
            assert_eq!(rule.allows(&RequestInfo::parse(&method, path, "")), allowed, "{rule:?} {method} {path}");
        }
    }

    #[test]
    fn what_is_missing_is_told_by_resource() {
        let own = rule("get", "", "pods,*/status", "");
        let wanted = [rule("get,delete,list", "", "pods", ""), rule("get", "", "nodes/status", ""), rule("get", "", "secrets", "a")];
        let lines = missing(&[&own], wanted.iter());
        assert_eq!(
            lines,
            [
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "list"]}"#,
                r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["a"], Verbs:["get"]}"#
            ]
        );
        assert!(missing(&[&rule("*", "*", "*", "")], wanted.iter()).is_empty());
    }
}
