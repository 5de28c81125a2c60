//! The resource table and what is particular about each resource.
//!
//! One folder per API group, one file per kind: its [`Definition`] (names, scope, verbs, subresources,
//! selectable fields, printer columns), its [`Strategy`] and its validation. A kind's file is pure: it
//! maps values to values and errors. It never performs I/O, never names a store, and never sees HTTP.

pub mod admissionregistration;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod authentication;
pub mod authorization;
pub mod autoscaling;
pub mod batch;
pub mod cells;
pub mod certificates;
pub mod conditions;
pub mod coordination;
pub mod core;
pub mod declared;
pub mod defaulting;
pub mod diff;
pub mod discovery;
pub mod events;
pub mod flowcontrol;
pub mod go_struct;
pub mod internal_form;
pub mod networking;
pub mod node;
pub mod policy;
pub mod printer;
pub mod rbac;
pub mod read;
pub mod resource;
pub mod scheduling;
pub mod storage;
pub mod storagemigration;
pub mod strategy;
pub mod table;

use std::borrow::Cow;

use apimachinery::field::ErrorList;
use jiff::Timestamp;
use serde_json::Value;

use crate::catalog::{Conversion, Versioned};

/// What a strategy may know about the request.
pub struct Cx<'a> {
    pub now: Timestamp,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// The namespace of the request; empty for cluster-scoped resources.
    pub namespace: &'a str,
    /// The user who asks.
    pub user: &'a str,
    /// Empty where the user has none.
    pub uid: &'a str,
    pub groups: &'a [String],
    /// Extra attributes of the user, sorted by key.
    pub extra: &'a [(String, Vec<String>)],
}

/// The rules of an update to a resource or to one of its subresources.
pub trait UpdateStrategy: Send + Sync {
    /// Resets what this endpoint may not set (a main endpoint keeps the old `status`; a status endpoint keeps
    /// everything else), and computes `metadata.generation`. Both objects are defaulted and canonical.
    fn prepare_for_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value);

    /// All field errors. The object's metadata has been checked already.
    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList;

    /// Texts for `Warning` headers, in order.
    fn warnings_on_update(&self, _cx: &Cx<'_>, _new: &Value, _old: &Value) -> Vec<String> {
        Vec::new()
    }
}

/// The rules of a resource.
pub trait Strategy: UpdateStrategy {
    /// Resets what a creator may not set (usually `status`), and sets `metadata.generation` where the kind has one.
    fn prepare_for_create(&self, cx: &Cx<'_>, new: &mut Value);

    /// All field errors. The object's metadata has been checked already.
    fn validate(&self, cx: &Cx<'_>, new: &Value) -> ErrorList;

    /// As [`Strategy::validate`], with what has been found in the metadata, which comes first for all kinds but one.
    fn validate_whole(&self, cx: &Cx<'_>, new: &Value, metadata: ErrorList) -> ErrorList {
        let mut errors = metadata;
        errors.extend(self.validate(cx, new));
        errors
    }

    /// [`Strategy::validate_whole`] and, if that finds nothing, [`Strategy::warnings_on_create`].
    fn check_new(&self, cx: &Cx<'_>, new: &Value, metadata: ErrorList) -> (ErrorList, Vec<String>) {
        let errors = self.validate_whole(cx, new, metadata);
        let warnings = if errors.is_empty() { self.warnings_on_create(cx, new) } else { Vec::new() };
        (errors, warnings)
    }

    /// Texts for `Warning` headers, in order.
    fn warnings_on_create(&self, _cx: &Cx<'_>, _new: &Value) -> Vec<String> {
        Vec::new()
    }

    /// A PUT to an absent name creates it.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// A PUT without `metadata.resourceVersion` overwrites.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// For kinds that are deleted gracefully (pods): the grace period in seconds that a deletion asked for with
    /// `requested` gets, or `None` for an immediate deletion.
    fn grace_period_seconds(&self, _cx: &Cx<'_>, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// What becomes of dependents when the request does not say: upstream's default garbage collection policy.
    fn default_propagation(&self) -> Propagation {
        Propagation::Background
    }
}

/// What a deletion does to dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// The verbs of discovery, in the order in which discovery lists them (alphabetical).
pub type Verbs = &'static [&'static str];

/// create, delete, deletecollection, get, list, patch, update, watch.
pub const ALL_VERBS: Verbs = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// get, patch, update: a status or scale subresource.
pub const SUBRESOURCE_VERBS: Verbs = &["get", "patch", "update"];
/// create alone: reviews, bindings, evictions.
pub const CREATE_ONLY: Verbs = &["create"];

/// Reads the field that a selector compares.
pub type Select = fn(&Value) -> Cow<'_, str>;

/// One kind of one API version.
pub struct Definition {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub scope: Scope,
    pub verbs: Verbs,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    /// The schema's definition name, such as `io.k8s.api.apps.v1.Deployment`.
    pub schema: &'static str,
    /// How `metadata.name` (or a `generateName` prefix) is checked: messages without a path. See `apimachinery::validation`.
    pub name: fn(name: &str, prefix: bool) -> Vec<String>,
    pub strategy: &'static dyn Strategy,
    pub subresources: &'static [Subresource],
    /// Fields beyond `metadata.name` (and `metadata.namespace`) that field selectors can name, with their values as
    /// selectors compare them ("" for absent).
    pub selectable: &'static [(&'static str, Select)],
    /// The Table's columns and the cells of one object, in the same order.
    pub printer: Printer,
    /// Fields that server-side apply must not let this endpoint own, dotted (`status`).
    pub reset_fields: &'static [&'static str],
}

