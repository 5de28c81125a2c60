//! The roles and bindings that every cluster starts with, as data.
//!
//! `policy.txt` has one object to a line, what belongs to it indented below:
//! ```text
//! clusterrole NAME [label=value]... [gathers:label=value]...
//! role NAMESPACE/NAME
//! clusterrolebinding NAME ClusterRole NAME
//! rolebinding NAMESPACE/NAME Role NAME
//!   VERBS GROUPS RESOURCES [NAMES]      a rule; lists are separated by commas, "" is the core group
//!   VERBS URLS                          a rule about paths
//!   User NAME | Group NAME | ServiceAccount NAMESPACE/NAME
//! ```

use serde_json::{Map, Value, json};

use super::GROUP;
use super::rule::Rule;

const TEXT: &str = include_str!("policy.txt");

/// An object of the bootstrap policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `clusterroles`, `roles`, `clusterrolebindings` or `rolebindings`.
    pub resource: &'static str,
    /// Empty for the cluster's kinds.
    pub namespace: &'static str,
    pub name: &'static str,
    pub object: Value,
}

/// All objects, in the order in which they are made: roles before what binds them.
pub fn entries() -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in TEXT.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("  ") {
            None => entries.extend(head(line)),
            Some(part) => {
                if let Some(entry) = entries.last_mut() {
                    add(entry, part);
                }
            }
        }
    }
    entries
}

/// The rules of a cluster role of the policy.
pub fn cluster_role_rules(name: &str) -> Vec<Rule> {
    let entry = entries().into_iter().find(|e| e.resource == "clusterroles" && e.name == name);
    let rules = entry.as_ref().and_then(|e| e.object.get("rules")).and_then(Value::as_array);
    rules.into_iter().flatten().map(Rule::parse).collect()
}

fn head(line: &'static str) -> Option<Entry> {
    let mut words = line.split(' ');
    let (resource, kind) = match words.next()? {
        "clusterrole" => ("clusterroles", "ClusterRole"),
        "role" => ("roles", "Role"),
        "clusterrolebinding" => ("clusterrolebindings", "ClusterRoleBinding"),
        "rolebinding" => ("rolebindings", "RoleBinding"),
        _ => return None,
    };
    let path = words.next()?;
    let (namespace, name) = if resource.starts_with("cluster") { ("", path) } else { path.split_once('/')? };
    let mut labels = Map::new();
    labels.insert("kubernetes.io/bootstrapping".to_owned(), json!("rbac-defaults"));
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": { "name": name, "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" } },
    });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    if resource.ends_with("bindings") {
        object["roleRef"] = json!({ "apiGroup": GROUP, "kind": words.next()?, "name": words.next()? });
    }
    let mut gathered = Vec::new();
    for word in words {
        let (label, value) = word.split_once('=')?;
        match label.strip_prefix("gathers:") {
            Some(label) => gathered.push(json!({ "matchLabels": { label: value } })),
            None => {
                labels.insert(label.to_owned(), json!(value));
            }
        }
    }
    object["metadata"]["labels"] = Value::Object(labels);
    if !gathered.is_empty() {
        object["aggregationRule"] = json!({ "clusterRoleSelectors": gathered });
    }
    Some(Entry { resource, namespace, name, object })
}

/// Adds a rule or a subject.
fn add(entry: &mut Entry, part: &str) {
    let words: Vec<&str> = part.split(' ').collect();
    let list = |text: &str| text.split(',').map(|item| item.trim_matches('"').into()).collect::<Vec<Box<str>>>();
    if entry.resource.ends_with("bindings") {
        let subject = match words.as_slice() {
            ["ServiceAccount", path] => {
                let (namespace, name) = path.split_once('/').unwrap_or(("", path));
                json!({ "kind": "ServiceAccount", "name": name, "namespace": namespace })
            }
            [kind, name] => json!({ "kind": kind, "apiGroup": GROUP, "name": name }),
            _ => return,
        };
        push(&mut entry.object, "subjects", subject);
        return;
    }
    let rule = match words.as_slice() {
        [verbs, urls] => Rule { verbs: list(verbs), urls: list(urls), ..Rule::default() },
        [verbs, groups, resources, names @ ..] => Rule {
            verbs: list(verbs),
            api_groups: list(groups),
            resources: list(resources),
            resource_names: names.first().map(|n| list(n)).unwrap_or_default(),
            urls: Vec::new(),
        },
        _ => return,
    };
    push(&mut entry.object, "rules", rule.to_value());
}

fn push(object: &mut Value, field: &str, item: Value) {
    match object.get_mut(field).and_then(Value::as_array_mut) {
        Some(items) => items.push(item),
        None => object[field] = json!([item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_policy_is_understood() {
        let entries = entries();
        let count = |resource: &str| entries.iter().filter(|e| e.resource == resource).count();
        let heads = TEXT.lines().filter(|l| !l.is_empty() && !l.starts_with([' ', '#'])).count();
        assert_eq!(entries.len(), heads);
        let parts = |e: &Entry| {
            let field = if e.resource.ends_with("bindings") { "subjects" } else { "rules" };
            e.object.get(field).and_then(Value::as_array).map_or(0, Vec::len)
        };
        let lines = TEXT.lines().filter(|l| l.starts_with("  ")).count();
        assert_eq!(entries.iter().map(parts).sum::<usize>(), lines);
        assert!(count("clusterroles") > 50 && count("clusterrolebindings") > 40 && count("roles") > 5 && count("rolebindings") > 5);
    }

    #[test]
    fn the_policy_reads_as_upstream_has_it() {
        let entries = entries();
        let find = |resource: &str, name: &str| &entries.iter().find(|e| e.resource == resource && e.name == name).unwrap().object;
        assert_eq!(find("clusterroles", "cluster-admin")["rules"][1], json!({ "verbs": ["*"], "nonResourceURLs": ["*"] }));
        assert_eq!(
            find("clusterroles", "edit")["aggregationRule"],
            json!({ "clusterRoleSelectors": [{ "matchLabels": { "rbac.authorization.k8s.io/aggregate-to-edit": "true" } }] })
        );
        assert_eq!(find("clusterroles", "edit")["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"], "true");
        let signer = find("roles", "system:controller:bootstrap-signer");
        assert_eq!(signer["rules"][0]["apiGroups"], json!([""]));
    }
}
