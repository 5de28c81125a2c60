//! ReplicaSets: so many pods of one template.

use apimachinery::field::{ErrorList, Path};
use apimachinery::selector::label::format_label_selector;
use apimachinery::validation::{name_is_dns_subdomain, validate_immutable_field, validate_nonnegative_field};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use serde_json::Value;

use super::template;
use crate::registry::cells;
use crate::registry::printer::{self, integer, wide};
use crate::registry::read::{at, int_at};
use crate::registry::strategy::{bump_generation_if_changed, drop_field, generation, keep_all_but_status, keep_status, set_generation};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: "apps",
    version: "v1",
    plural: "replicasets",
    singular: "replicaset",
    kind: "ReplicaSet",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["rs"],
    categories: &["all"],
    schema: "io.k8s.api.apps.v1.ReplicaSet",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[
        Subresource {
            name: "scale",
            group: "autoscaling",
            version: "v1",
            kind: "Scale",
            verbs: SUBRESOURCE_VERBS,
            behaviour: Behaviour::Scale,
        },
        Subresource {
            name: "status",
            group: "apps",
            version: "v1",
            kind: "ReplicaSet",
            verbs: SUBRESOURCE_VERBS,
            behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["spec"] },
        },
    ],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const SPEC: &str = "io.k8s.api.apps.v1.ReplicaSetSpec";
const STATUS: &str = "io.k8s.api.apps.v1.ReplicaSetStatus";

const COLUMNS: &[Column] = &[
    printer::NAME,
    integer("Desired", Description::Field(SPEC, "replicas")),
    integer("Current", Description::Field(STATUS, "replicas")),
    integer("Ready", Description::Field(STATUS, "readyReplicas")),
    printer::AGE,
    cells::CONTAINERS,
    cells::IMAGES,
    wide("Selector", Description::Field(SPEC, "selector")),
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = cells::containers_and_images(object, template::AT_SPEC);
    vec![
        printer::name(object),
        int_at(object, "/spec/replicas").into(),
        int_at(object, "/status/replicas").into(),
        int_at(object, "/status/readyReplicas").into(),
        printer::object_age(object, now),
        names,
        images,
        format_label_selector(object.pointer("/spec/selector")).into(),
    ]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        set_generation(new, 1);
        template::drop_disabled(new, None, template::AT_SPEC);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate_spec(new, None, &Path::new("spec"))
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        let mut warnings = template::name_warnings(new);
        warnings.extend(template::warnings(new, None, template::AT_SPEC));
        warnings
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        template::drop_disabled(new, Some(old), template::AT_SPEC);
        bump_generation_if_changed(new, old, &["spec"]);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let spec = Path::new("spec");
        let mut errors = validate_spec(new, Some(old), &spec);
        errors.extend(validate_immutable_field(at(new, "/spec/selector"), at(old, "/spec/selector"), &spec.child("selector")));
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> Vec<String> {
        if generation(new) == generation(old) { Vec::new() } else { template::warnings(new, Some(old), template::AT_SPEC) }
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        validate_status(at(new, "/status"), &Path::new("status"))
    }
}

fn validate_spec(object: &Value, old: Option<&Value>, path: &Path<'_>) -> ErrorList {
    let replica_set: ReplicaSet = view(object);
    let spec: ReplicaSetSpec = replica_set.spec;
    let raw = at(object, "/spec");
    let mut errors = validate_nonnegative_field(i64::from(spec.replicas.unwrap_or(0)), &path.child("replicas"));
    errors.extend(validate_nonnegative_field(i64::from(spec.min_ready_seconds.unwrap_or(0)), &path.child("minReadySeconds")));
    // Upstream's message names the deployment here as well.
    errors.extend(template::validate_required_selector(raw, &spec.selector, "deployment", path));
    let pods = spec.template.unwrap_or_default();
    errors.extend(template::validate_for_replica_set(raw, old.map(|o| at(o, "/spec")), &spec.selector, &pods, path));
    errors
}

fn validate_status(status: &Value, path: &Path<'_>) -> ErrorList {
    let counts = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration", "terminatingReplicas"];
    let mut errors = template::nonnegative_counts(status, &counts, path);
    errors.extend(template::counts_within_replicas(status, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"], path));
    errors.extend(template::available_within_ready(status, "cannot be greater than readyReplicas", path));
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn more_labeled_pods_than_replicas_are_refused() {
        let errors = validate_status(&json!({"replicas": 1, "fullyLabeledReplicas": 2, "terminatingReplicas": -1}), &Path::new("status"));
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "status.terminatingReplicas: Invalid value: -1: must be greater than or equal to 0",
                "status.fullyLabeledReplicas: Invalid value: 2: cannot be greater than status.replicas"
            ]
        );
    }
}
