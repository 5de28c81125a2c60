//! Entries of the resource table.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::priority::Priority;
use super::{GroupVersion, Kind, Resource, Subresource};
use crate::registry::{self, Definition, Scope};

/// Built-in kinds that are stored in another version than the one that lists them, in the same group or another:
/// (group, kind, group and version stored).
const STORED_AS: &[(&str, &str, &str, &str)] = &[
    ("autoscaling", "HorizontalPodAutoscaler", "autoscaling", "v2"),
    ("events.k8s.io", "Event", "", "v1"),
    ("apiextensions.k8s.io", "CustomResourceDefinition", "apiextensions.k8s.io", "v1beta1"),
    ("certificates.k8s.io", "ClusterTrustBundle", "certificates.k8s.io", "v1beta1"),
    ("certificates.k8s.io", "PodCertificateRequest", "certificates.k8s.io", "v1beta1"),
    ("resource.k8s.io", "DeviceTaintRule", "resource.k8s.io", "v1beta2"),
    ("storagemigration.k8s.io", "StorageVersionMigration", "storagemigration.k8s.io", "v1beta1"),
];

/// The version that a built-in kind is stored in, where that is not the one that lists it, in the same group.
pub fn stored_version(group: &str, kind: &str) -> Option<&'static str> {
    STORED_AS.iter().find(|(g, k, stored_group, _)| *g == group && *k == kind && *stored_group == group).map(|(.., version)| *version)
}

/// The table's resources, an entry for each group and version, resources by name.
pub fn group_versions(definitions: &[&Definition]) -> Vec<GroupVersion> {
    let mut entries: Vec<GroupVersion> = Vec::new();
    for definition in definitions {
        let resource = resource(definition);
        match entries.iter_mut().find(|e| e.group == definition.group && e.version == definition.version) {
            Some(entry) => entry.resources.push(resource),
            None => entries.push(GroupVersion {
                group: definition.group.to_owned(),
                version: definition.version.to_owned(),
                priority: Priority::of(definition.group, definition.version),
                resources: vec![resource],
                explicit_kinds: false,
                stale: false,
            }),
        }
    }
    for entry in &mut entries {
        entry.resources.sort_by(|a, b| a.plural.cmp(&b.plural));
    }
    entries
}

/// base64 of the first eight bytes of the SHA-256 of `group/version/kind`: changes when the storage version does.
pub fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("{group}/{version}/{kind}").as_bytes());
    STANDARD.encode(&digest.as_ref()[..8])
}

fn resource(definition: &Definition) -> Resource {
    let stored = STORED_AS.iter().find(|(group, kind, ..)| *group == definition.group && *kind == definition.kind);
    let (group, version) = stored.map_or((definition.group, definition.version), |(_, _, group, version)| (group, version));
    // What can be watched is stored.
    let is_stored = definition.verbs.contains(&"watch");
    let mut subresources: Vec<Subresource> = definition.subresources.iter().map(|s| subresource(definition, s)).collect();
    subresources.sort_by(|a, b| a.name.cmp(&b.name));
    Resource {
        plural: definition.plural.to_owned(),
        singular: definition.singular.to_owned(),
        namespaced: definition.scope == Scope::Namespaced,
        kind: Kind::own(definition.kind),
        verbs: owned(definition.verbs),
        short_names: owned(definition.short_names),
        categories: owned(definition.categories),
        storage_version_hash: if is_stored { storage_version_hash(group, version, definition.kind) } else { String::new() },
        subresources,
    }
}

