//! core/v1 Namespace: its finalizers, its phase, and how its deletion begins and ends.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{name_is_dns_label, validate_finalizer_name};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::registry::defaulting::{existing, is_empty, nested, set_if_empty};
use crate::registry::printer::{self, AGE, NAME};
use crate::registry::read::{at, list_at, str_at};
use crate::registry::strategy::{keep_all_but_status, keep_status, set_field};
use crate::registry::{
    Behaviour, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy, Verbs,
};

/// The label that every namespace carries, with its own name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const KUBERNETES: &str = "kubernetes";
/// Namespaces are not deleted in bulk.
const VERBS: Verbs = &["create", "delete", "get", "list", "patch", "update", "watch"];

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "namespaces",
    singular: "namespace",
    kind: "Namespace",
    scope: Scope::Cluster,
    verbs: VERBS,
    short_names: &["ns"],
    categories: &[],
    schema: "io.k8s.api.core.v1.Namespace",
    name: name_is_dns_label,
    strategy: &NamespaceStrategy,
    subresources: &[
        Subresource {
            name: "finalize",
            group: "",
            version: "v1",
            kind: "Namespace",
            verbs: &["update"],
            behaviour: Behaviour::Object { strategy: &FinalizeStrategy, reset_fields: &["status"] },
        },
        Subresource {
            name: "status",
            group: "",
            version: "v1",
            kind: "Namespace",
            verbs: SUBRESOURCE_VERBS,
            behaviour: Behaviour::Object { strategy: &StatusStrategy, reset_fields: &["spec"] },
        },
    ],
    selectable: &[("status.phase", |namespace| str_at(namespace, "/status/phase").into())],
    printer: Printer {
        columns: &[NAME, printer::text("Status", Description::Text("The status of the namespace")), AGE],
        cells: |object, now| vec![printer::name(object), str_at(object, "/status/phase").into(), printer::object_age(object, now)],
    },
    reset_fields: &["status"],
};

/// A namespace has its name as a label, and is active unless it says otherwise.
pub fn default_namespace(namespace: &mut Map<String, Value>) {
    if let Some(status) = nested(namespace, "status") {
        set_if_empty(status, "phase", "Active");
    }
    let Some(metadata) = existing(namespace, "metadata") else { return };
    if !is_empty(metadata, "name") {
        label_with_name(metadata);
    }
}

fn label_with_name(metadata: &mut Map<String, Value>) {
    let name = metadata.get("name").cloned().unwrap_or_default();
    if let Some(labels) = nested(metadata, "labels") {
        labels.insert(NAME_LABEL.to_owned(), name);
    }
}

/// Generated names and labels that an update dropped: the label is there in any case.
fn ensure_label(namespace: &mut Value) {
    if let Some(metadata) = namespace.get_mut("metadata").and_then(Value::as_object_mut) {
        label_with_name(metadata);
    }
}

/// The first step of a deletion: the namespace is terminating, and stays until its `spec.finalizers` are gone.
pub fn begin_deletion(namespace: &mut Value, now: Timestamp) {
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    if at(namespace, "/metadata/deletionTimestamp").is_null()
        && let Some(metadata) = namespace.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.insert("deletionTimestamp".to_owned(), second.to_string().into());
    }
    match namespace.get_mut("status").and_then(Value::as_object_mut) {
        Some(status) => {
            status.insert("phase".to_owned(), "Terminating".into());
        }
        None => set_field(namespace, "status", json!({"phase": "Terminating"})),
    }
}

/// Whether a namespace that is being deleted waits for its content to be removed.
pub fn awaits_content_removal(namespace: &Value) -> bool {
    !list_at(namespace, "/spec/finalizers").is_empty()
}

struct NamespaceStrategy;

impl UpdateStrategy for NamespaceStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        let mut spec = at(new, "/spec").as_object().cloned().unwrap_or_default();
        match old.pointer("/spec/finalizers") {
            Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers.clone()),
            None => spec.shift_remove("finalizers"),
        };
        set_field(new, "spec", spec);
        keep_status(new, old);
        ensure_label(new);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        validate(new)
    }
}