/// Resources (group, plural) whose metadata is checked at an update as thoroughly as at creation: a prefix of generated names must
/// be what the kind allows.
pub const METADATA_CHECKED_AGAIN: [(&str, &str); 32] = [
    ("", "configmaps"),
    ("", "endpoints"),
    ("", "limitranges"),
    ("", "namespaces"),
    ("", "nodes"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "secrets"),
    ("", "serviceaccounts"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apps", "controllerrevisions"),
    ("discovery.k8s.io", "endpointslices"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "ipaddresses"),
    ("node.k8s.io", "runtimeclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
    ("storagemigration.k8s.io", "storageversionmigrations"),
];

/// Resources (group, plural) whose finalizers need only be qualified names, besides the groups that extend the API; all others ask
/// for a prefix.
pub const PLAIN_FINALIZERS: [(&str, &str); 4] =
    [("", "events"), ("coordination.k8s.io", "leases"), ("node.k8s.io", "runtimeclasses"), ("policy", "poddisruptionbudgets")];

/// Resources (group, plural) whose own rules say nothing of metadata: what holds for all kinds is said when they find nothing.
pub const METADATA_UNCHECKED: [(&str, &str); 1] = [("policy", "poddisruptionbudgets")];

/// Resources (group, plural) whose status endpoint takes finalizers that are neither standard nor qualified.
pub const PLAIN_FINALIZERS_IN_STATUS: [(&str, &str); 1] = [("batch", "cronjobs")];

/// Resources (group, plural) whose deletion answers with the object as it was, where others answer with a Status.
pub const RETURN_DELETED_OBJECT: [(&str, &str); 16] = [
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

/// Annotations in which a version carries what it has no field for, by group and plural. They are part of whole objects only:
/// metadata and Tables are of the object behind the versions, which has none of them.
pub const VERSION_ANNOTATIONS: [(&str, &str, &[&str]); 2] = [
    ("apps", "daemonsets", &[apps::defaults::TEMPLATE_GENERATION]),
    (
        "autoscaling",
        "horizontalpodautoscalers",
        &[
            "autoscaling.alpha.kubernetes.io/conditions",
            "autoscaling.alpha.kubernetes.io/metrics",
            "autoscaling.alpha.kubernetes.io/current-metrics",
            "autoscaling.alpha.kubernetes.io/behavior",
        ],
    ),
];

/// The version annotations of a resource.
pub fn version_annotations(group: &str, plural: &str) -> &'static [&'static str] {
    VERSION_ANNOTATIONS.iter().find(|(g, p, _)| *g == group && *p == plural).map_or(&[], |(_, _, names)| names)
}

/// A subresource of a kind.
pub struct Subresource {
    /// `status`, `scale`, `eviction`, …
    pub name: &'static str,
    /// The group, version and kind that the endpoint speaks.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub verbs: Verbs,
    pub behaviour: Behaviour,
}

/// What stands behind a subresource.
pub enum Behaviour {
    /// The same object, updated by other rules; `reset_fields` as in [`Definition`].
    Object { strategy: &'static dyn UpdateStrategy, reset_fields: &'static [&'static str] },
    /// `autoscaling/v1` Scale over `spec.replicas`.
    Scale,
    /// Has an endpoint of its own (pods/binding, pods/exec, serviceaccounts/token, …), registered by name.
    Endpoint,
}

/// How `as=Table` shows a kind.
pub struct Printer {
    pub columns: &'static [Column],
    /// One cell per column, given the object and the time that ages are counted to.
    pub cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// A column of a Table (`meta.k8s.io/v1` TableColumnDefinition).
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`.
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// 0 is always shown; 1 with `-o wide`.
    pub priority: i32,
    pub description: Description,
}

/// Where a column's description comes from.
pub enum Description {
    Text(&'static str),
    /// The description of a field of a schema type, such as (`io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta`, `name`).
    Field(&'static str, &'static str),
}

/// Every built-in kind.
pub fn definitions() -> Vec<&'static Definition> {
    [
        core::RESOURCES,
        admissionregistration::RESOURCES,
        apiextensions::RESOURCES,
        apiregistration::RESOURCES,
        apps::RESOURCES,
        authentication::RESOURCES,
        authorization::RESOURCES,
        autoscaling::RESOURCES,
        batch::RESOURCES,
        certificates::RESOURCES,
        coordination::RESOURCES,
        discovery::RESOURCES,
        events::RESOURCES,
        flowcontrol::RESOURCES,
        networking::RESOURCES,
        node::RESOURCES,
        policy::RESOURCES,
        rbac::RESOURCES,
        resource::RESOURCES,
        scheduling::RESOURCES,
        storage::RESOURCES,
        storagemigration::RESOURCES,
    ]
    .concat()
}

/// Every defaulting hook, by the name of the type that it completes.
pub fn default_hooks() -> Vec<defaulting::Hook> {
    [
        core::defaults::DEFAULTS,
        core::pod::defaults::DEFAULTS,
        admissionregistration::defaults::DEFAULTS,
        apiextensions::defaults::DEFAULTS,
        apiregistration::defaults::DEFAULTS,
        authentication::defaults::DEFAULTS,
        apps::defaults::DEFAULTS,
        authentication::defaults::DEFAULTS,
        autoscaling::defaults::DEFAULTS,
        batch::defaults::DEFAULTS,
        discovery::defaults::DEFAULTS,
        flowcontrol::defaults::DEFAULTS,
        networking::defaults::DEFAULTS,
        rbac::defaults::DEFAULTS,
        resource::defaults::DEFAULTS,
        scheduling::defaults::DEFAULTS,
        storage::defaults::DEFAULTS,
    ]
    .concat()
}

/// Versions that are served but not stored.
pub fn versioned() -> Vec<Versioned> {
    vec![
        Versioned {
            group: "autoscaling",
            version: "v1",
            plural: "horizontalpodautoscalers",
            stored_group: "autoscaling",
            stored_version: "v2",
            stored_schema: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
            conversion: Conversion { to_storage: autoscaling::conversion::to_v2, from_storage: autoscaling::conversion::to_v1 },
        },
        Versioned {
            group: "events.k8s.io",
            version: "v1",
            plural: "events",
            stored_group: "",
            stored_version: "v1",
            stored_schema: "io.k8s.api.core.v1.Event",
            conversion: Conversion { to_storage: events::conversion::to_core, from_storage: events::conversion::from_core },
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_is_registered_once() {
        let mut names: Vec<_> = definitions().iter().map(|d| (d.group, d.version, d.plural)).collect();
        names.sort_unstable();
        let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }
}