fn subresource(of: &Definition, subresource: &registry::Subresource) -> Subresource {
    let own = subresource.group == of.group && subresource.version == of.version;
    Subresource {
        name: subresource.name.to_owned(),
        kind: if own { Kind::own(subresource.kind) } else { Kind::of(subresource.kind, subresource.group, subresource.version) },
        verbs: owned(subresource.verbs),
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use apimachinery::field::ErrorList;
    use serde_json::{Value, json};

    use super::super::{Index, aggregated, documents};
    use super::*;
    use crate::registry::{ALL_VERBS, Behaviour, CREATE_ONLY, Cx, Printer, SUBRESOURCE_VERBS, Strategy, UpdateStrategy};

    struct Nothing;

    impl UpdateStrategy for Nothing {
        fn prepare_for_update(&self, _: &Cx<'_>, _: &mut Value, _: &Value) {}
        fn validate_update(&self, _: &Cx<'_>, _: &Value, _: &Value) -> ErrorList {
            ErrorList::new()
        }
    }

    impl Strategy for Nothing {
        fn prepare_for_create(&self, _: &Cx<'_>, _: &mut Value) {}
        fn validate(&self, _: &Cx<'_>, _: &Value) -> ErrorList {
            ErrorList::new()
        }
    }

    const PODS: Definition = Definition {
        group: "",
        version: "v1",
        plural: "pods",
        singular: "pod",
        kind: "Pod",
        scope: Scope::Namespaced,
        verbs: ALL_VERBS,
        short_names: &["po"],
        categories: &["all"],
        schema: "io.k8s.api.core.v1.Pod",
        name: |_, _| Vec::new(),
        strategy: &Nothing,
        subresources: &[
            registry::Subresource {
                name: "status",
                group: "",
                version: "v1",
                kind: "Pod",
                verbs: SUBRESOURCE_VERBS,
                behaviour: Behaviour::Object { strategy: &Nothing, reset_fields: &[] },
            },
            registry::Subresource {
                name: "eviction",
                group: "policy",
                version: "v1",
                kind: "Eviction",
                verbs: CREATE_ONLY,
                behaviour: Behaviour::Endpoint,
            },
        ],
        selectable: &[("spec.nodeName", |_| Cow::Borrowed(""))],
        printer: Printer { columns: &[], cells: |_, _| Vec::new() },
        reset_fields: &["status"],
    };

    const BINDINGS: Definition = Definition {
        plural: "bindings",
        singular: "binding",
        kind: "Binding",
        verbs: CREATE_ONLY,
        short_names: &[],
        categories: &[],
        subresources: &[],
        ..PODS
    };

    #[test]
    fn definitions_are_listed_by_name_with_their_subresources() {
        let index = Index::new(group_versions(&[&PODS, &BINDINGS]));
        assert_eq!(
            documents::resources(&index, "", "v1").expect("served").to_string(),
            json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
                {"name": "bindings", "singularName": "binding", "namespaced": true, "kind": "Binding", "verbs": ["create"]},
                {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ALL_VERBS, "shortNames": ["po"],
                 "categories": ["all"], "storageVersionHash": "xPOwRZ+Yhw8="},
                {"name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy", "version": "v1", "kind": "Eviction",
                 "verbs": ["create"]},
                {"name": "pods/status", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": SUBRESOURCE_VERBS},
            ]})
            .to_string()
        );
        assert_eq!(
            index.aggregated(true).value().to_string(),
            json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": [
                {"metadata": {}, "versions": [{"version": "v1", "resources": [
                    {"resource": "bindings", "responseKind": {"group": "", "version": "", "kind": "Binding"}, "scope": "Namespaced",
                     "singularResource": "binding", "verbs": ["create"]},
                    {"resource": "pods", "responseKind": {"group": "", "version": "", "kind": "Pod"}, "scope": "Namespaced",
                     "singularResource": "pod", "verbs": ALL_VERBS, "shortNames": ["po"], "categories": ["all"], "subresources": [
                        {"subresource": "eviction", "responseKind": {"group": "policy", "version": "v1", "kind": "Eviction"}, "verbs": ["create"]},
                        {"subresource": "status", "responseKind": {"group": "", "version": "", "kind": "Pod"}, "verbs": SUBRESOURCE_VERBS},
                     ]},
                ], "freshness": "Current"}]},
            ]})
            .to_string()
        );
        assert_eq!(documents::apis(&index)["groups"], json!([]));
        assert_eq!(documents::paths(&index, &["/version"]), json!({"paths": ["/api", "/api/v1", "/apis", "/apis/", "/version"]}));
        assert_eq!(aggregated::etag(b"")[..16], *"CF83E1357EEFB8BD");
    }

    #[test]
    fn storage_version_hashes_are_those_of_upstream() {
        assert_eq!(storage_version_hash("", "v1", "Pod"), "xPOwRZ+Yhw8=");
        assert_eq!(storage_version_hash("apps", "v1", "DaemonSet"), "dd7pWHUlMKQ=");
        assert_eq!(storage_version_hash("autoscaling", "v2", "HorizontalPodAutoscaler"), "qwQve8ut294=");
        assert_eq!(storage_version_hash("apiextensions.k8s.io", "v1beta1", "CustomResourceDefinition"), "jfWCUB31mvA=");
    }
}