impl Strategy for NamespaceStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_field(new, "status", json!({"phase": "Active"}));
        let mut finalizers = list_at(new, "/spec/finalizers").to_vec();
        if !finalizers.iter().any(|f| f == KUBERNETES) {
            finalizers.push(KUBERNETES.into());
        }
        let mut spec = at(new, "/spec").as_object().cloned().unwrap_or_default();
        spec.insert("finalizers".to_owned(), finalizers.into());
        set_field(new, "spec", spec);
        ensure_label(new);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(new)
    }
}

struct StatusStrategy;

impl UpdateStrategy for StatusStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        ensure_label(new);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        let phase = str_at(new, "/status/phase");
        let (wanted, when) = match at(new, "/metadata/deletionTimestamp") {
            Value::Null => ("Active", "empty"),
            _ => ("Terminating", "not empty"),
        };
        if phase == wanted {
            return ErrorList::new();
        }
        let status = Path::new("status");
        vec![Error::invalid(&status.child("Phase"), phase, format!("may only be '{wanted}' if `deletionTimestamp` is {when}"))]
    }
}

struct FinalizeStrategy;

impl UpdateStrategy for FinalizeStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        ensure_label(new);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        let spec = Path::new("spec");
        let path = spec.child("finalizers");
        let finalizers = list_at(new, "/spec/finalizers").iter().enumerate();
        finalizers.flat_map(|(i, name)| validate_finalizer(name.as_str().unwrap_or(""), &path.index(i))).collect()
    }
}

fn validate(namespace: &Value) -> ErrorList {
    let spec = Path::new("spec");
    let path = spec.child("finalizers");
    let finalizers = list_at(namespace, "/spec/finalizers").iter();
    finalizers.flat_map(|name| validate_finalizer(name.as_str().unwrap_or(""), &path)).collect()
}

fn validate_finalizer(name: &str, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_finalizer_name(name, path);
    if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
        errors.push(Error::invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::core::tests::{cx, messages};

    #[test]
    fn a_new_namespace_is_active_and_finalized_by_kubernetes() {
        let mut namespace = json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["x/y"]}, "status": {"phase": "Terminating"}});
        NamespaceStrategy.prepare_for_create(&cx(), &mut namespace);
        assert_eq!(namespace["status"], json!({"phase": "Active"}));
        assert_eq!(namespace["spec"], json!({"finalizers": ["x/y", "kubernetes"]}));
        assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "a"}));
    }

    #[test]
    fn an_update_cannot_change_finalizers_or_the_label() {
        let old = json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let mut new = json!({"metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "b"}}, "spec": {}});
        NamespaceStrategy.prepare_for_update(&cx(), &mut new, &old);
        assert_eq!(new["spec"], old["spec"]);
        assert_eq!(new["status"], old["status"]);
        assert_eq!(new["metadata"]["labels"]["kubernetes.io/metadata.name"], "a");
    }

    #[test]
    fn the_phase_agrees_with_deletion() {
        let active = json!({"metadata": {}, "status": {"phase": "Terminating"}});
        assert_eq!(
            messages(&StatusStrategy.validate_update(&cx(), &active, &active)),
            ["status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"]
        );
        let mut dying = json!({"metadata": {}, "status": {"phase": "Active"}});
        begin_deletion(&mut dying, Timestamp::from_millisecond(1500).unwrap());
        assert_eq!(dying, json!({"metadata": {"deletionTimestamp": "1970-01-01T00:00:01Z"}, "status": {"phase": "Terminating"}}));
        assert!(StatusStrategy.validate_update(&cx(), &dying, &dying).is_empty());
    }

    #[test]
    fn finalizers_are_standard_or_qualified() {
        let namespace = json!({"metadata": {}, "spec": {"finalizers": ["bogus"]}});
        assert_eq!(
            messages(&FinalizeStrategy.validate_update(&cx(), &namespace, &namespace)),
            ["spec.finalizers[0]: Invalid value: \"bogus\": name is neither a standard finalizer name nor is it fully qualified"]
        );
    }
}
