//! Entries of CustomResourceDefinitions.

use std::collections::BTreeMap;

use serde_json::Value;

use super::builtin::storage_version_hash;
use super::priority::CUSTOM;
use super::{GroupVersion, Kind, Resource, Subresource};

/// The verbs of a custom resource, in upstream's order, which is not the alphabet's.
const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
/// The verbs left when the definition is being deleted.
const VERBS_WHILE_TERMINATING: [&str; 5] = ["delete", "deletecollection", "get", "list", "watch"];
const SUBRESOURCE_VERBS: [&str; 3] = ["get", "patch", "update"];

/// An entry for each served version of a definition, if it is established.
pub fn group_versions(definition: &Value) -> Vec<GroupVersion> {
    if !has_condition(definition, "Established") {
        return Vec::new();
    }
    let group = text(definition, "/spec/group");
    let served = versions(definition).filter(|v| v["served"] == Value::Bool(true));
    let entry = |version: &Value| GroupVersion {
        group: group.to_owned(),
        version: text(version, "/name").to_owned(),
        priority: CUSTOM,
        resources: vec![resource(definition, version)],
        explicit_kinds: true,
        stale: false,
    };
    served.map(entry).collect()
}

/// Entries of the definitions of one group, each version once, its resources by name.
pub fn join<'e>(entries: impl IntoIterator<Item = &'e GroupVersion>) -> Vec<GroupVersion> {
    let mut joined: BTreeMap<&str, GroupVersion> = BTreeMap::new();
    for entry in entries {
        match joined.get_mut(&*entry.version) {
            Some(known) => known.resources.extend(entry.resources.iter().cloned()),
            None => {
                joined.insert(&entry.version, entry.clone());
            }
        }
    }
    let mut joined: Vec<GroupVersion> = joined.into_values().collect();
    joined.iter_mut().for_each(|entry| entry.resources.sort_by(|a, b| a.plural.cmp(&b.plural)));
    joined
}

fn resource(definition: &Value, version: &Value) -> Resource {
    let kind = text(definition, "/status/acceptedNames/kind");
    // The hash is that of the storage version, but only if it is served.
    let stored = versions(definition).find(|v| v["storage"] == Value::Bool(true) && v["served"] == Value::Bool(true));
    let verbs: &[&str] = if has_condition(definition, "Terminating") { &VERBS_WHILE_TERMINATING } else { &VERBS };
    let mut subresources = Vec::new();
    if version.pointer("/subresources/status").is_some_and(|s| !s.is_null()) {
        subresources.push(Subresource { name: "status".to_owned(), kind: Kind::own(kind), verbs: owned(&SUBRESOURCE_VERBS) });
    }
    if version.pointer("/subresources/scale").is_some_and(|s| !s.is_null()) {
        let kind = Kind::of("Scale", "autoscaling", "v1");
        subresources.push(Subresource { name: "scale".to_owned(), kind, verbs: owned(&SUBRESOURCE_VERBS) });
    }
    Resource {
        plural: text(definition, "/status/acceptedNames/plural").to_owned(),
        singular: text(definition, "/status/acceptedNames/singular").to_owned(),
        namespaced: text(definition, "/spec/scope") == "Namespaced",
        kind: Kind::own(kind),
        verbs: owned(verbs),
        short_names: texts(definition, "/status/acceptedNames/shortNames"),
        categories: texts(definition, "/status/acceptedNames/categories"),
        storage_version_hash: stored.map_or_else(String::new, |v| {
            storage_version_hash(text(definition, "/spec/group"), text(v, "/name"), text(definition, "/spec/names/kind"))
        }),
        subresources,
    }
}

fn has_condition(definition: &Value, name: &str) -> bool {
    let conditions = definition.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == name && c["status"] == "True"))
}

fn versions(definition: &Value) -> impl Iterator<Item = &Value> {
    definition.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten()
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn texts(value: &Value, pointer: &str) -> Vec<String> {
    let items = value.pointer(pointer).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Index, documents};
    use super::*;

    fn definition(established: &str) -> Value {
        json!({
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"kind": "App"},
                "versions": [
                    {"name": "v1beta1", "served": true, "storage": false},
                    {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale": {"specReplicasPath": ".x"}}},
                    {"name": "v0", "served": false, "storage": false},
                ],
            },
            "status": {
                "acceptedNames": {"plural": "apps", "singular": "app", "kind": "App", "shortNames": ["ap"], "categories": ["all"]},
                "conditions": [{"type": "Established", "status": established}],
            },
        })
    }

    #[test]
    fn an_established_definition_is_listed_in_each_served_version() {
        let index = Index::new(group_versions(&definition("True")));
        assert_eq!(
            documents::group(&index, "example.com"),
            Some(json!({
                "kind": "APIGroup", "apiVersion": "v1", "name": "example.com",
                "versions": [{"groupVersion": "example.com/v1", "version": "v1"}, {"groupVersion": "example.com/v1beta1", "version": "v1beta1"}],
                "preferredVersion": {"groupVersion": "example.com/v1", "version": "v1"},
            }))
        );
        let resources = documents::resources(&index, "example.com", "v1").expect("served");
        assert_eq!(
            resources["resources"],
            json!([
                {"name": "apps", "singularName": "app", "namespaced": true, "kind": "App", "verbs": VERBS, "shortNames": ["ap"],
                 "categories": ["all"], "storageVersionHash": storage_version_hash("example.com", "v1", "App")},
                {"name": "apps/status", "singularName": "", "namespaced": true, "kind": "App", "verbs": SUBRESOURCE_VERBS},
                {"name": "apps/scale", "singularName": "", "namespaced": true, "group": "autoscaling", "version": "v1", "kind": "Scale",
                 "verbs": SUBRESOURCE_VERBS},
            ])
        );
        let aggregated = index.aggregated(false).value();
        assert_eq!(
            aggregated.pointer("/items/0/versions/0/resources/0/responseKind"),
            Some(&json!({"group": "example.com", "version": "v1", "kind": "App"}))
        );
        assert_eq!(documents::resources(&index, "example.com", "v0"), None);
    }

    #[test]
    fn a_definition_that_is_not_established_is_not_listed() {
        assert_eq!(group_versions(&definition("False")), Vec::new());
    }
}
