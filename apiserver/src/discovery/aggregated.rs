//! Aggregated discovery (`apidiscovery.k8s.io/v2` APIGroupDiscoveryList): everything in one document.

use serde_json::{Map, Value, json};

use super::{GroupVersion, Index, Kind, Resource};

/// `/api`: the core group alone, without a name.
pub fn api(index: &Index) -> Value {
    list(index.groups().filter(|versions| versions[0].group.is_empty()))
}

/// `/apis`: all other groups.
pub fn apis(index: &Index) -> Value {
    list(index.groups().filter(|versions| !versions[0].group.is_empty()))
}

/// The ETag of a document, without its quotes: the SHA-512 of its text in upper-case hexadecimal.
pub fn etag(document: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA512, document);
    digest.as_ref().iter().map(|b| format!("{b:02X}")).collect()
}

fn list<'i>(groups: impl Iterator<Item = &'i [GroupVersion]>) -> Value {
    let items: Vec<Value> = groups.map(group).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn group(versions: &[GroupVersion]) -> Value {
    let name = &versions[0].group;
    let metadata = if name.is_empty() { json!({}) } else { json!({ "name": name }) };
    json!({"metadata": metadata, "versions": versions.iter().map(version).collect::<Vec<_>>()})
}

fn version(entry: &GroupVersion) -> Value {
    let mut fields = Map::new();
    fields.insert("version".to_owned(), entry.version.as_str().into());
    if !entry.resources.is_empty() {
        fields.insert("resources".to_owned(), entry.resources.iter().map(|r| resource(entry, r)).collect());
    }
    fields.insert("freshness".to_owned(), if entry.stale { "Stale" } else { "Current" }.into());
    Value::Object(fields)
}

fn resource(entry: &GroupVersion, resource: &Resource) -> Value {
    let mut fields = Map::new();
    fields.insert("resource".to_owned(), resource.plural.as_str().into());
    fields.insert("responseKind".to_owned(), response_kind(entry, &resource.kind));
    fields.insert("scope".to_owned(), if resource.namespaced { "Namespaced" } else { "Cluster" }.into());
    fields.insert("singularResource".to_owned(), resource.singular.as_str().into());
    fields.insert("verbs".to_owned(), resource.verbs.clone().into());
    for (field, words) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !words.is_empty() {
            fields.insert(field.to_owned(), words.clone().into());
        }
    }
    if !resource.subresources.is_empty() {
        let subresource =
            |s: &super::Subresource| json!({"subresource": s.name, "responseKind": response_kind(entry, &s.kind), "verbs": s.verbs});
        fields.insert("subresources".to_owned(), resource.subresources.iter().map(subresource).collect());
    }
    Value::Object(fields)
}

fn response_kind(entry: &GroupVersion, kind: &Kind) -> Value {
    let (group, version) = match &kind.foreign {
        Some((group, version)) => (group.as_str(), version.as_str()),
        None if entry.explicit_kinds => (entry.group.as_str(), entry.version.as_str()),
        None => ("", ""),
    };
    json!({"group": group, "version": version, "kind": kind.kind})
}
