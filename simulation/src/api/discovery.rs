//! What is served, as aggregated discovery tells it.

use serde_json::{Value, json};

use super::kinds::KINDS;

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The groups: that of the core, or all others.
pub fn groups(core: bool) -> Value {
    let mut groups: Vec<&str> = KINDS.iter().map(|kind| kind.group).filter(|group| group.is_empty() == core).collect();
    groups.dedup();
    groups.sort_unstable();
    groups.dedup();
    let items: Vec<Value> = groups.into_iter().map(group).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn group(name: &str) -> Value {
    let resources = KINDS.iter().filter(|kind| kind.group == name).map(|kind| {
        json!({
            "resource": kind.plural, "singularResource": kind.kind.to_lowercase(), "verbs": VERBS,
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        })
    });
    let resources: Vec<Value> = resources.collect();
    json!({"metadata": {"name": name}, "versions": [{"version": "v1", "resources": resources, "freshness": "Current"}]})
}
