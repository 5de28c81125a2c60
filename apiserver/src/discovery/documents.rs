//! The documents of `/`, `/api`, `/apis`, `/version` and of groups and versions, with fields in upstream's order.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Entry, Index, Kind, Resource};

/// `/api`. `server_address` is what clients of any address are told, `host:port`.
pub fn api(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `/apis`.
pub fn apis(index: &Index) -> Value {
    let mut groups: Vec<&[Arc<Entry>]> = index.groups().filter(|versions| !versions[0].group.is_empty()).collect();
    // Groups of equal priority stand here by the first name of their APIServices (`v1.apps`), not by their own.
    groups.sort_by_key(|versions| {
        let priority = versions.iter().map(|v| v.priority.group).max().unwrap_or_default();
        let top = versions.iter().filter(|v| v.priority.group == priority);
        (std::cmp::Reverse(priority), top.map(|v| format!("{}.{}", v.version.version, v.group)).min())
    });
    let groups: Vec<Value> = groups.into_iter().map(|versions| Value::Object(group_fields(versions))).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`; `None` if the group is not served.
pub fn group(index: &Index, group: &str) -> Option<Value> {
    let versions = index.group(group);
    if group.is_empty() || versions.is_empty() {
        return None;
    }
    let mut document = Map::new();
    document.insert("kind".to_owned(), "APIGroup".into());
    document.insert("apiVersion".to_owned(), "v1".into());
    document.extend(group_fields(versions));
    Some(Value::Object(document))
}

/// `/api/v1` (with the empty group) and `/apis/<group>/<version>`; `None` if the version is not served.
pub fn resources(index: &Index, group: &str, version: &str) -> Option<Value> {
    let entry = index.get(group, version)?;
    let mut document = Map::new();
    document.insert("kind".to_owned(), "APIResourceList".into());
    if !group.is_empty() {
        // The core group's lists have had no apiVersion since before there were groups.
        document.insert("apiVersion".to_owned(), "v1".into());
    }
    document.insert("groupVersion".to_owned(), entry.name().into());
    document.insert("resources".to_owned(), entry.resources.iter().flat_map(api_resources).collect());
    Some(Value::Object(document))
}

/// `/`: the paths of discovery and the given ones, sorted.
pub fn paths(index: &Index, others: &[&str]) -> Value {
    let mut paths: Vec<String> = others.iter().map(|p| (*p).to_owned()).collect();
    paths.extend(["/api", "/apis", "/apis/"].map(str::to_owned));
    for entry in index.entries() {
        if entry.group.is_empty() {
            paths.push(format!("/api/{}", entry.version.version));
        } else {
            paths.push(format!("/apis/{}", entry.group));
            paths.push(format!("/apis/{}/{}", entry.group, entry.version.version));
        }
    }
    paths.sort();
    paths.dedup();
    json!({ "paths": paths })
}

/// How this binary was built.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    pub git_commit: &'static str,
    pub git_tree_state: &'static str,
    /// RFC 3339.
    pub build_date: &'static str,
    /// What upstream's `goVersion` and `compiler` say of Go.
    pub toolchain: &'static str,
    pub compiler: &'static str,
    /// `linux/amd64`.
    pub platform: &'static str,
}

/// The version of the API that is served.
pub const GIT_VERSION: &str = "v1.37.2";
pub const MAJOR: &str = "1";
pub const MINOR: &str = "37";
/// The same as OpenAPI documents have it: which API a server emulates is told without a patch.
pub const EMULATED_VERSION: &str = "1.37";

/// `/version`.
pub fn version(build: &Build) -> Value {
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "emulationMajor": MAJOR,
        "emulationMinor": MINOR,
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "36",
        "gitVersion": GIT_VERSION,
        "gitCommit": build.git_commit,
        "gitTreeState": build.git_tree_state,
        "buildDate": build.build_date,
        "goVersion": build.toolchain,
        "compiler": build.compiler,
        "platform": build.platform,
    })
}

fn group_fields(versions: &[Arc<Entry>]) -> Map<String, Value> {
    let listed: Vec<Value> = versions.iter().map(|v| json!({"groupVersion": v.name(), "version": v.version.version})).collect();
    let mut fields = Map::new();
    fields.insert("name".to_owned(), versions[0].group.as_str().into());
    let preferred = listed[0].clone();
    fields.insert("versions".to_owned(), Value::Array(listed));
    fields.insert("preferredVersion".to_owned(), preferred);
    fields
}

/// A resource and its subresources, which stand behind it.
fn api_resources(resource: &Resource) -> Vec<Value> {
    let mut main = api_resource(&resource.plural, &resource.singular, resource.namespaced, &resource.kind, &resource.verbs);
    for (field, words) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !words.is_empty() {
            main.insert(field.to_owned(), words.clone().into());
        }
    }
    if !resource.storage_version_hash.is_empty() {
        main.insert("storageVersionHash".to_owned(), resource.storage_version_hash.as_str().into());
    }
    let subresources = resource.subresources.iter().map(|s| {
        let name = format!("{}/{}", resource.plural, s.name);
        Value::Object(api_resource(&name, "", resource.namespaced, &s.kind, &s.verbs))
    });
    std::iter::once(Value::Object(main)).chain(subresources).collect()
}

fn api_resource(name: &str, singular: &str, namespaced: bool, kind: &Kind, verbs: &[String]) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("name".to_owned(), name.into());
    fields.insert("singularName".to_owned(), singular.into());
    fields.insert("namespaced".to_owned(), namespaced.into());
    if let Some((group, version)) = &kind.foreign {
        if !group.is_empty() {
            fields.insert("group".to_owned(), group.as_str().into());
        }
        fields.insert("version".to_owned(), version.as_str().into());
    }
    fields.insert("kind".to_owned(), kind.kind.as_str().into());
    fields.insert("verbs".to_owned(), verbs.into());
    fields
}
